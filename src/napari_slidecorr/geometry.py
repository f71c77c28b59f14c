"""Where things lie: boxes and patches in level-0 pixels, and the grid of a prediction map.

Coordinates are ``(y, x)`` in level-0 pixels, corner-based and half-open: pixel ``i`` covers ``[i, i + 1)``.
`Grid` alone knows about half pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from napari_slidecorr.errors import ConfigError, SlideError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

YX = tuple[int, int]


@dataclass(frozen=True)
class Box:
    """A rectangle of level-0 pixels, half-open; it may reach beyond the slide."""

    y0: int
    x0: int
    y1: int
    x1: int

    def __post_init__(self) -> None:
        if self.y1 < self.y0 or self.x1 < self.x0:
            raise ConfigError(f"{self} ends before it begins.")

    @property
    def height(self) -> int:
        """Rows of level-0 pixels."""
        return self.y1 - self.y0

    @property
    def width(self) -> int:
        """Columns of level-0 pixels."""
        return self.x1 - self.x0

    @property
    def shape(self) -> YX:
        """``(height, width)``."""
        return self.height, self.width


@dataclass(frozen=True)
class PatchGeometry:
    """What one input of a model is: a square of ``size_px`` pixels at ``mpp`` micrometres per pixel.

    ``mpp=None`` means level-0 pixels, whatever their physical size.
    """

    size_px: int
    mpp: float | None = None

    def footprint_px(self, slide_mpp: tuple[float, float] | None, slide_name: str = "the slide") -> YX:
        """Give height and width of one patch in whole level-0 pixels of a slide.

        Parameters
        ----------
        slide_mpp : (float, float) or None
            Micrometres per level-0 pixel, (y, x).

        Raises
        ------
        SlideError
            If the geometry has an mpp and the slide has none.

        Notes
        -----
        Rounding to whole pixels changes the scale by at most ``0.5 / footprint``, 0.2 % for 224 px.
        """
        if self.mpp is None:
            return self.size_px, self.size_px
        if slide_mpp is None:
            raise SlideError(
                f"{slide_name}: no physical pixel size in the file, and patches are cut at {self.mpp:g} um/px. "
                "Set it in the Slides dock, with `slidecorr set PROJECT SLIDE --mpp SIZE`, or with open_slide(mpp=...)."
            )
        height, width = (max(1, round(self.size_px * self.mpp / slide)) for slide in slide_mpp)
        return height, width


@dataclass(frozen=True)
class Grid:
    """The patches of a prediction map: cell (i, j) is the patch at ``origin_px + (i, j) * stride_px``.

    A patch covers ``cell_px`` level-0 pixels; on the map its class stands for the ``stride_px`` pixels around its
    centre, so that cells tile the plane without gap or overlap.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns of cells.
    origin_px, stride_px, cell_px : (int, int)
        Level-0 pixels, (y, x).
    mpp : (float, float) or None
        Micrometres per level-0 pixel of the slide.
    slide_px : (int, int) or None
        Rows and columns of the slide. Patches that would reach beyond it are moved inwards, and cells end at its
        edge; None knows of no edge.
    """

    shape: YX
    origin_px: YX
    stride_px: YX
    cell_px: YX
    mpp: tuple[float, float] | None = None
    slide_px: YX | None = None

    @classmethod
    def over(cls, slide_px: YX, cell_px: YX, stride_px: YX, mpp: tuple[float, float] | None = None) -> Grid:
        """Lay cells over a whole slide, the first one centred on its upper left corner.

        So ``translate`` is half a level-0 pixel at most, and the map lies right on the slide even in a viewer that
        reads the scale of an image and forgets its translation.

        Raises
        ------
        ConfigError
            If the stride is not between 1 and the patch size, since that would leave gaps.
        """
        if min(stride_px) < 1 or any(s > c for s, c in zip(stride_px, cell_px, strict=True)):
            raise ConfigError(f"stride_px is {stride_px}; it must be between 1 and the patch size {cell_px}.")
        y, x = (-(c // 2) for c in cell_px)
        grid = cls((1, 1), (y, x), stride_px, cell_px, mpp, slide_px)
        rows, columns = (
            math.ceil((n - corner) / s) for n, corner, s in zip(slide_px, grid.corner_px, stride_px, strict=True)
        )
        return replace(grid, shape=(rows, columns))

    def patch_box(self, row: int, column: int) -> Box:
        """Give the level-0 box that the model sees for a cell; inside the slide wherever that is large enough."""
        y, x = self._start(0, row), self._start(1, column)
        return Box(y, x, y + self.cell_px[0], x + self.cell_px[1])

    def _start(self, axis: int, index: int) -> int:
        start = self.origin_px[axis] + index * self.stride_px[axis]
        if self.slide_px is None:
            return start
        room = self.slide_px[axis] - self.cell_px[axis]
        return min(max(start, 0), room) if room >= 0 else room // 2

    def patch_starts_px(self, axis: int) -> list[int]:
        """First level-0 pixel of the patches of each row (axis 0) or column (axis 1)."""
        return [self._start(axis, index) for index in range(self.shape[axis])]

    def cell_edges_px(self, axis: int) -> list[float]:
        """Where cells begin and end as drawn, corner-based: one more number than rows (axis 0) or columns (axis 1)."""
        edges = [self.corner_px[axis] + index * self.stride_px[axis] for index in range(self.shape[axis] + 1)]
        if self.slide_px is None:
            return edges
        return [min(max(edge, 0.0), float(self.slide_px[axis])) for edge in edges]

    @property
    def extent_px(self) -> tuple[float, float]:
        """Height and width of the slide, or without one how far the cells reach, in level-0 pixels."""
        if self.slide_px is not None:
            return float(self.slide_px[0]), float(self.slide_px[1])
        return self.cell_edges_px(0)[-1], self.cell_edges_px(1)[-1]

    def cells_at(self, axis: int, places_px: NDArray[np.floating]) -> NDArray[np.int64]:
        """Row (axis 0) or column (axis 1) of the cell that is drawn at each level-0 position; -1 where there is none."""
        import numpy as np  # not above: `slidecorr --help` shall not wait for it

        index = np.floor((np.asarray(places_px) - self.corner_px[axis]) / self.stride_px[axis]).astype(np.int64)
        return np.where((index >= 0) & (index < self.shape[axis]), index, -1)

    @property
    def corner_px(self) -> tuple[float, float]:
        """Level-0 position (corner-based) of the upper left corner of cell (0, 0), before it is cut at the edge."""
        y, x = (o + (c - s) / 2 for o, c, s in zip(self.origin_px, self.cell_px, self.stride_px, strict=True))
        return y, x

    @property
    def scale(self) -> tuple[float, float]:
        """Size of a drawn cell in micrometres, or in level-0 pixels without mpp; napari's ``scale``."""
        return _times(self.stride_px, self.mpp)

    @property
    def translate(self) -> tuple[float, float]:
        """Centre of cell (0, 0) where pixel *centres* lie on integers; napari's and OME-Zarr's ``translate``.

        For cells of ``s`` pixels from the slide's corner on it would be ``(s - 1) / 2`` level-0 pixels, times mpp.
        """
        y, x = (o + (c - 1) / 2 for o, c in zip(self.origin_px, self.cell_px, strict=True))
        return _times((y, x), self.mpp)

    def blocks(self, size: int) -> Iterator[tuple[slice, slice]]:
        """Walk the grid in square blocks of at most ``size`` cells a side, row by row."""
        for row in range(0, self.shape[0], size):
            for column in range(0, self.shape[1], size):
                yield (
                    slice(row, min(row + size, self.shape[0])),
                    slice(column, min(column + size, self.shape[1])),
                )


def _times(pair: tuple[float, float], mpp: tuple[float, float] | None) -> tuple[float, float]:
    factor = mpp or (1.0, 1.0)
    return pair[0] * factor[0], pair[1] * factor[1]
