"""What a fast training leaves on the disk: the same files as a training from pixels, so that all else can use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_slidecorr import __version__
from napari_slidecorr.config import CrossEntropyConfig, TrainConfig
from napari_slidecorr.events import EpochDone
from napari_slidecorr.fast_config import FastConfig
from napari_slidecorr.held_out_file import write_held_out
from napari_slidecorr.io.atomic import atomic_write_text, make_folder
from napari_slidecorr.learning.heads import Head, LinearHead
from napari_slidecorr.learning.held_out import OutOfFold, PenaltyScore
from napari_slidecorr.learning.labelled import Labelled
from napari_slidecorr.learning.model_card import CARD_NAME, model_card, slide_facts, versions
from napari_slidecorr.learning.models import PatchClassifier, save_model
from napari_slidecorr.model_spec import FOLDS, ModelSpec
from napari_slidecorr.patches import patches_sha256
from napari_slidecorr.runs import CONFIG_NAME, CURVE_NAME, curve_csv, write_state
from napari_slidecorr.settings import to_json
from napari_slidecorr.slide import Slide
from napari_slidecorr.stain import REFERENCE, Stain

PENALTIES_NAME = "penalties.csv"


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


@dataclass(frozen=True)
class RunFolder:
    """Where a fast training is written, and what it is of.

    Attributes
    ----------
    run : Path
    slides : mapping of slide id to Slide
    config : FastConfig
    device : str
        What features were computed on, for a person to read.
    """

    run: Path
    slides: Mapping[str, Slide]
    config: FastConfig
    device: str


def write_run(
    job: RunFolder, model: PatchClassifier, labelled: Labelled, result: FastResult, curve: tuple[EpochDone, ...]
) -> None:
    """Write a run that is finished: settings, curve, penalties, what was held out, model, model card; ``model.json`` after its weights.

    Raises
    ------
    ProjectError
        If the folder cannot be written.
    """
    make_folder(job.run)
    atomic_write_text(job.run / CONFIG_NAME, json.dumps(_description(job, labelled), indent=2))
    atomic_write_text(job.run / CURVE_NAME, curve_csv(curve))
    if result.penalties:
        rows = [f"{s.penalty},{s.auc:.6f},{s.cross_entropy:.6f}" for s in result.penalties]
        atomic_write_text(job.run / PENALTIES_NAME, "\n".join(["penalty,auc,cross_entropy", *rows]) + "\n")
    if result.held_out is not None:
        write_held_out(job.run, labelled.table, result.held_out.probabilities)
    put_head(model, result.head)
    spec = save_model(job.run, model, _spec(job, model, labelled, result))
    nobody = labelled.table.of_rows(np.zeros(len(labelled.table), bool))
    card = model_card(spec, job.config, (labelled.table, nobody), curve, job.device)
    atomic_write_text(job.run / CARD_NAME, card + _card_part(job.config, result))
    write_state(job.run, "finished")


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


def _description(job: RunFolder, labelled: Labelled) -> dict[str, Any]:
    used = [job.slides[slide] for slide in labelled.table.slides]
    return {
        "package_version": __version__,
        "settings": to_json(fine_tuning_config(job.config)),
        "fast": to_json(job.config),
        "split": {"train": list(labelled.table.slides), "validation": []},
        "classes": list(labelled.table.classes),
        "patches_sha256": patches_sha256(labelled.table),
        "versions": versions(),
        "slides": slide_facts(used),
    }


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


def stain_target(config: FastConfig) -> Stain | None:
    """What the stains of slides are brought to."""
    return REFERENCE if config.stain == "macenko" else None


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


def _spec(job: RunFolder, model: PatchClassifier, labelled: Labelled, result: FastResult) -> ModelSpec:
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
