"""Objectives and colour remedies side by side: the same slides held out, the same budget, several seeds, paired differences.

``runs/<name>/comparison.json`` says what is compared, ``<variant>-seed<k>/`` are the runs, each with ``held_out.csv``, and
``comparison.csv`` is the table. What is on the disk is not done again.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from napari_slidecorr.cohort import Split
from napari_slidecorr.comparison_table import (
    Comparison,
    Trial,
    Variant,
    common_settings,
    summarize,
    trial_of,
    trials_csv,
)
from napari_slidecorr.config import DEFAULT_VARIANTS, FEW_SLIDES, TrainConfig
from napari_slidecorr.errors import ConfigError, ProjectError
from napari_slidecorr.events import Event, Notice
from napari_slidecorr.held_out_file import NAME as HELD_OUT_NAME
from napari_slidecorr.held_out_file import write_held_out
from napari_slidecorr.io.atomic import atomic_write_text, make_folder
from napari_slidecorr.patches import patches_sha256
from napari_slidecorr.project_file import safe_name
from napari_slidecorr.runs import MODEL_NAME
from napari_slidecorr.settings import from_json, to_json
from napari_slidecorr.training_plan import TrainingPlan

if TYPE_CHECKING:
    from napari_slidecorr.project import Project

FILE, TABLE_NAME = "comparison.json", "comparison.csv"


@dataclass(frozen=True, kw_only=True)
class TrialDone(Event):
    """One run is finished."""

    trial: Trial


@dataclass(frozen=True, kw_only=True)
class Compared(Event):
    """The end."""

    result: Comparison


def compare(
    project: Project,
    base: TrainConfig,
    variants: Sequence[str] = DEFAULT_VARIANTS,
    *,
    seeds: int = 3,
    same_split: bool = False,
    name: str | None = None,
    resume: bool = False,
) -> Iterator[Event]:
    """Train each variant once for each seed; arguments are checked now, the work is done as the events are taken.

    Parameters
    ----------
    base : TrainConfig
        What all have in common; its own objective's settings are kept for the variants of that objective.
    variants : sequence of str
        See `Variant.parse`; the first is the one that the others are compared with.
    seeds : int
        How many; each draws its own split, batches and start.
    same_split : bool
        Hold the same slides out for every seed.
    name : str, optional
        Of the folder in ``runs``.
    resume : bool
        Go on with the folder of that name, or the newest.

    Returns
    -------
    iterator of Event
        Those of each training, a `TrialDone` for each run, and at the end `Compared`.

    Raises
    ------
    ConfigError
        If a variant is unknown or comes twice, or the base says what variants say.
    CohortError
        If the slides do not allow a split.
    ProjectError
        If there is a folder of that name already, or it was begun otherwise or with other slides or regions.
    """
    chosen = [Variant.parse(text) for text in variants]
    if len({variant.name for variant in chosen}) != len(chosen) or not chosen or seeds < 1:
        raise ConfigError(
            f"variants are {', '.join(variants)}, seeds {seeds}: name each variant once, and 1 seed or more."
        )
    if base.validation_fraction == 0 or base.continue_from:
        raise ConfigError("A comparison holds slides out: set validation_fraction above 0, and continue from no run.")
    if not resume and base != common_settings(base):
        raise ConfigError(
            "Colour jitter, stain and split are parts of a variant: leave the settings out, and write scr+cj, scr+sn or "
            "scr+leaky."
        )
    plan = project.training_plan(base)
    splits = [
        plan.split(replace(base, split="slides", seed=base.seed + (0 if same_split else k))) for k in range(seeds)
    ]
    told = {
        "variants": [variant.name for variant in chosen],
        "seeds": seeds,
        "same_split": same_split,
        "settings": to_json(base),
        "splits": [asdict(split) for split in splits],
        "patches_sha256": patches_sha256(plan.table),
    }
    folder = _folder(project.folder / "runs", name, told, resume=resume)
    return _compare(project, plan, base, chosen, splits, folder, told)


def comparison_settings(folder: Path) -> tuple[TrainConfig, tuple[str, ...], int, bool]:
    """Read what a comparison was begun with: common settings, variants, seeds, whether all share one split.

    Raises
    ------
    ProjectError
        If it cannot be read.
    """
    path = folder / FILE
    try:
        told = json.loads(path.read_text("utf-8"))
        config = from_json(TrainConfig, told["settings"])
        return config, tuple(told["variants"]), int(told["seeds"]), bool(told["same_split"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProjectError(f"{path}: no comparison to go on with ({error}); start a new one.") from error


def newest_comparison(runs: Path) -> Path | None:
    """The folder of the newest comparison; None before the first."""
    found = sorted(runs.glob(f"*/{FILE}"), key=lambda path: path.stat().st_mtime_ns)
    return found[-1].parent if found else None


def _folder(runs: Path, name: str | None, told: Mapping[str, Any], *, resume: bool) -> Path:
    if name is not None and name != safe_name(name):
        raise ProjectError(f"A comparison cannot be named {name!r}; {safe_name(name)!r} would do.")
    if resume:
        folder = runs / name if name is not None else newest_comparison(runs)
        if folder is None or not (folder / FILE).is_file():
            raise ProjectError(f"{name or 'No comparison'}: nothing to go on with in {runs}; start a new one.")
        begun, now = json.loads((folder / FILE).read_text("utf-8")), json.loads(json.dumps(told))
        common = ("variants", "seeds", "same_split", "settings")
        if any(begun.get(key) != now[key] for key in common):
            raise ProjectError(f"{folder.name}: was begun with other settings, variants or seeds; start a new one.")
        if begun != now:
            raise ProjectError(
                f"{folder.name}: slides or regions were changed since it was begun, so its models may have seen what would "
                "be held out now; start a new one."
            )
        return folder
    if name is not None and (runs / name).exists():
        raise ProjectError(f"{name}: there is a run of that name; choose another name, or resume it.")
    number = next(n for n in range(1, 100_000) if not (runs / f"comparison-{n:03d}").exists())
    return runs / (name or f"comparison-{number:03d}")


def _compare(
    project: Project,
    plan: TrainingPlan,
    base: TrainConfig,
    variants: Sequence[Variant],
    splits: Sequence[Split],
    folder: Path,
    told: Mapping[str, Any],
) -> Generator[Event, None, None]:
    make_folder(folder)
    atomic_write_text(folder / FILE, json.dumps(told, indent=2))
    trials: list[Trial] = []
    total = len(variants) * len(splits)
    for number, split in enumerate(splits):
        for variant in variants:
            config = variant.config(base, base.seed + number)
            run = folder / f"{variant.name}-seed{config.seed}"
            phase = f"{variant.name}, seed {config.seed} ({len(trials) + 1} of {total})"
            with closing(_one(project, plan, split, config, run)) as events:
                for event in events:
                    yield event if isinstance(event, Notice) else replace(event, phase=f"{phase}: {event.phase}")
            tables = plan.tables(split, config)
            trial = trial_of(variant, config, run, tables[1])
            trials.append(trial)
            yield TrialDone(phase=phase, done=len(trials), total=total, trial=trial)
    result = summarize(folder, trials, [variant.name for variant in variants], _doubt(splits))
    atomic_write_text(folder / TABLE_NAME, trials_csv(trials))
    yield Compared(phase="Compared", done=total, total=total, result=result)


def _one(
    project: Project, plan: TrainingPlan, split: Split, config: TrainConfig, run: Path
) -> Generator[Event, None, None]:
    """Train a run unless it is trained, and predict what it held out unless that is done."""
    from napari_slidecorr.learning import training
    from napari_slidecorr.learning.held_out_patches import predict_patches

    tables = plan.tables(split, config)
    slides = {name: project.slide(name) for table in tables for name in table.slides}
    if not (run / MODEL_NAME).is_file():
        events = training.train(*tables, slides, config, run=run, resume=run.exists())
        with closing(cast("Generator[Event, None, None]", events)) as opened:
            yield from opened
    if not (run / HELD_OUT_NAME).is_file():
        probabilities = yield from predict_patches(run, tables[1], slides, config)
        write_held_out(run, tables[1], probabilities)


def _doubt(splits: Sequence[Split]) -> str:
    trained = min(len(split.train) for split in splits)
    if trained < FEW_SLIDES:
        return (
            f"{trained} training slides: SCR is not expected to help below about {FEW_SLIDES}, and which slides are held out "
            "moves an AUC more than any objective; read the paired differences and their errors only."
        )
    return ""
