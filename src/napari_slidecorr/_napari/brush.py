"""The brush: paints a round stroke that is a polygon from the beginning, as coarse as the view."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_slidecorr._napari.ghost import sketch_of
from napari_slidecorr.region_shapes import stroke

if TYPE_CHECKING:
    from napari.layers import Shapes

    from napari_slidecorr._napari.region_tools import YX, Press, RegionTools

LEAST_SHARE = 0.2
"""The stroke goes on when the mouse has gone by this share of the radius; less would not be seen."""


class Brush:
    """Paints with a radius in screen pixels, so that a far view makes large and coarse regions.

    Parameters
    ----------
    tools : RegionTools
    """

    def __init__(self, tools: RegionTools) -> None:
        self.tools = tools
        self._at: YX | None = None
        self._layer: Any = None
        self._cancelled = False

    def drag(self, layer: Shapes, event: Any, press: Press) -> Iterator[None]:
        """Paint until the button is let go."""
        self._cancelled = False
        press = self._going_on(press)
        radius = self.tools.radius / self.tools.zoom(layer)
        points = [press.at]
        self._show(layer, points, radius, press)
        yield
        while event.type == "mouse_move":
            at = self.tools.place(layer, event)
            if max(abs(at[0] - points[-1][0]), abs(at[1] - points[-1][1])) > LEAST_SHARE * radius:
                points.append(at)
                self._show(layer, points, radius, press)
            yield
        if not self._cancelled:
            self.tools.draw(stroke(points, radius), press)
        self.hover(layer, points[-1])

    def hover(self, layer: Shapes, at: YX) -> None:
        """Show how large the brush is."""
        self._layer, self._at = layer, at
        self.tools.show(layer, ring=(*at, self.tools.radius))

    def resized(self) -> None:
        """Show the new size."""
        if self._at is not None:
            self.hover(self._layer, self._at)

    def cancel(self) -> None:
        """Give up the stroke that is being painted."""
        self._cancelled = True

    def _going_on(self, press: Press) -> Press:
        """Begun inside the selected region, a stroke goes on with it."""
        if press.effect != "new":
            return press
        under = self.tools.editor.region_at(*press.at)
        mine = under in self.tools.editor.selected_regions and under.class_name == self.tools.desk.current_class
        return replace(press, effect="add") if mine else press

    def _show(self, layer: Shapes, points: list[YX], radius: float, press: Press) -> None:
        if not self._cancelled:
            painted = sketch_of(stroke(points, radius), self.tools.color(press.effect))
            self.tools.show(layer, [painted], ring=(*points[-1], self.tools.radius))
