"""TIFF slides: SVS, NDPI, SCN, OME-TIFF and generic tiled or stripped pyramids, brightfield RGB of 8 bits.

tifffile reads the directory and knows every compression and colour case; afterwards only `TileIndex` and positional
reads are used.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.errors import SlideError
from napari_slidecorr.geometry import YX
from napari_slidecorr.io import tiff_facts
from napari_slidecorr.io.raw_file import FileState, RawFile, check_is_data
from napari_slidecorr.io.tiles import (
    CACHE_BYTES,
    MAX_SEGMENT_PIXELS,
    NOT_RGB,
    Tile,
    TileIndex,
    TileReader,
    reset_after_fork,
)
from napari_slidecorr.slide import Level, level_downsample

if TYPE_CHECKING:
    import tifffile

logger = logging.getLogger(__name__)

_NOT_THE_SLIDE = ("label", "macro", "thumbnail", "map", "overview")
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
        with _parsed(path) as tif:
            series = _choose_series(path, tif)
            _check_directories(path, tif, series)
            self._indexes = [_index(path, level) for level in _rgb_levels(path, tif, series)]
            self.mpp, self.mpp_source = tiff_facts.pixel_size(tif, series)
            self.properties = tiff_facts.properties(tif, series)
        for index in self._indexes:
            index.check(path.name, self._file.state.size)
        full = self._indexes[0].shape
        self.levels = tuple(Level(i.shape, level_downsample(full, i.shape), i.tile) for i in self._indexes)
        self.tiles = TileReader(self.levels, self._load, CACHE_BYTES)
        reset_after_fork(self._file)

    def __reduce__(self) -> tuple[Any, ...]:
        return TiffSource, (self.path, self._file.state)

    def read_level(self, level: int, y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
        """See `PixelSource.read_level`."""
        return self.tiles.read(level, y, x, height, width)

    def close(self) -> None:
        """Let go of the file handle and the decoded tiles."""
        self._file.close()
        self.tiles.cache.clear()

    def _load(self, level: int, row: int, column: int) -> Tile:
        return self._indexes[level].load(self._file, level, row, column)


def open_source(path: Path) -> TiffSource:
    """Open a TIFF slide.

    Raises
    ------
    SlideError
        If it is not a TIFF, cut short, or not brightfield RGB of 8 bits.
    """
    return TiffSource(path)


@contextmanager
def _parsed(path: Path) -> Iterator[tifffile.TiffFile]:
    import tifffile

    with _quiet_tifffile():
        try:
            with tifffile.TiffFile(path) as tif:
                yield tif
        except SlideError:
            raise
        except Exception as error:  # a broken directory raises whatever it runs into
            raise SlideError(f"{path.name}: this cannot be read as a TIFF slide ({_words(error)}).") from error


@contextmanager
def _quiet_tifffile() -> Iterator[None]:
    """Turn what tifffile logs in this thread into debug lines of ours; other users of tifffile keep theirs."""
    thread = threading.get_ident()

    def ours(record: logging.LogRecord) -> bool:
        if record.thread != thread:
            return True
        logger.debug("tifffile: %s", record.getMessage())
        return False

    tifffile_logger = logging.getLogger("tifffile")
    tifffile_logger.addFilter(ours)
    try:
        yield
    finally:
        tifffile_logger.removeFilter(ours)


def _words(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0].rstrip(".") or type(error).__name__


def _choose_series(path: Path, tif: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    """The slide is the first image that is no label, macro or thumbnail; of several SCN regions the largest."""
    series = [s for s in tif.series if s.name.lower() not in _NOT_THE_SLIDE]
    if not series:
        raise SlideError(f"{path.name}: this TIFF holds no image; it may have been cut short, copy it again.")
    return max(series, key=lambda s: s.size) if tif.is_scn else series[0]


def _check_directories(path: Path, tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> None:
    """Refuse a file that was cut between its directories: tifffile gives what is left, without the lost levels."""
    file = tif.filehandle
    file.seek(tif.pages.next_page_offset)
    dangling = any(file.read(tif.tiff.offsetsize))
    subifds = getattr(series.levels[0].keyframe, "subifds", None) or ()
    if dangling or any(offset >= file.size for offset in subifds):
        raise SlideError(f"{path.name}: its list of images is cut short or damaged; copy it again.")
    for page in series.levels[0].keyframe.pages if subifds else ():
        page.aspage()  # raises on a directory that was cut within


def _rgb_levels(path: Path, tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> list[Any]:
    """Give the pages of the pyramid, all of them RGB of 8 bits."""
    if 0 in series.shape or not series.shape:
        raise SlideError(
            f"{path.name}: the image is empty (shape {series.shape}); writing it may have been interrupted."
        )
    pages: list[Any] = []
    for level in series.levels:
        page = level.pages[0]
        if page is None or page.parent is not tif:
            raise SlideError(f"{path.name}: its pixels are in another file of the same OME-TIFF set; open that file.")
        _check_rgb(path, level, page.keyframe)
        if not pages or level.size < pages[-1].keyframe.size:
            pages.append(page)
    return pages


def _check_rgb(path: Path, level: tifffile.TiffPageSeries, page: Any) -> None:
    if (
        level.axes not in ("YXS", "SYX")
        or level.dtype != np.uint8
        or page.samplesperpixel != 3
        or len(level.pages) != 1
    ):
        raise SlideError(
            f"{path.name}: the image is {'x'.join(map(str, level.shape))} ({level.axes}) of {level.dtype}; {NOT_RGB}"
        )
    colour = int(page.photometric)
    if colour != _RGB and not (colour == _YCBCR and int(page.compression) in _DECODED_TO_RGB):
        raise SlideError(
            f"{path.name}: its colours are stored as {_name('PHOTOMETRIC', colour)} with compression "
            f"{_name('COMPRESSION', page.compression)}; only RGB, and YCbCr inside JPEG, can be used."
        )
    orientation = page.tags.valueof(274, 1)
    if orientation != 1:
        raise SlideError(
            f"{path.name}: the TIFF orientation tag is {orientation}, so rows or columns are turned; "
            "convert it to orientation 1 first."
        )


def _name(kind: str, value: int) -> str:
    """The word for a number in one of tifffile's enumerations, or the number."""
    import tifffile

    known = {member.value: member.name for member in getattr(tifffile, kind)}
    return str(known.get(int(value), value))


def _index(path: Path, page: Any) -> TileIndex:
    key = page.keyframe
    shape, tile = (int(key.imagelength), int(key.imagewidth)), _tile_shape(path, key)
    try:
        key.decode(None, 0)
    except ValueError as error:
        raise SlideError(
            f"{path.name}: compression {_name('COMPRESSION', key.compression)} cannot be decoded here."
        ) from error
    planes = 3 if int(key.planarconfig) == 2 else 1
    grid = planes, -(-shape[0] // tile[0]), -(-shape[1] // tile[1])
    offsets, counts = (np.asarray(values, np.int64) for values in (page.dataoffsets, page.databytecounts))
    wanted = grid[0] * grid[1] * grid[2]
    if min(len(offsets), len(counts)) < wanted:
        raise SlideError(
            f"{path.name}: {wanted} tiles are expected but {min(len(offsets), len(counts))} are listed; "
            "the file is damaged, copy it again."
        )
    counts = np.where(offsets[:wanted] == 0, 0, counts[:wanted])  # an offset of 0 is a left-out tile, too
    return TileIndex(shape, tile, offsets[:wanted].reshape(grid), counts.reshape(grid), _decoder(page))


def _tile_shape(path: Path, key: Any) -> YX:
    """Rows and columns of a tile, or of a strip, which is a tile as wide as the image."""
    if key.is_tiled:
        tile = int(key.tilelength), int(key.tilewidth)
    else:
        tile = min(int(key.rowsperstrip), int(key.imagelength)), int(key.imagewidth)
    if min(tile) < 1:
        raise SlideError(f"{path.name}: its tiles are {tile[0]} x {tile[1]} px; the file is damaged, copy it again.")
    if tile[0] * tile[1] > MAX_SEGMENT_PIXELS:
        raise SlideError(
            f"{path.name}: its pixels are stored in pieces of {tile[0]} x {tile[1]}, and every read would decode a "
            "whole piece; convert it to a tiled TIFF first."
        )
    return tile


def _decoder(page: Any) -> Any:
    decode, options = page.keyframe.decode, {}
    if int(page.keyframe.compression) in (6, 7, 34892, 33007):
        options = {"jpegtables": page.jpegtables, "jpegheader": page.keyframe.jpegheader}

    def decode_segment(data: bytes, number: int) -> NDArray[Any]:
        segment: NDArray[Any] = decode(data, number, **options)[0][0]  # the first axis left is depth
        return segment

    return decode_segment
