"""What the Live dock tells of features: how far each slide is, and how much is kept on the disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QHeaderView,
    QLabel,
    QMessageBox,
    QSizePolicy,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_slidecorr._napari.errands import Errands
from napari_slidecorr._napari.parts import button
from napari_slidecorr.live_events import CacheTold, LiveFilled
from napari_slidecorr.wording import counted

HEIGHT_PX = 130
COLUMNS = ("Slide", "Features", "Labelled")


class LiveFacts(QWidget):
    """A line a slide, the size of the cache, and a button that empties it.

    Parameters
    ----------
    errands : Errands
    tell
        Shows a sentence, and whether it is an error.
    """

    def __init__(self, errands: Errands, tell: Callable[..., Any]) -> None:
        super().__init__()
        self._errands, self._tell = errands, tell
        self._lines: dict[str, int] = {}
        self.table = plain_table(COLUMNS, HEIGHT_PX)
        self.cache = QLabel("Features are kept on the disk; the next start reads them.")
        self.cache.setWordWrap(True)
        self.cache.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.clear_button = button(
            "Clear features ...",
            "Delete all kept features, of every project; they are computed anew when needed.",
            self._ask,
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for part in (self.table, self.cache, self.clear_button):
            layout.addWidget(part)

    def begin(self) -> None:
        """Forget the slides of before."""
        self._lines.clear()
        self.table.setRowCount(0)

    def show_filled(self, event: LiveFilled) -> None:
        """Tell how far a slide is."""
        line = self._lines.get(event.slide_id)
        if line is None:
            line = self._lines[event.slide_id] = self.table.rowCount()
            self.table.insertRow(line)
            for column, text in enumerate((event.slide_id, "", "")):
                self.table.setItem(line, column, cell(text, right=column > 0))
        told = "all" if event.done >= event.total else "stopped" if event.trouble else f"{event.done / event.total:.0%}"
        self.table.item(line, 1).setText(f"{told} of {event.total:,}")
        self.table.item(line, 1).setToolTip(event.trouble or f"{event.done:,} of {event.total:,} patches")
        self.table.item(line, 2).setText(f"{event.labelled:,}")

    def show_cache(self, event: CacheTold) -> None:
        """Tell how much is kept."""
        if event.folder is None:
            self.cache.setText("Features are not kept: caches are switched off.")
            return
        self.cache.setText(
            f"Kept: {event.size_bytes / 1e6:,.0f} of at most {event.limit_bytes / 1e6:,.0f} MB, {counted(event.slides, 'slide')}."
        )
        self.cache.setToolTip(f"{event.folder}\nSLIDECORR_FEATURES_MB sets the bound.")

    def clear(self) -> None:
        """Empty the cache, in a thread."""

        def work() -> None:
            from napari_slidecorr.learning.feature_store import FeatureCache

            FeatureCache().clear()

        self._errands.run(work, lambda _none: self._cleared(), lambda error: self._tell(str(error), is_error=True))

    def _cleared(self) -> None:
        self.cache.setText("Kept: nothing.")
        self._tell("All kept features are deleted.")

    def _ask(self) -> None:
        question = (
            "Delete the kept features of all slides and projects?\n\nThey are computed anew when they are needed."
        )
        if QMessageBox.question(self, "Clear features", question) == QMessageBox.StandardButton.Yes:
            self.clear()


def plain_table(columns: tuple[str, ...], height_px: int) -> QTableWidget:
    """A table to read; its first column takes what room there is."""
    table = QTableWidget(0, len(columns))
    table.setHorizontalHeaderLabels(columns)
    table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
    table.setSelectionMode(QTableWidget.SelectionMode.NoSelection)
    table.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    table.verticalHeader().hide()
    table.verticalHeader().setDefaultSectionSize(22)
    header = table.horizontalHeader()
    header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
    header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
    table.setFixedHeight(height_px)
    return table


def cell(text: str, *, right: bool = False, tip: str = "") -> QTableWidgetItem:
    """A cell of a table to read."""
    made = QTableWidgetItem(text)
    made.setToolTip(tip or text)
    if right:
        made.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
    return made
