"""A person at a viewer's canvas, whose clicks, drags and keys are counted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QWidget

YX = tuple[float, float]

LEFT = Qt.MouseButton.LeftButton
NONE = Qt.KeyboardModifier.NoModifier


class Person:
    """Works with the mouse in level-0 pixels (y, x) of the slide in view, and with keys on the canvas.

    Attributes
    ----------
    count : Counter
        ``clicks``, ``drags`` and ``keys`` so far; a double click counts as two clicks, a held modifier as a key.
    """

    def __init__(self, viewer: Any) -> None:
        self.viewer = viewer
        self.canvas = viewer.window._qt_viewer.canvas.native  # noqa: SLF001 - the public one is deprecated
        self.count: Counter[str] = Counter()

    def at(self, y: float, x: float) -> QPoint:
        """Where a place of the slide is on the canvas."""
        camera = self.viewer.scene.camera
        scale = np.asarray(self.viewer.layers.selection.active.scale)[-2:]
        dy, dx = ((np.array((y, x)) - 0.5) * scale - camera.center[-2:]) * camera.zoom
        return QPoint(round(self.canvas.width() / 2 + dx), round(self.canvas.height() / 2 + dy))

    def click(self, *corners: YX) -> None:
        """Click at places."""
        for corner in corners:
            self._move(corner, Qt.MouseButton.NoButton, NONE)
            QTest.mouseClick(self.canvas, LEFT, NONE, self.at(*corner))
            QTest.qWait(20)
            self.count["clicks"] += 1

    def polygon(self, *corners: YX) -> None:
        """Click corner after corner, and twice at the last."""
        self.click(*corners)
        QTest.mouseDClick(self.canvas, LEFT, NONE, self.at(*corners[-1]))
        self.count["clicks"] += 1

    def press_button(self, button: QWidget) -> None:
        """Click a button of a dock."""
        QTest.mouseClick(button, LEFT)
        self.count["clicks"] += 1

    @contextmanager
    def dragging(self, corners: Sequence[YX], modifier: Qt.KeyboardModifier = NONE, pause: int = 8) -> Iterator[None]:
        """Drag along places; what is in the block is done before the button is let go."""
        self._move(corners[0], Qt.MouseButton.NoButton, modifier)
        QTest.mousePress(self.canvas, LEFT, modifier, self.at(*corners[0]))
        for corner in corners[1:]:
            self._move(corner, LEFT, modifier)
            QTest.qWait(pause)
        yield
        QTest.mouseRelease(self.canvas, LEFT, modifier, self.at(*corners[-1]))
        self.count["drags"] += 1
        self.count["keys"] += modifier != NONE

    def drag(self, *corners: YX, modifier: Qt.KeyboardModifier = NONE) -> None:
        """Drag along places."""
        with self.dragging(corners, modifier):
            pass

    def key(self, *keys: Qt.Key, modifier: Qt.KeyboardModifier = NONE) -> None:
        """Press keys, one after the other."""
        for key in keys:
            QTest.keyClick(self.canvas, key, modifier)
            self.count["keys"] += 1
            QApplication.processEvents()

    def hover(self, *corner: float) -> None:
        """Move the mouse to a place."""
        self._move((corner[0], corner[1]), Qt.MouseButton.NoButton, NONE)

    def wait(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Let the window live until something is so.

        Raises
        ------
        TimeoutError
            If it does not come.
        """
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError
            QApplication.processEvents()
            time.sleep(0.005)

    def _move(self, corner: YX, button: Qt.MouseButton, modifier: Qt.KeyboardModifier) -> None:
        point = self.at(*corner)
        there = QPointF(point), QPointF(self.canvas.mapToGlobal(point))
        none = Qt.MouseButton.NoButton
        QApplication.sendEvent(self.canvas, QMouseEvent(QEvent.Type.MouseMove, *there, none, button, modifier))
