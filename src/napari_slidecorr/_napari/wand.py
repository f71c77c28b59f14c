"""The wand: a click grows over alike colours, as far as the view goes; a drag makes it grow more or less."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QCoreApplication
from shapely import Polygon

from napari_slidecorr._napari import layers
from napari_slidecorr._napari.errands import Errands
from napari_slidecorr._napari.ghost import sketch_of
from napari_slidecorr._napari.parts import timer
from napari_slidecorr.errors import RegionsError
from napari_slidecorr.geometry import Box
from napari_slidecorr.grow import Growth, read_growth

if TYPE_CHECKING:
    from napari.layers import Shapes

    from napari_slidecorr._napari.region_tools import YX, Press, RegionTools

DOUBLED_BY_PX = 70
"""A drag up by so many screen pixels doubles the tolerance."""
RING_PX = 7.0
PREVIEW_MS = 30
"""What the hand does within this time is previewed once."""
TOLERANCES = (1, 80)
SMALLEST_VIEW_PX = 64


class Wand:
    """Reads what is in view in a thread, then follows the hand without reading again.

    Parameters
    ----------
    tools : RegionTools
    """

    def __init__(self, tools: RegionTools) -> None:
        self.tools = tools
        self._errands: Errands | None = None
        self._click = 0
        self._growth: Growth | None = None
        self._polygon: Polygon | None = None
        self._released: Press | None = None
        self._cancelled = False
        self._soon = timer(PREVIEW_MS, self._preview)
        self._shown: tuple[Any, Press, float] | None = None

    def drag(self, layer: Shapes, event: Any, press: Press) -> Iterator[None]:
        """Begin to read, and follow the hand until the button is let go."""
        self._begin(layer, press)
        start, tolerance = event.pos[1], self.tools.tolerance
        yield
        while event.type == "mouse_move":
            grown = tolerance * 2 ** ((start - event.pos[1]) / DOUBLED_BY_PX)
            self.tools.tolerance = float(np.clip(grown, *TOLERANCES))
            self.resized()
            yield
        self.tools.sized.emit()
        self._released = press
        self._finish()

    def hover(self, layer: Shapes, at: YX) -> None:
        """The cross of the mouse is enough."""

    def resized(self) -> None:
        """Grow again with the new tolerance, if a click is being followed."""
        if self._shown is not None and not self._cancelled:
            layer, press, _ = self._shown
            self._shown = layer, press, self.tools.tolerance
            self._polygon = None
            self._soon.start()

    def cancel(self) -> None:
        """Give up what is growing."""
        self._cancelled = True
        self._shown = None

    def _begin(self, layer: Shapes, press: Press) -> None:
        self._click += 1
        self._growth = self._polygon = self._released = None
        self._cancelled = False
        self._shown = layer, press, self.tools.tolerance
        self.tools.show(layer, ring=(*press.at, RING_PX), note="reading ...")
        slide_id = self.tools.editor.slide_id
        project, view = self.tools.editor.project, self._view(slide_id)
        longest = max(SMALLEST_VIEW_PX, round(max(view.shape) * self.tools.zoom(layer)))
        if self._errands is None:
            self._errands = Errands(QCoreApplication.instance())
        self._errands.run(
            lambda: _read(project, slide_id, view, press.at, longest),
            partial(self._on_read, self._click),
            self._on_failed,
        )

    def _view(self, slide_id: str) -> Box:
        layer = layers.find_layer(self.tools.desk.viewer, "slide", slide_id)
        if layer is None:
            raise RegionsError(f"{slide_id} is not in view; show it first.")
        factor = layer.downsample_factors[layer.data_level][:2]
        (y0, x0), (y1, x1) = (layer.corner_pixels[:, :2] * factor).round().astype(int).tolist()
        return Box(y0, x0, max(y0, y1), max(x0, x1))

    def _on_read(self, click: int, growth: Growth) -> None:
        if click == self._click and not self._cancelled:
            self._growth = growth
            self._preview()
            self._finish()

    def _on_failed(self, error: BaseException) -> None:
        self.cancel()
        self.tools.desk.session.report(error)

    def _preview(self) -> None:
        self._soon.stop()
        if self._growth is None or self._shown is None:
            return
        layer, press, tolerance = self._shown
        self._polygon = self._growth.polygon(tolerance)
        sketches = [sketch_of(self._polygon, self.tools.color(press.effect))] if self._polygon else []
        self.tools.show(layer, sketches, ring=(*press.at, RING_PX), note=f"tolerance {tolerance:.0f}")

    def _finish(self) -> None:
        """Once it is read and the button let go, whichever comes last."""
        if self._released is None or self._growth is None or self._shown is None:
            return
        if self._polygon is None:
            self._preview()
        layer, press = self._shown[0], self._released
        self._shown = None
        self.tools.show(layer)
        if self._polygon is None:
            self.tools.desk.session.report(
                RegionsError("Too little around that spot has its colour; drag up, or use ].")
            )
        elif self.tools.desk.editor is not None and self.tools.desk.editor.layer is layer:
            self.tools.draw(self._polygon, press)


def _read(project: Any, slide_id: str, view: Box, at: YX, longest_px: int) -> Growth:
    growth = read_growth(project.slide(slide_id), view, at, longest_px)
    growth.difference  # noqa: B018 - colours are compared here, in the thread
    return growth
