"""How alike slides are to a model, as a square of colours."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qtpy.QtCore import QRectF, QSize
from qtpy.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

ALIKE, UNLIKE = QColor("#d55e00"), QColor("#0072b2")


class Likeness(QWidget):
    """Mean cosine between the patches of each two slides, inside a class; orange: alike, blue: opposite."""

    def __init__(self) -> None:
        super().__init__()
        self.slides: tuple[str, ...] = ()
        self.values: tuple[tuple[float | None, ...], ...] = ()
        self.setMouseTracking(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:
        """A square that fits into a dock."""
        return QSize(300, 300)

    def show_likeness(self, slides: Sequence[str], values: Sequence[Sequence[float | None]]) -> None:
        """Replace what is shown."""
        self.slides, self.values = tuple(slides), tuple(tuple(row) for row in values)
        self.update()

    def _area(self) -> QRectF:
        side = min(self.width(), self.height()) - 4
        return QRectF(2, 2, side, side)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint a small square for each two slides."""
        painter = QPainter(self)
        area, count = self._area(), max(1, len(self.slides))
        most = max((abs(v) for row in self.values for v in row if v is not None), default=1.0) or 1.0
        side = area.width() / count
        for i, row in enumerate(self.values):
            for j, value in enumerate(row):
                if value is None or not math.isfinite(value):
                    continue
                color = QColor(ALIKE if value > 0 else UNLIKE)
                color.setAlphaF(min(1.0, abs(value) / most))
                painter.fillRect(QRectF(area.left() + j * side, area.top() + i * side, side, side), color)
        painter.setPen(self.palette().text().color())
        painter.drawRect(area)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Say which two slides are under the mouse."""
        QToolTip.showText(
            event.globalPosition().toPoint(), self.told_at(event.position().x(), event.position().y()), self
        )

    def told_at(self, x: float, y: float) -> str:
        """What the tool tip says at a place of the widget."""
        area = self._area()
        if not self.slides or not area.contains(x, y):
            return ""
        i, j = (int((at - 2) / area.width() * len(self.slides)) for at in (y, x))
        i, j = min(i, len(self.slides) - 1), min(j, len(self.slides) - 1)
        value = self.values[i][j]
        said = "not known" if value is None else f"{value:+.3f}"
        return f"{self.slides[i]}\n{self.slides[j]}\nmean cosine inside a class: {said}"


def key_text() -> str:
    """What the colours mean, as rich text."""
    return (
        f"<span style='color:{ALIKE.name()}'>&#9632;</span> alike "
        f"<span style='color:{UNLIKE.name()}'>&#9632;</span> opposite; the diagonal is each slide with itself"
    )
