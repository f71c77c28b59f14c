"""What the Live dock tells of the head: what it was fitted to, how good it is on held-out slides, and why it waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from qtpy.QtWidgets import QLabel, QSizePolicy, QVBoxLayout, QWidget

from napari_slidecorr._napari.dock import ERROR_COLOR
from napari_slidecorr._napari.live_map import LiveMap
from napari_slidecorr._napari.parts import button
from napari_slidecorr.live_events import LiveFitted, LiveJudged, LiveWaits
from napari_slidecorr.wording import counted


class LiveStatus(QWidget):
    """Lines for people, and *Go on without*.

    Parameters
    ----------
    go_without
        Called when a class that lost its last region is to be left out.
    """

    def __init__(self, go_without: Callable[[], Any]) -> None:
        super().__init__()
        self._go_without = go_without
        self._judged = ""
        self.status, self.score, self.here = line(), line(), line()
        self.here.setMinimumHeight(self.here.fontMetrics().lineSpacing())  # the dock must not jump with the mouse
        self.without_button = button(
            "Go on without", "Leave the class out until it has a region again.", self._on_without
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for part in (self.status, self.score, self.here, self.without_button):
            layout.addWidget(part)
        self.rest("")

    def rest(self, text: str) -> None:
        """Say one thing, and forget the head."""
        self._judged = ""
        self.status.setText(text)
        self.status.setStyleSheet("")
        self.score.clear()
        self.here.clear()
        self.without_button.hide()

    def show_fitted(self, event: LiveFitted) -> None:
        """Say what the head was fitted to."""
        self.without_button.hide()
        self.status.setStyleSheet("")
        names = ", ".join(event.classes)
        self.status.setText(
            f"{event.patches:,} labelled patches on {counted(event.slides, 'slide')}: {names}. Fitted in {event.seconds:.2f} s."
        )

    def show_waits(self, event: LiveWaits) -> None:
        """Say why there is no head, or none of the regions as they are."""
        self.status.setText(event.message)
        self.status.setStyleSheet(f"color: {ERROR_COLOR};" if event.lost else "")
        self.without_button.setText(f"Go on without {' and '.join(event.lost)}")
        self.without_button.setVisible(bool(event.lost))

    def show_judged(self, event: LiveJudged, shown: LiveMap | None) -> None:
        """Say how good heads are on slides that they have not seen."""
        auc = f"AUC on held-out slides {event.auc:.3f}. " if np.isfinite(event.auc) else ""
        self._judged = f"{auc}{event.warning}".strip()
        self.show_score(shown)

    def show_score(self, shown: LiveMap | None) -> None:
        """Say the score, and how much of the slide in view is unsure."""
        told = [self._judged] if self._judged else []
        if shown is not None and (share := shown.unsure_share()) is not None:
            told.append(f"Unsure (grey): {share:.0%} of this slide.")
        self.score.setText("\n".join(told))

    def _on_without(self) -> None:
        self.without_button.hide()
        self._go_without()


def line() -> QLabel:
    """A line that wraps and does not widen the dock."""
    made = QLabel()
    made.setWordWrap(True)
    made.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    return made
