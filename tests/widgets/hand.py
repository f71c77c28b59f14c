"""A hand on the mouse and the keyboard, over the canvas of a shown viewer."""

import numpy as np
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QApplication
from vispy.util import keys


class Hand:
    """Goes to level-0 pixels (y, x) of the slide whose Shapes layer is given.

    All goes through Qt's own mouse events on the canvas; keys through the canvas' key handler.
    """

    def __init__(self, viewer, qtbot):
        self.viewer, self.qtbot = viewer, qtbot
        self.canvas = viewer.window._qt_viewer.canvas.native

    def at(self, y, x):
        camera = self.viewer.scene.camera
        scale = self.viewer.layers.selection.active.scale
        dy, dx = (np.array((y, x)) * scale - camera.center[-2:]) * camera.zoom
        point = QPoint(round(self.canvas.width() / 2 + dx), round(self.canvas.height() / 2 + dy))
        assert self.canvas.rect().contains(point), f"{(y, x)} is not in view"
        return point

    def move(self, y, x, button=Qt.MouseButton.NoButton):
        """Move the mouse as the window sees it; the display's pointer would tell of it when it likes, even after a click."""
        point = self.at(y, x)
        there = QPointF(point), QPointF(self.canvas.mapToGlobal(point))
        none = Qt.MouseButton.NoButton, button, Qt.KeyboardModifier.NoModifier
        QApplication.sendEvent(self.canvas, QMouseEvent(QEvent.Type.MouseMove, *there, *none))

    def click(self, *corners):
        for corner in corners:
            self.move(*corner)
            self.qtbot.mouseClick(self.canvas, Qt.MouseButton.LeftButton, pos=self.at(*corner))
            self.qtbot.wait(30)

    def double_click(self, *corner):
        self.click(corner)
        self.qtbot.mouseDClick(self.canvas, Qt.MouseButton.LeftButton, pos=self.at(*corner))

    def polygon(self, *corners):
        self.click(*corners[:-1])
        self.double_click(*corners[-1])

    def drag(self, *corners):
        self.qtbot.mousePress(self.canvas, Qt.MouseButton.LeftButton, pos=self.at(*corners[0]))
        for corner in corners[1:]:
            self.move(*corner, Qt.MouseButton.LeftButton)
            self.qtbot.wait(20)
        self.qtbot.mouseRelease(self.canvas, Qt.MouseButton.LeftButton, pos=self.at(*corners[-1]))

    def press(self, *names):
        for name in names:
            key = keys.Key(name) if len(name) == 1 else getattr(keys, name.upper())
            events = self.viewer.window._qt_viewer.canvas._scene_canvas.events
            events.key_press(key=key, modifiers=(), text="")
            events.key_release(key=key, modifiers=(), text="")
