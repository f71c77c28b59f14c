"""Regions as Hamamatsu's NDPA: the title is the class. Nanometres from the glass slide's centre become pixels here."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

import numpy as np

from napari_slidecorr.errors import RegionsError
from napari_slidecorr.io.regions_file import Gathering, RegionsFile, Ring
from napari_slidecorr.io.regions_xml import ELLIPSE, ellipse, walk

if TYPE_CHECKING:
    from napari_slidecorr.slide import Slide

FORMAT = "Hamamatsu NDPA"

_NM = 1000.0
"""Nanometres per micrometre."""


def read(path: Path, *, slide: Slide | None = None) -> RegionsFile:
    """Read the closed outlines and circles of an NDPA file.

    Parameters
    ----------
    slide : Slide
        The NDPI file that was annotated: its pixel size, shape and place on the glass turn nanometres into pixels.

    Raises
    ------
    RegionsError
        If there is no slide, or not one that tells where it lies on the glass; if the file is missing, not XML, cut
        short, or not in nanometres.
    """
    to_pixels, scale = _to_pixels(path, slide)
    gathering = Gathering(path, "annotation")
    for number, (_, state) in enumerate(walk(path, gathering, begin=(), end=("ndpviewstate",)), 1):
        with gathering.item(number):
            _view(state, gathering, to_pixels, scale)
    return gathering.file(FORMAT)


def _to_pixels(path: Path, slide: Slide | None) -> tuple[Callable[[Ring], Ring], Ring]:
    """How (y, x) nanometres become level-0 pixels, and pixels per nanometre (y, x)."""
    if slide is None:
        raise RegionsError(
            f"{path.name}: NDPA counts nanometres from the centre of the glass; say which NDPI slide it belongs to."
        )
    offset = slide.offset_from_center_nm
    if slide.mpp is None or offset is None:
        missing = "pixel size" if slide.mpp is None else "place on the glass, which only NDPI files have"
        raise RegionsError(
            f"{path.name}: NDPA counts nanometres from the centre of the glass, and {slide.path.name} does not tell its "
            f"{missing}; use the NDPI file that was annotated."
        )
    scale = 1 / (np.asarray(slide.mpp) * _NM)
    middle = np.asarray(slide.shape) / 2
    return lambda nm: np.asarray((nm - np.asarray(offset)) * scale + middle), scale


def _view(state: Element, gathering: Gathering, to_pixels: Callable[[Ring], Ring], scale: Ring) -> None:
    annotation = state.find("annotation")
    unit = (state.findtext("coordformat") or "nanometers").strip()
    if annotation is None:
        gathering.skipped["A view without an annotation was left out."] += 1
        return
    if unit != "nanometers":
        raise ValueError(f"its coordinates are in {unit!r}, not in nanometers")
    kind = annotation.attrib.get("type", "").lower()
    if kind == "circle":
        gathering.notes[ELLIPSE] += 1
        radii = float(annotation.findtext("radius", "")) * scale
        ring = ellipse(to_pixels(_points([annotation]))[0], radii)
    elif kind == "freehand" and _is_closed(annotation):
        ring = to_pixels(_points(annotation.findall("pointlist/point")))
    else:
        what = "An open line" if kind == "freehand" else f"A {kind or 'nameless thing'}"
        gathering.skipped[f"{what} was left out: it has no area."] += 1
        return
    if polygons := gathering.polygons(ring):
        name = (state.findtext("title") or "").strip()
        _note_color(name, annotation.attrib.get("color", ""), gathering)
        gathering.add(name, polygons)


def _is_closed(annotation: Element) -> bool:
    special = (annotation.findtext("specialtype") or "").startswith("rectangle")
    return special or (annotation.findtext("closed") or "0").strip() in ("1", "true")


def _points(elements: list[Element]) -> Ring:
    """The (y, x) of elements with children ``x`` and ``y``, shape (n, 2)."""
    pairs = [(float(one.findtext("y", "")), float(one.findtext("x", ""))) for one in elements]
    array = np.array(pairs, float).reshape(-1, 2)
    if not np.isfinite(array).all():
        raise ValueError("a coordinate is not a finite number")
    return array


def _note_color(name: str, color: str, gathering: Gathering) -> None:
    if name and re.fullmatch("#[0-9a-fA-F]{6}", color):
        gathering.colors.setdefault(name, (int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)))
