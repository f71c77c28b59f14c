"""The one thread of live training: it owns torch there, follows wishes, and never lets the window wait."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Iterable
from contextlib import closing
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal, Slot

from napari_slidecorr._napari.torch_door import load_torch_for_job
from napari_slidecorr.errors import SlideCorrError
from napari_slidecorr.events import Event
from napari_slidecorr.fast_config import FastConfig
from napari_slidecorr.live import LiveStudy
from napari_slidecorr.live_events import LiveFilled, LiveIdle
from napari_slidecorr.live_wishes import LiveWishes
from napari_slidecorr.torch_trouble import torch_trouble_told

if TYPE_CHECKING:
    from napari_slidecorr.learning.extractor import Extractor
    from napari_slidecorr.project import Project

logger = logging.getLogger(__name__)

THREAD_NAME = "slidecorr-live"
HUNG_S = 60.0
"""A thread that is to end and still works after so long hangs in a read from a dead drive, and nobody waits for it."""

_stopped: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
"""Threads that were told to end, and may be at work for a moment still."""

PROGRESS_S = 0.1
"""Progress is told at most so often; what else happens is always told."""


def await_stopped(seconds: float) -> bool:
    """Wait so long for threads that were told to end; False when one still works after that time."""
    until = time.monotonic() + seconds
    threads = tuple(_stopped)
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


class LiveWorker(QObject):
    """Steps a `LiveStudy` in a thread of its own, from `start` to `stop`.

    Attributes
    ----------
    wishes : LiveWishes
        Of the study that runs; fill it from anywhere.
    happened
        Signal with each `Event`, in the GUI thread.
    failed
        Signal with the error that ended it, in the GUI thread.
    """

    happened = Signal(object)
    failed = Signal(object)
    _event = Signal(int, object)
    _end = Signal(int, object)

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self.wishes = LiveWishes()
        self._number = 0
        self._thread: threading.Thread | None = None
        self._made: tuple[FastConfig, Extractor] | None = None
        self._event.connect(self._deliver)
        self._end.connect(self._deliver_end)

    @property
    def running(self) -> bool:
        """Whether it was started, and neither stopped nor ended by an error."""
        return self._thread is not None

    def start(self, project: Project, config: FastConfig) -> LiveWishes:
        """Begin anew with a project; gives the wishes to be filled, what was begun before ends."""
        self.stop()
        before = tuple(_stopped)
        self.wishes = LiveWishes()
        arguments = self._number, project, config, self.wishes, before
        self._thread = threading.Thread(target=self._run, args=arguments, name=THREAD_NAME, daemon=True)
        self._thread.start()
        return self.wishes

    def stop(self, seconds: float = 0.0) -> bool:
        """End; waits so long for the thread. False when it still works after that time, which harms nobody."""
        self.wishes.close()
        thread, self._thread = self._thread, None
        self._number += 1  # what is still on its way is not delivered any more
        if thread is not None:
            _stopped.add(thread)
        return seconds <= 0 or await_stopped(seconds)

    def _run(
        self,
        number: int,
        project: Project,
        config: FastConfig,
        wishes: LiveWishes,
        before: Iterable[threading.Thread],
    ) -> None:
        """In the thread: at any time only one works, so that one owns torch; also when its dock was closed and reopened."""
        for thread in before:
            thread.join(HUNG_S)
        error: BaseException | None = None
        try:
            if not wishes.closed:
                with torch_trouble_told():
                    self._step(number, project, config, wishes)
        except Exception as found:
            error = found
            if not isinstance(found, SlideCorrError):
                logger.exception("Live training failed.")
        try:
            self._end.emit(number, error)
        except RuntimeError:
            return  # the dock is gone, and Qt has deleted the signal

    def _step(self, number: int, project: Project, config: FastConfig, wishes: LiveWishes) -> None:
        load_torch_for_job()
        from napari_slidecorr.learning.feature_store import FeatureCache

        made = self._made[1] if self._made is not None and self._made[0] == config else None
        study = LiveStudy(project, config, wishes, FeatureCache(), made)
        told = 0.0
        with closing(study.steps()) as steps:
            for event in steps:
                if study.extractor is not None and made is None:
                    made = study.extractor
                    self._made = config, made
                progress = type(event) is Event or isinstance(event, LiveFilled)
                now = time.monotonic()
                if isinstance(event, LiveIdle) or (progress and now - told < PROGRESS_S and event.done < event.total):
                    continue
                told = now if progress else told
                try:
                    self._event.emit(number, event)
                except RuntimeError:
                    return  # the dock is gone, and Qt has deleted the signal

    @Slot(int, object)  # type: ignore[untyped-decorator]
    def _deliver(self, number: int, event: Event) -> None:
        if number == self._number:
            self.happened.emit(event)

    @Slot(int, object)  # type: ignore[untyped-decorator]
    def _deliver_end(self, number: int, error: BaseException | None) -> None:
        if number == self._number and self._thread is not None:
            self._thread = None
            if error is not None:
                self.failed.emit(error)
