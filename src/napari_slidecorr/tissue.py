"""Where a slide has tissue, seen at a coarse level."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.geometry import YX, Box, Grid
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

    def fraction(self, box: Box) -> float:
        """Share of a level-0 box that is tissue; what lies outside of the slide counts as glass."""
        y0, y1 = box.y0 / self.pixel_px[0], box.y1 / self.pixel_px[0]
        x0, x1 = box.x0 / self.pixel_px[1], box.x1 / self.pixel_px[1]
        rows = slice(max(0, int(np.floor(y0))), max(0, int(np.ceil(y1))))
        columns = slice(max(0, int(np.floor(x0))), max(0, int(np.ceil(x1))))
        return float(self.mask[rows, columns].sum() / max(1.0, (y1 - y0) * (x1 - x0)))

    def cells(self, grid: Grid, min_fraction: float = 0.05) -> NDArray[np.bool_]:
        """Give the cells of a grid whose patch has at least that share of tissue, shape (rows, columns)."""
        out = np.zeros(grid.shape, bool)
        for row in range(grid.shape[0]):
            for column in range(grid.shape[1]):
                out[row, column] = self.fraction(grid.patch_box(row, column)) >= min_fraction
        return out


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
    return lit & (saturation >= threshold)
