import json
import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hand import Hand
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QMessageBox
from scipy import ndimage

from napari_slidecorr import io
from napari_slidecorr._napari import map_export
from napari_slidecorr._napari.dock_prediction import PredictionDock
from napari_slidecorr._napari.layers import UNCLASSED, add_slide, find_layer
from napari_slidecorr._napari.map_export import with_suffix
from napari_slidecorr._napari.map_layers import UNSURE, UNSURE_COLOR
from napari_slidecorr._napari.map_panel import ShownMap
from napari_slidecorr._napari.torch_door import load_torch
from napari_slidecorr.config import CrossEntropyConfig, PatchConfig, TrainConfig
from napari_slidecorr.events import BlockDone, CellsDone, Event, JobStatus, MapBegun, drain
from napari_slidecorr.map_comparison import MapComparison
from napari_slidecorr.project import Project, settings_of
from napari_slidecorr.qupath_folder import FolderWritten


@pytest.fixture(scope="session")
def trained(tmp_path_factory, sample_cohort):
    """A model that was trained for a moment, to be copied into projects."""
    from napari_slidecorr.project import Project
    from napari_slidecorr.sample_data import CLASS_COLORS

    load_torch()
    made = Project.create(tmp_path_factory.mktemp("trained") / "project", tuple(CLASS_COLORS))
    made.add_slides([sample.path for sample in sample_cohort])
    for sample in sample_cohort:
        made.save_regions(sample.id, sample.regions)
    config = TrainConfig(
        objective=CrossEntropyConfig(),
        backbone="test_resnet",
        weights="random",
        epochs=1,
        patches=PatchConfig(size_px=32),
        device="cpu",
    )
    return drain(made.train(config)).spec_path.parent


@pytest.fixture
def with_model(project, trained):
    import shutil

    shutil.copytree(trained, project.folder / "runs" / trained.name)
    return project


@pytest.fixture
def dock(make_napari_viewer, with_model):
    viewer = make_napari_viewer()
    dock = PredictionDock(viewer)
    viewer.window.add_dock_widget(dock, name="Prediction")
    dock.session.project = with_model
    dock.form.edits["block_cells"].write(4)
    show(dock, with_model.cohort[0].id)
    return dock


def show(dock, slide_id):
    """Bring a slide into view, as the Slides dock does."""
    add_slide(dock.viewer, dock.session.project.slide(slide_id))
    dock.session.current_slide = slide_id


@pytest.fixture
def ends(dock):
    heard = []
    dock.session.job_ended.connect(heard.append)
    return heard


def click(qtbot, button):
    assert button.isEnabled()
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def predict(qtbot, dock, ends):
    click(qtbot, dock.predict_button)
    qtbot.waitUntil(lambda: bool(ends), timeout=60_000)
    end = ends.pop()
    assert end.status is JobStatus.COMPLETED, end.error
    return end


def test_the_map_grows_in_the_layers_block_by_block(qtbot, dock, ends):
    slide_id, filled = dock.session.current_slide, []

    def watch(event):
        layer = find_layer(dock.viewer, "class_map", slide_id)
        if isinstance(event, MapBegun | BlockDone):
            filled.append(np.count_nonzero(layer.data))

    dock.session.job_event.connect(watch)
    end = predict(qtbot, dock, ends)
    assert filled[0] == 0
    assert len(set(filled)) > 2, "several steps"
    assert filled == sorted(filled)
    layer = find_layer(dock.viewer, "class_map", slide_id)
    np.testing.assert_array_equal(layer.data, end.result.class_map())
    assert len(dock.session.project.maps(slide_id)) == 1
    assert "Slide score" in dock.panel.score.text()
    assert "mm²" in dock.panel.legend.text()


def test_a_map_goes_by_the_models_own_bounds_until_somebody_prefers_a_threshold(qtbot, dock, ends, tmp_path):
    found = predict(qtbot, dock, ends)
    panel = dock.panel
    assert not panel.own_bounds.isEnabled()
    assert panel.threshold.isEnabled()
    own = replace(found.result, bounds=(0.5, 0.1, 0.1))
    panel.show_map(ShownMap(own, tmp_path / "own.ome.zarr", complete=True))
    classes = find_layer(dock.viewer, "class_map", own.slide_id)
    assert panel.own_bounds.isEnabled()
    assert not panel.threshold.isEnabled()
    assert panel.needed() is None
    np.testing.assert_array_equal(classes.data == UNSURE, own.unsure())
    assert f"{own.classes[1]} 0.17" in panel.own_bounds.toolTip(), "half of chance at least"
    panel.own_bounds.setChecked(False)
    panel.threshold.setValue(0.6)
    assert panel.needed() == pytest.approx(0.6)
    np.testing.assert_array_equal(classes.data == UNSURE, own.unsure(0.6))


def test_class_probability_and_threshold_are_chosen_from_the_dock(qtbot, dock, ends):
    prediction = predict(qtbot, dock, ends).result
    slide_id = dock.session.current_slide
    classes = find_layer(dock.viewer, "class_map", slide_id)
    probability = find_layer(dock.viewer, "probability", slide_id)
    dock.panel.threshold.setValue(0.5)
    expected = prediction.class_map(0.5)
    expected[prediction.unsure(0.5)] = UNSURE
    np.testing.assert_array_equal(classes.data, expected)
    assert ("unsure" in dock.panel.legend.text()) == prediction.unsure(0.5).any()
    dock.panel.view_choice.setCurrentIndex(2)
    assert dock.panel.view_choice.currentText() == f"Probability of {prediction.classes[1]}"
    np.testing.assert_array_equal(probability.data, prediction.probabilities[1])
    assert (classes.visible, probability.visible) == (False, True)
    dock.panel.view_choice.setCurrentIndex(0)
    assert (classes.visible, probability.visible) == (True, False)


def test_uncertainty_is_a_view_of_its_own(qtbot, dock, ends):
    prediction = predict(qtbot, dock, ends).result
    numbers = find_layer(dock.viewer, "probability", dock.session.current_slide)
    dock.panel.view_choice.setCurrentIndex(dock.panel.view_choice.findText("Uncertainty (entropy)"))
    assert dock.panel.view_choice.currentText().startswith("Uncertainty")
    np.testing.assert_array_equal(numbers.data, prediction.uncertainty())
    assert numbers.name.endswith("uncertainty")
    assert numbers.visible
    dock.panel.view_choice.setCurrentIndex(1)
    np.testing.assert_array_equal(numbers.data, prediction.probabilities[0])
    assert numbers.name.endswith("probability")


def test_the_dock_says_what_is_below_the_mouse(qtbot, dock, ends):
    prediction = predict(qtbot, dock, ends).result
    grid, mpp = prediction.grid, dock.session.project.slide(dock.session.current_slide).mpp

    def told(y, x):
        dock.viewer.cursor.position = (y * mpp[0], x * mpp[1])
        return dock.panel.here.text()

    row, column = np.argwhere(prediction.predicted)[7]
    edges = grid.cell_edges_px(0), grid.cell_edges_px(1)
    values = prediction.probabilities[:, row, column]
    name = prediction.classes[values.argmax()]
    for y in (edges[0][row], edges[0][row + 1] - 1):  # pixel centres are integers in the viewer
        for x in (edges[1][column], edges[1][column + 1] - 1):
            assert told(y, x).startswith(f"{name} {values.max():.2f}, ")
    dock.panel.threshold.setValue(1)
    assert told(edges[0][row] + 1, edges[1][column]).startswith("Unsure: ")
    assert told(-1000, 0) == ""
    row, column = np.argwhere(~prediction.predicted)[0]
    assert told(edges[0][row] + 2, edges[1][column] + 2) == "Not predicted here."


def test_a_click_on_wrong_tissue_makes_a_region_of_the_right_class(qtbot, dock, ends):
    prediction = predict(qtbot, dock, ends).result
    slide_id, project = dock.session.current_slide, dock.session.project
    before = project.regions(slide_id)
    cells = np.argwhere(prediction.predicted)
    row, column = cells[np.abs(cells - np.asarray(prediction.grid.shape) / 2).sum(axis=1).argmin()]  # in the middle
    mpp, grid = prediction.grid.mpp, prediction.grid
    y, x = ((grid.cell_edges_px(axis)[i] + 8) * mpp[axis] for axis, i in ((0, row), (1, column)))
    dock.panel.correction.class_choice.setCurrentIndex(1)
    right = dock.panel.correction.class_choice.currentText()

    hand = Hand(dock.viewer, qtbot)
    window = dock.viewer.window._qt_window
    window.resize(1000, 800)
    window.show()
    qtbot.waitExposed(window)
    dock.viewer.reset_view()
    dock.viewer.layers.selection.active = find_layer(dock.viewer, "slide", slide_id)
    hand.click((y / mpp[0], x / mpp[1]))
    assert project.regions(slide_id) == before, "without the button a click is a click"
    click(qtbot, dock.panel.correction.button)
    qtbot.wait(100)
    scale = (
        dock.viewer.layers.selection.active.scale
    )  # the map is the active layer now: no drawing tool takes the click
    hand.click((y / scale[0], x / scale[1]))
    desk = dock.panel.correction.desk
    desk.flush()
    after = project.regions(slide_id)
    (made,) = [region for region in after if region.uid not in {one.uid for one in before}]
    assert made.class_name == right
    labels, _ = ndimage.label(prediction.class_map() == prediction.class_map()[row, column])
    heights, widths = (np.diff(grid.cell_edges_px(axis)) for axis in (0, 1))
    assert made.area_px == pytest.approx(np.outer(heights, widths)[labels == labels[row, column]].sum())
    desk.editor.undo()
    desk.flush()
    assert len(project.regions(slide_id)) == len(before)


@pytest.mark.parametrize("tool", ["select", "add_polygon", "brush"])
def test_a_tool_of_the_regions_ends_the_correction_by_clicks(qtbot, shown, ends, tool):
    predict(qtbot, shown, ends)
    slide_id, project = shown.session.current_slide, shown.session.project
    before, correction = project.regions(slide_id), shown.panel.correction
    correction.desk.open_regions(project.slide(slide_id))
    click(qtbot, correction.button)
    correction.desk.tools.take(tool)
    Hand(shown.viewer, qtbot).click((320, 320))
    correction.desk.tools.escape()
    correction.desk.tools.take("pan_zoom")
    correction.desk.flush()
    assert not correction.button.isChecked()
    made = {region.uid for region in project.regions(slide_id)} - {region.uid for region in before}
    assert len(made) == (tool == "brush"), "the dab of the brush alone"


def test_a_lasso_is_put_down_when_the_next_slide_comes(qtbot, shown, ends):
    _, slides = shown.viewer.window.add_plugin_dock_widget("napari-slidecorr", "Slides")
    first, second = (slide.id for slide in shown.session.project.cohort[:2])
    desk = shown.panel.correction.desk
    slides.show_slide(first)
    qtbot.waitUntil(lambda: desk.editor is not None, timeout=20_000)
    predict(qtbot, shown, ends)
    click(qtbot, shown.panel.correction.lasso_button)
    assert desk.editor.layer.mode == "add_polygon_lasso"
    desk.step(1)
    qtbot.waitUntil(lambda: shown.session.current_slide == second and desk.editor is not None, timeout=20_000)
    qtbot.waitUntil(lambda: desk.editor.layer.mode == "pan_zoom", timeout=20_000)
    assert not shown.panel.correction.lasso_button.isChecked()


def test_a_click_beside_the_map_says_so(qtbot, dock, ends):
    prediction = predict(qtbot, dock, ends).result
    row, column = np.argwhere(~prediction.predicted)[0]
    mpp, grid = prediction.grid.mpp, prediction.grid
    place = tuple((grid.cell_edges_px(axis)[i] + 2) * mpp[axis] for axis, i in ((0, row), (1, column)))
    assert not dock.panel.correction.correct(place)
    assert "Nothing is predicted there" in dock.message.text()


def test_cancel_keeps_the_blocks_and_predicting_again_goes_on(qtbot, dock, ends):
    slide_id, blocks = dock.session.current_slide, []

    def stop(event):
        if isinstance(event, BlockDone) and not blocks:
            blocks.append(event)
            click(qtbot, dock.job.cancel)

    dock.session.job_event.connect(stop)
    click(qtbot, dock.predict_button)
    qtbot.waitUntil(lambda: bool(ends), timeout=60_000)
    assert ends.pop().status is JobStatus.CANCELLED
    assert dock.session.project.maps(slide_id) == []
    assert not dock.export("never.geojson"), "half a map is not exported"
    begun = []
    dock.session.job_event.connect(lambda event: begun.append(event) if isinstance(event, MapBegun) else None)
    predict(qtbot, dock, ends)
    assert begun[0].begun.predicted.any() or np.isnan(blocks[0].probabilities).all()
    assert len(dock.session.project.maps(slide_id)) == 1


def test_all_slides_and_the_one_in_view_first(qtbot, dock, ends):
    project = dock.session.project
    show(dock, project.cohort[2].id)
    dock.slide_choice.setCurrentIndex(1)
    begun = []
    dock.session.job_event.connect(lambda event: begun.append(event) if isinstance(event, MapBegun) else None)
    predict(qtbot, dock, ends)
    assert begun[0].begun.slide_id == project.cohort[2].id
    assert all(len(project.maps(slide.id)) == 1 for slide in project.cohort)
    assert find_layer(dock.viewer, "class_map", project.cohort[0].id) is None, (
        "only the map of the slide in view is shown"
    )


def test_a_stored_map_is_shown_when_its_slide_comes_into_view(qtbot, dock, ends):
    project = dock.session.project
    first, second = (slide.id for slide in project.cohort[:2])
    predict(qtbot, dock, ends)
    for kind in ("class_map", "probability"):
        dock.viewer.layers.remove(find_layer(dock.viewer, kind, first))
    show(dock, second)
    assert dock.panel.map_box.isHidden()
    show(dock, first)
    qtbot.waitUntil(lambda: find_layer(dock.viewer, "class_map", first) is not None, timeout=60_000)
    assert not dock.panel.map_box.isHidden()


def test_a_map_that_was_removed_while_it_grows_comes_back_whole(qtbot, dock, ends):
    slide_id, removed = dock.session.current_slide, []

    def remove(event):
        if isinstance(event, BlockDone) and not removed:
            removed.append(find_layer(dock.viewer, "class_map", slide_id))
            dock.viewer.layers.remove(removed[0])

    dock.session.job_event.connect(remove)
    end = predict(qtbot, dock, ends)
    layer = find_layer(dock.viewer, "class_map", slide_id)
    assert layer is not removed[0]
    np.testing.assert_array_equal(layer.data, end.result.class_map())


@pytest.mark.parametrize(
    "name", ["out.geojson", "out.ome.zarr", "out.tiles.geojson", "out.ome.tif", "out.csv", "out.png"]
)
def test_export(qtbot, dock, ends, tmp_path, name):
    prediction = predict(qtbot, dock, ends).result
    assert dock.panel.exporting.button.isEnabled()
    assert dock.export(tmp_path / name)
    qtbot.waitUntil(lambda: "Exported to" in dock.message.text(), timeout=60_000)
    if name.endswith("json"):
        assert json.loads((tmp_path / name).read_text())["type"] == "FeatureCollection"
    elif name.endswith("zarr"):
        np.testing.assert_array_equal(io.read_map(tmp_path / name).probabilities, prediction.probabilities)
    else:
        assert (tmp_path / name).stat().st_size > 1000


def test_a_folder_for_qupath_holds_every_slide(qtbot, dock, ends, tmp_path, monkeypatch):
    predict(qtbot, dock, ends)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_args: str(tmp_path / "out"))
    qtbot.mouseClick(dock.panel.exporting.folder_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: bool(ends), timeout=60_000)
    assert ends.pop().status is JobStatus.COMPLETED
    slide = dock.session.current_slide
    assert (tmp_path / "out" / "classes" / f"{slide}.geojson").exists()
    assert len(list((tmp_path / "out" / "regions").iterdir())) == 4
    assert (tmp_path / "out" / "import_into_qupath.groovy").exists()


def test_the_folder_for_qupath_is_a_job_that_can_be_cancelled_in_a_read_only_project_too(
    qtbot, dock, ends, tmp_path, monkeypatch
):
    predict(qtbot, dock, ends)
    exporting, went = dock.panel.exporting, threading.Event()
    monkeypatch.setattr(map_export, "export_qupath", partial(_slow_export, went))
    monkeypatch.setattr(Project, "read_only", "somebody else has it")
    assert exporting.job.isHidden()
    assert exporting.export_all(tmp_path / "out")
    qtbot.waitUntil(lambda: "1 / 4" in exporting.job.phase.text(), timeout=20_000)
    assert not exporting.job.isHidden()
    assert not dock.predict_button.isEnabled()
    assert "Not now: Export for QuPath still runs." in dock.predict_button.toolTip()
    exporting.job.cancel.click()
    went.set()
    qtbot.waitUntil(lambda: bool(ends), timeout=20_000)
    assert ends.pop().status is JobStatus.CANCELLED
    assert exporting.job.isHidden()
    assert dock.predict_button.toolTip() == "Make the map of the chosen slides."


def _slow_export(went, *_args, **_options):
    yield Event(phase="Writing", done=1, total=4)
    went.wait(20)
    yield FolderWritten(phase="Written", result=())


def test_an_export_that_fails_says_why(qtbot, dock, ends, tmp_path):
    predict(qtbot, dock, ends)
    assert dock.export(tmp_path / "out.pdf")
    qtbot.waitUntil(lambda: "out.pdf" in dock.message.text() and dock.message.property("error"), timeout=60_000)


@pytest.mark.parametrize(
    ("path", "kind", "wanted"),
    [
        ("a", "OME-Zarr (*.ome.zarr)", "a.ome.zarr"),
        ("a", "QuPath polygons (*.geojson)", "a.geojson"),
        ("a.geojson", "OME-Zarr (*.ome.zarr)", "a.geojson"),
        ("a", "Figure (*.png)", "a.png"),
        ("a.tiles.geojson", "Figure (*.png)", "a.tiles.geojson"),
    ],
)
def test_the_dialogs_file_gets_a_suffix(path, kind, wanted):
    assert with_suffix(path, kind) == wanted


def test_without_model_or_slide_the_dock_says_what_is_missing(qtbot, make_napari_viewer, project, trained):
    dock = PredictionDock(make_napari_viewer())
    assert not dock.predict_button.isEnabled()
    dock.session.project = project
    click(qtbot, dock.predict_button)
    assert "Train one in the Training dock" in dock.message.text()
    import shutil

    shutil.copytree(trained, project.folder / "runs" / trained.name)
    dock.session.runs_changed.emit()
    click(qtbot, dock.predict_button)
    assert "No slide is in view" in dock.message.text()
    assert not dock.session.busy


@pytest.fixture
def shown(qtbot, dock):
    """The dock, in a window that is painted."""
    window = dock.viewer.window._qt_window
    window.resize(1300, 900)
    window.show()
    qtbot.waitExposed(window)
    dock.viewer.reset_view()
    qtbot.wait(100)
    return dock


def look_at(qtbot, dock, centre, side):
    """Let the window show a square of level-0 pixels, and a little to the left and right."""
    mpp = dock.session.project.slide(dock.session.current_slide).mpp[0]
    canvas = dock.viewer.window._qt_viewer.canvas.native
    dock.viewer.scene.camera.zoom = canvas.height() / (side * mpp)
    dock.viewer.scene.camera.center = tuple((np.asarray(centre) - 0.5) * mpp)
    qtbot.wait(250)


def test_the_box_in_view_is_what_the_canvas_shows(qtbot, shown):
    look_at(qtbot, shown, (300, 200), 100)
    canvas = shown.viewer.window._qt_viewer.canvas.native
    half = 50 * canvas.width() / canvas.height()
    box = shown.gaze.box()
    found, wanted = (box.y0, box.x0, box.y1, box.x1), (250, 200 - half, 350, 200 + half)
    assert np.abs(np.subtract(found, wanted)).max() <= 2
    assert shown.gaze.wanted.box_on(shown.session.current_slide) == box, "and the job is told when the camera rests"
    look_at(qtbot, shown, (-5000, 200), 100)
    assert shown.gaze.box() is None


def test_only_this_view_makes_the_blocks_in_view_and_predict_the_rest(qtbot, shown, ends):
    project, slide_id = shown.session.project, shown.session.current_slide
    look_at(qtbot, shown, (320, 320), 60)
    click(qtbot, shown.view_button)
    qtbot.waitUntil(lambda: bool(ends), timeout=60_000)
    part = ends.pop().result
    rows, columns = np.nonzero(part.predicted)
    assert 0 < len(rows) < 40
    assert {*rows // 4} <= {2, 3}
    assert project.maps(slide_id) == []
    assert "Predict makes the rest" in shown.message.text() or "completed" in shown.message.text()
    assert not shown.panel.exporting.button.isEnabled()
    assert shown.panel.score.isHidden()
    assert "mm²" not in shown.panel.legend.text()
    qtbot.waitUntil(lambda: "not complete" in shown.panel.shelf.choice.currentText(), timeout=20_000)
    whole = predict(qtbot, shown, ends).result
    np.testing.assert_array_equal(whole.probabilities[:, rows, columns], part.probabilities[:, rows, columns])
    assert whole.predicted.sum() > len(rows)
    assert len(project.maps(slide_id)) == 1


def test_moving_the_view_turns_the_map_that_is_made(qtbot, shown, ends):
    look_at(qtbot, shown, (100, 320), 60)
    early = []

    def move(event):
        if isinstance(event, CellsDone | BlockDone):
            if not early:
                shown.viewer.scene.camera.center = (560 * 0.5, 320 * 0.5)
                shown.gaze.look()  # as the timer does when the camera rests
            early.append(event)

    shown.session.job_event.connect(move)
    shown.form.edits["overlap"].write(0.5)
    click(qtbot, shown.predict_button)
    qtbot.waitUntil(lambda: any(lowest_row(event) > 30 for event in early), timeout=60_000)
    done = next(event.done for event in early if lowest_row(event) > 30)
    assert done < early[0].total / 2
    click(qtbot, shown.job.cancel)
    qtbot.waitUntil(lambda: bool(ends), timeout=60_000)


def lowest_row(event):
    return event.rows.stop - 1 if isinstance(event, BlockDone) else event.rows.max()


def two_maps(qtbot, dock, ends):
    """A map with overlap, and the plain one, which is in view."""
    dock.form.edits["overlap"].write(0.5)
    first = predict(qtbot, dock, ends).result
    dock.form.edits["overlap"].write(0.0)
    second = predict(qtbot, dock, ends).result
    qtbot.waitUntil(lambda: dock.panel.comparison.other.count() == 2, timeout=20_000)
    return first, second


def test_two_maps_are_compared_by_swipe_and_difference(qtbot, shown, ends):
    slide_id = shown.session.current_slide
    other, first = two_maps(qtbot, shown, ends)
    comparison = shown.panel.comparison
    comparison.other.setCurrentIndex(1)
    qtbot.waitUntil(lambda: find_layer(shown.viewer, "compared", slide_id) is not None, timeout=20_000)
    classes, compared = (find_layer(shown.viewer, kind, slide_id) for kind in ("class_map", "compared"))
    for position in (0, 300, 700, 1000):
        comparison.slider.setValue(position)
        x = comparison._place_px(comparison._comparison)
        for layer, prediction, right in ((classes, first, False), (compared, other, True)):
            edges = np.asarray(prediction.grid.cell_edges_px(1))
            visible = ((edges[:-1] + edges[1:]) / 2 >= x) == right
            np.testing.assert_array_equal(layer.data, np.where(visible, prediction.class_map(), 0))
    comparison.how.setCurrentIndex(2)
    difference = find_layer(shown.viewer, "difference", slide_id)
    expected = MapComparison(first, other)
    np.testing.assert_array_equal(difference.data, expected.difference(first.classes[0]))
    assert (difference.visible, compared.visible, classes.visible) == (True, False, False)
    comparison.how.setCurrentIndex(1)
    np.testing.assert_array_equal(difference.data, expected.disagreement())
    assert f"{np.nanmean(expected.disagreement()):.1%}" in comparison.told.text()
    comparison.other.setCurrentIndex(0)
    assert all(find_layer(shown.viewer, kind, slide_id) is None for kind in ("compared", "difference", "swipe"))
    assert classes.visible
    np.testing.assert_array_equal(classes.data, first.class_map())


def test_a_comparison_is_of_the_class_maps_and_the_dock_says_so(qtbot, shown, ends):
    slide_id = shown.session.current_slide
    two_maps(qtbot, shown, ends)
    panel = shown.panel
    panel.view_choice.setCurrentIndex(1)
    assert not panel.threshold.isEnabled()
    panel.comparison.other.setCurrentIndex(1)
    qtbot.waitUntil(lambda: find_layer(shown.viewer, "compared", slide_id) is not None, timeout=20_000)
    assert panel.view_choice.currentText() == "Most probable class"
    assert panel.threshold.isEnabled()
    assert panel.view.prediction.classes[0] in panel.legend.text()
    panel.comparison.other.setCurrentIndex(0)
    assert panel.view.class_map.visible
    assert not panel.view.probability.visible


def test_maps_that_cannot_be_compared_leave_the_picture_as_it_is(qtbot, shown, ends):
    slide_id = shown.session.current_slide
    other, _ = two_maps(qtbot, shown, ends)
    panel = shown.panel
    panel.view_choice.setCurrentIndex(1)
    panel.comparison.other.setCurrentIndex(1)
    panel.comparison._on_read(panel.comparison.other.currentData(), replace(other, slide_id="another"))
    assert "cannot be compared" in shown.message.text()
    classes, probability = (find_layer(shown.viewer, kind, slide_id) for kind in ("class_map", "probability"))
    assert (classes.visible, probability.visible) == (False, True)


def test_a_map_is_chosen_from_the_shelf_and_deleted_with_care(qtbot, dock, ends, monkeypatch):
    project, slide_id = dock.session.project, dock.session.current_slide
    other, _ = two_maps(qtbot, dock, ends)
    shelf = dock.panel.shelf
    assert len(shelf.stored) == 2
    shelf.choice.setCurrentIndex(1)
    qtbot.waitUntil(lambda: dock.panel.view.prediction.grid == other.grid, timeout=20_000)
    np.testing.assert_array_equal(find_layer(dock.viewer, "class_map", slide_id).data, other.class_map())
    monkeypatch.setattr(QMessageBox, "question", lambda *_: QMessageBox.StandardButton.No)
    click(qtbot, shelf.remove_button)
    assert len(project.maps(slide_id)) == 2
    monkeypatch.setattr(QMessageBox, "question", lambda *_: QMessageBox.StandardButton.Yes)
    click(qtbot, shelf.remove_button)
    assert len(project.maps(slide_id)) == 1
    assert "removed" in dock.message.text()
    qtbot.waitUntil(lambda: dock.panel.view is not None and len(shelf.stored) == 1, timeout=20_000)
    assert dock.panel.view.prediction.grid.stride_px == (32, 32)


def test_opacity_and_colours_reach_the_layer_and_the_legend(qtbot, dock, ends):
    prediction = predict(qtbot, dock, ends).result
    classes = find_layer(dock.viewer, "class_map", dock.session.current_slide)
    name = prediction.classes[1]
    dock.panel.legend.alphas[name].setValue(25)
    assert classes.colormap.color_dict[2][3] == pytest.approx(0.25)
    assert classes.colormap.color_dict[1][3] == 1
    project = dock.session.project
    project.set_classes(project.classes, {name: (10, 20, 30)})
    dock.panel.correction.desk.refresh_classes()
    np.testing.assert_allclose(classes.colormap.color_dict[2], (10 / 255, 20 / 255, 30 / 255, 0.25), atol=1e-6)
    swatch = dock.panel.legend._facts[name][0].pixmap().toImage().pixelColor(3, 3)
    assert (swatch.red(), swatch.green(), swatch.blue()) == (10, 20, 30)


def test_the_next_map_is_as_opaque_as_the_legend_says(qtbot, dock, ends, tmp_path):
    prediction = predict(qtbot, dock, ends).result
    first, second = prediction.classes[:2]
    dock.panel.legend.alphas[first].setValue(0)
    show(dock, dock.session.project.cohort[1].id)
    fewer = replace(prediction, slide_id=dock.session.current_slide, classes=("other", *prediction.classes[:-1]))
    dock.panel.show_map(ShownMap(fewer, tmp_path / "other.ome.zarr", complete=True))
    table = find_layer(dock.viewer, "class_map", dock.session.current_slide).colormap.color_dict
    assert [table[number][3] for number in (1, 2, 3)] == [1, 0, 1]
    assert [dock.panel.legend.alphas[name].value() for name in ("other", first, second)] == [100, 0, 100]


def test_a_class_that_was_renamed_since_has_a_colour_of_its_own(qtbot, dock, ends):
    prediction = predict(qtbot, dock, ends).result
    project, old = dock.session.project, prediction.classes[1]
    project.set_classes(
        tuple("new name" if name == old else name for name in project.classes), {"new name": project.colors[old]}
    )
    dock.panel.correction.desk.refresh_classes()
    table = find_layer(dock.viewer, "class_map", dock.session.current_slide).colormap.color_dict
    color = tuple(round(255 * part) for part in table[2][:3])
    assert color not in {*project.colors.values(), UNCLASSED, UNSURE_COLOR}
    swatch = dock.panel.legend._facts[old][0].pixmap().toImage().pixelColor(3, 3)
    assert (swatch.red(), swatch.green(), swatch.blue()) == color


def test_opened_late_the_dock_shows_the_map_of_the_slide_in_view(qtbot, dock, ends):
    predict(qtbot, dock, ends)
    late = PredictionDock(dock.viewer)
    qtbot.addWidget(late)
    qtbot.waitUntil(lambda: late.panel.view is not None and late.panel.shelf.current is not None, timeout=20_000)
    assert not late.panel.map_box.isHidden()
    assert late.panel.exporting.button.isEnabled()


def test_the_highest_patches_give_a_second_score(qtbot, dock, ends):
    prediction = predict(qtbot, dock, ends).result
    dock.panel.top_k.setValue(3)
    name = prediction.classes[0]
    highest = np.sort(prediction.probabilities[0][prediction.predicted])[-3:].mean()
    assert f"Mean of the 3 highest of each class: {name} {highest:.3f}" in dock.panel.score.text()


def test_a_lasso_on_wrong_tissue_makes_a_region_of_the_right_class(qtbot, shown, ends):
    predict(qtbot, shown, ends)
    slide_id, project = shown.session.current_slide, shown.session.project
    before = {region.uid for region in project.regions(slide_id)}
    shown.panel.correction.class_choice.setCurrentIndex(2)
    right = shown.panel.correction.class_choice.currentText()
    click(qtbot, shown.panel.correction.lasso_button)
    qtbot.wait(100)
    Hand(shown.viewer, qtbot).drag((200, 200), (200, 300), (300, 300), (300, 200), (205, 200))
    shown.panel.correction.desk.flush()
    (made,) = [region for region in project.regions(slide_id) if region.uid not in before]
    assert made.class_name == right
    assert made.area_px == pytest.approx(100 * 100, rel=0.1)
    layer = find_layer(shown.viewer, "regions", slide_id)
    click(qtbot, shown.panel.correction.lasso_button)
    assert layer.mode == "pan_zoom"


def test_nothing_is_cut_at_the_edge_when_the_map_comes(qtbot, shown, ends):
    predict(qtbot, shown, ends)
    qtbot.waitUntil(lambda: shown.widget().minimumSizeHint().width() <= shown.viewport().width(), timeout=20_000)
    assert shown.panel.map_box.isVisible()


def test_train_again_starts_from_the_model_of_the_map(qtbot, shown, ends):
    predict(qtbot, shown, ends)
    qtbot.waitUntil(lambda: shown.panel.shelf.current is not None, timeout=20_000)
    click(qtbot, shown.panel.correction.train_button)
    training = shown.viewer.window.dock_widgets["Training (Slide correlation)"]
    run = shown.session.project.runs()[0]
    config = training.form.read()
    assert replace(config, continue_from="") == settings_of(run)
    assert config.continue_from == run.name, "with its weights, and the same slides held out"
    assert "Press Train" in training.message.text()
