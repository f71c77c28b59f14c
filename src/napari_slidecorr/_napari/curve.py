"""A live curve: loss and AUCs by epoch, painted in the theme's colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

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


class Curve(QWidget):
    """Loss (right axis) and training and held-out AUC (left axis) of each epoch; what is NaN is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[EpochDone] = []
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:
        """Fit into a dock."""
        return QSize(260, 170)

    def show_epochs(self, epochs: Iterable[EpochDone]) -> None:
        """Replace what is shown."""
        self.epochs = list(epochs)
        self.update()

    def add(self, epoch: EpochDone) -> None:
        """Add an epoch."""
        self.epochs.append(epoch)
        self.update()

    def limits(self, *, loss: bool) -> tuple[float, float]:
        """Give lower and upper end of an axis: 0.5 to 1 for AUCs unless one is lower, and all losses with 0.

        A loss with a correlation term may well be below zero.
        """
        values = [v for line in LINES if line.loss == loss for e in self.epochs if math.isfinite(v := line.value(e))]
        if loss:
            low, high = min([0.0, *values]), max([0.0, *values])
            return low, high if high > low else 1.0
        return min(0.5, math.floor(min(values, default=0.5) * 10) / 10), 1.0

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint axes, legend and lines."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        line_height = painter.fontMetrics().height()
        area = QRectF(self.rect()).adjusted(34, line_height + 8, -44, -line_height - 6)
        self._paint_axes(painter, area)
        self._paint_legend(painter)
        for line in LINES:
            self._paint_line(painter, area, line)

    def _paint_axes(self, painter: QPainter, area: QRectF) -> None:
        text = self.palette().text().color()
        faint = QColor(text)
        faint.setAlphaF(0.2)
        for part in (0.0, 0.5, 1.0):
            y = area.bottom() - part * area.height()
            painter.setPen(QPen(faint, 1))
            painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
            painter.setPen(text)
            for loss, x, side in (
                (False, 0, Qt.AlignmentFlag.AlignRight),
                (True, area.right() + 4, Qt.AlignmentFlag.AlignLeft),
            ):
                low, high = self.limits(loss=loss)
                box = QRectF(x, y - 8, 40 if loss else area.left() - 4, 16)
                painter.drawText(box, side | Qt.AlignmentFlag.AlignVCenter, f"{low + part * (high - low):.3g}")
        bottom = QRectF(area.left(), area.bottom() + 2, area.width(), self.height() - area.bottom() - 2)
        painter.drawText(bottom, Qt.AlignmentFlag.AlignLeft, "1")
        painter.drawText(bottom, Qt.AlignmentFlag.AlignHCenter, "epoch")
        painter.drawText(bottom, Qt.AlignmentFlag.AlignRight, str(max(2, len(self.epochs))))

    def _paint_legend(self, painter: QPainter) -> None:
        x = 34.0
        metrics = painter.fontMetrics()
        for line in LINES:
            painter.setPen(QPen(QColor(line.color), 3))
            painter.drawLine(QPointF(x, metrics.height() / 2), QPointF(x + 12, metrics.height() / 2))
            painter.setPen(self.palette().text().color())
            painter.drawText(QPointF(x + 16, metrics.ascent()), line.label)
            x += 28 + metrics.horizontalAdvance(line.label)

    def _paint_line(self, painter: QPainter, area: QRectF, line: _Line) -> None:
        low, high = self.limits(loss=line.loss)
        step = area.width() / max(1, len(self.epochs) - 1)
        points = [
            QPointF(area.left() + i * step, area.bottom() - (value - low) / (high - low) * area.height())
            for i, epoch in enumerate(self.epochs)
            if math.isfinite(value := line.value(epoch))
        ]
        painter.setPen(QPen(QColor(line.color), 2))
        painter.drawPolyline(QPolygonF(points))
        painter.setBrush(QColor(line.color))
        for point in points if len(points) < 40 else []:
            painter.drawEllipse(point, 2, 2)
