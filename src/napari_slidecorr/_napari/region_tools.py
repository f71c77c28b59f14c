"""The tools that change regions by hand: napari's own for outlines; brush, wand and knife of ours; and their modifiers.

With Shift a drawing tool adds to the region under the mouse, with Alt or Ctrl it cuts from it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal
from shapely import box

from napari_slidecorr._napari import layers
from napari_slidecorr._napari.brush import Brush
from napari_slidecorr._napari.ghost import CUT_COLOR, Sketch, ghost_of
from napari_slidecorr._napari.knife import Knife
from napari_slidecorr._napari.wand import TOLERANCES, Wand
from napari_slidecorr.errors import RegionsError, SlideCorrError
from napari_slidecorr.region_shapes import Effect, corners, drawn_into, filled, merged, simplified
from napari_slidecorr.regions import Region, RegionSet

if TYPE_CHECKING:
    from napari.layers import Shapes

    from napari_slidecorr._napari.desk import Desk
    from napari_slidecorr._napari.region_editor import RegionEditor

YX = tuple[float, float]
LEFT_BUTTON = 1
RADII = (3, 200)
STEP = 1.25


@dataclass(frozen=True)
class Tool:
    """A tool as buttons and the list of keys show it."""

    text: str
    key: str
    tip: str


TOOLS = {
    "add_polygon": Tool("Polygon", "P", "Click corner after corner; a double click or Esc ends the outline."),
    "add_polygon_lasso": Tool("Lasso", "L", "Press, go around the region, let go."),
    "add_rectangle": Tool("Rectangle", "R", "Press at a corner, let go at the other."),
    "add_ellipse": Tool("Ellipse", "O", "Press at a corner of the box around it, let go at the other."),
    "brush": Tool("Brush", "B", "Paint; begun inside the selected region it goes on with that. [ and ] set its size."),
    "wand": Tool("Wand", "W", "Click: grows over what looks alike. Drag up for more, down for less."),
    "split": Tool("Split", "K", "Drag a line through a region, from outside to outside."),
    "select": Tool("Select", "S", "Click a region, or drag a box around several; drag to move them."),
    "direct": Tool("Corners", "C", "Drag the corners of a selected region."),
    "pan_zoom": Tool("Move view", "M", "Drag and scroll the slide."),
}
"""By napari's name of the mode, or our own."""

OWN = ("brush", "wand", "split")
DRAWING = ("add_polygon", "add_polygon_lasso", "add_rectangle", "add_ellipse", "brush", "wand")


@dataclass(frozen=True)
class Press:
    """Where a drawing began, level-0 pixels (y, x), and what it is for."""

    at: YX
    effect: Effect


class RegionTools:
    """Which tool is in the hand, on whichever slide is in view.

    Parameters
    ----------
    desk : Desk

    Attributes
    ----------
    changed
        Carries the name of the tool, one of `TOOLS` or another of napari's modes.
    sized
        The brush's radius or the wand's tolerance changed.
    radius : float
        Of the brush, in screen pixels: what it paints is larger from afar.
    tolerance : float
        Of the wand, in CIELAB units.
    """

    changed = Signal(str)
    sized = Signal()

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.own = ""
        self.radius, self.tolerance = 24.0, 6.0
        self.held = False
        self.press = Press((0.0, 0.0), "new")
        self.strokes: dict[str, Any] = {"brush": Brush(self), "wand": Wand(self), "split": Knife(self)}

    @property
    def editor(self) -> RegionEditor:
        """The editor of the slide in view.

        Raises
        ------
        RegionsError
            If no slide is in view.
        """
        if self.desk.editor is None:
            raise RegionsError("No slide of the project is in view; show one from the Slides dock.")
        return self.desk.editor

    @property
    def tool(self) -> str:
        """The tool in the hand; empty without a slide."""
        return self.own or (str(self.desk.editor.layer.mode) if self.desk.editor else "")

    @property
    def draws(self) -> bool:
        """Whether the tool makes regions one by one, so that a class key is for the next one alone."""
        return self.tool in DRAWING

    def take(self, tool: str) -> None:
        """Take a tool to the regions of the slide in view.

        Raises
        ------
        RegionsError
            If there is no slide in view, or no class to draw.
        ProjectError
            If the project is read-only here and the tool changes regions.
        """
        layer = self.editor.layer
        if tool not in ("pan_zoom", "select"):
            self.editor.project.check_writable()
        if tool in DRAWING and not self.desk.current_class:
            raise RegionsError("Add a class first, so that what you draw has one.")
        self.own = ""
        self._clear()
        layer.visible = True
        self.desk.viewer.layers.selection.active = layer
        layer.mode = "pan_zoom" if tool in OWN else tool
        if tool in OWN:
            self.own = tool
            self._hold(layer)
        self.changed.emit(tool)

    def attach(self, editor: RegionEditor) -> None:
        """Serve a layer that was opened; the tool in the hand stays."""
        layer = editor.layer
        layer.mouse_drag_callbacks.append(self._on_drag)
        layer.mouse_move_callbacks.append(self._on_move)
        layer.events.mode.connect(self._on_mode)
        layer.events.mouse_pan.connect(self._on_mouse_pan)
        editor.combine = self.combine
        if self.own:
            self._hold(layer)

    def resize(self, steps: int) -> None:
        """Make the brush, or with the wand the tolerance, larger or smaller by steps."""
        if self.own == "wand":
            self.tolerance = float(np.clip(self.tolerance * STEP**steps, *TOLERANCES))
        else:
            self.radius = float(np.clip(self.radius * STEP**steps, *RADII))
        self.sized.emit()
        if self.own in self.strokes:
            self.strokes[self.own].resized()

    def escape(self) -> None:
        """Give up the stroke that is being drawn; end an outline."""
        if self.own:
            self.strokes[self.own].cancel()
            self._clear()
        elif self.desk.editor is not None:
            self.desk.editor.settle()

    def move_view(self, layer: Shapes) -> Iterator[None]:
        """Move the view with any tool in the hand, until the key is let go."""
        if self.own:
            self.held = layer.mouse_pan = True
            yield
            self.held = layer.mouse_pan = False
        elif (mode := layer.mode) != "pan_zoom":
            layer.mode = "pan_zoom"
            yield
            layer.mode = mode

    # -- what is done to selected regions -----------------------------------------------------------------------------

    def merge(self) -> None:
        """Join the selected regions, which must be of one class and touch."""
        self._change(merged)

    def fill(self) -> None:
        """Take the holes out of the selected regions."""
        self._change(filled)

    def simplify(self, tolerance_px: float) -> str:
        """Leave out corners of the selected regions; gives a sentence of how many."""
        before = corners(self.editor.selected_regions)
        self._change(partial(simplified, tolerance_px=tolerance_px))
        return f"{before:,} corners became {corners(self.editor.selected_regions):,}."

    def _change(self, change: Callable[[RegionSet, Collection[str]], RegionSet]) -> None:
        self.editor.settle()
        uids = [region.uid for region in self.editor.selected_regions]
        self.editor.set_regions(change(self.editor.regions, uids), select=uids)

    # -- what strokes need --------------------------------------------------------------------------------------------

    def place(self, layer: Shapes, event: Any) -> YX:
        """Where the mouse is, in level-0 pixels (y, x), corner-based."""
        y, x = layer.world_to_data(event.position)[-2:]
        return float(y) + 0.5, float(x) + 0.5

    def zoom(self, layer: Shapes) -> float:
        """Screen pixels of a level-0 pixel."""
        return float(self.desk.viewer.scene.camera.zoom * np.asarray(layer.scale)[-1])

    def color(self, effect: Effect) -> tuple[int, int, int]:
        """Of what is being drawn: the class', or red for what is cut away."""
        if effect == "subtract":
            return CUT_COLOR
        return self.editor.project.colors.get(self.desk.current_class, layers.UNCLASSED)

    def show(self, layer: Shapes, sketches: Sequence[Sketch] = (), ring: Any = None, note: str = "") -> None:
        """Show what is being drawn."""
        if (ghost := ghost_of(self.desk.viewer)) is not None:
            ghost.draw(layer.scale, sketches, ring, note)

    def draw(self, geometry: Any, press: Press) -> None:
        """Make what was drawn part of the regions, cut to the slide; a mistake is told."""
        editor = self.editor
        height, width = layers.identity(editor.layer)["shape"][:2]
        chosen = [region.uid for region in editor.selected_regions]
        try:
            drawn, uids = drawn_into(
                editor.regions,
                geometry.intersection(box(0, 0, height, width)),
                press.effect,
                press.at,
                self.desk.current_class,
                chosen,
            )
            editor.set_regions(drawn, select=uids)
        except SlideCorrError as error:
            self.desk.session.report(error)

    def combine(self, before: RegionSet, after: RegionSet) -> RegionSet:
        """Give what becomes of an outline drawn with one of napari's tools: added to, or cut from, a region."""
        known = {region.uid for region in before}
        made = [region for region in after if region.uid not in known]
        if not made or self.press.effect == "new" or self.tool not in DRAWING:
            return after
        press, self.press = self.press, Press((0.0, 0.0), "new")
        kept = RegionSet(tuple(region for region in after if region.uid in known))
        for region in made:
            kept = self._drawn_into(kept, region, press)
        return kept

    def _drawn_into(self, kept: RegionSet, region: Region, press: Press) -> RegionSet:
        try:
            return drawn_into(kept, region.polygon, press.effect, press.at, region.class_name)[0]
        except RegionsError as error:
            self.desk.session.report(error)
            return kept

    # -- what the mouse does ------------------------------------------------------------------------------------------

    def _on_drag(self, layer: Shapes, event: Any) -> Iterator[None]:
        if self.held or event.button != LEFT_BUTTON:
            return
        if self.own:
            self.press = Press(self.place(layer, event), effect_of(event.modifiers))
            try:
                yield from self.strokes[self.own].drag(layer, event, self.press)
            except SlideCorrError as error:
                self.desk.session.report(error)
        elif self.desk.editor is not None and not self.desk.editor.drawing:
            self.press = Press(self.place(layer, event), effect_of(event.modifiers))

    def _on_move(self, layer: Shapes, event: Any) -> None:
        if self.own:
            self.strokes[self.own].hover(layer, self.place(layer, event))

    def _on_mode(self, _event: Any) -> None:
        """One of napari's own buttons was pressed, or its keys."""
        if self.own and self.desk.editor is not None and self.desk.editor.layer.mode != "pan_zoom":
            self.own = ""
            self._clear()
        self.changed.emit(self.tool)

    def _on_mouse_pan(self, event: Any) -> None:
        if self.own and not self.held and event.source.mouse_pan:
            self._hold(event.source)

    def _hold(self, layer: Shapes) -> None:
        """A drag draws and does not move the view."""
        layer.mouse_pan = False
        layer.cursor = "cross"

    def _clear(self) -> None:
        if (ghost := ghost_of(self.desk.viewer)) is not None:
            ghost.clear()


def effect_of(modifiers: Collection[str]) -> Effect:
    """What a drawing is for: Shift adds, Alt or Ctrl cuts; some window managers keep Alt for themselves."""
    if "Alt" in modifiers or "Control" in modifiers:
        return "subtract"
    return "add" if "Shift" in modifiers else "new"
