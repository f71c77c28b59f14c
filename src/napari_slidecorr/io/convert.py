"""A slide written anew as a pyramid of factor 2, OME-Zarr or OME-TIFF, a few tiles in memory at a time.

Work goes on in ``OUT.part`` and OUT appears whole. What was made of an OME-Zarr, and of the coarse levels of an
OME-TIFF, is kept when the work is stopped or killed, and the same call goes on from there.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_slidecorr.errors import SlideError
from napari_slidecorr.events import Event
from napari_slidecorr.geometry import YX
from napari_slidecorr.io.atomic import part_path, write_error
from napari_slidecorr.io.claim import CONVERTING, claimed
from napari_slidecorr.io.level_folder import LevelFolder, Place, Wanted
from napari_slidecorr.io.pyramid import COARSEST_PX
from napari_slidecorr.io.raw_file import FileState
from napari_slidecorr.slide import Slide

CHUNK_PX = 512
_BUFFER_BYTES = 16 << 20
_SUFFIXES = (".ome.zarr", ".ome.tif", ".ome.tiff")
_TICK_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Converted(Event):
    """The end of a conversion; ``result`` is the path that was written."""

    result: Path


def convert(slide: Slide, out: Path, *, quality: int | None = None) -> Iterator[Event]:
    """Write a slide as a pyramid of levels that halve until they are at most 1,000 px.

    Level 0 holds the very pixels of the slide. Closing the iterator stops the work; the same call goes on.

    Parameters
    ----------
    out : Path
        ``NAME.ome.zarr`` (zstd) or ``NAME.ome.tif`` (deflate); must not exist.
    quality : int, optional
        From 1 to 100, OME-TIFF only: JPEG instead of deflate; smaller, and no longer the very pixels.

    Yields
    ------
    Event
        Progress in chunks, at last `Converted`.

    Raises
    ------
    SlideError
        If the name or the quality cannot be, `out` exists, or the slide cannot be read or is not brightfield.
    ClaimedError
        At the first step, if another program writes it.
    ProjectError
        While it runs, if the disk is full or cannot be written.
    """
    if not out.name.lower().endswith(_SUFFIXES):
        raise SlideError(f"{out.name}: a slide is written as NAME.ome.zarr or NAME.ome.tif; choose one of these.")
    _check_free(out)
    if quality is not None and (not 1 <= quality <= 100 or out.suffix == ".zarr"):
        raise SlideError(f"quality is {quality}; it can be 1 to 100, and for NAME.ome.tif only.")
    slide.check_brightfield()
    zarr = out.name.lower().endswith(".zarr")
    return _alone(out, _convert_to_zarr(slide, out) if zarr else _convert_to_tiff(slide, out, quality))


def level_shapes(shape: YX) -> tuple[YX, ...]:
    """Give the shapes of a pyramid, halved and rounded up until both sides are at most 1,000 px."""
    shapes = [shape]
    while max(shapes[-1]) > COARSEST_PX:
        shapes.append(((shapes[-1][0] + 1) // 2, (shapes[-1][1] + 1) // 2))
    return tuple(shapes)


def _check_free(out: Path) -> None:
    if out.exists():
        raise SlideError(f"{out}: there is already something of that name; move it or choose another name.")


def _alone(out: Path, events: Iterator[Event]) -> Iterator[Event]:
    with claimed(out, CONVERTING):
        _check_free(out)
        yield from events


def _convert_to_zarr(slide: Slide, out: Path) -> Iterator[Event]:
    folder = LevelFolder(part_path(out), _wanted(slide, first=0))
    yield from _fill(slide, folder)
    try:
        folder.path.rename(out)
    except OSError as error:
        raise write_error(out, error) from error
    yield Converted(phase=f"Written {out.name}", result=out)


def _convert_to_tiff(slide: Slide, out: Path, quality: int | None) -> Iterator[Event]:
    folder = LevelFolder(out.with_name(out.name + ".levels.part"), _wanted(slide, first=1))
    yield from _fill(slide, folder)
    part = part_path(out)
    try:
        yield from _write_tiff(slide, folder, part, quality)
        part.replace(out)
    except OSError as error:
        if isinstance(error, SlideError):
            raise
        raise write_error(out, error) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    shutil.rmtree(folder.path, ignore_errors=True)
    yield Converted(phase=f"Written {out.name}", result=out)


def _wanted(slide: Slide, first: int) -> Wanted:
    state = FileState.of(slide.path)
    source = f"{slide.path.resolve()} {state.size} {state.mtime_ns}"
    return Wanted(slide.id, level_shapes(slide.shape), CHUNK_PX, slide.mpp, source, first)


def _fill(slide: Slide, folder: LevelFolder) -> Iterator[Event]:
    """Make the chunks that a folder lacks, a level after the other: each is made of the one before."""
    places = list(folder.places())
    missing = [place for place in places if not folder.has(place)]
    done = len(places) - len(missing)
    for level in sorted({place[0] for place in missing}):
        todo = [place for place in missing if place[0] == level]
        for _ in _in_threads(lambda place: folder.write(place, _chunk(slide, folder, place)), todo):
            done += 1
            yield Event(phase="Writing levels", done=done, total=len(places))


def _chunk(slide: Slide, folder: LevelFolder, place: Place) -> NDArray[np.uint8]:
    """Pixels of a chunk: the slide's own at level 0, else means of 2 x 2 pixels of the level before."""
    level, row, column = place
    if level == 0:
        return slide.source.read_level(0, row * CHUNK_PX, column * CHUNK_PX, CHUNK_PX, CHUNK_PX)
    side = 2 * CHUNK_PX
    if level == folder.wanted.first:
        finer = slide.source.read_level(0, row * side, column * side, side, side)
    else:
        finer = np.empty((side, side, 3), np.uint8)
        for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
            part = folder.read((level - 1, 2 * row + dy, 2 * column + dx))
            finer[dy * CHUNK_PX : (dy + 1) * CHUNK_PX, dx * CHUNK_PX : (dx + 1) * CHUNK_PX] = part
    return np.asarray(Image.fromarray(finer).reduce(2))


def _in_threads(work: Callable[[Place], None], places: list[Place]) -> Iterator[None]:
    """Do the work for one place after the other, a few at once; what has not begun is dropped when closed."""
    workers = min(8, os.cpu_count() or 1)
    running: deque[Future[None]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for place in places:
                running.append(pool.submit(work, place))
                if len(running) > 2 * workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


class _StoppedError(Exception):
    """The writing thread is told to stop."""


def _write_tiff(slide: Slide, folder: LevelFolder, part: Path, quality: int | None) -> Iterator[Event]:
    """Let tifffile write in a thread, since it takes the tiles itself, and tell how far it is."""
    total = sum(-(-h // CHUNK_PX) * -(-w // CHUNK_PX) for h, w in folder.wanted.shapes)
    stop, done = threading.Event(), [0]

    def tiles(level: int) -> Iterator[NDArray[np.uint8]]:
        height, width = folder.wanted.shapes[level]
        for row in range(-(-height // CHUNK_PX)):
            for column in range(-(-width // CHUNK_PX)):
                if stop.is_set():
                    raise _StoppedError
                place = level, row, column
                yield _chunk(slide, folder, place) if level == 0 else folder.read(place)
                done[0] += 1

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(_write_levels, part, folder.wanted, tiles, quality)
        try:
            yield Event(phase="Writing TIFF", total=total)
            while wait([writing], _TICK_SECONDS).not_done:
                yield Event(phase="Writing TIFF", done=done[0], total=total)
        finally:
            stop.set()
            wait([writing])
    writing.result()


def _write_levels(
    part: Path, wanted: Wanted, tiles: Callable[[int], Iterator[NDArray[np.uint8]]], quality: int | None
) -> None:
    import tifffile

    with part.open("w+b") as file:
        with tifffile.TiffWriter(file, bigtiff=True, ome=True) as tif:
            for level, shape in enumerate(wanted.shapes):
                tif.write(
                    tiles(level),
                    shape=(*shape, 3),
                    dtype=np.uint8,
                    tile=(CHUNK_PX, CHUNK_PX),
                    photometric="rgb",
                    subifds=len(wanted.shapes) - 1 if level == 0 else 0,
                    subfiletype=1 if level else 0,
                    metadata=_ome(wanted) if level == 0 else None,
                    maxworkers=min(8, os.cpu_count() or 1),
                    buffersize=_BUFFER_BYTES,
                    **_coding(quality),
                    **_resolution(wanted, level),
                )
        file.flush()
        os.fsync(file.fileno())


def _coding(quality: int | None) -> dict[str, Any]:
    if quality is None:
        return {"compression": "zlib", "predictor": True}
    return {"compression": "jpeg", "compressionargs": {"level": quality}}


def _ome(wanted: Wanted) -> dict[str, Any]:
    told: dict[str, Any] = {"axes": "YXS", "Name": wanted.name}
    if wanted.mpp:
        y, x = wanted.mpp
        told |= {"PhysicalSizeY": y, "PhysicalSizeX": x, "PhysicalSizeYUnit": "µm", "PhysicalSizeXUnit": "µm"}
    return told


def _resolution(wanted: Wanted, level: int) -> dict[str, Any]:
    if not wanted.mpp:
        return {}
    y, x = (1e4 / (m * 2**level) for m in wanted.mpp)
    return {"resolution": (x, y), "resolutionunit": "CENTIMETER"}
