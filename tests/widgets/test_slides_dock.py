"""The Slides dock, driven as a user does, in a real viewer."""

import threading

import numpy as np
import pytest
from qtpy.QtWidgets import QFileDialog, QInputDialog, QMessageBox
from shapely import box

from conftest import write_slide
from napari_slidecorr._napari import layers
from napari_slidecorr._napari.dock_slides import SlidesDock
from napari_slidecorr._napari.slide_table import GROUP, MPP, NO_MPP, REGIONS, SIZE, UNOPENED
from napari_slidecorr._napari.travel import Traveller
from napari_slidecorr.errors import SlideError
from napari_slidecorr.geometry import Box
from napari_slidecorr.project import Project
from napari_slidecorr.region_store import RegionStore
from napari_slidecorr.regions import Region, RegionSet


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer()


@pytest.fixture
def dock(viewer, qtbot):
    dock = SlidesDock(viewer)
    qtbot.addWidget(dock)
    yield dock
    for thread in threading.enumerate():
        if thread.name == "slidecorr-errand":
            thread.join(10)


def wait_shown(qtbot, dock, slide_id):
    qtbot.waitUntil(lambda: layers.find_layer(dock.viewer, "regions", slide_id) is not None, timeout=60_000)


def ids_in(viewer):
    return {layers.identity(layer).get("slide_id") for layer in viewer.layers}


@pytest.fixture
def opened(dock, tmp_path, small_slides, qtbot):
    """The dock with a project of two slides, the first in view."""
    assert dock.create_project(tmp_path / "project")
    dock.add_slides(small_slides)
    wait_shown(qtbot, dock, "one")
    qtbot.waitUntil(lambda: dock.table.text("two", SIZE) != "...", timeout=60_000)
    return dock


def test_without_a_project_it_says_what_to_do(dock, small_slides):
    assert "Make a new one" in dock.project_label.text()
    assert not dock.add_button.isEnabled()
    dock.add_slides(small_slides)
    assert "project first" in dock.message.text()


def test_folder_dialogs_make_and_open_a_project(dock, tmp_path, monkeypatch):
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "p"))
    dock.new_button.click()
    assert dock.session.project.folder == tmp_path / "p"
    assert dock.project_label.text() == "p"
    dock.new_button.click()
    assert "already" in dock.message.text()
    dock.open_button.click()
    assert dock.session.project.folder == tmp_path / "p"


def test_a_folder_that_is_no_project_is_told(dock, tmp_path):
    assert not dock.open_project(tmp_path)
    assert str(tmp_path.name) in dock.message.text()
    assert dock.session.project is None


def test_slides_join_the_table_and_the_first_is_shown(opened):
    assert opened.table.ids == ("one", "two")
    assert opened.table.text("two", SIZE) == "2,048 x 2,048"
    assert opened.table.text("one", MPP).startswith("0.5 (")
    assert opened.table.text("one", GROUP) == "one"
    image = layers.find_layer(opened.viewer, "slide", "one")
    assert image.multiscale
    np.testing.assert_allclose(image.scale, (0.5, 0.5))
    assert opened.session.current_slide == "one"


def test_broken_files_are_told_and_the_others_added(dock, tmp_path, small_slides, qtbot):
    (broken := tmp_path / "broken.svs").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (empty := tmp_path / "empty.tif").touch()
    dock.create_project(tmp_path / "project")
    dock.add_slides([broken, small_slides[0], empty, tmp_path / "nowhere.tif"])
    wait_shown(qtbot, dock, "one")
    assert dock.table.ids == ("one",)
    for name in ("broken.svs", "empty.tif", "nowhere.tif"):
        assert name in dock.message.text()


def test_a_slide_whose_file_went_away_stays_in_the_table(opened, small_slides, tmp_path, qtbot):
    small_slides[1].unlink()
    opened.open_project(tmp_path / "project")
    qtbot.waitUntil(lambda: opened.table.text("two", SIZE) == UNOPENED, timeout=60_000)
    assert "two.tif" in opened.message.text()
    wait_shown(qtbot, opened, "one")
    opened.message.tell("")
    opened.show_slide("two")
    qtbot.waitUntil(lambda: "missing" in opened.message.text(), timeout=60_000)
    assert ids_in(opened.viewer) == {"one"}


def test_next_keeps_zoom_and_tool_and_removes_the_layers_of_the_slide_before(opened, qtbot):
    camera = opened.viewer.scene.camera
    camera.zoom = 3.0
    layers.find_layer(opened.viewer, "regions", "one").mode = "add_polygon"
    mine = opened.viewer.add_points(np.zeros((1, 2)), name="not the plugin's")
    opened.next_button.click()
    wait_shown(qtbot, opened, "two")
    assert ids_in(opened.viewer) == {"two", None}
    assert mine in opened.viewer.layers
    assert camera.zoom == 3.0
    assert layers.find_layer(opened.viewer, "regions", "two").mode == "add_polygon"
    assert opened.session.current_slide == "two"
    opened.next_button.click()  # the last one stays
    opened.previous_button.click()
    wait_shown(qtbot, opened, "one")
    assert ids_in(opened.viewer) == {"one", None}


def test_only_the_last_slide_asked_for_is_shown(opened, qtbot):
    for _ in range(3):
        opened.show_slide("two")
        opened.show_slide("one")
    opened.show_slide("two")
    wait_shown(qtbot, opened, "two")
    qtbot.wait(200)
    assert ids_in(opened.viewer) == {"two"}


def test_resolution_is_asked_for_and_never_invented(dock, tmp_path, slide_without_mpp, qtbot, monkeypatch):
    dock.create_project(tmp_path / "project")
    dock.add_slides([slide_without_mpp])
    wait_shown(qtbot, dock, "unknown")
    qtbot.waitUntil(lambda: dock.table.text("unknown", MPP) == NO_MPP, timeout=60_000)
    np.testing.assert_allclose(layers.find_layer(dock.viewer, "slide", "unknown").scale, (1, 1))
    monkeypatch.setattr(QInputDialog, "getText", lambda *_, **__: ("a quarter", True))
    dock.mpp_button.click()
    assert "a quarter" in dock.message.text()
    monkeypatch.setattr(QInputDialog, "getText", lambda *_, **__: ("0.25", True))
    dock.mpp_button.click()
    qtbot.waitUntil(lambda: dock.table.text("unknown", MPP) == "0.25 (user)", timeout=60_000)
    wait_shown(qtbot, dock, "unknown")
    for layer in dock.viewer.layers:
        np.testing.assert_allclose(layer.scale, (0.25, 0.25))
    assert Project.open(tmp_path / "project").slide("unknown").mpp == (0.25, 0.25)


def test_a_size_that_is_looked_at_and_left_stays_with_its_maps(opened, qtbot, monkeypatch):
    asked = []

    def leave(_dock, _title, label, text):
        asked.append((label, text))
        return text, True

    monkeypatch.setattr(QInputDialog, "getText", leave)
    opened.mpp_button.click()
    assert opened.set_mpp("one", 0.25)
    wait_shown(qtbot, opened, "one")
    (folder := opened.session.project.folder / "maps" / "one").mkdir(parents=True)
    opened.mpp_button.click()
    assert [text for _, text in asked] == ["", "0.25"]
    assert "another size are moved" in asked[0][0]
    assert opened.session.project.slide("one").mpp == (0.25, 0.25)
    assert folder.exists()


def test_group_is_edited_in_the_table(opened, qtbot):
    opened.table.item(1, GROUP).setText("patient 7")
    assert opened.session.project.cohort[1].group == "patient 7"
    qtbot.waitUntil(lambda: opened.table.text("two", GROUP) == "patient 7", timeout=60_000)


def test_remove_asks_and_shows_the_neighbour(opened, qtbot, monkeypatch, small_slides):
    monkeypatch.setattr(QMessageBox, "question", lambda *_: QMessageBox.StandardButton.No)
    opened.remove_button.click()
    assert opened.table.ids == ("one", "two")
    monkeypatch.setattr(QMessageBox, "question", lambda *_: QMessageBox.StandardButton.Yes)
    opened.remove_button.click()
    wait_shown(qtbot, opened, "two")
    assert opened.table.ids == ("two",)
    assert small_slides[0].exists()
    opened.remove_button.click()
    assert opened.table.ids == ()
    assert ids_in(opened.viewer) <= {None}


def test_another_project_with_the_same_slides_takes_its_own_regions(opened, tmp_path, small_slides, qtbot):
    first = layers.find_layer(opened.viewer, "regions", "one")
    assert opened.create_project(tmp_path / "other")
    opened.add_slides(small_slides[:1])
    wait_shown(qtbot, opened, "one")
    assert layers.find_layer(opened.viewer, "regions", "one") is not first
    assert opened.desk.editor.project is opened.session.project
    assert opened.desk.editor.project.folder == tmp_path / "other"


def test_regions_are_counted(opened, qtbot):
    layer = layers.find_layer(opened.viewer, "regions", "one")
    layer.add_polygons([np.array([[0, 0], [0, 300], [300, 300], [300, 0]])])
    qtbot.waitUntil(lambda: opened.table.text("one", REGIONS) == "1", timeout=60_000)


def test_a_tile_that_cannot_be_read_is_told_and_stays_told(opened, qtbot, monkeypatch):
    from napari_slidecorr.errors import SlideError

    slide = opened.session.project.slide("two")
    real = slide.source.read_level

    def read_level(level, *place):
        if level == 0:
            raise SlideError("two.tif: a tile at level 0 is damaged.")
        return real(level, *place)

    monkeypatch.setattr(slide.source, "read_level", read_level)
    opened.show_slide("two")
    wait_shown(qtbot, opened, "two")
    np.asarray(layers.find_layer(opened.viewer, "slide", "two").data[0][:10, :10])
    qtbot.waitUntil(lambda: "damaged" in opened.damage.text(), timeout=60_000)
    opened.message.tell("something else")
    assert "shown grey" in opened.damage.text()


def test_background_loading_is_off_until_asked_for(dock):
    from napari.settings import get_settings

    assert not dock.async_box.isChecked()
    dock.async_box.click()
    assert get_settings().experimental.async_
    dock.async_box.click()
    assert not get_settings().experimental.async_


def test_slides_dropped_into_the_viewer_join_with_what_was_drawn_on_them(dock, tmp_path, small_slides, qtbot):
    from napari_slidecorr import io

    dock.create_project(tmp_path / "project")
    for path in small_slides:
        slide = io.open_slide(path)
        layers.add_slide(dock.viewer, slide)
        layer = layers.add_regions(dock.viewer, slide, RegionSet(), ("a",), {"a": (255, 0, 0)})
        layer.add_polygons([np.array([[0, 0], [0, 300], [300, 300], [300, 0]])])
    dock.add_open_button.click()
    qtbot.waitUntil(lambda: dock.session.current_slide == "one", timeout=60_000)
    assert [layers.identity(layer)["kind"] for layer in dock.viewer.layers] == ["slide", "regions"]
    project = Project.open(tmp_path / "project")
    assert [len(project.regions(slide)) for slide in ("one", "two")] == [1, 1]
    dock.add_open_button.click()
    assert "All slides in the viewer" in dock.message.text()


def test_a_slide_that_was_only_dropped_in_keeps_its_layers(opened, slide_without_mpp, qtbot):
    from napari_slidecorr import io

    loose = layers.add_slide(opened.viewer, io.open_slide(slide_without_mpp))
    opened.next_button.click()
    wait_shown(qtbot, opened, "two")
    assert loose in opened.viewer.layers


def test_slides_in_pixels_and_in_micrometres_never_stand_together(opened, slide_without_mpp, qtbot):
    units = []
    opened.viewer.layers.events.inserted.connect(
        lambda: units.append({str(unit) for layer in opened.viewer.layers for unit in layer.units})
    )
    layers.find_layer(opened.viewer, "regions", "one").mode = "add_polygon"
    opened.add_slides([slide_without_mpp])
    qtbot.waitUntil(lambda: "unknown" in opened.table.ids, timeout=60_000)
    opened.show_slide("unknown")
    wait_shown(qtbot, opened, "unknown")
    assert units == [{"pixel"}, {"pixel"}]
    assert layers.find_layer(opened.viewer, "regions", "unknown").mode == "add_polygon"


def test_a_drive_that_hangs_is_told_and_holds_up_nothing(opened, qtbot, monkeypatch):
    dock, answer = opened, threading.Event()
    plain = Project.slide

    def hang(project, slide_id):
        if slide_id == "two":
            assert answer.wait(20)
        return plain(project, slide_id)

    monkeypatch.setattr(Project, "slide", hang)
    dock.stage._slow.setInterval(50)
    with qtbot.waitSignal(dock.session.message, timeout=60_000) as told:
        dock.stage.show("two")
    assert told.args[0].startswith("two is still being opened")
    assert told.args[1]
    answer.set()
    wait_shown(qtbot, dock, "two")
    assert not dock.stage._slow.isActive()


class Gates:
    """Slides whose opening waits for its gate, and then perhaps fails."""

    def __init__(self, monkeypatch, *slide_ids):
        self.gates = {slide_id: threading.Event() for slide_id in slide_ids}
        self.damaged = set()
        plain = Project.slide

        def slide(project, slide_id):
            if slide_id in self.gates and threading.current_thread() is not threading.main_thread():
                assert self.gates[slide_id].wait(20)
                if slide_id in self.damaged:
                    raise SlideError(f"{slide_id}.tif is damaged.")
            return plain(project, slide_id)

        monkeypatch.setattr(Project, "slide", slide)

    def open(self, slide_id):
        self.gates[slide_id].set()


@pytest.fixture
def three(opened, tmp_path, qtbot):
    """The dock with a third slide."""
    opened.add_slides([write_slide(tmp_path / "three.tif", seed=4)])
    qtbot.waitUntil(lambda: "three" in opened.table.ids and not opened.errands.running, timeout=60_000)
    return opened


def test_a_slide_that_fails_late_does_not_drop_the_next(three, qtbot, monkeypatch):
    gates = Gates(monkeypatch, "two", "three")
    gates.damaged.add("two")
    three.step(1)
    three.step(1)
    gates.open("two")
    qtbot.waitUntil(lambda: "damaged" in three.message.text(), timeout=60_000)
    assert three.status.text() == "Opening three ..."
    gates.open("three")
    wait_shown(qtbot, three, "three")
    assert three.status.text() == ""


def test_a_click_in_another_dock_counts_more_than_a_slow_slide(three, qtbot, monkeypatch):
    gates, traveller = Gates(monkeypatch, "two"), Traveller(three.desk, three)
    three.show_slide("two")
    with qtbot.waitSignal(traveller.arrived, timeout=60_000):
        traveller.go("three", Box(0, 0, 64, 64))
    gates.open("two")
    qtbot.waitUntil(lambda: three.status.text() == "", timeout=60_000)
    assert ids_in(three.viewer) == {"three"}


def test_a_slow_slide_in_pixels_takes_nothing_away(three, slide_without_mpp, qtbot, monkeypatch):
    three.add_slides([slide_without_mpp])
    qtbot.waitUntil(lambda: "unknown" in three.table.ids and not three.errands.running, timeout=60_000)
    gates = Gates(monkeypatch, "unknown")
    three.show_slide("unknown")
    three.show_slide("two")
    wait_shown(qtbot, three, "two")
    gates.open("unknown")
    qtbot.wait(300)
    assert ids_in(three.viewer) == {"two"}


def test_a_place_on_a_slide_that_is_being_opened_is_gone_to(three, qtbot, monkeypatch):
    gates, traveller = Gates(monkeypatch, "two"), Traveller(three.desk, three)
    three.show_slide("two")
    traveller.go("two", Box(0, 0, 64, 64))
    with qtbot.waitSignal(traveller.arrived, timeout=60_000):
        gates.open("two")
    assert ids_in(three.viewer) == {"two"}


def test_damage_on_a_slide_that_another_dock_shows_is_told(three):
    traveller = Traveller(three.desk, three)
    traveller.stage.damaged.emit("two", "A tile is damaged.")
    assert "two: what cannot be read is shown grey. A tile is damaged." in three.message.text()


def test_regions_are_not_read_in_the_thread_of_the_window(opened, qtbot, monkeypatch):
    project, readers = opened.session.project, []
    project.save_regions("two", RegionSet((Region("a", box(0, 0, 9, 9)),)))
    project._store.forget("two")
    plain = RegionStore._read

    def read(store, slide_id, path):
        readers.append(threading.current_thread().name)
        return plain(store, slide_id, path)

    monkeypatch.setattr(RegionStore, "_read", read)
    opened.show_slide("two")
    wait_shown(qtbot, opened, "two")
    assert readers == ["slidecorr-errand"]
