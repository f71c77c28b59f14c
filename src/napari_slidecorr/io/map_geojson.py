"""The classes of a prediction map as polygons for QuPath, one annotation a connected area. (x, y) as `qupath` writes it.

A cell is drawn as the square of its stride, cut at the slide's edge (`Grid.cell_edges_px`, corner-based), so that the
areas of all classes tile what was predicted.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon

from napari_slidecorr.cell_areas import Labels, Ring, label_areas, outlines
from napari_slidecorr.decision import Threshold
from napari_slidecorr.errors import MapError
from napari_slidecorr.geometry import Grid
from napari_slidecorr.io.qupath import Color, Uids, properties_text, ring_text, texts, write_features
from napari_slidecorr.prediction_map import PredictionMap

_NAMESPACE = uuid.UUID("0f9b7d52-6c1b-4d3a-8c5e-0f6a6f3d9a41")


AT_ONCE = 512
"""Areas whose outlines are smoothed in one go."""


def write(
    path: Path,
    prediction: PredictionMap,
    *,
    threshold: Threshold = None,
    colors: Mapping[str, Color] | None = None,
    smooth_um: float = 0.0,
) -> None:
    """Write one annotation for each 4-connected area of a class, whole or not at all.

    Parameters
    ----------
    threshold : float or None
        Cells whose best class has a lower probability are left out; None: the model's own bounds.
    colors : mapping of class to (r, g, b), optional
    smooth_um : float
        No point of an outline moves by more than this, in micrometres, when steps are made straight (Douglas and
        Peucker's method); 0 keeps the squares. Smoothed neighbours may overlap or gape by as much.

    Raises
    ------
    MapError
        If outlines are to be smoothed and the slide has no pixel size.
    ProjectError
        If the file cannot be written.

    Notes
    -----
    The measurements of an annotation are ``Mean probability`` of its class over its cells and, when the slide has a
    pixel size, ``Area mm2``; both are of the cells, whatever the outline was smoothed to. The same map always gives the
    same bytes.
    """
    if smooth_um and prediction.grid.mpp is None:
        raise MapError(
            f"{path.name}: the slide has no pixel size, so its outlines cannot be smoothed by {smooth_um:g} um; set one, "
            "or leave them as they are."
        )
    write_features(path, _features(prediction, threshold, colors or {}, smooth_um))


def area_at(prediction: PredictionMap, place_px: tuple[float, float], threshold: Threshold = None) -> Polygon | None:
    """Give the 4-connected area of one class around a place, (y, x) level-0 pixels, as it is drawn on the slide.

    Cells that are unsure count as a class of their own; None where nothing is predicted.
    """
    from scipy import ndimage

    row, column = (int(prediction.grid.cells_at(axis, np.asarray([place]))[0]) for axis, place in enumerate(place_px))
    if min(row, column) < 0 or not prediction.predicted[row, column]:
        return None
    class_map = prediction.class_map(threshold)
    labels, _ = ndimage.label(prediction.predicted & (class_map == class_map[row, column]))
    rows, columns = ndimage.find_objects(labels)[labels[row, column] - 1]
    inside = (labels[rows, columns] == labels[row, column]).astype(np.int32)
    ((_, rings),) = outlines(inside)
    corner = np.asarray([rows.start, columns.start], np.int32)
    return _polygon([ring + corner for ring in rings], *_edges(prediction.grid))


def _features(
    prediction: PredictionMap, threshold: Threshold, colors: Mapping[str, Color], smooth_um: float
) -> Iterator[str]:
    class_map = prediction.class_map(threshold)
    labels, counts = label_areas(class_map, len(prediction.classes))
    means, areas_mm2 = _measured(prediction, class_map, labels)
    geometries = _geometries(labels, prediction.grid, smooth_um)
    for name, count in zip(prediction.classes, counts, strict=True):
        uid = Uids(_NAMESPACE, f"{prediction.slide_id} {prediction.model_id} {threshold or 0.0} {name} ")
        before, after = properties_text("annotation", name, colors.get(name))
        for number, (area, geometry) in enumerate(islice(geometries, count)):
            size = "" if areas_mm2 is None else f', "Area mm2": {areas_mm2[area]!r}'
            told = f'{before}{{"Mean probability": {means[area]!r}{size}}}{after}'
            yield f'{{"type": "Feature", "id": "{uid(number)}", "geometry": {geometry}, "properties": {told}}}'


def _measured(
    prediction: PredictionMap, class_map: NDArray[np.uint8], labels: Labels
) -> tuple[list[float], list[float] | None]:
    """Mean probability and mm2 of the cells of each area, by its number; None without a pixel size."""
    inside = labels > 0
    mine, of_class = labels[inside], class_map[inside].astype(np.intp) - 1
    its = np.take_along_axis(prediction.probabilities[:, inside], of_class[np.newaxis], axis=0)[0]
    cells = np.maximum(np.bincount(mine), 1)
    means: list[float] = (np.bincount(mine, its) / cells).tolist()
    if prediction.grid.mpp is None:
        return means, None
    height, width = (
        np.diff(edges) * mpp for edges, mpp in zip(_edges(prediction.grid), prediction.grid.mpp, strict=True)
    )
    mm2: list[float] = np.bincount(mine, np.outer(height, width)[inside] * 1e-6).tolist()
    return means, mm2


def _geometries(labels: Labels, grid: Grid, smooth_um: float) -> Iterator[tuple[int, str]]:
    """Give each area's number and its polygon as GeoJSON."""
    if smooth_um and grid.mpp is not None:
        yield from _smooth(labels, grid, grid.mpp, smooth_um)
        return
    y, x = (texts(edges) for edges in _edges(grid))
    for area, rings in outlines(labels):
        drawn = ", ".join(ring_text([f"[{x[column]}, {y[row]}]" for row, column in ring.tolist()]) for ring in rings)
        yield area, f'{{"type": "Polygon", "coordinates": [{drawn}]}}'


def _smooth(labels: Labels, grid: Grid, mpp: tuple[float, float], most_um: float) -> Iterator[tuple[int, str]]:
    """Leave out corners that lie within so many micrometres of the outline without them; each stays one valid polygon."""
    areas = outlines(labels)
    y, x = _edges(grid)
    while some := list(islice(areas, AT_ONCE)):
        on_glass = np.array([_polygon(rings, y * mpp[0], x * mpp[1]) for _, rings in some], dtype=object)
        smooth = shapely.simplify(on_glass, most_um, preserve_topology=True)
        flipped = shapely.transform(smooth, lambda points: points[:, ::-1] / mpp[::-1])
        yield from zip([area for area, _ in some], shapely.to_geojson(flipped).tolist(), strict=True)


def _edges(grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Level-0 pixels of the lines between rows and between columns of cells, cut at the slide's edge."""
    return np.asarray(grid.cell_edges_px(0), np.float64), np.asarray(grid.cell_edges_px(1), np.float64)


def _polygon(rings: Sequence[Ring], y: NDArray[np.float64], x: NDArray[np.float64]) -> Polygon:
    """An area as (y, x) polygon, its lines between cells at these places."""
    outer, *holes = (np.stack([y[ring[:, 0]], x[ring[:, 1]]], axis=1) for ring in rings)
    return Polygon(outer, holes)
