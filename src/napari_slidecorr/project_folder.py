"""What a project keeps on the disk of its slides: which there are, their classes and their regions."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Self

from napari_slidecorr import io
from napari_slidecorr.cohort import CohortSlide
from napari_slidecorr.errors import ProjectError, SlideError
from napari_slidecorr.io.atomic import atomic_write_text, make_folder, write_error
from napari_slidecorr.owned_folder import OwnedFolder
from napari_slidecorr.project_file import (
    FILE,
    IGNORE_COLOR,
    Color,
    project_json,
    read_project_file,
    stamp_of,
    unique_id,
    with_colors,
)
from napari_slidecorr.region_history import RegionState
from napari_slidecorr.region_import import ImportPlan, plan_import
from napari_slidecorr.region_store import RegionStore
from napari_slidecorr.region_transform import Transform
from napari_slidecorr.regions import IGNORE, RegionSet
from napari_slidecorr.slide import Slide

Cohort = dict[str, CohortSlide]


class ProjectFolder(OwnedFolder):
    """The slides, classes and regions of a project folder; see `napari_slidecorr.project.Project`.

    Attributes
    ----------
    folder : Path
    """

    def __init__(self, folder: Path, slides: Iterable[CohortSlide], colors: Mapping[str, Color]) -> None:
        super().__init__(folder)
        self._cohort = {slide.id: slide for slide in slides}
        self._colors = dict(colors)
        self._stamp = stamp_of(folder / FILE)
        self._open: dict[str, Slide] = {}
        self._store = RegionStore(folder)

    @classmethod
    def create(cls, folder: str | Path, classes: Sequence[str] = ()) -> Self:
        """Make a new project in a folder that holds none; it is made if missing, and other files in it are left alone.

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
        with project._change():
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
        stamp = stamp_of(folder / FILE)  # before it is read: what is written in between is then read again
        project = cls(folder, *read_project_file(folder / FILE))
        project._stamp = stamp
        return project

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
        self.check_writable()
        self._refresh()
        added: Cohort = {}
        opened: dict[str, Slide] = {}
        known = {self._path(slide).resolve() for slide in self.cohort}
        for path in (Path(path).absolute() for path in paths):
            if path.resolve() in known:
                raise ProjectError(f"{path.name}: this slide is in the project already; leave it out.")
            known.add(path.resolve())
            slide_id = unique_id(io.stem(path), {*self._cohort, *added})
            opened[slide_id] = io.open_slide(path, mpp=mpp, id=slide_id)
            user_mpp = opened[slide_id].mpp if mpp is not None else None
            added[slide_id] = CohortSlide(slide_id, self._stored(path), (group or "").strip() or slide_id, user_mpp)
        with self._change():
            if taken := [slide_id for slide_id in added if slide_id in self._cohort]:
                raise ProjectError(f"{taken[0]}: a slide of this name was added in the meantime; add it again.")
            self._save(cohort={**self._cohort, **added})
        self._open.update(opened)
        return list(added.values())

    def slide_path(self, slide_id: str) -> Path:
        """Where the file of a slide is, or was."""
        return self._path(self._of(slide_id))

    def remove_slide(self, slide_id: str) -> None:
        """Take a slide out; its regions and maps are moved to the folder ``removed``, its file is left alone."""
        with self._change():
            self._of(slide_id)
            self._save(cohort={key: slide for key, slide in self._cohort.items() if key != slide_id})
            self._forget(slide_id)
            self._store.forget(slide_id)
            self._put_aside(self._store.path(slide_id))
            self._put_aside(self._store.history_folder(slide_id))
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
        user_mpp = None if mpp is None else opened.mpp
        with self._change():
            self._save(cohort={**self._cohort, slide_id: replace(self._of(slide_id), mpp=user_mpp)})
            self._forget(slide_id)
            self._open[slide_id] = opened
            if user_mpp != old.mpp:
                self._put_aside(self.folder / "maps" / slide_id)

    def set_group(self, slide_id: str, group: str) -> None:
        """Say to whom a slide belongs; an empty name means the slide alone."""
        with self._change():
            slide = replace(self._of(slide_id), group=group.strip() or slide_id)
            self._save(cohort={**self._cohort, slide_id: slide})

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

    @contextmanager
    def lent_slide(self, slide_id: str) -> Iterator[Slide]:
        """Give a slide for a while; unless it was open before, it is closed again and its memory free.

        Raises
        ------
        SlideError
            If its file is missing or damaged; says where it was looked for.
        """
        was_open = slide_id in self._open
        try:
            yield self.slide(slide_id)
        finally:
            if not was_open:
                self._forget(slide_id)

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
        with self._change():
            self._save(colors=with_colors(names, {**self._colors, **(colors or {})}))

    def regions(self, slide_id: str) -> RegionSet:
        """The regions of a slide.

        Raises
        ------
        RegionsError
            If their file was damaged; says how to bring the newest whole state back.
        """
        self._of(slide_id)
        return self._store.read(slide_id)

    def save_regions(self, slide_id: str, regions: RegionSet) -> None:
        """Put the regions of a slide on the disk, whole or not at all; classes that are new join the project's.

        What they were before can be brought back; see `region_states`.

        Raises
        ------
        ProjectError
            If they cannot be written, or a class name cannot be used.
        """
        with self._change():
            self._of(slide_id)
            self._add_classes(regions.classes, {})
            self._store.write(slide_id, regions, self.colors)

    @property
    def history_trouble(self) -> str:
        """Why the last saved regions are on the disk, but not among the states; empty when they are."""
        return self._store.history_trouble

    def region_states(self, slide_id: str) -> tuple[RegionState, ...]:
        """The last 50 states of a slide's regions, newest first; their regions are not read."""
        self._of(slide_id)
        return self._store.history(slide_id).states()

    def regions_at(self, slide_id: str, state: RegionState | str) -> RegionSet:
        """The regions of a state, given itself or by its name.

        Raises
        ------
        RegionsError
            If there is no such state, or it is damaged.
        """
        self._of(slide_id)
        return self._store.history(slide_id).read(state if isinstance(state, str) else state.name)

    def restore_regions(self, slide_id: str, state: RegionState | str) -> RegionSet:
        """Bring a state back; what it replaces is a state too, so that this can be undone.

        A regions file that is damaged is kept beside as ``<slide id>.geojson.damaged``.

        Raises
        ------
        RegionsError
            If there is no such state, or it is damaged.
        ProjectError
            If it cannot be written.
        """
        regions = self.regions_at(slide_id, state)
        self.save_regions(slide_id, regions)
        return regions

    def import_regions(
        self,
        slide_id: str,
        path: str | Path,
        *,
        transform: Transform | None = None,
        mapping: Mapping[str, str | None] | None = None,
    ) -> io.RegionsFile:
        """Add the regions of a file to those of a slide; what is there already is not added again.

        New classes join the project's, with the file's colours; a class that differs from one of the project's only in
        capitals becomes that one, and QuPath's ``Ignore*`` becomes ``ignore``. To look before, see
        `napari_slidecorr.region_import.plan_import`.

        Parameters
        ----------
        transform : Transform, optional
            How the file's coordinates are changed.
        mapping : dict of str to (str or None), optional
            Classes of the file that become others of the project; None leaves their regions out.

        Returns
        -------
        RegionsFile
            The regions that were added, and what was left out, mended or decided.

        Raises
        ------
        RegionsError
            If the file cannot be read, or all of it lies outside of the slide; nothing is changed then.
        """
        plan = self.plan_import(slide_id, path, tissue=False).with_transform(transform).with_mapping(mapping or {})
        return self.import_planned(slide_id, plan)

    def plan_import(self, slide_id: str, path: str | Path, *, tissue: bool = True) -> ImportPlan:
        """Say what importing a file to a slide would do; nothing is changed.

        Raises
        ------
        RegionsError
            If the file cannot be read.
        """
        try:
            slide: Slide | None = self.slide(slide_id)
        except SlideError:  # regions can be read and kept while the slide is away
            slide = None
        return plan_import(path, slide, self.regions(slide_id), self.classes, tissue=tissue)

    def import_planned(self, slide_id: str, plan: ImportPlan) -> io.RegionsFile:
        """Do what a plan says, all of it or nothing.

        Raises
        ------
        RegionsError
            If all of it lies outside of the slide.
        ProjectError
            If it cannot be written.
        """
        with self._change():
            regions = plan.apply(self.regions(slide_id))
            colors = self._colors
            self._add_classes(plan.regions.classes, plan.colors)
            try:
                self.save_regions(slide_id, regions)
            except ProjectError:
                self._save(colors=colors)
                raise
        return io.RegionsFile(plan.regions, plan.skipped, plan.repaired, plan.notes, plan.colors, plan.format)

    # -- the folder -----------------------------------------------------------------------------------------------

    def _save(self, *, cohort: Cohort | None = None, colors: Mapping[str, Color] | None = None) -> None:
        """Write what will be, and only then let it be."""
        cohort = self._cohort if cohort is None else cohort
        colors = self._colors if colors is None else dict(colors)
        atomic_write_text(self.folder / FILE, project_json(cohort.values(), colors))
        self._stamp = stamp_of(self.folder / FILE)
        self._cohort, self._colors = cohort, dict(colors)

    def _refresh(self) -> None:
        """Take over what another program has written in the meantime."""
        stamp = stamp_of(self.folder / FILE)
        if stamp in (None, self._stamp):
            return
        slides, self._colors = read_project_file(self.folder / FILE)
        now = {slide.id: slide for slide in slides}
        for slide_id, slide in self._cohort.items():
            if now.get(slide_id) != slide:
                self._forget(slide_id)
        self._cohort, self._stamp = now, stamp

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
