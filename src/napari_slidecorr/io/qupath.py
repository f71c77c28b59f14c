"""The JSON that current QuPath writes for one object, shared by regions and maps. (y, x) becomes (x, y) here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely import Polygon

from napari_slidecorr.errors import RegionsError
from napari_slidecorr.io.atomic import atomic_file
from napari_slidecorr.regions import Region

Color = tuple[int, int, int]

_AT_ONCE = 250
"""Regions turned to text in one go, a few ms: the window's thread gets its turn in between."""


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


def feature_lines(regions: Iterable[Region], colors: Mapping[str, Color] | None = None) -> Iterator[str]:
    """Give the text of `feature` for each region, one line each; for thousands of regions ten times as fast.

    Raises
    ------
    RegionsError
        If a corner is not a finite number.
    """
    rest = iter(regions)
    while some := list(islice(rest, _AT_ONCE)):
        polygons = np.array([region.polygon for region in some], dtype=object)
        if not np.isfinite(shapely.get_coordinates(polygons)).all():
            raise RegionsError("A corner of a region is not a finite number; draw the region anew.")
        flipped = shapely.transform(polygons, lambda corners: corners[:, ::-1])
        for region, geometry in zip(some, shapely.to_geojson(flipped), strict=True):
            color = (colors or {}).get(region.class_name)
            properties = json.dumps(_annotation(region.class_name, color))
            uid = json.dumps(region.uid)
            yield f'{{"type": "Feature", "id": {uid}, "geometry": {geometry}, "properties": {properties}}}'


def _annotation(class_name: str, color: Color | None) -> dict[str, Any]:
    told = {"classification": {"name": class_name} | ({"color": list(color)} if color else {})} if class_name else {}
    return {"objectType": "annotation", **told}


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
