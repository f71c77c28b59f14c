"""Small parts that docks are put together from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.compat import isalive
from qtpy.QtCore import QObject, QTimer
from qtpy.QtWidgets import QGroupBox, QHBoxLayout, QPushButton, QVBoxLayout, QWidget


def button(text: str, tip: str, clicked: Callable[[], Any]) -> QPushButton:
    """A button that says in a tool tip what it does."""
    made = QPushButton(text)
    made.setToolTip(tip)
    made.clicked.connect(lambda _checked: clicked())
    return made


def row(*widgets: QWidget) -> QWidget:
    """Widgets beside each other."""
    made = QWidget()
    layout = QHBoxLayout(made)
    layout.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        layout.addWidget(widget)
    return made


def box(title: str, *widgets: QWidget) -> QGroupBox:
    """A titled box of widgets below each other."""
    made = QGroupBox(title)
    layout = QVBoxLayout(made)
    for widget in widgets:
        layout.addWidget(widget)
    return made


def while_alive(owner: QObject, slot: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Give a slot for a job that goes on when its dock is closed: it does nothing once its owner is deleted."""

    def heard(argument: Any) -> None:
        if isalive(owner):
            slot(argument)

    return heard


def timer(milliseconds: int, action: Callable[[], Any], parent: QObject | None = None) -> QTimer:
    """A timer that fires once after each start, however often it is started before; it dies with its parent."""
    made = QTimer(parent)
    made.setSingleShot(True)
    made.setInterval(milliseconds)
    made.timeout.connect(action)
    return made
