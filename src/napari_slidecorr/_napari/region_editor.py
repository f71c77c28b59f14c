"""One slide's Shapes layer and its regions in the project, kept the same: read back, undone, saved at every change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from shapely import Polygon, unary_union

from napari_slidecorr._napari import layers
from napari_slidecorr._napari.history import History
from napari_slidecorr._napari.parts import timer
from napari_slidecorr._napari.region_saver import RegionSaver
from napari_slidecorr._napari.region_view import RegionView, remove, select
from napari_slidecorr.errors import RegionsError
from napari_slidecorr.regions import Region, RegionSet, valid_polygons
from napari_slidecorr.session import sentence

if TYPE_CHECKING:
    from napari.layers import Shapes

    from napari_slidecorr.project import Project

SAVE_AFTER_MS = 100
"""From the first change that is not saved, however many follow."""

TRY_AGAIN_MS = 5000
SMALLEST_PX = 4.0
"""Side, in screen pixels, below which a new shape is taken for a stray click."""

MOST_SELECTED = 500
"""So many regions can be selected at a time where not all are shapes."""


class RegionEditor:
    """Listens to a Shapes layer of regions and keeps project, history and layer in step.

    Every change of the layer by hand is read back once the hand has let go, becomes a step that can be undone, and is
    on its way to the disk within 0.1 s, written in a thread. What is done by a method (`reclass`, `cut_hole`, `undo`) goes the other way: first the
    regions, then the layer.

    Parameters
    ----------
    layer : Shapes
        Made by `layers.add_regions`.
    slide_id : str
    project : Project
        Where the regions are saved, also after the session has opened another one.
    changed
        Called with the slide's id after each change of the regions, saved or not.
    saved
        Called with the slide's id after each save.
    tell
        Called with a sentence and whether it is an error.
    regions : RegionSet, optional
        All regions of the slide; those of the layer if None.
    viewer : optional
        Where the layer is. With it, of thousands of regions only those near the view are shapes; see `RegionView`.

    Attributes
    ----------
    combine
        Called with the regions before and after something was drawn by hand; gives what becomes of them, as when a
        drawn outline is to be added to another region. One step that can be undone.
    """

    def __init__(
        self,
        layer: Shapes,
        slide_id: str,
        project: Project,
        *,
        changed: Callable[[str], None],
        saved: Callable[[str], None],
        tell: Callable[[str, bool], None],
        regions: RegionSet | None = None,
        viewer: Any = None,
    ) -> None:
        self.layer, self.slide_id, self.project = layer, slide_id, project
        self._changed, self._saved, self._tell = changed, saved, tell
        self.history = History(layers.regions_of(layer) if regions is None else regions)
        self.combine: Callable[[RegionSet, RegionSet], RegionSet] = lambda _before, after: after
        self.drawing = False
        self._applying = False
        self.dirty = False
        self.view = RegionView(
            layer, self.regions, viewer=viewer, colors=lambda: project.colors, busy=lambda: self._is_busy
        )
        self._read_timer = timer(0, self.read)
        self._save_timer = timer(SAVE_AFTER_MS, self.save)
        self._again_timer = timer(TRY_AGAIN_MS, self.save)
        self._saver = RegionSaver(lambda regions: project.save_regions(slide_id, regions), self._on_written)
        layer.events.data.connect(self._on_data)
        layer.events.editable.connect(self._keep_closed)
        self._keep_closed()

    @property
    def regions(self) -> RegionSet:
        """The regions as they are now."""
        return self.history.present

    @property
    def selected(self) -> list[int]:
        """Indices of the selected *shapes* of the layer, in their order; not of regions, see `selected_regions`."""
        return sorted(int(index) for index in self.layer.selected_data)

    @property
    def selected_regions(self) -> tuple[Region, ...]:
        """The selected regions, in the order of `regions`; a shape that was not read yet is left out."""
        uids = {str(self.layer.features["uid"].iloc[index]) for index in self.selected}
        return tuple(region for region in self.regions if region.uid in uids)

    def region_at(self, y_px: float, x_px: float) -> Region | None:
        """Give the topmost region at a place, in corner-based level-0 pixels; None where none is."""
        index = self.view.index.at(y_px, x_px)
        return None if index is None else self.regions.regions[index]

    def select(self, uids: Iterable[str]) -> None:
        """Select these regions and no others; uids that no region has are passed over."""
        known = {region.uid for region in self.regions}
        wanted = [uid for uid in dict.fromkeys(uids) if uid in known]
        if len(wanted) > MOST_SELECTED and not self.view.all_shown:
            self._tell(f"Of {len(wanted):,} regions the first {MOST_SELECTED} are selected; more would be slow.", False)
            wanted = wanted[:MOST_SELECTED]
        self.view.bring(wanted)
        select(self.layer, set(wanted))

    def recolour(self) -> None:
        """Take over classes and colours of the project that have changed."""
        layers.set_classes(self.layer, self.project.classes)
        self.view.recolour()

    def close(self) -> None:
        """Read and save what is pending, and listen no longer."""
        self.flush()
        self._again_timer.stop()
        self.layer.events.data.disconnect(self._on_data)
        self.view.close()

    def flush(self) -> None:
        """Finish a shape that is being drawn, then read and save now what is pending; waits for the disk."""
        self.settle()
        if self.dirty:
            self.save()
            self._saver.flush()

    def settle(self) -> None:
        """Finish a shape that is being drawn, and read what is pending; it is saved soon."""
        self._let_go()
        if self._read_timer.isActive():
            self.read()

    def read(self) -> None:
        """Take over what the layer shows; outlines that cross themselves are repaired, in the layer too."""
        self._read_timer.stop()
        if self.drawing:
            return
        self._drop_strays()
        shown = len(self.layer.data)
        regions, kept = self.view.read()
        combined = self.combine(self.regions, regions)
        if combined is not regions:
            self.view.show(regions := combined)
        elif kept != shown:
            self._tell_repair(shown, kept)
            self.view.show(regions)
        else:
            self.view.accept(regions)
            self._recolour()
        self._record(regions)

    def set_regions(self, regions: RegionSet, select: Iterable[str] = ()) -> None:
        """Replace the regions: one step that can be undone.

        Parameters
        ----------
        select : iterable of str
            Uids of the regions that are selected afterwards.
        """
        self.settle()
        self.view.show(regions)
        self._record(regions)
        self.select(select)

    def undo(self) -> None:
        """Take the last step back."""
        self._travel(self.history.undo, "There is nothing to undo.")

    def redo(self) -> None:
        """Do an undone step again."""
        self._travel(self.history.redo, "There is nothing to redo.")

    def choose_class(self, name: str) -> None:
        """Choose the class of the next shapes; the selected ones get it too, unless shapes are being drawn one by one.

        A shape just drawn stays selected while its tool is active, and must not change with the next one's class.
        """
        layers.set_class(self.layer, name)
        if self.drawing:
            layers.reclass(self.layer, [len(self.layer.data) - 1], name, self.project.colors)
        elif self.selected and not str(self.layer.mode).startswith("add_"):
            self.reclass(name)
        self._recolour()

    def reclass(self, name: str) -> None:
        """Give the selected shapes another class."""
        if self.selected:
            layers.reclass(self.layer, self.selected, name, self.project.colors)
            self.read()

    def rename_class(self, old: str, new: str) -> None:
        """Give all regions of a class another one, in the steps that can be undone too."""
        self.settle()
        done: dict[str, Region] = {}  # the states share most of their regions, and must go on doing so
        self.history.translate(lambda regions: renamed(regions, old, new, done))
        self.view.show(self.regions)
        self._mark_changed()

    def delete_selected(self) -> None:
        """Delete the selected shapes."""
        self._let_go()
        if not self.selected:
            self._tell("Select one or more regions first, then delete them.", False)
            return
        self.layer.remove_selected()
        self.read()

    def cut_hole(self) -> None:
        """Turn the selected shapes into holes of the regions that they lie in.

        Raises
        ------
        RegionsError
            If nothing is selected, or nothing lies around the selection.
        """
        self._let_go()
        self.read()
        self.set_regions(with_holes(self.regions, self.selected_regions))

    def save(self) -> None:
        """Have the regions written into the project; what cannot be written is told, and tried again."""
        self._save_timer.stop()
        self._saver.put(self.regions)

    def _on_written(self, regions: RegionSet, error: Exception | None) -> None:
        if error is not None:
            self._tell(sentence(error), True)
            if not self.project.read_only:
                self._again_timer.start()
            return
        self._again_timer.stop()
        if regions is self.regions:
            self.dirty = False
        if self.project.history_trouble:
            self._tell(self.project.history_trouble, True)
        self._saved(self.slide_id)

    def _let_go(self) -> None:
        """Finish a shape that is being drawn; napari does so when the tool changes."""
        if self.drawing:
            tool, self.layer.mode = self.layer.mode, "select"
            self.layer.mode = tool
            self.drawing = False

    def _keep_closed(self, _event: Any = None) -> None:
        """Take the layer's tools from a project that is read-only here; napari gives them back at its own changes."""
        if self.project.read_only and self.layer.editable:
            self.layer.editable = False

    def _on_data(self, event: Any) -> None:
        """Wait for the hand to let go: napari sends `added` while the new shape is not yet finished."""
        if self._applying or self.view.applying:
            return
        action = str(getattr(event, "action", ""))
        if action == "adding":
            self.drawing = True
        elif action in ("added", "changed", "removed"):
            self.drawing = False
            self._read_timer.start()

    def _record(self, regions: RegionSet) -> None:
        if self.project.read_only and regions != self.regions:
            self.view.show(self.regions)
            self._tell(self.project.read_only, True)
        elif self.history.record(regions):
            self._mark_changed()

    def _mark_changed(self) -> None:
        self.dirty = True
        if not self._save_timer.isActive():  # started anew by each change it would never fire while one draws on
            self._save_timer.start()
        self._changed(self.slide_id)

    def _travel(self, step: Callable[[], RegionSet | None], nothing: str) -> None:
        self.settle()
        regions = step()
        if regions is None:
            self._tell(nothing, False)
            return
        self.view.show(regions)
        self._mark_changed()

    @property
    def _is_busy(self) -> bool:
        """Whether a hand is at work, or what it did is not read yet."""
        return self.drawing or self._read_timer.isActive()

    def _recolour(self) -> None:
        layers.recolour(self.layer, self.project.colors)

    def _drop_strays(self) -> None:
        """Forget new shapes that are a click and not an area, and table rows that napari left behind for them."""
        if len(self.layer.features) != len(self.layer.data):
            self.layer.features = self.layer.features.iloc[: len(self.layer.data)]
        least = SMALLEST_PX * self.layer.scale_factor / np.asarray(self.layer.scale)
        strays = [
            index
            for index, (points, uid) in enumerate(zip(self.layer.data, self.layer.features["uid"], strict=True))
            if not uid and (np.ptp(np.asarray(points), axis=0) < least).all()
        ]
        if strays:
            self._applying = True
            try:
                remove(self.layer, strays)
            finally:
                self._applying = False
            self._tell("A shape of a few screen pixels was taken for a stray click and left out.", False)

    def _tell_repair(self, shown: int, kept: int) -> None:
        if kept > shown:
            self._tell("An outline crossed itself; it was split into simple regions with the same inside.", False)
        else:
            self._tell("A line, a path or an outline without an area is no region, and was left out.", False)


def with_holes(regions: RegionSet, chosen: Sequence[Region]) -> RegionSet:
    """Cut chosen regions out of those around them, and take them away.

    When the largest of several chosen regions holds all others, they are cut out of it alone; else out of every other
    region that they touch.

    Raises
    ------
    RegionsError
        If nothing is chosen, or no other region lies around.
    """
    if not chosen:
        raise RegionsError("Draw the hole as a region inside another one, select it, then press 'Cut hole'.")
    largest = max(chosen, key=lambda region: region.area_px)
    inner = [region for region in chosen if region is not largest]
    within = bool(inner) and all(largest.polygon.covers(region.polygon) for region in inner)
    holes = inner if within else list(chosen)
    cut = unary_union([region.polygon for region in holes])
    targets = [largest] if within else [r for r in regions if r not in holes and r.polygon.intersects(cut)]
    if not any(target.polygon.intersection(cut).area > 0 for target in targets):
        raise RegionsError("The selected shape lies in no other region, so that there is nothing to cut a hole into.")
    kept = (region for region in regions if region not in holes)
    return RegionSet(
        tuple(part for region in kept for part in (_minus(region, cut) if region in targets else (region,)))
    )


def _minus(region: Region, cut: Any) -> Iterable[Region]:
    rest = region.polygon.difference(cut)
    parts = [p for p in getattr(rest, "geoms", [rest]) if isinstance(p, Polygon) and p.area > 0]
    simple = sorted((piece for part in parts for piece in valid_polygons(part)), key=lambda piece: -piece.area)
    for number, polygon in enumerate(simple):
        yield Region(region.class_name, polygon, region.uid) if number == 0 else Region(region.class_name, polygon)


def renamed(regions: RegionSet, old: str, new: str, done: dict[str, Region] | None = None) -> RegionSet:
    """Give all regions of a class another one.

    Parameters
    ----------
    done : dict of uid to Region, optional
        What became of regions in other states, which so stay one object in every state that has them.
    """
    done = {} if done is None else done
    return RegionSet(tuple(_reclassed(each, new, done) if each.class_name == old else each for each in regions))


def _reclassed(region: Region, class_name: str, done: dict[str, Region]) -> Region:
    known = done.get(region.uid)
    if known is None or known.polygon is not region.polygon:
        known = done[region.uid] = region.reclassed(class_name)
    return known
