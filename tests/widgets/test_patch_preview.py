"""Patches drawn over the regions: where the training would cut them, and as many."""

import threading

import numpy as np
import pytest
from shapely import Polygon, box

from napari_slidecorr._napari import layers
from napari_slidecorr._napari.dock_regions import RegionsDock
from napari_slidecorr._napari.dock_training import TrainingDock
from napari_slidecorr._napari.stage import Stage
from napari_slidecorr.config import PatchConfig, TrainConfig
from napari_slidecorr.patch_outline import patch_outlines, slide_patches
from napari_slidecorr.regions import IGNORE, Region, RegionSet

A, B = "tumour", "stroma"
CONFIG = PatchConfig(size_px=128, mpp=None)


def table(*regions, config=CONFIG):
    side = config.size_px
    return slide_patches("one", (1024, 1536), (side, side), RegionSet(regions), (A, B), config)


def painted(lines, shape):
    """Which edges of the pixel grid the lines cover: horizontal ones, then vertical ones."""
    covered = np.zeros((2, shape[0] + 1, shape[1] + 1), int)
    for (y0, x0), (y1, x1) in lines.astype(int):
        if y0 == y1:
            covered[0, y0, x0:x1] += 1
        else:
            covered[1, y0:y1, x0] += 1
    return covered


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.3])
def test_lines_are_the_outlines_of_the_patches_and_few(overlap):
    config = PatchConfig(size_px=128, mpp=None, overlap=overlap)
    cut = table(Region(A, box(0, 0, 640, 640)), Region(A, box(700, 900, 1000, 1500)), config=config)
    lines, labels = patch_outlines(cut)
    each = [box(int(y), int(x), int(y) + 128, int(x) + 128) for y, x in zip(cut.y, cut.x, strict=True)]
    sides = [pair for b in each for pair in zip(b.exterior.coords, b.exterior.coords[1:], strict=False)]
    alone = painted(np.asarray([sorted(side) for side in sides]), (1024, 1536))
    joined = painted(lines, (1024, 1536))
    assert ((alone > 0) == (joined > 0)).all()
    assert joined.max() == 1, "no line is drawn twice"
    assert len(lines) < len(cut)
    assert (labels == 0).all()


def test_two_classes_side_by_side_both_have_their_outline():
    _, labels = patch_outlines(table(Region(A, box(0, 0, 128, 128)), Region(B, box(0, 128, 128, 256))))
    assert sorted(labels.tolist()) == [0] * 4 + [1] * 4
    assert not len(patch_outlines(table())[0])


def test_ignored_areas_and_outlines_that_cross_themselves_are_cut_as_in_a_training():
    crossed = Region(A, Polygon([(0, 0), (512, 512), (0, 512), (512, 0)]))
    assert len(table(Region(A, box(0, 0, 512, 512)), Region(IGNORE, box(0, 0, 512, 256)))) == 8
    assert len(table(crossed)) == 12, "the two triangles cover four patches whole and eight to a half"


# -- in a window ------------------------------------------------------------------------------------------------------


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer(show=True)


@pytest.fixture
def dock(viewer, qtbot, tmp_path, small_slides):
    dock = RegionsDock(viewer)
    qtbot.addWidget(dock)
    project = dock.session.create_project(tmp_path / "project", (A, B))
    project.add_slides(small_slides)
    project.save_regions("two", RegionSet((Region(B, box(0, 0, 512, 512)),)))
    dock.session.slides_changed.emit()
    dock.stage = Stage(dock.desk, dock)
    show(dock, qtbot, "one")
    dock.desk.patches.configure(CONFIG)
    yield dock
    for thread in threading.enumerate():
        if thread.name == "slidecorr-errand":
            thread.join(10)


def show(dock, qtbot, slide_id):
    dock.stage.show(slide_id)
    qtbot.waitUntil(lambda: layers.find_layer(dock.viewer, "regions", slide_id) is not None, timeout=60_000)


def counts(dock):
    found = dock.patch_box.counts.table
    return [[found.item(r, c).text() for c in range(found.columnCount())] for r in range(found.rowCount())]


def wait_counts(qtbot, dock, wanted):
    def same():
        assert counts(dock) == wanted

    qtbot.waitUntil(same, timeout=60_000)


def test_patches_are_counted_live_by_class_and_slide(dock, qtbot):
    dock.desk.editor.set_regions(RegionSet((Region(A, box(0, 0, 256, 256)),)))
    assert layers.find_layer(dock.viewer, "patches", "one") is None
    dock.patch_box.check.click()
    wait_counts(qtbot, dock, [["one", "4", "0"], ["two", "0", "16"]])
    layer = layers.find_layer(dock.viewer, "patches", "one")
    assert len(layer.data) == 6
    assert dock.viewer.layers.selection.active is dock.desk.editor.layer, "whoever draws goes on drawing"
    corner = np.asarray([[512, 0], [512, 256], [768, 256], [768, 0]])
    dock.desk.editor.layer.add_polygons([corner - 0.5])
    wait_counts(qtbot, dock, [["one", "8", "0"], ["two", "0", "16"]])
    dock.desk.editor.undo()
    wait_counts(qtbot, dock, [["one", "4", "0"], ["two", "0", "16"]])
    show(dock, qtbot, "two")
    qtbot.waitUntil(lambda: layers.find_layer(dock.viewer, "patches", "two") is not None, timeout=60_000)
    assert layers.find_layer(dock.viewer, "patches", "one") is None
    dock.patch_box.check.click()
    assert not layers.find_layer(dock.viewer, "patches", "two").visible
    assert not dock.patch_box.counts.isVisible()


def test_regions_too_small_for_a_patch_are_told(dock, qtbot):
    dock.desk.editor.set_regions(RegionSet((Region(A, box(0, 0, 20, 20)),)))
    dock.patch_box.check.click()
    qtbot.waitUntil(lambda: "128 level-0 pixels" in dock.patch_box.counts.warnings.text(), timeout=60_000)


def test_the_training_docks_settings_and_box_are_the_same_preview(dock, qtbot):
    training = TrainingDock(dock.viewer)
    qtbot.addWidget(training)
    dock.desk.editor.set_regions(RegionSet((Region(A, box(0, 0, 512, 512)),)))
    dock.desk.editor.flush()
    training.form.set(TrainConfig(patches=CONFIG))
    training.count()
    training.patch_check.click()
    assert dock.patch_box.check.isChecked()
    wait_counts(qtbot, dock, [["one", "16", "0"], ["two", "0", "16"]])
    training.form.set(TrainConfig(patches=PatchConfig(size_px=256, mpp=None)))
    training.count()
    wait_counts(qtbot, dock, [["one", "4", "0"], ["two", "0", "4"]])
    dock.patch_box.check.click()
    assert not training.patch_check.isChecked()


def test_a_class_that_is_deleted_on_other_slides_leaves_the_counts(dock, qtbot):
    training = TrainingDock(dock.viewer)
    qtbot.addWidget(training)
    dock.desk.editor.set_regions(RegionSet((Region(A, box(0, 0, 512, 512)),)))
    dock.desk.flush()
    training.form.set(TrainConfig(patches=CONFIG))
    dock.patch_box.check.click()
    trained = training.counts.table
    wait_counts(qtbot, dock, [["one", "16", "0"], ["two", "0", "16"]])
    qtbot.waitUntil(lambda: trained.columnCount() == 3, timeout=60_000)
    assert dock.classes.delete_class(B, with_regions=True)
    wait_counts(qtbot, dock, [["one", "16"]])
    qtbot.waitUntil(lambda: trained.columnCount() == 2, timeout=60_000)
    dock.classes.add_class("fat")
    wait_counts(qtbot, dock, [["one", "16", "0"]])
    qtbot.waitUntil(lambda: trained.columnCount() == 3, timeout=60_000)


def test_lines_lie_on_the_pixels_where_patches_begin_and_end(dock, qtbot):
    """Looked for in a screenshot: columns and rows of the class' colour, at the corners of level-0 pixels."""
    dock.desk.editor.set_regions(RegionSet((Region(A, box(128, 256, 384, 512)),)))
    dock.patch_box.check.click()
    wait_counts(qtbot, dock, [["one", "4", "0"], ["two", "0", "16"]])
    layer = layers.find_layer(dock.viewer, "patches", "one")
    for other in dock.viewer.layers:
        other.visible = other is layer
    layer.edge_width = 8
    mpp = layer.scale[0]
    camera = dock.viewer.scene.camera
    camera.center, camera.zoom = (0, 256 * mpp, 384 * mpp), 1 / mpp
    qtbot.wait(100)
    picture = np.asarray(dock.viewer.screenshot(canvas_only=True, flash=False))[..., :3].max(axis=2) > 100
    rows, columns = (
        np.flatnonzero(picture.mean(axis=axis) > 0.2 * picture.mean(axis=axis).max() * 2) for axis in (1, 0)
    )
    height, width = picture.shape
    found_rows, found_columns = (middles(n) for n in (rows, columns))
    # a pixel centre lies on an integer: corner y of level 0 is y - 0.5 there; the camera looks at 256, 384
    assert found_rows == pytest.approx([height / 2 + y - 0.5 - 256 for y in (128, 256, 384)], abs=1)
    assert found_columns == pytest.approx([width / 2 + x - 0.5 - 384 for x in (256, 384, 512)], abs=1)


def middles(indices):
    """Middle of each run of neighbouring rows or columns, as an edge between pixels."""
    runs = np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1)
    return [float(run[0] + run[-1] + 1) / 2 for run in runs]
