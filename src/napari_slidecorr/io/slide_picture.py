"""PNG and JPEG as small slides of one level, decoded whole at the first read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_slidecorr.errors import SlideError
from napari_slidecorr.io.raw_file import FileState, RawFile, check_is_data
from napari_slidecorr.io.tiles import CACHE_BYTES, NOT_RGB, Tile, TileReader, reset_after_fork
from napari_slidecorr.levels import BACKGROUND, Level

MAX_PIXELS = 80_000_000
"""A picture above this is refused: it is decoded whole and kept."""

_TILE_PX = 512
_EXIF_ORIENTATION = 274
_COLOURED = ("RGB", "RGBA", "P", "PA")


class PictureSource:
    """A PNG or JPEG as `PixelSource`; pickles as path, size and time of change.

    It never has a size of its pixels: the resolution in such a file is one for printing.

    Parameters
    ----------
    path : Path
        The file.
    state : FileState, optional
        What the file must be; what it is now when left out.
    """

    mpp: tuple[float, float] | None = None
    mpp_source = ""

    def __init__(self, path: Path, state: FileState | None = None) -> None:
        self.path = path
        check_is_data(path)
        self._file = RawFile(path, state or FileState.of(path))
        self._file.state.check(path)
        with _opened(path, self._file) as picture:
            _check(path, picture)
            self.levels = (Level((picture.height, picture.width), (1.0, 1.0), (_TILE_PX, _TILE_PX)),)
            self.properties = {"format": str(picture.format), "pixel size": "unknown; DPI is not believed"}
            self._icc: bytes | None = picture.info.get("icc_profile")
        if self._icc:
            self.properties["ICC profile"] = f"{len(self._icc):,} bytes"
        self._whole: Tile | None = None
        self.tiles = TileReader(self.levels, self._load, CACHE_BYTES)
        reset_after_fork(self._file)

    def __reduce__(self) -> tuple[Any, ...]:
        return PictureSource, (self.path, self._file.state)

    def read_level(self, level: int, y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
        """See `PixelSource.read_level`."""
        return self.tiles.read(level, y, x, height, width)

    def icc_profile(self) -> bytes | None:
        """See `Slide.icc_profile`."""
        return self._icc

    def close(self) -> None:
        """Let go of the pixels."""
        self._file.close()
        self._whole = None
        self.tiles.cache.clear()

    def _load(self, _level: int, row: int, column: int) -> Tile:
        whole = self._whole
        if whole is None:  # two threads may both decode it, and both get the same
            whole = self._whole = self._decoded()
        return whole[row * _TILE_PX : (row + 1) * _TILE_PX, column * _TILE_PX : (column + 1) * _TILE_PX]

    def _decoded(self) -> Tile:
        with _opened(self.path, self._file) as picture:
            try:
                picture.load()
                if picture.mode == "RGB":
                    return np.asarray(picture)
                coloured = picture.convert("RGBA")
            except Exception as error:  # decoders raise types of their own
                self._file.state.check(self.path)
                raise SlideError(
                    f"{self.path.name}: the picture is damaged ({str(error).rstrip('.')}); copy it again."
                ) from error
        ground = Image.new("RGBA", coloured.size, (BACKGROUND, BACKGROUND, BACKGROUND, 255))
        return np.asarray(Image.alpha_composite(ground, coloured).convert("RGB"))


def open_source(path: Path) -> PictureSource:
    """Open a PNG or JPEG.

    Raises
    ------
    SlideError
        If it is neither, not in colour with 8 bits, turned, or larger than `MAX_PIXELS`.
    """
    return PictureSource(path)


def _opened(path: Path, file: RawFile) -> Image.Image:
    try:
        return Image.open(io.BytesIO(file.read(0, file.state.size)), formats=("PNG", "JPEG"))
    except SlideError:
        raise
    except Exception as error:  # a damaged header raises whatever it runs into
        raise SlideError(f"{path.name}: this cannot be read as a PNG or JPEG; copy it again.") from error


def _check(path: Path, picture: Image.Image) -> None:
    if picture.width * picture.height > MAX_PIXELS:
        raise SlideError(
            f"{path.name}: the picture has {picture.height} x {picture.width} pixels, more than {MAX_PIXELS:,}; "
            "convert it to a tiled TIFF first."
        )
    if picture.mode not in _COLOURED:
        raise SlideError(f"{path.name}: its pixels are of the kind {picture.mode}; {NOT_RGB}")
    orientation = _orientation(picture)
    if orientation != 1:
        raise SlideError(
            f"{path.name}: the orientation tag is {orientation}, so rows or columns are turned; save it upright first."
        )


def _orientation(picture: Image.Image) -> int:
    if picture.format == "PNG" and "exif" not in picture.info:
        return 1  # asking Pillow for it would decode the whole picture
    try:
        return int(picture.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - damaged EXIF says nothing, whatever it raises
        return 1
