"""Regions as Halo's ``.annotations``: a layer is a class. (x, y) of level-0 pixels is flipped here.

A region with ``NegativeROA`` is a hole of the regions of its layer in which it lies. Rectangles and ellipses are two
corners. Coordinates may be negative: Halo counts from where the slide's frame begins, not always from its first pixel.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from napari_slidecorr.io.region_holes import Hole, Layer, Outline
from napari_slidecorr.io.regions_file import Gathering, RegionsFile
from napari_slidecorr.io.regions_xml import ELLIPSE, bgr, box_ring, ellipse_ring, local_name, vertices, walk

if TYPE_CHECKING:
    from napari_slidecorr.slide import Slide

FORMAT = "Halo annotations"
NEGATIVE = "A region has negative coordinates: Halo's frame may begin elsewhere than the slide."

_NO_AREA = {"Pin", "Ruler", "Arrow", "Line"}


def read(path: Path, *, slide: Slide | None = None) -> RegionsFile:  # noqa: ARG001 - as every format
    """Read the polygons, rectangles and ellipses of a Halo file.

    Raises
    ------
    RegionsError
        If it is missing, not XML, cut short, or a coordinate is not a finite number.
    """
    gathering = Gathering(path, "region")
    layer, class_name, count = Layer(), "", 0
    for begins, element in walk(path, gathering, begin=("Annotation",), end=("Region", "Annotation")):
        if begins:
            layer, class_name = Layer(), element.attrib.get("Name", "").strip()
            if class_name and (color := bgr(element.attrib.get("LineColor"))):
                gathering.colors.setdefault(class_name, color)
        elif local_name(element) == "Annotation":
            layer.add_to(gathering)
        else:
            count += 1
            with gathering.item(count):
                _region(element, class_name, layer, gathering)
    return gathering.file(FORMAT)


def _region(element: Element, class_name: str, layer: Layer, gathering: Gathering) -> None:
    kind = element.attrib.get("Type", "Polygon")
    if kind in _NO_AREA:
        gathering.skipped[f"A {kind} was left out: it has no area."] += 1
        return
    if kind not in ("Polygon", "Rectangle", "Ellipse"):
        raise ValueError(f"its type is {kind!r}, which Halo does not have")
    ring = vertices(element, ("V", "Vertex"))
    if kind != "Polygon" and len(ring) < 2:
        raise ValueError(f"a {kind} has two corners")
    if kind == "Ellipse":
        gathering.notes[ELLIPSE] += 1
        ring = ellipse_ring(ring)
    elif kind == "Rectangle" and len(ring) == 2:
        ring = box_ring(ring)
    gathering.notes[NEGATIVE] += bool((ring < 0).any())
    if element.attrib.get("NegativeROA", "0") == "1":
        layer.holes.append(Hole(ring))
    elif polygons := gathering.polygons(ring):
        layer.outlines.append(Outline(class_name, polygons))
