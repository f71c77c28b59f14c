"""Where the regions of a slide lie: which are in a box, which is at a point."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
from numpy.typing import NDArray

from napari_slidecorr.regions import Region


class RegionIndex:
    """Finds regions by place.

    Parameters
    ----------
    regions : sequence of Region
        Found by their index in it.

    Attributes
    ----------
    bounds : ndarray, shape (n, 4), float64
        y0, x0, y1, x1 of each region in level-0 pixels.
    corners : ndarray, shape (n,), int
        How many corners each region has, holes included.
    """

    def __init__(self, regions: Sequence[Region]) -> None:
        self.regions = regions
        self._polygons = np.asarray([region.polygon for region in regions], object)
        self.bounds: NDArray[np.float64] = shapely.bounds(self._polygons).reshape(-1, 4)
        self.corners = shapely.get_num_coordinates(self._polygons)

    def within(self, box: tuple[float, float, float, float]) -> NDArray[np.intp]:
        """Indices, ascending, of the regions whose bounds meet a box (y0, x0, y1, x1) in level-0 pixels."""
        y0, x0, y1, x1 = self.bounds.T
        return np.flatnonzero((y1 >= box[0]) & (x1 >= box[1]) & (y0 <= box[2]) & (x0 <= box[3]))

    def at(self, y_px: float, x_px: float) -> int | None:
        """Index of the topmost region, the one drawn last, that a point lies in; None where there is none."""
        for index in self.within((y_px, x_px, y_px, x_px))[::-1]:
            if shapely.intersects_xy(self._polygons[index], y_px, x_px):
                return int(index)
        return None
