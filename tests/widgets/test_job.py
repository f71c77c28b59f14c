import logging
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import numpy as np
import pytest

from napari_slidecorr._napari.job import THREAD_NAME, Job, session_of
from napari_slidecorr._napari.torch_door import load_torch_for_job
from napari_slidecorr.errors import TrainingError
from napari_slidecorr.events import BatchDone, BlockDone, Event, JobStatus, Trained, check_interrupted

pytestmark = pytest.mark.usefixtures("qapp")


class Heard:
    """Collects what a job calls, and in which thread."""

    def __init__(self):
        self.events, self.ends, self.threads = [], [], set()

    def on_event(self, event):
        self.events.append(event)
        self.threads.add(threading.current_thread())

    def on_end(self, end):
        self.ends.append(end)
        self.threads.add(threading.current_thread())


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def run(qtbot, heard):
    """Run events to their end; the one JobEnd."""

    def run(make_events):
        job = Job(make_events, heard.on_event, heard.on_end)
        qtbot.waitUntil(lambda: bool(heard.ends), timeout=60_000)
        qtbot.wait(20)
        assert len(heard.ends) == 1, "exactly one end"
        assert heard.threads == {threading.main_thread()}
        assert not job._thread.is_alive()
        return heard.ends[0]

    return run


def test_events_arrive_in_order_and_the_last_ones_result_is_the_jobs(run, heard):
    events = [Event(phase="a"), Event(phase="b"), Trained(phase="c", result=7)]
    end = run(lambda: (_slow(event) for event in events))
    assert heard.events == events
    assert (end.status, end.result) == (JobStatus.COMPLETED, 7)


def _slow(event):
    time.sleep(0.06)
    return event


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory"),
        StopIteration(),
        MemoryError(),
        KeyboardInterrupt(),
        SystemExit(3),
        ValueError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_error_ends_the_job_once(run, caplog, error):
    def events():
        yield Event(phase="a")
        raise error

    end = run(events)
    assert end.status is JobStatus.FAILED
    assert end.error is error or end.error.__cause__ is error, "a StopIteration becomes a RuntimeError in a generator"
    assert "A job failed" in caplog.text


def test_an_error_at_the_call_ends_the_job(run, caplog):
    def make_events():
        raise TrainingError("There are no regions yet.")

    end = run(make_events)
    assert (end.status, str(end.error)) == (JobStatus.FAILED, "There are no regions yet.")
    assert not caplog.records, "what was raised on purpose needs no traceback"


def test_an_error_lets_go_of_what_the_job_held(run):
    class Batch:
        pass

    held = []

    def events():
        batch = Batch()
        held.append(weakref.ref(batch))
        yield Event(phase="a")
        raise RuntimeError("CUDA out of memory")

    run(events)
    assert held[0]() is None


def test_cancel_closes_the_generator_in_its_own_thread(qtbot, heard):
    closed = []

    def events():
        try:
            for number in range(10_000):
                time.sleep(0.01)
                yield BlockDone(phase="x", done=number, rows=slice(0), columns=slice(0), probabilities=np.zeros(0))
        finally:
            closed.append(threading.current_thread().name)

    job = Job(events, heard.on_event, heard.on_end)
    qtbot.waitUntil(lambda: len(heard.events) > 2, timeout=60_000)
    job.cancel()
    qtbot.waitUntil(lambda: bool(heard.ends), timeout=1000)
    assert closed == [THREAD_NAME]
    assert heard.ends[0].status is JobStatus.CANCELLED


def test_a_paused_job_takes_no_event_until_it_goes_on_or_is_cancelled(qtbot, heard):
    taken = []

    def events():
        for number in range(100):
            taken.append(number)
            time.sleep(0.02)
            yield Trained(phase="step", result=number)

    job = Job(events, heard.on_event, heard.on_end)
    qtbot.waitUntil(lambda: len(taken) > 2)
    job.pause()
    qtbot.wait(100)
    count = len(taken)
    qtbot.wait(300)
    assert len(taken) == count
    job.resume()
    qtbot.waitUntil(lambda: len(taken) > count + 2)
    job.pause()
    job.cancel()
    qtbot.waitUntil(lambda: bool(heard.ends))
    assert heard.ends[0].status is JobStatus.CANCELLED
    assert len(taken) < 100


def test_an_error_while_closing_is_a_failure(qtbot, heard):
    def events():
        try:
            while True:
                time.sleep(0.01)
                yield BlockDone(phase="x", rows=slice(0), columns=slice(0), probabilities=np.zeros(0))
        finally:
            raise OSError("disk full")

    job = Job(events, heard.on_event, heard.on_end)
    job.cancel()
    qtbot.waitUntil(lambda: bool(heard.ends), timeout=60_000)
    assert (heard.ends[0].status, str(heard.ends[0].error)) in [
        (JobStatus.FAILED, "disk full"),
        (JobStatus.CANCELLED, "None"),  # cancelled before it began
    ]


def test_batches_are_thinned_and_blocks_are_not(run, heard):
    def events():
        for number in range(2000):
            yield BatchDone(phase="train", epoch=0, batch=number, loss=0.0, terms={}, pairs=0)
        for number in range(200):
            yield BlockDone(phase="map", done=number, rows=slice(0), columns=slice(0), probabilities=np.zeros(0))

    run(events)
    blocks = [event.done for event in heard.events if isinstance(event, BlockDone)]
    assert blocks == list(range(200))
    assert len(heard.events) - len(blocks) < 50


def test_plain_progress_is_thinned_too(run, heard):
    run(lambda: (Event(phase="count", done=number) for number in range(20_000)))
    assert len(heard.events) < 100


def test_stop_waits_and_delivers_what_was_on_its_way(heard):
    def events():
        while True:
            time.sleep(0.01)
            yield Event(phase="a")

    job = Job(events, heard.on_event, heard.on_end)
    time.sleep(0.15)
    assert job.stop(5)
    assert heard.events, "no event loop ran; they were delivered by stop"
    assert [end.status for end in heard.ends] == [JobStatus.CANCELLED]


def test_stop_gives_up_on_a_job_that_does_not_listen(qtbot, heard, caplog):
    release = threading.Event()

    def events():
        release.wait(10)
        yield Event(phase="late")

    job = Job(events, heard.on_event, heard.on_end)
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        assert not job.stop(0.2)
    assert time.monotonic() - began < 2
    assert "did not stop" in caplog.text
    release.set()
    qtbot.waitUntil(lambda: bool(heard.ends), timeout=60_000)


def test_an_error_in_a_listener_cancels_the_job_and_is_its_error(qtbot, heard):
    def events():
        while True:
            time.sleep(0.01)
            yield Event(phase="a")

    def listener(_event):
        raise ZeroDivisionError("in the dock")

    Job(events, listener, heard.on_end)
    qtbot.waitUntil(lambda: bool(heard.ends), timeout=60_000)
    assert heard.ends[0].status is JobStatus.FAILED
    assert isinstance(heard.ends[0].error, ZeroDivisionError)


def test_all_docks_of_a_viewer_share_a_session_and_viewers_do_not():
    from napari.components import ViewerModel
    from napari.utils._proxies import PublicOnlyProxy

    first, second = ViewerModel(), ViewerModel()
    assert session_of(first) is session_of(PublicOnlyProxy(first))
    assert session_of(first) is not session_of(second)


def test_a_forgotten_viewers_session_is_forgotten():
    import gc

    from napari.components import ViewerModel

    viewer = ViewerModel()
    session = weakref.ref(session_of(viewer))
    del viewer
    gc.collect()
    assert session() is None


def test_torch_leaves_a_core_to_the_window(monkeypatch):
    import torch

    asked = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    for cores in (8, 64, 1, None):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        load_torch_for_job()
    assert asked == [7, 8, 1, 1]


CLOSING = """
import sys, time
import napari
from qtpy.QtCore import QTimer
from napari_slidecorr._napari.dock import Dock
from napari_slidecorr.events import Event

class Plain(Dock):
    def __init__(self):
        super().__init__(viewer)

def events():
    try:
        while True:
            time.sleep(0.05)
            yield Event(phase="a")
    finally:
        print("closed", flush=True)

viewer = napari.Viewer()
dock = Plain()
viewer.window.add_dock_widget(dock, name="plain")
dock.session.job_ended.connect(lambda end: print(end.status.value, flush=True))
dock.session.start(events, "Work")
QTimer.singleShot(400, {how})
napari.run()
print("left", flush=True)
"""


@pytest.mark.parametrize("how", ["viewer.close", "lambda: viewer.window._qt_window.close(quit_app=True)"])
def test_closing_the_window_ends_the_job_and_the_process(how):
    script = textwrap.dedent(CLOSING).replace("{how}", how)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["closed", "cancelled", "left"], done.stderr
    assert done.returncode == 0, done.stderr


def test_cancel_reaches_into_a_step(heard, qtbot):
    def events():
        yield Event(phase="a")
        while True:
            time.sleep(0.01)
            check_interrupted()

    job = Job(events, heard.on_event, heard.on_end)
    qtbot.waitUntil(lambda: bool(heard.events), timeout=60_000)
    job.cancel()
    qtbot.waitUntil(lambda: bool(heard.ends), timeout=60_000)
    assert (heard.ends[0].status, heard.ends[0].error) == (JobStatus.CANCELLED, None)
