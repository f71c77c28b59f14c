"""The window that shows what importing a file would do, and the import that follows it."""

import threading

import numpy as np
import pytest
from qtpy.QtWidgets import QFileDialog
from shapely import box

from napari_slidecorr import write_regions
from napari_slidecorr._napari import layers
from napari_slidecorr._napari.dock_regions import RegionsDock
from napari_slidecorr._napari.import_preview import LEAVE_OUT, NO_CLASS
from napari_slidecorr._napari.stage import Stage
from napari_slidecorr.project import Project
from napari_slidecorr.region_import import ImportPlan
from napari_slidecorr.regions import IGNORE, Region, RegionSet

A, B = "tumour", "stroma"


def write_pyramid(path):
    """White glass with a pink tissue in the upper right corner: x 1000 to 1500, y 50 to 350."""
    import tifffile

    full = np.full((1024, 1536, 3), 245, np.uint8)
    full[50:350, 1000:1500] = (200, 120, 170)
    with tifffile.TiffWriter(path) as writer:
        options = {"photometric": "rgb", "tile": (256, 256), "compression": "deflate"}
        unit = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
        writer.write(full, subifds=1, **options, **unit)
        writer.write(full[::4, ::4], subfiletype=1, **options)
    return path


@pytest.fixture
def dock(make_napari_viewer, qtbot, tmp_path):
    viewer = make_napari_viewer()
    dock = RegionsDock(viewer)
    qtbot.addWidget(dock)
    project = dock.session.create_project(tmp_path / "project", (A, B))
    project.add_slides([write_pyramid(tmp_path / "one.tif")])
    dock.session.slides_changed.emit()
    dock.stage = Stage(dock.desk, dock)
    dock.stage.show("one")
    qtbot.waitUntil(lambda: layers.find_layer(viewer, "regions", "one") is not None, timeout=60_000)
    dock.desk.editor.set_regions(RegionSet((Region(A, box(60, 1100, 90, 1150)),)))
    yield dock
    for thread in threading.enumerate():
        if thread.name == "slidecorr-errand":
            thread.join(10)


@pytest.fixture
def foreign(tmp_path):
    """Regions of three classes on the tissue."""
    path = tmp_path / "foreign.geojson"
    regions = [("Tumour", 100, 1050), ("Tumour", 200, 1300), ("fat", 120, 1400), ("Ignore*", 250, 1100)]
    write_regions(path, RegionSet(tuple(Region(name, box(y, x, y + 60, x + 60)) for name, y, x in regions)))
    return path


def look(dock, qtbot, path):
    """Press the import button, choose the file and wait for the preview."""
    dock.preview = None
    assert dock.preview_import(path)
    qtbot.waitUntil(lambda: dock.preview is not None or dock.message.property("error"), timeout=60_000)
    return dock.preview


def settled(qtbot, preview):
    qtbot.waitUntil(lambda: not preview._errands.running and not preview._waiting, timeout=60_000)


def picture(preview):
    return preview.picture.pixmap().toImage()


def test_a_preview_says_what_is_in_the_file_and_changes_nothing(dock, qtbot, foreign, monkeypatch):
    before = dock.desk.editor.regions
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(foreign), ""))
    dock.import_button.click()
    qtbot.waitUntil(lambda: dock.preview is not None, timeout=60_000)
    preview = dock.preview
    assert preview.isVisible()
    assert "4 regions" in preview.headline.text()
    assert "100% on tissue" in preview.where.text()
    chosen = {name: combo.currentData() for name, combo in preview.becomes.items()}
    assert chosen == {"Tumour": A, "fat": "fat", "Ignore*": IGNORE}
    assert preview.becomes["fat"].currentText() == "fat (new)"
    assert len(preview.meanings) == 1
    preview.reject()
    assert dock.desk.editor.regions is before
    assert dock.session.project.classes == (A, B)
    assert Project.open(dock.session.project.folder).classes == (A, B)


def test_an_import_is_one_step_and_takes_the_chosen_classes(dock, qtbot, foreign):
    preview = look(dock, qtbot, foreign)
    for name, text in (("fat", LEAVE_OUT), ("Ignore*", NO_CLASS), ("Tumour", B)):
        preview.becomes[name].setCurrentIndex(preview.becomes[name].findText(text))
    settled(qtbot, preview)
    assert "3 regions" in preview.headline.text()
    assert "'fat' was left out" in preview.left_out.text()
    before = dock.desk.editor.regions
    preview.import_button.click()
    assert [region.class_name for region in dock.desk.editor.regions] == [A, B, B, ""]
    assert dock.session.project.classes == (A, B)
    assert "3 regions added from foreign.geojson" in dock.message.text()
    dock.desk.flush()
    assert len(Project.open(dock.session.project.folder).regions("one")) == 4
    dock.tool_box.undo_button.click()
    assert dock.desk.editor.regions == before
    dock.tool_box.redo_button.click()
    assert len(dock.desk.editor.regions) == 4


def test_no_import_before_all_choices_are_planned(dock, qtbot, foreign, monkeypatch):
    gate, plain = threading.Event(), ImportPlan.with_mapping

    def slow(plan, mapping):
        if "Tumour" in mapping:
            assert gate.wait(20)
        return plain(plan, mapping)

    monkeypatch.setattr(ImportPlan, "with_mapping", slow)
    preview = look(dock, qtbot, foreign)
    for name, text in (("fat", LEAVE_OUT), ("Tumour", B)):
        preview.becomes[name].setCurrentIndex(preview.becomes[name].findText(text))
    qtbot.waitUntil(lambda: "3 regions" in preview.headline.text(), timeout=60_000)
    assert not preview.import_button.isEnabled()
    gate.set()
    settled(qtbot, preview)
    preview.import_button.click()
    assert [region.class_name for region in dock.desk.editor.regions] == [A, B, B, IGNORE]


def test_coordinates_that_miss_the_tissue_are_offered_other_meanings(dock, qtbot, tmp_path):
    path = tmp_path / "mirrored.geojson"
    on_tissue = [box(y, x, y + 60, x + 60) for y, x in ((60, 1010), (100, 1200), (250, 1430), (280, 1010))]
    mirrored = [box(1024 - p.bounds[2], p.bounds[1], 1024 - p.bounds[0], p.bounds[3]) for p in on_tissue]
    write_regions(path, RegionSet(tuple(Region(B, polygon) for polygon in mirrored)))
    preview = look(dock, qtbot, path)
    assert "0% on tissue" in preview.where.text()
    assert "belong to this slide?" in preview.where.text()
    before = picture(preview)
    (flip,) = [button for button, t in preview.meanings.items() if t.flip_y and t.steps == 1]
    assert "100% on tissue" in flip.text()
    flip.click()
    settled(qtbot, preview)
    assert "100% on tissue" in preview.where.text()
    assert picture(preview) != before
    preview.import_button.click()
    areas = [
        region.polygon.symmetric_difference(p).area
        for region, p in zip(dock.desk.editor.regions.regions[1:], on_tissue, strict=True)
    ]
    assert max(areas) < 1e-6


@pytest.mark.parametrize("text", ["not json", '{"type": "FeatureCollection", "features": 3}'])
def test_a_file_that_cannot_be_read_is_told_and_no_preview_comes(dock, qtbot, tmp_path, text):
    (path := tmp_path / "bad.geojson").write_text(text)
    before = dock.desk.editor.regions
    assert look(dock, qtbot, path) is None
    assert "bad.geojson" in dock.message.text()
    assert dock.import_button.isEnabled()
    assert dock.desk.editor.regions is before


def test_a_file_with_nothing_new_cannot_be_imported(dock, qtbot, tmp_path):
    path = tmp_path / "same.geojson"
    write_regions(path, dock.desk.editor.regions)
    preview = look(dock, qtbot, path)
    assert not preview.import_button.isEnabled()
    assert "already" in preview.left_out.text()
    preview.reject()
