"""The class map that live training paints over the slide in view; touch it in the GUI thread only."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_slidecorr._napari.layers import Colors, find_layer
from napari_slidecorr._napari.map_layers import OPACITY, UNSURE, class_colormap, map_frame
from napari_slidecorr.live_events import LiveCells
from napari_slidecorr.prediction_map import PredictionMap

WAITING_OPACITY = 0.2
MODEL = "live"
OTHER_MAPS = ("class_map", "probability")


class LiveMap:
    """One Labels layer: each class its own colour, unsure cells grey, everything else clear.

    Cells are written in place, which is cheap; `refresh` shows them.

    Parameters
    ----------
    viewer
    first : LiveCells
        Says which slide, grid and classes; its cells are not yet written.
    colors : mapping of class name to (r, g, b), 0 to 255

    Attributes
    ----------
    version : int
        Of the regions that it shows; -1 before it shows any.
    whole : bool
        Whether all cells that have features show it.
    """

    def __init__(self, viewer: Any, first: LiveCells, colors: Colors) -> None:
        self._viewer = viewer
        self.prediction = PredictionMap.empty(first.classes, first.grid, first.slide_id, MODEL)
        self.version, self.whole = -1, False
        self._colors = dict(colors)
        self._news = self._changed = False
        self._opacity: float | None = None
        self.layer = self._shown_layer()

    @property
    def is_in_viewer(self) -> bool:
        """Whether nobody has removed it."""
        return self.layer in self._viewer.layers

    def takes(self, cells: LiveCells) -> bool:
        """Whether cells are of this map."""
        mine = self.prediction
        same = (mine.slide_id, mine.grid, mine.classes) == (cells.slide_id, cells.grid, cells.classes)
        return same and self.is_in_viewer

    def write(self, cells: LiveCells) -> None:
        """Put cells in; shown at the next `refresh`."""
        rows, columns = cells.cells.T
        self._changed |= not np.array_equal(self.layer.data[rows, columns], cells.shown)
        self.layer.data[rows, columns] = cells.shown
        self.prediction.probabilities[:, rows, columns] = cells.probabilities.T
        self.version, self.whole = cells.version, cells.last
        self._news = True

    def refresh(self) -> bool:
        """Show what was written since the last time, if it looks otherwise; whether anything was written."""
        news, changed, self._news, self._changed = self._news, self._changed, False, False
        if changed:
            self.layer.refresh(extent=False, thumbnail=False)
        return news

    def set_colors(self, colors: Colors) -> None:
        """Colour the classes anew, if they are others: that takes a while."""
        if colors != self._colors:
            self._colors = dict(colors)
            self.layer.colormap = class_colormap(self.prediction, colors)

    def wait(self, *, waiting: bool) -> None:
        """Show that the map is not of the regions as they are now, or that it is again, as opaque as it was before."""
        if waiting == (self._opacity is not None):
            return
        if self._opacity is None:
            self._opacity = self.layer.opacity
            self.layer.opacity = min(WAITING_OPACITY, self._opacity)
        else:
            self.layer.opacity, self._opacity = self._opacity, None
        self.layer.name = f"{self.prediction.slide_id} live{' (waits)' * waiting}"

    def told_at(self, world: tuple[float, float]) -> str:
        """Say the probabilities at a place in the viewer's coordinates, whose pixel centres lie on integers."""
        grid = self.prediction.grid
        places = (at / size + 0.5 for at, size in zip(world, grid.mpp or (1.0, 1.0), strict=True))
        row, column = (int(grid.cells_at(axis, np.asarray([place]))[0]) for axis, place in enumerate(places))
        values = self.prediction.probabilities[:, row, column] if min(row, column) >= 0 else np.full(1, np.nan)
        if not np.isfinite(values[0]):
            return ""
        order = np.argsort(-values, kind="stable")
        told = ", ".join(f"{self.prediction.classes[i]} {values[i]:.2f}" for i in order)
        return f"Unsure: {told}" if self.layer.data[row, column] == UNSURE else told

    def unsure_share(self) -> float | None:
        """Which part of the painted cells is unsure; None where nothing is painted."""
        painted = int(np.count_nonzero(self.layer.data))
        return int(np.count_nonzero(self.layer.data == UNSURE)) / painted if painted else None

    def remove(self) -> None:
        """Take it out of the viewer."""
        if self.is_in_viewer:
            self._viewer.layers.remove(self.layer)

    def _shown_layer(self) -> Any:
        """Put a layer right above the slide, and below what is drawn; it is not selected."""
        from napari.layers import Labels

        layers, slide_id = self._viewer.layers, self.prediction.slide_id
        if (old := find_layer(self._viewer, "live", slide_id)) is not None:
            layers.remove(old)
        chosen = list(layers.selection)
        slide = find_layer(self._viewer, "slide", slide_id)
        layer = Labels(
            np.zeros(self.prediction.grid.shape, np.uint8),
            **map_frame(self.prediction, "live"),
            name=f"{slide_id} live",
            opacity=OPACITY,
            colormap=class_colormap(self.prediction, self._colors),
        )
        layer.editable = False
        layers.insert(layers.index(slide) + 1 if slide is not None else len(layers), layer)
        if chosen:
            layers.selection = chosen
        self.hide_others()
        return layer

    def hide_others(self) -> None:
        """Hide other maps of the slide: two over each other could not be read."""
        for kind in OTHER_MAPS:
            if (other := find_layer(self._viewer, kind, self.prediction.slide_id)) is not None:  # type: ignore[arg-type]
                other.visible = False
