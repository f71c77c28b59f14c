"""Slides and our prediction maps by drag and drop; napari asks `get_reader` for every file, so it only looks at names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from napari_slidecorr import io

LayerData = tuple[Any, dict[str, Any], str]
Reader = Callable[[str | Sequence[str]], list[LayerData]]

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ZARR = ("zarr.json", ".zattrs", ".zgroup")


def get_reader(path: str | Sequence[str]) -> Reader | None:
    """Give a reader for slides and prediction maps; None when a path is neither."""
    return read_layers if all(_looks_right(each) for each in _paths(path)) else None


def read_layers(path: str | Sequence[str]) -> list[LayerData]:
    """Open slides lazily, and prediction maps, as layers.

    Raises
    ------
    SlideError
        For a file that is damaged or not a slide; says which.
    """
    return [layer for each in _paths(path) for layer in _layers(each)]


def _paths(path: str | Sequence[str]) -> list[Path]:
    return [Path(path)] if isinstance(path, str | Path) else [Path(each) for each in path]


def _looks_right(path: Path) -> bool:
    if not io.is_slide(path) or not path.exists():
        return False
    if path.is_dir():
        return path.suffix.lower() != ".zarr" or any((path / name).exists() for name in _ZARR)
    if path.suffix.lower() not in (".tif", ".tiff"):
        return True
    with path.open("rb") as file:
        return file.read(4) in _TIFF


def _layers(path: Path) -> list[LayerData]:
    if path.is_dir() and _is_map(path):
        return _map_layers(path)
    from napari_slidecorr._napari.slide_layers import slide_layers

    return [(levels, arguments, "image") for levels, arguments in slide_layers(io.open_slide(path))]


def _is_map(path: Path) -> bool:
    from napari_slidecorr.io import map_zarr

    return map_zarr.is_complete(path)


def _map_layers(path: Path) -> list[LayerData]:
    from napari_slidecorr._napari.map_layers import class_layer, probability_layer
    from napari_slidecorr.project_file import with_colors

    prediction = io.read_map(path)
    classes = class_layer(prediction, with_colors(prediction.classes, {}))
    probability = probability_layer(prediction, prediction.classes[0])
    probability[1]["visible"] = False
    return [(*classes, "labels"), (*probability, "image")]
