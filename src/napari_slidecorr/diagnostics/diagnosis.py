"""What was found out about one model, as one value that is kept beside it as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.diagnostics.feature_table import FeatureTable, Measure
from napari_slidecorr.diagnostics.scores import SlideScore
from napari_slidecorr.diagnostics.verdict import Verdict
from napari_slidecorr.errors import ModelError
from napari_slidecorr.io.atomic import atomic_write_text

FORMAT = 1
FILE = "diagnosis.json"
SHOWN_SLIDES, SHOWN_PATCHES = 10, 100
"""Of how many slides, and how many patches of each, the map of features is made (Zhang et al. 2021, Figure 3)."""


@dataclass(frozen=True)
class ShownPatch:
    """One point of the map of features.

    Attributes
    ----------
    at : (float, float)
        On the map (t-SNE), no unit.
    slide, group, label : str
    y, x : int
        Upper left corner of the patch, level-0 pixels.
    height, width : int
        Level-0 pixels.
    probability : float
        What the model gives the patch's own class.
    right : bool
        Whether that class is the most probable.
    seen : bool
        Whether the model was trained on the slide.
    """

    at: tuple[float, float]
    slide: str
    group: str
    label: str
    y: int
    x: int
    height: int
    width: int
    probability: float
    right: bool
    seen: bool


@dataclass(frozen=True)
class SlideFinding:
    """The scores of one slide and where its worst patch lies."""

    score: SlideScore
    seen: bool
    worst: ShownPatch


@dataclass(frozen=True)
class Diagnosis:
    """All that was measured of one model.

    Attributes
    ----------
    run, model_id, objective : str
    measures : dict of name to Measure
    verdict : Verdict
    slides : tuple of SlideFinding
        Held-out ones first, the worst of them first.
    similarity : tuple of tuple of float or None
        Mean cosine between the patches of each two slides inside a class, in the order of ``similarity_slides``.
    ties, accuracy, accuracy_unseen : tuple of float
        The shortcut curve; empty where it is undefined.
    patches : tuple of ShownPatch
    """

    run: str
    model_id: str
    objective: str
    measures: dict[str, Measure]
    verdict: Verdict
    slides: tuple[SlideFinding, ...]
    similarity_slides: tuple[str, ...]
    similarity: tuple[tuple[float | None, ...], ...]
    ties: tuple[float, ...]
    accuracy: tuple[float, ...]
    accuracy_unseen: tuple[float, ...]
    patches: tuple[ShownPatch, ...]

    def to_json(self) -> dict[str, Any]:
        """The diagnosis, ready for JSON."""
        return {"format": FORMAT, **_finite(asdict(self))}

    def save(self, run: Path) -> Path:
        """Write it into the folder of its run.

        Raises
        ------
        ProjectError
            If that cannot be written.
        """
        path = run / FILE
        atomic_write_text(path, json.dumps(self.to_json(), indent=1))
        return path

    @classmethod
    def load(cls, run: Path) -> Diagnosis | None:
        """Read what `save` wrote; None when the run was not diagnosed yet.

        Raises
        ------
        ModelError
            If the file is damaged or of a newer version.
        """
        path = run / FILE
        if not path.exists():
            return None
        try:
            told = json.loads(path.read_text("utf-8"))
            if told.pop("format") != FORMAT:
                raise ModelError(f"{path}: it was written by another version; diagnose the run again.")
            return _from_json(told)
        except ModelError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path}: not a diagnosis ({error}); diagnose the run again.") from error


def summary(diagnosis: Diagnosis) -> dict[str, Any]:
    """The figures of a diagnosis by name, each with its interval, chance and counts, or null with a reason."""
    told = {}
    for name, measure in diagnosis.measures.items():
        told[name] = {key: value for key, value in asdict(measure).items() if key != "name" and value not in (None, "")}
        told[name]["value"] = measure.value
    probe = diagnosis.measures.get("slide_probe")
    slides = max((m.n_slides for m in diagnosis.measures.values()), default=0)
    patches = max((m.n_patches for m in diagnosis.measures.values()), default=0)
    return {
        "run": diagnosis.run,
        "model": diagnosis.model_id,
        "objective": diagnosis.objective,
        "finding": diagnosis.verdict.finding,
        "verdict": diagnosis.verdict.text,
        **told,
        "chance": probe.chance if probe is not None else None,
        "n_slides": slides,
        "n_patches": patches,
        "slides": [
            {**asdict(one.score), "seen": one.seen, "worst": {"y": one.worst.y, "x": one.worst.x}}
            for one in diagnosis.slides
        ],
    }


def similarity_rows(similarity: NDArray[np.float64]) -> tuple[tuple[float | None, ...], ...]:
    """A matrix as rows of numbers; None where it is not a number."""
    return tuple(tuple(None if math.isnan(v) else float(v) for v in row) for row in similarity)


def chosen_for_show(table: FeatureTable, seed: int = 0) -> NDArray[np.int64]:
    """Rows of the patches that the map of features shows: 100 of each of 10 slides, drawn at random."""
    rng = np.random.default_rng(seed)
    slides = np.unique(table.slide_index)
    shown = slides if len(slides) <= SHOWN_SLIDES else np.sort(rng.choice(slides, SHOWN_SLIDES, replace=False))
    rows = [np.flatnonzero(table.slide_index == slide) for slide in shown]
    taken = [own if len(own) <= SHOWN_PATCHES else rng.choice(own, SHOWN_PATCHES, replace=False) for own in rows]
    return np.sort(np.concatenate(taken)) if taken else np.zeros(0, np.int64)


def _from_json(told: dict[str, Any]) -> Diagnosis:
    verdict = told["verdict"]
    return Diagnosis(
        **{
            **told,
            "measures": {name: Measure(**measure) for name, measure in told["measures"].items()},
            "verdict": Verdict(verdict["finding"], tuple(verdict["sentences"]), verdict["advice"]),
            "slides": tuple(
                SlideFinding(SlideScore(**one["score"]), one["seen"], _patch(one["worst"])) for one in told["slides"]
            ),
            "similarity_slides": tuple(told["similarity_slides"]),
            "similarity": tuple(tuple(row) for row in told["similarity"]),
            **{name: tuple(told[name]) for name in ("ties", "accuracy", "accuracy_unseen")},
            "patches": tuple(_patch(one) for one in told["patches"]),
        }
    )


def _patch(told: dict[str, Any]) -> ShownPatch:
    values = {field.name: told[field.name] for field in dataclasses.fields(ShownPatch)}
    return ShownPatch(**{**values, "at": tuple(values["at"])})


def _finite(value: Any) -> Any:
    """Numbers that are none become null, numpy's become Python's."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
