"""Short work off the GUI thread: opening a slide, reading its coarsest level. Long work is a job of the session."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, Signal


class Errands(QObject):
    """Runs functions in threads and hands their results back in the GUI thread.

    Parameters
    ----------
    parent : QObject or None
        When it is destroyed, results that are still on their way are dropped; without one, when the errands are.
    """

    _ended = Signal(object, object)

    def __init__(self, parent: QObject | None) -> None:
        super().__init__(parent)
        self._ended.connect(self._deliver)
        self.running = 0

    def run(
        self, work: Callable[[], Any], then: Callable[[Any], None], failed: Callable[[BaseException], None]
    ) -> None:
        """Call ``work`` in a thread, then ``then(result)`` or ``failed(error)`` in the GUI thread."""
        self.running += 1

        def errand() -> None:
            try:
                outcome, handler = work(), then
            except Exception as error:  # noqa: BLE001 - every failure is handed to `failed`, none is kept
                outcome, handler = error, failed
            try:
                self._ended.emit(handler, outcome)
            except RuntimeError:
                return  # the dock is gone and Qt has deleted the signal: nobody waits for the result

        threading.Thread(target=errand, name="slidecorr-errand", daemon=True).start()

    def _deliver(self, handler: Callable[[Any], None], outcome: Any) -> None:
        self.running -= 1
        handler(outcome)
