"""A level of a slide as lazy array, for viewers and for whoever else takes arrays."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_slidecorr.errors import DamagedTileError, SlideError
from napari_slidecorr.levels import PixelSource, padded_shapes

logger = logging.getLogger(__name__)

UNREADABLE = 128
"""Grey shown in a viewer for a tile that cannot be decoded; never handed to a model."""


class LevelView:
    """A level as lazy array for a viewer: ``shape``, ``dtype``, ``chunks``, slicing, ``__array__``.

    All levels of a slide are padded with background so that their shapes stand in exact ratios; a viewer takes the
    factors from the shapes alone, and rounded ones shift the levels against each other (2.9 px at column 2800 of a
    slide whose 2967 columns became 741). The true shape is ``slide.levels[level].shape``.

    Parameters
    ----------
    report
        Called with level and place when a tile cannot be read, which then is made from the next finer level or, at the
        finest, shows as `UNREADABLE` grey; None raises.
    channel : int, optional
        Of a slide of channels; the array then has the shape (h, w) and the channel's dtype.
    convert : callable, optional
        Applied to all pixels that are given out.
    """

    def __init__(
        self,
        source: PixelSource,
        level: int,
        report: OncePerTile | None,
        *,
        channel: int | None = None,
        convert: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
    ) -> None:
        self.source, self.level, self._report = source, level, report
        self.channel, self._convert = channel, convert
        self.dtype: np.dtype[Any] = np.dtype(np.uint8) if channel is None else source.dtype  # type: ignore[attr-defined]
        samples = (3,) if channel is None else ()
        height, width = padded_shapes(source.levels)[level]
        self.shape: tuple[int, ...] = (height, width, *samples)
        self.ndim = len(self.shape)
        tile = source.levels[level].tile
        sizes = (_chunk_sizes(n, t) for n, t in zip((height, width), tile, strict=True))
        self.chunks = (*sizes, *((n,) for n in samples))

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"LevelView({self.source.path.name!r}, level={self.level}, shape={self.shape})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: FBT001 numpy's protocol
        return np.asarray(self[:], dtype=dtype)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        rows, columns, *rest = _full_key(key, self.ndim)
        y, height, pick_y = _span(rows, self.shape[0])
        x, width, pick_x = _span(columns, self.shape[1])
        if height < 1 or width < 1:
            return np.asarray(self._grey(height, width)[(pick_y, pick_x, *rest)])
        pixels = self._pixels(y, x, height, width)
        if self._convert is not None:
            pixels = self._convert(pixels)
        return np.asarray(pixels[(pick_y, pick_x, *rest)])

    def _read(self, y: int, x: int, height: int, width: int) -> NDArray[Any]:
        if self.channel is None:
            return self.source.read_level(self.level, y, x, height, width)
        return self.source.read_channel(self.channel, self.level, y, x, height, width)  # type: ignore[attr-defined,no-any-return]

    def _grey(self, height: int, width: int) -> NDArray[Any]:
        """What is shown for pixels that cannot be read; 0 where channels are shown, which has no grey to stand out."""
        return np.full((height, width, *self.shape[2:]), UNREADABLE if self.channel is None else 0, self.dtype)

    def _pixels(self, y: int, x: int, height: int, width: int) -> NDArray[Any]:
        try:
            return self._read(y, x, height, width)
        except SlideError as error:
            if self._report is None:
                raise
            if isinstance(error, DamagedTileError):
                return self._salvage(y, x, height, width)
            self._report(self.level, y, x, error)
            return self._grey(height, width)

    def _salvage(self, y: int, x: int, height: int, width: int) -> NDArray[Any]:
        """Read tile by tile; a damaged one is shown from the next finer level, at the finest grey."""
        out = np.empty((height, width, *self.shape[2:]), self.dtype)
        th, tw = self.source.levels[self.level].tile
        for top in range(y - y % th, y + height, th):
            for left in range(x - x % tw, x + width, tw):
                y0, x0 = max(top, y), max(left, x)
                y1, x1 = min(top + th, y + height), min(left + tw, x + width)
                try:
                    part = self._read(y0, x0, y1 - y0, x1 - x0)
                except SlideError as error:
                    part = self._instead(y0, x0, y1 - y0, x1 - x0, error)
                out[y0 - y : y1 - y, x0 - x : x1 - x] = part
        return out

    def _instead(self, y: int, x: int, height: int, width: int, error: SlideError) -> NDArray[Any]:
        if self._report is not None:
            self._report(self.level, y, x, error)
        finer = self.source.levels[max(0, self.level - 1)].downsample
        fy, fx = (a / b for a, b in zip(self.source.levels[self.level].downsample, finer, strict=True))
        if self.level == 0 or (fy, fx) != (round(fy), round(fx)):
            return self._grey(height, width)
        view = LevelView(self.source, self.level - 1, self._report, channel=self.channel)
        pixels = view._pixels(*(round(n) for n in (y * fy, x * fx, height * fy, width * fx)))
        if self.channel is not None:
            return pixels[:: round(fy), :: round(fx)]
        return np.asarray(Image.fromarray(pixels).reduce((round(fx), round(fy))))


class OncePerTile:
    """Logs an unreadable place once and tells a listener; picklable without its lock."""

    def __init__(self, name: str, listener: Callable[[str], None] | None) -> None:
        self._name, self._listener = name, listener
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, level: int, y: int, x: int, error: SlideError) -> None:
        """Tell of a place, unless it was told of already."""
        message = str(error)
        with self._lock:
            if message in self._seen:
                return
            self._seen.add(message)
        logger.warning("%s: level %d at (%d, %d) is shown grey: %s", self._name, level, y, x, message)
        if self._listener is not None:
            self._listener(message)

    def __getstate__(self) -> dict[str, Any]:
        return {"_name": self._name, "_listener": None, "_seen": set()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


def _chunk_sizes(length: int, chunk: int) -> tuple[int, ...]:
    whole, rest = divmod(length, chunk)
    return (chunk,) * whole + ((rest,) if rest else ())


def _full_key(key: Any, ndim: int) -> tuple[Any, ...]:
    parts = key if isinstance(key, tuple) else (key,)
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts = parts[:at] + (slice(None),) * (ndim + 1 - len(parts)) + parts[at + 1 :]
    return parts + (slice(None),) * (ndim - len(parts))


def _span(part: Any, length: int) -> tuple[int, int, Any]:
    """Give start and length of the contiguous read for one axis, and what to pick from it."""
    if isinstance(part, int | np.integer):
        index = int(part) + (length if part < 0 else 0)
        if not 0 <= index < length:
            raise IndexError(f"index {part} is outside of {length}")
        return index, 1, 0
    start, stop, step = part.indices(length)
    picked = range(start, stop, step)
    if not picked:
        return 0, 0, slice(None)
    low, high = min(picked[0], picked[-1]), max(picked[0], picked[-1])
    return low, high - low + 1, slice(None, None, step)
