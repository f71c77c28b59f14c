"""A part of a dock that can be folded away."""

from __future__ import annotations

from qtpy.QtGui import QIcon
from qtpy.QtWidgets import QWidget
from superqt import QCollapsible


class Fold(QCollapsible):
    """A title that shows and hides a widget; folded at first."""

    def __init__(self, title: str, widget: QWidget) -> None:
        super().__init__(f"▸ {title}", None, QIcon(), QIcon())  # its own icons are black on any theme
        self._title = title
        self.toggled.connect(self._mark)
        self.setDuration(0)
        self.layout().setContentsMargins(0, 2, 0, 2)
        self.content().layout().setContentsMargins(6, 2, 0, 2)
        self.addWidget(widget)

    def _mark(self, is_open: bool) -> None:  # noqa: FBT001 - the shape of QCollapsible.toggled
        self.setText(f"{'▾' if is_open else '▸'} {self._title}")
