"""Levels of a slide as an OME-Zarr 0.5 folder that grows chunk by chunk, and goes on where it stopped.

A chunk's file is written beside its place and renamed, so that it means a finished chunk however the writing ended.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.errors import ProjectError
from napari_slidecorr.geometry import YX
from napari_slidecorr.io.atomic import PART, atomic_write_bytes, atomic_write_text, make_folder
from napari_slidecorr.levels import BACKGROUND

_OURS = "napari_slidecorr_levels"
_ROOT = "zarr.json"
_ZSTD_LEVEL = 3

Place = tuple[int, int, int]
"""Level, row and column of a chunk."""


@dataclass(frozen=True)
class Wanted:
    """What a folder of levels is to hold.

    Attributes
    ----------
    name : str
        Of the slide.
    shapes : tuple of (int, int)
        Of the levels, each half of the one before.
    chunk_px : int
        Side of a chunk.
    mpp : (float, float) or None
        Micrometres per level-0 pixel, (y, x).
    source : str
        What it is made from; a folder made from something else is begun anew.
    first : int
        The finest level that is stored; those before it are read elsewhere.
    """

    name: str
    shapes: tuple[YX, ...]
    chunk_px: int
    mpp: tuple[float, float] | None
    source: str
    first: int = 0


class LevelFolder:
    """Opens such a folder, or makes it with its metadata and no chunk.

    Raises
    ------
    ProjectError
        If something else has that name, or the folder cannot be written.
    """

    def __init__(self, path: Path, wanted: Wanted) -> None:
        self.path, self.wanted = path, wanted
        if path.exists() and not self._is_same():
            shutil.rmtree(path)
        if not path.exists():
            self._create()
        for left_over in path.rglob("*" + PART):
            left_over.unlink()

    def places(self) -> Iterator[Place]:
        """All chunks of the stored levels, fine levels first, row by row."""
        side = self.wanted.chunk_px
        for level, (height, width) in enumerate(self.wanted.shapes):
            if level >= self.wanted.first:
                yield from ((level, r, c) for r in range(-(-height // side)) for c in range(-(-width // side)))

    def has(self, place: Place) -> bool:
        """Whether a chunk is written."""
        return self._chunk(place).exists()

    def write(self, place: Place, pixels: NDArray[np.uint8]) -> None:
        """Put a whole chunk on the disk, shape (chunk_px, chunk_px, 3).

        Raises
        ------
        ProjectError
            If the disk is full or the folder cannot be written.
        """
        from numcodecs.zstd import Zstd  # type: ignore[import-untyped]

        target = self._chunk(place)
        make_folder(target.parent)
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        atomic_write_bytes(target, bytes(Zstd(level=_ZSTD_LEVEL).encode(planes)))

    def read(self, place: Place) -> NDArray[np.uint8]:
        """Give a chunk, shape (chunk_px, chunk_px, 3); background where there is none."""
        from numcodecs.zstd import Zstd

        side = self.wanted.chunk_px
        path = self._chunk(place)
        try:
            planes = np.frombuffer(Zstd().decode(path.read_bytes()), np.uint8).reshape(3, side, side)
        except FileNotFoundError:
            return np.full((side, side, 3), BACKGROUND, np.uint8)
        except (RuntimeError, ValueError) as error:
            raise ProjectError(f"{path}: this piece of a conversion is damaged; delete {self.path}.") from error
        return np.ascontiguousarray(planes.transpose(1, 2, 0))

    def _chunk(self, place: Place) -> Path:
        level, row, column = place
        return self.path / str(level) / "c" / "0" / str(row) / str(column)

    def _about(self) -> dict[str, Any]:
        told = self.wanted
        return {
            "source": told.source,
            "shapes": [list(shape) for shape in told.shapes],
            "chunk_px": told.chunk_px,
            "mpp": told.mpp and list(told.mpp),
            "first": told.first,
        }

    def _is_same(self) -> bool:
        try:
            found = json.loads((self.path / _ROOT).read_text("utf-8"))["attributes"][_OURS]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ProjectError(
                f"{self.path}: this is in the way and no conversion of this program; move it or choose another name."
            ) from error
        return bool(found == self._about())

    def _create(self) -> None:
        """Metadata of the levels first and the group's last: with it the folder counts as begun."""
        from napari_slidecorr.io.atomic import part_path

        new = part_path(self.path)
        shutil.rmtree(new, ignore_errors=True)
        for level, shape in enumerate(self.wanted.shapes):
            if level >= self.wanted.first:
                make_folder(new / str(level))
                atomic_write_text(new / str(level) / _ROOT, json.dumps(_array(shape, self.wanted.chunk_px)))
        attributes = {"ome": self._ome(), _OURS: self._about()}
        group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        make_folder(new)
        atomic_write_text(new / _ROOT, json.dumps(group, indent=2))
        new.replace(self.path)

    def _ome(self) -> dict[str, Any]:
        unit = {"unit": "micrometer"} if self.wanted.mpp else {}
        axes = [{"name": "c", "type": "channel"}, *({"name": name, "type": "space", **unit} for name in "yx")]
        y, x = self.wanted.mpp or (1.0, 1.0)
        datasets = [_dataset(level, y, x) for level in range(self.wanted.first, len(self.wanted.shapes))]
        channels = [
            {"label": label, "color": color, "active": True, "window": {"min": 0, "max": 255, "start": 0, "end": 255}}
            for label, color in (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))
        ]
        return {
            "version": "0.5",
            "multiscales": [{"name": self.wanted.name, "axes": axes, "datasets": datasets}],
            "omero": {"channels": channels, "rdefs": {"model": "color"}},
        }


def _dataset(level: int, y: float, x: float) -> dict[str, Any]:
    """A level and where it lies: the centre of its first pixel is that of the block of pixels it is the mean of."""
    scale = [1.0, y * 2**level, x * 2**level]
    shift = [0.0, y * (2**level - 1) / 2, x * (2**level - 1) / 2]
    transformations = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": shift}]
    return {"path": str(level), "coordinateTransformations": transformations}


def _array(shape: YX, side: int) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [3, *shape],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [3, side, side]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": BACKGROUND,
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "zstd", "configuration": {"level": _ZSTD_LEVEL, "checksum": False}},
        ],
        "dimension_names": ["c", "y", "x"],
        "attributes": {},
    }
