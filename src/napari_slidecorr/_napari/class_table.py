"""The table of classes: colour, key, how many regions and how much area, on this slide and in the cohort."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

from napari_slidecorr.regions import IGNORE, RegionSet

COLUMNS = ("Key", "Class", "This slide", "Cohort")
KEY, NAME, HERE, COHORT = range(4)
NO_CLASS = "(no class)"
FEWEST_GROUPS = 2
SHORTEST, TALLEST = 110, 360


@dataclass(frozen=True)
class Amount:
    """How much of a class there is.

    Attributes
    ----------
    regions : int
    mm2 : float
        Area on slides whose pixel size is known.
    megapixels : float
        Area on the others, in millions of level-0 pixels.
    """

    regions: int = 0
    mm2: float = 0.0
    megapixels: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.regions + other.regions, self.mm2 + other.mm2, self.megapixels + other.megapixels)

    def __str__(self) -> str:
        if not self.regions:
            return "-"
        areas = [f"{self.mm2:.{2 if self.mm2 >= 0.1 else 3}f} mm²"] if self.mm2 else []
        areas += [f"{self.megapixels:.2f} Mpx"] if self.megapixels else []
        return f"{self.regions}: {' + '.join(areas)}"


@dataclass(frozen=True)
class Tally:
    """The amounts on one slide, by class; and to which group the slide belongs."""

    group: str
    amounts: Mapping[str, Amount] = field(default_factory=dict)


def tally(regions: RegionSet, mpp: tuple[float, float] | None, group: str) -> Tally:
    """Count regions and their area by class."""
    areas: dict[str, list[float]] = {}
    for region in regions:
        areas.setdefault(region.class_name, []).append(region.area_px * 1e-6)
    return Tally(group, {name: _amount(each, mpp) for name, each in areas.items()})


def _amount(areas: Sequence[float], mpp: tuple[float, float] | None) -> Amount:
    if mpp is None:
        return Amount(len(areas), megapixels=sum(areas))
    return Amount(len(areas), mm2=sum(areas) * mpp[0] * mpp[1])


def total(tallies: Iterable[Tally], name: str) -> Amount:
    """Sum a class over slides."""
    return sum((each.amounts.get(name, Amount()) for each in tallies), Amount())


def warnings_about(classes: Sequence[str], tallies: Iterable[Tally]) -> str:
    """Say which classes cannot be held out, because they are on fewer than two slides or patients; empty if none."""
    tallies = list(tallies)
    groups = {name: {each.group for each in tallies if name in each.amounts} for name in classes}
    missing = [name for name in classes if not groups[name]]
    lonely = [f"{name} (on {next(iter(groups[name]))})" for name in classes if len(groups[name]) == 1]
    parts = []
    if len(classes) < FEWEST_GROUPS:
        parts.append("Add two or more classes.")
    if missing:
        parts.append(f"Not drawn yet: {', '.join(missing)}.")
    if lonely:
        parts.append(f"On one slide or patient only: {', '.join(lonely)}.")
    if missing or lonely:
        parts.append("Training needs each class on two or more, to hold one out.")
    return " ".join(parts)


class ClassTable(QTableWidget):
    """One row a class, then ``ignore``, then regions without a class if there are any.

    Attributes
    ----------
    chosen
        Signal with the name of the class whose row was clicked.
    """

    chosen = Signal(str)

    def __init__(self) -> None:
        super().__init__(0, len(COLUMNS))
        self.names: tuple[str, ...] = ()
        self.setHorizontalHeaderLabels(COLUMNS)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # or it would eat the class keys
        self.verticalHeader().hide()
        header = self.horizontalHeader()
        for column, mode in (
            (KEY, QHeaderView.ResizeMode.ResizeToContents),
            (NAME, QHeaderView.ResizeMode.Stretch),
            (HERE, QHeaderView.ResizeMode.ResizeToContents),
            (COHORT, QHeaderView.ResizeMode.ResizeToContents),
        ):
            header.setSectionResizeMode(column, mode)
        self.cellClicked.connect(self._on_clicked)

    def fill(
        self,
        classes: Sequence[str],
        colors: Mapping[str, tuple[int, int, int]],
        here: Tally | None,
        cohort: Iterable[Tally],
    ) -> None:
        """Show classes and their amounts."""
        cohort = list(cohort)
        unclassed = [""] if total(cohort, "").regions else []
        self.names = (*classes, IGNORE, *unclassed)
        self.setRowCount(len(self.names))
        for row, name in enumerate(self.names):
            key = str(row + 1) if row < min(len(classes), 9) else "0" if name == IGNORE else ""
            on_slide = here.amounts.get(name, Amount()) if here else Amount()
            for column, text in enumerate((key, name or NO_CLASS, str(on_slide), str(total(cohort, name)))):
                self.setItem(row, column, _item(text, name, cohort))
            self.item(row, NAME).setData(Qt.ItemDataRole.DecorationRole, QColor(*colors.get(name, (128, 128, 128))))

        self._fit()

    def _fit(self) -> None:
        """As tall as its rows, within reason; more of them scroll."""
        wanted = self.horizontalHeader().sizeHint().height() + self.rowCount() * self.rowHeight(0) + 6
        self.setFixedHeight(min(max(wanted, SHORTEST), TALLEST))

    def choose(self, name: str) -> None:
        """Mark the row of the current class."""
        if name in self.names:
            self.selectRow(self.names.index(name))
        else:
            self.clearSelection()

    @property
    def current(self) -> str | None:
        """Name of the marked class; None without one."""
        rows = self.selectionModel().selectedRows()
        return self.names[rows[0].row()] if rows else None

    def text(self, name: str, column: int) -> str:
        """Give what stands in the row of a class."""
        return str(self.item(self.names.index(name), column).text())

    def _on_clicked(self, row: int, _column: int) -> None:
        self.chosen.emit(self.names[row])


def _item(text: str, name: str, cohort: Sequence[Tally]) -> QTableWidgetItem:
    item = QTableWidgetItem(text)
    slides = sum(name in each.amounts for each in cohort)
    tip = f"{name or 'Regions without a class'}: on {slides} of {len(cohort)} slides."
    if name == IGNORE:
        tip += " Artefacts: never trained on, and taken out of the regions of other classes."
    if not name:
        tip += " They are kept, but not trained on."
    item.setToolTip(tip)
    return item
