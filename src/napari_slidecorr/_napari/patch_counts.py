"""How many patches a training would have, of each class on each slide, and what is doubtful about them."""

from __future__ import annotations

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QLabel,
    QSizePolicy,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_slidecorr.config import FEW_SLIDES, TrainConfig
from napari_slidecorr.patches import PatchTable


class PatchCounts(QWidget):
    """A sum, a table of slides by classes, and warnings."""

    def __init__(self) -> None:
        super().__init__()
        self.sum = _wrapped()
        self.warnings = _wrapped()
        self.warnings.setStyleSheet("color: #d9822b;")
        self.table = QTableWidget()
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.table.verticalHeader().hide()
        self.table.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self.sum, self.table, self.warnings):
            layout.addWidget(widget)
        self.tell("")

    def tell(self, text: str) -> None:
        """Say why there are no counts."""
        self.sum.setText(text)
        self.sum.setVisible(bool(text))
        self.table.hide()
        self.warnings.hide()

    def show_table(self, table: PatchTable) -> None:
        """Show counts."""
        counts = table.counts()
        each = ", ".join(f"{n:,} {name}" for name, n in zip(table.classes, counts.sum(axis=0), strict=True))
        labelled = int(np.count_nonzero(counts.sum(axis=1)))
        self.tell(f"{len(table):,} patches on {labelled} slides: {each}" if len(table) else "No patches yet.")
        self.table.setColumnCount(1 + len(table.classes))
        self.table.setRowCount(len(table.slides))
        self.table.setHorizontalHeaderLabels(["slide", *table.classes])
        for row, (slide, numbers) in enumerate(zip(table.slides, counts, strict=True)):
            for column, text in enumerate((slide, *(f"{n:,}" for n in numbers))):
                self.table.setItem(row, column, _item(text, number=column > 0))
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        rows = min(6, len(table.slides))
        self.table.setFixedHeight(
            header.sizeHint().height() + rows * self.table.verticalHeader().defaultSectionSize() + 4
        )
        self.table.setVisible(bool(len(table)))

    def warn(self, sentences: list[str]) -> None:
        """Show what is doubtful, a line each."""
        self.warnings.setText("\n".join(f"⚠ {sentence}" for sentence in sentences))
        self.warnings.setVisible(bool(sentences))


def doubts(table: PatchTable, config: TrainConfig, groups: dict[str, str]) -> list[str]:
    """Say what a person should know before a training on these patches.

    Parameters
    ----------
    groups : dict of slide id to group
        Held-out slides are taken by group.
    """
    counts = table.counts()
    found = []
    for name, on_slide in zip(table.classes, counts.T, strict=True):
        slides = [slide for slide, count in zip(table.slides, on_slide, strict=True) if count]
        if not slides:
            found.append(f"Class {name} has no patches and will be left out.")
        elif config.validation_fraction and len({groups[slide] for slide in slides}) == 1:
            found.append(f"Class {name} is labelled on one slide or patient only ({slides[0]}); label it on a second.")
    labelled = [slide for slide, has in zip(table.slides, counts.sum(axis=1), strict=True) if has]
    if not config.validation_fraction:
        found.append("Nothing is held out: no score will say how good the model is on the next slide.")
    return found + _few_slides(len({groups[slide] for slide in labelled}), config)


def _few_slides(groups: int, config: TrainConfig) -> list[str]:
    left = groups - (max(1, round(config.validation_fraction * groups)) if config.validation_fraction else 0)
    if config.objective.kind != "scr" or not 0 < left < FEW_SLIDES:
        return []
    words = f"About {left} training slides: SCR is not expected to help below about {FEW_SLIDES}."
    return [f"{words} Train the Baseline too, and compare the held-out AUC."]


def _item(text: str, *, number: bool) -> QTableWidgetItem:
    item = QTableWidgetItem(text)
    item.setToolTip(text)
    if number:
        item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
    return item


def _wrapped() -> QLabel:
    label = QLabel()
    label.setWordWrap(True)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    return label
