"""What importing a file of regions would do to a slide, before it is done: `plan_import` looks, `ImportPlan.apply` gives.

Nothing is written here, and nothing but the file and a coarse level of the slide is read. A plan never changes:
`ImportPlan.with_transform` and `ImportPlan.with_mapping` give another one, without reading again.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import shapely

from napari_slidecorr import io
from napari_slidecorr.errors import RegionsError, SlideError
from napari_slidecorr.io import RegionsFile
from napari_slidecorr.project_file import tidy_name
from napari_slidecorr.region_fit import POOR, Cloud, SlideFacts, Suggestion, suggestions
from napari_slidecorr.region_transform import IDENTITY, Transform
from napari_slidecorr.regions import IGNORE, Region, RegionSet
from napari_slidecorr.slide import Slide

QUPATH_IGNORE = "Ignore*"
"""QuPath's own class for what must not count."""

KNOWN = "A region that is in the project already was left out."
OUTSIDE = "A region that lies wholly outside of the slide was left out."
UNWANTED = "A region of class {!r} was left out, as asked for."


@dataclass(frozen=True)
class ClassPlan:
    """What becomes of one class of the file.

    Attributes
    ----------
    name : str
        As in the file; empty for regions without a class.
    project_class : str or None
        The class that its regions get, empty for none; None leaves them out.
    is_new : bool
        Whether the project does not have that class yet.
    regions : int
        How many of them the file holds.
    area_px : float
        Their area in level-0 pixels, with the plan's transform.
    """

    name: str
    project_class: str | None
    is_new: bool
    regions: int
    area_px: float


@dataclass(frozen=True)
class ImportPlan:
    """What an import would do.

    Attributes
    ----------
    path : Path
    format : str
        What wrote the file, for a person to read.
    regions : RegionSet
        What would be added: transformed, with the project's classes, without what is left out.
    classes : tuple of ClassPlan
        The file's classes in the order of first use, each with what it becomes.
    skipped, repaired, notes : dict of str to int
        A sentence for each kind of thing left out, mended or decided, and how often.
    colors : dict of str to (int, int, int)
        Colours, 0 to 255, that the file gives to the classes in `regions`, under their names in the project.
    on_tissue : float or None
        Share of the regions' area on tissue, 0 to 1; None without a slide, or one whose tissue cannot be seen.
    outside : float or None
        Share of the regions' area outside of the slide; None without a slide.
    transform : Transform
        How the file's coordinates are changed; the identity at first.
    suggestions : tuple of Suggestion
        Transforms with which far more would lie on tissue than with the file's own coordinates, best first.
    mapping : dict of str to (str or None)
        Class of the file -> class of the project, all of them; see `with_mapping`.
    """

    path: Path
    format: str
    regions: RegionSet
    classes: tuple[ClassPlan, ...]
    skipped: dict[str, int]
    repaired: dict[str, int]
    notes: dict[str, int]
    colors: dict[str, tuple[int, int, int]]
    on_tissue: float | None
    outside: float | None
    transform: Transform
    suggestions: tuple[Suggestion, ...]
    mapping: dict[str, str | None]
    _known: _Known = field(repr=False)

    @property
    def poor(self) -> bool:
        """Whether less than half of the area lies on tissue, or more than half outside: look before you import."""
        return (self.on_tissue is not None and self.on_tissue < POOR) or (self.outside or 0.0) > 1 - POOR

    def with_transform(self, transform: Transform | None) -> ImportPlan:
        """Give the plan with the file's coordinates changed in this way, not on top of another; None for as they are.

        Raises
        ------
        RegionsError
            If it flips and the plan was made without a slide.
        """
        return _plan(self._known, transform or IDENTITY, self.mapping)

    def with_mapping(self, mapping: Mapping[str, str | None]) -> ImportPlan:
        """Give the plan with other classes for some of the file's.

        Parameters
        ----------
        mapping : dict of str to (str or None)
            Class of the file -> class of the project, new or not. Empty means without a class, None leaves the regions
            out; those not named stay as they are.

        Raises
        ------
        RegionsError
            If the file has no such class.
        """
        there = [one.name for one in self.classes]
        if unknown := [name for name in mapping if name not in there]:
            has = ", ".join(name or "(no class)" for name in there) or "none"
            raise RegionsError(f"{self.path.name}: it has no class {unknown[0]!r}; its classes are: {has}.")
        tidy = {name: None if new is None else tidy_name(new) for name, new in mapping.items()}
        return _plan(self._known, self.transform, {**self.mapping, **tidy})

    def apply(self, existing: RegionSet | None = None) -> RegionSet:
        """Give the slide's regions with the new ones behind; nothing is written.

        Parameters
        ----------
        existing : RegionSet, optional
            The slide's regions now, if they may have changed; those the plan was made with when left out.

        Raises
        ------
        RegionsError
            If every region of the file lies outside of the slide.
        """
        lost = self.skipped.get(OUTSIDE, 0)
        if lost and not self.regions and lost == len(self._known.found.regions):
            y0, x0, _, _ = self.transform.polygon(
                self._known.found.regions.regions[0].polygon, self._known.shape
            ).bounds
            height, width = self._known.shape or (0, 0)
            advice = f"try: {self.suggestions[0].transform.text}" if self.suggestions else "choose its own slide"
            raise RegionsError(
                f"{self.path.name}: all {lost} regions lie outside of the slide; region 1 begins at x {x0:.0f}, "
                f"y {y0:.0f}, and the slide has {width} x {height} pixels; {advice}."
            )
        old = self._known.existing if existing is None else existing
        return old.added(not_in(old, self.regions.regions))


@dataclass(frozen=True, eq=False)
class _Known:
    """What was read, once, and every plan is made from."""

    path: Path
    found: RegionsFile
    slide: SlideFacts | None
    cloud: Cloud
    existing: RegionSet
    classes: tuple[str, ...]
    suggestions: tuple[Suggestion, ...]

    @property
    def shape(self) -> tuple[int, int] | None:
        return self.slide.shape if self.slide else None


def plan_import(
    path: str | Path,
    slide: Slide | None = None,
    existing: RegionSet | None = None,
    classes: Sequence[str] = (),
    *,
    tissue: bool = True,
) -> ImportPlan:
    """Read a file of regions and say what importing it would do.

    Parameters
    ----------
    path : str or Path
        Of any format that `napari_slidecorr.io.read_regions` knows.
    slide : Slide, optional
        The slide that they belong to; without it nothing is said of tissue and outside.
    existing : RegionSet, optional
        The regions that the slide has.
    classes : sequence of str
        The project's classes; a class of the file that differs from one of them only in capitals and spaces becomes it.
    tissue : bool
        Whether to look for tissue, which reads a coarse level of the slide.

    Raises
    ------
    RegionsError
        If the file cannot be read; one sentence that names it.
    """
    path = Path(path)
    found = io.read_regions(path, slide=slide)
    facts, trouble = _facts(slide, tissue=tissue)
    found = found._replace(notes={**found.notes, **trouble})
    cloud = Cloud([region.polygon for region in found.regions])
    better = suggestions(cloud, facts) if facts else ()
    known = _Known(path, found, facts, cloud, existing or RegionSet(), tuple(classes), better)
    names = dict.fromkeys(region.class_name for region in found.regions)
    return _plan(known, IDENTITY, {name: proposed_class(name, classes) for name in names})


def in_whole_picture(regions: RegionSet, slide: Slide) -> RegionSet:
    """Give regions as programs want them that count from the whole picture of a file, not from where the scan begins."""
    y, x = slide.origin_px
    return RegionSet(tuple(_moved(regions.regions, Transform(offset=(float(y), float(x))), slide.shape)))


def proposed_class(name: str, classes: Sequence[str]) -> str:
    """Give the project's class that a class of a file most likely means: the same but for capitals and spaces."""
    if name == QUPATH_IGNORE:
        return IGNORE
    tidy = tidy_name(name)
    same = [known for known in (*classes, IGNORE) if known == tidy]
    like = [known for known in (*classes, IGNORE) if known.casefold() == tidy.casefold()]
    return (same or like or [tidy])[0]


def _facts(slide: Slide | None, *, tissue: bool) -> tuple[SlideFacts | None, dict[str, int]]:
    """Look at the slide; one that is damaged is judged by its size alone, and that is told."""
    if slide is None:
        return None, {}
    try:
        return SlideFacts.of(slide, tissue=tissue), {}
    except SlideError as error:
        return SlideFacts.of(slide, tissue=False), {f"Nothing is known of the tissue: {error}": 1}


def _plan(known: _Known, transform: Transform, mapping: Mapping[str, str | None]) -> ImportPlan:
    moved = _moved(known.found.regions.regions, transform, known.shape)
    skipped = Counter(known.found.skipped)
    wanted = _mapped(moved, mapping, skipped)
    inside = _inside(wanted, known.shape, skipped)
    fresh = not_in(known.existing, inside)
    skipped[KNOWN] += len(inside) - len(fresh)
    on_tissue, outside = known.cloud.shares(transform, known.slide) if known.slide else (None, None)
    colors = {new: known.found.colors[old] for old, new in mapping.items() if new and old in known.found.colors}
    return ImportPlan(
        path=known.path,
        format=known.found.format,
        regions=fresh,
        classes=_class_plans(moved, mapping, known.classes),
        skipped={reason: count for reason, count in skipped.items() if count},
        repaired=dict(known.found.repaired),
        notes=dict(known.found.notes),
        colors=colors,
        on_tissue=on_tissue,
        outside=outside,
        transform=transform,
        suggestions=known.suggestions,
        mapping=dict(mapping),
        _known=known,
    )


def _moved(regions: Sequence[Region], transform: Transform, shape: tuple[int, int] | None) -> Sequence[Region]:
    if not transform.steps:
        return regions
    polygons = transform.polygons([region.polygon for region in regions], shape)
    return [replace(region, polygon=polygon) for region, polygon in zip(regions, polygons, strict=True)]


def _class_plans(
    moved: Sequence[Region], mapping: Mapping[str, str | None], classes: Sequence[str]
) -> tuple[ClassPlan, ...]:
    counts, areas = Counter[str](), Counter[str]()
    for region in moved:
        counts[region.class_name] += 1
        areas[region.class_name] += region.area_px  # type: ignore[assignment]
    there = {*classes, IGNORE, "", None}
    return tuple(ClassPlan(name, new, new not in there, counts[name], areas[name]) for name, new in mapping.items())


def _mapped(moved: Sequence[Region], mapping: Mapping[str, str | None], skipped: Counter[str]) -> list[Region]:
    out = []
    for region in moved:
        name = mapping[region.class_name]
        if name is None:
            skipped[UNWANTED.format(region.class_name)] += 1
        else:
            out.append(region if name == region.class_name else region.reclassed(name))
    return out


def _inside(regions: list[Region], shape: tuple[int, int] | None, skipped: Counter[str]) -> list[Region]:
    """The regions that touch the slide."""
    if shape is None or not regions:
        return regions
    slide = shapely.box(0, 0, *shape)
    touching = shapely.intersects(slide, np.asarray([region.polygon for region in regions], dtype=object))
    skipped[OUTSIDE] += int((~touching).sum())
    return [region for region, touches in zip(regions, touching, strict=True) if touches]


def not_in(old: RegionSet, found: Sequence[Region]) -> RegionSet:
    """The regions that are new; one that has the uid of another gets its own, the same at each import."""
    there = {region.uid: region for region in old}
    new = []
    for region in found:
        if (known := there.get(region.uid)) and known != region:
            content = f"{region.uid} {region.class_name} {region.polygon.wkt}"
            region = replace(region, uid=str(uuid.uuid5(uuid.NAMESPACE_OID, content)))  # noqa: PLW2901
        if region.uid not in there:
            new.append(region)
    return RegionSet(tuple(new))
