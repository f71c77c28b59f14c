"""The maps that are stored of the slide in view: one is chosen to be shown, or taken out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QMessageBox, QWidget

from napari_slidecorr._napari.dock import narrow, refill
from napari_slidecorr._napari.parts import button
from napari_slidecorr.stored_maps import StoredMap


class MapShelf(QWidget):
    """A drop-down of maps by model and date, and *Delete ...*.

    Parameters
    ----------
    remove
        Takes a map out of the project.

    Attributes
    ----------
    chosen
        Carries the `StoredMap` that somebody wants to see.
    """

    chosen = Signal(object)

    def __init__(self, remove: Callable[[StoredMap], None]) -> None:
        super().__init__()
        self._remove = remove
        self.stored: tuple[StoredMap, ...] = ()
        self.choice = narrow(QComboBox())
        self.choice.setToolTip("The maps of this slide, the newest first.")
        self.choice.currentIndexChanged.connect(self._on_choice)
        self.remove_button = button(
            "Delete ...", "Take this map out of the project; it is moved to the folder removed.", self._ask_remove
        )
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.choice, 1)
        layout.addWidget(self.remove_button)

    def fill(self, stored: Sequence[StoredMap], shown: Path | None) -> None:
        """List maps, given from the oldest to the newest, and choose the one that is shown."""
        self.stored = tuple(reversed(stored))
        refill(self.choice, [(one.title, one.path) for one in self.stored])
        self.choice.blockSignals(True)
        self.choice.setCurrentIndex(next((i for i, one in enumerate(self.stored) if one.path == shown), -1))
        self.choice.blockSignals(False)
        self.remove_button.setEnabled(self.current is not None)

    @property
    def current(self) -> StoredMap | None:
        """The chosen map."""
        index = self.choice.currentIndex()
        return self.stored[index] if 0 <= index < len(self.stored) else None

    def _on_choice(self) -> None:
        self.remove_button.setEnabled(self.current is not None)
        if self.current is not None:
            self.chosen.emit(self.current)

    def _ask_remove(self) -> None:
        if (stored := self.current) is None:
            return
        question = f"Take the map by {stored.title} out of the project?\n\nIt is moved to the folder removed."
        if QMessageBox.question(self, "Delete map", question) == QMessageBox.StandardButton.Yes:
            self._remove(stored)
