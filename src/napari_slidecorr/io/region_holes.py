"""Holes that a format keeps as outlines of their own: each is cut out of the region that it lies in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from shapely import MultiPolygon, Polygon, STRtree
from shapely.geometry.base import BaseGeometry

from napari_slidecorr.io.regions_file import HOLE_CUT, LOST_HOLE, Gathering, Ring


@dataclass
class Outline:
    """A region before its holes are cut.

    Attributes
    ----------
    class_name, uid : str
    name : str
        By which a hole may say that it belongs to this region; empty for none.
    polygons : list of Polygon
        (y, x); several when the outline had to be mended.
    """

    class_name: str
    polygons: list[Polygon]
    uid: Any = None
    name: str = ""


@dataclass(frozen=True, eq=False)
class Hole:
    """An outline that is to be cut out.

    Attributes
    ----------
    ring : ndarray, shape (n, 2)
        (y, x).
    of : str
        The name of its region; empty where it is to be found by its place.
    class_name : str or None
        Of which class its region is; None where all of the layer count.
    """

    ring: Ring
    of: str = ""
    class_name: str | None = None


@dataclass
class Layer:
    """The regions among which holes are cut: those of one layer or group of a file."""

    outlines: list[Outline] = field(default_factory=list)
    holes: list[Hole] = field(default_factory=list)

    def add_to(self, gathering: Gathering) -> None:
        """Cut the holes and hand over the regions, in the order of their outlines."""
        self._cut(gathering)
        for outline in self.outlines:
            if outline.polygons:
                gathering.add(outline.class_name, outline.polygons, outline.uid)

    def _cut(self, gathering: Gathering) -> None:
        whole = [MultiPolygon(one.polygons) if len(one.polygons) > 1 else one.polygons[0] for one in self.outlines]
        tree = STRtree(whole)
        for hole in self.holes:
            for polygon in gathering.polygons(hole.ring):
                found = [int(index) for index in tree.query(polygon, predicate="intersects")]
                targets = [index for index in self._meant(hole, found) if _cuts(polygon, whole[index])]
                for index in targets:
                    self.outlines[index].polygons = _without(self.outlines[index].polygons, polygon, gathering)
                if not targets:
                    gathering.skipped[LOST_HOLE] += 1

    def _meant(self, hole: Hole, found: list[int]) -> list[int]:
        """Of the regions that a hole touches, the one that it names, else those of its class."""
        named = [index for index in found if hole.of and self.outlines[index].name == hole.of]
        return named or [i for i in found if hole.class_name in (None, self.outlines[i].class_name)]


def _cuts(hole: Polygon, outline: BaseGeometry) -> bool:
    """Whether a hole takes something from a region; an island inside of the hole is left alone."""
    return not hole.covers(outline) and hole.intersection(outline).area > 0


def _without(polygons: Sequence[Polygon], hole: Polygon, gathering: Gathering) -> list[Polygon]:
    out: list[Polygon] = []
    for polygon in polygons:
        if not polygon.intersects(hole):
            out.append(polygon)
        elif _lies_free(hole, polygon):  # as it is drawn, corner for corner
            rings = [ring.coords for ring in polygon.interiors]
            out.append(Polygon(polygon.exterior.coords, [*rings, hole.exterior.coords]))
        else:
            gathering.repaired[HOLE_CUT] += 1
            left = polygon.difference(hole)
            parts = getattr(left, "geoms", [left])
            out += [part for part in parts if isinstance(part, Polygon) and part.area > 0]
    return out


def _lies_free(hole: Polygon, polygon: Polygon) -> bool:
    """Whether a hole can be an interior ring: inside, and touching other rings at no line."""
    if hole.interiors or not polygon.contains(hole):
        return False
    rings = [ring.coords for ring in polygon.interiors]
    return bool(Polygon(polygon.exterior.coords, [*rings, hole.exterior.coords]).is_valid)
