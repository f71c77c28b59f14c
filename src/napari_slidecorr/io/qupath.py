"""The JSON that current QuPath writes for one object, shared by regions and maps. (y, x) becomes (x, y) here."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from napari_slidecorr.errors import RegionsError
from napari_slidecorr.io.atomic import atomic_file
from napari_slidecorr.regions import Region

Color = tuple[int, int, int]

_AT_ONCE = 250
"""Regions turned to text in one go, a few ms: the window's thread gets its turn in between."""

_LINES = 1000
"""Features of a map that are held as text."""


class Uids:
    """The ids of many objects, each that of `uuid.uuid5` for a common beginning and what follows; several times as fast.

    Parameters
    ----------
    namespace : UUID
    beginning : str
        Of all names.
    """

    def __init__(self, namespace: uuid.UUID, beginning: str) -> None:
        self._begun = hashlib.sha1(namespace.bytes + beginning.encode(), usedforsecurity=False)

    def __call__(self, rest: object) -> str:
        """Give the id of the name that ends like this."""
        whole = self._begun.copy()
        whole.update(str(rest).encode())
        digest = whole.hexdigest()
        variant = "89ab"[int(digest[16], 16) & 3]
        return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


def texts(numbers: Iterable[float]) -> list[str]:
    """Write numbers as JSON does, whole ones without a point: level-0 pixels are whole or halves."""
    return [str(int(number)) if float(number).is_integer() else repr(float(number)) for number in numbers]


def ring_text(points: Sequence[str]) -> str:
    """Close a ring of points that are text already."""
    return f"[{', '.join(points)}, {points[0]}]"


def properties_text(object_type: str, class_name: str, color: Color | None = None) -> tuple[str, str]:
    """Give the properties of an object in the structure of QuPath 0.4 and later, as text before and after measurements.

    Parameters
    ----------
    object_type : str
        ``annotation``, ``tile`` or ``detection``.
    class_name : str
        Empty for an object without a class.
    color : (int, int, int), optional
        0 to 255; QuPath takes its own when there is none.
    """
    told = json.dumps({"objectType": object_type, **_classification(class_name, color)})
    return f'{told[:-1]}, "measurements": ', "}"


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
            properties = json.dumps({"objectType": "annotation", **_classification(region.class_name, color)})
            uid = json.dumps(region.uid)
            yield f'{{"type": "Feature", "id": {uid}, "geometry": {geometry}, "properties": {properties}}}'


def _classification(class_name: str, color: Color | None) -> dict[str, Any]:
    return {"classification": {"name": class_name} | ({"color": list(color)} if color else {})} if class_name else {}


def write_features(path: Path, features: Iterable[str]) -> None:
    """Write features, each the text of one, as one collection, some at a time as they come, whole or not at all.

    Raises
    ------
    ProjectError
        If the file cannot be written.
    """
    rest = iter(features)
    with atomic_file(path) as file:
        file.write(b'{"type": "FeatureCollection", "features": [')
        comma = "\n"
        while some := list(islice(rest, _LINES)):
            file.write((comma + ",\n".join(some)).encode("ascii"))
            comma = ",\n"
        file.write(b"\n]}\n")
