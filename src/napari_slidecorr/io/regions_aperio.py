"""Regions as Aperio ImageScope's XML: a layer is a class. (x, y) of level-0 pixels is flipped here.

A region with ``NegativeROA`` is a hole of the regions of its layer in which it lies; where ``InputRegionId`` names one of
them, of that one alone. The class is the layer's ``Name``, else the name or value of its attribute (``Description`` is
ImageScope's own word for that field); where no layer has any, the text of each region stands for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

from napari_slidecorr.io.atomic import atomic_file
from napari_slidecorr.io.region_holes import Hole, Layer, Outline
from napari_slidecorr.io.regions_file import Color, Gathering, RegionsFile, Ring
from napari_slidecorr.io.regions_xml import ELLIPSE, attribute, bgr, box_ring, ellipse_ring, local_name, vertices, walk
from napari_slidecorr.regions import RegionSet

if TYPE_CHECKING:
    from napari_slidecorr.slide import Slide

FORMAT = "Aperio ImageScope XML"
NAMED = "The class was taken from the region's text, because no layer of the file has a name."

_GENERIC = {"", "Description"}
_RECTANGLE, _ELLIPSE = "1", "2"
_NO_AREA = {"3": "An arrow", "4": "A ruler"}
_UID = "uid"
_UID_ID = "1"
_DEFAULT_COLOR = (255, 255, 0)


@dataclass
class _Open:
    """A layer that is being read, with the text of each of its regions."""

    class_name: str
    color: Color | None
    layer: Layer = field(default_factory=Layer)
    texts: list[str] = field(default_factory=list)
    uid_column: str = ""


def read(path: Path, *, slide: Slide | None = None) -> RegionsFile:  # noqa: ARG001 - as every format
    """Read the regions of an ImageScope file: outlines, rectangles and ellipses.

    Raises
    ------
    RegionsError
        If it is missing, not XML, cut short, or a coordinate is not a finite number.
    """
    gathering = Gathering(path, "region")
    layers: list[_Open] = []
    count = 0
    for begins, element in walk(
        path, gathering, begin=("Annotation",), end=("AttributeHeader", "Region", "Annotation")
    ):
        name = local_name(element)
        if begins:
            layers.append(_Open(element.attrib.get("Name", "").strip(), bgr(element.attrib.get("LineColor"))))
        elif name == "Annotation":
            layers[-1].class_name = layers[-1].class_name or _attribute_class(element)
        elif name == "AttributeHeader" and element.attrib.get("Name") == _UID:
            layers[-1].uid_column = element.attrib.get("Id", "")
        elif name == "Region":
            count += 1
            with gathering.item(count):
                _region(element, layers[-1], gathering)
    _finish(layers, gathering)
    return gathering.file(FORMAT)


def write(path: Path, regions: RegionSet, *, colors: Mapping[str, Color] | None = None) -> None:
    """Write regions for ImageScope, a layer a class, whole or not at all; holes are regions with ``NegativeROA``.

    Raises
    ------
    ProjectError
        If the file cannot be written.
    """
    with atomic_file(path) as file:
        for line in _lines(regions, colors or {}):
            file.write((line + "\n").encode("utf-8"))


def _attribute_class(annotation: Element) -> str:
    """The class of a layer without a name: what its attribute is called, else what it is set to."""
    found = annotation.findall("{*}Attributes/{*}Attribute")
    for key in ("Name", "Value"):
        for one in found:
            if (name := one.attrib.get(key, "").strip()) not in _GENERIC:
                return name
    return ""


def _region(element: Element, layer: _Open, gathering: Gathering) -> None:
    kind = element.attrib.get("Type", "0")
    if kind in _NO_AREA:
        gathering.skipped[f"{_NO_AREA[kind]} was left out: it has no area."] += 1
        return
    ring = vertices(element, ("Vertex", "V"))
    if kind == _ELLIPSE:
        gathering.notes[ELLIPSE] += 1
        ring = ellipse_ring(_corners(ring))
    elif kind == _RECTANGLE and len(ring) == 2:
        ring = box_ring(ring)
    if element.attrib.get("NegativeROA", "0") == "1":
        of = element.attrib.get("InputRegionId", "0")
        layer.layer.holes.append(Hole(ring, "" if of == "0" else of))
    elif polygons := gathering.polygons(ring):
        outline = Outline("", polygons, _uid(element, layer.uid_column), element.attrib.get("Id", ""))
        layer.layer.outlines.append(outline)
        layer.texts.append(element.attrib.get("Text", "").strip())


def _corners(ring: Ring) -> Ring:
    if len(ring) < 2:
        raise ValueError("an ellipse has two corners")
    return ring


def _uid(element: Element, column: str) -> str | None:
    found = element.findall("{*}Attributes/{*}Attribute") if column else []
    return next((one.attrib.get("Value") for one in found if one.attrib.get("Name") == column), None)


def _finish(layers: list[_Open], gathering: Gathering) -> None:
    """Give the regions their classes, now that the names of all layers are known."""
    named = any(layer.class_name for layer in layers)
    for layer in layers:
        for outline, text in zip(layer.layer.outlines, layer.texts, strict=True):
            outline.class_name = layer.class_name if named else text
            gathering.notes[NAMED] += bool(text) and not named
        if layer.class_name and layer.color:
            gathering.colors.setdefault(layer.class_name, layer.color)
        layer.layer.add_to(gathering)


def _lines(regions: RegionSet, colors: Mapping[str, Color]) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="UTF-8"?>'
    yield '<Annotations MicronsPerPixel="0">'
    for number, name in enumerate(dict.fromkeys(region.class_name for region in regions), 1):
        red, green, blue = colors.get(name, _DEFAULT_COLOR)
        yield (
            f'\t<Annotation Id="{number}" Name={attribute(name)} ReadOnly="0" Incremental="0" Type="4" '
            f'LineColor="{red + (green << 8) + (blue << 16)}" Visible="1" Selected="0">\n\t\t<Attributes />\n\t\t<Regions>'
        )
        yield (
            f'\t\t\t<RegionAttributeHeaders>\n\t\t\t\t<AttributeHeader Id="{_UID_ID}" Name="{_UID}" ColumnWidth="-1" />'
            "\n\t\t\t</RegionAttributeHeaders>"
        )
        yield from _class_regions(regions, name)
        yield "\t\t</Regions>\n\t\t<Plots />\n\t</Annotation>"
    yield "</Annotations>"


def _class_regions(regions: RegionSet, name: str) -> Iterator[str]:
    last = 0
    for region in regions.of_class(name):
        last = own = last + 1
        yield from _outline(own, 0, region.uid, region.polygon.exterior.coords)
        for ring in region.polygon.interiors:
            last += 1
            yield from _outline(last, own, "", ring.coords)


def _outline(number: int, hole_of: int, uid: str, coords: Any) -> Iterator[str]:
    yield (
        f'\t\t\t<Region Id="{number}" Type="0" Zoom="1" Selected="0" ImageLocation="" ImageFocus="-1" Text="" '
        f'NegativeROA="{int(hole_of > 0)}" InputRegionId="{hole_of}" Analyze="1" DisplayId="{number}">'
    )
    told = f'<Attribute Name="{_UID_ID}" Id="0" Value={attribute(uid)} />' if uid else ""
    yield f"\t\t\t\t<Attributes>{told}</Attributes>\n\t\t\t\t<Vertices>"
    for y, x in list(coords)[:-1]:
        yield f'\t\t\t\t\t<Vertex X="{float(x)!r}" Y="{float(y)!r}" Z="0" />'
    yield "\t\t\t\t</Vertices>\n\t\t\t</Region>"
