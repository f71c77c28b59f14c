"""Saving, restoring and sharing of regions, in real docks."""

import json
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QDialogButtonBox
from shapely import Polygon, box

from napari_slidecorr._napari import layers
from napari_slidecorr._napari.dock_regions import RegionsDock
from napari_slidecorr._napari.dock_slides import SlidesDock
from napari_slidecorr._napari.owner_banner import OwnerBanner
from napari_slidecorr._napari.region_saver import RegionSaver
from napari_slidecorr._napari.restore_dialog import RestoreDialog
from napari_slidecorr._napari.slide_table import REGIONS
from napari_slidecorr._napari.strip_labels import StripLabels
from napari_slidecorr.errors import ProjectError
from napari_slidecorr.geometry import Box
from napari_slidecorr.io.owner_file import Owner
from napari_slidecorr.project import Project
from napari_slidecorr.project_lock import LOCK_FILE, WINDOW
from napari_slidecorr.regions import Region, RegionSet

A, B = "tumour", "stroma"
WAIT_MS = 60_000


def squares(count, name=A):
    return RegionSet(tuple(Region(name, box(20 * n, 20, 20 * n + 15, 300), f"uid {n}") for n in range(count)))


def wiggly(count, corners=50):
    """Many regions of many corners."""
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    ring = np.c_[np.sin(angle), np.cos(angle)]
    rings = [ring * rng.uniform(2, 6, (corners, 1)) + rng.uniform(10, 1000, 2) for _ in range(count)]
    return RegionSet(tuple(Region(A, Polygon(points), f"uid {n}") for n, points in enumerate(rings)))


# -- the thread that writes --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("qapp")
def test_the_last_state_gets_to_the_disk_in_order(qtbot):
    written, told, gate = [], [], threading.Event()

    def write(regions):
        gate.wait(10)
        written.append(len(regions))

    saver = RegionSaver(write, lambda regions, error: told.append((len(regions), error)))
    for count in range(50):
        saver.put(squares(count))
    gate.set()
    saver.flush()
    assert written[-1] == 49
    assert written == sorted(written)
    assert len(written) <= 3
    assert told == [(count, None) for count in written]
    saver.put(squares(7))
    qtbot.waitUntil(lambda: told[-1] == (7, None), timeout=WAIT_MS)


@pytest.mark.usefixtures("qapp")
def test_an_error_is_told_and_the_next_is_written():
    told = []

    def write(regions):
        if len(regions) == 1:
            raise ProjectError("no room")

    saver = RegionSaver(write, lambda regions, error: told.append((len(regions), str(error))))
    for count in (1, 2):
        saver.put(squares(count))
        saver.flush()
    assert told == [(1, "no room"), (2, "None")]


# -- in a window -------------------------------------------------------------------------------------------------------


@pytest.fixture
def open_docks(make_napari_viewer, qtbot):
    """Opens both docks on a project, the first slide in view."""

    def opened(folder, *, show=False):
        viewer = make_napari_viewer(show=show)
        slides, dock = SlidesDock(viewer), RegionsDock(viewer)
        for widget in (slides, dock):
            qtbot.addWidget(widget)
            if show:
                viewer.window.add_dock_widget(widget)
        assert slides.open_project(folder)
        qtbot.waitUntil(lambda: dock.session.current_slide == "one", timeout=WAIT_MS)
        dock.slides = slides
        return dock

    yield opened
    for thread in threading.enumerate():
        if thread.name in ("slidecorr-errand", "slidecorr-save"):
            thread.join(10)


@pytest.fixture
def folder(tmp_path, small_slides):
    made = Project.create(tmp_path / "project", (A, B))
    made.add_slides(small_slides)
    made.save_regions("one", squares(2))
    return made.folder


def on_disk(folder, slide_id="one"):
    return Project.open(folder).regions(slide_id)


def test_one_who_edits_on_and_on_is_saved_all_the_same(open_docks, folder, qtbot):
    dock = open_docks(folder)
    editor = dock.desk.editor
    made, lags = {}, []
    count = 2
    ends = time.monotonic() + 4
    while time.monotonic() < ends:
        count += 1
        made[count] = time.monotonic()
        editor.set_regions(squares(count))
        qtbot.wait(40)
        missing = [when for number, when in made.items() if number > len(on_disk(folder))]
        lags.append(time.monotonic() - min(missing) if missing else 0.0)
    assert count > 10
    assert max(lags) < 2.5  # a busy machine; a timer that each change starts anew would make it 4
    editor.flush()
    assert len(on_disk(folder)) == count


def test_saving_thousands_of_regions_leaves_the_window_alive(open_docks, folder, qtbot):
    dock = open_docks(folder)
    many = wiggly(10_000)
    gaps, last = [], time.perf_counter()

    def tick():
        nonlocal last
        gaps.append(time.perf_counter() - last)
        last = time.perf_counter()

    done = []
    saver = RegionSaver(lambda regions: dock.session.project.save_regions("one", regions), lambda *a: done.append(a))
    timer = QTimer()
    timer.timeout.connect(tick)
    timer.start(5)
    qtbot.wait(100)
    gaps.clear()
    saver.put(many)
    qtbot.waitUntil(lambda: bool(done), timeout=WAIT_MS)
    timer.stop()
    saver.flush()
    assert done == [(many, None)]
    assert len(gaps) > 10
    assert len(on_disk(folder)) == 10_000
    begun = time.perf_counter()
    dock.session.project.save_regions("one", RegionSet(many.regions[::-1]))
    in_the_way = time.perf_counter() - begun
    assert np.percentile(gaps, 90) < in_the_way / 3


def test_what_could_not_be_written_is_tried_again(open_docks, folder, qtbot, monkeypatch):
    dock = open_docks(folder)
    editor = dock.desk.editor
    editor._again_timer.setInterval(100)
    real = Project.save_regions

    def full(*_):
        raise ProjectError("no space left on the disk; free some and try again.")

    monkeypatch.setattr(Project, "save_regions", full)
    editor.set_regions(squares(5))
    qtbot.waitUntil(lambda: "no space left" in dock.message.text(), timeout=WAIT_MS)
    assert editor.dirty
    monkeypatch.setattr(Project, "save_regions", real)
    qtbot.waitUntil(lambda: not editor.dirty, timeout=WAIT_MS)
    assert len(on_disk(folder)) == 5


@pytest.mark.parametrize("opened_meanwhile", [False, True])
def test_a_patch_of_the_strip_is_saved_when_there_is_room_again(
    open_docks, folder, qtbot, monkeypatch, opened_meanwhile
):
    dock = open_docks(folder)
    labels = StripLabels(dock.desk, lambda *_: None, dock)
    labels._again_timer.setInterval(100)
    real = Project.save_regions

    def full(*_):
        raise ProjectError("no space left on the disk; free some and try again.")

    monkeypatch.setattr(Project, "save_regions", full)
    for y in (0, 256):
        labels.add("two", Box(y, 0, y + 256, 256), B)
    qtbot.waitUntil(lambda: "no space left" in dock.message.text(), timeout=WAIT_MS)
    if opened_meanwhile:
        dock.slides.show_slide("two")
        qtbot.waitUntil(lambda: dock.desk.editor_of("two") is not None, timeout=WAIT_MS)
        dock.desk.editor_of("two")._again_timer.setInterval(100)
        qtbot.wait(300)
    monkeypatch.setattr(Project, "save_regions", real)
    qtbot.waitUntil(lambda: len(on_disk(folder, "two")) == 2, timeout=WAIT_MS)
    labels.flush_all()


# -- restoring ---------------------------------------------------------------------------------------------------------


def dialog_of(dock, qtbot):
    dock.restore_button.click()
    found = dock.restore_button.findChildren(RestoreDialog)[-1]
    qtbot.waitUntil(found.restore_button.isEnabled, timeout=WAIT_MS)
    return found


def test_a_state_comes_back_and_goes_again(open_docks, folder, qtbot):
    dock = open_docks(folder)
    editor = dock.desk.editor
    editor.set_regions(squares(4, B))
    editor.flush()
    editor.set_regions(RegionSet())
    dialog = dialog_of(dock, qtbot)
    told = [[dialog.list.topLevelItem(n).text(column) for column in (1, 2)] for n in range(3)]
    assert told == [["0", f"-4 {B}"], ["4", f"2 {A} now {B}, +2 {B}"], ["2", f"+2 {A}"]]
    dialog.list.setCurrentItem(dialog.list.topLevelItem(2))
    qtbot.waitUntil(lambda: dialog.preview.regions == squares(2), timeout=WAIT_MS)
    dialog.buttons.button(QDialogButtonBox.StandardButton.Cancel)
    dialog.restore_button.click()
    assert [region.uid for region in editor.regions] == ["uid 0", "uid 1"]
    assert "are back" in dock.message.text()
    editor.flush()
    assert len(on_disk(folder)) == 2
    editor.undo()
    editor.flush()
    assert len(on_disk(folder)) == 0


def test_the_preview_is_painted_in_the_classes_colours(open_docks, folder, qtbot):
    dock = open_docks(folder)
    dialog = dialog_of(dock, qtbot)
    image = dialog.preview.grab().toImage()
    color = dock.session.project.colors[A]
    seen = [image.pixelColor(x, y).getRgb()[:3] for x in range(image.width()) for y in range(image.height())]
    assert min(np.abs(np.array(seen) - color).sum(axis=1)) < 12
    dialog.reject()


def test_regions_that_cannot_be_read_are_restored(open_docks, folder, qtbot):
    (folder / "regions" / "one.geojson").write_text('{"type": "Feat')
    dock = open_docks(folder)
    assert "newest whole state" in dock.message.text()
    assert dock.desk.editor is None
    dialog_of(dock, qtbot).restore_button.click()
    assert dock.desk.editor.regions.regions == squares(2).regions
    assert layers.find_layer(dock.viewer, "regions", "one") is not None
    assert len(on_disk(folder)) == 2


def test_a_slide_no_longer_in_view_is_restored_without_its_layer(open_docks, folder, qtbot):
    dock = open_docks(folder)
    dialog = dialog_of(dock, qtbot)
    dock.slides.show_slide("two")
    qtbot.waitUntil(lambda: dock.session.current_slide == "two", timeout=WAIT_MS)
    dock.session.project.save_regions("one", RegionSet())
    dialog.restore_button.click()
    assert len(on_disk(folder)) == 2
    assert layers.find_layer(dock.viewer, "regions", "one") is None
    assert dock.slides.table.text("one", REGIONS) == "2"


# -- two windows -------------------------------------------------------------------------------------------------------

OTHER = """
import sys
from napari_slidecorr.project import Project
project = Project.open(sys.argv[1])
assert project.claim() == ""
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def other(folder):
    """Another program that has the project."""
    command = [sys.executable, "-c", OTHER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def shown(banner):
    return not banner.isHidden()


def test_the_second_window_only_looks(open_docks, folder, other, qtbot):
    dock = open_docks(folder)
    banner = dock.findChild(OwnerBanner)
    assert shown(banner)
    assert f"process {other.pid}" in banner.label.text()
    editor = dock.desk.editor
    assert len(editor.regions) == 2
    assert not editor.layer.editable
    editor.layer.mode = "add_polygon"
    assert editor.layer.mode == "pan_zoom"
    editor.set_regions(RegionSet())
    editor.layer.selected_data = {0}
    editor.delete_selected()
    qtbot.wait(500)
    assert [len(editor.regions), len(editor.layer.data), editor.dirty] == [2, 2, False]
    assert "read-only here" in dock.message.text()
    assert not dock.classes.add_class("new")
    assert not dock.session.start(list, "Training")
    assert "Training cannot start" in dock.message.text()
    assert dock.export_regions(folder.parent / "out.geojson")
    assert len(on_disk(folder)) == 2


def test_a_dead_owner_is_followed(open_docks, folder, other, qtbot):
    dock = open_docks(folder)
    banner = dock.findChild(OwnerBanner)
    assert banner.button.text() == "Read again"
    other.kill()
    other.wait()
    qtbot.waitUntil(lambda: banner.button.text() == "Take over", timeout=WAIT_MS)
    Project.open(folder).claim()  # forgotten at once
    banner.button.click()
    qtbot.waitUntil(lambda: dock.desk.editor is not None and dock.session.current_slide == "one", timeout=WAIT_MS)
    assert not shown(banner)
    assert dock.desk.editor.layer.editable
    dock.desk.editor.set_regions(squares(3))
    dock.desk.flush()
    assert len(on_disk(folder)) == 3


def test_a_window_that_was_taken_over_says_so(open_docks, folder, qtbot):
    dock = open_docks(folder)
    theirs = replace(Owner.here(WINDOW), host="elsewhere", token="theirs")  # noqa: S106 - no password
    (folder / LOCK_FILE).write_text(json.dumps(asdict(theirs)))
    dock.desk.editor.set_regions(squares(5))
    qtbot.waitUntil(lambda: "was taken over by a window on elsewhere" in dock.message.text(), timeout=WAIT_MS)
    qtbot.waitUntil(lambda: shown(dock.findChild(OwnerBanner)), timeout=WAIT_MS)
    assert len(on_disk(folder)) == 2


def test_a_window_lets_go_of_its_project(open_docks, folder, tmp_path):
    dock = open_docks(folder)
    assert Project.open(folder).owner is not None
    dock.session.create_project(tmp_path / "next")
    assert Project.open(folder).owner is None
    assert Project.open(tmp_path / "next").owner is not None
    dock.session.close()
    assert Project.open(tmp_path / "next").owner is None
