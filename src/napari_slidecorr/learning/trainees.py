"""Network, objective and optimizer of a training, made from its settings."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from napari_slidecorr.config import TrainConfig
from napari_slidecorr.errors import ModelError
from napari_slidecorr.learning.freezing import freeze
from napari_slidecorr.learning.memory import checkpoint_gradients
from napari_slidecorr.learning.models import PatchClassifier, check_input_size, load_model, make_model
from napari_slidecorr.learning.objectives import make_objective
from napari_slidecorr.learning.optimizers import make_optimizer
from napari_slidecorr.learning.processes import rank_and_ranks
from napari_slidecorr.learning.randomness import seeded
from napari_slidecorr.learning.shared_batch_norm import share_batch_norms
from napari_slidecorr.learning.steps import ClassifierTrainee, has_bf16
from napari_slidecorr.learning.weights import Start
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.patches import PatchTable
from napari_slidecorr.sampling import class_shares


def make_trainee(
    table: PatchTable, config: TrainConfig, device: torch.device, start: Path | None = None
) -> ClassifierTrainee:
    """Make what a training changes; the same arguments always give the same.

    Raises
    ------
    ModelError
        If the backbone cannot be made, cannot do what the settings ask, or ``start`` does not fit.
    """
    weights = "random" if start else config.weights
    model = make_model(config.backbone, len(table.classes), weights=weights, seed=config.seed)
    if start:
        continue_from(start, model, config.backbone, table.classes)
    check_input_size(model, table.geometry.size_px, config.backbone)
    freeze(model, config.backbone, config.train_layers)
    if config.gradient_checkpointing:
        checkpoint_gradients(model, config.backbone)
    if rank_and_ranks()[1] > 1:
        share_batch_norms(model)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with seeded(config.seed):
        objective = make_objective(
            config.objective,
            feature_dim=model.feature_dim,
            slide_count=len(table.slides),
            class_weight=class_weight(table, config),
            label_smoothing=config.label_smoothing,
        ).to(device)
    half = config.bf16 == "auto" and has_bf16(device)
    optimizer = make_optimizer(model, objective, config)
    twice = config.gradient_checkpointing
    return ClassifierTrainee(model, objective, optimizer, config.gradient_clip, half, twice)


def continue_from(run: Path, model: PatchClassifier, backbone: str, classes: tuple[str, ...]) -> None:
    """Give a network the weights of a finished run; of the backbone alone when this network could not carry its head.

    Raises
    ------
    ModelError
        If the run's model is damaged, missing or of another backbone.
    """
    earlier, spec = load_model(run)
    if spec.backbone != backbone:
        raise ModelError(
            f"{run.name}: is a {spec.backbone}, not a {backbone}; choose the same backbone to continue from it."
        )
    if why := _why_a_new_head(spec, classes):
        model.backbone.load_state_dict(earlier.backbone.state_dict())
    else:
        model.load_state_dict(earlier.state_dict())
    how = f", with a new head, as {why}." if why else "."
    model.start = Start(f"{run.name} sha256:{spec.weights_sha256}", f"Continuing from {run.name}{how}")


def _why_a_new_head(spec: ModelSpec, classes: tuple[str, ...]) -> str:
    if spec.classes != classes:
        return "its classes were others"
    if spec.head != "linear":
        return f"its own is an {spec.head}"
    return "its own is for features of centred slides" if spec.centring else ""


def class_weight(table: PatchTable, config: TrainConfig) -> Tensor | None:
    """Weights that make up for how often batches show a class; 1 for each where that is even."""
    if config.class_weights == "none":
        return None
    return torch.from_numpy(1 / (len(table.classes) * class_shares(table))).float()
