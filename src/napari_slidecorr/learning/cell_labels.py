"""Which cells of a map a person has labelled: those that regions of a class cover enough. No pixel is read."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from napari_slidecorr.geometry import Grid
from napari_slidecorr.patches import area_of, covered_px
from napari_slidecorr.regions import RegionSet


class CellLabels(NamedTuple):
    """Labelled cells of a grid.

    Attributes
    ----------
    cells : ndarray, shape (N, 2), int32
        Row and column, in the order of rows.
    labels : ndarray, shape (N,), int16
        Into the classes.
    """

    cells: NDArray[np.int32]
    labels: NDArray[np.int16]


def label_cells(grid: Grid, regions: RegionSet, classes: tuple[str, ...], min_coverage: float = 0.5) -> CellLabels:
    """Read regions on the grid of a map.

    The patches that are trained on are then cells of the map, whose features are there already: a new region needs no
    pixel.

    Parameters
    ----------
    regions : RegionSet
        Simple polygons, level-0 pixels. What ``ignore`` covers counts for no class.
    classes : tuple of str
        Regions of other classes are left out.
    min_coverage : float in (0, 1]
        Part of a patch that must lie in regions of its class; of several classes the one that covers most wins.
    """
    used = [name for name in classes if regions.of_class(name)]
    if not used:
        return CellLabels(np.zeros((0, 2), np.int32), np.zeros(0, np.int16))
    areas = [area_of(regions, name) for name in used]
    cells = _near(grid, areas)
    y, x = (np.asarray(grid.patch_starts_px(axis), np.float64)[cells[:, axis]] for axis in (0, 1))
    height, width = grid.cell_px
    boxes = shapely.box(y, x, y + height, x + width)
    covered = np.stack([covered_px(boxes, area) for area in areas])
    keep = covered.max(axis=0, initial=0) >= min_coverage * height * width - 1e-6
    label = np.asarray([classes.index(name) for name in used], np.int16)[covered.argmax(axis=0)]
    return CellLabels(cells[keep].astype(np.int32), label[keep])


def _near(grid: Grid, areas: list[shapely.Geometry]) -> NDArray[np.int64]:
    """Cells whose patches meet the bounds of some part of an area, shape (N, 2)."""
    starts = [np.asarray(grid.patch_starts_px(axis)) for axis in (0, 1)]
    meets = np.zeros(grid.shape, bool)
    for y0, x0, y1, x1 in shapely.bounds(np.concatenate([shapely.get_parts(area) for area in areas])):
        rows, columns = (
            slice(np.searchsorted(s, low - length, "right"), np.searchsorted(s, high, "left"))
            for s, length, low, high in zip(starts, grid.cell_px, (y0, x0), (y1, x1), strict=True)
        )
        meets[rows, columns] = True
    return np.argwhere(meets)
