"""Prediction maps as OME-Zarr 0.5, written block by block and resumed after a kill.

One level, axes c, y, x, one chunk a block. The metadata is zarr's; the chunks are encoded here and written with
`atomic_write_bytes`, so that a chunk's file means a finished block, whatever zarr version reads it and however the
writing ended. A block of glass is a chunk of NaN and is written like any other: zarr itself would leave it out.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.decision import Threshold
from napari_slidecorr.errors import MapError
from napari_slidecorr.events import BlockDone
from napari_slidecorr.geometry import Grid
from napari_slidecorr.io.atomic import PART, atomic_write_bytes, atomic_write_text, make_folder, part_path, write_error
from napari_slidecorr.prediction_map import PredictionMap

FORMAT = 1
ARRAY = "0"
SPREAD = "spread"
BOUNDS = "unsure_below"
_OURS = "napari_slidecorr"
_ROOT = "zarr.json"
_DIGEST = "slide_digest"
_ZSTD_LEVEL = 3

Color = tuple[int, int, int]
Block = tuple[slice, slice]


class MapWriter:
    """A map that grows on the disk, block by block; opening it again goes on where it stopped.

    Parameters
    ----------
    path : Path
        An ``.ome.zarr`` folder; made if it does not exist. It counts as incomplete until `complete`.
    classes, grid, slide_id, model_id
        What the map is of; a folder that holds a map of something else is refused.
    block_cells : int
        Side of a block in cells. A map that exists keeps its own; see `missing_blocks`.
    colors : mapping of class to (r, g, b), optional
        Shown by viewers that read OME's channel colours.
    slide_digest : str
        Of the slide's content (`content_digest`); a map begun on other content is refused. Empty: nothing is compared.

    with_spread : bool
        Keep the spread of each cell too, as an array of its own; see `PredictionMap`.
    bounds : tuple of float
        From which probability on each class may be the answer; a map that exists keeps its own.

    Raises
    ------
    MapError
        If the folder exists and holds something else; names what differs.
    ProjectError
        If the folder cannot be written.
    """

    def __init__(  # noqa: PLR0913 - all that a map says of itself
        self,
        path: Path,
        classes: tuple[str, ...],
        grid: Grid,
        slide_id: str,
        model_id: str,
        block_cells: int,
        *,
        colors: Mapping[str, Color] | None = None,
        slide_digest: str = "",
        with_spread: bool = False,
        bounds: tuple[float, ...] = (),
    ) -> None:
        self.path = path
        self._about = _about(classes, grid, slide_id, model_id, block_cells) | {
            _DIGEST: slide_digest,
            SPREAD: with_spread,
            BOUNDS: list(bounds),
        }
        if path.exists():
            self._about["block_cells"] = _check_same(path, self._about)
            for array in (ARRAY, SPREAD):
                for left_over in (path / array).rglob("*" + PART):
                    left_over.unlink()
        else:
            _create(path, self._about, colors or {})

    @property
    def grid(self) -> Grid:
        """Where the cells lie."""
        return _grid(self._about)

    @property
    def block_cells(self) -> int:
        """Side of a block in cells, as the folder has it."""
        return int(self._about["block_cells"])

    def missing_blocks(self) -> list[Block]:
        """The blocks that are not written yet, row by row."""
        return [block for block in self.grid.blocks(self.block_cells) if not self._chunk_path(block).exists()]

    def write(self, block: BlockDone) -> None:
        """Put one block on the disk; when this returns it is there for good.

        Raises
        ------
        MapError
            If the event is not one whole block of this map, or the map was moved away.
        ProjectError
            If the disk is full or the folder cannot be written.
        """
        place = block.rows, block.columns
        if not all(map(self._is_block, place, self.grid.shape)):
            raise MapError(f"{self.path.name}: rows {block.rows}, columns {block.columns} are not a block of this map.")
        expected = (len(self._about["classes"]), *(part.stop - part.start for part in place))
        if block.probabilities.shape != expected:
            raise MapError(f"{self.path.name}: a block has shape {block.probabilities.shape}, not {expected}.")
        if self._about[SPREAD] and block.spread is not None:  # first: the chunk of probabilities says that all is there
            self._write_chunk(self._chunk_path(place, SPREAD), block.spread[np.newaxis])
        self._write_chunk(self._chunk_path(place), block.probabilities)

    def _write_chunk(self, target: Path, values: NDArray[np.float32]) -> None:
        if not (self.path / _ROOT).is_file():  # else its folders would be made anew, without what they are
            raise MapError(f"{self.path.name}: the map was moved while it was being made; predict the slide again.")
        layers, height, width = values.shape
        chunk = np.full((layers, self.block_cells, self.block_cells), np.nan, "<f4")
        chunk[:, :height, :width] = values
        make_folder(target.parent)
        atomic_write_bytes(target, _encode(chunk))

    def complete(self) -> None:
        """Mark the map as whole.

        Raises
        ------
        MapError
            If blocks are missing.
        """
        if missing := len(self.missing_blocks()):
            raise MapError(f"{self.path.name}: {missing} blocks are missing; predict the slide again to go on.")
        root = self.path / _ROOT
        metadata = json.loads(root.read_text("utf-8"))
        metadata["attributes"][_OURS]["complete"] = True
        atomic_write_text(root, json.dumps(metadata, indent=2))

    def read(self) -> PredictionMap:
        """The map as far as it is written; NaN in blocks that are missing."""
        return read(self.path, allow_incomplete=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing is held open: every block was final when it was written."""

    def _is_block(self, part: slice, length: int) -> bool:
        start = part.start // self.block_cells * self.block_cells
        return 0 <= start < length and part == slice(start, min(start + self.block_cells, length))

    def _chunk_path(self, block: Block, array: str = ARRAY) -> Path:
        row, column = (part.start // self.block_cells for part in block)
        return self.path / array / "c" / "0" / str(row) / str(column)


def read(path: Path, *, allow_incomplete: bool = False) -> PredictionMap:
    """Read a map that this package wrote.

    Raises
    ------
    MapError
        If it is missing, not one of ours, damaged, or not complete (unless that is allowed).
    """
    import zarr

    about = _read_about(path)
    if not (about["complete"] or allow_incomplete):
        raise MapError(f"{path.name}: the map is not complete; predict the slide again to go on where it stopped.")
    try:
        array = zarr.open_array(path / ARRAY, mode="r")
        probabilities = np.asarray(array[:], np.float32)
        spread = np.asarray(zarr.open_array(path / SPREAD, mode="r")[0], np.float32) if about.get(SPREAD) else None
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise MapError(f"{path.name}: the map is damaged ({error}); delete it and predict again.") from error
    classes, bounds = tuple(about["classes"]), tuple(about.get(BOUNDS, ()))
    return PredictionMap(probabilities, classes, _grid(about), about["slide_id"], about["model_id"], spread, bounds)


def read_block(path: Path, rows: slice, columns: slice) -> dict[str, NDArray[np.float32]]:
    """Read the numbers of one block, by the names that `BlockDone` gives them; NaN if it is not written.

    Raises
    ------
    MapError
        If the map is missing or damaged.
    """
    import zarr

    try:
        values = zarr.open_array(path / ARRAY, mode="r")[:, rows, columns]
        found = {"probabilities": np.asarray(values, np.float32)}
        if (path / SPREAD).exists():
            found["spread"] = np.asarray(zarr.open_array(path / SPREAD, mode="r")[0, rows, columns], np.float32)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise MapError(f"{path.name}: the map is damaged ({error}); delete it and predict again.") from error
    return found


def write(
    path: Path,
    prediction: PredictionMap,
    *,
    threshold: Threshold = None,  # noqa: ARG001 - all map formats are called alike; this one keeps the probabilities
    colors: Mapping[str, Color] | None = None,
    block_cells: int = 64,
) -> None:
    """Write a whole map beside its target and rename it; a map that was there is replaced, anything else is not.

    Raises
    ------
    MapError
        If there is something at `path` that is not a prediction map.
    ProjectError
        If the folder cannot be written.
    """
    if path.exists():
        _read_about(path)
    part = part_path(path)
    shutil.rmtree(part, ignore_errors=True)
    try:
        about = prediction.classes, prediction.grid, prediction.slide_id, prediction.model_id
        spread = prediction.spread
        writer = MapWriter(
            part, *about, block_cells, colors=colors, with_spread=spread is not None, bounds=prediction.bounds
        )
        for rows, columns in writer.missing_blocks():
            values = prediction.probabilities[:, rows, columns]
            part_of_spread = None if spread is None else spread[rows, columns]
            block = BlockDone(phase="write", rows=rows, columns=columns, probabilities=values, spread=part_of_spread)
            writer.write(block)
        writer.complete()
        _replace_folder(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def facts(path: Path) -> dict[str, Any]:
    """Give what a map says of itself without reading its numbers: classes, slide_id, model_id, complete and more.

    Raises
    ------
    MapError
        If it is missing or not one of ours.
    """
    return _read_about(path)


def is_complete(path: Path) -> bool:
    """Whether a folder is a whole prediction map of ours."""
    try:
        return bool(_read_about(path)["complete"])
    except MapError:
        return False


def _about(classes: tuple[str, ...], grid: Grid, slide_id: str, model_id: str, block_cells: int) -> dict[str, Any]:
    told = {
        "format": FORMAT,
        "classes": list(classes),
        "grid": asdict(grid),
        "slide_id": slide_id,
        "model_id": model_id,
        "block_cells": block_cells,
        "complete": False,
    }
    return json.loads(json.dumps(told))  # type: ignore[no-any-return]


def _grid(about: Mapping[str, Any]) -> Grid:
    values = {key: None if value is None else tuple(value) for key, value in about["grid"].items()}
    return Grid(**values)  # type: ignore[arg-type]


def _check_same(path: Path, wanted: Mapping[str, Any]) -> int:
    """Make sure that a folder holds the map that is wanted; give its block size."""
    found = _read_about(path)
    words = {
        "classes": "has other classes",
        "grid": "has another grid (patch size, overlap or pixel size)",
        "slide_id": "is of another slide",
        "model_id": "was made by another model",
    }
    for key, difference in words.items():
        if found[key] != wanted[key]:
            raise MapError(
                f"{path.name}: the map there {difference}: {found[key]} instead of {wanted[key]}; delete it or choose "
                "another name."
            )
    if _is_other_slide(found, wanted[_DIGEST]):
        raise MapError(_changed(path))
    return int(found["block_cells"])


def check_slide(path: Path, slide_digest: str) -> None:
    """Make sure that a slide has not changed since a map of it was begun; maps of older versions do not know.

    Raises
    ------
    MapError
        If it has, or there is no map.
    """
    if _is_other_slide(_read_about(path), slide_digest):
        raise MapError(_changed(path))


def _is_other_slide(about: Mapping[str, Any], slide_digest: str) -> bool:
    there = about.get(_DIGEST, "")
    return bool(there and slide_digest and there != slide_digest)


def _changed(path: Path) -> str:
    return (
        f"{path.name}: the slide's file has changed since this map was begun; put the old file back, or delete {path}."
    )


def _read_about(path: Path) -> dict[str, Any]:
    try:
        metadata = json.loads((path / _ROOT).read_text("utf-8"))
        about: dict[str, Any] = metadata["attributes"][_OURS]
        version = about["format"]
    except OSError as error:
        raise MapError(f"{path}: not a prediction map ({error.strerror}); choose an .ome.zarr folder.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise MapError(f"{path.name}: not a prediction map of this program; choose another file.") from error
    if version != FORMAT:
        raise MapError(
            f"{path.name}: this map has format {version}, written by a newer version; update napari-slidecorr."
        )
    return about


def _create(path: Path, about: dict[str, Any], colors: Mapping[str, Color]) -> None:
    """Make the folder with its metadata and no block, beside the target, then rename it."""
    import zarr

    make_folder(path.parent)
    part = path.with_name(path.name + ".new" + PART)
    shutil.rmtree(part, ignore_errors=True)
    classes, side = len(about["classes"]), about["block_cells"]
    try:
        group = zarr.create_group(part, zarr_format=3, attributes={"ome": _ome(about, colors), _OURS: about})
        _create_array(group, ARRAY, classes, about["grid"]["shape"], side)
        if about[SPREAD]:
            _create_array(group, SPREAD, 1, about["grid"]["shape"], side)
        part.replace(path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _create_array(group: Any, name: str, layers: int, shape: tuple[int, int], side: int) -> None:
    from zarr.codecs import BytesCodec, ZstdCodec

    group.create_array(
        name,
        shape=(layers, *shape),
        chunks=(layers, side, side),
        dtype="float32",
        fill_value=float("nan"),
        serializer=BytesCodec(endian="little"),
        compressors=[ZstdCodec(level=_ZSTD_LEVEL)],
        dimension_names=("c", "y", "x"),
    )


def _encode(chunk: NDArray[np.float32]) -> bytes:
    from numcodecs.zstd import Zstd  # type: ignore[import-untyped]

    return bytes(Zstd(level=_ZSTD_LEVEL).encode(chunk.tobytes()))


def _ome(about: dict[str, Any], colors: Mapping[str, Color]) -> dict[str, Any]:
    """OME-Zarr 0.5 metadata: micrometres when the slide has a pixel size, else level-0 pixels without a unit."""
    grid = _grid(about)
    unit = {"unit": "micrometer"} if grid.mpp else {}
    transformations = [
        {"type": "scale", "scale": [1.0, *grid.scale]},
        {"type": "translation", "translation": [0.0, *grid.translate]},
    ]
    axes = [{"name": "c", "type": "channel"}, *({"name": name, "type": "space", **unit} for name in "yx")]
    dataset = {"path": ARRAY, "coordinateTransformations": transformations}
    channels = [_channel(name, colors.get(name)) for name in about["classes"]]
    return {
        "version": "0.5",
        "multiscales": [{"name": about["slide_id"], "axes": axes, "datasets": [dataset]}],
        "omero": {"channels": channels, "rdefs": {"model": "color"}},
    }


def _channel(name: str, color: Color | None) -> dict[str, Any]:
    red, green, blue = color or (255, 255, 255)
    return {
        "label": name,
        "color": f"{red:02X}{green:02X}{blue:02X}",
        "active": True,
        "window": {"min": 0.0, "max": 1.0, "start": 0.0, "end": 1.0},
    }


def _replace_folder(new: Path, path: Path) -> None:
    """Put a whole folder in the place of an old one; the old one is there until the new one is."""
    old = path.with_name(path.name + ".old" + PART)
    shutil.rmtree(old, ignore_errors=True)
    try:
        if path.exists():
            path.rename(old)
        new.rename(path)
    except OSError as error:
        if old.exists() and not path.exists():
            old.rename(path)
        raise write_error(path, error) from error
    shutil.rmtree(old, ignore_errors=True)
