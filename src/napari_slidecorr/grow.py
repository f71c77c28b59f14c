"""Growing an area by its colour and grain from a spot, as a wand does: on a small picture of what is in view."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from shapely import Polygon

from napari_slidecorr.errors import RegionsError
from napari_slidecorr.geometry import YX, Box
from napari_slidecorr.region_shapes import polygons_of_mask
from napari_slidecorr.slide import Slide

LONGEST_PX = 768
"""Longest side of the picture that is grown on."""
SMOOTHING_PX = 6.0
"""Over which colours are averaged: nuclei and what is between them become one tissue."""
GRAIN = 2.0
"""How much the grain counts beside the colour: the spread of lightness tells tissues apart that have one colour."""
SMALLEST_HOLE_PX = 500
"""Holes of fewer pixels of the picture are filled: nuclei in a tissue, not lumens."""
SHARP_PX, RIM_PX, RIM_SHARE = 2.0, 12.0, 1.5
"""At the rim colours are averaged over less, and may differ by so many tolerances."""
THINNEST_PX = 4
"""Half the width, in pixels of the picture, below which a bridge is cut."""


@dataclass(frozen=True, eq=False)
class Growth:
    """What lies around a spot, from which areas of any tolerance are cut without reading again.

    Attributes
    ----------
    pixels : ndarray, shape (h, w, 3), uint8
    box : Box
        What they show, in level-0 pixels.
    spot : (float, float)
        Where the growing begins, level-0 pixels (y, x), within the box.
    """

    pixels: NDArray[np.uint8]
    box: Box
    spot: tuple[float, float]

    @property
    def step(self) -> tuple[float, float]:
        """Level-0 pixels (y, x) of a pixel of the picture."""
        return self.box.height / self.pixels.shape[0], self.box.width / self.pixels.shape[1]

    @property
    def seed(self) -> YX:
        """The picture's pixel (row, column) at the spot."""
        place = ((s - o) / d for s, o, d in zip(self.spot, (self.box.y0, self.box.x0), self.step, strict=True))
        row, column = (int(np.clip(p, 0, n - 1)) for p, n in zip(place, self.pixels.shape[:2], strict=True))
        return row, column

    @cached_property
    def difference(self) -> NDArray[np.float32]:
        """How far colour and grain are from those at the spot, in units of CIELAB, shape (h, w); about 2 is just seen."""
        from scipy.ndimage import gaussian_filter
        from skimage.color import rgb2lab

        lab = rgb2lab(self.pixels).astype(np.float32)
        mean = gaussian_filter(lab, (SMOOTHING_PX, SMOOTHING_PX, 0))
        square = gaussian_filter(lab[..., 0] ** 2, SMOOTHING_PX)
        spread = np.sqrt(np.maximum(square - mean[..., 0] ** 2, 0))
        look = np.concatenate([mean, GRAIN * spread[..., None]], axis=2)
        return np.asarray(np.linalg.norm(look - look[self.seed], axis=2), np.float32)

    @cached_property
    def near_difference(self) -> NDArray[np.float32]:
        """How far each colour, hardly averaged, is from that at the spot, shape (h, w): sharp where tissue ends."""
        from scipy.ndimage import gaussian_filter
        from skimage.color import rgb2lab

        lab = rgb2lab(self.pixels).astype(np.float32)
        at_spot = gaussian_filter(lab, (SMOOTHING_PX, SMOOTHING_PX, 0))[self.seed]
        return np.asarray(np.linalg.norm(gaussian_filter(lab, (SHARP_PX, SHARP_PX, 0)) - at_spot, axis=2), np.float32)

    def mask(self, tolerance: float) -> NDArray[np.bool_]:
        """The area around the spot that differs from it by at most a tolerance, shape (h, w).

        The averages change some way before a border; so the area is grown there by the sharper colour.
        """
        grown = self._flood(self.difference <= tolerance, THINNEST_PX)
        if grown.any():
            from scipy.ndimage import distance_transform_edt

            rim = distance_transform_edt(~grown) <= RIM_PX
            grown = self._flood(grown | (rim & (self.near_difference <= RIM_SHARE * tolerance)), THINNEST_PX // 2)
        return _without_small_holes(grown)

    def _flood(self, alike: NDArray[np.bool_], thinnest: int) -> NDArray[np.bool_]:
        """What hangs together with the spot, thin bridges cut."""
        from scipy.ndimage import binary_opening
        from skimage.morphology import disk
        from skimage.segmentation import flood

        if not alike[self.seed]:
            return np.zeros_like(alike)
        grown = np.asarray(flood(alike, self.seed), bool)
        opened = binary_opening(np.pad(grown, thinnest, mode="edge"), disk(thinnest))[
            thinnest:-thinnest, thinnest:-thinnest
        ]
        return np.asarray(flood(opened, self.seed), bool) if opened[self.seed] else grown

    def polygon(self, tolerance: float) -> Polygon | None:
        """The outline of that area in level-0 pixels, holes included; None when it is hardly a pixel."""
        found = polygons_of_mask(self.mask(tolerance), (self.box.y0, self.box.x0), self.step)
        return found[0] if found else None


def _without_small_holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import label

    holes, count = label(~mask)
    sizes = np.bincount(holes.ravel(), minlength=count + 1)
    edge = np.unique(np.concatenate([holes[0], holes[-1], holes[:, 0], holes[:, -1]]))
    small = sizes < SMALLEST_HOLE_PX
    small[edge] = False
    small[0] = False
    return np.asarray(mask | small[holes])


def read_growth(slide: Slide, view: Box, spot: tuple[float, float], longest_px: int = LONGEST_PX) -> Growth:
    """Read what is in view, no finer than it is shown; for a thread.

    Parameters
    ----------
    view : Box
        Level-0 pixels; cut to the slide.
    spot : (float, float)
        Level-0 pixels (y, x).
    longest_px : int
        Of the picture's longer side: how large the view is on the screen.

    Raises
    ------
    RegionsError
        If the spot is outside of the view or the slide.
    SlideError
        If the slide cannot be read.
    """
    y0, x0 = max(0, view.y0), max(0, view.x0)
    y1, x1 = min(slide.shape[0], view.y1), min(slide.shape[1], view.x1)
    if not (y0 <= spot[0] < y1 and x0 <= spot[1] < x1):
        raise RegionsError("That spot lies outside of the slide; click on the tissue.")
    box = Box(y0, x0, y1, x1)
    factor = max(1.0, max(box.shape) / min(longest_px, LONGEST_PX))
    size = max(1, round(box.height / factor)), max(1, round(box.width / factor))
    return Growth(slide.read(box, size), box, spot)
