"""Go to a place on any slide of the project: show the slide, look there, and mark the patch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_slidecorr._napari import layers
from napari_slidecorr._napari.stage import Stage

if TYPE_CHECKING:
    from napari_slidecorr._napari.desk import Desk
    from napari_slidecorr.geometry import Box

SIDES_IN_VIEW = 6.0
"""How many times its side around a patch is shown."""
MARK_NAME = "Patch"
MARK_COLOR = "#f0e442"


class Traveller(QObject):
    """Takes the view to patches.

    Parameters
    ----------
    desk : Desk
    parent : QObject

    Attributes
    ----------
    arrived
        Carries the slide's id, when its patch is in view.
    """

    arrived = Signal(str)

    def __init__(self, desk: Desk, parent: QObject) -> None:
        super().__init__(parent)
        self.desk, self.viewer = desk, desk.viewer
        self.stage = Stage(desk, self)
        self.stage.shown.connect(self._on_shown)
        self.stage.damaged.connect(self._on_damaged)
        self._goal: tuple[str, Box] | None = None

    def go(self, slide_id: str, box: Box) -> None:
        """Show a slide of the project, look at a box, in level-0 pixels, and mark it.

        Raises
        ------
        ProjectError
            If no project is open.
        """
        self._goal = slide_id, box
        if self.desk.session.current_slide == slide_id and self._slide_layer(slide_id) is not None:
            self._arrive()
        else:
            self.stage.show(slide_id)

    def _on_shown(self, slide_id: str) -> None:
        if self._goal is not None and self._goal[0] == slide_id:
            self._arrive()

    def _on_damaged(self, slide_id: str, message: str) -> None:
        self.desk.session.message.emit(f"{slide_id}: what cannot be read is shown grey. {message}", True)

    def _slide_layer(self, slide_id: str) -> Any:
        return layers.find_layer(self.viewer, "slide", slide_id)

    def _arrive(self) -> None:
        if self._goal is None:
            return
        slide_id, box = self._goal
        self._goal = None
        layer = self._slide_layer(slide_id)
        scale = np.asarray(layer.scale[-2:])
        middle = np.asarray([(box.y0 + box.y1) / 2, (box.x0 + box.x1) / 2]) * scale
        side = max((box.y1 - box.y0) * scale[0], (box.x1 - box.x0) * scale[1])
        camera = getattr(self.viewer, "scene", self.viewer).camera
        camera.center = (*camera.center[:-2], *middle)
        camera.zoom = min(self._canvas_px()) / (SIDES_IN_VIEW * side)
        self._mark(layer, box)
        self.arrived.emit(slide_id)

    def _canvas_px(self) -> tuple[float, float]:
        canvas = getattr(self.viewer, "canvas", None)
        size = getattr(canvas, "size", None)
        return (float(size[0]), float(size[1])) if size is not None else (600.0, 600.0)

    def _mark(self, slide_layer: Any, box: Box) -> None:
        """Outline the patch; only the last one is marked."""
        told = layers.identity(slide_layer)
        self._unmark()
        active = self.viewer.layers.selection.active
        corners = np.asarray([[box.y0, box.x0], [box.y0, box.x1], [box.y1, box.x1], [box.y1, box.x0]]) - 0.5
        self.viewer.add_shapes(
            [corners],
            shape_type="polygon",
            name=MARK_NAME,
            scale=slide_layer.scale[-2:],
            units=slide_layer.units[-2:],
            axis_labels=("y", "x"),
            edge_color=MARK_COLOR,
            face_color="transparent",
            edge_width=max(1.0, (box.y1 - box.y0) / 40),
            metadata={layers.KEY: {**told, "kind": "patch"}},
        )
        if active is not None and active in self.viewer.layers:
            self.viewer.layers.selection.active = active

    def _unmark(self) -> None:
        for layer in list(self.viewer.layers):
            if layers.identity(layer).get("kind") == "patch":
                self.viewer.layers.remove(layer)
