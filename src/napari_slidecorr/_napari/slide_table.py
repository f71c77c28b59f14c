"""The table of a project's slides: size, resolution and where it comes from, patient, number of regions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QIcon, QResizeEvent
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

from napari_slidecorr._napari.associated import pixmap
from napari_slidecorr.errors import SlideCorrError
from napari_slidecorr.session import sentence
from napari_slidecorr.slide import Slide

if TYPE_CHECKING:
    from napari_slidecorr.cohort import CohortSlide
    from napari_slidecorr.project import Project

COLUMNS = ("Slide", "Size (px)", "µm/px", "Group", "Regions")
ID, SIZE, MPP, GROUP, REGIONS = range(5)
NO_MPP = "not known - set it"
NARROWEST, SHORTEST, TALLEST = 140, 110, 420
GROUP_PX = 48
"""The group is shortened down to this before names of slides are."""
PICTURE_PX = 32
UNOPENED = "cannot be opened"


@dataclass(frozen=True)
class Fact:
    """What opening a slide tells, or why it cannot be opened.

    Attributes
    ----------
    slide : Slide or None
    regions : int or None
    trouble : tuple of str
        Sentences about what is missing above.
    """

    slide_id: str
    slide: Slide | None
    regions: int | None
    trouble: tuple[str, ...] = ()


def look_at(project: Project, slide_id: str) -> Fact:
    """Open a slide and its regions; may take a while, and never raises for a bad file."""
    trouble: list[str] = []
    slide, regions = None, None
    try:
        slide = project.slide(slide_id)
    except SlideCorrError as error:
        trouble.append(sentence(error))
    try:
        regions = len(project.regions(slide_id))
    except SlideCorrError as error:
        trouble.append(sentence(error))
    return Fact(slide_id, slide, regions, tuple(trouble))


class SlideTable(QTableWidget):
    """One row a slide, in the project's order.

    Attributes
    ----------
    group_edited
        Signal with a slide's id and the new name of its group.
    show_asked, mpp_asked
        Signals with a slide's id: its row, or its resolution, was double-clicked.
    """

    group_edited = Signal(str, str)
    show_asked = Signal(str)
    mpp_asked = Signal(str)

    def __init__(self) -> None:
        super().__init__(0, len(COLUMNS))
        self.ids: tuple[str, ...] = ()
        self._unopened = False
        self.setHorizontalHeaderLabels(COLUMNS)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.setWordWrap(False)
        self.setIconSize(QSize(PICTURE_PX, PICTURE_PX))
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.verticalHeader().hide()
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        for column in (ID, GROUP):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Interactive)
        header.setMinimumSectionSize(36)
        self._fit()
        self.itemChanged.connect(self._on_changed)
        self.cellDoubleClicked.connect(self._on_double_click)

    def fill(self, cohort: Sequence[CohortSlide]) -> None:
        """Show slides of which only the project's file is read; `show_fact` adds the rest."""
        self.ids = tuple(slide.id for slide in cohort)
        self._unopened = False
        self.blockSignals(True)
        self.setRowCount(len(cohort))
        for row, slide in enumerate(cohort):
            for column, text in enumerate((slide.id, "...", "...", slide.group, "...")):
                self.setItem(row, column, _item(text, editable=column == GROUP))
        self.blockSignals(False)
        self._fit()

    def _fit(self) -> None:
        """As tall as its rows, within reason; more of them scroll."""
        room = self.viewport().width() - sum(self.columnWidth(column) for column in (MPP, REGIONS))
        with_size = room - self.sizeHintForColumn(SIZE) - 12
        narrow = with_size < NARROWEST + GROUP_PX and not self._unopened
        self.setColumnHidden(SIZE, narrow)
        room = room if narrow else with_size
        group = min(max(self.sizeHintForColumn(GROUP) + 8, GROUP_PX), max(room - NARROWEST, GROUP_PX))
        self.setColumnWidth(GROUP, group)
        self.setColumnWidth(ID, max(NARROWEST, room - group))
        rows = sum(self.rowHeight(row) for row in range(self.rowCount()))
        bar = self.horizontalScrollBar().sizeHint().height() if self.horizontalScrollBar().maximum() else 0
        wanted = self.horizontalHeader().sizeHint().height() + rows + bar + 6
        self.setFixedHeight(min(max(wanted, SHORTEST), TALLEST))

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Give what the other columns leave to the names."""
        super().resizeEvent(event)
        self._fit()

    def show_fact(self, fact: Fact) -> None:
        """Fill in what opening a slide told."""
        why = "\n".join(fact.trouble)
        if fact.slide is None:
            self._unopened = True
            self.set_text(fact.slide_id, SIZE, UNOPENED, why)
            self.set_text(fact.slide_id, MPP, "", why)
        else:
            height, width = fact.slide.shape
            size, properties = f"{width:,} x {height:,}", _properties(fact.slide)
            self.set_text(fact.slide_id, SIZE, size, properties)
            self.set_text(fact.slide_id, ID, fact.slide_id, f"{fact.slide_id}\n{size} px\n{properties}")
            self.set_text(fact.slide_id, MPP, *_mpp_text(fact.slide))
        self.show_count(fact.slide_id, fact.regions)
        self._fit()

    def show_picture(self, slide_id: str, pixels: NDArray[np.uint8]) -> None:
        """Show a slide's thumbnail beside its name; nothing happens for a slide that is not in the table."""
        if slide_id in self.ids:
            self.blockSignals(True)
            picture = pixmap(pixels, PICTURE_PX)
            icon = QIcon(picture)
            icon.addPixmap(picture, QIcon.Mode.Selected)  # else Qt tints it, and its colour is what is looked for
            self.item(self.ids.index(slide_id), ID).setIcon(icon)
            self.blockSignals(False)
            self.resizeRowToContents(self.ids.index(slide_id))
            self._fit()

    def show_count(self, slide_id: str, regions: int | None) -> None:
        """Show how many regions a slide has; None: they cannot be read."""
        self.set_text(slide_id, REGIONS, "?" if regions is None else str(regions), "Regions on this slide")

    def set_text(self, slide_id: str, column: int, text: str, tip: str) -> None:
        """Show a text in a slide's row; nothing happens for a slide that is not in the table."""
        if slide_id in self.ids and (item := self.item(self.ids.index(slide_id), column)) is not None:
            self.blockSignals(True)
            item.setText(text)
            item.setToolTip(tip)
            self.blockSignals(False)
            self.viewport().update()

    def text(self, slide_id: str, column: int) -> str:
        """Give what stands in a slide's row."""
        return str(self.item(self.ids.index(slide_id), column).text())

    def mark(self, current: str | None) -> None:
        """Select the row of the slide in view, and write its name bold."""
        self.blockSignals(True)
        for row, slide_id in enumerate(self.ids):
            font = self.item(row, ID).font()
            font.setBold(slide_id == current)
            self.item(row, ID).setFont(font)
        self.blockSignals(False)
        if current in self.ids:
            self.selectRow(self.ids.index(current))

    @property
    def selected(self) -> str | None:
        """Id of the selected row; None without one."""
        rows = self.selectionModel().selectedRows()
        return self.ids[rows[0].row()] if rows else None

    def _on_changed(self, item: QTableWidgetItem) -> None:
        if item.column() == GROUP:
            self.group_edited.emit(self.ids[item.row()], item.text())

    def _on_double_click(self, row: int, column: int) -> None:
        if column == MPP:
            self.mpp_asked.emit(self.ids[row])
        elif column != GROUP:
            self.show_asked.emit(self.ids[row])


def _item(text: str, *, editable: bool) -> QTableWidgetItem:
    item = QTableWidgetItem(text)
    flags = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable
    item.setFlags(flags | Qt.ItemFlag.ItemIsEditable if editable else flags)
    item.setToolTip(
        f"{text}\nThe patient, say: slides of one group stay on one side of the split. Double-click to change it."
        if editable
        else text
    )
    return item


def _mpp_text(slide: Slide) -> tuple[str, str]:
    if slide.mpp is None:
        return NO_MPP, "The file does not say how large a pixel is. Double-click to set it; it is never guessed."
    y, x = slide.mpp
    same = abs(y - x) < 1e-3 * x
    text = f"{x:.4g}" if same else f"{x:.4g} x {y:.4g}"
    who = "user" if slide.mpp_source == "user" else "file"
    return f"{text} ({who})", f"{x:g} x {y:g} micrometres per pixel, from: {slide.mpp_source}"


def _properties(slide: Slide) -> str:
    facts = [str(slide.path), f"{len(slide.levels)} levels"]
    if slide.channels:
        facts.append(f"channels: {', '.join(slide.channels)}; for viewing only, not for training or prediction")
    if slide.associated_names:
        facts.append(f"other images, shown on request: {', '.join(slide.associated_names)}")
    facts += [*(f"{k}: {v}" for k, v in slide.properties.items() if k != "other images")]
    return "\n".join(facts)
