"""What a run of training left on the disk: its state, settings, curve and score. No torch; nothing is raised for damage.

``config.json`` says what it is of, ``state.json`` how it goes or ended, ``curve.csv`` what each epoch gave, and
``model.json`` is there when it is finished.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import math
import os
import platform
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from napari_slidecorr.config import TrainConfig
from napari_slidecorr.errors import ConfigError, ProjectError, TrainingError
from napari_slidecorr.events import EpochDone, Event
from napari_slidecorr.io.atomic import atomic_write_text
from napari_slidecorr.io.claim import TRAINING, ClaimedError, claimed, is_claimed
from napari_slidecorr.settings import from_json, to_json

CONFIG_NAME, STATE_NAME, CURVE_NAME, MODEL_NAME = "config.json", "state.json", "curve.csv", "model.json"
FOLDS_NAME = "folds.json"
"""In a folder that holds one run for each fold."""

RunState = Literal["running", "stopped", "failed", "finished"]
_WHOLE = ("epoch", "patches_per_slide", "peak_memory")
_NOT_TERMS = ("phase", "done", "total", "terms")


@dataclass(frozen=True)
class RunRecord:
    """A run as its folder tells it.

    Attributes
    ----------
    name : str
        Of the folder; ``<parent>/<fold>`` for a fold.
    folder : Path
    state : str
        ``running``, ``stopped``, ``failed`` or ``finished``.
    sentence : str
        Why it failed, or what of it cannot be read; empty otherwise.
    begun : str
        When, UTC, as ISO 8601; empty when that is unknown.
    config : TrainConfig or None
        Its settings; None when they cannot be read.
    train_slides, validation_slides : tuple of str
    curve : tuple of EpochDone
        Its whole epochs.
    epoch : int or None
        Index of the epoch whose weights were kept; None before it is finished.
    """

    name: str
    folder: Path
    state: RunState
    sentence: str = ""
    begun: str = ""
    config: TrainConfig | None = None
    train_slides: tuple[str, ...] = ()
    validation_slides: tuple[str, ...] = ()
    curve: tuple[EpochDone, ...] = ()
    epoch: int | None = None

    @property
    def seconds(self) -> float:
        """What its epochs took, adding up all sessions."""
        return sum(epoch.seconds for epoch in self.curve)

    @property
    def resumable(self) -> bool:
        """Whether it can go on where it stopped."""
        return self.state in ("stopped", "failed") and self.config is not None

    @property
    def held_out_auc(self) -> float | None:
        """Held-out AUC of the epoch that was kept, or of the last so far; None when there is none."""
        if not self.curve:
            return None
        kept = self.epoch if self.epoch is not None and self.epoch < len(self.curve) else -1
        auc = self.curve[kept].validation_auc
        return auc if math.isfinite(auc) else None

    def to_json(self) -> dict[str, Any]:
        """The record, ready for JSON but for numbers that are not finite."""
        own = ("name", "folder", "state", "sentence", "begun", "seconds", "train_slides", "validation_slides", "epoch")
        told = {name: getattr(self, name) for name in (*own, "held_out_auc", "resumable")}
        settings = to_json(self.config) if self.config is not None else None
        return {**told, "settings": settings, "curve": [asdict(epoch) for epoch in self.curve]}


class RunTakenError(TrainingError):
    """Another program trains in that folder, or did so a moment ago."""


@contextmanager
def run_claimed(run: Path, *, resume: bool = False) -> Iterator[None]:
    """Be the only one who trains in a folder, as long as the block lasts.

    Parameters
    ----------
    resume : bool
        Whether the folder may hold a training already.

    Raises
    ------
    RunTakenError
        If another program is at it, or unless it is resumed, has put a training there.
    ProjectError
        If the claim cannot be written.
    """
    with ExitStack() as held:
        try:
            held.enter_context(claimed(run, TRAINING))
        except ClaimedError as error:
            raise RunTakenError(str(error)) from error
        if not resume and (run / CONFIG_NAME).is_file():
            raise RunTakenError(f"{run}: another program has trained there just now; choose another name.")
        yield


def free_runs(runs: Path, start: str) -> Iterator[Path]:
    """Give ``<start>-<number>`` that nobody has or trains in when it is asked for, numbers ascending."""
    candidates = (runs / f"{start}-{number:03d}" for number in range(1, 100_000))
    yield from (run for run in candidates if not run.exists() and not is_training(run))


def in_free_run(free: Iterator[Path], begin: Callable[[Path], Iterator[Event]]) -> Iterator[Event]:
    """Begin a training in the first free folder; where another program is quicker, in the next one.

    What `begin` raises for the first folder is raised now.
    """
    return _in_free_run(begin(next(free)), free, begin)


def _in_free_run(
    events: Iterator[Event], free: Iterator[Path], begin: Callable[[Path], Iterator[Event]]
) -> Generator[Event, None, None]:
    while True:
        with closing(cast("Generator[Event, None, None]", events)):
            try:
                first = next(events)
            except RunTakenError:
                events = begin(next(free))
                continue
            yield first
            yield from events
            return


def is_training(run: Path) -> bool:
    """Whether a program seems to train in a folder now; one whose claim cannot be read counts as one."""
    try:
        return is_claimed(run)
    except ProjectError:
        return True


def list_runs(folder: Path) -> list[RunRecord]:
    """Give the records of all runs in a folder, folds included, from the oldest to the newest.

    Parameters
    ----------
    folder : Path
        The ``runs`` of a project.
    """
    found = [path.parent for pattern in ("*", "*/*") for path in folder.glob(f"{pattern}/{CONFIG_NAME}")]
    records = [read_run(run, name=run.relative_to(folder).as_posix()) for run in found]
    return sorted(records, key=lambda record: (record.begun, record.name))


def read_run(folder: Path, *, name: str = "") -> RunRecord:
    """Give the record of one run; what cannot be read is left out, and said in its sentence."""
    said = _read_json(folder / STATE_NAME) or {}
    described = _read_json(folder / CONFIG_NAME) or {}
    split = described.get("split") or {}
    problem, config = "", None
    try:
        config = settings_of(folder)
    except ConfigError as error:
        problem = str(error)
    return RunRecord(
        name=name or folder.name,
        folder=folder,
        state=_state(folder, said),
        sentence=str(said.get("sentence") or problem),
        begun=str(said.get("begun") or _time_of(folder / CONFIG_NAME)),
        config=config,
        train_slides=tuple(split.get("train", ())),
        validation_slides=tuple(split.get("validation", ())),
        curve=read_curve(folder),
        epoch=_kept_epoch(folder),
    )


def settings_of(run: Path) -> TrainConfig:
    """Read the settings that a run was begun with.

    Raises
    ------
    ConfigError
        If its ``config.json`` cannot be read.
    """
    path = run / CONFIG_NAME
    try:
        return from_json(TrainConfig, json.loads(path.read_text("utf-8"))["settings"])
    except ConfigError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); start a new training instead.") from error


def write_state(run: Path, state: RunState, sentence: str = "") -> None:
    """Say how a run goes, in its ``state.json``; when it first began is kept.

    Raises
    ------
    ProjectError
        If it cannot be written.
    """
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    begun = (_read_json(run / STATE_NAME) or {}).get("begun") or now
    told = {"state": state, "sentence": sentence, "begun": begun, "changed": now}
    process = {"process": os.getpid(), "host": platform.node()}
    atomic_write_text(run / STATE_NAME, json.dumps({**told, **process}, indent=2))


def best_epoch(curve: Sequence[EpochDone]) -> int | None:
    """Give the index of the first epoch with the highest held-out AUC; None when no epoch has one."""
    known = [epoch.epoch for epoch in curve if math.isfinite(epoch.validation_auc)]
    return max(known, key=lambda index: (curve[index].validation_auc, -index), default=None)


def curve_csv(curve: Sequence[EpochDone]) -> str:
    """Give a curve as CSV text, one row an epoch; ``best`` marks the one of the highest held-out AUC."""
    out = io.StringIO()
    best = best_epoch(curve)
    rows = [_curve_row(epoch, is_best=epoch.epoch == best) for epoch in curve]
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def read_curve(run: Path) -> tuple[EpochDone, ...]:
    """Read the curve that `curve_csv` gave; empty when there is none or it cannot be read."""
    try:
        rows = list(csv.DictReader((run / CURVE_NAME).read_text("utf-8").splitlines()))
        return tuple(_epoch_of(row, len(rows)) for row in rows)
    except (OSError, KeyError, TypeError, ValueError):
        return ()


def _curve_row(epoch: EpochDone, *, is_best: bool) -> dict[str, Any]:
    kept = {name: value for name, value in asdict(epoch).items() if name not in _NOT_TERMS}
    return {**kept, "best": int(is_best), **epoch.terms}


def _epoch_of(row: Mapping[str, str], total: int) -> EpochDone:
    names = [name for name in EpochDone.__dataclass_fields__ if name not in _NOT_TERMS]
    values: dict[str, Any] = {name: float(row[name]) for name in names if name in row and name != "leaky"}
    terms = {name: float(value) for name, value in row.items() if name not in names and name != "best"}
    whole = {name: int(values[name]) for name in _WHOLE if name in values}
    done = whole["epoch"] + 1
    values["leaky"] = row.get("leaky") == "True"
    return EpochDone(**{**values, **whole, "phase": "", "done": done, "total": total, "terms": terms})


def _state(folder: Path, said: Mapping[str, Any]) -> RunState:
    if (folder / MODEL_NAME).is_file():
        return "finished"
    state = said.get("state")
    if state not in get_args(RunState) or state == "finished":
        return "stopped"
    if state == "running" and not is_training(folder):
        return "stopped"
    return cast("RunState", state)


def _kept_epoch(folder: Path) -> int | None:
    epoch = (_read_json(folder / MODEL_NAME) or {}).get("epoch")
    return epoch - 1 if isinstance(epoch, int) and epoch > 0 else None


def _read_json(path: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        told = json.loads(path.read_text("utf-8"))
        return told if isinstance(told, dict) else None
    return None


def _time_of(path: Path) -> str:
    with suppress(OSError):
        return dt.datetime.fromtimestamp(path.stat().st_mtime, dt.UTC).isoformat(timespec="seconds")
    return ""
