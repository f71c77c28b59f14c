"""Coarse levels that a file lacks, made from the next finer one, tile by tile, when somebody looks; the dear ones are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_slidecorr.io.made_tiles import MadeTiles, bound_bytes, user_cache_folder
from napari_slidecorr.io.tiles import Tile, TileReader
from napari_slidecorr.levels import Level, PixelSource

COARSEST_PX = 1000
"""The coarsest level is at most this long and wide: a viewer reads it whole before it shows anything."""

TILE_PX = 512
_CACHE_BYTES = 64 << 20
_KEPT_FROM = 2
"""Made levels before this one are quick to make and large: 48 tiles of 256 px are decoded for a tile of the second."""

_IN_MANY_FILES = {".mrxs", ".dcm", ".vms"}
"""Their own size and time of change do not tell whether the slide is the same."""


def with_coarse_levels(source: PixelSource) -> PixelSource:
    """Give the source itself if its coarsest level is small enough, else one that adds levels of factor 2.

    Each pixel of an added level is the mean of the 2 x 2 pixels below it, background where the finer level ends in
    between. Making the coarsest level reads the whole level it comes from, once.
    """
    return source if max(source.levels[-1].shape) <= COARSEST_PX else PyramidSource(source)


class PyramidSource:
    """A `PixelSource` with more levels than the one it wraps.

    Parameters
    ----------
    source : PixelSource
        Its levels come first and are read from it.
    """

    def __init__(self, source: PixelSource) -> None:
        self.source = source
        self.path: Path = source.path
        self.mpp, self.mpp_source = source.mpp, source.mpp_source
        made = coarser_levels(source.levels[-1])
        self.levels: tuple[Level, ...] = (*source.levels, *made)
        self.properties = {**source.properties, "levels made": f"{len(made)}, means of 2 x 2 pixels"}
        self._first_kept = min(len(source.levels) + _KEPT_FROM, len(self.levels) - 1)
        self._kept = _kept_tiles(self.path)
        self.tiles = TileReader(self.levels, self._load, _CACHE_BYTES)

    def __reduce__(self) -> tuple[Any, ...]:
        return PyramidSource, (self.source,)

    def read_level(self, level: int, y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
        """See `PixelSource.read_level`."""
        if level < len(self.source.levels):
            return self.source.read_level(level, y, x, height, width)
        return self.tiles.read(level, y, x, height, width)

    def close(self) -> None:
        """Let go of the made tiles and close the wrapped source."""
        self.tiles.cache.clear()
        self.source.close()

    def _load(self, level: int, row: int, column: int) -> Tile:
        if self._kept is None or level < self._first_kept:
            return self._made(level, row, column)
        tile = self._kept.get(level, row, column)
        if tile is None:
            tile = self._made(level, row, column)
            self._kept.put(level, row, column, tile)
        return tile

    def _made(self, level: int, row: int, column: int) -> Tile:
        finer = self.read_level(level - 1, row * 2 * TILE_PX, column * 2 * TILE_PX, 2 * TILE_PX, 2 * TILE_PX)
        return np.asarray(Image.fromarray(finer).reduce(2))


def _kept_tiles(path: Path) -> MadeTiles | None:
    folder = user_cache_folder()
    if folder is None or not path.is_file() or path.suffix.lower() in _IN_MANY_FILES:
        return None
    return MadeTiles(path, folder, bound_bytes())


def coarser_levels(level: Level) -> list[Level]:
    """Say which levels of factor 2 are missing below a level until one is at most `COARSEST_PX` long and wide."""
    made: list[Level] = []
    shape, (fy, fx) = level.shape, level.downsample
    while max(shape) > COARSEST_PX:
        shape, fy, fx = ((shape[0] + 1) // 2, (shape[1] + 1) // 2), fy * 2, fx * 2
        made.append(Level(shape, (fy, fx), (TILE_PX, TILE_PX)))
    return made
