"""A project is a folder: which slides, their regions, the runs of training and the maps of prediction.

``project.json`` holds slides, classes and colours; ``regions/<slide id>.geojson`` the regions; ``runs/<name>/`` a
training each; ``maps/<slide id>/`` the maps. Every change is on the disk when the call returns.
"""

from __future__ import annotations

import json
import re
import shutil
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_slidecorr import io
from napari_slidecorr.cohort import CohortSlide, split_by_group
from napari_slidecorr.config import PatchConfig, PredictConfig, TrainConfig
from napari_slidecorr.errors import CohortError, ProjectError, RegionsError, SlideError
from napari_slidecorr.events import BlockDone, Event, Notice, Predicted
from napari_slidecorr.io.atomic import atomic_write_text, make_folder, write_error
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.patches import PatchSource, PatchTable, check_trainable, cut_patches
from napari_slidecorr.regions import IGNORE, Region, RegionSet, valid_polygons
from napari_slidecorr.slide import Slide

FORMAT = 1
FILE = "project.json"
MODEL_FILE = "model.json"

Color = tuple[int, int, int]

PALETTE: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (0, 0, 0),
)
"""Okabe and Ito's colours, told apart with every kind of colour vision; used in turn for new classes."""

IGNORE_COLOR: Color = (128, 128, 128)


class Project:
    """A project folder; make one with `create` or `open`.

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
    def create(cls, folder: str | Path, classes: Sequence[str] = ()) -> Project:
        """Make a new project in a folder that is empty or does not exist yet.

        Raises
        ------
        ProjectError
            If there is a project already, the folder cannot be written, or a class name cannot be used.
        """
        folder = Path(folder).absolute()
        if (folder / FILE).exists():
            raise ProjectError(f"{folder}: there is a project already; open it, or choose another folder.")
        project = cls(folder, (), _with_colors(classes, {}))
        make_folder(folder)
        project._save()
        return project

    @classmethod
    def open(cls, folder: str | Path) -> Project:
        """Open a project folder; slides and regions are read when they are asked for.

        Raises
        ------
        ProjectError
            If the folder is not a project, its file is damaged, or it was written by a newer version.
        """
        folder = Path(folder).absolute()
        slides, colors = _read(folder / FILE)
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
            slide_id = _unique_id(path, {*self._cohort, *added})
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
        for kept in (self._regions_path(slide_id), self.folder / "maps" / slide_id):
            if kept.exists():
                _move_into(kept, self.folder / "removed" / kept.parent.name)

    def set_mpp(self, slide_id: str, mpp: float | tuple[float, float] | None) -> None:
        """Give a slide the user's micrometres per pixel (y, x); None goes back to the file's."""
        pair = (float(mpp), float(mpp)) if isinstance(mpp, int | float) else mpp
        slide = replace(self._of(slide_id), mpp=pair)
        opened = io.open_slide(self._path(slide), mpp=pair, id=slide_id)
        self._save(cohort={**self._cohort, slide_id: slide})
        self._forget(slide_id)
        self._open[slide_id] = opened

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
                raise SlideError(f"Slide {slide_id}: {path} is missing; put it back, or remove the slide and add it again.")
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
        self._save(colors=_with_colors(names, {**self._colors, **(colors or {})}))

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
        there = {region.uid: region for region in old}
        new = [region for region in found.regions if there.get(region.uid) != region]
        fresh = RegionSet(tuple(Region(r.class_name, r.polygon) if r.uid in there else r for r in new))
        skipped = dict(found.skipped)
        if known := len(found.regions) - len(fresh):
            skipped["A region that is in the project already was left out."] = known
        self._add_classes(fresh.classes, class_colors(path))
        self.save_regions(slide_id, old.added(fresh))
        return io.RegionsFile(fresh, skipped)

    def patch_table(self, config: PatchConfig) -> PatchTable:
        """Cut the regions of all slides into patches; slides without regions are left out, no pixel is read.

        Raises
        ------
        SlideError
            If a slide cannot be opened, or has no pixel size and the config asks for one.
        """
        sources = []
        for known in self.cohort:
            if regions := self.regions(known.id).regions:
                slide = self.slide(known.id)
                footprint = config.geometry.footprint_px(slide.mpp, known.id)
                sources.append(PatchSource(known.id, slide.shape, footprint, _repaired(regions)))
        return cut_patches(sources, self.classes, config)

    # -- training and prediction ----------------------------------------------------------------------------------

    def train(self, config: TrainConfig, *, name: str | None = None, resume: bool = False) -> Iterator[Event]:
        """Train on the labelled regions; arguments are checked now, the work is done as the events are taken.

        Parameters
        ----------
        name : str, optional
            Of the run's folder; ``<objective>-<backbone>-<number>`` when left out.
        resume : bool
            Go on with a run that was stopped: the one named, else the newest that has no model yet.

        Returns
        -------
        iterator of Event
            The last is `Trained`.

        Raises
        ------
        CohortError
            If the regions do not allow a training with a slide-wise split.
        ProjectError
            If there is a run of that name already, or none to resume.
        """
        from napari_slidecorr.learning import training

        table = self.patch_table(config.patches)
        check_trainable(table, {slide.id: self.regions(slide.id) for slide in self.cohort})
        table, empty = _without_empty_classes(table)
        present = {
            slide: [table.classes[i] for i in np.flatnonzero(counts)]
            for slide, counts in zip(table.slides, table.counts(), strict=True)
        }
        groups = {slide.id: slide.group for slide in self.cohort if slide.id in present}
        split = split_by_group(groups, present, fraction=config.validation_fraction, seed=config.seed)
        run = self._run_folder(config, name, resume=resume)
        slides = {slide: self.slide(slide) for slide in (*split.train, *split.validation)}
        events = training.train(
            table.of_slides(split.train), table.of_slides(split.validation), slides, config, run=run, resume=resume
        )
        return _after_notices(_about_empty(empty), events)

    def runs(self) -> list[Path]:
        """The finished runs, from the oldest to the newest."""
        return sorted(
            (model.parent for model in (self.folder / "runs").glob(f"*/{MODEL_FILE}")),
            key=lambda run: ((run / MODEL_FILE).stat().st_mtime_ns, run.name),
        )

    def predict(
        self, slide_ids: Sequence[str], run: Path | None = None, config: PredictConfig | None = None
    ) -> Iterator[Event]:
        """Predict slides with the model of a run; a map that was begun goes on, one that is whole is read.

        Parameters
        ----------
        run : Path, optional
            A run's folder or its ``model.json``; the newest run when left out.

        Returns
        -------
        iterator of Event
            For each slide `BlockDone` events, each on the disk before it is given, then one `Predicted`.

        Raises
        ------
        ProjectError
            If there is no such slide or no run.
        SlideError
            If a slide cannot be opened, or has no pixel size and the model needs one.
        ModelError
            If the model cannot be read.
        """
        folder = self._run(run)
        spec = ModelSpec.load(folder / MODEL_FILE)
        slides = [self.slide(slide_id) for slide_id in slide_ids]
        for slide in slides:
            spec.geometry.footprint_px(slide.mpp, slide.id)
        return self._predict(slides, folder, config or PredictConfig())

    def maps(self, slide_id: str) -> list[Path]:
        """The finished maps of a slide, from the oldest to the newest."""
        from napari_slidecorr.io import map_zarr

        self._of(slide_id)
        found = [path for path in (self.folder / "maps" / slide_id).glob("*.ome.zarr") if map_zarr.is_complete(path)]
        return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))

    def export(self, map_path: str | Path, out: str | Path, *, threshold: float = 0.0) -> None:
        """Write a map elsewhere: as OME-Zarr (``.ome.zarr``) or QuPath polygons (``.geojson``), by the name.

        Raises
        ------
        MapError
            If the map is not complete, or the name is of no known kind.
        ProjectError
            If it cannot be written.
        """
        io.write_map(out, io.read_map(map_path), threshold=threshold, colors=self.colors)

    def map_path(self, slide_id: str, model_id: str, config: PredictConfig) -> Path:
        """Where the map of a slide by a model is kept; settings that change a map are part of its name."""
        name = model_id
        if config.overlap:
            name += f"-overlap{config.overlap:g}"
        if not config.tissue_only:
            name += "-all"
        return self.folder / "maps" / slide_id / f"{name}.ome.zarr"

    def _predict(self, slides: Sequence[Slide], run: Path, config: PredictConfig) -> Iterator[Event]:
        from napari_slidecorr.io.map_zarr import MapWriter
        from napari_slidecorr.learning.inference import predict, prediction_grid
        from napari_slidecorr.learning.models import load_model

        model, spec = load_model(run)
        for slide in slides:
            path = self.map_path(slide.id, spec.id, config)
            grid = prediction_grid(slide, spec, config)
            with MapWriter(
                path, spec.classes, grid, slide.id, spec.id, config.block_cells, colors=self.colors
            ) as writer:
                if blocks := writer.missing_blocks():
                    with closing(predict(slide, model, spec, config, blocks=blocks)) as events:
                        yield from _stored(events, writer, slide.id)
                writer.complete()
                yield Predicted(phase=f"{slide.id} predicted", result=writer.read(), path=path)

    # -- the folder -----------------------------------------------------------------------------------------------

    def _save(
        self, *, cohort: dict[str, CohortSlide] | None = None, colors: Mapping[str, Color] | None = None
    ) -> None:
        """Write what will be, and only then let it be."""
        cohort = self._cohort if cohort is None else cohort
        colors = self._colors if colors is None else dict(colors)
        atomic_write_text(self.folder / FILE, _to_json(cohort.values(), colors))
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

    def _run_folder(self, config: TrainConfig, name: str | None, *, resume: bool) -> Path:
        runs = self.folder / "runs"
        if name is not None and name != _safe(name):
            raise ProjectError(f"A run cannot be named {name!r}; {_safe(name)!r} would do.")
        if resume:
            stopped = [run for run in runs.glob(name or "*") if run.is_dir() and not (run / MODEL_FILE).exists()]
            if not stopped:
                raise ProjectError(f"{name or 'No run'}: nothing to resume in {runs}; start a new run.")
            return max(stopped, key=lambda run: run.stat().st_mtime_ns)
        if name is not None and (runs / name).exists():
            raise ProjectError(f"{name}: there is a run of that name; choose another name, or resume it.")
        start = _safe(f"{config.objective.kind}-{config.backbone}")
        number = next(n for n in range(1, 100_000) if not (runs / f"{start}-{n:03d}").exists())
        return runs / (name or f"{start}-{number:03d}")

    def _run(self, run: Path | None) -> Path:
        if run is not None:
            return run.parent if run.name == MODEL_FILE else run
        if not (finished := self.runs()):
            raise ProjectError(f"{self.folder.name}: there is no trained model yet; train one first.")
        return finished[-1]


def _stored(events: Iterator[Event], writer: Any, slide_id: str) -> Iterator[Event]:
    """Put each block on the disk before passing it on; the inner end is left out, the map on the disk is the result."""
    for event in events:
        if isinstance(event, BlockDone):
            writer.write(event)
            yield replace(event, slide_id=slide_id)
        elif not isinstance(event, Predicted):
            yield event


def _after_notices(notices: Sequence[Notice], events: Iterator[Event]) -> Iterator[Event]:
    with closing(events):  # type: ignore[type-var]
        yield from notices
        yield from events


def _about_empty(names: Sequence[str]) -> list[Notice]:
    return [
        Notice(phase="Cut patches", message=f"Class {name!r} has no patches and is left out of the model.", warning=True)
        for name in names
    ]


def _without_empty_classes(table: PatchTable) -> tuple[PatchTable, list[str]]:
    counts = table.counts().sum(axis=0)
    kept = np.flatnonzero(counts)
    classes = tuple(table.classes[i] for i in kept)
    label = np.searchsorted(kept, table.label).astype(np.int16)
    return replace(table, classes=classes, label=label), [table.classes[i] for i in np.flatnonzero(counts == 0)]


def _repaired(regions: Sequence[Region]) -> RegionSet:
    """Simple polygons only: outlines drawn across themselves cannot be cut into patches."""
    out = []
    for region in regions:
        parts = valid_polygons(region.polygon)
        whole = len(parts) == 1
        out += [Region(region.class_name, p, region.uid if whole else f"{region.uid}/{i}") for i, p in enumerate(parts)]
    return RegionSet(tuple(out))


def _with_colors(names: Sequence[str], colors: Mapping[str, Color]) -> dict[str, Color]:
    out: dict[str, Color] = {}
    for name in names:
        if name == IGNORE:
            continue
        if not name.strip() or name != name.strip() or any(unicodedata.category(c)[0] == "C" for c in name):
            raise ProjectError(f"A class cannot be named {name!r}; give it letters, and no space at its ends.")
        if name in out:
            raise ProjectError(f"Class {name!r} comes twice; give each class its own name.")
        free = (color for color in PALETTE if color not in {*colors.values(), *out.values()})
        out[name] = _checked_color(name, colors.get(name) or next(free, PALETTE[len(out) % len(PALETTE)]))
    return out


def _checked_color(name: str, color: Sequence[int]) -> Color:
    if len(color) != 3 or not all(0 <= part <= 255 for part in color):
        raise ProjectError(f"Class {name!r} has the colour {color}; it must be three numbers from 0 to 255.")
    return int(color[0]), int(color[1]), int(color[2])


def _unique_id(path: Path, taken: set[str]) -> str:
    """A name for a slide that is unique, also on disks which ignore case, and can be a file's name anywhere."""
    start = _safe(io.stem(path))
    folded = {name.casefold() for name in taken}
    names = (start if n == 1 else f"{start}-{n}" for n in range(1, len(taken) + 2))
    return next(name for name in names if name.casefold() not in folded)


def _safe(name: str) -> str:
    safe = re.sub(r"[^\w.\-]+", "_", unicodedata.normalize("NFC", name)).strip("._")[:100]
    reserved = re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", safe)
    return f"_{safe}" if reserved or not safe else safe


def _move_into(path: Path, folder: Path) -> None:
    make_folder(folder)
    target = next(t for n in range(1, 100_000) if not (t := folder / f"{n}-{path.name}").exists())
    try:
        shutil.move(path, target)
    except OSError as error:
        raise write_error(target, error) from error


def _to_json(slides: Iterable[CohortSlide], colors: Mapping[str, Color]) -> str:
    told = {
        "format": FORMAT,
        "classes": [{"name": name, "color": list(color)} for name, color in colors.items()],
        "slides": [{"id": s.id, "path": s.path, "group": s.group, "mpp": s.mpp} for s in slides],
    }
    return json.dumps(told, indent=2, ensure_ascii=False)


def _read(path: Path) -> tuple[list[CohortSlide], dict[str, Color]]:
    try:
        told = json.loads(path.read_text("utf-8"))
        version = told["format"]
        if version > FORMAT:
            raise ProjectError(
                f"{path}: this project has format {version}, written by a newer version; update napari-slidecorr."
            )
        colors = _with_colors([c["name"] for c in told["classes"]], {c["name"]: c["color"] for c in told["classes"]})
        return [_slide_from_json(values) for values in told["slides"]], colors
    except FileNotFoundError as error:
        raise ProjectError(f"{path.parent}: not a project, it has no {FILE}; create one there first.") from error
    except ProjectError:
        raise
    except OSError as error:
        raise ProjectError(f"{path}: cannot be read ({error.strerror}); check the folder.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProjectError(f"{path}: the project's file is damaged ({error}); take it from a backup.") from error


def _slide_from_json(values: Mapping[str, Any]) -> CohortSlide:
    mpp = values["mpp"]
    return CohortSlide(values["id"], values["path"], values["group"], None if mpp is None else (mpp[0], mpp[1]))
