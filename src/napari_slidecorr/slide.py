"""The slide as everybody sees it: levels, physical pixel size, and one `read`. Formats live in `io`.

A format hands in a `PixelSource`; `Slide` picks the level, resamples and fills. A slide pickles by its source, which
pickles by path and is opened again in each process.
"""

from __future__ import annotations

import logging
import pickle
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_slidecorr.errors import DamagedTileError, SlideError
from napari_slidecorr.geometry import YX, Box

if TYPE_CHECKING:
    from dask.array import Array as DaskArray
    from zarr import Array as ZarrArray

    from napari_slidecorr.zarr_store import SlideStore

logger = logging.getLogger(__name__)

BACKGROUND = 255
"""Value of every channel where a slide has no pixels: outside of it, and in tiles that the scanner left out."""

UNREADABLE = 128
"""Grey shown in a viewer for a tile that cannot be decoded; never handed to a model."""


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


@dataclass(frozen=True, eq=False)
class Slide:
    """A whole-slide image, opened lazily; made by `napari_slidecorr.open_slide`.

    Attributes
    ----------
    id : str
        Its name in a cohort; the file's stem unless said otherwise.
    source : PixelSource
        Reads the format.
    mpp : (float, float) or None
        Micrometres per level-0 pixel, (y, x); from the file, or given by the user.
    mpp_source : str
        ``"user"`` or what the file's reader says; empty without mpp.
    """

    id: str
    source: PixelSource
    mpp: tuple[float, float] | None
    mpp_source: str

    @property
    def path(self) -> Path:
        """The file or folder."""
        return self.source.path

    @property
    def levels(self) -> tuple[Level, ...]:
        """From fine to coarse, those made by us included."""
        return self.source.levels

    @property
    def shape(self) -> YX:
        """Rows and columns of level 0."""
        return self.levels[0].shape

    @property
    def properties(self) -> dict[str, str]:
        """Further facts that the file tells, to be shown."""
        return self.source.properties

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels of a slide that can only be viewed; empty for brightfield RGB of 8 bits."""
        return tuple(getattr(self.source, "channels", ()))

    def check_brightfield(self) -> None:
        """Raise SlideError, in the sentence of `read`, if the slide can only be viewed; for whoever is about to begin."""
        if self.channels:
            self.source.read_level(0, 0, 0, 1, 1)

    @property
    def associated_names(self) -> tuple[str, ...]:
        """Which of label, macro and thumbnail images the file holds; none is read before `associated`."""
        return tuple(getattr(_file_of(self.source), "associated_names", ()))

    @property
    def icc_profile(self) -> bytes | None:
        """The colour profile that the scanner wrote, read from the file now; None without one."""
        read: Callable[[], bytes | None] | None = getattr(_file_of(self.source), "icc_profile", None)
        return read() if read is not None else None

    @property
    def box(self) -> Box:
        """The whole slide."""
        return Box(0, 0, *self.shape)

    def with_mpp(self, mpp: float | tuple[float, float] | None) -> Slide:
        """Give the same slide with the user's micrometres per pixel; None keeps the file's."""
        if mpp is None:
            return self
        pair = (mpp, mpp) if isinstance(mpp, int | float) else mpp
        if not all(0 < value < 1000 for value in pair):
            raise SlideError(
                f"{self.path.name}: mpp is {mpp}; it must be micrometres per pixel, above 0 and below 1000."
            )
        return replace(self, mpp=(float(pair[0]), float(pair[1])), mpp_source="user")

    def read(self, box: Box, size_px: int | YX) -> NDArray[np.uint8]:
        """Read a box of level-0 pixels at a wanted size: the one place that picks a level and resamples.

        Parameters
        ----------
        box : Box
            Level-0 pixels; what lies outside of the slide comes as `BACKGROUND`.
        size_px : int or (int, int)
            Wanted height and width.

        Returns
        -------
        ndarray, shape (height, width, 3), uint8

        Raises
        ------
        SlideError
            If the box is empty or a tile is damaged.

        Notes
        -----
        The coarsest level that is at least as fine as wanted is read. Whole reductions are means of pixels; others go
        through an antialiased linear filter.
        """
        size = (size_px, size_px) if isinstance(size_px, int) else size_px
        if min(*box.shape, *size) < 1:
            raise SlideError(f"{self.path.name}: cannot read {box} at {size[0]} x {size[1]} pixels; both need an area.")
        level = self._level_for(box.height / size[0], box.width / size[1])
        fy, fx = self.levels[level].downsample
        y0, x0, y1, x1 = box.y0 / fy, box.x0 / fx, box.y1 / fy, box.x1 / fx
        top, left = int(np.floor(y0)), int(np.floor(x0))
        pixels = self.source.read_level(level, top, left, int(np.ceil(y1)) - top, int(np.ceil(x1)) - left)
        return resample(pixels, (y0 - top, x0 - left, y1 - top, x1 - left), size)

    def _level_for(self, zoom_y: float, zoom_x: float) -> int:
        fine_enough = [
            index
            for index, level in enumerate(self.levels)
            if level.downsample[0] <= zoom_y * 1.001 and level.downsample[1] <= zoom_x * 1.001
        ]
        return fine_enough[-1] if fine_enough else 0

    def thumbnail(self, max_px: int = 512) -> NDArray[np.uint8]:
        """The whole slide with its longer side at most ``max_px``; shape (h, w, 3), uint8."""
        factor = max(1.0, max(self.shape) / max_px)
        return self.read(self.box, (max(1, round(self.shape[0] / factor)), max(1, round(self.shape[1] / factor))))

    def associated(self, name: str) -> NDArray[np.uint8]:
        """Read a label, macro or thumbnail image, shape (h, w, 3), uint8.

        A label often shows a patient's name or number: look at it where only those may see it who may know, and do not
        pass it on. Nothing here reads, keeps or exports these images unless this is called.

        Raises
        ------
        SlideError
            If the file holds none of that name.
        """
        if name not in self.associated_names:
            raise SlideError(
                f"{self.path.name}: it holds no image named {name!r}; it has {', '.join(self.associated_names) or 'none'}."
            )
        pixels: NDArray[np.uint8] = _file_of(self.source).read_associated(name)
        return pixels

    def view_levels(self, on_error: Callable[[str], None] | None = None, *, srgb: bool = False) -> list[LevelView]:
        """Give the levels as lazy arrays for a viewer, padded to exact ratios; see `LevelView`.

        Parameters
        ----------
        srgb : bool
            Convert from the slide's ICC profile to sRGB. For viewing alone: `read`, and with it every model, sees the
            stored values, so that slides with and without a profile are treated alike.

        Raises
        ------
        SlideError
            If ``srgb`` is asked for and the file has no usable profile.
        """
        report = _OncePerTile(self, on_error)
        convert = self._to_srgb() if srgb else None
        return [LevelView(self, index, report, convert=convert) for index in range(len(self.levels))]

    def channel_levels(self, channel: int, on_error: Callable[[str], None] | None = None) -> list[LevelView]:
        """Give the levels of one channel as lazy arrays for a viewer, shape (h, w); see `LevelView`."""
        report = _OncePerTile(self, on_error)
        return [LevelView(self, index, report, channel=channel) for index in range(len(self.levels))]

    def _to_srgb(self) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
        from napari_slidecorr.color import srgb_converter

        profile = self.icc_profile
        if profile is None:
            raise SlideError(f"{self.path.name}: it has no ICC profile, so its colours cannot be converted to sRGB.")
        return srgb_converter(profile, self.path.name)

    def strict_levels(self) -> list[LevelView]:
        """Give the same lazy arrays, but with SlideError for a damaged tile: for numbers, not for eyes."""
        return [LevelView(self, index, None) for index in range(len(self.levels))]

    def dask(self, level: int = 0, chunks: int = 2048) -> DaskArray:
        """Give a level as dask array, shape (h, w, 3), uint8, padded to exact ratios; for notebooks and clusters.

        Large chunks keep dask's graph small; a damaged tile raises SlideError.
        """
        import dask.array
        from dask.base import tokenize

        view = self.strict_levels()[level]
        name = f"slide-{tokenize(pickle.dumps(self.source), level, chunks)}"  # another file, another name
        return dask.array.from_array(view, chunks=(chunks, chunks, view.shape[2]), name=name)

    def pyramid(self, chunks: int = 2048) -> list[DaskArray]:
        """Give all levels as dask arrays; see `dask`."""
        return [self.dask(index, chunks) for index in range(len(self.levels))]

    def zarr(self, level: int = 0) -> ZarrArray[Any]:
        """Give a level as read-only zarr array, shape (h, w, 3), uint8, padded to exact ratios; its chunks are the tiles."""
        import zarr

        return zarr.open_array(self.zarr_store(), path=str(level), mode="r")

    def zarr_store(self) -> SlideStore:
        """Give all levels as a read-only zarr v3 store: a group with arrays ``"0"``, ``"1"`` and so on."""
        from napari_slidecorr.zarr_store import SlideStore

        return SlideStore(self)

    def close(self) -> None:
        """Let go of file handles and caches; a later read opens them again."""
        self.source.close()


def _file_of(source: PixelSource) -> Any:
    """The source that reads the file, beneath one that only adds levels."""
    return getattr(source, "source", source)


def resample(pixels: NDArray[np.uint8], box: tuple[float, float, float, float], size: YX) -> NDArray[np.uint8]:
    """Cut ``(y0, x0, y1, x1)``, in pixels of the array, and bring it to a size; shape (h, w, 3), uint8."""
    y0, x0, y1, x1 = box
    if (y0, x0, y1 - y0, x1 - x0) == (0, 0, *size) and pixels.shape[:2] == size:
        return pixels
    reductions = (y1 - y0) / size[0], (x1 - x0) / size[1]
    whole = all(abs(r - round(r)) < 1e-9 for r in (*reductions, y0, x0))
    image = Image.fromarray(pixels)
    if whole and min(reductions) >= 1:
        factors = round(reductions[1]), round(reductions[0])
        return np.asarray(image.reduce(factors, (round(x0), round(y0), round(x1), round(y1))))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=(x0, y0, x1, y1)))


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
        slide: Slide,
        level: int,
        report: _OncePerTile | None,
        *,
        channel: int | None = None,
        convert: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
    ) -> None:
        self.slide, self.level, self._report = slide, level, report
        self.channel, self._convert = channel, convert
        self.dtype: np.dtype[Any] = np.dtype(np.uint8) if channel is None else slide.source.dtype  # type: ignore[attr-defined]
        samples = (3,) if channel is None else ()
        height, width = padded_shapes(slide.levels)[level]
        self.shape: tuple[int, ...] = (height, width, *samples)
        self.ndim = len(self.shape)
        tile = slide.levels[level].tile
        sizes = (_chunk_sizes(n, t) for n, t in zip((height, width), tile, strict=True))
        self.chunks = (*sizes, *((n,) for n in samples))

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"LevelView({self.slide.id!r}, level={self.level}, shape={self.shape})"

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
            return self.slide.source.read_level(self.level, y, x, height, width)
        return self.slide.source.read_channel(self.channel, self.level, y, x, height, width)  # type: ignore[attr-defined,no-any-return]

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
        th, tw = self.slide.levels[self.level].tile
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
        finer = self.slide.levels[max(0, self.level - 1)].downsample
        fy, fx = (a / b for a, b in zip(self.slide.levels[self.level].downsample, finer, strict=True))
        if self.level == 0 or (fy, fx) != (round(fy), round(fx)):
            return self._grey(height, width)
        view = LevelView(self.slide, self.level - 1, self._report, channel=self.channel)
        pixels = view._pixels(*(round(n) for n in (y * fy, x * fx, height * fy, width * fx)))
        if self.channel is not None:
            return pixels[:: round(fy), :: round(fx)]
        return np.asarray(Image.fromarray(pixels).reduce((round(fx), round(fy))))


class _OncePerTile:
    """Logs an unreadable place once and tells a listener; picklable without its lock."""

    def __init__(self, slide: Slide, listener: Callable[[str], None] | None) -> None:
        self._name, self._listener = slide.path.name, listener
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, level: int, y: int, x: int, error: SlideError) -> None:
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
