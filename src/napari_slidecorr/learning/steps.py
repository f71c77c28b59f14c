"""One step of the optimizer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_slidecorr.config import TrainConfig
from napari_slidecorr.errors import TrainingError
from napari_slidecorr.learning import augment
from napari_slidecorr.learning.checkpoint import Trainee
from napari_slidecorr.learning.loading import Patches
from napari_slidecorr.learning.models import PatchClassifier
from napari_slidecorr.learning.objectives import Loss, Objective, Output
from napari_slidecorr.learning.randomness import seeded
from napari_slidecorr.patches import PatchTable
from napari_slidecorr.sampling import Rows

Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class ClassifierTrainee(Trainee):
    """A classifier in training.

    Attributes
    ----------
    clip : float
        Longest gradient of a step; 0 leaves it.
    half : bool
        Whether the network computes in bfloat16; the objective never does.
    """

    model: PatchClassifier
    objective: Objective
    clip: float = 0.0
    half: bool = False


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes faster in bfloat16: CUDA cards that say so."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


def views_of(patches: Patches, config: TrainConfig, epoch: int, batch: int) -> Tensor:
    """Give the views of a batch that training shows, drawn from (seed, epoch, batch)."""
    rng = augment.generator(config.seed, epoch, batch)
    views = torch.from_numpy(augment.flip_rotate(patches, rng) if config.flip_rotate else patches)
    return augment.colour_jitter(views, rng) if config.colour_jitter else views


def take_step(
    trainee: ClassifierTrainee, views: Tensor, table: PatchTable, rows: Rows, key: tuple[int, int, int]
) -> tuple[float, dict[str, float], Probabilities]:
    """Take one step of the optimizer; give the loss, its terms, and the probabilities before it."""
    try:
        output, loss = gradients(trainee, views, table, rows, key)
    except torch.cuda.OutOfMemoryError as error:
        raise TrainingError(
            f"{len(rows)} patches do not fit into the GPU's memory; lower the slides per batch, or the patch size."
        ) from error
    value = float(loss.total.detach())
    if not math.isfinite(value):
        raise not_a_number("the loss", key[1], key[2])
    if trainee.clip:
        torch.nn.utils.clip_grad_norm_(_learning(trainee), trainee.clip)
    trainee.optimizer.step()
    probabilities = torch.softmax(output.logits.detach(), dim=1).cpu().numpy()
    return value, {name: float(term.detach()) for name, term in loss.terms.items()}, probabilities


def gradients(
    trainee: ClassifierTrainee, views: Tensor, table: PatchTable, rows: Rows, key: tuple[int, int, int]
) -> tuple[Output, Loss]:
    """Compute output, loss and gradients of a batch; ``key`` (seed, epoch, batch) decides drop-out."""
    inputs = trainee.model.prepare(views)
    label = torch.from_numpy(table.label[rows].astype(np.int64)).to(inputs.device)
    slide_index = torch.from_numpy(table.slide_index[rows].astype(np.int64)).to(inputs.device)
    trainee.optimizer.zero_grad(set_to_none=True)
    with seeded(*key):
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=trainee.half):
            output: Output = trainee.model(inputs)
        output = Output(output.logits.float(), output.features.float())
        loss: Loss = trainee.objective(output, label, slide_index)
        loss.total.backward()  # type: ignore[no-untyped-call]
    return output, loss


def _learning(trainee: ClassifierTrainee) -> list[torch.nn.Parameter]:
    return [parameter for group in trainee.optimizer.param_groups for parameter in group["params"]]


def not_a_number(what: str, epoch: int, batch: int | None) -> TrainingError:
    """Say where training broke down."""
    where = f"epoch {epoch + 1}" if batch is None else f"epoch {epoch + 1}, batch {batch + 1}"
    return TrainingError(
        f"In {where}, {what} became infinite or not a number. Lower the learning rate or beta; the state after the "
        "last whole epoch is kept."
    )
