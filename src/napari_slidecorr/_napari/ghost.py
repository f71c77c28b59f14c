"""What a tool shows while the hand draws: outlines and a brush's ring over the canvas, no layer and no region."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QEvent, QObject, QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QFontMetrics, QPainter, QPainterPath, QPaintEvent, QPen, QPolygonF
from qtpy.QtWidgets import QWidget
from shapely import Polygon

FILL = 70
CUT_COLOR = (255, 70, 70)
_HALF = 0.5


@dataclass(frozen=True, eq=False)
class Sketch:
    """One thing to draw.

    Attributes
    ----------
    rings : sequence of ndarray, shape (n, 2)
        Level-0 pixels (y, x), corner-based; the first is the outline, the others are holes.
    color : (int, int, int)
    closed : bool
        Whether it is an area; else a line.
    """

    rings: Sequence[NDArray[np.float64]]
    color: tuple[int, int, int]
    closed: bool = True


def sketch_of(polygon: Polygon, color: tuple[int, int, int]) -> Sketch:
    """Give a polygon to draw, holes included."""
    rings = (polygon.exterior, *polygon.interiors)
    return Sketch([np.asarray(ring.coords, np.float64) for ring in rings], color)


class Ghost(QWidget):
    """A clear sheet over the canvas, which the mouse goes through.

    Parameters
    ----------
    canvas : QWidget
        The canvas' own widget; the sheet lives as long and is as large.
    camera
        The viewer's camera: where the canvas looks.
    """

    def __init__(self, canvas: QWidget, camera: Any) -> None:
        super().__init__(canvas)
        self._camera = camera
        self._scale = np.ones(2)
        self.sketches: tuple[Sketch, ...] = ()
        self.ring: tuple[float, float, float] | None = None
        self.note = ""
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setAttribute(Qt.WidgetAttribute.WA_NoSystemBackground)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        canvas.installEventFilter(self)
        camera.events.connect(self._on_camera)
        self.resize(canvas.size())
        self.hide()

    def draw(
        self,
        scale: Sequence[float] | NDArray[np.float64],
        sketches: Sequence[Sketch] = (),
        ring: tuple[float, float, float] | None = None,
        note: str = "",
    ) -> None:
        """Show this instead of what is shown.

        Parameters
        ----------
        scale : (float, float)
            Of the regions' layer.
        ring : (float, float, float), optional
            Place (y, x) in level-0 pixels and radius in screen pixels of a brush.
        note : str
            A word beside the mouse.
        """
        self._scale = np.asarray(scale, float)[-2:]
        self.sketches, self.ring, self.note = tuple(sketches), ring, note
        self.setVisible(bool(sketches or ring or note))
        self.raise_()
        self.update()

    def clear(self) -> None:
        """Show nothing."""
        self.draw(self._scale)

    def to_screen(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Level-0 pixels (y, x) to the canvas' pixels (x, y), both shape (n, 2)."""
        world = (np.asarray(points, float) - _HALF) * self._scale
        seen = (world - np.asarray(self._camera.center)[-2:]) * self._camera.zoom
        return np.asarray(seen[:, ::-1] + (self.width() / 2, self.height() / 2))

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Draw outlines, the ring and the note."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        for sketch in self.sketches:
            self._paint_sketch(painter, sketch)
        if self.ring is not None:
            self._paint_ring(painter, *self.ring)
        painter.end()

    def _paint_sketch(self, painter: QPainter, sketch: Sketch) -> None:
        path = QPainterPath()
        for ring in sketch.rings:
            points = QPolygonF([QPointF(x, y) for x, y in self.to_screen(ring)])
            path.addPolygon(points)
        fill = QColor(*sketch.color, FILL)
        painter.setBrush(fill if sketch.closed else Qt.BrushStyle.NoBrush)
        for color, width in ((QColor(255, 255, 255, 190), 4.0), (QColor(*sketch.color), 2.0)):
            painter.setPen(QPen(color, width))
            painter.drawPath(path)
            painter.setBrush(Qt.BrushStyle.NoBrush)

    def _paint_ring(self, painter: QPainter, y: float, x: float, radius: float) -> None:
        at = QPointF(*self.to_screen(np.array([[y, x]]))[0])
        painter.setBrush(Qt.BrushStyle.NoBrush)
        for color, width in ((QColor(255, 255, 255), 3.0), (QColor(20, 20, 20), 1.2)):
            painter.setPen(QPen(color, width))
            painter.drawEllipse(at, radius, radius)
        if self.note:
            self._paint_note(painter, at + QPointF(radius + 8, 0))

    def _paint_note(self, painter: QPainter, at: QPointF) -> None:
        size = QFontMetrics(self.font()).boundingRect(self.note)
        frame = QRectF(at.x(), at.y() - size.height(), size.width() + 12, size.height() + 8)
        frame.moveRight(min(frame.right(), self.width() - 4))
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(20, 20, 20, 210))
        painter.drawRoundedRect(frame, 4, 4)
        painter.setPen(QColor(255, 255, 255))
        painter.drawText(frame, Qt.AlignmentFlag.AlignCenter, self.note)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Stay as large as the canvas; the ring goes when the mouse leaves it."""
        if event.type() == QEvent.Type.Resize:
            self.resize(event.size())
        elif event.type() == QEvent.Type.Leave and self.ring is not None:
            self.clear()
        return super().eventFilter(watched, event)

    def _on_camera(self, _event: Any = None) -> None:
        if self.isVisible():
            self.update()


def ghost_of(viewer: Any) -> Ghost | None:
    """Give the one sheet over a viewer's canvas, made at the first call; None for a viewer without a window."""
    window = getattr(viewer, "window", None)
    if window is None:
        return None
    canvas = window._qt_viewer.canvas.native  # noqa: SLF001 - the public way to the canvas is deprecated
    found: Ghost | None = canvas.findChild(Ghost)
    return found if found is not None else Ghost(canvas, viewer.scene.camera)
