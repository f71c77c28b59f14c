"""Tiles of levels that a file lacks, kept on the disk, so that a slide without coarse levels opens quickly next time.

A folder for each user, bounded in bytes; the tiles that nobody used for longest go first. Nothing here ever makes a read
fail: what cannot be read is made anew, what cannot be written is not kept, and that is logged once.

``SLIDECORR_CACHE_DIR`` names another folder, or switches it off when it is empty; ``SLIDECORR_CACHE_MB`` is the bound.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.io.atomic import part_path
from napari_slidecorr.io.raw_file import FileState

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "SLIDECORR_CACHE_DIR"
MEGABYTES_VARIABLE = "SLIDECORR_CACHE_MB"
DEFAULT_MEGABYTES = 2048
_CHECK_EVERY = 64 << 20
_HEADER = struct.Struct("<8sIHHH")  # magic, checksum of what follows, height, width, channels
_MAGIC = b"SCTILE1\n"
_names = itertools.count()


def user_cache_folder() -> Path | None:
    """Where tiles are kept: as the environment says, else where the system keeps caches; None when switched off."""
    told = os.environ.get(FOLDER_VARIABLE)
    if told is not None:
        return Path(told) if told else None
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "napari-slidecorr" / "levels"


def bound_bytes() -> int:
    """How much may be kept; the default when the variable is no number."""
    try:
        return int(os.environ.get(MEGABYTES_VARIABLE, "")) << 20
    except ValueError:
        return DEFAULT_MEGABYTES << 20


class MadeTiles:
    """The kept tiles of one slide; a changed file is another slide.

    Parameters
    ----------
    path : Path
        The slide.
    folder : Path
        Holds the tiles of all slides.
    capacity_bytes : int
        For all slides together; passed by less than 64 MB while tiles are added.
    """

    def __init__(self, path: Path, folder: Path, capacity_bytes: int) -> None:
        state = FileState.of(path)
        key = f"{path.resolve()}|{state.size}|{state.mtime_ns}"
        self._root, self._capacity = folder, capacity_bytes
        self._folder = folder / hashlib.sha256(key.encode()).hexdigest()[:32]
        self._since_check = _CHECK_EVERY
        self._broken = False

    def get(self, level: int, row: int, column: int) -> NDArray[np.uint8] | None:
        """Give a tile; None when it is not kept or damaged."""
        path = self._path(level, row, column)
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return _decoded(data)

    def put(self, level: int, row: int, column: int, tile: NDArray[np.uint8]) -> None:
        """Keep a tile, if the disk allows."""
        if self._broken:
            return
        path = self._path(level, row, column)
        data = _encoded(tile)
        part = part_path(path.with_name(f"{path.name}.{os.getpid()}-{next(_names)}"))
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # slides may be patients' data
            try:
                part.write_bytes(data)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            self._give_up(error)
            return
        self._make_room(len(data))

    def _path(self, level: int, row: int, column: int) -> Path:
        return self._folder / f"{level}-{row}-{column}"

    def _give_up(self, error: OSError) -> None:
        self._broken = True
        logger.warning("Coarse levels cannot be kept in %s (%s); they are made anew each time.", self._root, error)

    def _make_room(self, added: int) -> None:
        self._since_check += added  # without a lock, which a fork could leave held: a lost addition does no harm
        if self._since_check >= _CHECK_EVERY:
            self._since_check = 0
            evict(self._root, self._capacity)


def evict(folder: Path, capacity_bytes: int) -> None:
    """Delete the tiles that were unused for longest until the rest fits; others may do the same at once."""
    found = [(stat.st_mtime, stat.st_size, path) for path, stat in _files(folder)]
    excess = sum(size for _, size, _ in found) - capacity_bytes
    for _, size, path in sorted(found):
        if excess <= 0:
            break
        try:
            path.unlink(missing_ok=True)
        except OSError:  # in use on Windows: it goes next time
            continue
        excess -= size


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    out = []
    for path in folder.glob("*/*"):
        try:
            out.append((path, path.stat()))
        except OSError:  # deleted meanwhile by another process
            continue
    return out


def _encoded(tile: NDArray[np.uint8]) -> bytes:
    from numcodecs.zstd import Zstd  # type: ignore[import-untyped]

    body = bytes(Zstd(level=1).encode(np.ascontiguousarray(tile)))
    return _HEADER.pack(_MAGIC, zlib.crc32(body), *tile.shape) + body


def _decoded(data: bytes) -> NDArray[np.uint8] | None:
    from numcodecs.zstd import Zstd

    if len(data) < _HEADER.size:
        return None
    magic, checksum, *shape = _HEADER.unpack_from(data)
    body = data[_HEADER.size :]
    if magic != _MAGIC or zlib.crc32(body) != checksum:
        return None
    return np.frombuffer(Zstd().decode(body), np.uint8).reshape(shape)
