"""Training in seconds: a head on features of a frozen backbone; what comes out is a model like any other.

Each slide is judged by a head that has not seen it (or its patient), and the model that is kept has seen all.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from napari_slidecorr.errors import CohortError, TrainingError
from napari_slidecorr.events import EpochDone, Event, Notice, Trained, TrainResult
from napari_slidecorr.fast_config import FastConfig
from napari_slidecorr.learning.abstention import unsure_thresholds
from napari_slidecorr.learning.extractor import Extractor
from napari_slidecorr.learning.fast_run import FastResult, RunFolder, stain_target, write_run
from napari_slidecorr.learning.feature_store import FeatureCache
from napari_slidecorr.learning.heads import DEFAULT_PENALTY, fit_head
from napari_slidecorr.learning.held_out import PenaltyScore, choose_penalty, leave_one_group_out
from napari_slidecorr.learning.labelled import Labelled, read_labelled
from napari_slidecorr.learning.models import (
    SPEC_NAME,
    WEIGHTS_NAME,
    check_input_size,
    choose_device,
    describe_device,
    make_model,
)
from napari_slidecorr.learning.nuisance import check_several_classes, fit_projected
from napari_slidecorr.metrics import accuracy, patch_auc
from napari_slidecorr.regions import RegionSet
from napari_slidecorr.runs import CONFIG_NAME, run_claimed
from napari_slidecorr.slide import Slide

NET_FOLDS, MOST_FOLDS = 5, 40


def make_extractor(config: FastConfig) -> Extractor:
    """Make the backbone that a config names, ready to give features.

    Raises
    ------
    ModelError
        If it cannot be made, its weights cannot be had, or it does not take patches of that size.
    """
    model = make_model(config.backbone, 2, weights=config.weights, seed=config.head.seed)
    check_input_size(model, config.patches.size_px, config.backbone)
    return Extractor.of(model, config.patches.geometry, stain_target(config), device=config.device)


def fast_train(
    slides: Mapping[str, Slide],
    regions: Mapping[str, RegionSet],
    classes: Sequence[str],
    config: FastConfig,
    *,
    run: Path,
    groups: Mapping[str, str] | None = None,
    cache: FeatureCache | None = None,
) -> Iterator[Event]:
    """Train a head on the labelled cells of slides.

    Parameters
    ----------
    slides : mapping of slide id to Slide
    regions : mapping of slide id to RegionSet
        Simple polygons; slides without any take no part.
    classes : sequence of str
    run : Path
        The run's folder; it must not hold a training yet. It receives what a training from pixels leaves:
        ``config.json``, ``curve.csv`` (one line), ``model.safetensors``, ``model.json``, ``MODEL_CARD.md``,
        ``held_out.csv`` when slides could be held out, and ``penalties.csv`` when the penalty was chosen.
    groups : mapping of slide id to group, optional
        What is held out together, usually a patient; each slide alone when left out.
    cache : FeatureCache, optional
        The user's when left out.

    Returns
    -------
    iterator of Event
        At the end an `EpochDone` with the scores on held-out slides, and `Trained`. Closing it before leaves the folder
        as it was; features that were computed are kept.

    Raises
    ------
    TrainingError
        Now, if the folder holds a training; at the first step, if another program trains there.
    ModelError
        Now, if the device is absent; later, if the backbone cannot be had.
    CohortError
        Later, if the regions do not allow a training, or a remedy is asked for that they rule out.
    """
    choose_device(config.device)
    if (run / CONFIG_NAME).exists():
        raise TrainingError(f"{run}: holds a training already; choose another name.")
    job = _Job(slides, regions, tuple(classes), config, run, dict(groups or {}), cache or FeatureCache())
    return _alone(job)


def _alone(job: _Job) -> Generator[Event, None, None]:
    with run_claimed(job.run):
        yield from _fast_train(job)


@dataclass(frozen=True)
class _Job:
    slides: Mapping[str, Slide]
    regions: Mapping[str, RegionSet]
    classes: tuple[str, ...]
    config: FastConfig
    run: Path
    groups: Mapping[str, str]
    cache: FeatureCache


def _fast_train(job: _Job) -> Generator[Event, None, None]:
    config, begun = job.config, time.perf_counter()
    yield Event(phase=f"Making {config.backbone}, with weights {config.weights}")
    extractor = make_extractor(config)
    device = describe_device(next(extractor.model.parameters()).device)
    yield Notice(phase="Preparing", message=f"{extractor.model.start.note} Features on {device}.")
    labelled = yield from read_labelled(
        job.slides,
        job.regions,
        job.classes,
        extractor,
        cache=job.cache,
        overlap=config.patches.overlap,
        min_coverage=config.patches.min_coverage,
        with_centres=config.centring > 0,
        batch_size=config.batch_size,
    )
    result = yield from fit_and_judge(labelled, config, job.groups)
    yield Event(phase="Writing the model")
    curve = (_epoch(labelled, result, time.perf_counter() - begun),)
    write_run(RunFolder(job.run, job.slides, config, device), extractor.model, labelled, result, curve)
    yield curve[0]
    yield Trained(
        phase="Trained", done=1, total=1, result=TrainResult(job.run / WEIGHTS_NAME, job.run / SPEC_NAME, curve)
    )


def fit_and_judge(
    labelled: Labelled, config: FastConfig, groups: Mapping[str, str] | None = None
) -> Generator[Event, None, FastResult]:
    """Choose the penalty, judge each slide by a head that has not seen it, and fit the head that is kept on all.

    Raises
    ------
    CohortError
        If a remedy is asked for that the labels rule out.
    """
    table = labelled.table
    label, slide_index = table.label.astype(np.int64), table.slide_index
    if config.centring:
        check_several_classes(label, slide_index, "Centring")
    if config.projection:
        check_several_classes(label, slide_index, "Projection")
    features = labelled.centred(config.centring)
    of_slide = group_numbers(table.slides, groups)
    head, scores = config.head, list[PenaltyScore]()
    held_out = None
    try:
        if head.net == "linear" and head.penalty is None:
            yield Event(phase="Choosing the penalty on held-out slides")
            penalty, scores = choose_penalty(
                features, label, slide_index, groups=of_slide, classes=len(table.classes), seed=head.seed
            )
            head = replace(head, penalty=penalty)
        yield Event(phase="Judging each slide by a head that has not seen it")
        folds = NET_FOLDS if head.net != "linear" else MOST_FOLDS if len(set(of_slide)) > MOST_FOLDS else None
        held_out = leave_one_group_out(
            features,
            label,
            slide_index,
            head,
            groups=of_slide,
            classes=len(table.classes),
            folds=folds,
            projection=config.projection,
        )
        if held_out.warning:
            yield Notice(phase="Judging", message=held_out.warning, warning=True)
    except CohortError as error:
        yield Notice(phase="Judging", message=str(error), warning=True)
        head = replace(head, penalty=head.penalty or DEFAULT_PENALTY)
    yield Event(phase="Fitting the head")
    if config.projection:
        fitted = fit_projected(features, label, slide_index, head, config.projection, classes=len(table.classes))
    else:
        fitted = fit_head(features, label, slide_index, head, classes=len(table.classes))
    train_probabilities = fitted.predict(features)
    bounds = unsure_thresholds(label, held_out.probabilities, slide_index, config.unsure_error) if held_out else ()
    return FastResult(fitted, held_out, scores, bounds, train_probabilities)


def group_numbers(slides: Sequence[str], groups: Mapping[str, str] | None) -> list[int]:
    """Number the groups of slides: slides of one group have one number."""
    names = [(groups or {}).get(slide, slide) for slide in slides]
    order = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return [order[name] for name in names]


def _epoch(labelled: Labelled, result: FastResult, seconds: float) -> EpochDone:
    label = labelled.table.label.astype(np.int64)
    auc = exact = float("nan")
    if result.held_out is not None:
        there = result.held_out.fold >= 0
        auc = result.held_out.auc(label)
        exact = accuracy(label[there], result.held_out.probabilities[there])
    chosen = result.train_probabilities[np.arange(len(label)), label].clip(1e-7, 1)
    loss = float(-np.log(chosen).mean())
    return EpochDone(
        phase="Judged on held-out slides",
        done=1,
        total=1,
        epoch=0,
        loss=loss,
        terms={"cross_entropy": loss},
        pairs=0.0,
        train_auc=patch_auc(label, result.train_probabilities),
        validation_auc=auc,
        validation_accuracy=exact,
        patches_per_second=len(label) / max(seconds, 1e-6),
        seconds=seconds,
    )
