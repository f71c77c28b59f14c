"""A map as a Parquet table, one row a patch, for pandas, polars, DuckDB and R; the columns are those of the CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from napari_slidecorr.decision import Threshold
from napari_slidecorr.errors import MapError
from napari_slidecorr.io.atomic import atomic_file
from napari_slidecorr.prediction_map import PredictionMap

PLACE = ("y", "x", "height", "width")
GROUP_CELLS = 1 << 16
"""Cells of the grid, predicted or not, whose patches make up one row group and are held at once."""


def write(
    path: Path,
    prediction: PredictionMap,
    *,
    threshold: Threshold = None,
    colors: Mapping[str, Any] | None = None,  # noqa: ARG001 - all map formats are called alike
) -> None:
    """Write a row for each predicted patch, whole or not at all.

    Columns are ``y``, ``x``, ``height``, ``width`` (float64, level-0 pixels), ``class`` (text, null where the model is unsure)
    and one for each class with its probability (float32). The file's metadata tell ``slide_id``, ``model_id`` and, when
    the slide has one, ``mpp`` (y, x).

    Raises
    ------
    MapError
        If pyarrow is not installed, or a class is called as one of the other columns.
    ProjectError
        If the file cannot be written.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise MapError(
            f'{path.name}: Parquet needs pyarrow; install it with: pip install "napari-slidecorr[parquet]".'
        ) from error
    if taken := sorted({*PLACE, "class"} & set(prediction.classes)):
        raise MapError(
            f"{path.name}: class {taken[0]!r} is called as a column of the table; give the class another name."
        )
    schema = pa.schema(
        [
            *((name, pa.float64()) for name in PLACE),
            ("class", pa.dictionary(pa.int32(), pa.string())),
            *((name, pa.float32()) for name in prediction.classes),
        ],
        metadata=_about(prediction),
    )
    with atomic_file(path) as file, parquet.ParquetWriter(file, schema, compression="zstd") as table:
        for columns in _groups(prediction, threshold):
            index = pa.array(columns.pop("class"), mask=columns.pop("unsure"))
            names = pa.DictionaryArray.from_arrays(index, pa.array(prediction.classes, pa.string()))
            arrays = [names if name == "class" else pa.array(columns[name]) for name in schema.names]
            table.write_batch(pa.record_batch(arrays, schema=schema))


def _groups(prediction: PredictionMap, threshold: Threshold) -> Iterator[dict[str, Any]]:
    """Walk the rows of the grid in bands; of each the columns of its predicted patches."""
    y, x = (np.asarray(prediction.grid.cell_edges_px(axis)) for axis in (0, 1))
    rows, columns = prediction.grid.shape
    class_map = prediction.class_map(threshold)
    step = max(1, GROUP_CELLS // columns)
    for first in range(0, rows, step):
        band = slice(first, first + step)
        row, column = np.nonzero(prediction.predicted[band])
        if not row.size:
            continue
        values = prediction.probabilities[:, band][:, row, column]
        found = class_map[band][row, column].astype(np.int32) - 1
        row += first
        places = y[row], x[column], y[row + 1] - y[row], x[column + 1] - x[column]
        yield {
            **dict(zip(PLACE, places, strict=True)),
            "class": np.maximum(found, 0),
            "unsure": found < 0,
            **dict(zip(prediction.classes, values, strict=True)),
        }


def _about(prediction: PredictionMap) -> dict[str, str]:
    mpp = {"mpp": "{:.10g} {:.10g}".format(*prediction.grid.mpp)} if prediction.grid.mpp else {}
    return {"slide_id": prediction.slide_id, "model_id": prediction.model_id, **mpp}
