"""What drawing does to regions: added to, cut from, split, merged, filled, simplified. Pure geometry, no window.

All coordinates are (y, x) level-0 pixels. A region is one polygon; what falls apart becomes several regions of the same
class, of which the largest keeps the uid.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from shapely import LineString, Point, Polygon, polygonize, unary_union
from shapely.geometry.polygon import orient

from napari_slidecorr.errors import RegionsError
from napari_slidecorr.regions import Region, RegionSet, valid_polygons

YX = tuple[float, float]
Effect = Literal["new", "add", "subtract"]

ELLIPSE_CORNERS = 64
STROKE_DETAIL = 0.03
"""How far a brushed outline may lie off the round strokes, as a share of the brush's radius."""
SLIVER = 1e-6
"""Area in px, below which a part is an accident of arithmetic."""


def polygons_of(geometry: Any) -> list[Polygon]:
    """Give the simple polygons of a geometry, the largest first; lines and points in it are left out."""
    parts = getattr(geometry, "geoms", [geometry])
    inner = [p for part in parts for p in getattr(part, "geoms", [part]) if isinstance(p, Polygon) and not p.is_empty]
    simple = [piece for polygon in inner for piece in valid_polygons(polygon)]
    return sorted((piece for piece in simple if piece.area > SLIVER), key=lambda piece: -piece.area)


def redrawn(regions: RegionSet, change: Callable[[Polygon], Any], uids: Collection[str]) -> RegionSet:
    """Give named regions other polygons, in their places; one of which nothing is left goes away.

    Parameters
    ----------
    change
        Gives the new geometry; the very polygon for a region that stays as it is.
    """
    return RegionSet(
        tuple(part for r in regions for part in (_pieces(r, change(r.polygon)) if r.uid in uids else (r,)))
    )


def _pieces(region: Region, geometry: Any) -> Iterable[Region]:
    if geometry is region.polygon:
        return (region,)
    pieces = [orient(polygon) for polygon in polygons_of(geometry)]
    return [
        Region(region.class_name, polygon, region.uid) if number == 0 else Region(region.class_name, polygon)
        for number, polygon in enumerate(pieces)
    ]


def region_under(regions: RegionSet, y_px: float, x_px: float) -> Region | None:
    """Give the region at a place; where several lie, the one drawn last, which is on top."""
    spot = Point(y_px, x_px)
    boxed = [r for r in regions if _in_box(r.polygon.bounds, y_px, x_px)]
    return next((r for r in reversed(boxed) if r.polygon.intersects(spot)), None)


def _in_box(bounds: tuple[float, float, float, float], y_px: float, x_px: float) -> bool:
    y0, x0, y1, x1 = bounds
    return y0 <= y_px <= y1 and x0 <= x_px <= x1


def touched(regions: RegionSet, geometry: Any) -> list[Region]:
    """Give the regions that share an area with a geometry, in their order."""
    y0, x0, y1, x1 = geometry.bounds
    near = (r for r in regions if r.polygon.bounds[0] <= y1 and r.polygon.bounds[2] >= y0)
    near = (r for r in near if r.polygon.bounds[1] <= x1 and r.polygon.bounds[3] >= x0)
    return [r for r in near if r.polygon.intersection(geometry).area > SLIVER]


def added_to(regions: RegionSet, uid: str, geometry: Any) -> RegionSet:
    """Let a region grow by a polygon; a part that does not touch it becomes a region of its own."""
    return redrawn(regions, lambda polygon: unary_union([polygon, geometry]), {uid})


def subtracted_from(regions: RegionSet, uids: Collection[str], geometry: Any) -> RegionSet:
    """Cut a polygon out of regions: a hole where it lies inside, several regions where it goes through."""
    return redrawn(regions, lambda p: p.difference(geometry) if p.intersects(geometry) else p, uids)


def split(regions: RegionSet, line: Sequence[YX], uids: Collection[str] | None = None) -> RegionSet:
    """Part regions along a line of two or more points (y, x).

    Parameters
    ----------
    uids : collection of str, optional
        Which regions to part; all that the line crosses when left out.

    Raises
    ------
    RegionsError
        If the line parts none.
    """
    knife = LineString(line) if len(line) > 1 else None
    if knife is None or knife.length == 0:
        raise RegionsError("Drag a line across a region to split it; a click alone does not.")
    crossed = [r.uid for r in regions if (uids is None or r.uid in uids) and r.polygon.intersects(knife)]
    parted = redrawn(regions, lambda polygon: _halves(polygon, knife), crossed)
    if len(parted) == len(regions):
        raise RegionsError("The line goes through no region from edge to edge; begin and end it outside of the region.")
    return parted


def _halves(polygon: Polygon, knife: LineString) -> Any:
    edges = unary_union([polygon.boundary, knife])
    faces = polygonize([edges]).geoms
    inside = [face for face in faces if polygon.contains(face.representative_point())]
    return polygon if len(inside) < 2 else _Faces(inside)


class _Faces:
    """Polygons that touch and must not be joined again."""

    def __init__(self, polygons: Sequence[Any]) -> None:
        self.geoms = polygons


def merged(regions: RegionSet, uids: Collection[str]) -> RegionSet:
    """Join regions of one class that touch or overlap; the first of them keeps its place and uid.

    Raises
    ------
    RegionsError
        If they are fewer than two, of several classes, or lie apart.
    """
    chosen = [region for region in regions if region.uid in uids]
    if len(chosen) < 2:
        raise RegionsError("Select two or more regions of one class, then merge them.")
    if len({region.class_name for region in chosen}) > 1:
        names = ", ".join(dict.fromkeys(region.class_name or "no class" for region in chosen))
        raise RegionsError(f"The selected regions are of several classes ({names}); give them one class first.")
    parts = polygons_of(unary_union([region.polygon for region in chosen]))
    if len(parts) == len(chosen):
        raise RegionsError("The selected regions do not touch; regions that lie apart stay regions of their own.")
    first, others = chosen[0], {region.uid for region in chosen[1:]}
    kept = RegionSet(tuple(region for region in regions if region.uid not in others))
    return redrawn(kept, lambda _: _Faces(parts), {first.uid})


def filled(regions: RegionSet, uids: Collection[str]) -> RegionSet:
    """Take the holes out of regions.

    Raises
    ------
    RegionsError
        If none of them has a hole.
    """
    if not any(region.polygon.interiors for region in regions if region.uid in uids):
        raise RegionsError("None of the selected regions has a hole; select one with a hole to fill it.")
    return redrawn(regions, lambda polygon: Polygon(polygon.exterior) if polygon.interiors else polygon, uids)


def simplified(regions: RegionSet, uids: Collection[str], tolerance_px: float) -> RegionSet:
    """Leave out corners that lie within a distance of the simpler outline; no outline comes to cross itself.

    Raises
    ------
    RegionsError
        If no region is named, or the tolerance is not above 0.
    """
    if not uids:
        raise RegionsError("Select one or more regions first, then simplify them.")
    if not tolerance_px > 0:
        raise RegionsError(f"The tolerance is {tolerance_px:g} px; it must be above 0.")
    return redrawn(regions, lambda polygon: polygon.simplify(tolerance_px, preserve_topology=True), uids)


def corners(regions: Iterable[Region]) -> int:
    """Count the corners of regions, those of holes included."""
    rings = (ring for region in regions for ring in (region.polygon.exterior, *region.polygon.interiors))
    return sum(len(ring.coords) - 1 for ring in rings)


def ellipse(y0: float, x0: float, y1: float, x1: float) -> Polygon:
    """Give the ellipse in a box, as a polygon of 64 corners."""
    angle = np.linspace(0, 2 * np.pi, ELLIPSE_CORNERS, endpoint=False)
    y = (y0 + y1) / 2 + (y1 - y0) / 2 * np.sin(angle)
    x = (x0 + x1) / 2 + (x1 - x0) / 2 * np.cos(angle)
    return Polygon(np.stack([y, x], axis=1))


def stroke(points: Sequence[YX], radius_px: float) -> Polygon:
    """Give what a round brush covers along a path of points (y, x); a circle for a single one.

    Raises
    ------
    RegionsError
        If there is no point, or the radius is not above 0.
    """
    if not points or not radius_px > 0:
        raise RegionsError(
            f"A brush stroke needs a point and a radius above 0; it has {len(points)} and {radius_px:g}."
        )
    path = LineString(points) if len(set(points)) > 1 else Point(points[0])
    detail = STROKE_DETAIL * radius_px
    return polygons_of(path.simplify(detail).buffer(radius_px, quad_segs=8).simplify(detail))[0]


def polygons_of_mask(
    mask: NDArray[np.bool_], origin: YX = (0.0, 0.0), step: YX = (1.0, 1.0), *, detail: float = 0.7
) -> list[Polygon]:
    """Give the outlines of a mask, holes included, the largest first.

    Parameters
    ----------
    mask : ndarray, shape (h, w), bool
    origin : (float, float)
        Level-0 pixels (y, x) of the mask's upper left corner.
    step : (float, float)
        Level-0 pixels (y, x) of one of its cells.
    detail : float
        How far an outline may lie off the mask's, in cells.
    """
    from skimage.measure import find_contours

    rings = [ring for ring in find_contours(np.pad(mask, 1).astype(np.float32), 0.5) if len(ring) > 3]
    area: Any = Polygon()
    for ring in sorted((Polygon(ring - 0.5).buffer(0) for ring in rings), key=lambda ring: -ring.area):
        area = area.symmetric_difference(ring)  # nested rings are holes and islands by turns
    simple = area.simplify(detail, preserve_topology=True)
    return [_scaled(polygon, origin, step) for polygon in polygons_of(simple)]


def _scaled(polygon: Polygon, origin: YX, step: YX) -> Polygon:
    rings = [np.asarray(ring.coords) * step + origin for ring in (polygon.exterior, *polygon.interiors)]
    return Polygon(rings[0], rings[1:])


def drawn_into(
    regions: RegionSet, geometry: Any, effect: Effect, at: YX, class_name: str, chosen: Sequence[str] = ()
) -> tuple[RegionSet, list[str]]:
    """Give what becomes of regions when a shape is drawn, and the uids of those that it made or changed.

    Parameters
    ----------
    effect : {"new", "add", "subtract"}
        Add to, or cut from, the region under ``at``; where none is, the chosen regions that the shape touches; else
        the touched region of the class that shares most with it (add), or all touched regions (subtract). Adding to
        nothing makes a new region.
    at : (float, float)
        Where the drawing began, level-0 pixels (y, x).
    class_name : str
        Of a new region.
    chosen : sequence of str
        Uids of the selected regions.

    Raises
    ------
    RegionsError
        If there is nothing to cut from, or the shape has no area.
    """
    polygons = polygons_of(geometry)
    if not polygons:
        raise RegionsError("What was drawn has no area on the slide; draw on the slide.")
    targets = [] if effect == "new" else _targets(regions, geometry, effect, at, class_name, chosen)
    if effect == "subtract":
        if not targets:
            raise RegionsError("There is no region to cut from; begin on one, or draw across one.")
        return subtracted_from(regions, targets, geometry), targets
    if targets:
        return added_to(regions, targets[0], geometry), targets[:1]
    made = [Region(class_name, orient(polygon)) for polygon in polygons]
    return regions.added(made), [region.uid for region in made]


def _targets(
    regions: RegionSet, geometry: Any, effect: Effect, at: YX, class_name: str, chosen: Sequence[str]
) -> list[str]:
    under = region_under(regions, *at)
    if under is not None:
        return [under.uid]
    near = touched(regions, geometry)
    if picked := [region.uid for region in near if region.uid in chosen]:
        return picked
    if effect == "subtract":
        return [region.uid for region in near]
    alike = [region for region in near if region.class_name == class_name]
    return [r.uid for r in sorted(alike, key=lambda r: -r.polygon.intersection(geometry).area)]
