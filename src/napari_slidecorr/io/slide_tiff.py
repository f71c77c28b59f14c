"""TIFF slides: SVS, NDPI, SCN, Philips, QPTIFF, OME-TIFF and generic tiled or stripped pyramids.

Brightfield RGB of 8 bits is a `TiffSource`; fluorescence, grey and 16 bits are `TiffChannels`, for viewing only.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.errors import SlideError
from napari_slidecorr.io import tiff_extras, tiff_facts
from napari_slidecorr.io.raw_file import FileState, RawFile, check_is_data
from napari_slidecorr.io.tiff_channels import TiffChannels
from napari_slidecorr.io.tiff_directory import (
    check_directories,
    check_orientation,
    choose_series,
    index,
    level_pages,
    name,
    not_rgb,
    parsed,
)
from napari_slidecorr.io.tiles import CACHE_BYTES, NotRgbError, Tile, TileReader, reset_after_fork

if TYPE_CHECKING:
    import tifffile

_RGB, _YCBCR = 2, 6
_DECODED_TO_RGB = {6, 7, 34892, 33007, 33003, 33005}
"""Compressions whose decoder turns YCbCr into RGB: JPEG and Aperio's JPEG 2000."""


class TiffSource:
    """A TIFF slide as `PixelSource`; pickles as path, size and time of change.

    Parameters
    ----------
    path : Path
        The file.
    state : FileState, optional
        What the file must be; what it is now when left out.
    """

    def __init__(self, path: Path, state: FileState | None = None) -> None:
        self.path = path
        check_is_data(path)
        self._file = RawFile(path, state or FileState.of(path))
        self._file.state.check(path)
        with parsed(path) as tif:
            series = choose_series(path, tif)
            check_directories(path, tif, series)
            pages = _rgb_pages(path, tif, series)
            self._indexes = [index(path, page) for page in pages]
            self.mpp, self.mpp_source = tiff_facts.pixel_size(tif, series)
            self.properties = tiff_facts.properties(tif, series)
            self.offset_from_center_nm = tiff_facts.offset_from_center_nm(series)
            self.levels = tiff_facts.levels(tif, [(i.shape, i.tile) for i in self._indexes])
            self.associated_names = tiff_extras.associated_names(tif, series)
            self._icc_place = tiff_extras.icc_place(pages[0].keyframe)
        for each in self._indexes:
            each.check(path.name, self._file.state.size)
        self.tiles = TileReader(self.levels, self._load, CACHE_BYTES)
        reset_after_fork(self._file)

    def __reduce__(self) -> tuple[Any, ...]:
        return TiffSource, (self.path, self._file.state)

    def read_level(self, level: int, y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
        """See `PixelSource.read_level`."""
        return self.tiles.read(level, y, x, height, width)

    def read_associated(self, name: str) -> NDArray[np.uint8]:
        """See `Slide.associated`."""
        self._file.state.check(self.path)
        return tiff_extras.read_associated(self.path, name)

    def icc_profile(self) -> bytes | None:
        """See `Slide.icc_profile`."""
        return None if self._icc_place is None else self._file.read(*self._icc_place)

    def close(self) -> None:
        """Let go of the file handle and the decoded tiles."""
        self._file.close()
        self.tiles.cache.clear()

    def _load(self, level: int, row: int, column: int) -> Tile:
        return self._indexes[level].load(self._file, level, row, column)


def open_source(path: Path) -> TiffSource | TiffChannels:
    """Open a TIFF slide; other pixels than brightfield RGB of 8 bits for viewing only.

    Raises
    ------
    SlideError
        If it is not a TIFF, cut short, or cannot even be viewed.
    """
    try:
        return TiffSource(path)
    except NotRgbError:
        return TiffChannels(path)


def _rgb_pages(path: Path, tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> list[Any]:
    """Give the pages of the pyramid, all of them RGB of 8 bits."""
    levels = level_pages(path, tif, series)
    for level, pages in levels:
        _check_rgb(path, level, pages[0].keyframe)
    return [pages[0] for _, pages in levels]


def _check_rgb(path: Path, level: tifffile.TiffPageSeries, page: Any) -> None:
    if (
        level.axes not in ("YXS", "SYX")
        or level.dtype != np.uint8
        or page.samplesperpixel != 3
        or len(level.pages) != 1
    ):
        raise NotRgbError(not_rgb(path, level))
    colour = int(page.photometric)
    if colour != _RGB and not (colour == _YCBCR and int(page.compression) in _DECODED_TO_RGB):
        raise SlideError(
            f"{path.name}: its colours are stored as {name('PHOTOMETRIC', colour)} with compression "
            f"{name('COMPRESSION', page.compression)}; export it as RGB, or as YCbCr inside JPEG."
        )
    check_orientation(path, page)
