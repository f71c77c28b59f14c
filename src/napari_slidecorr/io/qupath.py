"""The JSON that current QuPath writes for one object, shared by regions and maps. (y, x) becomes (x, y) here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from shapely import Polygon

from napari_slidecorr.io.atomic import atomic_file

Color = tuple[int, int, int]


def feature(
    uid: str,
    polygon: Polygon,
    class_name: str,
    color: Color | None = None,
    measurements: Mapping[str, float] | None = None,
    *,
    object_type: str = "annotation",
) -> dict[str, Any]:
    """Give a GeoJSON Feature of a (y, x) polygon in the structure of QuPath 0.4 and later.

    Parameters
    ----------
    class_name : str
        Empty for an object without a class.
    color : (int, int, int), optional
        0 to 255; QuPath takes its own when there is none.
    object_type : str
        ``annotation``, ``tile`` or ``detection``.
    """
    properties: dict[str, Any] = {"objectType": object_type}
    if class_name:
        properties["classification"] = {"name": class_name} | ({"color": list(color)} if color else {})
    if measurements:
        properties["measurements"] = dict(measurements)
    rings = [_flipped(ring.coords) for ring in (polygon.exterior, *polygon.interiors)]
    return {
        "type": "Feature",
        "id": uid,
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": properties,
    }


def _flipped(coords: Any) -> list[list[float]]:
    return [[float(point[1]), float(point[0])] for point in coords]


def write_features(path: Path, features: Iterable[Mapping[str, Any]]) -> None:
    """Write features as one collection, one after the other as they come, whole or not at all.

    Raises
    ------
    ProjectError
        If the file cannot be written.
    """
    with atomic_file(path) as file:
        file.write(b'{"type": "FeatureCollection", "features": [')
        comma = b"\n"
        for item in features:
            file.write(comma + json.dumps(item, allow_nan=False).encode("ascii"))
            comma = b",\n"
        file.write(b"\n]}\n")
