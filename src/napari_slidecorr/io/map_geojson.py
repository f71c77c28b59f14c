"""The classes of a prediction map as polygons for QuPath, one annotation a connected area. (x, y) as `qupath` writes it.

A cell is drawn as the square of its stride, cut at the slide's edge (`Grid.cell_edges_px`, corner-based), so that the
areas of all classes tile what was predicted.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import LinearRing, Polygon

from napari_slidecorr.errors import MapError
from napari_slidecorr.geometry import Grid
from napari_slidecorr.io.qupath import Color, feature, write_features
from napari_slidecorr.prediction_map import PredictionMap

_NAMESPACE = uuid.UUID("0f9b7d52-6c1b-4d3a-8c5e-0f6a6f3d9a41")


def write(
    path: Path,
    prediction: PredictionMap,
    *,
    threshold: float = 0.0,
    colors: Mapping[str, Color] | None = None,
    smooth_um: float = 0.0,
) -> None:
    """Write one annotation for each 4-connected area of a class, whole or not at all.

    Parameters
    ----------
    threshold : float
        Cells whose best class has a lower probability are left out.
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


def area_at(prediction: PredictionMap, place_px: tuple[float, float], threshold: float = 0.0) -> Polygon | None:
    """Give the 4-connected area of one class around a place, (y, x) level-0 pixels, as it is drawn on the slide.

    Cells below the threshold count as a class of their own; None where nothing is predicted.
    """
    from scipy import ndimage

    row, column = (int(prediction.grid.cells_at(axis, np.asarray([place]))[0]) for axis, place in enumerate(place_px))
    if min(row, column) < 0 or not prediction.predicted[row, column]:
        return None
    class_map = prediction.class_map(threshold)
    labels, _ = ndimage.label(prediction.predicted & (class_map == class_map[row, column]))
    rows, columns = ndimage.find_objects(labels)[labels[row, column] - 1]
    inside = labels[rows, columns] == labels[row, column]
    return _on_slide(_outline(inside), prediction.grid, rows.start, columns.start)


def _features(
    prediction: PredictionMap, threshold: float, colors: Mapping[str, Color], smooth_um: float
) -> Iterator[dict[str, Any]]:
    class_map = prediction.class_map(threshold)
    grid = prediction.grid
    pixel_mm2 = grid.mpp[0] * grid.mpp[1] * 1e-6 if grid.mpp else None
    for index, name in enumerate(prediction.classes):
        for count, (row, column, inside) in enumerate(_areas(class_map == index + 1)):
            rows, columns = (slice(start, start + n) for start, n in zip((row, column), inside.shape, strict=True))
            probability = prediction.probabilities[index, rows, columns][inside]
            polygon = _on_slide(_outline(inside), grid, row, column)
            measurements = {"Mean probability": float(probability.mean(dtype=np.float64))}
            if pixel_mm2 is not None:
                measurements["Area mm2"] = float(polygon.area * pixel_mm2)
            uid = uuid.uuid5(_NAMESPACE, f"{prediction.slide_id} {prediction.model_id} {threshold} {name} {count}")
            drawn = _smooth(polygon, grid.mpp, smooth_um) if grid.mpp else polygon
            yield feature(str(uid), drawn, name, colors.get(name), measurements)


def _smooth(polygon: Polygon, mpp: tuple[float, float], most_um: float) -> Polygon:
    """Leave out corners that lie within so many micrometres of the outline without them; it stays one valid polygon."""
    if not most_um:
        return polygon
    on_glass = shapely.transform(polygon, lambda points: points * mpp)
    smooth = shapely.simplify(on_glass, most_um, preserve_topology=True)
    return shapely.transform(smooth, lambda points: points / mpp)


def _areas(mask: NDArray[np.bool_]) -> Iterator[tuple[int, int, NDArray[np.bool_]]]:
    """Walk the 4-connected areas of a mask: first row, first column, and the area within its bounds."""
    from scipy import ndimage

    labels, _ = ndimage.label(mask)
    for index, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        yield rows.start, columns.start, labels[rows, columns] == index


def _outline(inside: NDArray[np.bool_]) -> Polygon:
    """The outline of a 4-connected area with its holes, (row, column) corners; one vertex at each turn."""
    edges = shapely.multilinestrings(list(np.concatenate([_edges(inside), _edges(inside.T)[:, :, ::-1]])))
    faces = shapely.get_parts(shapely.polygonize([edges]))
    row, column = np.argwhere(inside)[0]
    first = shapely.Point(row + 0.5, column + 0.5)
    polygon = next(face for face in faces if face.intersects(first))
    return Polygon(_turns(polygon.exterior), [_turns(ring) for ring in polygon.interiors])


def _edges(inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Where rows of an area end or begin, one unit of the border each: shape (N, 2, 2), from and to (row, column)."""
    around = np.pad(inside, ((1, 1), (0, 0)))
    row, column = np.nonzero(around[1:] != around[:-1])
    return np.stack([np.stack([row, column], axis=1), np.stack([row, column + 1], axis=1)], axis=1)


def _turns(ring: LinearRing) -> NDArray[np.float64]:
    points = np.asarray(shapely.get_coordinates(ring)[:-1])
    step = np.sign(np.roll(points, -1, axis=0) - points)
    turns: NDArray[np.float64] = points[(step != np.roll(step, 1, axis=0)).any(axis=1)]
    return turns


def _on_slide(polygon: Polygon, grid: Grid, row: int, column: int) -> Polygon:
    """Move from cells to level-0 pixels, cut at the slide's edge: only the outermost edges lie beyond it."""
    y, x = np.asarray(grid.cell_edges_px(0)), np.asarray(grid.cell_edges_px(1))

    def place(points: NDArray[np.float64]) -> NDArray[np.float64]:
        corners = points.astype(np.int64) + (row, column)  # noqa: RUF005
        return np.stack([y[corners[:, 0]], x[corners[:, 1]]], axis=1)

    return shapely.transform(polygon, place)
