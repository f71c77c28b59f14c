"""The Live dock as a user has it: strokes on the canvas, keys in the strip, buttons."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import shapely
from hand import Hand
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QMessageBox

from napari_slidecorr._napari.layers import find_layer
from napari_slidecorr._napari.live_worker import THREAD_NAME
from napari_slidecorr._napari.map_layers import UNSURE
from napari_slidecorr.events import JobStatus
from napari_slidecorr.live_config import LiveConfig
from napari_slidecorr.project import Project
from napari_slidecorr.regions import Region, RegionSet
from napari_slidecorr.sample_data import CLASS_COLORS

CONFIG = LiveConfig(backbone="test_resnet", weights="random", size_px=32, mpp=0.5, device="cpu")
CLASSES = tuple(CLASS_COLORS)


class Person:
    """Sees the docks and the picture, and clicks."""

    def __init__(self, viewer, qtbot, project):
        self.viewer, self.qtbot, self.project = viewer, qtbot, project
        self.slides, self.regions, self.live = (
            viewer.window.add_plugin_dock_widget("napari-slidecorr", name)[1] for name in ("Slides", "Regions", "Live")
        )
        self.session, self.desk = self.slides.session, self.slides.desk
        self.hand = Hand(viewer, qtbot)
        self.ends = []
        self.session.job_ended.connect(self.ends.append)

    def wait(self, condition, seconds=60):
        self.qtbot.waitUntil(condition, timeout=seconds * 1000)

    def click(self, button):
        assert button.isEnabled(), button.text()
        self.qtbot.mouseClick(button, Qt.MouseButton.LeftButton)

    def show(self, slide_id):
        self.slides.show_slide(slide_id)
        self.wait(lambda: self.session.current_slide == slide_id and self.desk.editor is not None)

    def begin(self, slide_id=None):
        self.slides.open_project(self.project.folder)
        self.show(slide_id or self.project.cohort[0].id)
        self.live.form.set(CONFIG)
        self.click(self.live.live_button)

    def stroke(self, class_name, y0, x0, y1, x1):
        """Draw a polygon of a class."""
        self.click(self.regions.tool_box.buttons["add_polygon"])
        self.hand.press(str(CLASSES.index(class_name) + 1))
        before = len(self.desk.editor.regions)
        self.hand.polygon((y0, x0), (y0, x1), (y1, x1), (y1, x0))
        self.wait(lambda: len(self.desk.editor.regions) == before + 1)

    @property
    def layer(self):
        return find_layer(self.viewer, "live", self.session.current_slide)

    def painted(self):
        return self.layer is not None and np.count_nonzero(self.layer.data) > 0

    def whole(self):
        """Whether all of the slide in view is painted with the head of the newest regions."""
        live = self.live
        return self.painted() and live.map.version == live.worker.wishes.version and not live.phase.text()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SLIDECORR_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def no_worker_left():
    yield
    left = [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]
    for thread in left:
        thread.join(20)
    assert not [thread for thread in left if thread.is_alive()], "live training still runs at the end of the test"


@pytest.fixture
def person(make_napari_viewer, qtbot, project):
    viewer = make_napari_viewer(show=True)
    viewer.window._qt_window.resize(1500, 1000)
    made = Person(viewer, qtbot, project)
    yield made
    made.live.worker.stop(20)


def test_a_stroke_changes_the_map_in_view(person):
    person.begin()
    person.wait(person.whole)
    before = person.layer.data.copy()
    assert set(np.unique(before)) <= {0, 1, 2, 3, UNSURE}
    tumour = next(r for r in person.desk.editor.regions if r.class_name == "tumour")
    y0, x0, y1, x1 = map(int, tumour.polygon.bounds)
    version = person.live.worker.wishes.version
    person.stroke("stroma", y0, x0, y1, x1)  # what was tumour is said to be stroma too
    person.wait(lambda: person.live.worker.wishes.version > version and person.whole())
    assert (person.layer.data != before).any()
    assert "Fitted in" in person.live.told.status.text()
    person.wait(lambda: "AUC on held-out slides" in person.live.told.score.text())
    assert "slides or patients only" in person.live.told.score.text()
    person.wait(lambda: person.live.facts.table.rowCount() == 4)  # slides out of view are filled later
    assert "MB" in person.live.facts.cache.text()


def test_the_map_follows_to_another_slide_and_goes_with_stop(person):
    person.begin()
    person.wait(person.painted)
    first, second = (person.project.cohort[i].id for i in (0, 1))
    person.show(second)
    person.wait(person.painted)
    assert find_layer(person.viewer, "live", first) is None
    assert person.live.map.prediction.slide_id == second
    person.click(person.live.live_button)
    assert find_layer(person.viewer, "live", second) is None
    assert person.live.live_button.text() == "Start live"


def test_without_a_second_class_the_dock_says_what_is_missing(person):
    for known in person.project.cohort:
        person.project.save_regions(known.id, RegionSet())
    person.begin()
    person.wait(lambda: "two classes or more" in person.live.told.status.text())
    assert not person.painted()


def test_a_class_that_loses_its_last_region_is_told_and_undo_goes_on(person):
    for known in person.project.cohort[1:]:
        person.project.save_regions(known.id, RegionSet())
    person.begin()
    person.wait(lambda: person.whole() and "can be held out" in person.live.told.score.text())
    shown = person.layer.data.copy()
    editor = person.desk.editor
    editor.select([r.uid for r in editor.regions if r.class_name == "tumour"])
    editor.delete_selected()
    person.wait(lambda: "'tumour' lost the last region" in person.live.told.status.text())
    assert "(waits)" in person.layer.name
    np.testing.assert_array_equal(person.layer.data[shown > 0], shown[shown > 0])
    assert person.live.told.without_button.isVisible()
    editor.undo()
    person.wait(lambda: "Fitted in" in person.live.told.status.text() and "(waits)" not in person.layer.name)
    editor.redo()
    person.wait(person.live.told.without_button.isVisible)
    person.click(person.live.told.without_button)
    person.wait(lambda: "Fitted in" in person.live.told.status.text())
    person.wait(lambda: not (person.layer.data == CLASSES.index("tumour") + 1).any())
    assert "(waits)" not in person.layer.name


def suggestions(person):
    person.wait(lambda: len(person.live.strip.suggestions) > 2)
    return person.live.strip.suggestions


def test_one_key_accepts_another_gives_a_class_and_s_skips(person, qtbot):
    person.begin()
    seen = person.project.cohort[0].id
    person.wait(lambda: any(s.slide_id != seen for s in person.live.strip.suggestions))
    strip = person.live.strip
    other = next(s for s in strip.suggestions if s.slide_id != seen)
    while strip.current.slide_id != other.slide_id:
        qtbot.keyClick(strip, Qt.Key.Key_Right)
    other, before = strip.current, person.project.regions(strip.current.slide_id)
    qtbot.keyClick(strip, Qt.Key.Key_Return)
    person.live.labels.flush_all()
    stored = Project.open(person.project.folder).regions(other.slide_id)
    assert len(stored) == len(before) + 1
    (new,) = set(stored) - set(before)
    assert new.class_name == other.class_name
    assert new.polygon.equals(shapely.box(other.box.y0, other.box.x0, other.box.y1, other.box.x1))

    given = strip.current
    number = 1 + (CLASSES.index(given.class_name) + 1) % 3
    qtbot.keyClick(strip, getattr(Qt.Key, f"Key_{number}"))
    person.live.labels.flush_all()
    person.desk.flush()
    stored = Project.open(person.project.folder).regions(given.slide_id)
    centre = shapely.Point((given.box.y0 + given.box.y1) / 2, (given.box.x0 + given.box.x1) / 2)
    assert [
        r.class_name
        for r in stored
        if r.polygon.area == given.box.height * given.box.width and r.polygon.contains(centre)
    ] == [CLASSES[number - 1]]

    skipped = strip.current
    qtbot.keyClick(strip, Qt.Key.Key_S)
    assert (skipped.slide_id, skipped.cell) not in {(s.slide_id, s.cell) for s in strip.suggestions}
    assert (skipped.slide_id, skipped.cell) in person.live.worker.wishes.skipped


def test_a_click_on_a_suggestion_goes_to_its_slide(person):
    person.begin()
    seen = person.project.cohort[0].id
    person.wait(lambda: any(s.slide_id != seen for s in person.live.strip.suggestions))
    wanted = next(frame for frame in person.live.strip._frames if frame.suggestion.slide_id != seen)
    person.click(wanted)
    person.wait(lambda: person.session.current_slide == wanted.suggestion.slide_id)
    person.wait(lambda: person.live.gaze.box() is not None and inside(wanted.suggestion.box, person.live.gaze.box()))


def inside(inner, outer):
    return outer.y0 <= inner.y0 and outer.x0 <= inner.x0 and outer.y1 >= inner.y1 and outer.x1 >= inner.x1


def test_pictures_come_into_the_strip_with_their_reasons(person):
    person.begin()
    suggestions(person)
    person.wait(lambda: all(not frame.icon().isNull() for frame in person.live.strip._frames))
    assert all("Need for labels" in frame.toolTip() for frame in person.live.strip._frames)


def test_the_kept_model_is_a_run_for_prediction(person):
    person.begin()
    person.wait(person.painted)
    person.click(person.live.keeping.keep_button)
    person.wait(lambda: bool(person.ends))
    end = person.ends.pop()
    assert end.status is JobStatus.COMPLETED, end.error
    (run,) = person.session.project.runs()
    assert run.name == "fast-test_resnet-001"
    person.wait(lambda: run.name in person.live.message.text())


def test_what_helps_is_a_table_with_the_plain_head_first(person):
    person.begin()
    person.wait(person.painted)
    person.click(person.live.remedies.start_button)
    person.wait(lambda: bool(person.ends), 120)
    assert person.ends.pop().status is JobStatus.COMPLETED
    table = person.live.remedies.table
    assert table.item(0, 0).text().startswith("plain head")
    assert table.item(0, 2).text() == "to beat"
    assert "too few to propose" in person.live.remedies.sentence.text()
    assert person.live.remedies.use_button.isHidden()


def test_a_proposed_remedy_goes_into_the_kept_model(person):
    from napari_slidecorr.learning.remedy_table import Remedy

    person.slides.open_project(person.project.folder)
    person.live.form.set(CONFIG)
    plain = person.live.keeping.config()
    person.live.remedies.used.emit(Remedy("centring 0.5", plain.head, centring=0.5))
    assert person.live.keeping.config() == replace(plain, centring=0.5)
    assert "centring 0.5" in person.live.keeping.keep_button.text()


def test_a_new_class_begins_anew_and_goes_on(person):
    person.begin()
    person.wait(person.painted)
    worker = person.live.worker.wishes
    assert person.regions.classes.add_class("fat")
    person.wait(lambda: person.live.worker.wishes is not worker and person.painted() and person.live.map.version >= 0)
    assert person.live.worker.running
    person.wait(lambda: person.live.map.prediction.classes == (*CLASSES, "fat"))


def test_a_backbone_that_is_not_there_is_told_in_one_sentence(person):
    person.slides.open_project(person.project.folder)
    person.live.form.set(replace(CONFIG, backbone="no_such_net"))
    person.click(person.live.live_button)
    person.wait(lambda: "no_such_net" in person.live.message.text())
    person.wait(lambda: person.live.live_button.text() == "Start live")
    assert not person.live.worker.running


def test_a_setting_that_is_not_allowed_starts_nothing(person):
    person.slides.open_project(person.project.folder)
    person.live.form.edits["mpp"].write(-1)
    person.click(person.live.live_button)
    assert not person.live.worker.running
    assert "mpp" in person.live.message.text()


def test_clearing_asks_and_empties_the_cache(person, monkeypatch):
    from napari_slidecorr.learning.feature_store import FeatureCache

    person.begin()
    person.wait(person.whole)
    person.wait(lambda: FeatureCache().size_bytes() > 0)
    person.click(person.live.live_button)
    monkeypatch.setattr(QMessageBox, "question", lambda *_: QMessageBox.StandardButton.No)
    person.click(person.live.facts.clear_button)
    assert FeatureCache().size_bytes() > 0
    monkeypatch.setattr(QMessageBox, "question", lambda *_: QMessageBox.StandardButton.Yes)
    person.click(person.live.facts.clear_button)
    person.wait(lambda: FeatureCache().size_bytes() == 0)


def test_regions_imported_elsewhere_are_taken_too(person):
    person.begin()
    person.wait(person.whole)
    version, other = person.live.worker.wishes.version, person.project.cohort[1].id
    regions = RegionSet((*person.project.regions(other), Region("stroma", shapely.box(0, 0, 64, 64))))
    person.session.project.save_regions(other, regions)
    person.session.regions_changed.emit(other)
    person.wait(lambda: person.live.map.version > version)


def test_closing_the_window_ends_the_thread(person, qtbot):
    person.begin()
    person.wait(person.painted)
    person.viewer.close()
    qtbot.waitUntil(lambda: not [t for t in threading.enumerate() if t.name == THREAD_NAME], timeout=20_000)
