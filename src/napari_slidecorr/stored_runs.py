"""The trainings of a project as a person looks at them: each alone, or together as folds or a comparison; kept or removed.

Nothing is raised for what is damaged on the disk: it is said in the entry. No torch.
"""

from __future__ import annotations

import csv
import datetime as dt
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from napari_slidecorr.comparison import FILE, TABLE_NAME, comparison_settings
from napari_slidecorr.comparison_table import SCORES, Comparison, Trial, summarize
from napari_slidecorr.config import FEW_SLIDES
from napari_slidecorr.cross_validation import SUMMARY_NAME, CrossValidation, SlideScore
from napari_slidecorr.errors import ConfigError, ProjectError
from napari_slidecorr.fast_config import FastConfig
from napari_slidecorr.io.atomic import make_folder, write_error
from napari_slidecorr.runs import CONFIG_NAME, FOLDS_NAME, RunRecord, RunState, is_training, list_runs, run_claimed
from napari_slidecorr.settings import from_json

if TYPE_CHECKING:
    from napari_slidecorr.project import Project

GroupKind = Literal["folds", "comparison"]


@dataclass(frozen=True)
class StoredRun:
    """One training.

    Attributes
    ----------
    record : RunRecord
    fast : FastConfig or None
        The settings of a head on frozen features; None for a training of the network.
    """

    record: RunRecord
    fast: FastConfig | None = None

    @property
    def name(self) -> str:
        """Of its folder in ``runs``; ``<group>/<run>`` inside of folds or a comparison."""
        return self.record.name

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.record.folder

    @property
    def state(self) -> RunState:
        """How it goes or ended."""
        return self.record.state

    @property
    def resumable(self) -> bool:
        """Whether it can go on where it stopped."""
        return self.record.resumable and self.fast is None

    @property
    def leaky(self) -> bool:
        """Whether its held-out patches are of its training slides."""
        return self.record.config is not None and self.record.config.split == "patches"


@dataclass(frozen=True)
class RunGroup:
    """Trainings that belong together.

    Attributes
    ----------
    name : str
    folder : Path
    kind : str
        ``folds`` or ``comparison``.
    runs : tuple of StoredRun
    result : CrossValidation, Comparison or None
        What came of it; None before its end, or when that cannot be read.
    """

    name: str
    folder: Path
    kind: GroupKind
    runs: tuple[StoredRun, ...]
    result: CrossValidation | Comparison | None

    @property
    def state(self) -> RunState:
        """``finished`` with a result, else what the run says that did not end well."""
        if self.result is not None:
            return "finished"
        states = [run.state for run in self.runs]
        return next((state for state in ("running", "failed") if state in states), "stopped")

    @property
    def sentence(self) -> str:
        """Why it failed; empty otherwise."""
        return next((run.record.sentence for run in self.runs if run.state == "failed"), "")

    @property
    def begun(self) -> str:
        """When, UTC, as ISO 8601; empty when that is unknown."""
        if self.runs:
            return min(run.record.begun for run in self.runs)
        with suppress(OSError):
            return dt.datetime.fromtimestamp(self.folder.stat().st_mtime, dt.UTC).isoformat(timespec="seconds")
        return ""

    @property
    def seconds(self) -> float:
        """What the epochs of all its runs took."""
        return sum(run.record.seconds for run in self.runs)

    @property
    def resumable(self) -> bool:
        """Whether it can go on where it stopped."""
        return self.state in ("stopped", "failed")


Stored = StoredRun | RunGroup


def stored_runs(project: Project) -> list[Stored]:
    """Give all trainings of a project, those that belong together in their group, from the oldest to the newest."""
    runs = project.folder / "runs"
    found = [StoredRun(record, fast_settings(record.folder)) for record in list_runs(runs)]
    alone: list[Stored] = [run for run in found if "/" not in run.name]
    groups = [_group(path, found) for name in (FOLDS_NAME, FILE) for path in runs.glob(f"*/{name}")]
    return sorted([*alone, *groups], key=lambda one: (begun_of(one), _touched(one), one.name))


def begun_of(stored: Stored) -> str:
    """When a training or group began, UTC, as ISO 8601."""
    return stored.record.begun if isinstance(stored, StoredRun) else stored.begun


def fast_settings(run: Path) -> FastConfig | None:
    """Read the settings of a fast training; None for any other, or when they cannot be read."""
    told = _read_json(run / CONFIG_NAME).get("fast")
    with suppress(ConfigError):
        return from_json(FastConfig, told) if isinstance(told, Mapping) else None
    return None


def remove_runs(project: Project, stored: Stored) -> Path:
    """Take a training, or all of a group, out of a project: its folder is moved to ``removed``, from where it can be put back.

    Returns
    -------
    Path
        Where it is now.

    Raises
    ------
    ProjectError
        If the project is read-only, the training runs, is part of a group, is gone, or cannot be moved.
    """
    if project.read_only:
        raise ProjectError(f"{stored.name} cannot be removed: {project.read_only}")
    runs = (stored,) if isinstance(stored, StoredRun) else stored.runs
    if any(is_training(run.folder) for run in runs):
        raise ProjectError(f"{stored.name} still runs; cancel it before you remove it.")
    if stored.folder.parent != project.folder / "runs":
        raise ProjectError(f"{stored.name} is a part of {stored.folder.parent.name}; remove that as a whole.")
    if not stored.folder.is_dir():
        raise ProjectError(f"{stored.folder}: there is no such training any more; list them again.")
    folder = project.folder / "removed" / "runs"
    make_folder(folder)
    target = next(t for n in range(1, 100_000) if not (t := folder / f"{n:03d}-{stored.name}").exists())
    try:
        with run_claimed(stored.folder, resume=True):
            shutil.move(stored.folder, target)
    except OSError as error:
        raise write_error(target, error) from error
    return target


def read_folds(folder: Path) -> CrossValidation | None:
    """Read what folds came to; None before their end, or when it cannot be read."""
    told = _read_json(folder / SUMMARY_NAME)
    try:
        slides = tuple(SlideScore(**{**one, "accuracy": _number(one["accuracy"])}) for one in told["slides"])
        scores = {name: _number(told[name]) for name in ("mean_auc", "sd_auc", "pooled_auc")}
        fold_auc = {fold: _number(auc) for fold, auc in told["fold_auc"].items()}
        return CrossValidation(folder, fold_auc, slides=slides, warning=str(told["warning"]), **scores)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def read_comparison(folder: Path, runs: Sequence[StoredRun]) -> Comparison | None:
    """Read what a comparison came to; None before its end, or when it cannot be read."""
    try:
        rows = list(csv.DictReader((folder / TABLE_NAME).read_text("utf-8").splitlines()))
        trials = [_trial_of(row) for row in rows]
        _, variants, _, _ = comparison_settings(folder)
        return summarize(folder, trials, variants, _doubt(runs)) if trials else None
    except (OSError, TypeError, ValueError, KeyError, ProjectError):
        return None


def _touched(stored: Stored) -> int:
    """When its settings were written, in nanoseconds, to tell apart what began in one second."""
    names = (CONFIG_NAME, FOLDS_NAME, FILE)
    with suppress(OSError):
        return max((path.stat().st_mtime_ns for name in names if (path := stored.folder / name).exists()), default=0)
    return 0


def _group(path: Path, found: Sequence[StoredRun]) -> RunGroup:
    folder = path.parent
    runs = tuple(run for run in found if run.folder.parent == folder)
    if path.name == FOLDS_NAME:
        return RunGroup(folder.name, folder, "folds", runs, read_folds(folder))
    return RunGroup(folder.name, folder, "comparison", runs, read_comparison(folder, runs))


def _trial_of(row: Mapping[str, str]) -> Trial:
    scores = {name: float(row[name]) for name in (*SCORES, "seconds")}
    return Trial(variant=row["variant"], seed=int(row["seed"]), run=row["run"], **scores)


def _doubt(runs: Sequence[StoredRun]) -> str:
    trained = min((len(run.record.train_slides) for run in runs), default=FEW_SLIDES)
    if trained >= FEW_SLIDES:
        return ""
    return (
        f"{trained} training slides: which slides are held out moves an AUC more than any objective; read the paired "
        "differences and their errors only."
    )


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _read_json(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        told = json.loads(path.read_text("utf-8"))
        return told if isinstance(told, dict) else {}
    return {}
