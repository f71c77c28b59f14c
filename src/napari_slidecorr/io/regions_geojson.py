"""Regions as GeoJSON, read as QuPath and others write it, written as current QuPath does. (x, y) is flipped here.

What decides the class of a feature: ``properties.classification`` (its ``name``, or its ``names`` joined by ``": "``).
Where *no* feature of a file has one, ``properties.name`` and then ``properties.label`` stand for it, which is what dlup
and the Digital Slide Archive write; else the region is kept without a class.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from shapely import Polygon

from napari_slidecorr.errors import RegionsError
from napari_slidecorr.io.atomic import atomic_write_text
from napari_slidecorr.io.qupath import Color, feature
from napari_slidecorr.regions import Region, RegionSet, valid_polygons

_GEOMETRIES = ("Polygon", "MultiPolygon", "Point", "MultiPoint", "LineString", "MultiLineString", "GeometryCollection")
_TYPE_NAMES = {
    "PathAnnotationObject": "annotation",
    "PathRootObject": "root",
    "PathCellObject": "cell",
    "PathDetectionObject": "detection",
    "PathTileObject": "tile",
    "TMACoreObject": "tma_core",
}
"""What QuPath up to 0.3 wrote as the id of every object, and the ``objectType`` that says the same today."""

_NO_REGIONS = {"root", "cell", "detection", "tile", "tma_core", "tmaCore"}

_NAMESPACE = uuid.UUID("5b0a0c0e-4a0f-4c62-9d0f-8f2d3a1c7e55")

REPAIRED = "An outline crossed itself and was repaired."
NAMED = "The class was taken from the name, because nothing in the file has a class."
SCALED = "The class carries a scale, which was not applied: coordinates were taken as level-0 pixels."


def read(path: Path) -> tuple[RegionSet, dict[str, int]]:
    """Read the polygons of a GeoJSON file.

    Parameters
    ----------
    path : Path
        A FeatureCollection, an array of Features, a bare Feature or a bare geometry.

    Returns
    -------
    regions : RegionSet
        A MultiPolygon becomes several regions with the uids ``<uid>/0``, ``<uid>/1`` and so on.
    skipped : dict of str to int
        A sentence for each kind of thing that was left out or changed, and how often.

    Raises
    ------
    RegionsError
        If the file is missing, empty, cut short, not GeoJSON, or a coordinate is not a finite number.
    """
    found, told = _Uids(), Counter[str]()
    regions: list[Region] = []
    features = _features(path)
    key = _class_key(features)
    for index, item in enumerate(features):
        try:
            regions.extend(_regions(item, key, found, told))
        except (ValueError, TypeError, IndexError) as error:
            raise RegionsError(f"{path.name}: feature {index + 1} cannot be understood: {error}.") from error
    return RegionSet(tuple(regions)), dict(told)


def write(path: Path, regions: RegionSet, *, colors: Mapping[str, Color] | None = None) -> None:
    """Write a FeatureCollection in the structure of current QuPath, whole or not at all.

    Raises
    ------
    ProjectError
        If the file cannot be written.
    """
    features = [
        feature(region.uid, region.polygon, region.class_name, (colors or {}).get(region.class_name))
        for region in regions
    ]
    lines = ",\n".join(json.dumps(item, allow_nan=False) for item in features)
    atomic_write_text(path, f'{{"type": "FeatureCollection", "features": [\n{lines}\n]}}\n')


def class_colors(path: Path) -> dict[str, Color]:
    """Read the colours that a file gives to its classes; both of QuPath's forms, the first one of each class.

    Raises
    ------
    RegionsError
        As `read`.
    """
    out: dict[str, Color] = {}
    for item in _features(path):
        told = _properties(item).get("classification")
        if isinstance(told, dict) and (name := _class_name(item, "classification")) and (color := _color(told)):
            out.setdefault(name, color)
    return out


class _Uids:
    """Hands out uids: the file's own where they are unique, else ones made from what the region is."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, wanted: Any, content: str) -> str:
        uid = wanted if isinstance(wanted, str) and wanted and wanted not in _TYPE_NAMES else self._of(content)
        again = 0
        while uid in self._taken:
            again += 1
            uid = self._of(f"{content} {again}")
        self._taken.add(uid)
        return uid

    @staticmethod
    def _of(content: str) -> str:
        return str(uuid.uuid5(_NAMESPACE, content))


def _features(path: Path) -> list[dict[str, Any]]:
    data = _json(path)
    items = data
    if isinstance(data, dict):
        kind = data.get("type")
        if kind == "FeatureCollection":
            items = data.get("features")
        elif kind == "Feature":
            items = [data]
        elif kind in _GEOMETRIES:
            items = [{"type": "Feature", "geometry": data}]
    if not isinstance(items, list) or not all(
        isinstance(item, dict) and item.get("type") == "Feature" for item in items
    ):
        raise RegionsError(f"{path.name}: this JSON is not GeoJSON; export the annotations as GeoJSON from QuPath.")
    return list(_with_children(items))


def _with_children(items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Walk the features and those inside of them: QuPath nests the objects of a hierarchy in ``childObjects``."""
    for item in items:
        yield item
        properties = _properties(item)
        children = properties.get("childObjects") or properties.get("children")
        if isinstance(children, list):
            yield from _with_children([child for child in children if isinstance(child, dict)])


def _json(path: Path) -> Any:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RegionsError(f"{path}: cannot be read ({error.strerror}); choose another file.") from error
    except UnicodeDecodeError as error:
        raise RegionsError(f"{path.name}: not a text file; choose a GeoJSON file.") from error
    if not text.strip():
        raise RegionsError(f"{path.name}: the file is empty; export it again.")
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise RegionsError(
            f"{path.name}: not JSON, or cut short ({error.msg} in line {error.lineno}); export it again."
        ) from error
    except (ValueError, RecursionError) as error:
        raise RegionsError(f"{path.name}: cannot be understood ({error}); export it again.") from error


def _no_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a finite number")


def _regions(item: dict[str, Any], key: str, found: _Uids, told: Counter[str]) -> Iterator[Region]:
    if reason := _why_not(item):
        told[reason] += 1
        return
    geometry = item["geometry"]
    multi = geometry["type"] == "MultiPolygon"
    polygons = [
        part
        for rings in (geometry["coordinates"] if multi else [geometry["coordinates"]])
        for part in _polygons(rings, told)
    ]
    name = _class_name(item, key)
    if name and key != "classification":
        told[NAMED] += 1
    if isinstance(_properties(item).get("classification"), dict) and "scale" in _properties(item)["classification"]:
        told[SCALED] += 1
    content = name + "".join(polygon.wkt for polygon in polygons)
    uid = found.take(item.get("id"), content)
    for index, polygon in enumerate(polygons):
        own = uid if len(polygons) == 1 else found.take(f"{uid}/{index}", content)
        yield Region(name, polygon, own)


def _why_not(item: dict[str, Any]) -> str:
    """Say why a feature is no region; empty if it is one."""
    geometry = item.get("geometry")
    if not isinstance(geometry, dict):
        return "A feature without a geometry was left out."
    kind = _properties(item).get("objectType") or _TYPE_NAMES.get(str(item.get("id")), "annotation")
    if kind in _NO_REGIONS or "nucleusGeometry" in item:
        return f"A {'cell' if 'nucleusGeometry' in item else kind} was left out: only annotations are regions."
    if geometry.get("type") not in ("Polygon", "MultiPolygon"):
        return f"A {geometry.get('type')} was left out: it has no area."
    plane = geometry.get("plane") or {}
    if plane.get("z") or plane.get("t"):
        return "An annotation on another z plane or time point was left out."
    return ""


def _polygons(rings: Any, told: Counter[str]) -> list[Polygon]:
    """Make (y, x) polygons of the (x, y) rings of one GeoJSON polygon; repaired if it crosses itself."""
    arrays = [_ring(ring) for ring in rings]
    if not arrays or len(arrays[0]) < 3:
        told["An outline with fewer than three corners was left out."] += 1
        return []
    polygon = Polygon(arrays[0], [hole for hole in arrays[1:] if len(hole) >= 3])
    parts = valid_polygons(polygon)
    if not parts:
        told["An outline without an area was left out."] += 1
    elif parts[0] is not polygon:
        told[REPAIRED] += 1
    return parts


def _ring(points: Any) -> Any:
    if not points:
        return np.zeros((0, 2))
    ring = np.asarray([[point[1], point[0]] for point in points], float)
    if not np.isfinite(ring).all():
        raise ValueError("a coordinate is not a finite number")
    return ring


def _class_key(features: list[dict[str, Any]]) -> str:
    for key in ("classification", "name", "label"):
        if any(_class_name(item, key) for item in features):
            return key
    return "classification"


def _class_name(item: dict[str, Any], key: str) -> str:
    value = _properties(item).get(key)
    if isinstance(value, dict):
        names = value.get("names")
        value = ": ".join(map(str, names)) if isinstance(names, list) else value.get("name")
    return value if isinstance(value, str) else ""


def _properties(item: dict[str, Any]) -> dict[str, Any]:
    properties = item.get("properties")
    return properties if isinstance(properties, dict) else {}


def _color(classification: dict[str, Any]) -> Color | None:
    """The colour of a class: a list of three, or the signed 32-bit integer of QuPath up to 0.3."""
    color, packed = classification.get("color"), classification.get("colorRGB")
    if isinstance(color, list) and len(color) == 3 and all(isinstance(c, int) and 0 <= c <= 255 for c in color):
        return color[0], color[1], color[2]
    if isinstance(packed, int):
        return packed >> 16 & 255, packed >> 8 & 255, packed & 255
    return None
