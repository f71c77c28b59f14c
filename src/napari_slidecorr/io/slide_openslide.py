"""MIRAX, DICOM, VMS, BIF and the like through openslide, an optional extra.

Only for formats that nothing here reads: openslide opens any tiled TIFF as well, but without its SubIFDs.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_slidecorr.errors import DamagedTileError, SlideError
from napari_slidecorr.geometry import YX
from napari_slidecorr.io.raw_file import FileState, check_is_data
from napari_slidecorr.io.tiles import CACHE_BYTES, Tile, TileReader, reset_after_fork
from napari_slidecorr.levels import BACKGROUND, Level, level_downsample

if TYPE_CHECKING:
    import openslide

_OWN_CACHE_BYTES = 32 << 20
_TILE_PX = 512
_MIN_TILE_PX = 128


class OpenSlideSource:
    """A slide that openslide reads, as `PixelSource`; one handle a process, pickles as path.

    Coordinates start at the bounds of what was scanned, where the file tells them, as QuPath's do.

    Parameters
    ----------
    path : Path
        The file; of a DICOM series any one, the others are found beside it.
    state : FileState, optional
        What the file must be; what it is now when left out.
    """

    def __init__(self, path: Path, state: FileState | None = None) -> None:
        self.path = path
        check_is_data(path)
        self._state = state or FileState.of(path)
        self._forget()
        handle = self._opened()
        told = dict(handle.properties)
        self.origin_px, full = _bounds(told, handle.dimensions)
        self._factors = tuple(handle.level_downsamples)
        shapes = [_level_shape(full, factor) for factor in self._factors]
        if self.origin_px == (0, 0) and full == handle.dimensions[::-1]:
            shapes = [(height, width) for width, height in handle.level_dimensions]
        self.levels = tuple(
            Level(shape, level_downsample(full, shape), _tile(told, index)) for index, shape in enumerate(shapes)
        )
        self.mpp, self.mpp_source = _pixel_size(told)
        self.properties = _facts(told)
        self.associated_names = tuple(sorted(handle.associated_images))
        self._has_icc = "openslide.icc-size" in told
        self.tiles = TileReader(self.levels, self._load, CACHE_BYTES)
        reset_after_fork(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return OpenSlideSource, (self.path, self._state)

    def read_level(self, level: int, y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
        """See `PixelSource.read_level`."""
        return self.tiles.read(level, y, x, height, width)

    def read_associated(self, name: str) -> NDArray[np.uint8]:
        """See `Slide.associated`."""
        try:
            return _on_background(self._opened().associated_images[name])
        except SlideError:
            raise
        except Exception as error:  # openslide has a family of errors
            self._forget()
            raise SlideError(
                f"{self.path.name}: its {name} image cannot be read ({error}); the slide itself is not touched by it."
            ) from error

    def icc_profile(self) -> bytes | None:
        """See `Slide.icc_profile`."""
        profile = self._opened().color_profile if self._has_icc else None
        return None if profile is None else bytes(profile.tobytes())

    def close(self) -> None:
        """Let go of the handle, once running reads are done, and of the decoded tiles."""
        self._forget()
        self.tiles.cache.clear()

    def after_fork(self) -> None:
        """Let a child open its own handle; the inherited one is left alone, its locks may be held for ever."""
        _left_alone.append(self._handle)
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._handle: openslide.OpenSlide | None = None

    def _opened(self) -> openslide.OpenSlide:
        with self._lock:
            if self._handle is None:
                self._state.check(self.path)
                self._handle = _open(self.path)
            return self._handle

    def _load(self, level: int, row: int, column: int) -> Tile:
        th, tw = self.levels[level].tile
        factor = self._factors[level]
        y, x = (round(n * factor) + start for n, start in zip((row * th, column * tw), self.origin_px, strict=True))
        try:
            picture = self._opened().read_region((x, y), level, (tw, th))
        except SlideError:
            raise
        except Exception as error:  # openslide has a family of errors
            self._forget()  # a handle that failed once fails for ever
            self._state.check(self.path)
            raise DamagedTileError(
                f"{self.path.name}: level {level}, tile ({row}, {column}) is damaged: {str(error).rstrip('.')}; "
                "copy the file again or leave this place out."
            ) from error
        return _on_background(picture)


_left_alone: list[Any] = []


def open_source(path: Path) -> OpenSlideSource:
    """Open a slide with openslide.

    Raises
    ------
    SlideError
        If openslide is not installed or cannot read the file.
    """
    return OpenSlideSource(path)


def series_of(path: Path) -> str:
    """Which DICOM series a file belongs to.

    Raises
    ------
    SlideError
        If openslide is not installed or cannot read the file.
    """
    check_is_data(path)
    with _open(path) as handle:
        return str(handle.properties.get("dicom.SeriesInstanceUID", path.name))


def _open(path: Path) -> openslide.OpenSlide:
    try:
        import openslide
    except ImportError as error:
        raise SlideError(
            f"{path.name}: {path.suffix} files need openslide; install it with "
            '`pip install "napari-slidecorr[openslide]"`.'
        ) from error
    try:
        handle = openslide.OpenSlide(path)
        handle.set_cache(openslide.OpenSlideCache(_OWN_CACHE_BYTES))
    except Exception as error:  # openslide has a family of errors
        raise SlideError(
            f"{path.name}: openslide cannot read this file ({error}); copy it again with all that belongs to it."
        ) from error
    return handle


def _on_background(picture: Image.Image) -> Tile:
    """Lay RGBA on background: what was not scanned has alpha 0 and any colour."""
    alpha = picture.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return np.asarray(picture.convert("RGB"))
    ground = Image.new("RGB", picture.size, (BACKGROUND, BACKGROUND, BACKGROUND))
    ground.paste(picture, mask=alpha)
    return np.asarray(ground)


def _bounds(told: dict[str, str], dimensions: tuple[int, int]) -> tuple[YX, YX]:
    """Give origin and shape, (y, x), of what was scanned; the whole picture where the file does not say."""
    keys = [f"openslide.bounds-{name}" for name in ("y", "x", "height", "width")]
    if not all(key in told for key in keys):
        return (0, 0), (dimensions[1], dimensions[0])
    y, x, height, width = (int(told[key]) for key in keys)
    return (y, x), (height, width)


def _level_shape(full: YX, factor: float) -> YX:
    return max(1, int(full[0] / factor)), max(1, int(full[1] / factor))


def _tile(told: dict[str, str], level: int) -> YX:
    sides = [int(told.get(f"openslide.level[{level}].tile-{side}", _TILE_PX)) for side in ("height", "width")]
    return (sides[0], sides[1]) if min(sides) >= _MIN_TILE_PX and max(sides) <= 4 * _TILE_PX else (_TILE_PX, _TILE_PX)


def _pixel_size(told: dict[str, str]) -> tuple[tuple[float, float] | None, str]:
    try:
        y, x = float(told["openslide.mpp-y"]), float(told["openslide.mpp-x"])
    except (KeyError, ValueError):
        return None, ""
    return ((y, x), f"{told.get('openslide.vendor', '')} file, by openslide") if min(y, x) > 0 else (None, "")


def _facts(told: dict[str, str]) -> dict[str, str]:
    facts = {"format": f"{told.get('openslide.vendor', 'unknown')} (openslide)"}
    if "openslide.objective-power" in told:
        facts["objective"] = f"{told['openslide.objective-power']}x"
    if "openslide.icc-size" in told:
        facts["ICC profile"] = f"{int(told['openslide.icc-size']):,} bytes"
    return facts
