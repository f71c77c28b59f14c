"""Regions as ASAP's XML: a group is a class. (x, y) of level-0 pixels is flipped here.

ASAP knows no holes. What is written here keeps each as an annotation of the group ``<class> (holes)``, a part of the
class's group, and is read back so; files of other programs are read with the same rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from napari_slidecorr.io.atomic import atomic_file
from napari_slidecorr.io.region_holes import Hole, Layer, Outline
from napari_slidecorr.io.regions_file import Color, Gathering, RegionsFile
from napari_slidecorr.io.regions_xml import attribute, box_ring, vertices, walk
from napari_slidecorr.regions import Region, RegionSet

if TYPE_CHECKING:
    from napari_slidecorr.slide import Slide

FORMAT = "ASAP XML"
SPLINE = "A spline was read as the polygon of its points."
HOLES = " (holes)"

_NO_GROUP = "None"
_NO_AREA = {"Dot", "PointSet", "Measurement"}
_NUMBERED = re.compile(r"(Annotation \d+)?")
_HOLE_OF = re.compile(r"(.*) hole \d+", re.DOTALL)
_DEFAULT_COLOR = "#F4FA58"


def read(path: Path, *, slide: Slide | None = None) -> RegionsFile:  # noqa: ARG001 - as every format
    """Read the polygons, splines and rectangles of an ASAP file.

    Raises
    ------
    RegionsError
        If it is missing, not XML, cut short, or a coordinate is not a finite number.
    """
    gathering = Gathering(path, "annotation")
    layer, count = Layer(), 0
    for _, element in walk(path, gathering, begin=(), end=("Annotation", "Group")):
        if element.tag == "Group":
            _note_color(element, gathering)
            continue
        count += 1
        with gathering.item(count):
            _annotation(element, layer, gathering)
    layer.add_to(gathering)
    return gathering.file(FORMAT)


def write(path: Path, regions: RegionSet, *, colors: Mapping[str, Color] | None = None) -> None:
    """Write regions for ASAP, whole or not at all; a hole is an annotation of the group ``<class> (holes)``.

    Raises
    ------
    ProjectError
        If the file cannot be written.
    """
    with atomic_file(path) as file:
        for line in _lines(regions, colors or {}):
            file.write((line + "\n").encode("utf-8"))


def _annotation(element: Element, layer: Layer, gathering: Gathering) -> None:
    kind, group = element.attrib.get("Type", "Polygon"), element.attrib.get("PartOfGroup", _NO_GROUP)
    if kind in _NO_AREA:
        gathering.skipped[f"A {kind} was left out: it has no area."] += 1
        return
    if kind not in ("Polygon", "Spline", "Rectangle"):
        raise ValueError(f"its type is {kind!r}, which ASAP does not have")
    ring = vertices(element, ("Coordinate",))
    name = element.attrib.get("Name", "")
    if group.endswith(HOLES):
        told = _HOLE_OF.fullmatch(name)
        of = group.removesuffix(HOLES)
        layer.holes.append(Hole(ring, told[1] if told else "", "" if of == _NO_GROUP else of))
        return
    gathering.notes[SPLINE] += kind == "Spline"
    polygons = gathering.polygons(box_ring(ring) if kind == "Rectangle" and len(ring) == 2 else ring)
    if polygons:
        uid = None if _NUMBERED.fullmatch(name) else name
        layer.outlines.append(Outline("" if group == _NO_GROUP else group, polygons, uid, name))


def _note_color(element: Element, gathering: Gathering) -> None:
    name, color = element.attrib.get("Name", ""), element.attrib.get("Color", "")
    if name and not name.endswith(HOLES) and re.fullmatch("#[0-9a-fA-F]{6}", color):
        gathering.colors.setdefault(name, (int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)))


def _lines(regions: RegionSet, colors: Mapping[str, Color]) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="UTF-8"?>'
    yield "<ASAP_Annotations>\n\t<Annotations>"
    for region in regions:
        yield from _region(region, _hex(colors.get(region.class_name)))
    yield "\t</Annotations>\n\t<AnnotationGroups>"
    with_holes = {region.class_name for region in regions if region.polygon.interiors}
    for name in regions.classes:
        yield _group(name, _NO_GROUP, _hex(colors.get(name)))
    for name in dict.fromkeys(region.class_name for region in regions):
        if name in with_holes:
            yield _group((name or _NO_GROUP) + HOLES, name or _NO_GROUP, "#000000")
    yield "\t</AnnotationGroups>\n</ASAP_Annotations>"


def _region(region: Region, color: str) -> Iterator[str]:
    group = region.class_name or _NO_GROUP
    yield from _polygon(region.uid, group, color, region.polygon.exterior.coords)
    for number, ring in enumerate(region.polygon.interiors, 1):
        yield from _polygon(f"{region.uid} hole {number}", group + HOLES, "#000000", ring.coords)


def _polygon(name: str, group: str, color: str, coords: object) -> Iterator[str]:
    yield (
        f'\t\t<Annotation Name={attribute(name)} Type="Polygon" PartOfGroup={attribute(group)} Color="{color}">'
        "\n\t\t\t<Coordinates>"
    )
    for order, (y, x) in enumerate(list(coords)[:-1]):  # type: ignore[call-overload]
        yield f'\t\t\t\t<Coordinate Order="{order}" X="{float(x)!r}" Y="{float(y)!r}" />'
    yield "\t\t\t</Coordinates>\n\t\t</Annotation>"


def _group(name: str, parent: str, color: str) -> str:
    return (
        f'\t\t<Group Name={attribute(name)} PartOfGroup={attribute(parent)} Color="{color}">'
        "\n\t\t\t<Attributes />\n\t\t</Group>"
    )


def _hex(color: Color | None) -> str:
    return "#{:02X}{:02X}{:02X}".format(*color) if color else _DEFAULT_COLOR
