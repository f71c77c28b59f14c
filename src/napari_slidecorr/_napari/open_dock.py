"""Open another dock of the plugin, and the row that offers it where something is missing."""

from __future__ import annotations

from typing import Any, Literal

from npe2 import PluginManager
from qtpy.QtWidgets import QDockWidget, QFrame, QLabel, QSizePolicy, QVBoxLayout, QWidget

from napari_slidecorr._napari.parts import button

PLUGIN, DISPLAY_NAME = "napari-slidecorr", "Slide correlation"
DockName = Literal["Slides", "Regions", "Training", "Prediction", "Diagnostics"]


def open_dock(viewer: Any, name: DockName) -> Any:
    """Open a dock beside the others, or bring the open one to the front; gives its window.

    It gets the name that napari's menu gives it, which else would open a second one.
    """
    names = (f"{name} ({DISPLAY_NAME})", f"{name} ({PLUGIN})")
    opened = viewer.window.dock_widgets
    content = next((opened[each] for each in names if each in opened), None)
    if content is None:
        make = PluginManager.instance().commands.get(f"{PLUGIN}.{name.lower()}")
        content = make(viewer)
        viewer.window.add_dock_widget(content, name=names[0], tabify=True)
    window = holder_of(content)
    if window is not None:
        window.show()
        window.raise_()
    return window


def holder_of(content: QWidget) -> QDockWidget | None:
    """Give the dock widget that a content stands in."""
    holder = content.parentWidget()
    while holder is not None and not isinstance(holder, QDockWidget):
        holder = holder.parentWidget()
    return holder


class Offer(QFrame):
    """A sentence, and the button that leads to the dock it speaks of.

    Parameters
    ----------
    viewer
        Whose docks are opened.
    """

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self.setObjectName("offer")
        self._viewer = viewer
        self._dock: DockName | None = None
        self.label = QLabel()
        self.label.setWordWrap(True)
        self.label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.button = button("", "", self._open)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.label)
        layout.addWidget(self.button)
        self.offer("")

    def offer(self, text: str, dock: DockName | None = None) -> None:
        """Say something and offer a dock, if one is named; an empty text hides all."""
        self._dock = dock
        self.label.setText(text)
        self.button.setText(f"Open {dock}")
        self.button.setToolTip(f"Open the {dock} dock beside this one.")
        self.button.setVisible(dock is not None)
        self.setVisible(bool(text))

    def _open(self) -> None:
        if self._dock is not None:
            open_dock(self._viewer, self._dock)
