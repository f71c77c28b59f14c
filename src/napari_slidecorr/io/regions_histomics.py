"""Regions as HistomicsUI and the Digital Slide Archive keep them (JSON): an element's group is its class, else its label.

Rectangles and ellipses are a centre, a width and a height, turned in the picture from x towards y by radians. (x, y) of
level-0 pixels is flipped here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_slidecorr.errors import RegionsError
from napari_slidecorr.io.regions_file import Color, Gathering, RegionsFile, Ring, ring
from napari_slidecorr.io.regions_text import read_text, walk_json
from napari_slidecorr.io.regions_xml import ELLIPSE, box_ring, ellipse

if TYPE_CHECKING:
    from napari_slidecorr.slide import Slide

FORMAT = "HistomicsUI JSON"

_NO_AREA = {"point", "arrow", "heatmap", "griddata", "image", "pixelmap", "rectanglegrid"}


def read(path: Path, *, slide: Slide | None = None) -> RegionsFile:  # noqa: ARG001 - as every format
    """Read the rectangles, circles, ellipses and closed polylines of one annotation document, or a list of them.

    Raises
    ------
    RegionsError
        If it is missing, not JSON, cut short, or an element cannot be understood.
    """
    gathering = Gathering(path, "element")
    for number, element in enumerate(_elements(path, gathering), 1):
        with gathering.item(number):
            _element(element, gathering)
    return gathering.file(FORMAT)


def _elements(path: Path, gathering: Gathering) -> Iterator[dict[str, Any]]:
    """Walk the elements; those of a bare annotation one by one, so that a large file is never in memory as a whole."""
    for in_list, item in walk_json(read_text(path, gathering), path.name, "elements"):
        if in_list and isinstance(item, dict) and isinstance(item.get("type"), str):
            yield item
            continue
        document = item.get("annotation", item) if isinstance(item, dict) else None
        elements = document.get("elements") if isinstance(document, dict) else None
        if not isinstance(elements, list):
            raise RegionsError(f"{path.name}: this JSON has no elements as HistomicsUI writes them; export it again.")
        yield from elements


def _element(element: dict[str, Any], gathering: Gathering) -> None:
    kind = element["type"]
    holes: list[Ring] = []
    if kind == "polyline":
        outline = ring(element["points"])
        holes = [ring(hole) for hole in element.get("holes") or ()]
        if not (element.get("closed") or (len(outline) > 3 and np.array_equal(outline[0], outline[-1]))):
            gathering.skipped["An open polyline was left out: it has no area."] += 1
            return
    elif kind in ("rectangle", "circle", "ellipse"):
        outline = _shape(kind, element)
        gathering.notes[ELLIPSE] += kind != "rectangle"
    elif kind in _NO_AREA:
        gathering.skipped[f"A {kind} was left out: it has no outline."] += 1
        return
    else:
        raise ValueError(f"its type is {kind!r}, which HistomicsUI does not have")
    if polygons := gathering.polygons(outline, holes):
        name = _class_name(element)
        if name and (color := _color(element.get("lineColor"))):
            gathering.colors.setdefault(name, color)
        gathering.add(name, polygons, element.get("id"))


def _shape(kind: str, element: dict[str, Any]) -> Ring:
    (center,) = ring([element["center"]])
    if kind == "circle":
        size = np.full(2, 2 * float(element["radius"]))
    else:
        size = np.array([float(element["height"]), float(element["width"])])
    if not (np.isfinite(size).all() and (size >= 0).all()):
        raise ValueError("its size is not a number")
    around = ellipse(np.zeros(2), size / 2) if kind != "rectangle" else box_ring(np.stack([-size / 2, size / 2]))
    turn = float(element.get("rotation") or 0)
    y, x = around.T
    turned = np.stack([x * np.sin(turn) + y * np.cos(turn), x * np.cos(turn) - y * np.sin(turn)], axis=1)
    return np.asarray(center + (turned if turn else around))


def _class_name(element: dict[str, Any]) -> str:
    label = element.get("label")
    names = (element.get("group"), label.get("value") if isinstance(label, dict) else label)
    return next((name.strip() for name in names if isinstance(name, str) and name.strip()), "")


def _color(text: Any) -> Color | None:
    """A colour as CSS writes it: ``#RGB``, ``#RRGGBB`` or ``rgb(r, g, b)``."""
    if not isinstance(text, str):
        return None
    if found := re.fullmatch(r"rgba?\(\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*(?:,[^)]*)?\)", text.strip()):
        red, green, blue = (min(255, int(part)) for part in found.groups())
        return red, green, blue
    if found := re.fullmatch("#([0-9a-fA-F]{3}|[0-9a-fA-F]{6})", text.strip()):
        digits = found[1] if len(found[1]) == 6 else "".join(2 * digit for digit in found[1])
        return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)
    return None
