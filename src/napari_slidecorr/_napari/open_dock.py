"""Open another dock of the plugin, and the row that offers it where something is missing."""

from __future__ import annotations

from typing import Any, Literal

from qtpy.QtWidgets import QFrame, QLabel, QSizePolicy, QVBoxLayout

from napari_slidecorr._napari.parts import button

PLUGIN = "napari-slidecorr"
DockName = Literal["Slides", "Regions", "Training", "Prediction", "Diagnostics"]


def open_dock(viewer: Any, name: DockName) -> Any:
    """Open a dock beside the others, or bring the open one to the front; gives its window."""
    window, _ = viewer.window.add_plugin_dock_widget(PLUGIN, name, tabify=True)
    window.show()
    window.raise_()
    return window


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
