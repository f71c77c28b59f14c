"""A map as tile objects for QuPath: a square for each predicted cell, its probabilities as measurements.

(x, y) as `qupath` writes it; a cell is drawn as in `map_geojson`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from napari_slidecorr.io.qupath import Color, feature, write_features
from napari_slidecorr.prediction_map import PredictionMap

_NAMESPACE = uuid.UUID("5a0f6b0b-8a35-4e02-9d0c-53c6b21b8b0e")


def write(
    path: Path, prediction: PredictionMap, *, threshold: float = 0.0, colors: Mapping[str, Color] | None = None
) -> None:
    """Write one tile for each predicted cell, row by row, whole or not at all.

    Parameters
    ----------
    threshold : float
        Cells whose best class has a lower probability have no class; their probabilities are there all the same.
    colors : mapping of class to (r, g, b), optional

    Raises
    ------
    ProjectError
        If the file cannot be written.
    """
    write_features(path, _tiles(prediction, threshold, colors or {}))


def _tiles(prediction: PredictionMap, threshold: float, colors: Mapping[str, Color]) -> Iterator[dict[str, Any]]:
    y, x = (prediction.grid.cell_edges_px(axis) for axis in (0, 1))
    class_map = prediction.class_map(threshold)
    names = ("", *prediction.classes)
    for row, column in _cells(prediction):
        name = names[class_map[row, column]]
        values = prediction.probabilities[:, row, column].tolist()
        measurements = {f"Probability {one}": value for one, value in zip(prediction.classes, values, strict=True)}
        uid = uuid.uuid5(_NAMESPACE, f"{prediction.slide_id} {prediction.model_id} {row} {column}")
        square = shapely.box(y[row], x[column], y[row + 1], x[column + 1])
        yield feature(str(uid), square, name, colors.get(name), measurements, object_type="tile")


def _cells(prediction: PredictionMap) -> Iterator[tuple[int, int]]:
    """Walk the predicted cells; a row of them is listed at a time, not millions."""
    for row, predicted in enumerate(prediction.predicted):
        for column in np.flatnonzero(predicted).tolist():
            yield row, column
