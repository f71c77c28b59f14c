"""Do regions lie where the slide has tissue, and would they if their coordinates meant something else?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon

from napari_slidecorr.geometry import YX
from napari_slidecorr.region_transform import IDENTITY, Transform
from napari_slidecorr.slide import Slide
from napari_slidecorr.tissue import TissueMask, find_tissue

POOR = 0.5
"""Regions of which less than this share lies on tissue are offered every transform."""

_BETTER, _BETTER_SHIFT, _BETTER_PER_STEP = 0.25, 0.1, 0.1
_COST_OF_STEP = 0.03
_SAMPLES = 4000
_MOST = 5


@dataclass(frozen=True, eq=False)
class SlideFacts:
    """What must be known of a slide to judge where regions lie.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns of level 0.
    mpp : (float, float) or None
        Micrometres per pixel (y, x).
    downsamples : tuple of (float, float)
        Level-0 pixels per pixel (y, x) of the coarser levels.
    origin_px : (int, int)
        Where the slide's first pixel lies in the whole picture, (y, x), for files of which only the scanned part is shown.
    tissue : TissueMask or None
    """

    shape: YX
    mpp: tuple[float, float] | None
    downsamples: tuple[tuple[float, float], ...]
    origin_px: YX
    tissue: TissueMask | None

    @classmethod
    def of(cls, slide: Slide, *, tissue: bool = True) -> SlideFacts:
        """Look at a slide; its tissue is read from a coarse level.

        Raises
        ------
        SlideError
            If tissue is asked for and the slide cannot be read.
        """
        mask = find_tissue(slide) if tissue and not slide.channels else None
        factors = tuple(level.downsample for level in slide.levels[1:])
        return cls(slide.shape, slide.mpp, factors, slide.origin_px, mask)


@dataclass(frozen=True)
class Suggestion:
    """Another meaning of the coordinates with which the regions lie on tissue far better.

    Attributes
    ----------
    transform : Transform
    on_tissue, outside : float
        Shares of the regions' area, 0 to 1, with it.
    why : str
        What the file's coordinates would be, in words.
    """

    transform: Transform
    on_tissue: float
    outside: float
    why: str


class Cloud:
    """Points spread evenly over the area of polygons: shares of area come from them, for any transform, at once.

    Parameters
    ----------
    polygons : sequence of shapely.Polygon
        Coordinates (y, x).
    """

    def __init__(self, polygons: Sequence[Polygon]) -> None:
        areas = shapely.area(np.asarray(polygons, dtype=object)) if polygons else np.zeros(0)
        wanted = np.maximum(1, np.round(_SAMPLES * areas / max(areas.sum(), 1e-300))).astype(int)
        parts = [_spread(polygon, int(count)) for polygon, count in zip(polygons, wanted, strict=True)]
        self.points = np.concatenate(parts) if parts else np.zeros((0, 2))
        counts = [len(part) for part in parts]
        self.weights = np.repeat(areas / counts, counts) if parts else np.zeros(0)

    def shares(self, transform: Transform, slide: SlideFacts) -> tuple[float | None, float]:
        """Give the share of the area that lies on tissue (None without a mask), and outside of the slide."""
        total = self.weights.sum()
        if not total:
            return (None if slide.tissue is None else 0.0), 0.0
        points = transform.points(self.points, slide.shape)
        inside = ((points >= 0) & (points < slide.shape)).all(axis=1)
        outside = float(self.weights[~inside].sum() / total)
        if slide.tissue is None:
            return None, outside
        mask, pixel = slide.tissue.mask, np.asarray(slide.tissue.pixel_px)
        cells = np.minimum((points[inside] / pixel).astype(np.int64), np.asarray(mask.shape) - 1)
        return float(self.weights[inside][mask[cells[:, 0], cells[:, 1]]].sum() / total), outside


def _spread(polygon: Polygon, count: int) -> NDArray[np.float64]:
    """About ``count`` points inside of a polygon, on a square grid; one at least."""
    if count > 1:
        y0, x0, y1, x1 = polygon.bounds
        side = (polygon.area / count) ** 0.5
        y, x = np.meshgrid(np.arange(y0 + side / 2, y1, side), np.arange(x0 + side / 2, x1, side), indexing="ij")
        if 0 < y.size <= 50 * count:
            inside = shapely.contains_xy(polygon, y.ravel(), x.ravel())
            if inside.any():
                return np.stack([y.ravel()[inside], x.ravel()[inside]], axis=1)
    point = polygon.point_on_surface()
    return np.array([[point.x, point.y]])


def suggestions(cloud: Cloud, slide: SlideFacts) -> tuple[Suggestion, ...]:
    """Give the transforms with which the regions lie clearly better on tissue than as they are; best first.

    Shifts by the slide's bounds are tried whatever the overlap is, the others where it is poor. A transform with more
    steps must do better by more: of so many combinations some fit by chance, and of two that do as well the simpler one
    comes first.
    """
    now, now_outside = cloud.shares(IDENTITY, slide)
    if now is None or not len(cloud.points):
        return ()
    found = []
    for transform, why in _candidates(slide, only_shifts=now >= POOR):
        on_tissue, outside = cloud.shares(transform, slide)
        one_shift = transform.steps == 1 and transform.offset != (0, 0)
        needed = _BETTER_SHIFT if one_shift else _BETTER + _BETTER_PER_STEP * (transform.steps - 1)
        if on_tissue is not None and on_tissue >= now + needed and outside <= max(now_outside, 0.05):
            found.append(Suggestion(transform, on_tissue, outside, why))
    found.sort(key=lambda one: (_COST_OF_STEP * one.transform.steps - one.on_tissue, one.transform.steps))
    return tuple(found[:_MOST])


def _candidates(slide: SlideFacts, *, only_shifts: bool) -> Iterator[tuple[Transform, str]]:
    for (scale, scaled), (offset, shifted) in product(_scales(slide), _offsets(slide)):
        if only_shifts and (scaled or not shifted):
            continue
        turns = [(False, False, False)] if only_shifts else product((False, True), repeat=3)
        for swap, flip_x, flip_y in turns:
            words = [scaled, shifted, "x and y swapped" * swap, "x mirrored" * flip_x, "y mirrored" * flip_y]
            why = ", ".join(filter(None, words))
            if why:
                yield Transform(swap, flip_x, flip_y, scale, offset), why


def _scales(slide: SlideFacts) -> list[tuple[tuple[float, float], str]]:
    found: list[tuple[tuple[float, float], str]] = [((1.0, 1.0), "")]
    if slide.mpp is not None:
        y, x = slide.mpp
        found += [((1 / y, 1 / x), "in micrometres"), ((y, x), "divided by the micrometres per pixel")]
    found += [(factors, f"of level {index}") for index, factors in enumerate(slide.downsamples, 1)]
    return found


def _offsets(slide: SlideFacts) -> list[tuple[tuple[float, float], str]]:
    y, x = slide.origin_px
    if (y, x) == (0, 0):
        return [((0.0, 0.0), "")]
    return [
        ((0.0, 0.0), ""),
        ((float(-y), float(-x)), "in the whole picture, not from where the scan begins"),
        ((float(y), float(x)), "moved by the scan's beginning once too often"),
    ]
