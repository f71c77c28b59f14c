"""TIFF slides of fluorescence channels, grey or 16 bits, as `ChannelSource`: for viewing only."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.errors import SlideError
from napari_slidecorr.io import tiff_extras, tiff_facts
from napari_slidecorr.io.raw_file import FileState, RawFile, check_is_data
from napari_slidecorr.io.tiff_directory import (
    check_directories,
    check_orientation,
    choose_series,
    index,
    level_pages,
    not_rgb,
    parsed,
)
from napari_slidecorr.io.tiles import PixelType, Tile, TileIndex, channel_readers, reset_after_fork

if TYPE_CHECKING:
    import tifffile

_BLACK_IS_ZERO, _RGB = 1, 2


class TiffChannels:
    """A TIFF slide as `ChannelSource`; pickles as path, size and time of change.

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
            self._refusal = not_rgb(path, series)
            self._indexes = _indexes(path, tif, series)
            self.mpp, self.mpp_source = tiff_facts.pixel_size(tif, series)
            self.properties = tiff_facts.properties(tif, series)
            self.offset_from_center_nm = tiff_facts.offset_from_center_nm(series)
            self.levels = tiff_facts.levels(tif, [(one[0].shape, one[0].tile) for one in self._indexes])
            self.associated_names = tiff_extras.associated_names(tif, series)
            pixel = self._indexes[0][0].pixel
            self.dtype, self._samples = pixel.dtype, pixel.samples
            self.channels = tiff_facts.channels(tif, series, len(self._indexes[0]) * pixel.samples)
        for one in self._indexes:
            for plane in one:
                plane.check(path.name, self._file.state.size)
        self._readers = channel_readers(self.levels, self._load, len(self.channels), self.dtype)
        reset_after_fork(self._file)

    def __reduce__(self) -> tuple[Any, ...]:
        return TiffChannels, (self.path, self._file.state)

    def read_level(self, level: int, y: int, x: int, height: int, width: int) -> NoReturn:  # noqa: ARG002 - protocol
        """Refuse: no model may see these pixels, and the first three channels are no RGB."""
        raise SlideError(self._refusal)

    def read_channel(self, channel: int, level: int, y: int, x: int, height: int, width: int) -> NDArray[Any]:
        """See `ChannelSource.read_channel`."""
        return self._readers[channel].read(level, y, x, height, width)[..., 0]

    def read_associated(self, name: str) -> NDArray[np.uint8]:
        """See `Slide.associated`."""
        self._file.state.check(self.path)
        return tiff_extras.read_associated(self.path, name)

    def close(self) -> None:
        """Let go of the file handle and the decoded tiles."""
        self._file.close()
        for reader in self._readers:
            reader.cache.clear()

    def _load(self, channel: int, level: int, row: int, column: int) -> Tile:
        page, sample = divmod(channel, self._samples)
        tile = self._indexes[level][page].load(self._file, level, row, column)
        return tile if self._samples == 1 else np.ascontiguousarray(tile[..., sample : sample + 1])


def _indexes(path: Path, tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> list[list[TileIndex]]:
    """Give one index a page of each level."""
    levels = level_pages(path, tif, series)
    for level, pages in levels:
        _check_viewable(path, level, pages)
    first = levels[0][1][0].keyframe
    pixel = PixelType(int(first.samplesperpixel), first.dtype.newbyteorder("="), 0)
    make = partial(index, path, pixel=pixel)
    return [[make(page) for page in pages] for _, pages in levels]


def _check_viewable(path: Path, level: tifffile.TiffPageSeries, pages: list[Any]) -> None:
    """Only axes y, x and channels, of numbers, brighter where they are larger."""
    key = pages[0].keyframe
    axes = level.axes
    if not {"Y", "X"} <= set(axes) <= {"Y", "X", "C", "S"} or level.dtype.kind not in "uif":
        raise SlideError(not_rgb(path, level))
    if int(key.photometric) not in (_BLACK_IS_ZERO, _RGB):
        raise SlideError(not_rgb(path, level))
    check_orientation(path, key)
