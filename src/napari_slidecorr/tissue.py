"""Where a slide has tissue, seen at a coarse level."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.geometry import YX, Grid
from napari_slidecorr.slide import Slide

MIN_SATURATION = 0.05
"""Below this a slide counts as empty: Otsu's threshold would divide the noise of glass."""


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Tissue at a coarse resolution.

    Attributes
    ----------
    mask : ndarray, shape (h, w), bool
    pixel_px : (float, float)
        Level-0 pixels per pixel of the mask, (y, x).
    """

    mask: NDArray[np.bool_]
    pixel_px: tuple[float, float]

    def cells(self, grid: Grid, min_fraction: float = 0.25) -> NDArray[np.bool_]:
        """Give the cells of a grid that have at least that share of tissue, shape (rows, columns).

        A cell counts as it is drawn, cut at the slide's edge: a patch that only touches tissue with its rim says
        little about its centre, and would paint glass.
        """
        # Sums over boxes from a summed-area table: four look-ups a cell, whatever its size.
        table = np.pad(self.mask.cumsum(0, dtype=np.float64).cumsum(1), ((1, 0), (1, 0)))
        (top, bottom), (left, right) = self._edges(grid, 0), self._edges(grid, 1)
        inside = table[np.ix_(bottom, right)] - table[np.ix_(top, right)] - table[np.ix_(bottom, left)]
        inside += table[np.ix_(top, left)]
        return np.asarray(inside >= min_fraction * np.outer(bottom - top, right - left))

    def _edges(self, grid: Grid, axis: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First and last pixel of the mask that each row or column of cells touches: one at least."""
        edges = np.asarray(grid.cell_edges_px(axis)) / self.pixel_px[axis]
        longest = self.mask.shape[axis]
        low = np.floor(edges[:-1]).clip(0, longest - 1).astype(np.int64)
        high = np.ceil(edges[1:]).clip(None, longest).astype(np.int64)
        return low, np.maximum(high, low + 1)


def find_tissue(slide: Slide, *, max_px: int = 1024) -> TissueMask:
    """Tell tissue from glass by its saturation, at Otsu's threshold of a picture of at most ``max_px``.

    References
    ----------
    Otsu, "A threshold selection method from gray-level histograms", IEEE SMC 1979.
    """
    picture = slide.thumbnail(max_px)
    shape: YX = picture.shape[0], picture.shape[1]
    return TissueMask(tissue_of_picture(picture), (slide.shape[0] / shape[0], slide.shape[1] / shape[1]))


def tissue_of_picture(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Tell tissue from glass in an RGB picture, shape (h, w, 3); pens and black borders count as neither."""
    from scipy.ndimage import median_filter
    from skimage.filters import threshold_otsu

    high = picture.max(axis=2).astype(np.float32)
    low = picture.min(axis=2).astype(np.float32)
    saturation = median_filter((high - low) / np.maximum(high, 1), size=3)
    lit = high > 50
    if not lit.any():
        return np.zeros(picture.shape[:2], bool)
    threshold = max(MIN_SATURATION, float(threshold_otsu(saturation[lit])))
    # A slide full of tissue has one hump; Otsu would cut through it.
    if np.percentile(saturation[lit], 5) > 2 * MIN_SATURATION and threshold > np.percentile(saturation[lit], 30):
        threshold = 2 * MIN_SATURATION
    return np.asarray(lit & (saturation >= threshold))
