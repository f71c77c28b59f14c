"""Every slide held out once: k folds, or one slide or patient at a time; one run a fold, and a summary over all.

``runs/<name>/folds.json`` says which slides are held out where, ``fold-01/`` and so on are the runs, each with
``held_out.csv`` (a line a patch), and ``summary.json`` comes at the end. What is on the disk is not done again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.cohort import Split
from napari_slidecorr.config import TrainConfig
from napari_slidecorr.errors import ConfigError, ProjectError
from napari_slidecorr.events import Event, Notice
from napari_slidecorr.held_out_file import NAME as HELD_OUT_NAME
from napari_slidecorr.held_out_file import read_held_out, write_held_out
from napari_slidecorr.io.atomic import atomic_write_text, make_folder
from napari_slidecorr.metrics import accuracy, patch_auc
from napari_slidecorr.patches import PatchTable
from napari_slidecorr.project_file import safe_name
from napari_slidecorr.runs import FOLDS_NAME, MODEL_NAME
from napari_slidecorr.settings import from_json, to_json
from napari_slidecorr.training_plan import TrainingPlan

if TYPE_CHECKING:
    from napari_slidecorr.project import Project

SUMMARY_NAME = "summary.json"

FEW_SLIDES = 20
"""Over fewer held-out slides, taken one at a time, an AUC was seen to say nothing: 0.38 or 0.56 on eight by chance."""


@dataclass(frozen=True)
class SlideScore:
    """What the model that had not seen a slide says of it.

    Attributes
    ----------
    slide, fold : str
    patches : int
    accuracy : float
    shares, probabilities : dict of str to float
        For each class its part of the labelled patches, and the mean of their predicted probabilities.
    """

    slide: str
    fold: str
    patches: int
    accuracy: float
    shares: dict[str, float]
    probabilities: dict[str, float]


@dataclass(frozen=True)
class CrossValidation:
    """What folds say together.

    Attributes
    ----------
    folder : Path
    fold_auc : dict of str to float
        Patch AUC on the slides that each fold held out; NaN where they have one class only.
    mean_auc, sd_auc : float
        Of the folds that have one; sd with n - 1.
    pooled_auc : float
        Patch AUC of all held-out patches together, each predicted by the model that had not seen its slide.
    slides : tuple of SlideScore
    warning : str
        Why to doubt it; empty if nothing is known against it.
    """

    folder: Path
    fold_auc: dict[str, float]
    mean_auc: float
    sd_auc: float
    pooled_auc: float
    slides: tuple[SlideScore, ...]
    warning: str = ""


@dataclass(frozen=True, kw_only=True)
class CrossValidated(Event):
    """The end of a cross-validation; ``result`` is its `CrossValidation`."""

    result: CrossValidation


@dataclass(frozen=True)
class _HeldOut:
    """Patches of one fold: their slides, labels (P,) and probabilities (P, K)."""

    fold: str
    slides: tuple[str, ...]
    slide_index: NDArray[np.int32]
    label: NDArray[np.int16]
    probabilities: NDArray[np.float32]


def cross_validate(
    project: Project, config: TrainConfig, *, folds: int | None, name: str | None = None, resume: bool = False
) -> Iterator[Event]:
    """Train once for each fold; arguments are checked now, the work is done as the events are taken.

    Parameters
    ----------
    folds : int or None
        How many; None leaves out one slide (or patient) at a time.
    name : str, optional
        Of the folder in ``runs``; ``<objective>-<backbone>-cv<folds>-<number>`` when left out, with ``loo`` for None.
    resume : bool
        Go on with the folder of that name.

    Returns
    -------
    iterator of Event
        Those of each training, with the fold in their phase; the last is `CrossValidated`.

    Raises
    ------
    CohortError
        If the slides do not allow so many folds.
    ConfigError
        If the settings say something else about who is held out.
    ProjectError
        If there is a folder of that name already, or with ``resume`` none, or one that was begun otherwise.
    """
    if config.split == "patches" or config.continue_from or config.validation_fraction == 0:
        raise ConfigError(
            "Folds hold out whole slides themselves: leave split and continue_from as they are, and validation_fraction "
            "above 0."
        )
    plan = project.training_plan(config)
    splits = plan.folds(folds, config.seed)
    folder = _folder(project.folder / "runs", config, folds, name, resume=resume)
    told = {"folds": folds, "settings": to_json(config), "splits": [asdict(split) for split in splits]}
    _check_same(folder, told)
    return _cross_validate(project, plan, config, splits, folder, told)


def folds_settings(folder: Path) -> tuple[TrainConfig, int | None]:
    """Read the settings and the number of folds that a folder of folds was begun with.

    Raises
    ------
    ProjectError
        If there are none, or they cannot be read.
    """
    path = folder / FOLDS_NAME
    try:
        told = json.loads(path.read_text("utf-8"))
        return from_json(TrainConfig, told["settings"]), told["folds"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProjectError(f"{path}: no folds to go on with ({error}); start new ones.") from error


def newest_folds(runs: Path) -> Path | None:
    """The folder of the newest folds; None before the first."""
    found = sorted(runs.glob(f"*/{FOLDS_NAME}"), key=lambda path: path.stat().st_mtime_ns)
    return found[-1].parent if found else None


def _folder(runs: Path, config: TrainConfig, folds: int | None, name: str | None, *, resume: bool) -> Path:
    if name is not None and name != safe_name(name):
        raise ProjectError(f"Folds cannot be named {name!r}; {safe_name(name)!r} would do.")
    if resume:
        if name is None:
            newest = newest_folds(runs)
            name = newest.name if newest else None
        if name is None or not (runs / name / FOLDS_NAME).is_file():
            raise ProjectError(f"{name or 'No folds'}: nothing to go on with in {runs}; start new folds.")
        return runs / name
    if name is not None and (runs / name).exists():
        raise ProjectError(f"{name}: there is a run of that name; choose another name, or resume it.")
    start = safe_name(f"{config.objective.kind}-{config.backbone}-{'loo' if folds is None else f'cv{folds}'}")
    number = next(n for n in range(1, 100_000) if not (runs / f"{start}-{n:03d}").exists())
    return runs / (name or f"{start}-{number:03d}")


def _check_same(folder: Path, told: Mapping[str, Any]) -> None:
    path = folder / FOLDS_NAME
    if not path.is_file():
        return
    try:
        begun = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ProjectError(f"{path}: cannot be read ({error}); start new folds.") from error
    if begun != json.loads(json.dumps(told)):
        raise ProjectError(f"{folder}: was begun with other settings, slides or folds; start new ones.")


def _cross_validate(
    project: Project,
    plan: TrainingPlan,
    config: TrainConfig,
    splits: list[Split],
    folder: Path,
    told: Mapping[str, Any],
) -> Generator[Event, None, None]:
    make_folder(folder)
    atomic_write_text(folder / FOLDS_NAME, json.dumps(told, indent=2))
    found = []
    for number, split in enumerate(splits, 1):
        run = folder / f"fold-{number:02d}"
        tables = plan.table.of_slides(split.train), plan.table.of_slides(split.validation)
        with closing(_one_fold(project, tables, config, run)) as events:
            yield from _in_fold(events, f"Fold {number} of {len(splits)}: ")
        found.append(_read_held_out(run, tables[1]))
    result = _summary(folder, found, plan.table.classes, one_at_a_time=told["folds"] is None)
    atomic_write_text(folder / SUMMARY_NAME, json.dumps(_finite(asdict(result)), indent=2, allow_nan=False))
    if result.warning:
        yield Notice(phase="Folds", message=result.warning, warning=True)
    yield CrossValidated(phase="All folds trained", done=len(splits), total=len(splits), result=result)


def _in_fold(events: Iterator[Event], start: str) -> Iterator[Event]:
    for event in events:
        yield replace(event, phase=start + event.phase)


def _one_fold(
    project: Project, tables: tuple[PatchTable, PatchTable], config: TrainConfig, run: Path
) -> Generator[Event, None, None]:
    """Train a fold unless it is trained, and predict what it held out unless that is done."""
    from napari_slidecorr.learning import training
    from napari_slidecorr.learning.held_out_patches import predict_patches

    slides = {name: project.slide(name) for table in tables for name in table.slides}
    if not (run / MODEL_NAME).is_file():
        events = training.train(*tables, slides, config, run=run, resume=run.exists(), any_classes=True)
        with closing(cast("Generator[Event, None, None]", events)) as opened:
            yield from opened
    if not (run / HELD_OUT_NAME).is_file():
        probabilities = yield from predict_patches(run, tables[1], slides, config)
        write_held_out(run, tables[1], probabilities)


def _read_held_out(run: Path, table: PatchTable) -> _HeldOut:
    return _HeldOut(run.name, table.slides, table.slide_index, table.label, read_held_out(run, table))


def _summary(folder: Path, found: list[_HeldOut], classes: tuple[str, ...], *, one_at_a_time: bool) -> CrossValidation:
    fold_auc = {one.fold: patch_auc(one.label, one.probabilities) for one in found}
    known = [auc for auc in fold_auc.values() if math.isfinite(auc)]
    label, probabilities = (
        np.concatenate([getattr(one, name) for one in found]) for name in ("label", "probabilities")
    )
    slides = tuple(score for one in found for score in _slide_scores(one, classes))
    return CrossValidation(
        folder=folder,
        fold_auc=fold_auc,
        mean_auc=float(np.mean(known)) if known else math.nan,
        sd_auc=float(np.std(known, ddof=1)) if len(known) > 1 else math.nan,
        pooled_auc=patch_auc(label, probabilities),
        slides=slides,
        warning=_doubt(len(slides), one_at_a_time=one_at_a_time),
    )


def _doubt(slides: int, *, one_at_a_time: bool) -> str:
    if slides >= FEW_SLIDES:
        return ""
    if one_at_a_time:
        return (
            f"An AUC over {slides} slides left out one at a time says next to nothing: taking a slide out tips the training "
            f"classes against it, and below 0.5 is usual. Label {FEW_SLIDES} or more."
        )
    return f"{slides} slides are few: how the folds fall moves these AUCs by more than what settings change."


def _slide_scores(one: _HeldOut, classes: tuple[str, ...]) -> Iterator[SlideScore]:
    for index, slide in enumerate(one.slides):
        mine = one.slide_index == index
        label, probabilities = one.label[mine], one.probabilities[mine]
        shares = np.bincount(label, minlength=len(classes)) / len(label)
        means = probabilities.mean(axis=0, dtype=np.float64)
        told = [dict(zip(classes, map(float, values), strict=True)) for values in (shares, means)]
        yield SlideScore(slide, one.fold, int(mine.sum()), accuracy(label, probabilities), *told)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    if isinstance(value, Path):
        return value.name
    return None if isinstance(value, float) and not math.isfinite(value) else value
