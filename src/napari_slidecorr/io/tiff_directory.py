"""The directory of a TIFF slide: which of its images is the slide, and where the tiles of a page lie.

tifffile reads the directory and knows every compression and colour case; afterwards only `TileIndex` and positional
reads are used.
"""

from __future__ import annotations

import logging
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.errors import SlideError
from napari_slidecorr.geometry import YX
from napari_slidecorr.io.tiles import NOT_RGB, RGB, PixelType, StitchedError, TileIndex, check_segment

if TYPE_CHECKING:
    import tifffile

logger = logging.getLogger(__name__)

NOT_THE_SLIDE = ("label", "macro", "thumbnail", "map", "overview")
"""Names of the images that show the glass around the tissue, in small letters."""

_CUT_LIST = "its list of images is cut short or damaged; copy it again."
_MOST_IMAGES = 10_000
_JPEG = {6, 7, 34892, 33007}
_JPEG_END = b"\xff\xd9"
_TAIL = 64
"""Bytes at the end of a tile among which the end of its JPEG data must be; some writers pad."""


@contextmanager
def parsed(path: Path) -> Iterator[tifffile.TiffFile]:
    """Open with tifffile; whatever a broken directory makes it raise becomes one `SlideError`."""
    import tifffile

    with _quiet_tifffile():
        try:
            with tifffile.TiffFile(path) as tif:
                yield tif
        except SlideError:
            raise
        except Exception as error:  # a broken directory raises whatever it runs into
            raise SlideError(
                f"{path.name}: this cannot be read as a TIFF slide ({words(error)}); copy it again."
            ) from error


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


def words(error: Exception) -> str:
    """What an error of a library says, in one line without a full stop."""
    return (str(error).splitlines() or [""])[0].rstrip(".") or type(error).__name__


def choose_series(path: Path, tif: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    """The slide is the first image that is no label, macro or thumbnail; of several SCN regions the largest."""
    _check_chain(path, tif)
    if tif.is_bif:
        raise StitchedError(f"{path.name}: the tiles of this Ventana file overlap; it is read with openslide.")
    series = [s for s in tif.series if s.name.lower() not in NOT_THE_SLIDE]
    if not series:
        raise SlideError(f"{path.name}: this TIFF holds no image; it may have been cut short, copy it again.")
    return max(series, key=lambda s: s.size) if tif.is_scn else series[0]


def _check_chain(path: Path, tif: tifffile.TiffFile) -> None:
    """Refuse a list of images that runs in a circle or through pixels: tifffile would parse millions of them."""
    layout, file = tif.tiff, tif.filehandle

    def number(place: int, size: int, form: str) -> int:
        file.seek(place)
        raw = file.read(size)
        if len(raw) < size:
            raise SlideError(f"{path.name}: {_CUT_LIST}")
        return int(struct.unpack(form, raw)[0])

    seen: set[int] = set()
    offset = number(8 if tif.is_bigtiff else 4, layout.offsetsize, layout.offsetformat)
    while offset:
        if offset in seen or len(seen) == _MOST_IMAGES:
            raise SlideError(f"{path.name}: its list of images has no end; the file is damaged, copy it again.")
        seen.add(offset)
        tags = number(offset, layout.tagnosize, layout.tagnoformat)
        after = offset + layout.tagnosize + tags * layout.tagsize
        if after > file.size:
            raise SlideError(f"{path.name}: {_CUT_LIST}")
        offset = number(after, layout.offsetsize, layout.offsetformat)


def check_directories(path: Path, tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> None:
    """Refuse a file that was cut between its directories: tifffile gives what is left, without the lost levels."""
    file = tif.filehandle
    file.seek(tif.pages.next_page_offset)
    dangling = any(file.read(tif.tiff.offsetsize))
    subifds = getattr(series.levels[0].keyframe, "subifds", None) or ()
    if dangling or any(offset >= file.size for offset in subifds):
        raise SlideError(f"{path.name}: {_CUT_LIST}")
    for page in series.levels[0].keyframe.pages if subifds else ():
        page.aspage()  # raises on a directory that was cut within


def level_pages(
    path: Path, tif: tifffile.TiffFile, series: tifffile.TiffPageSeries
) -> list[tuple[tifffile.TiffPageSeries, list[Any]]]:
    """Give each level of the pyramid with its pages, from fine to coarse.

    Raises
    ------
    SlideError
        If the image is empty, or pages are missing or in another file.
    """
    if 0 in series.shape or not series.shape:
        raise SlideError(f"{path.name}: the image is empty (shape {series.shape}); export it again.")
    found: list[tuple[tifffile.TiffPageSeries, list[Any]]] = []
    for level in series.levels:
        pages = list(level.pages)
        if any(page is None or page.parent is not tif for page in pages):
            raise SlideError(f"{path.name}: its pixels are in another file of the same OME-TIFF set; open that file.")
        if not found or level.size < found[-1][0].size:
            found.append((level, pages))
    return found


def not_rgb(path: Path, level: tifffile.TiffPageSeries) -> str:
    """The sentence that keeps other pixels than brightfield RGB of 8 bits from a model."""
    return f"{path.name}: the image is {'x'.join(map(str, level.shape))} ({level.axes}) of {level.dtype}; {NOT_RGB}"


def check_orientation(path: Path, page: Any) -> None:
    """Raise SlideError when rows or columns are turned."""
    orientation = page.tags.valueof(274, 1)
    if orientation != 1:
        raise SlideError(
            f"{path.name}: the TIFF orientation tag is {orientation}, so rows or columns are turned; "
            "convert it to orientation 1 first."
        )


def name(kind: str, value: int) -> str:
    """The word for a number in one of tifffile's enumerations, or the number."""
    import tifffile

    known = {member.value: member.name for member in getattr(tifffile, kind)}
    return str(known.get(int(value), value))


def index(path: Path, page: Any, pixel: PixelType = RGB) -> TileIndex:
    """Give where the tiles of a page lie.

    Raises
    ------
    SlideError
        If the page cannot be decoded here, lists too few tiles or stores them in giant pieces.
    """
    key = page.keyframe
    shape, tile = (int(key.imagelength), int(key.imagewidth)), _tile_shape(path, key)
    try:
        key.decode(None, 0)
    except ValueError as error:
        raise SlideError(
            f"{path.name}: compression {name('COMPRESSION', key.compression)} is not read here; export it with JPEG."
        ) from error
    planes = int(key.samplesperpixel) if int(key.planarconfig) == 2 else 1
    grid = planes, -(-shape[0] // tile[0]), -(-shape[1] // tile[1])
    offsets, counts = (np.asarray(values, np.int64) for values in (page.dataoffsets, page.databytecounts))
    wanted = grid[0] * grid[1] * grid[2]
    if min(len(offsets), len(counts)) < wanted:
        raise SlideError(
            f"{path.name}: {wanted} tiles are expected but {min(len(offsets), len(counts))} are listed; "
            "the file is damaged, copy it again."
        )
    counts = np.where(offsets[:wanted] == 0, 0, counts[:wanted])  # an offset of 0 is a left-out tile, too
    return TileIndex(shape, tile, offsets[:wanted].reshape(grid), counts.reshape(grid), _decoder(page), pixel)


def _tile_shape(path: Path, key: Any) -> YX:
    """Rows and columns of a tile, or of a strip, which is a tile as wide as the image."""
    if key.is_tiled:
        tile = int(key.tilelength), int(key.tilewidth)
    else:
        tile = min(int(key.rowsperstrip), int(key.imagelength)), int(key.imagewidth)
    if min(tile) < 1:
        raise SlideError(f"{path.name}: its tiles are {tile[0]} x {tile[1]} px; the file is damaged, copy it again.")
    check_segment(path.name, tile)
    return tile


def _decoder(page: Any) -> Any:
    key, options = page.keyframe, {}
    decode, is_jpeg = key.decode, int(key.compression) in _JPEG
    if is_jpeg:
        options = {"jpegtables": page.jpegtables, "jpegheader": key.jpegheader}
    ends = is_jpeg and key.jpegheader is None  # NDPI is cut at restart markers, its pieces have no end

    def decode_segment(data: bytes, number: int) -> NDArray[Any]:
        if ends and data.rfind(_JPEG_END, -_TAIL) < 0:
            raise ValueError("its JPEG data is cut short")  # the decoder would fill up with grey, silently
        segment: NDArray[Any] = decode(data, number, **options)[0][0]  # the first axis left is depth
        return segment if segment.dtype.isnative else segment.astype(segment.dtype.newbyteorder("="))

    return decode_segment
