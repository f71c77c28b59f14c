"""The whole way in one go, on made-up slides: label, train twice, predict what was held out, compare with the truth.

Nothing here knows more than a user could: the project, its regions, runs and maps stay on the disk, to be opened.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_slidecorr import io
from napari_slidecorr.config import (
    CrossEntropyConfig,
    ObjectiveConfig,
    PatchConfig,
    PredictConfig,
    ScrConfig,
    TrainConfig,
)
from napari_slidecorr.errors import ProjectError
from napari_slidecorr.events import Event, Notice, Predicted, Trained, TrainResult
from napari_slidecorr.io.atomic import atomic_write_text, make_folder, write_error
from napari_slidecorr.metrics import patch_auc
from napari_slidecorr.prediction_map import PredictionMap
from napari_slidecorr.project import Project
from napari_slidecorr.report import Pictures, summary_html, truth_cells
from napari_slidecorr.sample_data import CohortMade, SampleSlide, make_cohort
from napari_slidecorr.sample_project import add_samples
from napari_slidecorr.settings import to_json

MARK = "demo.json"
"""Tells that a folder was filled by the demo, so that the next demo may put aside what it finds there."""

MADE = ("project", "maps", "truth", "summary.html", MARK)
SHOWN_SLIDES = 4

OBJECTIVES: Mapping[str, ObjectiveConfig] = {"Baseline": CrossEntropyConfig(), "SCR": ScrConfig(beta=0.2)}

DEMO_CONFIG = TrainConfig(
    backbone="test_resnet",
    weights="random",
    epochs=5,
    patches=PatchConfig(size_px=64, mpp=1.0, overlap=0.5),
    optimizer="adamw",
    learning_rate=2e-3,
    colour_jitter=True,
    device="cpu",
)
"""A residual network of timm small enough for two cores; on the CPU, so that a second run gives the same numbers."""

PREDICT_CONFIG = PredictConfig(overlap=0.5, device="cpu")

FIRST_NOTICE = (
    "The demo trains a very small network from a random start, with colour jitter, for either objective: nothing is "
    "downloaded. For slides of your own start from ImageNet weights."
)


@dataclass(frozen=True)
class DemoRow:
    """What one objective came to.

    Attributes
    ----------
    objective : str
    train_auc : float
        Patch AUC of the last epoch, from the predictions made while training.
    validation_auc : float
        Patch AUC on the slides that the slide-wise split kept out of training.
    held_out_auc : float
        AUC of the cells of the maps of the held-out slides against the truth, pooled over slides.
    seconds : float
        Of training.
    """

    objective: str
    train_auc: float
    validation_auc: float
    held_out_auc: float
    seconds: float

    def cells(self) -> dict[str, str]:
        """The row as it is shown: heading to text."""
        return {
            "objective": self.objective,
            "training AUC": f"{self.train_auc:.3f}",
            "validation AUC": f"{self.validation_auc:.3f}",
            "held-out AUC": f"{self.held_out_auc:.3f}",
            "seconds": f"{self.seconds:.1f}",
        }


@dataclass(frozen=True)
class DemoResult:
    """What the demo leaves.

    Attributes
    ----------
    rows : tuple of DemoRow
    project, summary : Path
        The project's folder, and a page to look at.
    maps : tuple of Path
        Prediction maps of the held-out slides, as OME-Zarr; a GeoJSON of the same name lies beside each.
    """

    rows: tuple[DemoRow, ...]
    project: Path
    summary: Path
    maps: tuple[Path, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "project": str(self.project),
            "summary": str(self.summary),
            "maps": [str(path) for path in self.maps],
        }

    def table(self) -> str:
        """The rows as text, and where to look."""
        cells = [row.cells() for row in self.rows]
        lines = [
            "".join(f"{text:<10}" if i == 0 else f"{text:>16}" for i, text in enumerate(line))
            for line in (cells[0], *(row.values() for row in cells))
        ]
        return "\n".join([*lines, "", f"Summary: {self.summary}", f"Project: {self.project}"])


@dataclass(frozen=True, kw_only=True)
class DemoDone(Event):
    """The last event of `run_demo`."""

    result: DemoResult


def run_demo(
    out: Path,
    kind: str = "default",
    *,
    seed: int = 0,
    slides: int | None = None,
    size_px: int | None = None,
    config: TrainConfig = DEMO_CONFIG,
) -> Iterator[Event]:
    """Make slides, train cross-entropy and SCR on them, and hold the maps of held-out slides against the truth.

    Parameters
    ----------
    out : Path
        Receives ``project``, ``truth``, ``maps`` and ``summary.html``. What an earlier demo left there is put aside.
    kind, seed, slides, size_px
        Of the cohort; see `make_cohort`. The seed decides split and training too.
    config : TrainConfig
        Of either training; its objective is not used.

    Returns
    -------
    iterator of Event
        Those of each step, their phase led by the objective's name; the last is a `DemoDone`.

    Raises
    ------
    ConfigError
        Now, if the cohort cannot be made.
    ProjectError
        Now, if the folder holds a project that no demo made; later, if it cannot be written.
    """
    out = Path(out).absolute()
    if (out / "project").exists() and not (out / MARK).exists():
        raise ProjectError(f"{out}: holds a project that the demo has not made; choose another folder.")
    cohort = make_cohort(out / "project" / "slides", kind, seed=seed, slides=slides, size_px=size_px)
    return _run(_Demo(out, kind, replace(config, seed=seed)), cohort)


@dataclass(frozen=True)
class _Demo:
    out: Path
    kind: str
    config: TrainConfig


@dataclass(frozen=True)
class _Outcome:
    """A trained objective: its row, curve and maps by slide id."""

    row: DemoRow
    training: TrainResult
    maps: Mapping[str, PredictionMap]


def _run(demo: _Demo, cohort: Iterator[Event]) -> Generator[Event, None, None]:
    from napari_slidecorr.learning.threads import one_thread

    with one_thread():
        yield from _run_steps(demo, cohort)


def _run_steps(demo: _Demo, cohort: Iterator[Event]) -> Generator[Event, None, None]:
    yield from _put_aside(demo.out)
    make_folder(demo.out)
    told = {"kind": demo.kind, "config": to_json(demo.config)}
    atomic_write_text(demo.out / MARK, json.dumps(told, indent=2))
    yield Notice(phase="Preparing", message=FIRST_NOTICE)
    (samples,) = yield from _passed_on("", cohort)
    project = _make_project(demo.out, samples)
    held_out = [sample for sample in samples if sample.held_out]
    outcomes: dict[str, _Outcome] = {}
    for name, objective in OBJECTIVES.items():
        outcomes[name] = yield from _try(demo, project, held_out, name, objective)
    maps = tuple(_export(demo.out, project, outcomes))
    yield Event(phase="Writing the summary")
    summary = demo.out / "summary.html"
    atomic_write_text(summary, _summary(demo, project, held_out, outcomes))
    rows = tuple(outcome.row for outcome in outcomes.values())
    atomic_write_text(demo.out / MARK, json.dumps({**told, "rows": [asdict(row) for row in rows]}, indent=2))
    yield DemoDone(phase="Demo finished", done=1, total=1, result=DemoResult(rows, project.folder, summary, maps))


def _put_aside(out: Path) -> Iterator[Event]:
    """Move what an earlier demo left into a folder of its own; whoever worked on in its project loses nothing."""
    if not (out / MARK).exists():
        return
    aside = next(path for n in range(1, 10_000) if not (path := out / f"earlier-{n}").exists())
    make_folder(aside)
    for name in (name for name in MADE if (out / name).exists()):
        try:
            (out / name).rename(aside / name)
        except OSError as error:
            raise write_error(aside / name, error) from error
    yield Notice(phase="Preparing", message=f"What an earlier demo left in {out} was moved to {aside.name}.")


def _make_project(out: Path, samples: Sequence[SampleSlide]) -> Project:
    """All slides in a project, those for training with the regions that were drawn; the truth of the others beside."""
    project = Project.create(out / "project")
    add_samples(project, samples)
    make_folder(out / "truth")
    for sample in samples:
        if sample.held_out:
            io.write_regions(out / "truth" / f"{sample.id}.geojson", sample.truth, colors=project.colors)
    return project


def _try(
    demo: _Demo, project: Project, held_out: Sequence[SampleSlide], name: str, objective: ObjectiveConfig
) -> Generator[Event, None, _Outcome]:
    """Train with one objective and predict the held-out slides."""
    begun = time.perf_counter()
    events = project.train(replace(demo.config, objective=objective), name=name.lower())
    (training,) = yield from _passed_on(name, events)
    seconds = time.perf_counter() - begun
    events = project.predict([sample.id for sample in held_out], training.spec_path.parent, PREDICT_CONFIG)
    predictions = yield from _passed_on(name, events)
    last = training.epochs[-1]
    row = DemoRow(name, last.train_auc, last.validation_auc, held_out_auc(predictions, held_out), seconds)
    return _Outcome(row, training, {prediction.slide_id: prediction for prediction in predictions})


def _passed_on(name: str, events: Iterator[Event]) -> Generator[Event, None, list[Any]]:
    """Pass events on under a name, and return the results among them."""
    results = []
    try:
        for event in events:
            if isinstance(event, CohortMade | Trained | Predicted):
                results.append(event.result)
            yield replace(event, phase=f"{name}: {event.phase}") if name else event
    finally:
        if isinstance(events, Generator):
            events.close()
    return results


def held_out_auc(predictions: Sequence[PredictionMap], samples: Sequence[SampleSlide]) -> float:
    """Patch AUC of maps against the truth of their slides, the cells of all slides together.

    Cells count that were predicted and lie to at least a half in one class.
    """
    labels, probabilities = [], []
    for prediction, sample in zip(predictions, samples, strict=True):
        truth = truth_cells(sample.truth, prediction.grid, prediction.classes)
        cells = prediction.predicted & (truth >= 0)
        labels.append(truth[cells])
        probabilities.append(prediction.probabilities[:, cells].T)
    return patch_auc(np.concatenate(labels), np.concatenate(probabilities))


def _export(out: Path, project: Project, outcomes: Mapping[str, _Outcome]) -> Iterator[Path]:
    make_folder(out / "maps")
    for name, outcome in outcomes.items():
        for slide_id, prediction in outcome.maps.items():
            path = out / "maps" / f"{slide_id}-{name.lower()}.ome.zarr"
            io.write_map(path, prediction, colors=project.colors)
            io.write_map(path.with_name(f"{slide_id}-{name.lower()}.geojson"), prediction, colors=project.colors)
            yield path


def _summary(demo: _Demo, project: Project, held_out: Sequence[SampleSlide], outcomes: Mapping[str, _Outcome]) -> str:
    pictures = [
        Pictures(
            project.slide(sample.id),
            sample.truth,
            {name: outcome.maps[sample.id] for name, outcome in outcomes.items()},
        )
        for sample in held_out[:SHOWN_SLIDES]
    ]
    split = next(iter(outcomes.values())).training
    cohort = (
        f"Cohort {demo.kind!r}, seed {demo.config.seed}: {len(project.cohort)} made-up slides, {len(held_out)} of them "
        "held out from training and validation; up to four of these are shown."
    )
    epochs = f"{len(split.epochs)} epochs each; validation on slides that did not train (slide-wise split)."
    claim = "One run on made-up slides: the table says what happened here, not which objective is better elsewhere."
    return summary_html(
        rows=[outcome.row.cells() for outcome in outcomes.values()],
        curves={name: outcome.training.epochs for name, outcome in outcomes.items()},
        pictures=pictures,
        colors=project.colors,
        notes=[cohort, FIRST_NOTICE, epochs, claim],
    )
