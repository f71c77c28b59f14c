"""Writes the regions of a slide in a thread: the window goes on, the last state always gets to the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable

from qtpy.QtCore import QObject, Signal

from napari_slidecorr.regions import RegionSet

THREAD_NAME = "slidecorr-save"

Write = Callable[[RegionSet], None]
Written = Callable[[RegionSet, Exception | None], None]


class RegionSaver(QObject):
    """Writes one state after the other; of those that come while it writes, only the last.

    Parameters
    ----------
    write
        Called in a thread.
    written
        Called in the GUI thread with what was written and the error, if there was one.
    """

    _ended = Signal()

    def __init__(self, write: Write, written: Written) -> None:
        super().__init__()
        self._write, self._written = write, written
        self._lock = threading.Lock()
        self._next: RegionSet | None = None
        self._thread: threading.Thread | None = None
        self._outcomes: list[tuple[RegionSet, Exception | None]] = []
        self._ended.connect(self._deliver)

    def put(self, regions: RegionSet) -> None:
        """Have a state written soon; returns at once."""
        with self._lock:
            self._next = regions
            if self._thread is None:
                # No daemon: an interpreter that ends waits for the last state.
                self._thread = threading.Thread(target=self._work, name=THREAD_NAME, daemon=False)
                self._thread.start()

    def flush(self) -> None:
        """Wait until everything is written, and tell what came of it."""
        while (thread := self._thread) is not None:
            thread.join()
        self._deliver()

    def _work(self) -> None:
        while (regions := self._take()) is not None:
            try:
                self._write(regions)
                outcome = None
            except Exception as error:  # noqa: BLE001 - handed to the GUI thread, which tells it
                outcome = error
            self._outcomes.append((regions, outcome))
            try:
                self._ended.emit()
            except RuntimeError:
                continue  # Qt has deleted the signal with its window: nobody waits for the outcome

    def _take(self) -> RegionSet | None:
        with self._lock:
            regions, self._next = self._next, None
            if regions is None:
                self._thread = None
            return regions

    def _deliver(self) -> None:
        while self._outcomes:
            self._written(*self._outcomes.pop(0))
