"""What the window shows of the slide in view, followed while a map is made."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QObject

from napari_slidecorr._napari.layers import find_layer
from napari_slidecorr._napari.parts import timer
from napari_slidecorr.geometry import Box
from napari_slidecorr.session import Session
from napari_slidecorr.wanted import Wanted

STILL_MS = 150
"""The view counts as chosen when the camera has stood still for so long."""


class Gaze(QObject):
    """Follows the camera, and says where it rests to whoever makes a map.

    Parameters
    ----------
    viewer
        As a dock has it, perhaps a proxy.
    session : Session
    parent : QObject

    Attributes
    ----------
    wanted : Wanted
        To be handed to a prediction; asked there, in the job's thread.
    """

    def __init__(self, viewer: Any, session: Session, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = getattr(viewer, "__wrapped__", viewer)
        self._session = session
        self.wanted = Wanted()
        self._soon = timer(STILL_MS, self.look, self)
        events = self._viewer.scene.camera.events
        for event in (events.center, events.zoom):
            event.connect(self._on_camera)
        parent.destroyed.connect(lambda: [event.disconnect(self._on_camera) for event in (events.center, events.zoom)])

    def look(self) -> None:
        """Say now what is in view."""
        self.wanted.look(self._session.current_slide or "", self.box())

    def box(self) -> Box | None:
        """What the window shows of the slide in view, in level-0 pixels; None when that is nothing."""
        layer = find_layer(self._viewer, "slide", self._session.current_slide or "")
        if layer is None:
            return None
        factor = layer.downsample_factors[layer.data_level][:2]
        (y0, x0), (y1, x1) = (layer.corner_pixels[:, :2] * factor).round().astype(int).tolist()
        return Box(y0, x0, y1, x1) if y1 > y0 and x1 > x0 else None

    def _on_camera(self, _event: Any = None) -> None:
        self._soon.start()
