"""Labelled regions of one slide: polygons with holes and a class."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from shapely import Polygon, make_valid
from shapely.geometry.polygon import orient
from shapely.validation import explain_validity

from napari_slidecorr.errors import RegionsError

IGNORE = "ignore"
"""Class of artefacts: never cut into patches, and taken out of the regions of other classes."""


@dataclass(frozen=True)
class Region:
    """One labelled area.

    Attributes
    ----------
    class_name : str
        Its class; empty for a region that has none yet, which is kept but not trained on.
    polygon : shapely.Polygon
        Coordinates are **(y, x)** in level-0 pixels, corner-based; holes are interior rings.
    uid : str
        Names the region for ever, also in files.
    """

    class_name: str
    polygon: Polygon
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))

    def __post_init__(self) -> None:
        if not isinstance(self.polygon, Polygon) or self.polygon.is_empty:
            raise RegionsError(f"Region {self.uid}: it must be one outline with an area; draw it anew.")
        if not np.isfinite(np.asarray(self.polygon.exterior.coords)).all():
            raise RegionsError(f"Region {self.uid}: a corner is not a finite number; draw it anew.")

    @cached_property
    def area_px(self) -> float:
        """Area in level-0 pixels, holes left out."""
        return float(self.polygon.area)

    def reclassed(self, class_name: str) -> Region:
        """Give the same region with another class."""
        return replace(self, class_name=class_name)


@dataclass(frozen=True)
class RegionSet:
    """The regions of one slide, in the order in which they were drawn."""

    regions: tuple[Region, ...] = ()

    def __post_init__(self) -> None:
        repeated = [uid for uid, count in Counter(region.uid for region in self.regions).items() if count > 1]
        if repeated:
            raise RegionsError(f"Two regions have the same id {repeated[0]}; give each its own.")

    def __iter__(self) -> Iterator[Region]:
        return iter(self.regions)

    def __len__(self) -> int:
        return len(self.regions)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of first use; unclassed regions left out."""
        return tuple(dict.fromkeys(region.class_name for region in self.regions if region.class_name))

    def of_class(self, class_name: str) -> tuple[Region, ...]:
        """The regions of one class."""
        return tuple(region for region in self.regions if region.class_name == class_name)

    def added(self, regions: Iterable[Region]) -> RegionSet:
        """Give this set with further regions behind."""
        return RegionSet((*self.regions, *regions))

    def area_px(self, class_name: str) -> float:
        """Sum of the areas of a class in level-0 pixels (overlaps count twice)."""
        return sum(region.area_px for region in self.of_class(class_name))


def polygon_from_rings(
    exterior: Iterable[tuple[float, float]], holes: Iterable[Iterable[tuple[float, float]]] = ()
) -> Polygon:
    """Make a polygon of (y, x) rings; a ring that crosses itself is refused with the place."""
    polygon = Polygon(list(exterior), [list(hole) for hole in holes])
    if not polygon.is_valid:
        raise RegionsError(f"The outline crosses itself: {explain_validity(polygon)} (y x); draw it anew.")
    return polygon


def valid_polygons(polygon: Polygon) -> list[Polygon]:
    """Repair a hand-drawn outline: the simple polygons of all that it goes around; the very polygon if it is valid.

    What a stroke that overshot its beginning goes around twice stays inside; it does not become a hole.
    """
    if polygon.is_valid:
        return [polygon] if polygon.area > 0 else []
    repaired = make_valid(polygon, method="structure", keep_collapsed=False)
    parts = getattr(repaired, "geoms", [repaired])
    polygons = [inner for part in parts for inner in getattr(part, "geoms", [part])]
    return [orient(part) for part in polygons if isinstance(part, Polygon) and part.area > 0]


def simple_regions(regions: Iterable[Region]) -> RegionSet:
    """Give regions as simple polygons, as patches need them: an outline that was drawn across itself becomes its parts."""
    out = []
    for region in regions:
        parts = valid_polygons(region.polygon)
        whole = len(parts) == 1
        out += [Region(region.class_name, p, region.uid if whole else f"{region.uid}/{i}") for i, p in enumerate(parts)]
    return RegionSet(tuple(out))
