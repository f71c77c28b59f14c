"""Docks that are closed by napari's x, floated, laid beside each other and opened again."""

import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from qtpy.compat import isalive
from qtpy.QtCore import QObject, Qt

from napari_slidecorr import fast_project, sample_project
from napari_slidecorr._napari import remedy_box
from napari_slidecorr._napari.layers import add_slide, find_layer
from napari_slidecorr._napari.live_worker import THREAD_NAME, LiveWorker
from napari_slidecorr._napari.map_panel import ShownMap
from napari_slidecorr._napari.remedy_box import RemedyFound
from napari_slidecorr.events import Event, JobStatus, Trained, TrainResult
from napari_slidecorr.geometry import Box, Grid
from napari_slidecorr.learning import attribution
from napari_slidecorr.live_config import LiveConfig
from napari_slidecorr.prediction_map import PredictionMap

NAMES = ("Slides", "Regions", "Training", "Prediction", "Diagnostics", "Live")
CONFIG = LiveConfig(backbone="test_resnet", weights="random", size_px=32, mpp=0.5, device="cpu")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SLIDECORR_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer(show=True)


@pytest.fixture
def opened(viewer):
    return partial(open_dock, viewer)


def open_dock(viewer, name):
    """Give the holder and the dock, as napari's menu makes them."""
    return viewer.window.add_plugin_dock_widget("napari-slidecorr", name)


def close(qtbot, holder):
    """Press the x of a dock's title bar."""
    qtbot.mouseClick(holder.title.close_button, Qt.MouseButton.LeftButton)


def gone(qtbot, dock):
    qtbot.waitUntil(lambda: not isalive(dock), timeout=20_000)


def live_threads():
    return [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]


def listeners(session):
    """How many listen to the session and to the viewer."""
    signals = ("message", "project_changed", "job_started", "job_ended", "current_slide_changed", "maps_changed")
    return [len(getattr(session, name)) for name in signals]


@pytest.mark.parametrize("name", NAMES)
def test_a_closed_dock_is_gone_and_the_next_one_works(qtbot, viewer, opened, project, name):
    _, slides = open_dock(viewer, "Slides") if name != "Slides" else (None, None)
    holder, dock = opened(name)
    session = dock.session
    session.project = project
    add_slide(viewer, project.slide(project.cohort[0].id))
    session.current_slide = project.cohort[0].id
    before = listeners(session), len(viewer.mouse_drag_callbacks), dict(viewer.keymap)
    for _ in range(2):
        close(qtbot, holder)
        gone(qtbot, dock)
        holder, dock = opened(name)
        assert dock.session is session
    viewer.cursor.position = (3, 4)
    viewer.scene.camera.zoom *= 1.1
    session.current_slide = None
    session.message.emit("said", False)
    assert dock.message.text() == "said"
    assert slides is None or isalive(slides)
    after = listeners(session), len(viewer.mouse_drag_callbacks), dict(viewer.keymap)
    assert after[:2] == before[:2]
    assert after[2].keys() == before[2].keys()


@pytest.mark.parametrize("name", NAMES)
def test_floating_tabs_and_hiding_close_nothing(qtbot, viewer, opened, name):
    other, _ = opened("Slides" if name != "Slides" else "Regions")
    holder, dock = opened(name)
    main = viewer.window._qt_window
    session = dock.session
    moves = (
        lambda: holder.setFloating(True),
        lambda: holder.setFloating(False),
        lambda: main.tabifyDockWidget(other, holder),
        lambda: main.addDockWidget(Qt.DockWidgetArea.LeftDockWidgetArea, holder),
        lambda: main.addDockWidget(Qt.DockWidgetArea.BottomDockWidgetArea, holder),
        holder.hide,
        holder.show,
    )
    for move in moves:
        move()
        qtbot.wait(30)
        assert isalive(dock)
    assert dock.session is session
    session.message.emit("said", False)
    assert dock.message.text() == "said"


def test_a_dock_that_is_taken_out_and_put_back_at_once_stays(qtbot, viewer, opened):
    _, dock = opened("Training")
    viewer.window.remove_dock_widget(dock)
    viewer.window.add_dock_widget(dock, name="Training again")
    qtbot.wait(100)
    assert isalive(dock)


def test_closing_a_floating_dock_ends_no_job(qtbot, opened, project):
    holder, dock = opened("Prediction")
    session, went, ends = dock.session, threading.Event(), []
    session.project = project
    session.job_ended.connect(ends.append)
    holder.setFloating(True)
    qtbot.wait(100)
    assert session.start(partial(_slow, went), "Prediction")
    close(qtbot, holder)
    gone(qtbot, dock)
    qtbot.wait(100)
    assert session.busy
    assert not project.read_only
    went.set()
    qtbot.waitUntil(lambda: bool(ends), timeout=20_000)
    assert ends[0].status is JobStatus.COMPLETED


def _slow(went, *_arguments, last=None, **_options):
    yield Event(phase="Going", done=1, total=2)
    went.wait(20)
    yield last or Event(phase="Gone", done=2, total=2)


def keep(dock, slow, monkeypatch):
    kept = TrainResult(Path("model"), Path("run") / "model", (SimpleNamespace(scores="AUC 1"),))
    monkeypatch.setattr(fast_project, "fast_train", partial(slow, last=Trained(phase="Kept", result=kept)))
    dock.keeping.keep_button.click()


def compare(dock, slow, monkeypatch):
    monkeypatch.setattr(remedy_box, "_events", partial(slow, last=RemedyFound(phase="Found", row=None)))
    dock.remedies.start_button.click()


def explain(dock, slow, monkeypatch):
    monkeypatch.setattr(attribution, "explain", slow)
    monkeypatch.setattr(dock.explain, "_runs", lambda: [dock.session.project.folder])
    dock.explain.aim(dock.session.current_slide, Box(0, 0, 9, 9))
    dock.explain.explain_patch()


def make_samples(dock, slow, monkeypatch):
    monkeypatch.setattr(sample_project, "make_sample_project", slow)
    dock.welcome.sample_button.click()


@pytest.mark.parametrize(
    ("name", "begin"), [("Live", keep), ("Live", compare), ("Diagnostics", explain), ("Slides", make_samples)]
)
def test_a_job_ends_properly_when_the_dock_that_began_it_is_closed(
    qtbot, viewer, opened, project, monkeypatch, name, begin
):
    holder, dock = opened(name)
    session, went, ends, told = dock.session, threading.Event(), [], []
    if name != "Slides":
        session.project = project
        add_slide(viewer, project.slide(project.cohort[0].id))
        session.current_slide = project.cohort[0].id
    session.job_ended.connect(ends.append)
    session.message.connect(lambda text, _error: told.append(text))
    begin(dock, partial(_slow, went), monkeypatch)
    assert session.busy
    close(qtbot, holder)
    gone(qtbot, dock)
    _, again = opened(name)
    if name == "Slides":
        assert not again.welcome.job.bar.isHidden()
    went.set()
    qtbot.waitUntil(lambda: bool(ends), timeout=60_000)
    assert ends[0].status is JobStatus.COMPLETED, ends[0].error
    assert told[-1].endswith("completed.")
    assert not session.busy
    qtbot.wait(50)
    assert isalive(again)


@pytest.fixture
def live(qtbot, viewer, opened, project):
    """The holder and the dock, with a map in view."""
    _, slides = opened("Slides")
    slides.open_project(project.folder)
    qtbot.waitUntil(lambda: slides.session.current_slide is not None, timeout=20_000)
    holder, dock = opened("Live")
    begin_live(qtbot, viewer, dock)
    yield holder, dock
    for thread in live_threads():
        thread.join(20)
    assert not live_threads()


def begin_live(qtbot, viewer, dock):
    dock.form.set(CONFIG)
    qtbot.mouseClick(dock.live_button, Qt.MouseButton.LeftButton)
    slide = dock.session.current_slide
    qtbot.waitUntil(lambda: find_layer(viewer, "live", slide) is not None and dock.map.version >= 0, timeout=60_000)


def test_live_training_ends_with_its_dock_and_the_next_dock_has_a_worker_of_its_own(qtbot, viewer, live, monkeypatch):
    holder, dock = live
    slide, waited = dock.session.current_slide, []
    monkeypatch.setattr("napari_slidecorr._napari.live_worker.await_stopped", waited.append)
    close(qtbot, holder)
    gone(qtbot, dock)
    assert not waited, "the window does not wait for the thread"
    assert find_layer(viewer, "live", slide) is None
    _, again = open_dock(viewer, "Live")
    begin_live(qtbot, viewer, again)
    layer = find_layer(viewer, "live", slide)
    qtbot.waitUntil(lambda: len(live_threads()) == 1, timeout=20_000)
    assert find_layer(viewer, "live", slide) is layer
    qtbot.mouseClick(again.live_button, Qt.MouseButton.LeftButton)
    assert find_layer(viewer, "live", slide) is None


def test_a_stopped_thread_ends_before_the_next_one_owns_torch(qtbot, monkeypatch, project):
    at_work, seen, go = [], [], threading.Event()

    def step(_self, number, *_arguments):
        at_work.append(number)
        seen.append(len(at_work))
        go.wait(20)
        at_work.remove(number)

    monkeypatch.setattr(LiveWorker, "_step", step)
    parents = QObject(), QObject()
    first, second = (LiveWorker(parent) for parent in parents)
    first.start(project, CONFIG.fast)
    qtbot.waitUntil(lambda: bool(seen), timeout=20_000)
    assert first.stop()
    second.start(project, CONFIG.fast)
    qtbot.wait(200)
    assert seen == [1]
    go.set()
    qtbot.waitUntil(lambda: len(seen) == 2 and not second.running, timeout=20_000)
    assert seen == [1, 1]


def test_the_prediction_dock_puts_lasso_and_clicks_down_when_it_is_closed(qtbot, opened, project):
    _, slides = opened("Slides")
    slides.open_project(project.folder)
    qtbot.waitUntil(lambda: slides.desk.editor is not None, timeout=20_000)
    holder, dock = opened("Prediction")
    layer = slides.desk.editor.layer
    grid = Grid.over((640, 640), (64, 64), (64, 64), (0.5, 0.5))
    prediction = PredictionMap.empty(project.classes, grid, dock.session.current_slide, "m")
    prediction.probabilities[:] = 1 / len(project.classes)
    dock.panel.show_map(ShownMap(prediction, project.folder / "map.ome.zarr", complete=True))
    dock.panel.correction.lasso_button.click()
    assert layer.mode == "add_polygon_lasso"
    close(qtbot, holder)
    gone(qtbot, dock)
    assert layer.mode == "pan_zoom"
