"""The knife: parts regions along a line that is drawn by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from shapely import LineString

from napari_slidecorr._napari.ghost import CUT_COLOR, Sketch
from napari_slidecorr.errors import SlideCorrError
from napari_slidecorr.region_shapes import split

if TYPE_CHECKING:
    from napari.layers import Shapes

    from napari_slidecorr._napari.region_tools import YX, Press, RegionTools


class Knife:
    """Splits what the line goes through: of the selected regions, if it crosses any, else all.

    Parameters
    ----------
    tools : RegionTools
    """

    def __init__(self, tools: RegionTools) -> None:
        self.tools = tools
        self._cancelled = False

    def drag(self, layer: Shapes, event: Any, press: Press) -> Iterator[None]:
        """Draw the line until the button is let go."""
        self._cancelled = False
        points = [press.at]
        yield
        while event.type == "mouse_move":
            points.append(self.tools.place(layer, event))
            if not self._cancelled:
                self.tools.show(layer, [Sketch([np.asarray(points)], CUT_COLOR, closed=False)])
            yield
        self.tools.show(layer)
        if not self._cancelled:
            self._split(points)

    def hover(self, layer: Shapes, at: YX) -> None:
        """There is nothing to show before the line is begun."""

    def resized(self) -> None:
        """A line has no size."""

    def cancel(self) -> None:
        """Give up the line that is being drawn."""
        self._cancelled = True

    def _split(self, points: list[YX]) -> None:
        editor = self.tools.editor
        chosen: set[str] = set()
        if len(points) > 1:
            chosen = {r.uid for r in editor.selected_regions if r.polygon.intersects(LineString(points))}
        try:
            editor.set_regions(split(editor.regions, points, chosen or None))
        except SlideCorrError as error:
            self.tools.desk.session.report(error)
