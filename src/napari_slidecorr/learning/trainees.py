"""Network, objective and optimizer of a training, made from its settings."""

from __future__ import annotations

import torch
from torch import Tensor

from napari_slidecorr.config import TrainConfig
from napari_slidecorr.learning.freezing import freeze
from napari_slidecorr.learning.memory import checkpoint_gradients
from napari_slidecorr.learning.models import check_input_size, make_model
from napari_slidecorr.learning.objectives import make_objective
from napari_slidecorr.learning.optimizers import make_optimizer
from napari_slidecorr.learning.processes import rank_and_ranks
from napari_slidecorr.learning.randomness import seeded
from napari_slidecorr.learning.shared_batch_norm import share_batch_norms
from napari_slidecorr.learning.steps import ClassifierTrainee, has_bf16
from napari_slidecorr.patches import PatchTable
from napari_slidecorr.sampling import class_shares


def make_trainee(table: PatchTable, config: TrainConfig, device: torch.device) -> ClassifierTrainee:
    """Make what a training changes; the same arguments always give the same.

    Raises
    ------
    ModelError
        If the backbone cannot be made, or cannot do what the settings ask.
    """
    model = make_model(config.backbone, len(table.classes), weights=config.weights, seed=config.seed)
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


def class_weight(table: PatchTable, config: TrainConfig) -> Tensor | None:
    """Weights that make up for how often batches show a class; 1 for each where that is even."""
    if config.class_weights == "none":
        return None
    return torch.from_numpy(1 / (len(table.classes) * class_shares(table))).float()
