"""A map as tile objects for QuPath: a square for each predicted cell, its probabilities as measurements.

(x, y) as `qupath` writes it; a cell is drawn as in `map_geojson`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from napari_slidecorr.decision import Threshold
from napari_slidecorr.io.qupath import Color, Uids, properties_text, ring_text, texts, write_features
from napari_slidecorr.prediction_map import PredictionMap

_NAMESPACE = uuid.UUID("5a0f6b0b-8a35-4e02-9d0c-53c6b21b8b0e")


def write(
    path: Path, prediction: PredictionMap, *, threshold: Threshold = None, colors: Mapping[str, Color] | None = None
) -> None:
    """Write one tile for each predicted cell, row by row, whole or not at all.

    Parameters
    ----------
    threshold : float or None
        Cells whose best class has a lower probability have no class; None: the model's own
        bounds. Their probabilities are there all the same.
    colors : mapping of class to (r, g, b), optional

    Raises
    ------
    ProjectError
        If the file cannot be written.
    """
    write_features(path, _tiles(prediction, threshold, colors or {}))


def _tiles(prediction: PredictionMap, threshold: Threshold, colors: Mapping[str, Color]) -> Iterator[str]:
    grid = prediction.grid
    y, x = (texts(grid.cell_edges_px(axis)) for axis in (0, 1))
    names = ("", *prediction.classes)
    about = [properties_text("tile", name, colors.get(name)) for name in names]
    keys = [json.dumps(f"Probability {name}") for name in prediction.classes]
    uid = Uids(_NAMESPACE, f"{prediction.slide_id} {prediction.model_id} ")
    class_map = prediction.class_map(threshold)
    for row, predicted in enumerate(prediction.predicted):
        columns = np.flatnonzero(predicted)  # of one row, not millions
        low, high = y[row], y[row + 1]
        values = prediction.probabilities[:, row, columns].T.tolist()
        for column, number, each in zip(columns.tolist(), class_map[row, columns].tolist(), values, strict=True):
            left, right = x[column], x[column + 1]
            square = ring_text([f"[{right}, {low}]", f"[{right}, {high}]", f"[{left}, {high}]", f"[{left}, {low}]"])
            measured = ", ".join([f"{key}: {value!r}" for key, value in zip(keys, each, strict=True)])
            before, after = about[number]
            yield (
                f'{{"type": "Feature", "id": "{uid(f"{row} {column}")}", "geometry": '
                f'{{"type": "Polygon", "coordinates": [{square}]}}, "properties": {before}{{{measured}}}{after}}}'
            )
