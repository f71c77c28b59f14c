"""A live curve: loss and AUCs by epoch, or the held-out AUC of several runs over each other, in the theme's colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from qtpy.QtCore import QEvent, QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QHelpEvent, QPainter, QPaintEvent, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from napari_slidecorr.events import EpochDone


@dataclass(frozen=True)
class _Line:
    """One line of the chart; ``loss`` lines are read at the right axis."""

    label: str
    color: str
    value: Callable[[EpochDone], float]
    loss: bool = False


LINES = (
    _Line("AUC held out", "#e69f00", lambda epoch: epoch.validation_auc),
    _Line("AUC training", "#56b4e9", lambda epoch: epoch.train_auc),
    _Line("loss", "#cc79a7", lambda epoch: epoch.loss, loss=True),
)
"""Okabe and Ito's colours, which stand out on the dark and on the light theme."""

COLORS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#0072b2", "#f0e442")
"""Of runs over each other; further ones begin anew with another dash."""

DASHES = (Qt.PenStyle.SolidLine, Qt.PenStyle.DashLine, Qt.PenStyle.DotLine)
CHART_PX, MOST_NAMES = 150, 12


class Curve(QWidget):
    """Loss (right axis) and training and held-out AUC (left axis) of each epoch; what is NaN is left out.

    Of several runs only the held-out AUC is drawn, of each in a colour of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self._runs: dict[str, list[EpochDone]] = {"": []}
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    @property
    def epochs(self) -> list[EpochDone]:
        """The epochs of the run that is shown; of the last one when there are several."""
        return list(self._runs.values())[-1]

    @property
    def runs(self) -> dict[str, list[EpochDone]]:
        """The epochs of each run that is shown."""
        return self._runs

    def sizeHint(self) -> QSize:
        """Fit into a dock, with a line of the legend for each of several runs."""
        names = min(len(self._runs), MOST_NAMES) if self._overlaid else 1
        return QSize(260, CHART_PX + names * self.fontMetrics().height())

    def show_epochs(self, epochs: Iterable[EpochDone]) -> None:
        """Show one run."""
        self.show_runs({"": list(epochs)})

    def show_runs(self, runs: Mapping[str, Sequence[EpochDone]]) -> None:
        """Show runs over each other, by name."""
        self._runs = {name: list(epochs) for name, epochs in runs.items()} or {"": []}
        self.updateGeometry()
        self.update()

    def add(self, epoch: EpochDone) -> None:
        """Add an epoch to the run that is shown."""
        self.epochs.append(epoch)
        self.update()

    def limits(self, *, loss: bool) -> tuple[float, float]:
        """Give lower and upper end of an axis: 0.5 to 1 for AUCs unless one is lower, and all losses with 0.

        A loss with a correlation term may well be below zero.
        """
        lines = LINES[:1] if self._overlaid else [line for line in LINES if line.loss == loss]
        epochs = [epoch for run in self._runs.values() for epoch in run]
        values = [value for line in lines for epoch in epochs if math.isfinite(value := line.value(epoch))]
        if loss:
            low, high = min([0.0, *values]), max([0.0, *values])
            return low, high if high > low else 1.0
        return min(0.5, math.floor(min(values, default=0.5) * 10) / 10), 1.0

    @property
    def _overlaid(self) -> bool:
        return len(self._runs) > 1

    @property
    def _last(self) -> int:
        """Index of the last epoch on the axis, at least 1."""
        return max([1, *(epoch.epoch for run in self._runs.values() for epoch in run)])

    def _area(self) -> QRectF:
        line_height = self.fontMetrics().height()
        names = min(len(self._runs), MOST_NAMES) if self._overlaid else 1
        right = -12 if self._overlaid else -44
        return QRectF(self.rect()).adjusted(34, names * line_height + 8, right, -line_height - 6)

    def event(self, event: QEvent) -> bool:
        """Tell the values under the mouse."""
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip:
            area = self._area()
            at = round((event.pos().x() - area.left()) / max(1.0, area.width()) * self._last)
            QToolTip.showText(event.globalPos(), self.told(at), self)
            return True
        return super().event(event)

    def told(self, at: int) -> str:
        """Say the values of an epoch, given by its index; empty where there is none."""
        lines = LINES[:1] if self._overlaid else LINES
        found = [
            f"{name} {line.label}: {line.value(epoch):.3g}".strip()
            for name, run in self._runs.items()
            for epoch in run
            for line in lines
            if epoch.epoch == at and math.isfinite(line.value(epoch))
        ]
        return "\n".join([f"Epoch {at + 1}", *found]) if found else ""

    # -- painting -----------------------------------------------------------------------------------------------------

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint axes, legend and lines."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        area = self._area()
        self._paint_axes(painter, area)
        if not self._overlaid:
            self._paint_legend(painter)
            for line in LINES:
                self._paint_line(painter, area, line, self.epochs, QPen(QColor(line.color), 2))
            return
        for number, (name, epochs) in enumerate(self._runs.items()):
            pen = QPen(QColor(COLORS[number % len(COLORS)]), 2, DASHES[number // len(COLORS) % len(DASHES)])
            self._paint_line(painter, area, LINES[0], epochs, pen)
            if number < MOST_NAMES:
                self._paint_name(painter, number, name, pen)

    def _paint_axes(self, painter: QPainter, area: QRectF) -> None:
        text = self.palette().text().color()
        faint = QColor(text)
        faint.setAlphaF(0.2)
        sides = [(False, 0.0, Qt.AlignmentFlag.AlignRight), (True, area.right() + 4, Qt.AlignmentFlag.AlignLeft)]
        for part in (0.0, 0.5, 1.0):
            y = area.bottom() - part * area.height()
            painter.setPen(QPen(faint, 1))
            painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
            painter.setPen(text)
            for loss, x, side in sides[: 1 if self._overlaid else 2]:
                low, high = self.limits(loss=loss)
                box = QRectF(x, y - 8, 40 if loss else area.left() - 4, 16)
                painter.drawText(box, side | Qt.AlignmentFlag.AlignVCenter, f"{low + part * (high - low):.3g}")
        bottom = QRectF(area.left(), area.bottom() + 2, area.width(), self.height() - area.bottom() - 2)
        painter.drawText(bottom, Qt.AlignmentFlag.AlignLeft, "1")
        painter.drawText(bottom, Qt.AlignmentFlag.AlignHCenter, "held-out AUC by epoch" if self._overlaid else "epoch")
        painter.drawText(bottom, Qt.AlignmentFlag.AlignRight, str(self._last + 1))

    def _paint_legend(self, painter: QPainter) -> None:
        x = 34.0
        metrics = painter.fontMetrics()
        leaky = any(epoch.leaky for epoch in self.epochs)
        for line in LINES:
            label = "AUC leaky" if leaky and line is LINES[0] else line.label
            painter.setPen(QPen(QColor(line.color), 3))
            painter.drawLine(QPointF(x, metrics.height() / 2), QPointF(x + 12, metrics.height() / 2))
            painter.setPen(self.palette().text().color())
            painter.drawText(QPointF(x + 16, metrics.ascent()), label)
            x += 28 + metrics.horizontalAdvance(label)

    def _paint_name(self, painter: QPainter, number: int, name: str, pen: QPen) -> None:
        metrics = painter.fontMetrics()
        top = number * metrics.height()
        painter.setPen(pen)
        painter.drawLine(QPointF(34, top + metrics.height() / 2), QPointF(52, top + metrics.height() / 2))
        painter.setPen(self.palette().text().color())
        short = metrics.elidedText(name, Qt.TextElideMode.ElideMiddle, max(40, self.width() - 62))
        painter.drawText(QPointF(58, top + metrics.ascent()), short)

    def _paint_line(self, painter: QPainter, area: QRectF, line: _Line, epochs: Sequence[EpochDone], pen: QPen) -> None:
        low, high = self.limits(loss=line.loss)
        points = [
            QPointF(
                area.left() + epoch.epoch / self._last * area.width(),
                area.bottom() - (value - low) / (high - low) * area.height(),
            )
            for epoch in epochs
            if math.isfinite(value := line.value(epoch))
        ]
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(pen)
        painter.drawPolyline(QPolygonF(points))
        painter.setBrush(pen.color())
        for point in points if len(points) < 40 else []:
            painter.drawEllipse(point, 2, 2)
