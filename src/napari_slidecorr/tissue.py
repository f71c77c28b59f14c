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

    def cells(self, grid: Grid, min_fraction: float = 0.05) -> NDArray[np.bool_]:
        """Give the cells of a grid whose patch has at least that share of tissue, shape (rows, columns).

        What lies outside of the slide counts as glass.
        """
        # Sums over boxes from a summed-area table: four look-ups a cell, whatever the patch size.
        table = np.pad(self.mask.cumsum(0, dtype=np.float64).cumsum(1), ((1, 0), (1, 0)))
        edges = [self._edges(grid, axis) for axis in (0, 1)]
        (top, bottom), (left, right) = edges
        inside = table[np.ix_(bottom, right)] - table[np.ix_(top, right)] - table[np.ix_(bottom, left)]
        inside += table[np.ix_(top, left)]
        patch = grid.cell_px[0] / self.pixel_px[0] * grid.cell_px[1] / self.pixel_px[1]
        return np.asarray(inside >= min_fraction * max(patch, 1.0))

    def _edges(self, grid: Grid, axis: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        start = np.asarray(grid.patch_starts_px(axis))
        low = np.floor(start / self.pixel_px[axis])
        high = np.ceil((start + grid.cell_px[axis]) / self.pixel_px[axis])
        longest = self.mask.shape[axis]
        return low.clip(0, longest).astype(np.int64), high.clip(0, longest).astype(np.int64)


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
