"""The slide as everybody sees it: levels, physical pixel size, and one `read`. Formats live in `io`.

A format hands in a `PixelSource`; `Slide` picks the level, resamples and fills. A slide pickles by its source, which
pickles by path and is opened again in each process.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_slidecorr.errors import SlideError
from napari_slidecorr.geometry import YX, Box
from napari_slidecorr.level_view import LevelView, OncePerTile
from napari_slidecorr.levels import Level, PixelSource

if TYPE_CHECKING:
    from dask.array import Array as DaskArray
    from zarr import Array as ZarrArray

    from napari_slidecorr.zarr_store import SlideStore


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
    def origin_px(self) -> YX:
        """Where level 0 begins in the whole picture of the file, (y, x): of some formats only the scanned part is shown."""
        origin: YX = getattr(_file_of(self.source), "origin_px", (0, 0))
        return origin

    @property
    def offset_from_center_nm(self) -> tuple[float, float] | None:
        """Nanometres from the centre of the glass slide to that of level 0, (y, x); only Hamamatsu's files tell."""
        offset: tuple[float, float] | None = getattr(_file_of(self.source), "offset_from_center_nm", None)
        return offset

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
        report = OncePerTile(self.path.name, on_error)
        convert = self._to_srgb() if srgb else None
        return [LevelView(self.source, index, report, convert=convert) for index in range(len(self.levels))]

    def channel_levels(self, channel: int, on_error: Callable[[str], None] | None = None) -> list[LevelView]:
        """Give the levels of one channel as lazy arrays for a viewer, shape (h, w); see `LevelView`."""
        report = OncePerTile(self.path.name, on_error)
        return [LevelView(self.source, index, report, channel=channel) for index in range(len(self.levels))]

    def _to_srgb(self) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
        from napari_slidecorr.color import srgb_converter

        profile = self.icc_profile
        if profile is None:
            raise SlideError(
                f"{self.path.name}: it has no ICC profile, so its colours cannot be converted to sRGB; read them as they are."
            )
        return srgb_converter(profile, self.path.name)

    def strict_levels(self) -> list[LevelView]:
        """Give the same lazy arrays, but with SlideError for a damaged tile: for numbers, not for eyes."""
        return [LevelView(self.source, index, None) for index in range(len(self.levels))]

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

        return SlideStore(self.source)

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
