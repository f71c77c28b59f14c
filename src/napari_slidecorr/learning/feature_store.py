"""Features of patches kept on the disk: one folder for each slide and backbone, written in chunks, bounded in bytes.

A patch is known by its upper left corner in level-0 pixels, so the cells of any grid and the patches of any regions
share one folder. Nothing is used that was made otherwise: what decides a feature is part of the folder's name and told
in full inside. Several processes may read and write at once: each chunk is a file of its own, written whole.

``SLIDECORR_CACHE_DIR`` names the folder of all caches, or switches them off when it is empty;
``SLIDECORR_FEATURES_MB`` is the bound. ``SLIDECORR_MEMORY_MB`` bounds what is held in memory of all slides together.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import struct
import uuid
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.errors import ProjectError
from napari_slidecorr.io.atomic import atomic_write_bytes, atomic_write_text, make_folder
from napari_slidecorr.io.made_tiles import FOLDER_VARIABLE, user_cache_folder

MEGABYTES_VARIABLE = "SLIDECORR_FEATURES_MB"
DEFAULT_MEGABYTES = 4096
MEMORY_VARIABLE = "SLIDECORR_MEMORY_MB"
DEFAULT_MEMORY_MEGABYTES = 2048
"""Of features that live training holds: 800,000 patches of 1,280 numbers."""

META_NAME = "features.json"
CHUNK_SUFFIX = ".chunk"
FORMAT = 1
"""Raised when the way patches are read or features computed changes: older features are never used then."""

_HEADER = struct.Struct("<8sIII")  # magic, checksum of what follows, patches, numbers a patch
_MAGIC = b"SCFEAT1\n"
_names = itertools.count()

Corners = NDArray[np.int64]
Features = NDArray[np.float16]


@dataclass(frozen=True, kw_only=True)
class FeatureKey:
    """Everything that decides the features of a slide's patches.

    Attributes
    ----------
    slide : str
        Digest of the slide's content; neither its path nor its name.
    slide_px, footprint_px : (int, int)
        Rows and columns of level 0, and of them those that a patch covers.
    size_px : int
        Side of a patch as the network sees it.
    stain : str
        What stains are brought to, as JSON; empty when patches are as scanned.
    weights : str
        sha256 of the backbone's tensors.
    preprocessing : str
        Mean and standard deviation of inputs.
    dim : int
        D, numbers a patch.
    """

    slide: str
    slide_px: tuple[int, int]
    footprint_px: tuple[int, int]
    size_px: int
    stain: str
    weights: str
    preprocessing: str
    dim: int
    format: int = FORMAT

    def to_json(self) -> str:
        """The key as JSON, always the same text for the same key."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def digest(self) -> str:
        """A name of 32 hexadecimal digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:32]


class FeatureCache:
    """All features that are kept, of every slide.

    Parameters
    ----------
    folder : Path, optional
        The user's cache folder when left out. No folder is made before something is kept.
    limit_mb : int, optional
        Megabytes for all slides together; when left out as the environment says, else 4096. The slides that nobody used
        for longest go first, each as a whole.

    Attributes
    ----------
    folder : Path or None
        None when caches are switched off: nothing is kept then.
    """

    def __init__(self, folder: Path | None = None, limit_mb: int | None = None) -> None:
        self.folder = folder if folder is not None else user_features_folder()
        self.limit_bytes = (
            limit_mb if limit_mb is not None else _told_megabytes(MEGABYTES_VARIABLE, DEFAULT_MEGABYTES)
        ) << 20

    def entry(self, key: FeatureKey) -> FeatureEntry:
        """Give what is kept under a key, perhaps nothing yet."""
        return FeatureEntry(self, key)

    def size_bytes(self) -> int:
        """How much is kept of all slides."""
        return sum(size for _, size, _ in self._folders())

    def facts(self) -> dict[str, Any]:
        """Say where features are kept, of how many slides, how large they are and what the bound is."""
        folders = self._folders()
        kept = sum(size for _, size, _ in folders)
        return {"folder": self.folder, "slides": len(folders), "bytes": kept, "limit_bytes": self.limit_bytes}

    def make_room(self, keep: Path) -> None:
        """Delete slides that were unused for longest until the rest fits; never the one that is being written."""
        found = sorted(self._folders())
        excess = sum(size for _, size, _ in found) - self.limit_bytes
        for _, size, folder in found:
            if excess <= 0:
                break
            if folder != keep:
                _remove(folder)
                excess -= size

    def clear(self) -> None:
        """Delete everything that is kept."""
        for _, _, folder in self._folders():
            _remove(folder)

    def _folders(self) -> list[tuple[float, int, Path]]:
        """Of each slide when it was last used, how many bytes it has, and where."""
        if self.folder is None or not self.folder.is_dir():
            return []
        return [(_used(folder), _bytes_in(folder), folder) for folder in self.folder.iterdir() if folder.is_dir()]


class FeatureEntry:
    """The kept features of one slide by one backbone.

    Parameters
    ----------
    cache : FeatureCache
    key : FeatureKey

    Notes
    -----
    Reads are safe beside writes of other threads and processes; one entry belongs to one thread.
    """

    def __init__(self, cache: FeatureCache, key: FeatureKey) -> None:
        self.cache, self.key = cache, key
        self.folder = cache.folder / key.digest if cache.folder is not None else None
        self.trouble = ""
        self._seen: set[str] = set()
        self._codes = self._order = np.zeros(0, np.int64)
        self._parts = [np.zeros((0, key.dim), np.float16)]

    def __len__(self) -> int:
        return len(self._codes)

    def refresh(self) -> None:
        """Read what was added since, by whomever; damaged chunks and those of another key are left out."""
        if self.folder is None or not self._is_mine():
            return
        _touch(self.folder / META_NAME)
        for path in sorted(self.folder.glob(f"*{CHUNK_SUFFIX}")):
            if path.name not in self._seen:
                self._seen.add(path.name)
                if (found := _read_chunk(path, self.key.dim)) is not None:
                    self._take(*found)

    def rows(self, corners: Corners) -> NDArray[np.int64]:
        """Say where patches lie in `features`, shape (N,); -1 for those that are not kept.

        Parameters
        ----------
        corners : ndarray, shape (N, 2), int64
            Upper left corners (y, x) in level-0 pixels.
        """
        if not len(self._codes):
            return np.full(len(corners), -1, np.int64)
        if len(self._order) != len(self._codes):
            self._order = np.argsort(self._codes, kind="stable")
        wanted = _codes(corners)
        place = np.searchsorted(self._codes, wanted, sorter=self._order).clip(max=len(self._order) - 1)
        row = self._order[place]
        return np.where(self._codes[row] == wanted, row, -1)

    @property
    def features(self) -> Features:
        """All that is kept, shape (N, D), float16, in no order."""
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        return self._parts[0]

    def add(self, corners: Corners, features: Features) -> bool:
        """Keep the features of some patches, on the disk if it allows and in memory in any case.

        Parameters
        ----------
        corners : ndarray, shape (N, 2), int64
        features : ndarray, shape (N, D), float16

        Returns
        -------
        bool
            Whether the disk has them. If not, `trouble` says why in one sentence, and nothing more is written.
        """
        self._take(corners, features)
        if self.folder is None or self.trouble:
            return False
        data = _chunk_bytes(corners, features)
        if _bytes_in(self.folder) + len(data) > self.cache.limit_bytes:
            self.trouble = (
                f"Features of one slide need more than the {self.cache.limit_bytes >> 20} MB that may be kept; the rest is "
                f"computed anew each time. Raise the bound with {MEGABYTES_VARIABLE}."
            )
            return False
        try:
            self._write_again_if_evicted(self.folder, data)
        except ProjectError as error:
            self.trouble = f"Features are not kept, and computed anew each time: {error}"
            return False
        self.cache.make_room(self.folder)
        return True

    def _write_again_if_evicted(self, folder: Path, data: bytes) -> None:
        try:
            self._write(folder, data)
        except ProjectError:
            if folder.is_dir():
                raise
            self._write(folder, data)

    def _write(self, folder: Path, data: bytes) -> None:
        if not self._is_mine():
            if (folder / META_NAME).exists():
                _remove(folder)
            make_folder(folder)
            atomic_write_text(folder / META_NAME, self.key.to_json())
        name = f"{os.getpid()}-{next(_names)}-{uuid.uuid4().hex[:8]}{CHUNK_SUFFIX}"
        self._seen.add(name)
        atomic_write_bytes(folder / name, data)
        _touch(folder / META_NAME)

    def _is_mine(self) -> bool:
        """Whether the folder says of itself that it holds what the key asks for."""
        if self.folder is None:
            return False
        try:
            return (self.folder / META_NAME).read_text("utf-8") == self.key.to_json()
        except (OSError, UnicodeDecodeError):
            return False

    def _take(self, corners: Corners, features: Features) -> None:
        new = self.rows(corners) < 0
        self._codes = np.concatenate([self._codes, _codes(corners[new])])
        self._parts.append(features[new])


def user_features_folder() -> Path | None:
    """Where features are kept unless told otherwise; None when caches are switched off."""
    levels = user_cache_folder()
    if levels is None:
        return None
    return levels / "features" if os.environ.get(FOLDER_VARIABLE) else levels.parent / "features"


def memory_limit_bytes() -> int:
    """How much memory features of all slides together may take."""
    return _told_megabytes(MEMORY_VARIABLE, DEFAULT_MEMORY_MEGABYTES) << 20


def _told_megabytes(variable: str, otherwise: int) -> int:
    try:
        return int(os.environ.get(variable, ""))
    except ValueError:
        return otherwise


def _codes(corners: Corners) -> NDArray[np.int64]:
    """One whole number for each corner; corners may be a little below 0."""
    pair = np.asarray(corners, np.int64).reshape(-1, 2)
    return (pair[:, 0] << 32) + pair[:, 1]


def _chunk_bytes(corners: Corners, features: Features) -> bytes:
    body = np.ascontiguousarray(corners, "<i8").tobytes() + np.ascontiguousarray(features, "<f2").tobytes()
    return _HEADER.pack(_MAGIC, zlib.crc32(body), *features.shape) + body


def _read_chunk(path: Path, dim: int) -> tuple[Corners, Features] | None:
    """Give what is in a chunk; None, and away with it, when it is damaged or not of numbers."""
    try:
        data = path.read_bytes()
    except OSError:  # deleted meanwhile by another process
        return None
    found = _decoded(data, dim)
    if found is None:
        _unlink(path)
    return found


def _decoded(data: bytes, dim: int) -> tuple[Corners, Features] | None:
    if len(data) < _HEADER.size:
        return None
    magic, checksum, count, numbers = _HEADER.unpack_from(data)
    body = data[_HEADER.size :]
    if magic != _MAGIC or numbers != dim or len(body) != count * (16 + 2 * dim) or zlib.crc32(body) != checksum:
        return None
    corners = np.frombuffer(body, "<i8", 2 * count).reshape(count, 2).astype(np.int64)
    features = np.frombuffer(body, "<f2", offset=16 * count).reshape(count, dim).astype(np.float16)
    return (corners, features) if np.isfinite(features).all() else None


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        try:
            total += path.stat().st_size
        except OSError:  # deleted meanwhile by another process
            continue
    return total


def _used(folder: Path) -> float:
    try:
        return (folder / META_NAME).stat().st_mtime
    except OSError:
        return 0.0


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except OSError:  # deleted meanwhile by another process
        return


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # in use on Windows: it goes next time
        return


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # others may be deleting it, or reading it on Windows
