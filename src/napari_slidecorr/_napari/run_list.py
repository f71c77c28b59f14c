"""The trainings of a project in a tree: name, score, state, when and how long; folds and comparisons can be opened."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTreeWidget, QTreeWidgetItem

from napari_slidecorr._napari.dock import ERROR_COLOR
from napari_slidecorr._napari.training_progress import told_seconds
from napari_slidecorr.cross_validation import CrossValidation
from napari_slidecorr.runs import RunState
from napari_slidecorr.stored_runs import RunGroup, Stored, StoredRun, begun_of

COLUMNS = ("training", "AUC", "state", "begun", "took")
TIPS = (
    "Double-click: show its curve.",
    "Held-out AUC of patches: of the epoch that was kept, or the last so far; of folds, all held-out patches together.",
    "finished, running, stopped or failed; the last two can be resumed.",
    "When it began.",
    "What its epochs took.",
)
ROWS_SHOWN = 6
STATE_COLORS: dict[RunState, str] = {"failed": ERROR_COLOR, "stopped": "#d9822b", "running": "#56b4e9"}
_ENTRY = Qt.ItemDataRole.UserRole


class RunList(QTreeWidget):
    """A tree of trainings, the newest first; several can be selected.

    Attributes
    ----------
    chosen
        The selected entries have changed; carries none, ask `selected`.
    """

    chosen = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setHeaderLabels(list(COLUMNS))
        for column, tip in enumerate(TIPS):
            self.headerItem().setToolTip(column, tip)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setIndentation(12)
        header = self.header()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.entries: list[Stored] = []
        self.itemSelectionChanged.connect(self.chosen)
        self._fit(0)

    def show_entries(self, entries: Sequence[Stored]) -> None:
        """Show trainings, given from the oldest to the newest; what was selected and opened stays so."""
        selected = {one.name for one in self.selected}
        opened = {item.text(0) for item in self._top_items() if item.isExpanded()}
        self.entries = list(entries)
        self.blockSignals(True)
        self.clear()
        for entry in reversed(self.entries):
            item = _item(entry)
            self.addTopLevelItem(item)
            for run in entry.runs if isinstance(entry, RunGroup) else ():
                item.addChild(_item(run))
            item.setExpanded(item.text(0) in opened)
        for item in self._all_items():
            item.setSelected(item.data(0, _ENTRY).name in selected)
        self.blockSignals(False)
        self._fit(len(self.entries))
        self.chosen.emit()

    @property
    def selected(self) -> list[Stored]:
        """The selected entries, in the order of the list."""
        return [item.data(0, _ENTRY) for item in self._all_items() if item.isSelected()]

    def select(self, *names: str) -> None:
        """Select trainings by name, and nothing else."""
        for item in self._all_items():
            item.setSelected(item.data(0, _ENTRY).name in names)

    def item_of(self, name: str) -> QTreeWidgetItem:
        """Give the line of a training."""
        return next(item for item in self._all_items() if item.data(0, _ENTRY).name == name)

    def _top_items(self) -> list[QTreeWidgetItem]:
        return [self.topLevelItem(number) for number in range(self.topLevelItemCount())]

    def _all_items(self) -> list[QTreeWidgetItem]:
        return [one for top in self._top_items() for one in (top, *(top.child(n) for n in range(top.childCount())))]

    def _fit(self, rows: int) -> None:
        line = self.fontMetrics().height() + 8
        self.setFixedHeight((1 + max(2, min(ROWS_SHOWN, rows))) * line + 8)


def _item(entry: Stored) -> QTreeWidgetItem:
    score, seconds = score_of(entry), _seconds(entry)
    texts = (entry.name.rpartition("/")[2], score, entry.state, told_time(begun_of(entry)), told_seconds(seconds))
    item = QTreeWidgetItem(list(texts))
    item.setData(0, _ENTRY, entry)
    item.setToolTip(0, entry.name)
    item.setTextAlignment(1, Qt.AlignmentFlag.AlignRight)
    if entry.state in STATE_COLORS:
        item.setForeground(2, QColor(STATE_COLORS[entry.state]))
    sentence = entry.record.sentence if isinstance(entry, StoredRun) else entry.sentence
    item.setToolTip(2, sentence)
    return item


def score_of(entry: Stored) -> str:
    """Say the held-out AUC of a training; a leaky one is marked, a comparison has none of its own."""
    if isinstance(entry, StoredRun):
        auc = entry.record.held_out_auc
        return "-" if auc is None else f"{auc:.3f}{' leaky' if entry.leaky else ''}"
    pooled = entry.result.pooled_auc if isinstance(entry.result, CrossValidation) else math.nan
    return f"{pooled:.3f}" if math.isfinite(pooled) else "-"


def told_time(begun: str) -> str:
    """Say a UTC time in the clock of this place: of today the time alone."""
    try:
        then = dt.datetime.fromisoformat(begun).astimezone()
    except ValueError:
        return ""
    today = dt.datetime.now().astimezone().date()
    return then.strftime("%H:%M" if then.date() == today else "%Y-%m-%d")


def _seconds(entry: Stored) -> float:
    return entry.record.seconds if isinstance(entry, StoredRun) else entry.seconds
