"""The Diagnostics dock, used as a person would: diagnose, read, click a slide, click a patch."""

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QToolButton

from napari_slidecorr._napari import dock_diagnostics, layers
from napari_slidecorr._napari.dock_diagnostics import DiagnosticsDock
from napari_slidecorr.config import CrossEntropyConfig, PatchConfig, TrainConfig
from napari_slidecorr.diagnostics.diagnosis import Diagnosis
from napari_slidecorr.errors import ModelError
from napari_slidecorr.events import JobStatus, drain

CONFIG = TrainConfig(
    objective=CrossEntropyConfig(),
    backbone="test_resnet",
    weights="random",
    epochs=1,
    patches=PatchConfig(size_px=64),
    learning_rate=3e-3,
    device="cpu",
)


@pytest.fixture
def dock(make_napari_viewer, project, tmp_path, monkeypatch):
    monkeypatch.setenv("SLIDECORR_CACHE_DIR", str(tmp_path / "cache"))
    drain(project.train(CONFIG, name="first"))
    viewer = make_napari_viewer()
    dock = DiagnosticsDock(viewer)
    viewer.window.add_dock_widget(dock, name="Diagnostics")
    dock.show()
    dock.session.project = project
    return dock


def diagnosed(qtbot, dock):
    ends = []
    dock.session.job_ended.connect(ends.append)
    qtbot.mouseClick(dock.diagnose_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: bool(ends), timeout=200_000)
    assert ends[0].status is JobStatus.COMPLETED, ends[0].error
    qtbot.waitUntil(lambda: bool(dock.shown), timeout=20_000)


def click_row(qtbot, table, row):
    place = table.visualItemRect(table.item(row, 0)).center()
    qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=place)


def centre_px(dock):
    layer = next(one for one in dock.viewer.layers if layers.identity(one).get("kind") == "slide")
    camera = getattr(dock.viewer, "scene", dock.viewer).camera
    return np.asarray(camera.center[-2:]) / np.asarray(layer.scale[-2:])


def test_without_a_project_the_dock_says_what_is_missing(qtbot, make_napari_viewer):
    viewer = make_napari_viewer()
    dock = DiagnosticsDock(viewer)
    viewer.window.add_dock_widget(dock, name="Diagnostics")
    qtbot.waitUntil(dock.verdict_box.isHidden, timeout=20_000)
    assert not dock._no_project.isHidden()
    assert not dock.diagnose_button.isEnabled()


def test_from_a_finished_run_to_the_worst_patch_in_three_clicks(qtbot, dock):
    qtbot.waitUntil(lambda: "press Diagnose" in dock.message.text(), timeout=20_000)
    assert dock.verdict_box.isHidden()
    diagnosed(qtbot, dock)  # the first click
    assert not dock.verdict_box.isHidden()
    assert "4 slides are too few" in dock.verdict.text()
    assert dock.table.rowCount() == 4
    assert dock.table.item(0, 1).text() == "held out"
    assert Diagnosis.load(dock.chosen()[0]) == dock.shown[0]
    worst = dock.table.findings[0].worst
    with qtbot.waitSignal(dock.traveller.arrived, timeout=60_000):
        click_row(qtbot, dock.table, 0)  # the second
    assert dock.session.current_slide == worst.slide
    middle = worst.y + worst.height / 2, worst.x + worst.width / 2
    assert np.allclose(centre_px(dock), middle, atol=2)
    assert worst.slide in dock.message.text()
    marks = [one for one in dock.viewer.layers if layers.identity(one).get("kind") == "patch"]
    assert len(marks) == 1

    dock.map.resize(320, 280)
    index = next(i for i, patch in enumerate(dock.map.patches) if patch.slide != worst.slide)
    x, y = dock.map.places()[index]
    with qtbot.waitSignal(dock.traveller.arrived, timeout=60_000):
        qtbot.mouseClick(dock.map, Qt.MouseButton.LeftButton, pos=QPoint(round(x), round(y)))
    assert len([one for one in dock.viewer.layers if layers.identity(one).get("kind") == "patch"]) == 1

    lasso(qtbot, dock.map, [(0, 0), (319, 0), (319, 279), (0, 279)])
    buttons = dock.strip.widget().findChildren(QToolButton)
    assert len(buttons) == min(24, len(dock.map.patches))
    qtbot.waitUntil(lambda: all(not button.icon().isNull() for button in buttons), timeout=60_000)
    with qtbot.waitSignal(dock.traveller.arrived, timeout=60_000):
        qtbot.mouseClick(buttons[0], Qt.MouseButton.LeftButton)

    dock.by.setCurrentIndex(3)
    assert set(dock.map.names()) <= {"right", "wrong"}
    assert "No project" not in dock.key.text()
    told = dock.likeness.told_at(10, 10)
    assert dock.shown[0].similarity_slides[0] in told


def lasso(qtbot, widget, corners):
    path = [QPoint(*corner) for corner in (*corners, corners[0])]
    qtbot.mousePress(widget, Qt.MouseButton.LeftButton, pos=path[0])
    for place in path:
        hover(widget, place)
    qtbot.mouseRelease(widget, Qt.MouseButton.LeftButton, pos=path[-1])


def hover(widget, place):
    """Send a move with the button held to the widget itself; the display's pointer stays."""
    from qtpy.QtCore import QEvent, QPointF
    from qtpy.QtGui import QMouseEvent
    from qtpy.QtWidgets import QApplication

    held = Qt.MouseButton.LeftButton
    event = QMouseEvent(
        QEvent.Type.MouseMove,
        QPointF(place),
        QPointF(widget.mapToGlobal(place)),
        held,
        held,
        Qt.KeyboardModifier.NoModifier,
    )
    QApplication.sendEvent(widget, event)


def test_two_runs_stand_side_by_side_and_a_report_is_written(qtbot, dock, project, monkeypatch):
    opened = []
    monkeypatch.setattr(dock_diagnostics.QDesktopServices, "openUrl", opened.append)
    import dataclasses

    diagnosed(qtbot, dock)
    found = dock.shown[0]
    drain(project.train(CONFIG, name="second"))
    dataclasses.replace(found, run="second").save(project.folder / "runs" / "second")
    dock.session.runs_changed.emit()
    dock.choose("first", "second")
    qtbot.waitUntil(lambda: len(dock.shown) == 2, timeout=20_000)
    assert "first" in dock.verdict.text()
    assert "second" in dock.verdict.text()
    assert dock.verdict.text().count("4 slides of 4 patients or groups") == 2
    bar = dock.verticalScrollBar().sizeHint().width()
    assert dock.widget().minimumSizeHint().width() <= dock.minimumWidth() - bar  # nothing is cut off in a narrow dock
    qtbot.mouseClick(dock.report_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: bool(opened), timeout=60_000)
    page = next(run for run in dock.chosen() if run.name == dock.shown[0].run) / "diagnosis" / "report.html"
    assert "second" in page.read_text("utf-8")


def test_cancel_leaves_no_diagnosis(qtbot, dock):
    ends = []
    dock.session.job_ended.connect(ends.append)
    qtbot.mouseClick(dock.diagnose_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(dock.job.cancel.isEnabled, timeout=60_000)
    qtbot.mouseClick(dock.job.cancel, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: bool(ends), timeout=60_000)
    assert ends[0].status is JobStatus.CANCELLED
    assert not (dock.chosen()[0] / "diagnosis.json").exists()


def test_why_a_diagnosis_failed_stays_readable_until_another_model_is_chosen(qtbot, dock, monkeypatch):
    def diagnose(*_arguments):
        raise ModelError("The features are not numbers.")

    monkeypatch.setattr(dock_diagnostics, "diagnose_run", diagnose)
    ends = []
    dock.session.job_ended.connect(ends.append)
    qtbot.mouseClick(dock.diagnose_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: bool(ends), timeout=60_000)
    qtbot.waitUntil(lambda: not dock.errands.running, timeout=20_000)
    assert dock.message.text() == "Diagnosis failed: The features are not numbers."
    dock.runs.clearSelection()
    dock.runs.setCurrentRow(0)
    qtbot.waitUntil(lambda: "press Diagnose" in dock.message.text(), timeout=20_000)
