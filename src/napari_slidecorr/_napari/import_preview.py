"""What importing a file of regions would do, to be looked at first: classes, a picture, and other meanings of its coordinates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QPointF, Qt
from qtpy.QtGui import QColor, QPainter, QPainterPath, QPen, QPixmap, QPolygonF
from qtpy.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QRadioButton,
    QSizePolicy,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_slidecorr._napari.associated import pixmap
from napari_slidecorr._napari.dock import ERROR_COLOR, narrow
from napari_slidecorr._napari.errands import Errands
from napari_slidecorr._napari.layers import UNCLASSED
from napari_slidecorr._napari.parts import box
from napari_slidecorr.region_transform import IDENTITY, Transform
from napari_slidecorr.regions import IGNORE
from napari_slidecorr.session import sentence

if TYPE_CHECKING:
    from napari_slidecorr.region_import import ImportPlan

PICTURE_PX = 400
TALLEST_TABLE_PX = 220
ROW_PX = 32
COLUMNS = ("In the file", "Regions", "Becomes")
LEAVE_OUT, NO_CLASS = "leave them out", "(no class)"
FILL = 60
Colors = Mapping[str, tuple[int, int, int]]


class ImportPreview(QDialog):
    """Shows a plan; `plan` is the one to carry out when it was accepted.

    Parameters
    ----------
    plan : ImportPlan
    picture : ndarray, shape (h, w, 3), uint8, or None
        The slide's thumbnail.
    shape : (int, int)
        Rows and columns of level 0.
    classes : sequence of str
        Of the project.
    colors : dict of str to (int, int, int)
    parent : QWidget
    """

    def __init__(
        self,
        plan: ImportPlan,
        picture: NDArray[np.uint8] | None,
        shape: tuple[int, int],
        classes: Iterable[str],
        colors: Colors,
        parent: QWidget,
    ) -> None:
        super().__init__(parent)
        self.setWindowTitle(f"Import {plan.path.name}")
        self.plan, self._shape, self._classes, self._colors = plan, shape, tuple(classes), dict(colors)
        self._errands = Errands(self)
        self._waiting: list[Callable[[ImportPlan], ImportPlan]] = []
        self._under = pixmap(picture, PICTURE_PX) if picture is not None else _blank(shape)
        self.headline, self.picture, self.where, self.left_out = QLabel(), QLabel(), QLabel(), QLabel()
        self.meanings: dict[QRadioButton, Transform] = {}
        self.becomes: dict[str, QComboBox] = {}
        self.buttons = QDialogButtonBox()
        self.import_button = self.buttons.addButton("Import", QDialogButtonBox.ButtonRole.AcceptRole)
        self.buttons.addButton(QDialogButtonBox.StandardButton.Cancel)
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        self._lay_out()
        self._show()

    # -- parts --------------------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        for label in (self.headline, self.where, self.left_out):
            label.setWordWrap(True)
            label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
            label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        left = QVBoxLayout()
        left.addWidget(self.picture, alignment=Qt.AlignmentFlag.AlignHCenter | Qt.AlignmentFlag.AlignTop)
        left.addWidget(self.where)
        left.addStretch(1)
        right = QVBoxLayout()
        right.addWidget(box("Classes", self._table()))
        right.addWidget(box("Coordinates", *self._meanings()))
        right.addWidget(box("Left out, mended, decided", self.left_out))
        right.addStretch(1)
        middle = QHBoxLayout()
        middle.addLayout(left, 5)
        middle.addLayout(right, 6)
        whole = QVBoxLayout(self)
        whole.addWidget(self.headline)
        whole.addLayout(middle)
        whole.addWidget(self.buttons)
        self.resize(2 * PICTURE_PX + 120, PICTURE_PX + 140)

    def _table(self) -> QTableWidget:
        table = QTableWidget(len(self.plan.classes), len(COLUMNS))
        table.setHorizontalHeaderLabels(COLUMNS)
        table.verticalHeader().hide()
        table.setSelectionMode(QTableWidget.SelectionMode.NoSelection)
        table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        table.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        for number, mode in enumerate(("Stretch", "ResizeToContents", "Stretch")):
            table.horizontalHeader().setSectionResizeMode(number, QHeaderView.ResizeMode[mode])
        for row, planned in enumerate(self.plan.classes):
            for column, text in enumerate((planned.name or NO_CLASS, f"{planned.regions:,}")):
                table.setItem(row, column, QTableWidgetItem(text))
                table.item(row, column).setToolTip(text)
            table.setCellWidget(row, 2, self._choice(planned.name, planned.project_class))
            table.setRowHeight(row, ROW_PX)
        wanted = ROW_PX * table.rowCount() + table.horizontalHeader().sizeHint().height() + 12
        table.setFixedHeight(min(wanted, TALLEST_TABLE_PX))
        return table

    def _choice(self, name: str, proposed: str | None) -> QComboBox:
        made = self.becomes[name] = narrow(QComboBox())
        known = [*self._classes, IGNORE]
        if proposed and proposed not in known:
            made.addItem(f"{proposed} (new)", proposed)
        elif name and name not in known:
            made.addItem(f"{name} (new)", name)
        for each in known:
            made.addItem(each, each)
        made.addItem(NO_CLASS, "")
        made.addItem(LEAVE_OUT, None)
        made.setCurrentIndex(made.findData(proposed))
        made.setToolTip("Which class of the project its regions get.")
        made.currentIndexChanged.connect(partial(self._on_class, name))
        return made

    def _meanings(self) -> list[QWidget]:
        """A button for the file's own coordinates, and one for each other meaning with which more lies on tissue."""
        group = QButtonGroup(self)
        own = self._share(self.plan.on_tissue, self.plan.outside)
        self._meaning(f"as they are in the file{own}", IDENTITY, "", group)
        for other in self.plan.suggestions:
            self._meaning(
                f"{other.transform.text}{self._share(other.on_tissue, other.outside)}",
                other.transform,
                other.why,
                group,
            )
        next(iter(self.meanings)).setChecked(True)
        return list(self.meanings)

    def _meaning(self, text: str, transform: Transform, why: str, group: QButtonGroup) -> None:
        made = QRadioButton(text)
        made.setToolTip(why)
        made.toggled.connect(partial(self._on_meaning, transform))
        group.addButton(made)
        self.meanings[made] = transform

    def _share(self, on_tissue: float | None, outside: float | None) -> str:
        known = [f"{on_tissue:.0%} on tissue"] if on_tissue is not None else []
        known += [f"{outside:.0%} outside"] if outside else []
        return f": {', '.join(known)}" if known else ""

    # -- what happens -------------------------------------------------------------------------------------------------

    def _on_meaning(self, transform: Transform, on: bool) -> None:  # noqa: FBT001 - the shape of Qt's signal
        if on:
            self._replan(lambda plan: plan.with_transform(transform))

    def _on_class(self, name: str, _index: int) -> None:
        chosen = self.becomes[name].currentData()
        self._replan(lambda plan: plan.with_mapping({name: chosen}))

    def _replan(self, change: Callable[[ImportPlan], ImportPlan]) -> None:
        """Plan anew in a thread; changes wait for each other, so that none is lost."""
        self._waiting = [*self._waiting, change]
        self.import_button.setEnabled(False)
        if not self._errands.running:
            self._next()

    def _next(self) -> None:
        plan, changes = self.plan, self._waiting
        self._waiting = []

        def work() -> ImportPlan:
            made = plan
            for change in changes:
                made = change(made)
            return made

        self._errands.run(work, self._on_planned, self._on_failed)

    def _on_planned(self, plan: ImportPlan) -> None:
        self.plan = plan
        self._show()
        if self._waiting:
            self._next()

    def _on_failed(self, error: BaseException) -> None:
        self.where.setText(sentence(error))
        self.where.setStyleSheet(f"color: {ERROR_COLOR}; font-weight: bold;")

    def _show(self) -> None:
        plan = self.plan
        classes = len({region.class_name for region in plan.regions})
        self.headline.setText(
            f"<b>{len(plan.regions):,} regions</b> of {classes} classes would be added from <i>{escape(plan.path.name)}</i> ({escape(plan.format)})."
        )
        self.picture.setPixmap(_drawn(self._under, plan, self._shape, {**plan.colors, **self._colors}))
        self.where.setText(self._where())
        self.where.setStyleSheet(f"color: {ERROR_COLOR}; font-weight: bold;" if plan.poor else "")
        lines = [f"{text} ({n:,}x)" for told in (plan.skipped, plan.repaired, plan.notes) for text, n in told.items()]
        self.left_out.setText("\n".join(lines) or "Nothing.")
        self.import_button.setEnabled(len(plan.regions) > 0 and not self._waiting)

    def _where(self) -> str:
        share = self._share(self.plan.on_tissue, self.plan.outside).removeprefix(": ")
        if not share:
            return "Nothing is known of the slide's tissue."
        advice = (
            " Do they belong to this slide? Look at the other meanings of the coordinates." if self.plan.poor else ""
        )
        return f"Of their area, {share}.{advice}"


def _blank(shape: tuple[int, int]) -> QPixmap:
    """A grey sheet of a slide's shape, where it has no picture."""
    height, width = shape
    factor = PICTURE_PX / max(height, width)
    made = QPixmap(max(1, round(width * factor)), max(1, round(height * factor)))
    made.fill(QColor(90, 90, 90))
    return made


def _drawn(under: QPixmap, plan: ImportPlan, shape: tuple[int, int], colors: Colors) -> QPixmap:
    """Draw the regions over the slide's picture; those beyond its edge are cut."""
    made = QPixmap(under)
    painter = QPainter(made)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.scale(made.width() / shape[1], made.height() / shape[0])
    for region in plan.regions:
        color = QColor(*colors.get(region.class_name, UNCLASSED))
        pen = QPen(color, 1.6)
        pen.setCosmetic(True)
        painter.setPen(pen)
        painter.setBrush(QColor(color.red(), color.green(), color.blue(), FILL))
        painter.drawPath(_path(region.polygon))
    painter.end()
    return made


def _path(polygon: Any) -> QPainterPath:
    path = QPainterPath()
    for ring in (polygon.exterior, *polygon.interiors):
        path.addPolygon(QPolygonF([QPointF(x, y) for y, x in ring.coords]))
    return path
