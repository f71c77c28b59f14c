"""A map as pyramidal OME-TIFF, one channel a class, which lies on the slide in every program that heeds pixel sizes.

A TIFF has no place for a translation, and the first cell of a map is centred on the slide's corner. So pixels are half a
cell large and begin at the slide's corner: each shows the cell that is drawn at its centre.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.decision import Threshold
from napari_slidecorr.geometry import YX, Grid
from napari_slidecorr.io.atomic import atomic_file
from napari_slidecorr.prediction_map import PredictionMap

TILE_PX = 256
FLOAT_SUFFIXES = (".float32.ome.tif", ".float32.ome.tiff")

Color = tuple[int, int, int]


def write(
    path: Path,
    prediction: PredictionMap,
    *,
    threshold: Threshold = None,  # noqa: ARG001 - all map formats are called alike; this one keeps the probabilities
    colors: Mapping[str, Color] | None = None,
) -> None:
    """Write the probabilities of each class, whole or not at all.

    Numbers are uint8, 0 to 255 for probabilities 0 to 1 and 0 in all channels where nothing is predicted; a name that
    ends with ``.float32.ome.tif`` gives float32, NaN where nothing is predicted. Levels of factor 2 follow, means of
    what is predicted, down to one tile.

    Raises
    ------
    ProjectError
        If the file cannot be written.
    """
    import tifffile

    dtype = np.dtype(np.float32 if path.name.lower().endswith(FLOAT_SUFFIXES) else np.uint8)
    shapes = _level_shapes(prediction.grid)
    options = {
        "dtype": dtype,
        "tile": (TILE_PX, TILE_PX),
        "photometric": "minisblack",
        "compression": "zlib",
        "predictor": dtype.kind == "u",
    }
    with atomic_file(path) as file, tifffile.TiffWriter(file, ome=True) as tif:
        for level, shape in enumerate(shapes):
            tif.write(
                _tiles(prediction, shapes, level, dtype),
                shape=(len(prediction.classes), *shape),
                subifds=len(shapes) - 1 if level == 0 else None,
                subfiletype=0 if level == 0 else 1,
                metadata=_ome(prediction, colors or {}) if level == 0 else None,
                **_resolution(prediction.grid, level),
                **options,
            )


def _resolution(grid: Grid, level: int) -> dict[str, Any]:
    """Pixels a centimetre, (x, y), as the tags of TIFF tell it: OpenSlide and libvips do not read OME-XML."""
    if grid.mpp is None:
        return {}
    y, x = (1e4 / (n * mpp * 2**level) for n, mpp in zip(pixel_px(grid), grid.mpp, strict=True))
    return {"resolution": (x, y), "resolutionunit": "CENTIMETER"}


def pixel_px(grid: Grid) -> tuple[float, float]:
    """Level-0 pixels per pixel of the finest level, (y, x): half a cell."""
    return grid.stride_px[0] / 2, grid.stride_px[1] / 2


def _level_shapes(grid: Grid) -> list[YX]:
    """The finest level covers the slide, each further one has half as many pixels, the last is at most a tile."""
    rows, columns = (int(-(-extent // pixel)) for extent, pixel in zip(grid.extent_px, pixel_px(grid), strict=True))
    halvings = takewhile(lambda level: level == 0 or max(rows, columns) > TILE_PX << (level - 1), count())
    return [(-(-rows // 2**level), -(-columns // 2**level)) for level in halvings]


def _tiles(
    prediction: PredictionMap, shapes: list[YX], level: int, dtype: np.dtype[Any]
) -> Iterator[NDArray[np.float32] | NDArray[np.uint8]]:
    """One plane after the other, so that never more than one of them is held."""
    for values in prediction.probabilities:
        plane = _on_slide(values, prediction.grid, shapes[0])
        for _ in range(level):
            plane = _halved(plane)
        out = plane if dtype.kind == "f" else np.rint(np.nan_to_num(plane, nan=0) * 255).astype(np.uint8)
        blank = np.nan if dtype.kind == "f" else 0
        for y in range(0, out.shape[0], TILE_PX):
            for x in range(0, out.shape[1], TILE_PX):
                part = out[y : y + TILE_PX, x : x + TILE_PX]
                missing = [(0, TILE_PX - n) for n in part.shape]
                yield np.pad(part, missing, constant_values=blank).astype(dtype)


def _on_slide(values: NDArray[np.float32], grid: Grid, shape: YX) -> NDArray[np.float32]:
    """Give each pixel the value of the cell at its centre, NaN where there is none."""
    y, x = (grid.cells_at(axis, (np.arange(shape[axis]) + 0.5) * pixel_px(grid)[axis]) for axis in (0, 1))
    return np.where(np.outer(y >= 0, x >= 0), values[np.ix_(y, x)], np.float32(np.nan))


def _halved(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of 2 x 2 pixels, of those that are predicted."""
    even = np.pad(plane, [(0, n % 2) for n in plane.shape], constant_values=np.nan)
    squares = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2)
    known = np.isfinite(squares)
    sums, counts = np.where(known, squares, 0).sum((1, 3)), known.sum((1, 3))
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).astype(np.float32)


def _ome(prediction: PredictionMap, colors: Mapping[str, Color]) -> dict[str, Any]:
    shown = [colors.get(name, (255, 255, 255)) for name in prediction.classes]
    about: dict[str, Any] = {
        "axes": "CYX",
        "Name": f"{prediction.slide_id} {prediction.model_id}",
        "Channel": {"Name": list(prediction.classes), "Color": [_signed_rgba(color) for color in shown]},
    }
    if prediction.grid.mpp is not None:
        y, x = (n * mpp for n, mpp in zip(pixel_px(prediction.grid), prediction.grid.mpp, strict=True))
        about |= {"PhysicalSizeX": x, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": y, "PhysicalSizeYUnit": "µm"}
    return about


def _signed_rgba(color: Color) -> int:
    """OME's colours are RGBA as a signed number of 32 bits."""
    return int.from_bytes(bytes((*color, 255)), "big", signed=True)
