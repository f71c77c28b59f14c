"""What a level of a slide is, and what a format must offer to be read; no format is known here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.geometry import YX

BACKGROUND = 255
"""Value of every channel where a slide has no pixels: outside of it, and in tiles that the scanner left out."""


@dataclass(frozen=True)
class Level:
    """One resolution of a slide.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns that really exist.
    downsample : (float, float)
        Level-0 pixels per pixel of this level, (y, x); an integer wherever the shapes allow one.
    tile : (int, int)
        How its pixels are stored, the natural unit of reading.
    """

    shape: YX
    downsample: tuple[float, float]
    tile: YX


class PixelSource(Protocol):
    """What a format must offer. Thread-safe, fork-safe, and picklable by path.

    Attributes
    ----------
    path : Path
        The file or folder.
    levels : tuple of Level
        From fine to coarse; level 0 has downsample (1, 1).
    mpp : (float, float) or None
        Micrometres per level-0 pixel, (y, x), as the file says; None when it says nothing believable.
    mpp_source : str
        Where that came from, for a person to read; empty without mpp.
    properties : dict of str to str
        Further facts to show, for example ``vendor``, ``objective``, ``compression``.
    """

    path: Path
    levels: tuple[Level, ...]
    mpp: tuple[float, float] | None
    mpp_source: str
    properties: dict[str, str]

    def read_level(self, level: int, y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
        """Pixels of a level, shape (height, width, 3); `BACKGROUND` outside; SlideError on a damaged tile."""
        ...

    def close(self) -> None:
        """Let go of file handles and caches."""
        ...


class ChannelSource(PixelSource, Protocol):
    """Fluorescence, grey or 16 bits: for viewing, one channel at a time; its `read_level` refuses in one sentence.

    Attributes
    ----------
    channels : tuple of str
        Their names.
    dtype : dtype
        Of a pixel.
    """

    channels: tuple[str, ...]
    dtype: np.dtype[Any]

    def read_channel(self, channel: int, level: int, y: int, x: int, height: int, width: int) -> NDArray[Any]:
        """Pixels of one channel of a level, shape (height, width); 0 outside; SlideError on a damaged tile."""
        ...


def level_downsample(full: YX, level: YX) -> tuple[float, float]:
    """Give level-0 pixels per level pixel from two shapes.

    Writers round level shapes up or down, so 3567 rows over 1783 mean a factor of 2, not 2.0006. The integer is taken
    when both axes lie within one level pixel of the same one; else the ratios are kept, y and x apart.
    """
    ratios = full[0] / level[0], full[1] / level[1]
    factor = round(sum(ratios) / 2)
    if factor >= 1 and all(abs(n / factor - m) < 1 for n, m in zip(full, level, strict=True)):
        return float(factor), float(factor)
    return ratios


def padded_shapes(levels: Sequence[Level]) -> list[YX]:
    """Give shapes that stand in the exact ratios of the downsamples, each at least the true one."""
    return list(zip(*(_padded_axis(levels, axis) for axis in (0, 1)), strict=True))


def _padded_axis(levels: Sequence[Level], axis: int) -> list[int]:
    factors = [level.downsample[axis] for level in levels]
    if any(factor != round(factor) for factor in factors):
        return [level.shape[axis] for level in levels]
    whole = int(np.lcm.reduce([round(factor) for factor in factors]))
    needed = max(level.shape[axis] * round(factor) for level, factor in zip(levels, factors, strict=True))
    full = -(-needed // whole) * whole
    return [full // round(factor) for factor in factors]
