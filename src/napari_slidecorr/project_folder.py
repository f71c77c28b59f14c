"""What a project keeps on the disk of its slides: which there are, their classes and their regions."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from napari_slidecorr import io
from napari_slidecorr.cohort import CohortSlide
from napari_slidecorr.errors import ProjectError, SlideError
from napari_slidecorr.io.atomic import atomic_write_text, make_folder, write_error
from napari_slidecorr.project_file import (
    FILE,
    IGNORE_COLOR,
    Color,
    project_json,
    read_project_file,
    tidy_name,
    unique_id,
    with_colors,
)
from napari_slidecorr.regions import IGNORE, Region, RegionSet
from napari_slidecorr.slide import Slide

QUPATH_IGNORE = "Ignore*"
"""QuPath's own class for what must not count."""


class ProjectFolder:
    """The slides, classes and regions of a project folder; see `napari_slidecorr.project.Project`.

    Attributes
    ----------
    folder : Path
    """

    def __init__(self, folder: Path, slides: Iterable[CohortSlide], colors: Mapping[str, Color]) -> None:
        self.folder = folder
        self._cohort = {slide.id: slide for slide in slides}
        self._colors = dict(colors)
        self._open: dict[str, Slide] = {}
        self._regions: dict[str, RegionSet] = {}

    @classmethod
    def create(cls, folder: str | Path, classes: Sequence[str] = ()) -> Self:
        """Make a new project in a folder that is empty or does not exist yet.

        Raises
        ------
        ProjectError
            If there is a project already, the folder cannot be written, or a class name cannot be used.
        """
        folder = Path(folder).absolute()
        if (folder / FILE).exists():
            raise ProjectError(f"{folder}: there is a project already; open it, or choose another folder.")
        project = cls(folder, (), with_colors(classes, {}))
        make_folder(folder)
        project._save()
        return project

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open a project folder; slides and regions are read when they are asked for.

        Raises
        ------
        ProjectError
            If the folder is not a project, its file is damaged, or it was written by a newer version.
        """
        folder = Path(folder).absolute()
        slides, colors = read_project_file(folder / FILE)
        return cls(folder, slides, colors)

    # -- slides ---------------------------------------------------------------------------------------------------

    @property
    def cohort(self) -> tuple[CohortSlide, ...]:
        """The slides in the order in which they were added."""
        return tuple(self._cohort.values())

    def add_slides(
        self,
        paths: Iterable[str | Path],
        *,
        mpp: float | tuple[float, float] | None = None,
        group: str | None = None,
    ) -> list[CohortSlide]:
        """Add slides, all or none; each is opened once to see that it can be.

        Parameters
        ----------
        mpp : float or (float, float), optional
            Micrometres per pixel (y, x) for files that have none or a wrong one.
        group : str, optional
            The patient, when they all belong to one; each slide's own id when left out.

        Raises
        ------
        SlideError
            If a file cannot be opened; names it, and nothing is added.
        ProjectError
            If a file is in the project already.
        """
        added: dict[str, CohortSlide] = {}
        opened: dict[str, Slide] = {}
        known = {self._path(slide).resolve() for slide in self.cohort}
        for path in (Path(path).absolute() for path in paths):
            if path.resolve() in known:
                raise ProjectError(f"{path.name}: this slide is in the project already; leave it out.")
            known.add(path.resolve())
            slide_id = unique_id(io.stem(path), {*self._cohort, *added})
            opened[slide_id] = io.open_slide(path, mpp=mpp, id=slide_id)
            user_mpp = opened[slide_id].mpp if mpp is not None else None
            added[slide_id] = CohortSlide(slide_id, self._stored(path), group or slide_id, user_mpp)
        self._save(cohort={**self._cohort, **added})
        self._open.update(opened)
        return list(added.values())

    def remove_slide(self, slide_id: str) -> None:
        """Take a slide out; its regions and maps are moved to the folder ``removed``, its file is left alone."""
        self._of(slide_id)
        self._save(cohort={key: slide for key, slide in self._cohort.items() if key != slide_id})
        self._forget(slide_id)
        self._regions.pop(slide_id, None)
        self._put_aside(self._regions_path(slide_id))
        self._put_aside(self.folder / "maps" / slide_id)

    def set_mpp(self, slide_id: str, mpp: float | tuple[float, float] | None) -> None:
        """Give a slide the user's micrometres per pixel (y, x); None goes back to the file's.

        Maps that were made with another size no longer fit and are moved to the folder ``removed``.

        Raises
        ------
        SlideError
            If it is not a size, or the slide cannot be opened.
        """
        old = self._of(slide_id)
        opened = io.open_slide(self._path(old), mpp=mpp, id=slide_id)
        slide = replace(old, mpp=None if mpp is None else opened.mpp)
        self._save(cohort={**self._cohort, slide_id: slide})
        self._forget(slide_id)
        self._open[slide_id] = opened
        if slide != old:
            self._put_aside(self.folder / "maps" / slide_id)

    def set_group(self, slide_id: str, group: str) -> None:
        """Say to whom a slide belongs; an empty name means the slide alone."""
        self._save(cohort={**self._cohort, slide_id: replace(self._of(slide_id), group=group.strip() or slide_id)})

    def slide(self, slide_id: str) -> Slide:
        """Give a slide, opened at the first call and kept.

        Raises
        ------
        SlideError
            If its file is missing or damaged; says where it was looked for.
        """
        known = self._of(slide_id)
        if slide_id not in self._open:
            path = self._path(known)
            if not path.exists():
                raise SlideError(
                    f"Slide {slide_id}: {path} is missing; put it back, or remove the slide and add it again."
                )
            self._open[slide_id] = io.open_slide(path, mpp=known.mpp, id=slide_id)
        return self._open[slide_id]

    # -- classes and regions --------------------------------------------------------------------------------------

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their labels; ``ignore`` is always there and not among them."""
        return tuple(self._colors)

    @property
    def colors(self) -> dict[str, Color]:
        """The colour of each class, and of ``ignore``."""
        return {**self._colors, IGNORE: IGNORE_COLOR}

    def set_classes(self, names: Sequence[str], colors: Mapping[str, Color] | None = None) -> None:
        """Set the classes and their order; regions of a class that is no longer there stay, but are not trained on.

        Raises
        ------
        ProjectError
            If a name is empty, comes twice or has a control character, or a colour is not three numbers 0 to 255.
        """
        self._save(colors=with_colors(names, {**self._colors, **(colors or {})}))

    def regions(self, slide_id: str) -> RegionSet:
        """The regions of a slide.

        Raises
        ------
        RegionsError
            If their file was damaged.
        """
        self._of(slide_id)
        if slide_id not in self._regions:
            path = self._regions_path(slide_id)
            self._regions[slide_id] = io.read_regions(path).regions if path.exists() else RegionSet()
        return self._regions[slide_id]

    def save_regions(self, slide_id: str, regions: RegionSet) -> None:
        """Put the regions of a slide on the disk, whole or not at all; classes that are new join the project's.

        Raises
        ------
        ProjectError
            If they cannot be written, or a class name cannot be used.
        """
        self._of(slide_id)
        self._add_classes(regions.classes, {})
        path = self._regions_path(slide_id)
        make_folder(path.parent)
        io.write_regions(path, regions, colors=self.colors)
        self._regions[slide_id] = regions

    def import_regions(self, slide_id: str, path: str | Path) -> io.RegionsFile:
        """Add the regions of a file to those of a slide; what is there already is not added again.

        New classes join the project's, with the file's colours; QuPath's ``Ignore*`` becomes ``ignore``.

        Returns
        -------
        RegionsFile
            The regions that were added, and what was left out.

        Raises
        ------
        RegionsError
            If the file cannot be read.
        """
        from napari_slidecorr.io.regions_geojson import class_colors

        path = Path(path)
        found = io.read_regions(path)
        old = self.regions(slide_id)
        fresh = _not_in(old, [region.reclassed(_imported_name(region.class_name)) for region in found.regions])
        skipped = dict(found.skipped)
        if known := len(found.regions) - len(fresh):
            skipped["A region that is in the project already was left out."] = known
        self._add_classes(fresh.classes, class_colors(path))
        self.save_regions(slide_id, old.added(fresh))
        return io.RegionsFile(fresh, skipped)

    # -- the folder -----------------------------------------------------------------------------------------------

    def _save(self, *, cohort: dict[str, CohortSlide] | None = None, colors: Mapping[str, Color] | None = None) -> None:
        """Write what will be, and only then let it be."""
        cohort = self._cohort if cohort is None else cohort
        colors = self._colors if colors is None else dict(colors)
        atomic_write_text(self.folder / FILE, project_json(cohort.values(), colors))
        self._cohort, self._colors = cohort, dict(colors)

    def _of(self, slide_id: str) -> CohortSlide:
        if slide_id not in self._cohort:
            there = ", ".join(self._cohort) or "none yet"
            raise ProjectError(f"There is no slide {slide_id!r} in {self.folder.name}; its slides are: {there}.")
        return self._cohort[slide_id]

    def _path(self, slide: CohortSlide) -> Path:
        return self.folder / slide.path

    def _stored(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else str(path)

    def _forget(self, slide_id: str) -> None:
        if opened := self._open.pop(slide_id, None):
            opened.close()

    def _regions_path(self, slide_id: str) -> Path:
        return self.folder / "regions" / f"{slide_id}.geojson"

    def _add_classes(self, names: Sequence[str], colors: Mapping[str, Color]) -> None:
        if new := [name for name in names if name not in self._colors and name != IGNORE]:
            self.set_classes([*self.classes, *new], {name: colors[name] for name in new if name in colors})

    def _put_aside(self, path: Path) -> None:
        """Move what no longer counts to ``removed``, under a number of its own."""
        if not path.exists():
            return
        folder = self.folder / "removed" / path.parent.name
        make_folder(folder)
        target = next(t for n in range(1, 100_000) if not (t := folder / f"{n}-{path.name}").exists())
        try:
            shutil.move(path, target)
        except OSError as error:
            raise write_error(target, error) from error


def _imported_name(name: str) -> str:
    return IGNORE if name == QUPATH_IGNORE else tidy_name(name)


def _not_in(old: RegionSet, found: Sequence[Region]) -> RegionSet:
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
