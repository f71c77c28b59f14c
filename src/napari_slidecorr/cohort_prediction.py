"""Many slides predicted in turn, where one that fails does not stop the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_slidecorr.config import PredictConfig
from napari_slidecorr.errors import MapError, SlideError
from napari_slidecorr.events import BlockDone, Event, MapBegun, Notice, Predicted
from napari_slidecorr.io import read_map
from napari_slidecorr.io.content_digest import content_digest
from napari_slidecorr.io.map_zarr import check_slide, is_complete
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.project import MODEL_FILE, Project

if TYPE_CHECKING:
    from napari_slidecorr.prediction_map import PredictionMap

State = Literal["predicted", "was complete", "failed"]


@dataclass(frozen=True)
class SlideOutcome:
    """What became of one slide.

    Attributes
    ----------
    state : str
        ``predicted``, ``was complete`` (nothing was done) or ``failed``.
    seconds : float
        Wall time.
    patches : int
        Predicted now; what an earlier run had done is not counted.
    error : str
        One sentence, empty unless it failed.
    map : Path or None
        Where the map is; a failed one is incomplete and goes on where it stopped.
    score, area_mm2 : dict or None
        Of the whole map: see `PredictionMap`.
    cells : int
        Predicted cells of the whole map.
    """

    slide: str
    state: State
    seconds: float = 0.0
    patches: int = 0
    error: str = ""
    map: Path | None = None
    model: str = ""
    score: dict[str, float] | None = None
    area_mm2: dict[str, float] | None = None
    cells: int = 0

    @property
    def patches_per_second(self) -> float:
        """Speed, reading and opening included."""
        return self.patches / self.seconds if self.seconds else 0.0

    def sentence(self) -> str:
        """Say it in one line."""
        if self.state == "failed":
            return f"{self.slide} failed: {self.error}"
        if self.state == "was complete":
            return f"{self.slide} was complete."
        return f"{self.slide} predicted: {self.patches} patches in {self.seconds:.1f} s."


@dataclass(frozen=True, kw_only=True)
class SlideEnded(Notice):
    """One slide of several is done with, well or not."""

    outcome: SlideOutcome


@dataclass(frozen=True, kw_only=True)
class CohortPredicted(Event):
    """The end; ``result`` is a `SlideOutcome` for each slide."""

    result: tuple[SlideOutcome, ...]


def predict_cohort(
    project: Project,
    slide_ids: Sequence[str] | None = None,
    run: str | Path | None = None,
    config: PredictConfig | None = None,
) -> Iterator[Event]:
    """Predict slides with the model of a run; maps that are complete are left as they are.

    A slide that cannot be opened or used, or is too damaged, is told in its `SlideOutcome`, and the others go on. What
    would stop every slide, such as a full disk, ends the work.

    Parameters
    ----------
    slide_ids : sequence of str, optional
        All slides of the project when left out.
    run : str or Path, optional
        A run's folder or its ``model.json``; the newest run when left out.

    Returns
    -------
    iterator of Event
        Events whose phase names the slide, a `SlideEnded` for each, and at the end `CohortPredicted`.

    Raises
    ------
    ProjectError
        Now, if there is no such slide or no run; later, if a map cannot be written.
    ModelError
        If the model cannot be read.
    """
    slide_ids, run, spec = chosen(project, slide_ids, run)
    return _predict(project, slide_ids, run, spec, config or PredictConfig())


def chosen(
    project: Project, slide_ids: Sequence[str] | None, run: str | Path | None
) -> tuple[list[str], Path, ModelSpec]:
    """Give the slides, the run's folder and its model's description; arguments and errors as in `predict_cohort`."""
    known = {slide.id for slide in project.cohort}
    wanted = list(slide_ids) if slide_ids is not None else [slide.id for slide in project.cohort]
    for slide_id in wanted:
        if slide_id not in known:
            project.maps(slide_id)  # says so
    folder = project.run_folder(run)
    return wanted, folder, ModelSpec.load(folder / MODEL_FILE)


def _predict(
    project: Project, slide_ids: Sequence[str], run: Path, spec: ModelSpec, config: PredictConfig
) -> Iterator[Event]:
    load = cache(lambda: project.load_model(run))
    outcomes: list[SlideOutcome] = []
    first = True
    for number, slide_id in enumerate(slide_ids, 1):
        phase = f"{slide_id} ({number} of {len(slide_ids)})"
        for event in predict_one(project, slide_id, spec, load, config, phase, first=first):
            if isinstance(event, SlideEnded):
                outcomes.append(event.outcome)
            yield event
        first = first and outcomes[-1].state == "was complete"
    yield CohortPredicted(phase="Predicted", done=len(outcomes), total=len(outcomes), result=tuple(outcomes))


def predict_one(
    project: Project,
    slide_id: str,
    spec: ModelSpec,
    load: Callable[[], Any],
    config: PredictConfig,
    phase: str,
    *,
    first: bool,
) -> Generator[Event, None, None]:
    """Predict one slide unless its map is complete; the last event is its `SlideEnded`.

    Parameters
    ----------
    load : callable
        Gives the model as `Project.load_model` does; called when it is needed.
    phase : str
        Of all events.
    first : bool
        Tell the device, and whatever else is the same for every slide.

    Raises
    ------
    ProjectError, ModelError
        What would stop every slide.
    """
    start = time.monotonic()
    path = project.map_path(slide_id, spec.id, config)
    try:
        if is_complete(path):
            _check_unchanged(project, slide_id, path)
            outcome = _facts(SlideOutcome(slide_id, "was complete"), read_map(path), path)
        else:
            outcome = yield from _predict_one(project, slide_id, load(), config, phase, first=first)
    except (SlideError, MapError) as error:
        outcome = SlideOutcome(slide_id, "failed", time.monotonic() - start, 0, str(error), path)
    yield SlideEnded(phase=phase, message=outcome.sentence(), warning=outcome.state == "failed", outcome=outcome)


def outcomes_of(events: Iterable[Event]) -> list[SlideOutcome]:
    """Give what became of each slide by the events of `Project.predict`, which ends at the first that fails."""
    outcomes: list[SlideOutcome] = []
    start, blocks, patches = time.monotonic(), 0, 0
    for event in events:
        if isinstance(event, BlockDone):
            blocks, patches = blocks + 1, patches + int(np.isfinite(event.probabilities[0]).sum())
        elif isinstance(event, Predicted):
            state: State = "predicted" if blocks else "was complete"
            seconds = time.monotonic() - start if blocks else 0.0
            outcome = SlideOutcome(event.result.slide_id, state, seconds, patches)
            outcomes.append(_facts(outcome, event.result, event.path))
            start, blocks, patches = time.monotonic(), 0, 0
    return outcomes


def _check_unchanged(project: Project, slide_id: str, path: Path) -> None:
    """Refuse a map of what the slide's file no longer holds; a slide that is away cannot be asked."""
    if (file := project.slide_path(slide_id)).exists():
        check_slide(path, content_digest(file))


def _predict_one(
    project: Project, slide_id: str, loaded: Any, config: PredictConfig, phase: str, *, first: bool
) -> Generator[Event, None, SlideOutcome]:
    start, patches = time.monotonic(), 0
    path, prediction = None, None
    try:
        with (
            project.lent_slide(slide_id) as slide,
            closing(project.predict_slide(slide, loaded, config)) as events,
        ):
            for event in events:
                if isinstance(event, BlockDone):
                    patches += int(np.isfinite(event.probabilities[0]).sum())
                elif isinstance(event, MapBegun):
                    path = event.path
                elif isinstance(event, Predicted):
                    prediction = event.result
                if _passes(event, first=first):
                    yield replace(event, phase=phase)
    except (SlideError, MapError) as error:
        return SlideOutcome(slide_id, "failed", time.monotonic() - start, patches, str(error), path)
    outcome = SlideOutcome(slide_id, "predicted", time.monotonic() - start, patches)
    return _facts(outcome, prediction, path)


def _passes(event: Event, *, first: bool) -> bool:
    """Leave out what would be told of every slide anew: the device, and that tissue is looked for."""
    if isinstance(event, Notice):
        return event.warning or first
    return event.phase.startswith("Predict")


def _facts(outcome: SlideOutcome, prediction: PredictionMap | None, path: Path | None) -> SlideOutcome:
    if prediction is None:
        return outcome
    score = prediction.slide_score() if prediction.predicted.any() else None
    about = {"map": path, "model": prediction.model_id, "cells": int(prediction.predicted.sum())}
    return replace(outcome, score=score, area_mm2=prediction.area_mm2(), **about)  # type: ignore[arg-type]
