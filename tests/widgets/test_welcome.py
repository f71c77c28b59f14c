"""The first minutes: three doors in the Slides dock, and what it says comes next."""

import json
import threading
from pathlib import Path

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QPushButton

from napari_slidecorr import recent_projects, sample_project
from napari_slidecorr._napari import layers, welcome
from napari_slidecorr._napari.dock_regions import RegionsDock
from napari_slidecorr._napari.dock_slides import SlidesDock
from napari_slidecorr._napari.next_step import next_step
from napari_slidecorr.events import JobStatus, drain
from napari_slidecorr.project import Project
from napari_slidecorr.recent_projects import remember_project


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A list of recent projects, and a place for sample slides, of the test's own; small samples."""
    monkeypatch.setenv(recent_projects.FOLDER_VARIABLE, str(tmp_path / "config"))
    monkeypatch.setattr(welcome, "sample_folder", lambda: tmp_path / "documents" / "slidecorr-samples")
    whole = sample_project.make_sample_project
    monkeypatch.setattr(sample_project, "make_sample_project", lambda folder: whole(folder, slides=4, size_px=640))
    return tmp_path


@pytest.fixture
def viewer(make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1366, 768)
    return viewer


@pytest.fixture
def dock(viewer, places):  # noqa: ARG001 - nothing of the user's is read or written
    dock = SlidesDock(viewer)
    viewer.window.add_dock_widget(dock, name="Slides", area="right")
    yield dock
    for thread in threading.enumerate():
        if thread.name == "slidecorr-errand":
            thread.join(10)


def click(qtbot, widget):
    assert widget.isVisible()
    qtbot.mouseClick(widget, Qt.MouseButton.LeftButton)


def in_view(dock, slide_id):
    return layers.find_layer(dock.viewer, "regions", slide_id) is not None


def choose(monkeypatch, *, files=(), folder=""):
    monkeypatch.setattr(QFileDialog, "getOpenFileNames", lambda *_: ([str(file) for file in files], ""))
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(folder))


# -- the doors --------------------------------------------------------------------------------------------------------


def test_without_a_project_there_are_three_doors_and_nothing_else(dock):
    assert dock.welcome.isVisible()
    for part in (dock.project_box, dock.slides_box, dock.async_box, dock.srgb_box, dock.next_step):
        assert part.isHidden()


def test_one_click_makes_sample_slides_opens_the_first_and_leads_to_training(dock, places, qtbot):
    click(qtbot, dock.welcome.sample_button)
    assert dock.welcome.job.cancel.isEnabled()
    assert not dock.welcome.slides_button.isEnabled()
    qtbot.waitUntil(lambda: dock.session.project is not None, timeout=60_000)
    folder = places / "documents" / "slidecorr-samples"
    assert dock.session.project.folder == folder
    assert dock.welcome.isHidden()
    assert dock.slides_box.isVisible()
    first = dock.session.project.cohort[0].id
    qtbot.waitUntil(lambda: in_view(dock, first), timeout=60_000)
    qtbot.waitUntil(dock.next_step.isVisible, timeout=20_000)
    assert "train a model" in dock.next_step.label.text()
    assert dock.next_step.button.text() == "Open Training"
    click(qtbot, dock.next_step.button)
    assert "Training (Slide correlation)" in dock.viewer.window.dock_widgets


def test_sample_slides_can_be_cancelled_and_made_again(dock, qtbot):
    ends = []
    dock.session.job_ended.connect(ends.append)
    click(qtbot, dock.welcome.sample_button)
    click(qtbot, dock.welcome.job.cancel)
    qtbot.waitUntil(lambda: bool(ends), timeout=60_000)
    assert ends[0].status is JobStatus.CANCELLED
    assert dock.session.project is None
    assert dock.welcome.job.isHidden()
    click(qtbot, dock.welcome.sample_button)
    qtbot.waitUntil(lambda: dock.session.project is not None, timeout=60_000)


def test_sample_slides_elsewhere_never_write_into_a_project(dock, tmp_path, qtbot, monkeypatch):
    Project.create(tmp_path / "mine", ("a",))
    before = (tmp_path / "mine" / "project.json").read_bytes()
    choose(monkeypatch, folder=tmp_path / "mine")
    click(qtbot, dock.welcome.elsewhere_button)
    qtbot.waitUntil(lambda: "already" in dock.message.text(), timeout=20_000)
    assert dock.session.project is None
    assert (tmp_path / "mine" / "project.json").read_bytes() == before
    assert not (tmp_path / "mine" / "slides").exists()


def test_my_slides_become_a_project_and_the_next_step_is_to_draw(dock, small_slides, tmp_path, qtbot, monkeypatch):
    choose(monkeypatch, files=small_slides, folder=tmp_path / "study")
    click(qtbot, dock.welcome.slides_button)
    qtbot.waitUntil(lambda: in_view(dock, "one"), timeout=60_000)
    assert dock.table.ids == ("one", "two")
    qtbot.waitUntil(lambda: "draw a few regions" in dock.next_step.label.text(), timeout=20_000)
    click(qtbot, dock.next_step.button)
    assert isinstance(dock.viewer.window.dock_widgets["Regions (Slide correlation)"], RegionsDock)


def test_my_slides_may_join_a_project_that_there_is(dock, small_slides, tmp_path, qtbot, monkeypatch):
    made = Project.create(tmp_path / "study", ("a",))
    made.add_slides(small_slides[:1])
    made.release()
    choose(monkeypatch, files=small_slides[1:], folder=tmp_path / "study")
    click(qtbot, dock.welcome.slides_button)
    qtbot.waitUntil(lambda: dock.table.ids == ("one", "two"), timeout=60_000)


def test_nothing_happens_when_a_dialog_is_closed(dock, small_slides, qtbot, monkeypatch):
    choose(monkeypatch)
    for each in (dock.welcome.slides_button, dock.welcome.open_button, dock.welcome.elsewhere_button):
        click(qtbot, each)
    choose(monkeypatch, files=small_slides)
    click(qtbot, dock.welcome.slides_button)
    assert dock.session.project is None
    assert dock.welcome.isVisible()


# -- recent projects --------------------------------------------------------------------------------------------------


@pytest.fixture
def three_recent(places, project):
    """One that is there, one that went away, one with a long name; the last one first."""
    project.release()
    gone, long = places / "gone", places / ("a-very-long-name-of-a-project-" * 3)
    Project.create(long, ("a",)).release()
    for folder in (long, gone, project.folder):
        remember_project(folder)
    return project.folder


def test_recent_projects_open_by_a_click_and_missing_ones_are_grey(three_recent, dock, qtbot):
    qtbot.waitUntil(lambda: len(dock.welcome.recent) == 3, timeout=20_000)
    qtbot.wait(50)  # the new buttons are laid out
    first, gone, long = dock.welcome.recent
    assert first.text() == "project"
    assert gone.text() == "gone (not found)"
    assert not gone.isEnabled()
    assert long.isEnabled()
    assert "\N{HORIZONTAL ELLIPSIS}" in long.text()
    assert dock.width() < 1366 / 2
    click(qtbot, first)
    qtbot.waitUntil(lambda: dock.session.current_slide is not None, timeout=60_000)
    assert dock.session.project.folder == three_recent


def test_a_project_that_is_opened_is_remembered_once_and_first(dock, tmp_path, places):
    for name in ("one", "two"):
        dock.create_project(tmp_path / name)
    dock.open_project(tmp_path / "one")

    told = json.loads((places / "config" / recent_projects.FILE).read_text())
    assert [Path(one).name for one in told["projects"]] == ["one", "two"]


def test_a_damaged_list_starts_anew_and_is_logged(places, caplog):
    (places / "config").mkdir()
    (places / "config" / recent_projects.FILE).write_text("{")
    assert recent_projects.recent_projects() == []
    assert "starts anew" in caplog.text
    remember_project(places / "new")
    assert [one.folder.name for one in recent_projects.recent_projects()] == ["new"]


def test_the_list_stays_short(places):
    for number in range(9):
        remember_project(places / str(number))
    assert [one.folder.name for one in recent_projects.recent_projects()] == list("876543")


def test_nothing_is_remembered_when_that_is_switched_off(places, monkeypatch):
    monkeypatch.setenv(recent_projects.FOLDER_VARIABLE, "")
    remember_project(places / "one")
    assert recent_projects.recent_projects() == []


# -- by keyboard, on a small screen -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("three_recent")
def test_the_doors_are_reached_by_the_tab_key_in_their_order(dock, qtbot):
    qtbot.waitUntil(lambda: len(dock.welcome.recent) == 3, timeout=20_000)
    way = [dock.welcome.sample_button, dock.welcome.elsewhere_button, dock.welcome.slides_button]
    way += [each for each in dock.welcome.recent if each.isEnabled()] + [dock.welcome.open_button]
    assert tab_order(way[0])[: len(way)] == way
    qtbot.keyClick(way[3], Qt.Key.Key_Space)
    qtbot.waitUntil(lambda: dock.session.project is not None, timeout=60_000)


def tab_order(first):
    """What the tab key reaches, beginning with a widget; as Qt goes on, focus or not (a bare display gives none)."""
    found, at = [], first
    while at is not first or not found:
        if at.isVisible() and at.isEnabled() and at.focusPolicy() & Qt.FocusPolicy.TabFocus:
            found.append(at)
        at = at.nextInFocusChain()
    return found


@pytest.mark.usefixtures("three_recent")
def test_the_doors_fit_on_a_small_screen_and_every_button_says_what_it_does(dock, qtbot):
    qtbot.waitUntil(lambda: len(dock.welcome.recent) == 3, timeout=20_000)
    qtbot.wait(100)
    assert dock.viewer.window._qt_window.height() <= 768
    assert dock.verticalScrollBar().maximum() == 0
    for each in dock.welcome.findChildren(QPushButton):
        assert each.toolTip()
        assert not each.isVisible() or each.width() >= each.minimumSizeHint().width()


# -- what comes next --------------------------------------------------------------------------------------------------


def test_the_next_step_goes_with_the_project(tmp_path, sample_cohort, monkeypatch):
    project = Project.create(tmp_path / "p", ("tumour", "stroma"))
    assert "add slides" in next_step(project).text
    project.add_slides([sample_cohort[0].path])
    assert "second slide" in next_step(project).text
    project.add_slides([sample_cohort[1].path])
    assert next_step(project).dock == "Regions"
    project.save_regions(sample_cohort[0].id, sample_cohort[0].regions)
    assert next_step(project).dock == "Regions"
    project.save_regions(sample_cohort[1].id, sample_cohort[1].regions)
    assert next_step(project).dock == "Training"
    monkeypatch.setattr(Project, "runs", lambda _: [tmp_path / "run"])
    assert next_step(project).dock == "Prediction"
    monkeypatch.setattr(Project, "maps", lambda *_: [tmp_path / "map"])
    assert next_step(project).dock == "Diagnostics"


def test_another_dock_without_a_project_leads_to_the_slides_dock(make_napari_viewer, places, qtbot):
    viewer = make_napari_viewer(show=True)
    regions = RegionsDock(viewer)
    viewer.window.add_dock_widget(regions, name="Regions", area="right")
    offer = regions._no_project
    qtbot.waitUntil(offer.isVisible, timeout=5_000)
    click(qtbot, offer.button)
    slides = viewer.window.dock_widgets["Slides (Slide correlation)"]
    assert isinstance(slides, SlidesDock)
    slides.create_project(places / "p")
    assert offer.isHidden()


def test_the_sample_project_has_patients_classes_and_a_slide_left_for_the_test(tmp_path):
    project = Project.open(drain(sample_project.make_sample_project(tmp_path / "p", slides=4, size_px=640)))
    drawn = [slide.id for slide in project.cohort if len(project.regions(slide.id))]
    assert 2 <= len(drawn) < len(project.cohort) == 4
    assert project.classes == ("tumour", "lymphoid", "stroma")
    assert len({slide.group for slide in project.cohort}) == 4
