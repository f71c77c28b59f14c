"""What the window shows of the slide in view, followed while a map is made."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import QObject

from napari_slidecorr._napari.layers import find_layer, identity
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
        """What the window shows of the slide in view, in level-0 pixels; None when that is nothing.

        From the camera: a layer's own ``corner_pixels`` reach to the ends of the tiles that are in view.
        """
        layer = find_layer(self._viewer, "slide", self._session.current_slide or "")
        if layer is None:
            return None
        camera, shape = self._viewer.scene.camera, identity(layer)["shape"]
        half = np.asarray(self._viewer.canvas.size, float) / camera.zoom / 2
        centre, scale = np.asarray(camera.center[-2:]), np.asarray(layer.scale[:2])
        low = np.floor((centre - half) / scale + 0.5).clip(0, shape).astype(int).tolist()
        high = np.ceil((centre + half) / scale + 0.5).clip(0, shape).astype(int).tolist()
        return Box(*low, *high) if all(a < b for a, b in zip(low, high, strict=True)) else None

    def _on_camera(self, _event: Any = None) -> None:
        self._soon.start()
