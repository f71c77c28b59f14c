"""What all docks share: a scrolling body, the viewer's session, and a line for messages that stay."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from psygnal import SignalInstance
from qtpy.QtCore import QEvent, QObject, QSize, Qt
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import (
    QComboBox,
    QDockWidget,
    QFrame,
    QLabel,
    QMainWindow,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_slidecorr._napari.job import session_of, watch_closing
from napari_slidecorr._napari.open_dock import Offer, holder_of
from napari_slidecorr._napari.owner_banner import OwnerBanner
from napari_slidecorr._napari.parts import timer
from napari_slidecorr.errors import SlideCorrError
from napari_slidecorr.session import sentence

ERROR_COLOR = "#e5484d"
"""Readable on the dark and on the light theme."""

WIDEST_PX = 440
"""No content may make a dock wider than this by itself; small screens have 1366 pixels."""


class MessageLine(QLabel):
    """The last thing the user was told; stays until something else is, can be selected and copied."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("message")
        self.setWordWrap(True)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.hide()

    def tell(self, text: str, is_error: bool = False) -> None:  # noqa: FBT001, FBT002 - the shape of Session.message
        """Show a sentence; an empty one hides the line."""
        self.setText(text)
        self.setProperty("error", is_error)
        self.setStyleSheet(f"color: {ERROR_COLOR}; font-weight: bold;" if is_error else "")
        self.setVisible(bool(text))


class Dock(QScrollArea):
    """A dock whose content scrolls instead of growing the window.

    Attributes
    ----------
    viewer
        As given, perhaps a proxy.
    session : Session
        Shared with the viewer's other docks.
    body : QVBoxLayout
        Where a dock puts its parts, from the top.
    message : MessageLine
        For sentences that must stay readable.
    needs_project : bool
        Whether it offers the way to one while none is open.
    """

    needs_project = True
    _was_held = False
    _newest: Callable[[], Dock | None] = staticmethod(lambda: None)

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self.viewer = viewer
        self.session = session_of(viewer)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        content = QWidget()
        content.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.MinimumExpanding)
        self.body = QVBoxLayout(content)
        self.body.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.setWidget(content)
        self.message = MessageLine()
        self.banner = OwnerBanner(self.session)
        self.body.addWidget(self.banner)
        self.listen(self.session.project_changed, self.banner.refresh)
        self._no_project = Offer(viewer)
        self.body.addWidget(self._no_project)
        self.listen(self.session.project_changed, self._offer_project)
        self._offer_project()
        self._join = timer(0, self._join_tabs, self)
        Dock._newest = weakref.ref(self)
        self.verticalScrollBar().rangeChanged.connect(self._fit_width)

    def _offer_project(self) -> None:
        """While no project is open, lead to where one is opened."""
        missing = self.needs_project and self.session.project is None
        self._no_project.offer(
            "No project is open yet; make or open one in the Slides dock." if missing else "", "Slides"
        )

    def listen(self, signal: SignalInstance, slot: Callable[..., Any]) -> None:
        """Connect a session's signal for as long as this dock lives."""
        signal.connect(slot)
        self.destroyed.connect(partial(signal.disconnect, slot, missing_ok=True))

    def attempt(self, action: Callable[[], Any]) -> bool:
        """Do what a click asks for; an error meant for the user is shown in the message line, and gives False."""
        try:
            action()
        except SlideCorrError as error:
            self.message.tell(sentence(error), is_error=True)
            return False
        return True

    def minimumSizeHint(self) -> QSize:
        """As wide as what it holds: it scrolls up and down alone, and more would be cut at the edge."""
        hint = super().minimumSizeHint()
        if (content := self.widget()) is not None:
            around = self.verticalScrollBar().sizeHint().width() + 2 * self.frameWidth()
            hint.setWidth(content.minimumSizeHint().width() + around)
        return hint

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Ask for the width anew when a part of the content is shown, such as a map's."""
        if event.type() == QEvent.Type.LayoutRequest and watched is self.widget():
            self.updateGeometry()
            self._fit_width(0, self.verticalScrollBar().maximum())  # a width that is set counts more than the hint
        return bool(super().eventFilter(watched, event))

    def shut(self) -> None:
        """Leave the picture as somebody without this dock can use it: it was closed by its x, and is deleted next."""

    def event(self, event: QEvent) -> bool:
        """Notice when the dock is closed by napari's x."""
        if event.type() == QEvent.Type.ParentChange:
            self._on_parent()
        return bool(super().event(event))

    def _on_parent(self) -> None:
        """Floating, tabs and other areas move the holder; only the x takes the dock out of it, and else leaves it alone."""
        if holder_of(self) is not None:
            self._was_held = True
        elif self._was_held:
            timer(0, partial(Dock._end_if_closed, self), self).start()  # so it lives until then, and may be put back

    def _end_if_closed(self) -> None:
        if self.parentWidget() is None:
            self.shut()
            self.deleteLater()

    def showEvent(self, event: QShowEvent) -> None:
        """Once it stands in a window, see that the window's closing ends the job."""
        super().showEvent(event)
        holder = holder_of(self)
        stands_in = holder.parentWidget() if holder is not None else None  # a floating holder is a window by itself
        watch_closing((self if stands_in is None else stands_in).window(), self.session)
        if self._join is not None:
            self._join.start()

    def _fit_width(self, _low: int, high: int) -> None:
        """Where the content scrolls, never be narrower than it and its bar, up to a bound: there is no scrolling sideways."""
        bar = self.verticalScrollBar().sizeHint().width() if high else 0
        least = min(self.widget().minimumSizeHint().width() + bar + 2 * self.frameWidth(), WIDEST_PX)
        self.setMinimumWidth(max(self.minimumWidth(), least))

    def _join_tabs(self) -> None:
        """Become a tab beside another dock; napari's menu would pile them up, each a few lines high. Later moves stay."""
        mine, window, self._join = holder_of(self), self.window(), None
        if mine is None:
            return
        mine.setWindowTitle(type(self).__name__.removesuffix("Dock"))  # short, for the tab
        if mine.isFloating() or not isinstance(window, QMainWindow):
            return
        area = window.dockWidgetArea(mine)
        for other in window.findChildren(QDockWidget):
            beside = other is not mine and not other.isFloating() and window.dockWidgetArea(other) == area
            if beside and not other.isHidden() and other.findChild(Dock) is not None:
                if mine not in window.tabifiedDockWidgets(other):
                    window.tabifyDockWidget(other, mine)
                if Dock._newest() is self:
                    mine.raise_()
                return


def narrow(combo: QComboBox) -> QComboBox:
    """Keep a combo box from growing with its longest entry, which may be a file's name of 60 letters."""
    combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    combo.setMinimumContentsLength(12)
    combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return combo


def refill(combo: QComboBox, entries: list[tuple[str, Any]]) -> None:
    """Replace a combo box's (label, data) entries and keep the old choice if it is still there; no signal in between."""
    chosen = combo.currentData()
    combo.blockSignals(True)
    combo.clear()
    for label, data in entries:
        combo.addItem(label, data)
        combo.setItemData(combo.count() - 1, label, Qt.ItemDataRole.ToolTipRole)
    combo.setCurrentIndex(max(0, next((i for i, (_, data) in enumerate(entries) if data == chosen), 0)))
    combo.blockSignals(False)
