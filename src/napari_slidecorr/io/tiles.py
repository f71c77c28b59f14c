"""Tiles of a slide: each is decoded once, kept for a while, and pasted where somebody reads.

`TileCache` is the memory, `TileReader` turns tiles into regions, `TileIndex` says where the bytes of a file's tiles lie.
Formats hand a `TileReader` a function that loads one tile; nothing else in this package pastes tiles.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.errors import DamagedTileError, SlideError
from napari_slidecorr.geometry import YX
from napari_slidecorr.io.raw_file import RawFile
from napari_slidecorr.levels import BACKGROUND, Level

Tile = NDArray[Any]
"""Pixels, shape (h, w, samples); uint8 and 3 samples wherever a model may see them."""

Key = tuple[int, int, int]
"""Level, row and column of a tile."""

CACHE_BYTES = 256 << 20
"""Decoded tiles kept by a slide, all levels together."""

MAX_SEGMENT_PIXELS = 100_000_000
"""A tile, strip or chunk above this is refused: every small read would decode all of it."""

MAX_CONVERTED_SEGMENT_PIXELS = 500_000_000
"""A conversion takes larger ones, since it decodes each once or twice in all; 1.5 GB of pixels, and the coded bytes."""

_segment_limit = ContextVar("segment_limit", default=MAX_SEGMENT_PIXELS)

NOT_RGB = "only brightfield RGB of 8 bits can be used, fluorescence channels and 16 bits cannot."
"""End of the sentence that refuses other pixels."""


class NotRgbError(SlideError):
    """The pixels are not brightfield RGB of 8 bits; they may still be viewed."""


class StitchedError(SlideError):
    """Ventana's tiles overlap; only openslide knows how they are stitched."""


@contextmanager
def segments_for_conversion() -> Iterator[None]:
    """Let slides that are opened within the block have segments of up to `MAX_CONVERTED_SEGMENT_PIXELS`."""
    token = _segment_limit.set(MAX_CONVERTED_SEGMENT_PIXELS)
    try:
        yield
    finally:
        _segment_limit.reset(token)


def check_segment(name: str, shape: YX) -> None:
    """Raise SlideError, with what to do, if tiles or strips of a file are so large that reads would take for ever."""
    pixels = shape[0] * shape[1]
    if pixels > _segment_limit.get():
        advice = "rewrite it as tiles with `slidecorr convert`"
        if pixels > MAX_CONVERTED_SEGMENT_PIXELS:
            advice = "write it anew in tiles, with the program that made it"
        raise SlideError(
            f"{name}: its pixels are stored in pieces of {shape[0]} x {shape[1]}, and every read would decode a whole "
            f"piece; {advice}."
        )


@dataclass(frozen=True)
class PixelType:
    """What a pixel is.

    Attributes
    ----------
    samples : int
        Values of a pixel.
    dtype : dtype
        Of a value.
    blank : int
        Where nothing was scanned.
    """

    samples: int
    dtype: np.dtype[Any]
    blank: int

    def empty(self, height: int, width: int) -> Tile:
        """An array to be filled, shape (height, width, samples)."""
        return np.empty((height, width, self.samples), self.dtype)

    def blank_array(self, height: int, width: int) -> Tile:
        """An array where nothing was scanned, shape (height, width, samples)."""
        return np.full((height, width, self.samples), self.blank, self.dtype)


RGB = PixelType(3, np.dtype(np.uint8), BACKGROUND)


class _Forkable(Protocol):
    def after_fork(self) -> None: ...


_alive: weakref.WeakSet[_Forkable] = weakref.WeakSet()


def reset_after_fork(thing: _Forkable) -> None:
    """Have ``thing.after_fork()`` called in forked children for as long as it lives.

    A lock that another thread held at the fork stays locked for ever in the child, where that thread does not exist.
    """
    _alive.add(thing)


def _reset_all() -> None:
    for thing in list(_alive):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all)


class TileCache:
    """Keeps decoded tiles, the latest used ones, up to a number of bytes; loads each once however many threads ask.

    Parameters
    ----------
    capacity_bytes : int
        Never exceeded but by a single tile that is larger.
    """

    def __init__(self, capacity_bytes: int = CACHE_BYTES) -> None:
        self.capacity_bytes = capacity_bytes
        self.after_fork()
        reset_after_fork(self)

    def after_fork(self) -> None:
        """Start empty with a lock that nobody holds."""
        self._lock = threading.Lock()
        self._tiles: OrderedDict[Key, Tile] = OrderedDict()
        self._loading: dict[Key, Future[Tile]] = {}
        self._bytes = 0

    def get(self, key: Key, load: Callable[[int, int, int], Tile]) -> Tile:
        """Give a tile, loaded by the first who asks; the others wait for it. A failure is not kept."""
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                self._tiles.move_to_end(key)
                return tile
            running = self._loading.get(key)
            if running is None:
                mine = self._loading[key] = Future[Tile]()
        if running is not None:
            return running.result()
        return self._load(key, load, mine)

    def _load(self, key: Key, load: Callable[[int, int, int], Tile], future: Future[Tile]) -> Tile:
        try:
            tile = load(*key)
        except BaseException as error:
            with self._lock:
                self._loading.pop(key, None)
            future.set_exception(error)
            raise
        with self._lock:
            self._loading.pop(key, None)
            self._tiles[key] = tile
            self._bytes += tile.nbytes
            while self._bytes > self.capacity_bytes and len(self._tiles) > 1:
                self._bytes -= self._tiles.popitem(last=False)[1].nbytes
        future.set_result(tile)
        return tile

    def clear(self) -> None:
        """Forget all tiles."""
        with self._lock:
            self._tiles.clear()
            self._bytes = 0


class TileReader:
    """Regions of any size and place from tiles.

    Parameters
    ----------
    levels : sequence of Level
        Their shapes and tile sizes.
    load : callable
        Gives the tile at (level, row, column), of the pixel type below; it may be larger than what the level shows of
        it. Called from any thread.
    capacity_bytes : int
        Of the tiles that are kept.
    pixel : PixelType
        Of the tiles and of what is read; RGB of 8 bits unless said otherwise.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        load: Callable[[int, int, int], Tile],
        capacity_bytes: int = CACHE_BYTES,
        pixel: PixelType = RGB,
    ) -> None:
        self.levels, self.load, self.pixel = levels, load, pixel
        self.cache = TileCache(capacity_bytes)

    def read(self, level: int, y: int, x: int, height: int, width: int, out: Tile | None = None) -> Tile:
        """Give pixels of a level, shape (height, width, samples); the blank value outside.

        Parameters
        ----------
        out : ndarray, optional
            Of that shape and the tiles' dtype: filled and given back instead of a fresh array. Fresh memory costs a
            quarter of decoding what is pasted into it.
        """
        rows, columns = self.levels[level].shape
        th, tw = self.levels[level].tile
        y0, x0, y1, x1 = max(y, 0), max(x, 0), min(y + height, rows), min(x + width, columns)
        if out is None:
            out = self.pixel.empty(height, width)
        if (y0, x0, y1, x1) != (y, x, y + height, x + width):
            out[...] = self.pixel.blank
        if y0 >= y1 or x0 >= x1:
            return out
        for row in range(y0 // th, -(-y1 // th)):
            for column in range(x0 // tw, -(-x1 // tw)):
                tile = self.cache.get((level, row, column), self.load)
                top, left = row * th, column * tw
                ya, xa, yb, xb = max(top, y0), max(left, x0), min(top + th, y1), min(left + tw, x1)
                out[ya - y : yb - y, xa - x : xb - x] = tile[ya - top : yb - top, xa - left : xb - left]
        return out


def channel_readers(
    levels: Sequence[Level], load: Callable[[int, int, int, int], Tile], channels: int, dtype: np.dtype[Any]
) -> list[TileReader]:
    """Give a reader for each channel, all together with one cache's worth of bytes; ``load`` takes the channel first."""
    pixel = PixelType(1, dtype, 0)
    return [TileReader(levels, partial(load, channel), CACHE_BYTES // channels, pixel) for channel in range(channels)]


@dataclass(frozen=True)
class TileIndex:
    """Where the tiles of one level lie in a file, and how to decode them.

    Attributes
    ----------
    shape, tile : (int, int)
        Of the level and of a tile, in pixels; a strip is a tile as wide as the level.
    offsets, counts : ndarray, shape (planes, rows, columns), int64
        Bytes; a count of 0 is a tile that the scanner left out. Planar RGB has 3 planes, else 1.
    decode : callable
        Takes encoded bytes and the running number of the segment; gives (h, w, samples).
    pixel : PixelType
        Of the tiles; RGB of 8 bits unless said otherwise.
    """

    shape: YX
    tile: YX
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    decode: Callable[[bytes, int], NDArray[Any]]
    pixel: PixelType = RGB

    def check(self, name: str, file_size: int) -> None:
        """Raise SlideError if tiles lie beyond the end of the file: it was cut short."""
        ends = np.where(self.counts > 0, self.offsets + self.counts, 0)
        beyond = int(np.count_nonzero((ends > file_size) | (self.offsets < 0) | (self.counts < 0)))
        if beyond:
            raise SlideError(
                f"{name}: the file is cut short; {beyond} of {ends.size} tiles of {self.shape[0]} x {self.shape[1]} px "
                f"lie beyond its {file_size} bytes; copy it again."
            )

    def load(self, file: RawFile, level: int, row: int, column: int) -> Tile:
        """Read and decode one tile, shape (h, w, samples).

        Raises
        ------
        SlideError
            If it is damaged; names file, level and tile.
        """
        planes, rows, columns = self.offsets.shape
        parts = [
            self._segment(file, level, (row, column), plane * rows * columns + row * columns + column)
            for plane in range(planes)
        ]
        tile = parts[0] if planes == 1 else np.concatenate(parts, axis=2)
        if tile.dtype != self.pixel.dtype or tile.shape[2] != self.pixel.samples:
            raise _damaged(file, level, (row, column), f"it decodes to {tile.shape[2]} channels of {tile.dtype}")
        return tile

    def _segment(self, file: RawFile, level: int, place: YX, number: int) -> NDArray[Any]:
        offset, count = int(self.offsets.flat[number]), int(self.counts.flat[number])
        if count == 0:
            return self.pixel.blank_array(*self.tile)[..., :: self.offsets.shape[0]]
        data = file.read(offset, count)
        try:
            return self._whole(self.decode(data, number), place)
        except Exception as error:  # codecs raise types of their own
            file.state.check(file.path)
            raise _damaged(file, level, place, str(error)) from error

    def _whole(self, part: NDArray[Any], place: YX) -> NDArray[Any]:
        needed = [min(t, n - p * t) for t, n, p in zip(self.tile, self.shape, place, strict=True)]
        if part.shape[0] < needed[0] or part.shape[1] < needed[1]:
            raise ValueError(f"it has {part.shape[0]} x {part.shape[1]} px instead of {needed[0]} x {needed[1]}")
        return part


def _damaged(file: RawFile, level: int, place: YX, reason: str) -> DamagedTileError:
    return DamagedTileError(
        f"{file.path.name}: level {level}, tile ({place[0]}, {place[1]}) is damaged: {reason.rstrip('.')}; "
        "copy the file again or leave this place out."
    )
