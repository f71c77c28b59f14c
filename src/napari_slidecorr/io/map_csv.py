"""A map as a table, one line a patch: where it lies, its class, and the probability of every class."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_slidecorr.decision import Threshold
from napari_slidecorr.io.atomic import atomic_file
from napari_slidecorr.prediction_map import PredictionMap

PLACE = ("y", "x", "height", "width")


def write(
    path: Path,
    prediction: PredictionMap,
    *,
    threshold: Threshold = None,
    colors: Mapping[str, Any] | None = None,  # noqa: ARG001 - all map formats are called alike
) -> None:
    """Write a line for each predicted patch, row by row, whole or not at all.

    Columns are ``y``, ``x``, ``height``, ``width`` (the square around the patch's centre that its class stands for, as it
    is drawn, in level-0 pixels), ``class`` (empty where the model is unsure), and one for each class with its probability.

    Raises
    ------
    ProjectError
        If the file cannot be written.
    """
    with atomic_file(path) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        table = csv.writer(text, lineterminator="\n")
        table.writerow([*PLACE, "class", *prediction.classes])
        table.writerows(_lines(prediction, threshold))
        text.flush()
        text.detach()


def _lines(prediction: PredictionMap, threshold: Threshold) -> Iterator[list[str]]:
    (y, heights), (x, widths) = (_sides(prediction.grid.cell_edges_px(axis)) for axis in (0, 1))
    class_map = prediction.class_map(threshold)
    names = ("", *prediction.classes)
    for row, predicted in enumerate(prediction.predicted):
        columns = np.flatnonzero(predicted)  # of one row, not millions
        found = class_map[row, columns].tolist()
        values = prediction.probabilities[:, row, columns].T.tolist()
        for column, number, each in zip(columns.tolist(), found, values, strict=True):
            place = [y[row], x[column], heights[row], widths[column]]
            yield [*place, names[number], *[f"{value:.6g}" for value in each]]


def _sides(edges: Sequence[float]) -> tuple[list[str], list[str]]:
    """Where cells begin and how long they are."""
    return [f"{edge:.10g}" for edge in edges[:-1]], [f"{length:.10g}" for length in np.diff(edges)]
