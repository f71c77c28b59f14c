"""Coarse levels that a slide of channels lacks, made for viewing, channel by channel."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.io.pyramid import COARSEST_PX, TILE_PX, coarser_levels
from napari_slidecorr.io.tiles import Tile, channel_readers
from napari_slidecorr.levels import ChannelSource, Level


def with_coarse_channels(source: ChannelSource) -> ChannelSource:
    """Give the source itself if its coarsest level is small enough, else one that adds levels of factor 2."""
    return source if max(source.levels[-1].shape) <= COARSEST_PX else ChannelPyramid(source)


class ChannelPyramid:
    """A `ChannelSource` with more levels than the one it wraps; each added pixel is the mean of 2 x 2 below it.

    Parameters
    ----------
    source : ChannelSource
        Its levels come first and are read from it.
    """

    def __init__(self, source: ChannelSource) -> None:
        self.source = source
        self.path: Path = source.path
        self.mpp, self.mpp_source = source.mpp, source.mpp_source
        self.channels, self.dtype = source.channels, source.dtype
        made = coarser_levels(source.levels[-1])
        self.levels: tuple[Level, ...] = (*source.levels, *made)
        self.properties = {**source.properties, "levels made": f"{len(made)}, means of 2 x 2 pixels"}
        self._readers = channel_readers(self.levels, self._load, len(self.channels), self.dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return ChannelPyramid, (self.source,)

    def read_level(self, level: int, y: int, x: int, height: int, width: int) -> NoReturn:
        """Refuse, as the source does."""
        self.source.read_level(min(level, len(self.source.levels) - 1), y, x, height, width)
        raise AssertionError("a source of channels gave RGB")

    def read_channel(self, channel: int, level: int, y: int, x: int, height: int, width: int) -> NDArray[Any]:
        """See `ChannelSource.read_channel`."""
        if level < len(self.source.levels):
            return self.source.read_channel(channel, level, y, x, height, width)
        return self._readers[channel].read(level, y, x, height, width)[..., 0]

    def close(self) -> None:
        """Let go of the made tiles and close the wrapped source."""
        for reader in self._readers:
            reader.cache.clear()
        self.source.close()

    def _load(self, channel: int, level: int, row: int, column: int) -> Tile:
        side = 2 * TILE_PX
        finer = self.read_channel(channel, level - 1, row * side, column * side, side, side)
        means: NDArray[Any] = finer.reshape(TILE_PX, 2, TILE_PX, 2).mean((1, 3), dtype=np.float64)
        rounded = means if self.dtype.kind == "f" else means.round()
        return np.asarray(rounded.astype(self.dtype))[..., None]
