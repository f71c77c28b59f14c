"""Changes of a class on all slides of a project at once: all of them are written, or none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_slidecorr.errors import ProjectError, SlideCorrError
from napari_slidecorr.events import Event, check_interrupted
from napari_slidecorr.regions import IGNORE, RegionSet

if TYPE_CHECKING:
    from napari_slidecorr.project_file import Color
    from napari_slidecorr.project_folder import ProjectFolder

Change = Callable[[RegionSet], RegionSet]


@dataclass(frozen=True, kw_only=True)
class ClassesChanged(Event):
    """Regions and classes are changed.

    Attributes
    ----------
    result : list of str
        Ids of the slides whose regions were changed.
    """

    result: list[str]


def reclassed(regions: RegionSet, old: str, new: str) -> RegionSet:
    """Give all regions of a class another one; the very set when it has none of it."""
    if not regions.of_class(old):
        return regions
    return RegionSet(tuple(r.reclassed(new) if r.class_name == old else r for r in regions))


def without(regions: RegionSet, name: str) -> RegionSet:
    """Leave out the regions of a class; the very set when it has none of it."""
    kept = tuple(region for region in regions if region.class_name != name)
    return regions if len(kept) == len(regions) else RegionSet(kept)


def change_everywhere(
    project: ProjectFolder,
    change: Change,
    classes: Sequence[str],
    colors: Mapping[str, Color] | None = None,
    *,
    leave: Iterable[str] = (),
) -> Iterator[Event]:
    """Change the regions of all slides, then the classes of the project; when one cannot be written, none is changed.

    Closing the stream takes back what was written; the last event is `ClassesChanged`.

    Parameters
    ----------
    change
        Gives the new regions of a slide; the very set for a slide that stays as it is.
    classes : sequence of str
        The project's classes afterwards, in their order.
    colors : dict of str to (int, int, int), optional
        Of classes whose colour changes.
    leave : iterable of str
        Ids of slides whose regions are changed elsewhere, because they are open.

    Yields
    ------
    Event

    Raises
    ------
    RegionsError
        If the regions of a slide cannot be read; nothing was changed.
    ProjectError
        If something cannot be written; what had been written is as before.
    """
    left = set(leave)
    ids = [slide.id for slide in project.cohort if slide.id not in left]
    before: dict[str, RegionSet] = {}
    for done, slide_id in enumerate(ids):
        yield Event(phase="Reading regions", done=done, total=len(ids))
        before[slide_id] = project.regions(slide_id)
    after = {slide_id: change(regions) for slide_id, regions in before.items()}
    wanted = [slide_id for slide_id in ids if after[slide_id] is not before[slide_id]]
    old_classes, old_colors = project.classes, project.colors
    written: list[str] = []
    try:
        for done, slide_id in enumerate(wanted):
            yield Event(phase="Writing regions", done=done, total=len(wanted))
            check_interrupted()  # of quick steps not every one is told
            project.save_regions(slide_id, after[slide_id])
            written.append(slide_id)
        check_interrupted()
        joined = [name for name in project.classes if name not in (*old_classes, *classes)]  # by an import meanwhile
        project.set_classes([*classes, *joined], colors)
    except BaseException as error:
        _put_back(project, {slide_id: before[slide_id] for slide_id in written}, error)
        if project.classes != old_classes:
            project.set_classes(old_classes, {name: old_colors[name] for name in old_classes})
        raise
    yield ClassesChanged(phase="Class changed", done=len(ids), total=len(ids), result=written)


def _put_back(project: ProjectFolder, before: Mapping[str, RegionSet], cause: BaseException) -> None:
    for slide_id, regions in before.items():
        try:
            project.save_regions(slide_id, regions)
        except SlideCorrError as error:
            raise ProjectError(
                f"{slide_id}: its regions have the new class and those of later slides the old one ({cause or 'cancelled'}); make room "
                "on the disk and change the class again."
            ) from error


def renamed_classes(project: ProjectFolder, old: str, new: str) -> tuple[list[str], dict[str, Color]]:
    """Give the project's classes and colours when one has another name, or is gone (empty).

    A renamed class keeps place and colour; one that becomes another class of the project gives up both.
    """
    there = new in (*project.classes, IGNORE)
    names = [new if name == old and not there else name for name in project.classes]
    names = [name for name in names if name and not (name == old and (there or not new))]
    colors = {new: project.colors[old]} if new and not there else {}
    return names, colors
