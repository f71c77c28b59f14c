"""A project is a folder: which slides, their regions, the runs of training and the maps of prediction.

``project.json`` holds slides, classes and colours; ``regions/<slide id>.geojson`` the regions; ``runs/<name>/`` a
training each; ``maps/<slide id>/`` the maps; ``removed/`` what was taken out. Every change is on the disk when the call
returns.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from napari_slidecorr import io
from napari_slidecorr.config import PatchConfig, PredictConfig, TrainConfig
from napari_slidecorr.decision import Threshold
from napari_slidecorr.errors import ProjectError
from napari_slidecorr.events import BlockDone, Event, MapBegun, Notice, Predicted
from napari_slidecorr.geometry import Box
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.patches import PatchSource, PatchTable, check_trainable, cut_patches
from napari_slidecorr.project_file import safe_name
from napari_slidecorr.project_folder import ProjectFolder
from napari_slidecorr.regions import simple_regions
from napari_slidecorr.runs import CONFIG_NAME, RunRecord, free_runs, in_free_run, is_training, list_runs, settings_of
from napari_slidecorr.slide import Slide
from napari_slidecorr.torch_trouble import torch_trouble_told
from napari_slidecorr.training_plan import TrainingPlan, earlier_model
from napari_slidecorr.wanted import Wanted

if TYPE_CHECKING:
    from napari_slidecorr.io.map_zarr import MapWriter
    from napari_slidecorr.learning.models import PatchClassifier

MODEL_FILE = "model.json"


class Project(ProjectFolder):
    """A project folder and the work that is done on it; make one with `create` or `open`.

    Attributes
    ----------
    folder : Path
    """

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
                sources.append(PatchSource(known.id, slide.shape, footprint, simple_regions(regions)))
        return cut_patches(sources, self.classes, config)

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
        TrainingError
            At the first step, if another program trains in that folder.
        """
        with torch_trouble_told():
            from napari_slidecorr.learning import processes, training

        earlier = earlier_model(self.folder / "runs", config)
        plan = self.training_plan(config)
        split = plan.split(config, earlier)
        run = self._stopped_run(name) if resume else self._new_run(name) if name is not None else None
        free = free_runs(self.folder / "runs", safe_name(f"{config.objective.kind}-{config.backbone}"))
        if run is None and processes.is_started_together():  # all must name the same folder
            run = next(free)
        slides = {slide: self.slide(slide) for slide in (*split.train, *split.validation)}
        start = self.folder / "runs" / config.continue_from if earlier else None
        tables = plan.tables(split, config)

        def begin(run: Path) -> Iterator[Event]:
            return training.train(*tables, slides, config, run=run, resume=resume, start=start)

        events = in_free_run(free, begin) if run is None else begin(run)
        return _after_notices(plan.notices(split, slides, config), events)

    def training_plan(self, config: TrainConfig) -> TrainingPlan:
        """Cut the labelled regions into patches, to be divided for a training.

        Raises
        ------
        CohortError
            If there is nothing to train on.
        """
        table = self.patch_table(config.patches)
        check_trainable(table, {slide.id: self.regions(slide.id) for slide in self.cohort})
        groups = {slide.id: slide.group for slide in self.cohort}
        return TrainingPlan.of(table, groups, {slide: simple_regions(self.regions(slide)) for slide in table.slides})

    def stopped_settings(self, name: str | None = None) -> TrainConfig:
        """Give the settings of the run that ``train(..., resume=True)`` would go on with.

        Raises
        ------
        ProjectError
            If there is none.
        ConfigError
            If its ``config.json`` cannot be read.
        """
        return settings_of(self._stopped_run(name))

    def runs(self) -> list[Path]:
        """The finished runs, from the oldest to the newest."""
        return sorted(
            (model.parent for model in (self.folder / "runs").glob(f"*/{MODEL_FILE}")),
            key=lambda run: ((run / MODEL_FILE).stat().st_mtime_ns, run.name),
        )

    def run_records(self) -> list[RunRecord]:
        """All runs with their state, settings, curve and score, from the oldest to the newest."""
        return list_runs(self.folder / "runs")

    def predict(
        self,
        slide_ids: Sequence[str],
        run: str | Path | None = None,
        config: PredictConfig | None = None,
        *,
        wanted: Wanted | None = None,
        only_box: Box | None = None,
    ) -> Iterator[Event]:
        """Predict slides with the model of a run; a map that was begun goes on, one that is whole is read.

        Parameters
        ----------
        run : str or Path, optional
            A run's folder or its ``model.json``; the newest run when left out.
        wanted : Wanted, optional
            What is on the screen, asked before every batch: predicted first.
        only_box : Box, optional
            Level-0 pixels: only the blocks of the map that meet it are made, and the map stays incomplete.

        Returns
        -------
        iterator of Event
            For each slide one `MapBegun`, `BlockDone` events, each on the disk before it is given, and `Predicted`.

        Raises
        ------
        ProjectError
            If there is no such slide or no run.
        SlideError
            If a slide cannot be opened, or has no pixel size and the model needs one.
        ModelError
            If the model cannot be read.
        """
        folder = self.run_folder(run)
        spec = ModelSpec.load(folder / MODEL_FILE)
        slides = [self.slide(slide_id) for slide_id in slide_ids]
        for slide in slides:
            spec.geometry.footprint_px(slide.mpp, slide.id)
        return self._predict(slides, folder, config or PredictConfig(), wanted, only_box)

    def maps(self, slide_id: str) -> list[Path]:
        """The finished maps of a slide, from the oldest to the newest."""
        from napari_slidecorr.io import map_zarr

        self._of(slide_id)
        found = [path for path in (self.folder / "maps" / slide_id).glob("*.ome.zarr") if map_zarr.is_complete(path)]
        return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))

    def export(
        self, map_path: str | Path, out: str | Path, *, threshold: Threshold = None, smooth_um: float = 0.0
    ) -> None:
        """Write a map elsewhere, as the name says: see `io.write_map`.

        Raises
        ------
        MapError
            If the map is not complete, or the name is of no known kind.
        SlideError
            If a figure is wanted and the slide cannot be read.
        ProjectError
            If it cannot be written.
        """
        prediction = io.read_map(map_path)
        slide = self.slide(prediction.slide_id) if str(out).lower().endswith(".png") else None
        io.write_map(out, prediction, threshold=threshold, colors=self.colors, slide=slide, smooth_um=smooth_um)

    def map_path(self, slide_id: str, model_id: str, config: PredictConfig) -> Path:
        """Where the map of a slide by a model is kept; settings that change a map are part of its name."""
        name = model_id
        if config.overlap:
            name += f"-overlap{config.overlap:g}"
        if not config.tissue_only:
            name += "-all"
        if config.orientations:
            name += "-turned"
        return self.folder / "maps" / slide_id / f"{name}.ome.zarr"

    def _predict(
        self,
        slides: Sequence[Slide],
        run: Path,
        config: PredictConfig,
        wanted: Wanted | None,
        only_box: Box | None,
    ) -> Iterator[Event]:
        with torch_trouble_told():
            from napari_slidecorr.learning.inference import prediction_grid

        loaded = self.load_model(run)
        for slide in slides:
            prediction_grid(slide, loaded[1], config)
        for slide in slides:
            yield from self.predict_slide(slide, loaded, config, wanted=wanted, only_box=only_box)

    def load_model(self, run: Path) -> tuple[PatchClassifier, ModelSpec]:
        """Load the model of a run, to predict several slides one by one with `predict_slide`."""
        with torch_trouble_told():
            from napari_slidecorr.learning.kept_model import load_kept_model

        return load_kept_model(run)

    def predict_slide(
        self,
        slide: Slide,
        loaded: tuple[PatchClassifier, ModelSpec],
        config: PredictConfig,
        *,
        wanted: Wanted | None = None,
        only_box: Box | None = None,
    ) -> Generator[Event, None, None]:
        """Fill the map of one slide with a model that is loaded; events and errors as in `predict`.

        Raises
        ------
        MapError
            If another process is at it, or the slide has changed since the map was begun.
        """
        from napari_slidecorr.io.claim import claimed
        from napari_slidecorr.io.content_digest import content_digest
        from napari_slidecorr.io.map_zarr import MapWriter
        from napari_slidecorr.learning.inference import predict, prediction_grid
        from napari_slidecorr.learning.sweep import blocks_in

        model, spec = loaded
        path = self.map_path(slide.id, spec.id, config)
        about = spec.classes, prediction_grid(slide, spec, config), slide.id, spec.id
        digest, colors = content_digest(slide.path), self.colors
        with (
            claimed(path),
            MapWriter(
                path,
                *about,
                config.block_cells,
                colors=colors,
                slide_digest=digest,
                with_spread=config.orientations,
                bounds=spec.unsure_below,
            ) as writer,
        ):
            yield MapBegun(phase=f"Predict {slide.id}", begun=writer.read(), path=path)
            blocks = writer.missing_blocks()
            if only_box is not None:
                blocks = blocks_in(writer.grid, blocks, only_box)
            if blocks:
                work = predict(slide, model, spec, config, blocks=blocks, wanted=wanted)
                with _closed(work) as events:
                    yield from _stored(events, writer, slide.id)
            complete = only_box is None or not writer.missing_blocks()
            if complete:
                writer.complete()
            yield Predicted(phase=f"{slide.id} predicted", result=writer.read(), path=path, complete=complete)

    def _stopped_run(self, name: str | None) -> Path:
        runs = self.folder / "runs"
        if name is not None:
            _check_name(name)
        begun = (path.parent for path in runs.glob(f"{name or '*'}/{CONFIG_NAME}"))
        stopped = [run for run in begun if not (run / MODEL_FILE).exists() and (name or not is_training(run))]
        if not stopped:
            raise ProjectError(f"{name or 'No run'}: nothing to resume in {runs}; start a new run.")
        return max(stopped, key=lambda run: run.stat().st_mtime_ns)

    def _new_run(self, name: str) -> Path:
        _check_name(name)
        run = self.folder / "runs" / name
        if _is_begun(run):
            raise ProjectError(f"{name}: there is a run of that name; choose another name, or resume it.")
        return run

    def run_folder(self, run: str | Path | None = None) -> Path:
        """Give the folder of a run or of its ``model.json``; the newest finished run when left out.

        Raises
        ------
        ProjectError
            If there is no finished run.
        """
        if run is not None:
            return Path(run).parent if Path(run).name == MODEL_FILE else Path(run)
        if not (finished := self.runs()):
            raise ProjectError(f"{self.folder.name}: there is no trained model yet; train one first.")
        return finished[-1]


def _check_name(name: str) -> None:
    if name != safe_name(name):
        raise ProjectError(f"A run cannot be named {name!r}; {safe_name(name)!r} would do.")


def _is_begun(run: Path) -> bool:
    """Whether there is a run: one that was killed while its first file was written has left a part of that at most."""
    return run.is_dir() and any(path.suffix != ".part" for path in run.iterdir())


@contextmanager
def _closed(events: Iterator[Event]) -> Iterator[Iterator[Event]]:
    """Close inner work in the thread that stops it."""
    try:
        yield events
    finally:
        if isinstance(events, Generator):
            events.close()


def _stored(events: Iterator[Event], writer: MapWriter, slide_id: str) -> Iterator[Event]:
    """Put each block on the disk before passing it on; the inner end is left out, the map on the disk is the result."""
    for event in events:
        if isinstance(event, BlockDone):
            writer.write(event)
            yield replace(event, slide_id=slide_id)
        elif not isinstance(event, Predicted):
            yield event


def _after_notices(notices: Iterable[Notice], events: Iterator[Event]) -> Iterator[Event]:
    with _closed(events):
        yield from notices
        yield from events
