"""Which regions stand in the layer as shapes: all of a few; of thousands those near the view, the others as a picture.

napari's shapes are quick by the hundred and slow by the thousand. The truth is a `RegionSet`, whatever is in the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication

from napari_slidecorr._napari import layers
from napari_slidecorr._napari.parts import timer
from napari_slidecorr._napari.region_overview import RegionOverview
from napari_slidecorr.region_index import RegionIndex
from napari_slidecorr.regions import Region, RegionSet

if TYPE_CHECKING:
    from napari.layers import Shapes

Box = tuple[float, float, float, float]

FEW = 500
"""Up to so many regions all are shapes."""

NEAR = 300
"""Of more, so many are shapes at a time ..."""

NEAR_CORNERS = 30_000
"""... with so many corners in all."""

MARGINS = (1.0, 0.5, 0.2, 0.0)
"""How far around the view shapes are laid, in parts of its sides: as far as they are not too many."""

SLACK = 1.3
"""Shapes stay while there are no more than so many times the limit, so that a small move of the view changes nothing."""

REST_MS = 120
"""The view rests when it has been left alone for so long."""

HANDLING = ("select", "direct", "vertex_insert", "vertex_remove")


class RegionView:
    """Brings layer and overview to a state of the regions, and reads back what a hand changed in the layer.

    Parameters
    ----------
    layer : Shapes
        Made by `layers.add_regions`, with some of the regions or none.
    regions : RegionSet
        All of them.
    viewer
        Whose camera is watched; without one every region becomes a shape, however many there are.
    colors
        Gives the colours as they are now.
    busy
        Says whether a hand is at work, so that shapes must not be exchanged.

    Attributes
    ----------
    index : RegionIndex
        Where the regions lie.
    applying : bool
        Whether the layer is being changed from here and not by hand.
    """

    def __init__(
        self,
        layer: Shapes,
        regions: RegionSet,
        *,
        viewer: Any,
        colors: Callable[[], layers.Colors],
        busy: Callable[[], bool],
    ) -> None:
        self.layer, self.regions, self.index = layer, regions, RegionIndex(regions.regions)
        self._viewer, self._colors, self._busy = viewer, colors, busy
        self.applying = False
        self.overview = RegionOverview(viewer, layer) if viewer is not None else None
        self._shown: dict[str, Region] = {region.uid: region for region in layers.regions_of(layer)}
        self._heights: dict[str, int] = {}
        self._placed: set[str] = set()
        self._brought: set[str] = set()
        self._loaded: Box | None = None
        self._rest = timer(REST_MS, self.settle)
        if viewer is not None:
            viewer.scene.camera.events.connect(self._on_camera)
            layer.mouse_drag_callbacks.insert(0, self._bring_touched)
            self.show(regions)

    @property
    def all_shown(self) -> bool:
        """Whether all regions are shapes of the layer, in their order."""
        return self.overview is None or len(self.regions) <= FEW

    def close(self) -> None:
        """Watch the camera no longer."""
        self._rest.stop()
        if self.overview is not None:
            self._viewer.scene.camera.events.disconnect(self._on_camera)
            self.overview.close()

    def show(self, regions: RegionSet) -> None:
        """Bring layer and overview to a state; shapes that it leaves as they are stay untouched."""
        self._take(regions)
        self.applying = True
        try:
            self._show_shapes()
        finally:
            self.applying = False
        self._show_overview()

    def read(self) -> tuple[RegionSet, int]:
        """Give all regions with what a hand changed in the layer, and how many regions the layer has by now.

        That number is not the one of the shapes where outlines crossed themselves or had no area.
        """
        found = layers.regions_of(self.layer)
        return found if self.all_shown else merged(self.regions, self._shown, found), len(found)

    def accept(self, regions: RegionSet) -> None:
        """Take over what was read and is in the layer already."""
        was_all_shown = self.all_shown
        self._take(regions)
        if was_all_shown != self.all_shown:
            self.show(regions)
            return
        uids = {str(uid) for uid in self.layer.features["uid"]}
        self._shown = {region.uid: region for region in regions if region.uid in uids}
        self._placed &= uids
        self._show_overview()

    def bring(self, uids: Collection[str]) -> None:
        """Make regions shapes of the layer, wherever they lie, until the view moves on without them selected."""
        if set(uids) - self._shown.keys():
            self._brought |= set(uids)
            self.show(self.regions)

    def recolour(self) -> None:
        """Take over changed colours."""
        layers.recolour(self.layer, self._colors())
        if self.overview is not None:
            self.overview.recolour(self._colors())

    def settle(self) -> None:
        """Lay the shapes around the view into the layer, if it has gone where they are not."""
        self._rest.stop()
        if self.all_shown:
            return
        if self._busy() or (QApplication.mouseButtons() != Qt.MouseButton.NoButton and self.layer.mode in HANDLING):
            self._rest.start()
            return
        loaded = area_to_load(self.index, view_box(self._viewer, self.layer), self._loaded)
        kept = self._selected()
        if loaded != self._loaded or self._brought - kept:
            self._loaded, self._brought = loaded, kept
            self.show(self.regions)

    def _take(self, regions: RegionSet) -> None:
        if regions is not self.regions:
            self.regions, self.index = regions, RegionIndex(regions.regions)

    def _on_camera(self, _event: Any) -> None:
        if not self.all_shown:
            self._rest.start()

    def _bring_touched(self, layer: Shapes, event: Any) -> None:
        """Make a region of the overview a shape when it is touched; called before napari looks what is there."""
        if self.all_shown or layer.mode not in HANDLING:
            return
        y, x = (float(at) + 0.5 for at in layer.world_to_data(event.position)[-2:])
        index = self.index.at(y, x)
        if index is not None:
            self.bring([self.regions.regions[index].uid])

    def _selected(self) -> set[str]:
        uids = self.layer.features["uid"]
        return {str(uids.iloc[index]) for index in self.layer.selected_data if index < len(uids)}

    def _show_shapes(self) -> None:
        selected = self._selected()
        if self.all_shown:
            show_in_order(self.layer, self.regions, self._colors())
            self._shown, self._placed = {region.uid: region for region in self.regions}, set()
        else:
            self._exchange(self._wanted(selected))
        select(self.layer, selected)

    def _wanted(self, selected: set[str]) -> dict[str, Region]:
        """Choose what is near the view, selected or brought, in the order of the regions."""
        if self._loaded is not None:
            view = view_box(self._viewer, self.layer)
            self._loaded = area_to_load(self.index, view, self._loaded)
        near = set(self.index.within(self._loaded).tolist()) if self._loaded is not None else set()
        also = selected | self._brought
        return {
            region.uid: region
            for index, region in enumerate(self.regions.regions)
            if index in near or region.uid in also
        }

    def _exchange(self, wanted: Mapping[str, Region]) -> None:
        """Take away and add as few shapes as possible; each lies at its own height, whenever it was added."""
        heights = self._renewed_heights()
        present = [str(uid) for uid in self.layer.features["uid"]]
        keep = {
            uid
            for uid in self._placed.intersection(present, wanted)
            if uid in self._shown and self._shown[uid].polygon is wanted[uid].polygon
        }
        missing = [region for uid, region in wanted.items() if uid not in keep]
        colors = self._colors()
        with self.layer.block_thumbnail_update():
            remove(self.layer, [index for index, uid in enumerate(present) if uid not in keep])
            layers.append_regions(self.layer, missing, colors, [heights[region.uid] for region in missing])
            reclass_all(self.layer, wanted, colors)
        self._shown, self._placed = dict(wanted), set(wanted)

    def _renewed_heights(self) -> Mapping[str, int]:
        """Give each region a height that grows with its place; those that have one keep it while it fits."""
        top, last = max(self._heights.values(), default=0), -1
        heights: dict[str, int] = {}
        for region in self.regions:
            height = self._heights.get(region.uid)
            if height is None:
                height = top = top + 1
            if height <= last:
                self._placed.clear()
                heights = {each.uid: index for index, each in enumerate(self.regions)}
                break
            heights[region.uid] = last = height
        self._heights = {**self._heights, **heights} if len(self._heights) < 4 * len(heights) else heights
        return heights

    def _show_overview(self) -> None:
        others = () if self.all_shown else tuple(region for region in self.regions if region.uid not in self._shown)
        layers.identity(self.layer)["elsewhere"] = others
        if self.overview is not None:
            self.overview.show(others, self._colors())


def view_box(viewer: Any, layer: Shapes) -> Box:
    """Give the part of a slide that is in view, (y0, x0, y1, x1) in level-0 pixels."""
    camera = viewer.scene.camera
    half = np.asarray(viewer.canvas.size, float) / camera.zoom / 2
    centre, scale = np.asarray(camera.center[-2:], float), np.asarray(layer.scale, float)[-2:]
    low, high = (centre - half) / scale + 0.5, (centre + half) / scale + 0.5
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def area_to_load(index: RegionIndex, view: Box, loaded: Box | None) -> Box | None:
    """Choose the box whose regions become shapes; None when there are too many even in view.

    Parameters
    ----------
    loaded : (y0, x0, y1, x1) or None
        The box as it is; it stays while the view lies in it and it is not too full.
    """
    slack = SLACK if loaded is not None else 1.0
    if loaded is not None and _covers(loaded, view) and _fits(index, loaded, slack):
        return loaded
    boxes = [_grown(view, margin) for margin in MARGINS]
    chosen = next((box for box in boxes if _fits(index, box, 1.0)), None)
    return boxes[-1] if chosen is None and _fits(index, boxes[-1], slack) else chosen


def _fits(index: RegionIndex, box: Box, slack: float) -> bool:
    found = index.within(box)
    return len(found) <= NEAR * slack and int(index.corners[found].sum()) <= NEAR_CORNERS * slack


def _covers(outer: Box, inner: Box) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and outer[2] >= inner[2] and outer[3] >= inner[3]


def _grown(box: Box, margin: float) -> Box:
    y0, x0, y1, x1 = box
    dy, dx = (y1 - y0) * margin, (x1 - x0) * margin
    return y0 - dy, x0 - dx, y1 + dy, x1 + dx


def merged(regions: RegionSet, shown: Mapping[str, Region], found: RegionSet) -> RegionSet:
    """Put what is in a layer of some regions back among all of them; the very set if nothing changed.

    Parameters
    ----------
    shown : mapping of uid to Region
        What was laid into the layer: such a region that is not found there any more was deleted.
    found : RegionSet
        What the layer has now; new regions go to the end, parts of a split one behind the first.
    """
    now = {region.uid: region for region in found}
    others = {region.uid for region in regions} - shown.keys()
    parts: dict[str, list[Region]] = {}
    fresh: list[Region] = []
    last = ""
    for region in found:
        own = region if region.uid not in others else Region(region.class_name, region.polygon)
        if region.uid in shown:
            last = region.uid
        elif last and region.uid.startswith(f"{last}-"):
            parts.setdefault(last, []).append(own)
        else:
            fresh.append(own)
    kept: list[Region] = []
    for region in regions:
        if region.uid not in shown:
            kept.append(region)
        elif region.uid in now:
            kept += [now[region.uid], *parts.get(region.uid, ())]
    after = (*kept, *fresh)
    same = len(after) == len(regions) and all(a is b for a, b in zip(after, regions.regions, strict=True))
    return regions if same else RegionSet(after)


def show_in_order(layer: Shapes, regions: RegionSet, colors: layers.Colors) -> None:
    """Bring a layer to all regions in their order, by as few shapes as possible: from the first difference on.

    Raises
    ------
    RegionsError
        If a region has no area.
    """
    have = layers.regions_of(layer)
    wanted = regions.regions
    aligned = len(have) == len(layer.data)
    pairs = takewhile(lambda pair: _same_shape(*pair), zip(have, wanted, strict=False)) if aligned else ()
    same = len(list(pairs))
    remove(layer, range(same, len(layer.data)))
    layers.append_regions(layer, wanted[same:], colors)
    reclass_all(layer, {region.uid: region for region in wanted}, colors)


def reclass_all(layer: Shapes, wanted: Mapping[str, Region], colors: layers.Colors) -> None:
    """Give each shape of a layer the class of its region, and all of them their colours."""
    by_class: dict[str, list[int]] = {}
    for index, (uid, name) in enumerate(zip(layer.features["uid"], layer.features["class"], strict=True)):
        if wanted[str(uid)].class_name != name:
            by_class.setdefault(wanted[str(uid)].class_name, []).append(index)
    for name, indices in by_class.items():
        layers.reclass(layer, indices, name, colors)
    layers.recolour(layer, colors)


def remove(layer: Shapes, indices: Iterable[int]) -> None:
    """Take shapes out of a layer; none is selected afterwards."""
    layer.selected_data = set(indices)
    layer.remove_selected()
    layer.selected_data = set()


def select(layer: Shapes, uids: Collection[str]) -> None:
    """Select the shapes of these regions and no others."""
    chosen = {index for index, uid in enumerate(layer.features["uid"]) if str(uid) in uids}
    if chosen != {int(index) for index in layer.selected_data}:
        with layer.block_update_properties():
            layer.selected_data = chosen


def _same_shape(one: Region, other: Region) -> bool:
    return one.uid == other.uid and one.polygon == other.polygon
