"""What spoke for a class, asked in the Diagnostics dock, in a real viewer."""

import sys

import numpy as np
import pytest
import shapely
from hand import Hand
from qtpy.QtCore import Qt
from test_diagnostics_dock import CONFIG

from napari_slidecorr._napari import explain_box, layers
from napari_slidecorr._napari.dock_diagnostics import DiagnosticsDock
from napari_slidecorr.events import JobStatus, drain
from napari_slidecorr.explanation import Explanation
from napari_slidecorr.geometry import Box


@pytest.fixture(scope="module")
def trained(tmp_path_factory, sample_cohort):
    """A project with a trained model; tests read it only."""
    from napari_slidecorr.project import Project
    from napari_slidecorr.sample_data import CLASS_COLORS

    made = Project.create(tmp_path_factory.mktemp("trained") / "project", tuple(CLASS_COLORS))
    made.add_slides([sample.path for sample in sample_cohort])
    for sample in sample_cohort:
        made.save_regions(sample.id, sample.regions)
    drain(made.train(CONFIG, name="first"))
    made.release()
    return made.folder


@pytest.fixture
def dock(make_napari_viewer, trained, qtbot):
    viewer = make_napari_viewer(show=True)
    dock = DiagnosticsDock(viewer)
    viewer.window.add_dock_widget(dock, name="Diagnostics")
    dock.session.open_project(trained)
    qtbot.waitUntil(lambda: dock.explain.classes.count() == 4, timeout=20_000)
    show(qtbot, dock, dock.session.project.cohort[0].id)
    return dock


def show(qtbot, dock, slide_id):
    dock.traveller.stage.show(slide_id)
    qtbot.waitUntil(lambda: layers.find_layer(dock.viewer, "regions", slide_id) is not None, timeout=60_000)


def shown(dock):
    return [one for one in dock.viewer.layers if layers.identity(one).get("kind") == explain_box.KIND]


def explained(qtbot, dock, act):
    ends = []
    dock.session.job_ended.connect(ends.append)
    act()
    qtbot.waitUntil(lambda: bool(ends), timeout=100_000)
    dock.session.job_ended.disconnect(ends.append)
    assert ends[0].status is JobStatus.COMPLETED, ends[0].error
    (layer,) = shown(dock)
    return layer


def click(qtbot, widget):
    qtbot.mouseClick(widget, Qt.MouseButton.LeftButton)


def corners_px(layer, mpp):
    """Upper left and lower right corner of a layer in level-0 pixels, corner-based, as napari places it."""
    ends = [layer.data_to_world((-0.5, -0.5)), layer.data_to_world(np.asarray(layer.data.shape) - 0.5)]
    return [tuple(np.asarray(end) / mpp + 0.5) for end in ends]


def test_a_patch_that_was_jumped_to_is_explained_where_it_lies(qtbot, dock):
    slide_id = dock.session.current_slide
    place = Box(101, 203, 165, 267)
    dock.explain.aim(slide_id, place)
    layer = explained(qtbot, dock, lambda: click(qtbot, dock.explain.patch_button))
    mpp = np.asarray(dock.session.project.slide(slide_id).mpp)
    first, last = corners_px(layer, mpp)
    np.testing.assert_allclose(first, (101, 203), atol=0.5)
    np.testing.assert_allclose(last, (165, 267), atol=0.5)
    assert layer.data.shape == (64, 64)
    assert layer.data.min() >= 0
    assert layer.data.max() in (0, 1)
    assert slide_id in dock.explain.told.text()
    assert "probability" in dock.explain.told.text()
    assert dock.viewer.layers.index(layer) == 1
    assert layers.identity(dock.viewer.layers.selection.active)["kind"] == "regions"


def test_another_class_can_be_asked_for_and_only_the_last_answer_stays(qtbot, dock):
    explained(qtbot, dock, lambda: click(qtbot, dock.explain.patch_button))
    for name in ("stroma", "lymphoid"):
        dock.explain.classes.setCurrentText(name)
        layer = explained(qtbot, dock, lambda: click(qtbot, dock.explain.patch_button))
        assert layer.name.endswith(f"what spoke for {name}")
    click(qtbot, dock.explain.hide_button)
    assert not shown(dock)


def test_the_key_explains_the_patch_under_the_mouse(qtbot, dock):
    hand = Hand(dock.viewer, qtbot)
    dock.viewer.reset_view()
    hand.move(300, 200)
    canvas = dock.viewer.window._qt_viewer.canvas._scene_canvas

    def press():
        from vispy.util import keys

        for key, modifiers in ((keys.SHIFT, ()), (keys.Key("E"), (keys.SHIFT,))):
            canvas.events.key_press(key=key, modifiers=modifiers, text="")
        for key in (keys.Key("E"), keys.SHIFT):
            canvas.events.key_release(key=key, modifiers=(), text="")

    layer = explained(qtbot, dock, press)
    mpp = np.asarray(dock.session.project.slide(dock.session.current_slide).mpp)
    first, last = corners_px(layer, mpp)
    middle = (np.asarray(first) + last) / 2
    a_screen_pixel = 1 / (dock.viewer.scene.camera.zoom * mpp[0])
    np.testing.assert_allclose(middle, (300, 200), atol=1 + a_screen_pixel)


def test_all_patches_of_the_selected_region_are_laid_side_by_side(qtbot, dock):
    click(qtbot, dock.explain.region_button)
    assert "No region is selected" in dock.message.text()
    editor = dock.explain._desk.editor
    region = editor.regions.regions[0]
    editor.select([region.uid])
    layer = explained(qtbot, dock, lambda: click(qtbot, dock.explain.region_button))
    first, _ = corners_px(layer, np.asarray(dock.session.project.slide(dock.session.current_slide).mpp))
    rows, columns = (n // 64 for n in layer.data.shape)
    assert rows * columns > 1
    for row, column in np.ndindex(rows, columns):
        y, x = np.rint(first) + np.multiply((row, column), 64)
        share = region.polygon.intersection(shapely.box(y, x, y + 64, x + 64)).area / 64**2
        values = layer.data[row * 64 : row * 64 + 64, column * 64 : column * 64 + 64]
        assert np.isfinite(values).all() == (share >= 0.5)
    assert "patches on" in dock.explain.told.text()


def test_the_layer_covers_the_very_pixels_on_the_screen(qtbot, dock):
    """Bright exactly where the patch lies, seen on a screenshot at a known zoom."""
    slide_id = dock.session.current_slide
    mpp = dock.session.project.slide(slide_id).mpp
    values = np.ones((64, 64), np.float32)
    found = Explanation(slide_id, "m", Box(200, 296, 264, 360), values, "stroma", ("stroma",), (1.0,), 1, (2, 2), mpp)
    dock.explain.show_explanation(found)
    for layer in dock.viewer.layers:
        layer.visible = layer in shown(dock)
    shown(dock)[0].opacity = 1
    camera = dock.viewer.scene.camera
    zoom = 3
    camera.zoom = zoom / mpp[0]
    camera.center = ((232 - 0.5) * mpp[0], (328 - 0.5) * mpp[1])
    qtbot.wait(100)
    picture = dock.viewer.screenshot(canvas_only=True, flash=False)[..., :3].sum(axis=2) > 300
    rows, columns = np.flatnonzero(picture.any(axis=1)), np.flatnonzero(picture.any(axis=0))
    middle = [(n / 2) for n in picture.shape]
    for place, centre in ((rows, middle[0]), (columns, middle[1])):
        assert abs((place[-1] + 1 - place[0]) / zoom - 64) <= 0.5
        assert abs((place[0] + place[-1] + 1) / 2 - centre) / zoom <= 0.5


def test_without_the_package_one_sentence_says_what_to_install(qtbot, dock, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    ends = []
    dock.session.job_ended.connect(ends.append)
    click(qtbot, dock.explain.patch_button)
    qtbot.waitUntil(lambda: bool(ends), timeout=60_000)
    assert "napari-slidecorr[attribution]" in dock.message.text()
    assert not shown(dock)
    assert dock.explain.patch_button.isEnabled()


def test_without_a_model_there_is_nothing_to_ask(make_napari_viewer):
    dock = DiagnosticsDock(make_napari_viewer())
    assert dock.explain.isHidden()
