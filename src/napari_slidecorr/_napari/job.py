"""A stream of events in a thread of its own, and the session that a viewer's docks share.

The stock generator worker swallows RuntimeError, which is what running out of GPU memory is, never closes the generator
when it is quit, and lets a closing application wait for ever. Hence this one: it steps *and closes* the generator in
its thread, and sends exactly one `JobEnd`.
"""

from __future__ import annotations

import logging
import threading
import traceback
import weakref
from collections.abc import Callable
from contextlib import closing
from typing import Any

from psygnal import EmitLoopError
from qtpy.QtCore import QCoreApplication, QObject, Signal, Slot
from qtpy.QtWidgets import QWidget

from napari_slidecorr.errors import SlideCorrError
from napari_slidecorr.events import Event, Interrupted, JobEnd, JobStatus, interruptible, throttle
from napari_slidecorr.session import MakeEvents, OnEnd, OnEvent, Session
from napari_slidecorr.torch_trouble import torch_trouble_told

logger = logging.getLogger(__name__)

THREAD_NAME = "slidecorr-job"


def run_to_end(
    make_events: MakeEvents,
    on_event: OnEvent,
    is_cancelled: Callable[[], bool],
    rest: Callable[[], object] = lambda: None,
) -> JobEnd:
    """Step a stream of events to its end in the current thread, and close it there; never raises.

    ``rest`` is called between two events, and returns when the next one is wanted: a stream that is not stepped rests.
    """
    last: Event | None = None
    try:
        if is_cancelled():
            return JobEnd(JobStatus.CANCELLED)
        with torch_trouble_told(), interruptible(is_cancelled), closing(throttle(iter(make_events()))) as events:
            for last in events:
                on_event(last)
                rest()
                if is_cancelled():
                    return JobEnd(JobStatus.CANCELLED)
        return JobEnd(JobStatus.COMPLETED, result=getattr(last, "result", None))
    except Interrupted:
        return JobEnd(JobStatus.CANCELLED)
    except BaseException as error:  # noqa: BLE001 - a job has nobody above it; every end must be told
        return JobEnd(JobStatus.FAILED, error=_told(error))


def _told(error: BaseException) -> BaseException:
    """Log what was not raised on purpose, and let go of its frames: they hold batches and GPU memory."""
    if not isinstance(error, SlideCorrError):
        logger.error("A job failed.", exc_info=error)
    traceback.clear_frames(error.__traceback__)
    return error


class Job(QObject):
    """One running job; lives in the thread that made it, where its callbacks are called."""

    _event = Signal(object)
    _end = Signal(object)

    def __init__(self, make_events: MakeEvents, on_event: OnEvent, on_end: OnEnd) -> None:
        super().__init__()
        self._on_event, self._on_end = on_event, on_end
        self._cancelled = threading.Event()
        self._wanted = threading.Event()
        self._wanted.set()
        self._ended = False
        self._slot_error: BaseException | None = None
        self._event.connect(self._deliver_event)
        self._end.connect(self._deliver_end)
        self._thread = threading.Thread(target=self._run, args=(make_events,), name=THREAD_NAME, daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Ask it to stop, after its next event or within a step that asks `check_interrupted`."""
        self._cancelled.set()
        self._wanted.set()

    def pause(self) -> None:
        """Take no further event until `resume`."""
        if not self._cancelled.is_set():
            self._wanted.clear()

    def resume(self) -> None:
        """Go on where it was paused."""
        self._wanted.set()

    def stop(self, seconds: float) -> bool:
        """Cancel, wait, and deliver what was still on its way; False when it still runs after that time."""
        self.cancel()
        self._thread.join(seconds)
        if self._thread.is_alive():
            logger.warning("A job did not stop within %g s; it is left behind.", seconds)
            return False
        QCoreApplication.sendPostedEvents(self)  # they are posted to this very object, as its slots are Qt's own
        return True

    def _run(self, make_events: MakeEvents) -> None:
        self._end.emit(run_to_end(make_events, self._event.emit, self._cancelled.is_set, self._wanted.wait))

    @Slot(object)  # type: ignore[untyped-decorator]
    def _deliver_event(self, event: Event) -> None:
        if self._slot_error is not None:
            return
        try:
            self._on_event(event)
        except Exception as error:  # noqa: BLE001 - raised in a Qt slot it would end the process
            self._slot_error = _told(_cause(error))
            self.cancel()

    @Slot(object)  # type: ignore[untyped-decorator]
    def _deliver_end(self, end: JobEnd) -> None:
        if self._ended:
            return
        self._ended = True
        self._thread.join()  # the emit was its last act; nothing of this object may die over there
        if self._slot_error is not None:
            end = JobEnd(JobStatus.FAILED, error=self._slot_error)
        self._on_end(end)


def _cause(error: BaseException) -> BaseException:
    return error.__cause__ if isinstance(error, EmitLoopError) and error.__cause__ is not None else error


_sessions: dict[int, Session] = {}


def session_of(viewer: Any) -> Session:
    """Give the one session of a viewer, which may come wrapped in a proxy; it is forgotten with the viewer."""
    inner = getattr(viewer, "__wrapped__", viewer)
    if id(inner) not in _sessions:
        _sessions[id(inner)] = Session(Job)
        weakref.finalize(inner, _forget, id(inner))
    return _sessions[id(inner)]


def _forget(key: int) -> None:
    _sessions.pop(key).close()


def watch_closing(window: QWidget, session: Session) -> None:
    """Cancel and await the session's job when the window goes, or the application quits; asked once or often."""
    if _first_time(window):
        window.destroyed.connect(lambda: session.close())  # noqa: PLW0108 - it passes the window
    application = QCoreApplication.instance()
    if _first_time(application):
        application.aboutToQuit.connect(_close_all)


def _first_time(watched: QObject) -> bool:
    marked = watched.property("slidecorr_watched")
    watched.setProperty("slidecorr_watched", True)
    return not marked


def _close_all() -> None:
    for session in list(_sessions.values()):
        session.close()
