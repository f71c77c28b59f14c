"""Regions as GeoJSON, read as QuPath and others write it, written as current QuPath does. (x, y) is flipped here.

What decides the class of a feature: ``properties.classification`` (its ``name``, or its ``names`` joined by ``": "``).
Where *no* feature of a file has one, ``properties.name`` and then ``properties.label`` stand for it, which is what dlup
and the Digital Slide Archive write; else the region is kept without a class.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from shapely import Polygon

from napari_slidecorr.errors import RegionsError
from napari_slidecorr.io.atomic import atomic_write_text
from napari_slidecorr.io.qupath import Color, feature_lines
from napari_slidecorr.io.regions_file import CLOSED, Gathering, RegionsFile, Ring, ring
from napari_slidecorr.io.regions_text import read_text, walk_json
from napari_slidecorr.regions import RegionSet

if TYPE_CHECKING:
    from napari_slidecorr.slide import Slide

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
_CLASS_KEYS = ("classification", "name", "label")

NAMED = "The class was taken from the name, because nothing in the file has a class."
SCALED = "The class carries a scale, which was not applied: coordinates were taken as level-0 pixels."
FORMAT = "GeoJSON"
"""What is told to be the format, since QuPath's and others' cannot be told apart with certainty."""


class _Thing(NamedTuple):
    """A feature with an area: what may be its class, its polygons and its id."""

    names: tuple[str, ...]
    polygons: list[Polygon]
    uid: Any


def read(path: Path, *, slide: Slide | None = None) -> RegionsFile:  # noqa: ARG001 - as every format
    """Read the polygons of a GeoJSON file, feature by feature.

    Parameters
    ----------
    path : Path
        A FeatureCollection, an array of Features, a bare Feature or a bare geometry.
    slide : Slide, optional
        Not needed: coordinates are level-0 pixels.

    Returns
    -------
    RegionsFile
        A MultiPolygon becomes several regions with the uids ``<uid>/0``, ``<uid>/1`` and so on.

    Raises
    ------
    RegionsError
        If the file is missing, empty, cut short, not GeoJSON, or a coordinate is not a finite number.
    """
    gathering = Gathering(path, "feature")
    things: list[_Thing] = []
    for number, item in enumerate(_with_children(_features(path, gathering)), 1):
        with gathering.item(number):
            _note_color(item, gathering)
            if thing := _thing(item, gathering):
                things.append(thing)
    key = _class_key(things)
    for thing in things:
        name = thing.names[key]
        gathering.notes[NAMED] += bool(name and key)
        gathering.add(name, thing.polygons, thing.uid)
    return gathering.file(FORMAT)


def write(path: Path, regions: RegionSet, *, colors: Mapping[str, Color] | None = None) -> None:
    """Write a FeatureCollection in the structure of current QuPath, whole or not at all.

    Raises
    ------
    ProjectError
        If the file cannot be written.
    """
    lines = ",\n".join(feature_lines(regions, colors))
    atomic_write_text(path, f'{{"type": "FeatureCollection", "features": [\n{lines}\n]}}\n')


def _features(path: Path, gathering: Gathering) -> Iterator[dict[str, Any]]:
    """Walk the features of a file one by one, so that a large one is never in memory as a whole."""
    for in_list, item in walk_json(read_text(path, gathering), path.name, "features"):
        value = {"type": "Feature", "geometry": item} if not in_list and _is_geometry(item) else item
        if not isinstance(value, dict) or value.get("type") != "Feature":
            raise RegionsError(f"{path.name}: this JSON is not GeoJSON; export the annotations as GeoJSON from QuPath.")
        yield value


def _with_children(items: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Walk the features and those inside of them: QuPath nests the objects of a hierarchy in ``childObjects``."""
    for item in items:
        yield item
        properties = _properties(item)
        children = properties.get("childObjects") or properties.get("children")
        if isinstance(children, list):
            yield from _with_children([child for child in children if isinstance(child, dict)])


def _thing(item: dict[str, Any], gathering: Gathering) -> _Thing | None:
    if reason := _why_not(item):
        gathering.skipped[reason] += 1
        return None
    geometry = item["geometry"]
    multi = geometry["type"] == "MultiPolygon"
    polygons = [
        part
        for rings in (geometry["coordinates"] if multi else [geometry["coordinates"]])
        for part in _polygons(rings, gathering)
    ]
    properties = _properties(item)
    if isinstance(properties.get("classification"), dict) and "scale" in properties["classification"]:
        gathering.notes[SCALED] += 1
    uid = item.get("id") or properties.get("id")
    uid = None if str(uid) in _TYPE_NAMES else uid
    return _Thing(tuple(_class_name(item, key) for key in _CLASS_KEYS), polygons, uid)


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


def _polygons(rings: Any, gathering: Gathering) -> list[Polygon]:
    """Make (y, x) polygons of the (x, y) rings of one GeoJSON polygon; mended where they cross themselves."""
    arrays = [ring(points) for points in rings] or [ring([])]
    gathering.repaired[CLOSED] += sum(len(one) > 2 and not _is_closed(one) for one in arrays)
    return gathering.polygons(arrays[0], arrays[1:])


def _is_closed(array: Ring) -> bool:
    return bool(np.array_equal(array[0], array[-1]))


def _is_geometry(value: Any) -> bool:
    return isinstance(value, dict) and value.get("type") in _GEOMETRIES


def _class_key(things: list[_Thing]) -> int:
    """Which of the names is the class: the first kind that any feature has."""
    return next((key for key in range(len(_CLASS_KEYS)) if any(thing.names[key] for thing in things)), 0)


def _class_name(item: dict[str, Any], key: str) -> str:
    value = _properties(item).get(key)
    if isinstance(value, dict):
        names = value.get("names")
        value = ": ".join(map(str, names)) if isinstance(names, list) else value.get("name")
    return value if isinstance(value, str) else ""


def _properties(item: dict[str, Any]) -> dict[str, Any]:
    properties = item.get("properties")
    return properties if isinstance(properties, dict) else {}


def _note_color(item: dict[str, Any], gathering: Gathering) -> None:
    told = _properties(item).get("classification")
    if isinstance(told, dict) and (name := _class_name(item, "classification")) and (color := _color(told)):
        gathering.colors.setdefault(name, color)


def _color(classification: dict[str, Any]) -> Color | None:
    """The colour of a class: a list of three, or the signed 32-bit integer of QuPath up to 0.3."""
    color, packed = classification.get("color"), classification.get("colorRGB")
    if isinstance(color, list) and len(color) == 3 and all(isinstance(c, int) and 0 <= c <= 255 for c in color):
        return color[0], color[1], color[2]
    if isinstance(packed, int):
        return packed >> 16 & 255, packed >> 8 & 255, packed & 255
    return None
