"""How coordinates of another program become level-0 pixels of ours: swapped, scaled, shifted, mirrored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isclose, isfinite
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon

from napari_slidecorr.errors import RegionsError
from napari_slidecorr.geometry import YX

_PLAIN = (1.0, 1.0)
_STILL = (0.0, 0.0)


@dataclass(frozen=True)
class Transform:
    """Steps in this very order: swap x and y, scale, shift, mirror within the slide; none is the identity.

    Attributes
    ----------
    swap : bool
        The file has (y, x) where its format says (x, y).
    flip_x, flip_y : bool
        Mirror left and right, or top and bottom, within the slide: ``x`` becomes ``width - x``.
    scale : (float, float)
        Factors (y, x), above 0.
    offset : (float, float)
        Level-0 pixels (y, x) added after scaling.
    """

    swap: bool = False
    flip_x: bool = False
    flip_y: bool = False
    scale: tuple[float, float] = _PLAIN
    offset: tuple[float, float] = _STILL

    def __post_init__(self) -> None:
        if not all(isfinite(factor) and factor > 0 for factor in self.scale):
            raise RegionsError(f"The scale is {self.scale}; give factors above 0.")
        if not all(isfinite(shift) for shift in self.offset):
            raise RegionsError(f"The offset is {self.offset}; give two numbers of level-0 pixels.")

    @property
    def steps(self) -> int:
        """How many things it does; 0 for the identity."""
        return sum((self.swap, self.flip_x, self.flip_y, self.scale != _PLAIN, self.offset != _STILL))

    @property
    def text(self) -> str:
        """What it does in words, to be shown."""
        done = [
            "swap x and y" if self.swap else "",
            f"scale by {_pair(self.scale)}" if self.scale != _PLAIN else "",
            f"shift by {self.offset[1]:+g} px in x, {self.offset[0]:+g} px in y" if self.offset != _STILL else "",
            "flip x" if self.flip_x else "",
            "flip y" if self.flip_y else "",
        ]
        return ", ".join(filter(None, done)) or "as it is"

    def polygon(self, polygon: Polygon, shape: YX | None) -> Polygon:
        """Give a (y, x) polygon in its new place.

        Parameters
        ----------
        shape : (int, int) or None
            Rows and columns of the slide's level 0; needed to flip.

        Raises
        ------
        RegionsError
            If it flips and there is no slide.
        """
        return self.polygons([polygon], shape)[0]

    def polygons(self, polygons: Sequence[Polygon], shape: YX | None) -> list[Polygon]:
        """Give (y, x) polygons in their new places, all at once; see `polygon`."""
        if not self.steps or not polygons:
            return list(polygons)
        matrix, shift = self._affine(shape)
        moved = shapely.transform(np.asarray(polygons, dtype=object), lambda points: points @ matrix.T + shift)
        return list(moved)

    def points(self, points: NDArray[np.float64], shape: YX | None) -> NDArray[np.float64]:
        """Give (y, x) points, shape (n, 2), in their new place; see `polygon`."""
        matrix, shift = self._affine(shape)
        moved: NDArray[np.float64] = points @ matrix.T + shift
        return moved

    def _affine(self, shape: YX | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if (self.flip_x or self.flip_y) and shape is None:
            raise RegionsError("To flip regions, the size of the slide must be known; open the slide first.")
        matrix = np.diag(self.scale) @ (np.eye(2)[::-1] if self.swap else np.eye(2))
        shift: Any = np.array(self.offset, float)
        for axis, flips in enumerate((self.flip_y, self.flip_x)):
            if flips and shape is not None:
                matrix[axis] *= -1
                shift[axis] = shape[axis] - shift[axis]
        return matrix, shift


IDENTITY = Transform()
"""Nothing is changed."""


def _pair(scale: tuple[float, float]) -> str:
    y, x = scale
    return f"{x:.6g}" if isclose(x, y, rel_tol=1e-6) else f"{x:.6g} in x, {y:.6g} in y"
