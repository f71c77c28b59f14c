"""The map of features: a point a patch, coloured by slide, group, class or error; a click or a lasso chooses patches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from napari_slidecorr.diagnostics.diagnosis import ShownPatch

BY = ("slide", "group", "class", "error")
COLORS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#999999", "#8c6bb1", "#66c2a5")
RIGHT, WRONG = "#56b4e9", "#d55e00"
POINT_PX, NEAR_PX, MARGIN_PX = 3.0, 12.0, 12


class FeatureMap(QWidget):
    """Points of a diagnosis.

    Attributes
    ----------
    clicked
        Carries the index of the patch nearest to a click.
    chosen
        Carries the indices of the patches inside a lasso.
    """

    clicked = Signal(int)
    chosen = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.patches: tuple[ShownPatch, ...] = ()
        self.by = "slide"
        self._at: NDArray[np.float64] = np.zeros((0, 2))
        self._lasso: list[QPointF] = []
        self._marked: set[int] = set()
        self.setMouseTracking(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setCursor(Qt.CursorShape.CrossCursor)

    def sizeHint(self) -> QSize:
        """Fit into a dock."""
        return QSize(320, 280)

    def show_patches(self, patches: Sequence[ShownPatch]) -> None:
        """Replace what is shown."""
        self.patches, self._marked, self._lasso = tuple(patches), set(), []
        self._at = np.asarray([patch.at for patch in patches], np.float64).reshape(-1, 2)
        self.update()

    def colour_by(self, by: str) -> None:
        """Colour by one of `BY`."""
        self.by = by
        self.update()

    def names(self) -> list[str]:
        """What the colours stand for, in their order."""
        return sorted({self._name(patch) for patch in self.patches})

    def color_of(self, name: str) -> str:
        """The colour of a name; beyond ten they come again."""
        if self.by == "error":
            return WRONG if name == "wrong" else RIGHT
        return COLORS[self.names().index(name) % len(COLORS)]

    def mark(self, indices: Sequence[int]) -> None:
        """Ring some points."""
        self._marked = set(indices)
        self.update()

    def places(self) -> NDArray[np.float64]:
        """Where the points lie in the widget, x and y in pixels, shape (N, 2)."""
        if not len(self._at):
            return self._at
        low, high = self._at.min(axis=0), self._at.max(axis=0)
        room = np.asarray([self.width(), self.height()]) - 2 * MARGIN_PX
        return (self._at - low) / np.maximum(high - low, 1e-9) * room + MARGIN_PX

    def _name(self, patch: ShownPatch) -> str:
        if self.by == "error":
            return "right" if patch.right else "wrong"
        return {"slide": patch.slide, "group": patch.group, "class": patch.label}[self.by]

    def _nearest(self, place: QPointF) -> int | None:
        if not self.patches:
            return None
        distance = np.linalg.norm(self.places() - (place.x(), place.y()), axis=1)
        index = int(distance.argmin())
        return index if distance[index] <= NEAR_PX else None

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint points, rings and the lasso."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        text = self.palette().text().color()
        if not self.patches:
            painter.setPen(text)
            painter.drawText(QRectF(self.rect()), Qt.AlignmentFlag.AlignCenter, "No diagnosis yet")
            return
        colors = {name: QColor(self.color_of(name)) for name in self.names()}
        painter.setPen(Qt.PenStyle.NoPen)
        for patch, (x, y) in zip(self.patches, self.places(), strict=True):
            painter.setBrush(colors[self._name(patch)])
            painter.drawEllipse(QPointF(x, y), POINT_PX, POINT_PX)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QPen(text, 1.5))
        for index in self._marked:
            x, y = self.places()[index]
            painter.drawEllipse(QPointF(x, y), POINT_PX + 3, POINT_PX + 3)
        if len(self._lasso) > 1:
            painter.drawPolygon(QPolygonF(self._lasso))

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Begin a click or a lasso."""
        self._lasso = [event.position()]

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Draw the lasso, or say which patch is under the mouse."""
        if event.buttons() & Qt.MouseButton.LeftButton:
            self._lasso.append(event.position())
            self.update()
            return
        index = self._nearest(event.position())
        told = "" if index is None else _told(self.patches[index])
        QToolTip.showText(event.globalPosition().toPoint(), told, self)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """End it."""
        lasso, self._lasso = self._lasso, []
        spread = QPolygonF(lasso).boundingRect()
        if len(lasso) < 4 or max(spread.width(), spread.height()) < NEAR_PX:
            index = self._nearest(event.position())
            if index is not None:
                self.mark([index])
                self.clicked.emit(index)
        else:
            area = QPolygonF(lasso)
            inside = [
                i
                for i, (x, y) in enumerate(self.places())
                if area.containsPoint(QPointF(x, y), Qt.FillRule.OddEvenFill)
            ]
            self.mark(inside)
            self.chosen.emit(inside)
        self.update()


def _told(patch: ShownPatch) -> str:
    verdict = "right" if patch.right else "wrong"
    return f"{patch.slide}\n{patch.label}: {patch.probability:.2f}, {verdict}\nClick to go there."
