"""From what a dock asks for to the stream of events of it; called in the thread of a job."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path

from napari_slidecorr._napari.torch_door import load_torch_for_job
from napari_slidecorr._napari.training_form import Rounds
from napari_slidecorr.comparison_table import common_settings
from napari_slidecorr.config import TrainConfig
from napari_slidecorr.events import Event, Notice
from napari_slidecorr.fast_config import FastConfig
from napari_slidecorr.project import Project
from napari_slidecorr.runs import settings_of
from napari_slidecorr.stored_runs import RunGroup, Stored, fast_settings

MakeEvents = Callable[[], Iterator[Event]]
WEIGHTS_NAME = "model.safetensors"


def new_training(project: Project, config: TrainConfig | FastConfig, rounds: Rounds, folds: int) -> MakeEvents:
    """Train anew: a head, the network, or the network once for each fold."""

    def events() -> Iterator[Event]:
        load_torch_for_job()
        if isinstance(config, FastConfig):
            from napari_slidecorr.fast_project import fast_train

            return fast_train(project, config)
        if rounds == "once":
            return project.train(config)
        from napari_slidecorr.cross_validation import cross_validate

        return cross_validate(project, config, folds=folds if rounds == "folds" else None)

    return events


def new_comparison(
    project: Project, base: TrainConfig, variants: tuple[str, ...], seeds: int, *, same_split: bool
) -> MakeEvents:
    """Train variants side by side."""

    def events() -> Iterator[Event]:
        load_torch_for_job()
        from napari_slidecorr.comparison import compare

        common = common_settings(base)
        work = compare(project, common, variants, seeds=seeds, same_split=same_split)
        return work if common == base else _noticed(work)

    return events


def _noticed(events: Iterator[Event]) -> Generator[Event, None, None]:
    message = "Colour jitter, stain and split are parts of a variant here: those of the form are left out."
    yield Notice(phase="Preparing", message=message)
    yield from events


def resumed(project: Project, stored: Stored, config: TrainConfig) -> MakeEvents:
    """Go on with what was stopped or failed, with its own settings."""

    def events() -> Iterator[Event]:
        load_torch_for_job()
        if not isinstance(stored, RunGroup):
            return project.train(config, name=stored.name, resume=True)
        if stored.kind == "folds":
            from napari_slidecorr.cross_validation import cross_validate, folds_settings

            settings, folds = folds_settings(stored.folder)
            return cross_validate(project, settings, folds=folds, name=stored.name, resume=True)
        from napari_slidecorr.comparison import compare, comparison_settings

        settings, variants, seeds, same_split = comparison_settings(stored.folder)
        return compare(project, settings, variants, seeds=seeds, same_split=same_split, name=stored.name, resume=True)

    return events


def onward(run: Path, runs: Path) -> tuple[TrainConfig, str]:
    """Give the settings of a training that starts from a finished run, and say in words what they are.

    Parameters
    ----------
    runs : Path
        The project's; a run elsewhere lends its weights only.

    Raises
    ------
    ConfigError
        If the run's settings cannot be read.
    """
    settings, weights = settings_of(run), str(run / WEIGHTS_NAME)
    if fast_settings(run) is not None:
        told = "the whole network is trained, from its backbone; its head, which has seen all slides, is fitted anew without those held out"
        return replace(settings, weights=weights, fit_head_first=True), told
    if run.is_relative_to(runs) and settings.split == "slides":
        name = run.relative_to(runs).as_posix()
        return replace(settings, continue_from=name), "its settings, its weights, and the same slides held out"
    return replace(settings, weights=weights, continue_from=""), "its settings, and its weights as the start"
