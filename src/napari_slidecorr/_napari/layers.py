"""Slides and regions as napari layers, and back; works on a viewer's model, no Qt.

Every layer made here carries the slide's scale and units, or the scale bar falls back to pixels. napari puts pixel
*centres* on integers, our coordinates are corner-based: polygons move by half a pixel here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Literal, cast
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from shapely import Polygon

from napari_slidecorr.level_view import LevelView
from napari_slidecorr.regions import Region, RegionSet, valid_polygons
from napari_slidecorr.slide import Slide

if TYPE_CHECKING:
    import pandas as pd
    from napari.components import ViewerModel
    from napari.layers import Image, Layer, Shapes

KEY = "napari_slidecorr"
"""Where a layer's metadata says what it is."""

Kind = Literal[
    "slide",
    "regions",
    "regions_overview",
    "patches",
    "class_map",
    "probability",
    "compared",
    "difference",
    "swipe",
    "live",
]
Colors = Mapping[str, tuple[int, int, int]]
Points = NDArray[np.floating]

UNCLASSED = (128, 128, 128)
FILL = 0.25
_HALF = 0.5


def frame(slide: Slide, kind: Kind) -> dict[str, Any]:
    """Give what every layer of a slide must carry: scale, units, axis labels and whose it is."""
    return {
        "scale": slide.mpp or (1.0, 1.0),
        "units": ("um", "um") if slide.mpp else ("pixel", "pixel"),
        "axis_labels": ("y", "x"),
        "metadata": {
            KEY: {
                "kind": kind,
                "slide_id": slide.id,
                "path": str(slide.path),
                "shape": slide.shape,
                "mpp": slide.mpp,
            }
        },
    }


def slide_layer(slide: Slide, on_error: Callable[[str], None] | None = None) -> tuple[list[LevelView], dict[str, Any]]:
    """Give a slide's levels and the arguments of ``viewer.add_image``; no pixel is read.

    Parameters
    ----------
    on_error
        Called with a sentence, perhaps in a reading thread, for each tile that cannot be decoded and is shown grey.
    """
    return slide.view_levels(on_error), {
        **frame(slide, "slide"),
        "name": slide.id,
        "rgb": True,
        "multiscale": True,
    }


def add_slide(viewer: ViewerModel, slide: Slide, on_error: Callable[[str], None] | None = None) -> Image:
    """Add a slide to a viewer, or give the layer that shows it already."""
    shown = find_layer(viewer, "slide", slide.id)
    if shown is not None:
        return shown
    levels, arguments = slide_layer(slide, on_error)
    return viewer.add_image(levels, **arguments)


def identity(layer: Layer) -> dict[str, Any]:
    """What a layer says of itself: kind, slide_id, path, shape, mpp; empty for a layer that is not ours."""
    return cast(dict[str, Any], layer.metadata.get(KEY, {}))


def find_layer(viewer: ViewerModel, kind: Kind, slide_id: str) -> Any:
    """Give the layer of a kind and slide; None when there is none."""
    for layer in viewer.layers:
        told = identity(layer)
        if (told.get("kind"), told.get("slide_id")) == (kind, slide_id):
            return layer
    return None


@dataclass(frozen=True, eq=False)
class _Drawn:
    """A region and the very vertices that were put into the layer for it."""

    region: Region
    vertices: Points


def regions_layer(
    slide: Slide, regions: RegionSet, classes: Sequence[str], colors: Colors
) -> tuple[list[Points], dict[str, Any]]:
    """Give the vertices of a slide's regions and the arguments of ``viewer.add_shapes``; see `add_regions`."""
    drawn = {region.uid: _Drawn(region, vertices_of(region.polygon)) for region in regions}
    arguments = frame(slide, "regions")
    arguments["metadata"][KEY]["drawn"] = drawn
    edge = [rgba(colors, region.class_name) for region in regions]
    return [each.vertices for each in drawn.values()], {
        **arguments,
        "name": f"{slide.id} regions",
        "shape_type": "polygon",
        "ndim": 2,
        "features": _columns([r.class_name for r in regions], [r.uid for r in regions], classes),
        "edge_width": float(np.clip(max(slide.shape) / 400, 2, 30)),
        **({"edge_color": edge, "face_color": [(*rgba[:3], FILL) for rgba in edge]} if edge else {}),
    }


def add_regions(
    viewer: ViewerModel, slide: Slide, regions: RegionSet, classes: Sequence[str], colors: Colors
) -> Shapes:
    """Add the one Shapes layer that holds all regions of a slide.

    Parameters
    ----------
    classes : sequence of str
        The categories of the ``class`` column; those of the regions are added behind.
    colors : mapping of class name to (r, g, b), 0 to 255
    """
    vertices, arguments = regions_layer(slide, regions, classes, colors)
    layer = viewer.add_shapes(vertices or None, **arguments)
    set_class(layer, classes[0] if classes else "")
    recolour(layer, colors)
    return layer


def adopt(layer: Shapes) -> None:
    """Make any Shapes layer one that `regions_of` can read: its shapes become regions without a class."""
    told = layer.metadata.setdefault(KEY, {"kind": "regions"})
    told.setdefault("drawn", {})
    if not {"class", "uid"} <= set(layer.features.columns):
        _set_columns(layer, [""] * len(layer.data), [""] * len(layer.data), [])


def append_regions(
    layer: Shapes, regions: Sequence[Region], colors: Colors, heights: Sequence[int] | None = None
) -> None:
    """Add regions behind those of a layer, in one call.

    Parameters
    ----------
    heights : sequence of int, optional
        Which lies above which, the highest on top; above all others if None.
    """
    if not regions:
        return
    drawn = [_drawn(layer, region) for region in regions]
    old_names, old_uids = ([_name(v) for v in layer.features[column]] for column in ("class", "uid"))
    set_classes(layer, list(dict.fromkeys(region.class_name for region in regions)))
    identity(layer)["drawn"].update({each.region.uid: each for each in drawn})
    layer.add_polygons([each.vertices for each in drawn], z_index=None if heights is None else list(heights))
    names = [*old_names, *(region.class_name for region in regions)]
    uids = [*old_uids, *(region.uid for region in regions)]
    _set_columns(layer, names, uids)
    recolour(layer, colors)


def _drawn(layer: Shapes, region: Region) -> _Drawn:
    known: _Drawn | None = identity(layer)["drawn"].get(region.uid)
    if known is not None and known.region.polygon is region.polygon:
        return _Drawn(region, known.vertices)
    return _Drawn(region, vertices_of(region.polygon))


def regions_of(layer: Shapes) -> RegionSet:
    """Read the regions of a layer, in its order.

    A shape that nobody touched gives back the very region it was drawn from, in float64; a changed one keeps its
    uid. Shapes that have no uid yet, or a copied one, get a new one in the layer too, which then emits
    ``events.features`` once. An outline that crosses itself is repaired and may give several regions; one without an
    area gives none.
    """
    uids = _ensure_uids(layer)
    names = [_name(value) for value in layer.features["class"]]
    drawn: dict[str, _Drawn] = identity(layer)["drawn"]
    found: list[Region] = []
    for vertices, kind, uid, name in zip(layer.data, layer.shape_type, uids, names, strict=True):
        known = drawn.get(uid)
        if known is not None and np.array_equal(np.float32(known.vertices), np.float32(vertices)):
            found.append(known.region if known.region.class_name == name else known.region.reclassed(name))
        else:
            polygons = _polygons(np.asarray(vertices, np.float64) + _HALF, str(kind), known)
            found.extend(Region(name, *pair) for pair in zip(polygons, _uids_of_parts(uid, uids), strict=False))
    return RegionSet(tuple(found))


def all_regions_of(layer: Shapes) -> RegionSet:
    """Read the regions of a layer, and those of its slide that are too many to be shapes."""
    found = regions_of(layer)
    uids = {region.uid for region in found}
    elsewhere = (region for region in identity(layer).get("elsewhere", ()) if region.uid not in uids)
    return RegionSet((*elsewhere, *found))


def _uids_of_parts(uid: str, taken: Sequence[str]) -> Iterator[str]:
    """Name the parts of a shape: the first keeps its uid, the others get numbers that no other shape has."""
    yield uid
    yield from (other for number in count(2) if (other := f"{uid}-{number}") not in taken)


def _polygons(points: Points, kind: str, known: _Drawn | None) -> list[Polygon]:
    """Give the simple polygons of a shape, the largest first."""
    if kind in ("line", "path") or len(np.unique(points, axis=0)) < 3:
        return []
    if kind == "ellipse":
        points = _ellipse(points)
    outer, *holes = _rings(points, known)
    parts = valid_polygons(Polygon(outer, [hole for hole in holes if len(hole) > 3]))
    return sorted(parts, key=lambda part: -part.area)


def _ellipse(corners: Points) -> Points:
    """An ellipse of 64 corners in the box, perhaps turned, whose four corners napari keeps."""
    centre = corners.mean(axis=0)
    first, second = (corners[1] - corners[0]) / 2, (corners[3] - corners[0]) / 2
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)[:, None]
    return cast(Points, centre + np.cos(angle) * first + np.sin(angle) * second)


def vertices_of(polygon: Polygon) -> Points:
    """Give a polygon's vertices as napari draws them, holes included; shape (N, 2), pixel centres on integers.

    Notes
    -----
    napari takes one chain of vertices. Each ring is closed, and each hole is followed by the first vertex of the outer
    ring: ``[outer, a, hole, h, a, hole, h, a]``; without that return drawing breaks from the third ring on.
    """
    outer = np.asarray(polygon.exterior.coords, np.float64)
    if not polygon.interiors:
        return cast(Points, outer[:-1] - _HALF)
    parts = [outer]
    for hole in polygon.interiors:
        parts += [np.asarray(hole.coords, np.float64), outer[:1]]
    return cast(Points, np.concatenate(parts) - _HALF)


def _rings(points: Points, known: _Drawn | None) -> list[Points]:
    """Undo `vertices_of`: outer ring, then holes.

    While no vertex was added or removed the rings are where they were, even if a dragged corner no longer meets its
    twin; else a ring ends where its first vertex comes again.
    """
    if known is not None and known.region.polygon.interiors and len(points) == len(known.vertices):
        polygon = known.region.polygon
        lengths = [len(polygon.exterior.coords), *(len(hole.coords) for hole in polygon.interiors)]
        starts = np.cumsum([0, lengths[0], *(length + 1 for length in lengths[1:-1])])
        return [points[start : start + length] for start, length in zip(starts, lengths, strict=True)]
    return list(_rings_by_return(points))


def _rings_by_return(points: Points) -> Iterator[Points]:
    start = 0
    while start < len(points):
        again = np.flatnonzero((points[start + 1 :] == points[start]).all(axis=1))
        end = start + 2 + int(again[0]) if len(again) else len(points)
        yield points[start:end]
        start = end + 1 if start else end


def set_classes(layer: Shapes, classes: Sequence[str]) -> None:
    """Let a layer know further classes; those it has stay."""
    have = _categories(layer)
    if set(classes) - set(have):
        names, uids = ([_name(v) for v in layer.features[column]] for column in ("class", "uid"))
        _set_columns(layer, names, uids, [*have, *classes])


def set_class(layer: Shapes, name: str) -> None:
    """Choose the class that new shapes get."""
    set_classes(layer, [name])
    layer.feature_defaults = {"class": name, "uid": ""}


def reclass(layer: Shapes, indices: Sequence[int], name: str, colors: Colors) -> None:
    """Give shapes another class."""
    names, uids = ([_name(v) for v in layer.features[column]] for column in ("class", "uid"))
    for index in indices:
        names[index] = name
    _set_columns(layer, names, uids, [*_categories(layer), name])
    recolour(layer, colors)


def recolour(layer: Shapes, colors: Colors) -> None:
    """Colour each shape, and those drawn next, by class; needed after every change of classes or shapes.

    Parameters
    ----------
    colors : mapping of class name to (r, g, b), 0 to 255
        A class that it lacks is grey.
    """
    names = [_name(value) for value in layer.features["class"]]
    next_color = rgba(colors, _name(layer.feature_defaults["class"].iloc[0]))
    with layer.block_update_properties():
        layer.current_edge_color = next_color
        layer.current_face_color = (*next_color[:3], FILL)
    if names:
        edge = np.asarray([rgba(colors, name) for name in names])
        face = np.concatenate([edge[:, :3], np.full((len(edge), 1), FILL)], axis=1)
        if not (_near(layer.edge_color, edge) and _near(layer.face_color, face)):  # setting them uploads all shapes
            layer.edge_color = edge
            layer.face_color = face


def _near(one: Points, other: Points) -> bool:
    return one.shape == other.shape and bool(np.allclose(one, other, atol=1e-3))


def rgba(colors: Colors, name: str) -> tuple[float, float, float, float]:
    """Give the colour of a class, 0 to 1 a channel."""
    r, g, b = colors.get(name, UNCLASSED)
    return r / 255, g / 255, b / 255, 1.0


def _columns(names: Sequence[str], uids: Sequence[str], classes: Sequence[str]) -> pd.DataFrame:
    """The feature table. Categories must be told, or an empty column would become one of floats."""
    import pandas as pd

    categories = list(dict.fromkeys([*classes, *names, ""]))
    return pd.DataFrame(
        {"class": pd.Categorical(list(names), categories=categories), "uid": pd.Series(list(uids), dtype=object)}
    )


def _categories(layer: Shapes) -> list[str]:
    """The classes that a layer knows; its column stops being categorical when a strange one is pasted in."""
    column = layer.features["class"]
    known = column.cat.categories if hasattr(column, "cat") else column.unique()
    return [_name(value) for value in known]


def _set_columns(
    layer: Shapes, names: Sequence[str], uids: Sequence[str], classes: Sequence[str] | None = None
) -> None:
    """Replace the feature table and keep what new shapes get."""
    default = _name(layer.feature_defaults["class"].iloc[0]) if "class" in layer.feature_defaults else ""
    categories = _categories(layer) if classes is None else classes
    layer.features = _columns(names, uids, [*categories, default])
    layer.feature_defaults = {"class": default, "uid": ""}


def _ensure_uids(layer: Shapes) -> list[str]:
    """Name new shapes, and the copies among them, whose uid is their model's; give all names."""
    old = [_name(value) for value in layer.features["uid"]]
    new: dict[str, None] = {}
    for uid in old:
        new[uid if uid and uid not in new else str(uuid4())] = None
    if list(new) != old:
        _set_columns(layer, [_name(value) for value in layer.features["class"]], list(new))
    return list(new)


def _name(value: Any) -> str:
    """A cell of the feature table as text; missing is empty."""
    return value if isinstance(value, str) else ""
