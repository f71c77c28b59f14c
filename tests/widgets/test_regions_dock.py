"""The Regions dock and what stands behind it, with real mouse and keys where a hand would use them."""

import threading

import numpy as np
import pytest
from hand import Hand
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QColorDialog, QFileDialog, QInputDialog, QMessageBox
from shapely import Polygon, box

from conftest import write_slide
from napari_slidecorr import read_regions, write_regions
from napari_slidecorr._napari import class_box, layers
from napari_slidecorr._napari.class_table import COHORT, HERE, Amount, tally, warnings_about
from napari_slidecorr._napari.dock_regions import RegionsDock
from napari_slidecorr._napari.history import History
from napari_slidecorr._napari.region_editor import with_holes
from napari_slidecorr._napari.stage import Stage
from napari_slidecorr.errors import ProjectError, RegionsError
from napari_slidecorr.project import Project
from napari_slidecorr.regions import IGNORE, Region, RegionSet

A, B = "tumour", "stroma"


def square(y, x, side, name=A):
    return Region(name, box(y, x, y + side, x + side))


# -- without a window -------------------------------------------------------------------------------------------------


def test_history_goes_back_and_forth():
    states = [RegionSet(tuple(square(i, i, 10) for i in range(n))) for n in range(4)]
    history = History(states[0])
    assert all(history.record(state) for state in states[1:])
    assert not history.record(states[3])
    assert [history.undo() for _ in range(4)] == [states[2], states[1], states[0], None]
    assert [history.redo(), history.redo()] == [states[1], states[2]]
    assert history.record(states[0])
    assert history.redo() is None
    assert history.undo() is states[2]


def test_history_forgets_the_oldest_steps():
    history = History(RegionSet(), limit=3)
    for n in range(10):
        history.record(RegionSet((square(n, 0, 1 + n),)))
    assert sum(history.undo() is not None for _ in range(10)) == 3


@pytest.mark.parametrize("picked", [pytest.param([1], id="inner"), pytest.param([0, 1], id="both")])
def test_inner_shape_becomes_a_hole(picked):
    outer, inner, other = square(0, 0, 100), square(20, 20, 10), square(200, 200, 50)
    cut = with_holes(RegionSet((outer, inner, other)), [(outer, inner)[i] for i in picked])
    assert [region.uid for region in cut] == [outer.uid, other.uid]
    assert cut.regions[0].area_px == 100 * 100 - 10 * 10
    assert len(cut.regions[0].polygon.interiors) == 1
    assert cut.regions[1] is other


def test_a_cut_through_a_region_gives_two():
    outer, knife = square(0, 0, 100), Region(B, box(-10, 40, 110, 60))
    cut = with_holes(RegionSet((outer, knife)), [knife])
    assert [region.area_px for region in cut] == [4000, 4000]
    assert len({region.uid for region in cut}) == 2


def test_a_hole_needs_something_around_it():
    lonely = square(0, 0, 10)
    for chosen in ([], [lonely]):
        with pytest.raises(RegionsError):
            with_holes(RegionSet((lonely, square(50, 50, 5))), chosen)


def test_tally_counts_and_measures():
    regions = RegionSet((square(0, 0, 1000), square(0, 2000, 1000), square(0, 0, 500, B)))
    assert tally(regions, (0.5, 0.5), "g").amounts == {A: Amount(2, mm2=0.5), B: Amount(1, mm2=0.0625)}
    assert tally(regions, None, "g").amounts[A] == Amount(2, megapixels=2.0)
    assert str(Amount(2, mm2=0.5) + Amount(1, megapixels=2.0)) == "3: 0.50 mm² + 2.00 Mpx"


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        pytest.param([("p", A), ("q", A), ("p", B), ("q", B)], "", id="enough"),
        pytest.param([("p", A), ("q", A), ("p", B)], "On one slide or patient only: stroma (on p)", id="one slide"),
        pytest.param([("p", A), ("q", A)], "Not drawn yet: stroma", id="none"),
        pytest.param([("p", A), ("p", A), ("p", B), ("q", B)], "only: tumour (on p)", id="one patient"),
    ],
)
def test_a_class_on_one_slide_is_warned_of(groups, told):
    tallies = [tally(RegionSet((square(0, 0, 9, name),)), None, group) for group, name in groups]
    warning = warnings_about([A, B], tallies)
    assert told in warning
    assert bool(warning) == bool(told)


# -- in a window ------------------------------------------------------------------------------------------------------


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer()


@pytest.fixture
def dock(viewer, qtbot, tmp_path, small_slides):
    """The dock on a project of two slides, the first in view."""
    dock = RegionsDock(viewer)
    qtbot.addWidget(dock)
    project = dock.session.create_project(tmp_path / "project", (A, B))
    project.add_slides(small_slides)
    dock.session.slides_changed.emit()
    dock.stage = Stage(dock.desk, dock)
    show(dock, qtbot, "one")
    yield dock
    for thread in threading.enumerate():
        if thread.name == "slidecorr-errand":
            thread.join(10)


def show(dock, qtbot, slide_id):
    dock.stage.show(slide_id)
    qtbot.waitUntil(lambda: layers.find_layer(dock.viewer, "regions", slide_id) is not None, timeout=60_000)


def layer_of(dock):
    return dock.desk.editor.layer


def add(layer, y, x, side):
    layer.add_polygons([np.array([[y, x], [y, x + side], [y + side, x + side], [y + side, x]]) - 0.5])


def saved(dock, slide_id="one"):
    """What another program would find on the disk."""
    return Project.open(dock.session.project.folder).regions(slide_id)


def wait_saved(qtbot, dock, check):
    qtbot.waitUntil(lambda: check(saved(dock)), timeout=60_000)


def press(dock, key):
    Hand(dock.viewer, None).press(key)


def test_a_drawn_shape_is_saved_with_its_class_within_a_second(dock, qtbot):
    add(layer_of(dock), 100, 100, 200)
    wait_saved(qtbot, dock, lambda regions: len(regions) == 1)
    (region,) = saved(dock)
    assert region.class_name == A
    assert region.area_px == 200 * 200
    assert region.polygon.bounds == (100, 100, 300, 300)
    assert dock.classes.table.text(A, HERE) == "1: 0.010 mm²"
    assert dock.classes.table.text(A, COHORT) == "1: 0.010 mm²"
    qtbot.waitUntil(lambda: "stroma" in dock.classes.warning.text(), timeout=60_000)


def test_number_keys_choose_classes_before_naparis_own(dock):
    layer = layer_of(dock)
    dock.viewer.layers.selection.active = layer
    press(dock, "2")
    assert dock.desk.current_class == B
    assert dock.classes.table.current == B
    assert layer.mode == "pan_zoom"  # 2 is "insert vertex" in napari
    press(dock, "0")
    assert dock.desk.current_class == IGNORE
    press(dock, "7")
    assert "no class 7" in dock.message.text()
    assert dock.desk.current_class == IGNORE


def test_number_keys_reclass_what_is_selected_but_not_what_was_just_drawn(dock, qtbot):
    layer = layer_of(dock)
    add(layer, 0, 0, 100)
    add(layer, 200, 200, 100)
    wait_saved(qtbot, dock, lambda regions: len(regions) == 2)
    layer.mode = "select"
    layer.selected_data = {1}
    press(dock, "2")
    wait_saved(qtbot, dock, lambda regions: [r.class_name for r in regions] == [A, B])
    np.testing.assert_allclose(layer.edge_color[1][:3] * 255, dock.session.project.colors[B], atol=1)
    layer.mode = "add_polygon"
    layer.selected_data = {1}
    press(dock, "1")
    assert [r.class_name for r in dock.desk.editor.regions] == [A, B]
    assert dock.desk.current_class == A


def test_undo_and_redo_by_keys_reach_the_disk(dock, qtbot):
    layer = layer_of(dock)
    for n in range(3):
        add(layer, 0, n * 200, 100)
        qtbot.waitUntil(lambda n=n: len(dock.desk.editor.regions) == n + 1, timeout=60_000)
    before = dock.desk.editor.regions
    dock.tool_box.undo_button.click()
    dock.tool_box.undo_button.click()
    assert len(layer.data) == 1
    wait_saved(qtbot, dock, lambda regions: len(regions) == 1)
    dock.tool_box.redo_button.click()
    dock.tool_box.redo_button.click()
    assert not dock.tool_box.redo_button.isEnabled()
    assert dock.desk.editor.regions == before
    assert layers.regions_of(layer) == before
    wait_saved(qtbot, dock, lambda regions: len(regions) == 3)


def test_undo_brings_a_deleted_region_back_to_its_place(dock, qtbot):
    layer = layer_of(dock)
    for n in range(3):
        add(layer, 0, n * 200, 100)
    qtbot.waitUntil(lambda: len(dock.desk.editor.regions) == 3, timeout=60_000)
    before = dock.desk.editor.regions
    layer.selected_data = {1}
    dock.tool_box.delete_button.click()
    assert len(dock.desk.editor.regions) == 2
    dock.tool_box.undo_button.click()
    assert layers.regions_of(layer) == before


def test_an_outline_that_crosses_itself_becomes_simple_regions(dock, qtbot):
    layer = layer_of(dock)
    layer.add_polygons([np.array([[100, 100], [300, 300], [100, 300], [300, 100]], float)])
    qtbot.waitUntil(lambda: len(layer.data) == 2, timeout=60_000)
    assert all(region.polygon.is_valid for region in dock.desk.editor.regions)
    assert "crossed itself" in dock.message.text()
    wait_saved(qtbot, dock, lambda regions: len(regions) == 2)


def test_a_line_is_no_region(dock, qtbot):
    layer = layer_of(dock)
    layer.add_lines(np.array([[0, 0], [200, 200]]))
    qtbot.waitUntil(lambda: len(layer.data) == 0, timeout=60_000)
    assert "no region" in dock.message.text()


def test_hole_is_cut_saved_and_drawn(dock, qtbot):
    layer = layer_of(dock)
    add(layer, 0, 0, 300)
    add(layer, 100, 100, 50)
    layer.selected_data = {1}
    dock.tool_box.hole_button.click()
    assert len(layer.data) == 1
    wait_saved(qtbot, dock, lambda regions: len(regions) == 1 and len(regions.regions[0].polygon.interiors) == 1)
    assert dock.desk.editor.regions.regions[0].area_px == 300 * 300 - 50 * 50
    dock.tool_box.hole_button.click()
    assert "select it" in dock.message.text()


def test_classes_are_added_renamed_recoloured_and_deleted_on_all_slides(dock, monkeypatch, qtbot):
    project = dock.session.project
    project.save_regions("two", RegionSet((square(0, 0, 100, B),)))
    add(layer_of(dock), 0, 0, 100)
    monkeypatch.setattr(QInputDialog, "getText", lambda *_, **__: (" necrosis ", True))
    layer_of(dock).mode = "select"
    layer_of(dock).selected_data = {0}
    dock.classes.add_button.click()
    assert project.classes == (A, B, "necrosis")
    assert [region.class_name for region in dock.desk.editor.regions] in ([], [A])
    assert dock.desk.current_class == "necrosis"
    dock.classes.add_button.click()
    assert "already" in dock.message.text()
    color = project.colors[B]
    assert dock.classes.rename_class(B, "fat")
    wait_idle(qtbot, dock)
    assert project.classes == (A, "fat", "necrosis")
    assert project.colors["fat"] == color
    assert [region.class_name for region in saved(dock, "two")] == ["fat"]
    assert dock.classes.rename_class(A, "cancer")
    wait_idle(qtbot, dock)
    assert [region.class_name for region in saved(dock)] == ["cancer"]
    assert not dock.classes.rename_class("cancer", "fat")
    monkeypatch.setattr(QColorDialog, "getColor", lambda *_, **__: QColor(1, 2, 3))
    dock.classes.table.chosen.emit("cancer")
    dock.classes.color_button.click()
    assert project.colors["cancer"] == (1, 2, 3)
    np.testing.assert_allclose(layer_of(dock).edge_color[0][:3] * 255, (1, 2, 3), atol=0.01)
    qtbot.waitUntil(lambda: dock.classes.table.text("cancer", COHORT).startswith("1:"), timeout=60_000)
    asked = answer_deletion(monkeypatch, "Keep")
    dock.classes.delete_button.click()
    wait_idle(qtbot, dock)
    assert "1 regions on 1 slides" in asked[0]
    assert project.classes == ("fat", "necrosis")
    assert [region.class_name for region in saved(dock)] == [""]
    dock.tool_box.undo_button.click()
    dock.tool_box.redo_button.click()
    assert [region.class_name for region in dock.desk.editor.regions] == [""]


def wait_idle(qtbot, dock):
    qtbot.waitUntil(lambda: not dock.session.busy, timeout=60_000)


def project_ids(dock):
    return [slide.id for slide in dock.session.project.cohort]


def answer_deletion(monkeypatch, start):
    """Press the button that begins so in every question of a message box; gives the texts of the questions."""
    asked = []

    def press(question):
        asked.append(question.text())
        next(each for each in question.buttons() if each.text().replace("&", "").startswith(start)).click()

    monkeypatch.setattr(QMessageBox, "exec", press)
    return asked


def test_a_class_is_deleted_with_its_regions_and_comes_back_by_undo(dock, monkeypatch, qtbot):
    project = dock.session.project
    project.save_regions("two", RegionSet((square(0, 0, 100, B), square(200, 0, 100))))
    dock.desk.editor.set_regions(RegionSet((square(0, 0, 100, B), square(200, 0, 100))))
    dock.classes.count_all()
    qtbot.waitUntil(lambda: dock.classes.table.text(B, COHORT).startswith("2:"), timeout=60_000)
    dock.classes.table.chosen.emit(B)
    asked = answer_deletion(monkeypatch, "Cancel")
    dock.classes.delete_button.click()
    assert project.classes == (A, B)
    answer_deletion(monkeypatch, "Delete its regions")
    dock.classes.delete_button.click()
    wait_idle(qtbot, dock)
    assert "2 regions on 2 slides" in asked[0]
    assert project.classes == (A,)
    for slide_id in ("one", "two"):
        assert [region.class_name for region in saved(dock, slide_id)] == [A]
    dock.tool_box.undo_button.click()
    dock.desk.flush()
    assert [region.class_name for region in saved(dock)] == [B, A]
    assert set(dock.session.project.classes) == {A, B}


def test_what_is_not_counted_yet_is_not_called_none(dock, qtbot, monkeypatch):
    gate, count = threading.Event(), class_box._count_all
    monkeypatch.setattr(class_box, "_count_all", lambda project: gate.wait(20) and count(project))
    dock.session.project.save_regions("two", RegionSet((square(0, 0, 100),)))
    dock.session.reopen_project()
    dock.classes.table.chosen.emit(A)
    asked = answer_deletion(monkeypatch, "Cancel")
    dock.classes.delete_button.click()
    assert "an unknown number of regions" in asked[0]
    assert dock.classes.warning.text() == ""
    gate.set()
    qtbot.waitUntil(lambda: "stroma" in dock.classes.warning.text(), timeout=60_000)
    dock.classes.delete_button.click()
    assert "1 regions on 1 slides" in asked[1]


def test_slides_that_a_class_change_reaches_are_told(dock, qtbot):
    dock.session.project.save_regions("two", RegionSet((square(0, 0, 100, B),)))
    told = []
    dock.session.regions_changed.connect(told.append)
    dock.classes.delete_class(B, with_regions=True)
    wait_idle(qtbot, dock)
    assert told == ["two"]


def test_a_class_is_merged_into_another_on_all_slides(dock, monkeypatch, qtbot):
    project = dock.session.project
    project.save_regions("two", RegionSet((square(0, 0, 100, B), square(200, 0, 100))))
    dock.desk.editor.set_regions(RegionSet((square(0, 0, 100, B),)))
    dock.classes.table.chosen.emit(B)
    offered = []
    monkeypatch.setattr(QInputDialog, "getItem", lambda *args, **_: offered.append(args[3]) or (A, True))
    dock.classes.merge_button.click()
    wait_idle(qtbot, dock)
    assert offered == [[A, IGNORE]]
    assert project.classes == (A,)
    assert dock.desk.current_class == A
    assert [region.class_name for region in saved(dock)] == [A]
    assert [region.class_name for region in saved(dock, "two")] == [A, A]
    dock.tool_box.undo_button.click()
    assert len(dock.desk.editor.regions) == 0
    dock.tool_box.redo_button.click()
    assert [region.class_name for region in dock.desk.editor.regions] == [A]
    assert not dock.classes.merge_classes(A, "nothing of that name")
    assert "no other class" in dock.message.text()


def test_a_merge_that_cannot_be_written_changes_no_slide(dock, monkeypatch, qtbot):
    project = dock.session.project
    (more := project.folder.parent / "more").mkdir()
    project.add_slides([write_slide(more / "three.tif", seed=5)])
    for slide_id in ("two", "three"):
        project.save_regions(slide_id, RegionSet((square(0, 0, 100, B),)))
    write = project.save_regions

    def full(slide_id, regions):
        if slide_id == "three" and regions.of_class(A):
            raise ProjectError("regions/three.geojson: no space is left on the disk; free some.")
        write(slide_id, regions)

    monkeypatch.setattr(project, "save_regions", full)
    dock.desk.editor.set_regions(RegionSet((square(0, 0, 100, B),)))
    assert dock.classes.merge_classes(B, A)
    wait_idle(qtbot, dock)
    assert "no space" in dock.message.text()
    assert project.classes == (A, B)
    assert [region.class_name for slide_id in project_ids(dock) for region in saved(dock, slide_id)] == [B, B, B]


class Halted:
    """A disk that takes the regions of a slide when it is let go."""

    def __init__(self, monkeypatch, project, slide_id):
        self.reached, self.gate = threading.Event(), threading.Event()
        write = project.save_regions

        def save(wanted, regions):
            if wanted == slide_id and not self.gate.is_set():
                self.reached.set()
                assert self.gate.wait(20)
            write(wanted, regions)

        monkeypatch.setattr(project, "save_regions", save)


@pytest.fixture
def halted(dock, monkeypatch, qtbot):
    """Stroma is on its way to be fat on slide two, and then on three; slide one, which is in view, has some too."""
    (more := dock.session.project.folder.parent / "more").mkdir()
    dock.session.project.add_slides([write_slide(more / "three.tif", seed=5)])
    for slide_id in ("two", "three"):
        dock.session.project.save_regions(slide_id, RegionSet((square(0, 0, 100, B),)))
    dock.desk.editor.set_regions(RegionSet((square(0, 0, 100, B),)))
    made = Halted(monkeypatch, dock.session.project, "two")
    assert dock.classes.rename_class(B, "fat")
    qtbot.waitUntil(made.reached.is_set, timeout=60_000)
    yield made
    made.gate.set()


def test_a_class_changes_behind_a_window_that_lives(dock, halted, qtbot):
    assert not dock.classes.buttons.isEnabled()
    assert not dock.classes.job.isHidden()
    assert [region.class_name for region in saved(dock)] == [B]  # what was pending is saved first
    dock.desk.editor.set_regions(RegionSet((*dock.desk.editor.regions, square(200, 0, 100, B))))
    dock.desk.flush()
    dock.stage.show("two")
    qtbot.wait(300)
    assert dock.session.current_slide == "one"  # regions that are being written are not opened
    halted.gate.set()
    wait_idle(qtbot, dock)
    assert dock.session.project.classes == (A, "fat")
    assert [region.class_name for region in saved(dock)] == ["fat", "fat"]
    assert dock.classes.buttons.isEnabled()
    dock.tool_box.undo_button.click()
    assert [region.class_name for region in dock.desk.editor.regions] == ["fat"]
    qtbot.waitUntil(lambda: dock.session.current_slide == "two", timeout=60_000)
    assert [region.class_name for region in dock.desk.editor.regions] == ["fat"]
    assert dock.session.project.classes == (A, "fat")


def test_a_slide_whose_layer_is_closed_meanwhile_follows(dock, halted, qtbot):
    dock.viewer.layers.remove(layer_of(dock))
    halted.gate.set()
    wait_idle(qtbot, dock)
    assert [region.class_name for slide_id in project_ids(dock) for region in saved(dock, slide_id)] == ["fat"] * 3
    assert dock.session.project.classes == (A, "fat")


def test_a_class_change_that_is_cancelled_is_taken_back(dock, halted, qtbot):
    dock.classes.job.cancel.click()
    halted.gate.set()
    wait_idle(qtbot, dock)
    assert [region.class_name for slide_id in project_ids(dock) for region in saved(dock, slide_id)] == [B, B, B]
    assert dock.session.project.classes == (A, B)


def test_import_adds_and_says_what_it_left_out(dock, tmp_path, qtbot):
    path = tmp_path / "from_qupath.geojson"
    write_regions(path, RegionSet((square(0, 0, 100), square(0, 200, 100, "necrosis"))))
    add(layer_of(dock), 300, 300, 50)
    assert dock.import_regions(path)
    assert len(layer_of(dock).data) == 3
    assert "2 regions added from from_qupath.geojson (tumour: 1, necrosis: 1)" in dock.message.text()
    assert "necrosis" in dock.classes.table.names
    wait_saved(qtbot, dock, lambda regions: len(regions) == 3)
    assert dock.import_regions(path)
    assert len(layer_of(dock).data) == 3
    assert "already" in dock.message.text()
    dock.tool_box.undo_button.click()
    assert len(layer_of(dock).data) == 1


def test_regions_planned_for_a_slide_are_not_imported_into_the_next(dock, tmp_path, qtbot):
    path = tmp_path / "for_one.geojson"
    write_regions(path, RegionSet((square(0, 0, 100),)))
    assert dock.preview_import(path)
    qtbot.waitUntil(lambda: dock.preview is not None, timeout=60_000)
    show(dock, qtbot, "two")  # it was asked for before, and comes behind the preview
    dock.preview.import_button.click()
    assert "Another slide came into view" in dock.message.text()
    assert [len(saved(dock, slide_id)) for slide_id in ("one", "two")] == [0, 0]
    assert len(dock.desk.editor.regions) == 0


@pytest.mark.parametrize("text", ["", "{}", "not json", '{"type": "FeatureCollection", "features": 3}'])
def test_a_bad_file_of_regions_is_told_and_nothing_changes(dock, tmp_path, text):
    (path := tmp_path / "bad.geojson").write_text(text)
    assert not dock.import_regions(path)
    assert "bad.geojson" in dock.message.text()
    assert len(layer_of(dock).data) == 0


@pytest.mark.parametrize(
    ("chosen", "ending"),
    [("QuPath GeoJSON (*.geojson *.json)", ".geojson"), ("ASAP XML (*.xml)", ".xml"), ("", ".geojson")],
)
def test_export_writes_what_is_drawn(dock, tmp_path, monkeypatch, chosen, ending):
    outer = Polygon([(0, 0), (0, 300), (300, 300), (300, 0)], [[(50, 50), (50, 90), (90, 90), (90, 50)]])
    dock.desk.editor.set_regions(RegionSet((Region(A, outer), square(400, 400, 30, B))))
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "out"), chosen))
    dock.export_button.click()
    read = read_regions(tmp_path / f"out{ending}").regions
    assert [(r.class_name, r.area_px) for r in read] == [(r.class_name, r.area_px) for r in dock.desk.editor.regions]


def test_a_full_disk_is_told_and_saved_when_there_is_room_again(dock, qtbot, monkeypatch):
    def full(*_):
        raise ProjectError("regions/one.geojson: no space is left on the disk; free some.")

    editor = dock.desk.editor
    with monkeypatch.context() as patch:
        patch.setattr(editor.project, "save_regions", full)
        add(editor.layer, 0, 0, 100)
        qtbot.waitUntil(lambda: "no space" in dock.message.text(), timeout=60_000)
        assert editor.dirty
    dock.desk.flush()
    assert not editor.dirty
    assert len(saved(dock)) == 1


def test_what_was_just_drawn_is_saved_when_the_slide_changes_or_a_job_starts(dock, qtbot):
    add(layer_of(dock), 0, 0, 100)
    show(dock, qtbot, "two")
    assert len(saved(dock)) == 1
    add(layer_of(dock), 0, 0, 100)
    dock.session.job_started.emit("Training")
    assert len(saved(dock, "two")) == 1


def test_what_was_just_drawn_is_saved_when_the_viewer_closes(dock):
    add(layer_of(dock), 0, 0, 100)
    dock.viewer.layers.clear()
    assert len(saved(dock)) == 1


def test_without_a_class_or_slide_tools_say_what_to_do(dock, tmp_path):
    dock.session.create_project(tmp_path / "empty")
    assert not dock.draw("add_polygon")
    assert "No slide" in dock.message.text()
    assert dock.classes.table.names == (IGNORE,)
    assert "two or more classes" in dock.classes.warning.text()


# -- with the mouse ---------------------------------------------------------------------------------------------------


@pytest.fixture
def hand(dock, qtbot):
    """The mouse over a shown window that has the whole slide in view."""
    window = dock.viewer.window._qt_window
    window.resize(1000, 800)
    window.show()
    qtbot.waitExposed(window)
    dock.viewer.reset_view()
    return Hand(dock.viewer, qtbot)


def test_polygon_rectangle_and_lasso_are_drawn_with_the_mouse(dock, hand, qtbot):
    dock.tool_box.buttons["add_polygon"].click()
    assert dock.tool_box.buttons["add_polygon"].isChecked()
    hand.click((200, 200), (200, 600), (600, 600))
    hand.double_click(600, 200)
    qtbot.waitUntil(lambda: len(dock.desk.editor.regions) == 1, timeout=60_000)
    press(dock, "2")
    dock.tool_box.buttons["add_rectangle"].click()
    hand.drag((200, 800), (300, 900), (600, 1200))
    qtbot.waitUntil(lambda: len(dock.desk.editor.regions) == 2, timeout=60_000)
    dock.tool_box.buttons["add_polygon_lasso"].click()
    hand.drag((700, 300), (700, 500), (800, 700), (900, 700), (950, 500), (900, 300), (800, 250))
    qtbot.waitUntil(lambda: len(dock.desk.editor.regions) == 3, timeout=60_000)
    polygon, rectangle, lasso = dock.desk.editor.regions
    assert [region.class_name for region in (polygon, rectangle, lasso)] == [A, B, B]
    assert polygon.area_px == pytest.approx(400 * 400, rel=0.05)
    assert rectangle.area_px == pytest.approx(400 * 400, rel=0.05)
    assert lasso.area_px == pytest.approx(80_000, rel=0.3)
    wait_saved(qtbot, dock, lambda regions: len(regions) == 3)
    np.testing.assert_allclose(layer_of(dock).edge_color[2][:3] * 255, dock.session.project.colors[B], atol=1)


def test_a_stray_click_leaves_nothing(dock, hand, qtbot):
    dock.tool_box.buttons["add_rectangle"].click()
    hand.click((500, 500))
    qtbot.waitUntil(lambda: "stray" in dock.message.text(), timeout=60_000)
    dock.tool_box.buttons["add_polygon"].click()
    hand.click((500, 500), (500, 700))
    dock.tool_box.buttons["select"].click()
    qtbot.wait(50)
    assert len(layer_of(dock).data) == len(layer_of(dock).features) == 0
    assert not dock.desk.editor.history.can_undo
    dock.tool_box.buttons["add_rectangle"].click()
    hand.drag((200, 800), (300, 900), (600, 1200))
    qtbot.waitUntil(lambda: len(dock.desk.editor.regions) == 1, timeout=60_000)


def test_a_class_key_while_drawing_is_for_the_shape_being_drawn(dock, hand, qtbot):
    dock.tool_box.buttons["add_polygon"].click()
    hand.click((200, 200), (200, 600), (600, 600))
    press(dock, "2")
    hand.double_click(600, 200)
    qtbot.waitUntil(lambda: len(dock.desk.editor.regions) == 1, timeout=60_000)
    assert dock.desk.editor.regions.regions[0].class_name == B
    assert dock.desk.editor.regions.regions[0].area_px == pytest.approx(400 * 400, rel=0.05)


def test_a_dragged_region_is_saved_where_it_lies(dock, hand, qtbot):
    dock.desk.editor.set_regions(RegionSet((square(200, 200, 300),)))
    dock.tool_box.buttons["select"].click()
    hand.click((350, 350))
    hand.drag((350, 350), (400, 500), (450, 700))
    wait_saved(qtbot, dock, lambda regions: len(regions) == 1 and regions.regions[0].polygon.bounds[1] > 450)
    assert saved(dock).regions[0].polygon.bounds == pytest.approx((300, 550, 600, 850), abs=15)
    dock.tool_box.undo_button.click()
    assert dock.desk.editor.regions.regions[0].polygon.bounds == (200, 200, 500, 500)


def test_a_region_that_was_split_can_be_split_again(dock, qtbot):
    layer = layer_of(dock)
    crossed = np.array([[100, 100], [300, 300], [100, 300], [300, 100]], float)
    layer.add_polygons([crossed])
    qtbot.waitUntil(lambda: len(layer.data) == 2, timeout=60_000)
    layer.data = [crossed, layer.data[1]]
    qtbot.waitUntil(lambda: len(layer.data) == 3, timeout=60_000)
    assert len({region.uid for region in dock.desk.editor.regions}) == 3
