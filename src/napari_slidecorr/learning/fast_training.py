"""Training in seconds: a head on features of a frozen backbone; what comes out is a model like any other.

Each slide is judged by a head that has not seen it (or its patient), and the model that is kept has seen all.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_slidecorr import __version__
from napari_slidecorr.config import CrossEntropyConfig, TrainConfig
from napari_slidecorr.errors import CohortError, TrainingError
from napari_slidecorr.events import EpochDone, Event, Notice, Trained, TrainResult
from napari_slidecorr.fast_config import FastConfig
from napari_slidecorr.io.atomic import atomic_write_text, make_folder
from napari_slidecorr.learning.abstention import unsure_thresholds
from napari_slidecorr.learning.extractor import Extractor
from napari_slidecorr.learning.feature_store import FeatureCache
from napari_slidecorr.learning.heads import DEFAULT_PENALTY, Head, LinearHead, fit_head
from napari_slidecorr.learning.held_out import OutOfFold, PenaltyScore, choose_penalty, leave_one_group_out
from napari_slidecorr.learning.labelled import Labelled, read_labelled
from napari_slidecorr.learning.model_card import CARD_NAME, model_card, slide_facts, versions
from napari_slidecorr.learning.models import (
    SPEC_NAME,
    WEIGHTS_NAME,
    PatchClassifier,
    check_input_size,
    choose_device,
    describe_device,
    make_model,
    save_model,
)
from napari_slidecorr.learning.nuisance import (
    blind_to,
    check_several_classes,
    nuisance_directions,
    without_directions,
)
from napari_slidecorr.metrics import accuracy, patch_auc
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.patches import PatchTable
from napari_slidecorr.regions import RegionSet
from napari_slidecorr.runs import CONFIG_NAME, CURVE_NAME, curve_csv, write_state
from napari_slidecorr.settings import to_json
from napari_slidecorr.slide import Slide
from napari_slidecorr.stain import REFERENCE, Stain

PENALTIES_NAME = "penalties.csv"
FOLDS = "folds"
"""`ModelSpec.kept` of a model whose held-out figures come from its siblings, each without one fold of slides."""

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


def stain_target(config: FastConfig) -> Stain | None:
    """What the stains of slides are brought to."""
    return REFERENCE if config.stain == "macenko" else None


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
        ``config.json``, ``curve.csv`` (one line), ``model.safetensors``, ``model.json``, ``MODEL_CARD.md``, and
        ``penalties.csv`` when the penalty was chosen.
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
        Now, if the folder holds a training.
    ModelError
        Now, if the device is absent; later, if the backbone cannot be had.
    CohortError
        Later, if the regions do not allow a training, or a remedy is asked for that they rule out.
    """
    choose_device(config.device)
    if (run / CONFIG_NAME).exists():
        raise TrainingError(f"{run}: holds a training already; choose another name.")
    job = _Job(slides, regions, tuple(classes), config, run, dict(groups or {}), cache or FeatureCache())
    return _fast_train(job)


@dataclass(frozen=True)
class _Job:
    slides: Mapping[str, Slide]
    regions: Mapping[str, RegionSet]
    classes: tuple[str, ...]
    config: FastConfig
    run: Path
    groups: Mapping[str, str]
    cache: FeatureCache


@dataclass(frozen=True, eq=False)
class FastResult:
    """What a fast training found, before it is written.

    Attributes
    ----------
    head : Head
        On features as the backbone gives them, minus ``config.centring`` of the slide's mean.
    held_out : OutOfFold or None
        None when no slide could be held out.
    penalties : list of PenaltyScore
        Empty unless the penalty was chosen.
    unsure_below : tuple of float
    train_probabilities : ndarray, shape (N, K), float32
    """

    head: Head
    held_out: OutOfFold | None
    penalties: list[PenaltyScore]
    unsure_below: tuple[float, ...]
    train_probabilities: NDArray[np.float32]


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
    _write(job, extractor.model, labelled, result, curve, device)
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
    features = labelled.centred(config.centring)
    directions = np.zeros((features.shape[1], 0), np.float32)
    if config.projection:
        directions = nuisance_directions(features, label, slide_index, config.projection)
        features = without_directions(features, directions)
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
            features, label, slide_index, head, groups=of_slide, classes=len(table.classes), folds=folds
        )
        if held_out.warning:
            yield Notice(phase="Judging", message=held_out.warning, warning=True)
    except CohortError as error:
        yield Notice(phase="Judging", message=str(error), warning=True)
        head = replace(head, penalty=head.penalty or DEFAULT_PENALTY)
    yield Event(phase="Fitting the head")
    fitted = fit_head(features, label, slide_index, head, classes=len(table.classes))
    train_probabilities = fitted.predict(features)
    if config.projection and isinstance(fitted, LinearHead):
        fitted = blind_to(fitted, directions)
    bounds = unsure_thresholds(label, held_out.probabilities, slide_index, config.unsure_error) if held_out else ()
    return FastResult(fitted, held_out, scores, bounds, train_probabilities)


def group_numbers(slides: Sequence[str], groups: Mapping[str, str] | None) -> list[int]:
    """Number the groups of slides: slides of one group have one number."""
    names = [(groups or {}).get(slide, slide) for slide in slides]
    order = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return [order[name] for name in names]


def put_head(model: PatchClassifier, head: Head) -> None:
    """Put a fitted head on a classifier, in place; it then predicts as the head does."""
    if isinstance(head, LinearHead):
        linear = torch.nn.Linear(model.trunk_dim, head.classes)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(head.weight))
            linear.bias.copy_(torch.from_numpy(head.bias))
        model.neck, model.head, model.feature_dim = torch.nn.Identity(), linear, model.trunk_dim
    else:
        model.neck, model.head, model.feature_dim = head.neck, head.linear, head.linear.in_features


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


def _write(
    job: _Job,
    model: PatchClassifier,
    labelled: Labelled,
    result: FastResult,
    curve: tuple[EpochDone, ...],
    device: str,
) -> None:
    make_folder(job.run)
    atomic_write_text(job.run / CONFIG_NAME, json.dumps(_description(job, labelled), indent=2))
    atomic_write_text(job.run / CURVE_NAME, curve_csv(curve))
    if result.penalties:
        rows = [f"{s.penalty},{s.auc:.6f},{s.cross_entropy:.6f}" for s in result.penalties]
        atomic_write_text(job.run / PENALTIES_NAME, "\n".join(["penalty,auc,cross_entropy", *rows]) + "\n")
    put_head(model, result.head)
    spec = save_model(job.run, model, _spec(job, model, labelled, result))
    nobody = labelled.table.of_rows(np.zeros(len(labelled.table), bool))
    card = model_card(spec, job.config, (labelled.table, nobody), curve, device)
    atomic_write_text(job.run / CARD_NAME, card + _card_part(job.config, result))
    write_state(job.run, "finished")


def _description(job: _Job, labelled: Labelled) -> dict[str, Any]:
    used = [job.slides[slide] for slide in labelled.table.slides]
    return {
        "package_version": __version__,
        "settings": to_json(fine_tuning_config(job.config)),
        "fast": to_json(job.config),
        "split": {"train": list(labelled.table.slides), "validation": []},
        "classes": list(labelled.table.classes),
        "patches_sha256": _digest(labelled.table),
        "versions": versions(),
        "slides": slide_facts(used),
    }


def _digest(table: PatchTable) -> str:
    digest = hashlib.sha256()
    for column in (table.y, table.x, table.slide_index, table.label):
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def fine_tuning_config(config: FastConfig) -> TrainConfig:
    """Give the settings of a training from pixels of the same network and patches, to go on from a fast model."""
    return TrainConfig(
        objective=CrossEntropyConfig(),
        backbone=config.backbone,
        weights=config.weights,
        patches=config.patches,
        stain=config.stain,
        device=config.device,
        seed=config.head.seed,
    )


def remedy_of(config: FastConfig) -> str:
    """Say in a few words what is done against slide-wise shift; empty for nothing."""
    parts = []
    if config.centring:
        parts.append(f"centring {config.centring:g}")
    if config.projection:
        parts.append(f"projection {config.projection}")
    if config.head.net != "linear" and config.head.objective.kind != "ce":
        parts.append(f"{config.head.objective.title} on {config.head.net}")
    return ", ".join(parts)


def _spec(job: _Job, model: PatchClassifier, labelled: Labelled, result: FastResult) -> ModelSpec:
    return ModelSpec(
        backbone=job.config.backbone,
        classes=labelled.table.classes,
        geometry=labelled.table.geometry,
        mean=model.mean,
        std=model.std,
        objective=to_json(job.config.head.objective),
        train_slides=labelled.table.slides,
        validation_slides=(),
        initial_weights=model.start.origin,
        weights_sha256="",
        package_version=__version__,
        stain=stain_target(job.config),
        epoch=1,
        kept=FOLDS,
        head=job.config.head.net,
        centring=job.config.centring,
        remedy=remedy_of(job.config),
        unsure_below=result.unsure_below,
    )


def _card_part(config: FastConfig, result: FastResult) -> str:
    held = "No slide could be held out: how the model does on a new slide is unknown."
    if result.held_out is not None:
        held = (
            f"Held-out figures are of {len(result.held_out.heads)} heads like this one, each judged on slides or patients "
            f"that it had not seen; the model itself has seen all. {result.held_out.warning}"
        )
    penalty = f", L2 penalty {result.head.penalty:g}" if isinstance(result.head, LinearHead) else ""
    bounds = ", ".join(f"{value:.3f}" for value in result.unsure_below) or "none"
    return (
        f"\n## A head on frozen features\n\n{config.head.net} head{penalty}; the backbone was not trained. "
        f"{held}\n\nRemedy against slide-wise shift: {remedy_of(config) or 'none'}. A class may be the answer from these "
        f"probabilities on, one for each class; where not exactly one may, the model is unsure: {bounds}.\n"
    )
