"""Find out whether a trained model learnt the tissue or the slide: features, measures and verdict, as a stream of events."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_slidecorr.diagnostics import panel
from napari_slidecorr.diagnostics.diagnosis import (
    Diagnosis,
    ShownPatch,
    SlideFinding,
    chosen_for_show,
    similarity_rows,
)
from napari_slidecorr.diagnostics.feature_table import FeatureTable, Measure
from napari_slidecorr.diagnostics.same_slide import slide_similarity
from napari_slidecorr.diagnostics.scores import slide_scores
from napari_slidecorr.diagnostics.shortcut import ShortcutCurve, shortcut_curve
from napari_slidecorr.diagnostics.verdict import verdict
from napari_slidecorr.errors import CohortError
from napari_slidecorr.events import Event
from napari_slidecorr.learning.centring import slide_centre
from napari_slidecorr.learning.extractor import Extractor
from napari_slidecorr.learning.feature_store import FeatureCache
from napari_slidecorr.learning.features import TableFeaturesDone, table_features
from napari_slidecorr.learning.leakage import leakage_gap
from napari_slidecorr.learning.models import PatchClassifier
from napari_slidecorr.learning.randomness import seeded
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.patches import PatchTable
from napari_slidecorr.slide import Slide

PER_SLIDE = 200
"""Patches of a slide that are looked at, drawn at random."""


@dataclass(frozen=True)
class Subject:
    """A model and the patches it is judged on.

    Attributes
    ----------
    run : str
    model : PatchClassifier
    spec : ModelSpec
    seen, unseen : PatchTable
        Of the slides that it was trained on, and of those it has not seen.
    slides : mapping of slide id to Slide
    groups : mapping of slide id to str
    start : PatchClassifier or None
        Its backbone as it was before training, for the leakage gap; None without one that can be had.
    why_no_start : str
        One sentence then.
    known : tuple of Measure
        What is known of it already, and told with the rest.
    out_of_fold : ndarray, shape (P, K), float32, optional
        Of each patch of ``seen``, what a sibling said that had not seen its slide; NaN where none did.
    """

    run: str
    model: PatchClassifier
    spec: ModelSpec
    seen: PatchTable
    unseen: PatchTable
    slides: Mapping[str, Slide]
    groups: Mapping[str, str]
    start: PatchClassifier | None = None
    why_no_start: str = ""
    known: tuple[Measure, ...] = ()
    out_of_fold: NDArray[np.float32] | None = None


@dataclass(frozen=True, kw_only=True)
class MeasureTaken(Event):
    """One measure is known."""

    measure: Measure


@dataclass(frozen=True, kw_only=True)
class _CurveFound(MeasureTaken):
    curve: ShortcutCurve


@dataclass(frozen=True, kw_only=True)
class Diagnosed(Event):
    """The end."""

    result: Diagnosis


def diagnose(
    subject: Subject, *, cache: FeatureCache, device: str = "auto", per_slide: int = PER_SLIDE, seed: int = 0
) -> Iterator[Event]:
    """Measure a model on its own patches.

    Parameters
    ----------
    per_slide : int
        At most so many patches of each slide, drawn at random.

    Returns
    -------
    iterator of Event
        Progress of the features, a `MeasureTaken` for each measure, and at the end `Diagnosed`. Features are kept, so that
        a second diagnosis takes seconds.

    Raises
    ------
    CohortError
        Now, if no patch of the training slides is left.
    SlideError
        Later, if a slide cannot be read.
    """
    if not len(subject.seen):
        raise CohortError(f"{subject.run}: its training slides have no patches any more; restore their regions first.")
    return _diagnose(subject, cache, device, per_slide, seed)


def _diagnose(
    subject: Subject, cache: FeatureCache, device: str, per_slide: int, seed: int
) -> Generator[Event, None, None]:
    keep = _some(subject.seen, per_slide, seed)
    seen, unseen = subject.seen.of_rows(keep), subject.unseen.of_rows(_some(subject.unseen, per_slide, seed))
    extractor = Extractor.of(subject.model, subject.spec.geometry, subject.spec.stain, device=device)
    seen_table = yield from _features(seen, subject, extractor, cache)
    unseen_table = yield from _features(unseen, subject, extractor, cache)
    tables = _Tables(seen_table, unseen_table, None if subject.out_of_fold is None else subject.out_of_fold[keep])
    measures: dict[str, Measure] = {}
    curve: ShortcutCurve | None = None
    with closing(_measures(subject, tables, cache, device, per_slide, seed)) as taken:
        for event in taken:
            if isinstance(event, MeasureTaken):
                measures[event.measure.name] = event.measure
            if isinstance(event, _CurveFound):
                curve = event.curve
            yield event
    yield Event(phase="Drawing the map of features")
    result = _put_together(subject, (seen, unseen), tables, measures, curve, seed)
    yield Diagnosed(phase="Diagnosed", done=1, total=1, result=result)


@dataclass(frozen=True)
class _Tables:
    """What the model makes of the patches of both sides; for the first, what its siblings said out of fold, if it has any."""

    seen: FeatureTable
    unseen: FeatureTable
    out_of_fold: NDArray[np.float32] | None

    @property
    def _told(self) -> NDArray[np.bool_]:
        if self.out_of_fold is None:
            return np.zeros(len(self.seen), bool)
        return np.asarray(np.isfinite(self.out_of_fold).all(axis=1))

    def judged(self) -> FeatureTable:
        """Patches as they are judged by a model that has not seen their slide."""
        if self.out_of_fold is None:
            return self.unseen
        return replace(self.seen, probabilities=self.out_of_fold).rows(self._told)

    def together(self) -> FeatureTable:
        """All patches, each with what was said of it out of fold where that is known."""
        told = self._told
        if self.out_of_fold is None or self.seen.probabilities is None:
            return self.seen.joined(self.unseen) if len(self.unseen) else self.seen
        said = np.where(told[:, None], self.out_of_fold, self.seen.probabilities)
        return replace(self.seen, probabilities=said)

    def trained_on(self) -> frozenset[int]:
        """Indices, in `together`, of the slides whose probabilities come from a model that has seen them."""
        return frozenset(self.seen.slide_index[~self._told].tolist())


def _measures(
    subject: Subject, tables: _Tables, cache: FeatureCache, device: str, per_slide: int, seed: int
) -> Generator[Event, None, None]:
    seen, unseen = tables.seen, tables.unseen
    total = panel.COUNT + 2
    for measure in subject.known:
        yield MeasureTaken(phase=f"Reading {measure.name.replace('_', ' ')}", done=0, total=total, measure=measure)
    for done, measure in enumerate(panel.measure(seen, unseen, judged=tables.judged(), seed=seed), 1):
        yield MeasureTaken(phase=f"Measuring {measure.name.replace('_', ' ')}", done=done, total=total, measure=measure)
    yield Event(phase="Tying class and slide")
    curve = shortcut_curve(seen.joined(unseen) if len(unseen) else seen, seed=seed)
    yield _CurveFound(phase="Measuring the shortcut", done=total - 1, total=total, measure=curve.drop, curve=curve)
    if subject.start is None:
        leak = Measure.undefined("leakage_gap", subject.why_no_start, seen)
    else:
        start = Extractor.of(subject.start, subject.spec.geometry, subject.spec.stain, device=device)
        both = _joined(subject.seen, subject.unseen)
        table = both.of_rows(_some(both, per_slide, seed))
        found = yield from _raw_features(table, subject.slides, start, cache)
        groups = [subject.groups[slide] for slide in table.slides]
        leak = leakage_gap(found, table.label, table.slide_index, groups, len(table.classes), seed=seed)
    yield MeasureTaken(phase="Measuring the leakage gap", done=total, total=total, measure=leak)


def _some(table: PatchTable, per_slide: int, seed: int) -> NDArray[np.bool_]:
    """Choose at most so many patches of each slide."""
    rng = np.random.default_rng(seed)
    keep = np.zeros(len(table), bool)
    for slide in range(len(table.slides)):
        rows = np.flatnonzero(table.slide_index == slide)
        keep[rows if len(rows) <= per_slide else rng.choice(rows, per_slide, replace=False)] = True
    return keep


def _joined(one: PatchTable, other: PatchTable) -> PatchTable:
    return replace(
        one,
        y=np.concatenate([one.y, other.y]),
        x=np.concatenate([one.x, other.x]),
        slide_index=np.concatenate([one.slide_index, other.slide_index + np.int32(len(one.slides))]),
        label=np.concatenate([one.label, other.label]),
        slides=one.slides + other.slides,
        footprints=one.footprints + other.footprints,
    )


def _raw_features(
    table: PatchTable, slides: Mapping[str, Slide], extractor: Extractor, cache: FeatureCache
) -> Generator[Event, None, NDArray[np.float16]]:
    found = np.zeros((0, extractor.dim), np.float16)
    events: Any = table_features(table, slides, extractor, cache=cache)
    with closing(events):
        for event in events:
            if isinstance(event, TableFeaturesDone):
                found = event.result
            else:
                yield event
    return found


def _features(
    table: PatchTable, subject: Subject, extractor: Extractor, cache: FeatureCache
) -> Generator[Event, None, FeatureTable]:
    raw = yield from _raw_features(table, subject.slides, extractor, cache)
    centred: NDArray[np.floating] = raw
    if subject.spec.centring:
        centres = np.zeros((len(table.slides), extractor.dim), np.float32)
        for index, slide in enumerate(table.slides):
            centres[index] = yield from slide_centre(subject.slides[slide], extractor, cache)
        centred = raw.astype(np.float32) - np.float32(subject.spec.centring) * centres[table.slide_index]
    features, probabilities = _through_head(subject.model, centred)
    footprint = np.asarray(table.footprints, np.float64).reshape(-1, 2)[table.slide_index]
    return FeatureTable(
        features,
        table.label,
        table.slide_index,
        np.stack([table.y, table.x], axis=1) / footprint,
        table.slides,
        table.classes,
        tuple(subject.groups[slide] for slide in table.slides),
        probabilities,
    )


def _through_head(model: PatchClassifier, raw: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the head saw and said, for what the backbone gave."""
    with torch.inference_mode():
        features = model.neck(torch.from_numpy(raw.astype(np.float32)).to(model.head.weight.device))
        said = torch.softmax(model.head(features), dim=1)
        return features.float().cpu().numpy(), said.float().cpu().numpy()


def _put_together(
    subject: Subject,
    patches: tuple[PatchTable, PatchTable],
    tables: _Tables,
    measures: dict[str, Measure],
    curve: ShortcutCurve | None,
    seed: int,
) -> Diagnosis:
    both, trained_on = tables.together(), tables.trained_on()
    place = _joined(*patches) if len(tables.unseen) else patches[0]
    rows = chosen_for_show(both, seed)
    shown = _points(both, place, rows, map_of_features(both.features[rows], seed), trained_on)
    present = np.unique(both.slide_index)
    return Diagnosis(
        run=subject.run,
        model_id=subject.spec.id,
        objective=str(subject.spec.objective.get("kind", "")),
        measures=measures,
        verdict=verdict(measures, one_class_a_slide=not ((tables.seen.counts() > 0).sum(axis=1) > 1).any()),
        slides=_findings(both, place, trained_on),
        similarity_slides=tuple(both.slides[i] for i in present),
        similarity=similarity_rows(slide_similarity(both)[np.ix_(present, present)]),
        ties=curve.ties if curve and curve.accuracy else (),
        accuracy=curve.accuracy if curve else (),
        accuracy_unseen=curve.accuracy_unseen if curve else (),
        patches=shown,
    )


def map_of_features(features: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
    """Lay features out in the plane by t-SNE, shape (N, 2); a picture, never a number."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if len(features) < 8:
        return np.zeros((len(features), 2), np.float32)
    parts = PCA(min(50, *features.shape), random_state=seed).fit_transform(features)
    perplexity = min(30.0, (len(features) - 1) / 3)
    return np.asarray(TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(parts), np.float32)


def _points(
    table: FeatureTable, place: PatchTable, rows: NDArray[np.int64], at: NDArray[np.float32], trained_on: frozenset[int]
) -> tuple[ShownPatch, ...]:
    return tuple(
        _point(table, place, int(row), tuple(map(float, xy)), trained_on) for row, xy in zip(rows, at, strict=True)
    )


def _point(table: FeatureTable, place: PatchTable, row: int, at: Any, trained_on: frozenset[int]) -> ShownPatch:
    box, slide, label = place.box(row), int(table.slide_index[row]), int(table.label[row])
    assert table.probabilities is not None  # noqa: S101 - made so in this module
    said = table.probabilities[row]
    return ShownPatch(
        at=at,
        slide=table.slides[slide],
        group=table.groups[slide],
        label=table.classes[label],
        y=box.y0,
        x=box.x0,
        height=box.y1 - box.y0,
        width=box.x1 - box.x0,
        probability=float(said[label]),
        right=bool(said.argmax() == label),
        seen=slide in trained_on,
    )


def _findings(table: FeatureTable, place: PatchTable, trained_on: frozenset[int]) -> tuple[SlideFinding, ...]:
    scores = slide_scores(table)
    worst = [_point(table, place, score.worst, (0.0, 0.0), trained_on) for score in scores]
    found = [SlideFinding(score, patch.seen, patch) for score, patch in zip(scores, worst, strict=True)]
    return tuple(sorted(found, key=lambda one: one.seen))


def start_of(spec: ModelSpec, weights: str, *, seed: int) -> PatchClassifier:
    """Make a model's backbone as it was before training.

    Raises
    ------
    ModelError
        If its weights cannot be had.
    """
    from napari_slidecorr.learning.models import make_model

    with seeded(seed):
        return make_model(spec.backbone, len(spec.classes), weights=weights, seed=seed)
