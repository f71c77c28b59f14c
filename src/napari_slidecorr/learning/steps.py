"""One step of the optimizer."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_slidecorr.config import TrainConfig
from napari_slidecorr.errors import TrainingError
from napari_slidecorr.learning import augment
from napari_slidecorr.learning.augment import Places
from napari_slidecorr.learning.checkpoint import Trainee
from napari_slidecorr.learning.loading import Patches
from napari_slidecorr.learning.memory import statistics_at_rest
from napari_slidecorr.learning.models import PatchClassifier
from napari_slidecorr.learning.objectives import Loss, Objective, Output
from napari_slidecorr.learning.processes import Share, add_up, add_up_gradients, gathered
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
    twice : bool
        Whether layers are computed again for their gradients.
    """

    model: PatchClassifier
    objective: Objective
    clip: float = 0.0
    half: bool = False
    twice: bool = False


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes faster in bfloat16: CUDA cards that say so."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


def views_of(
    patches: Patches, config: TrainConfig, key: tuple[int, int], places: Places, device: torch.device
) -> Tensor:
    """Give the views of patches that training shows, drawn from the seed and (epoch, batch) for the whole batch.

    Colours are varied on the device if that is a GPU.
    """
    rng = augment.generator(config.seed, *key)
    views = torch.from_numpy(augment.flip_rotate(patches, rng, places) if config.flip_rotate else patches)
    if device.type == "cuda":
        views = views.to(device, non_blocking=True)
    if config.hed_jitter:
        views = augment.hed_jitter(views, rng, config.hed_jitter, places)
    return augment.colour_jitter(views, rng, places) if config.colour_jitter else views


def take_step(
    trainee: ClassifierTrainee, views: Tensor, table: PatchTable, share: Share, key: tuple[int, int, int]
) -> tuple[float, dict[str, float], Probabilities]:
    """Take one step of the optimizer; give the loss, its terms, and the probabilities before it, of the whole batch."""
    output, loss = gradients(trainee, views, table, share, key)
    value = float(loss.total.detach())
    if not math.isfinite(value):
        raise not_a_number("the loss", key[1], key[2])
    if trainee.clip:
        torch.nn.utils.clip_grad_norm_(_learning(trainee), trainee.clip)
    trainee.optimizer.step()
    probabilities = torch.softmax(gathered(output.logits.detach(), share), dim=1).cpu().numpy()
    return value, {name: float(term.detach()) for name, term in loss.terms.items()}, probabilities


def gradients(
    trainee: ClassifierTrainee, views: Tensor, table: PatchTable, share: Share, key: tuple[int, int, int]
) -> tuple[Output, Loss]:
    """Compute the output of the patches here, and loss and gradients of the batch.

    ``key`` (seed, epoch, batch) decides drop-out; each process has its own.
    """
    inputs = trainee.model.prepare(views)
    trainee.optimizer.zero_grad(set_to_none=True)
    with seeded(*key, *([share.rank] if share.rank else [])):
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=trainee.half):
            output: Output = trainee.model(inputs)
        output = Output(output.logits.float(), output.features.float()) if trainee.half else output
        loss = _loss(trainee.objective, output, table, share)
        with statistics_at_rest(trainee.model) if trainee.twice else nullcontext():
            loss.total.backward()  # type: ignore[no-untyped-call]
    add_up_gradients(_learning(trainee))
    return output, _added_up(loss) if trainee.objective.adds_up else loss


def _loss(objective: Objective, output: Output, table: PatchTable, share: Share) -> Loss:
    """Give the part of the loss that is of the patches here; or, if it does not add up, the whole from all patches."""

    def columns(rows: Rows) -> tuple[Tensor, Tensor]:
        label, slide = (torch.from_numpy(column[rows].astype(np.int64)) for column in (table.label, table.slide_index))
        return label.to(output.logits.device), slide.to(output.logits.device)

    label, slide_index = columns(share.batch)
    if not objective.adds_up:
        output = Output(gathered(output.logits, share), gathered(output.features, share))
    elif len(share.dealt) > 1:
        mine, slide_index = columns(share.rows)
        objective.set_share(mine, label)
        label = mine
    found: Loss = objective(output, label, slide_index)
    return found


def _added_up(loss: Loss) -> Loss:
    total, terms = loss.total.detach().clone(), {name: term.detach().clone() for name, term in loss.terms.items()}
    add_up([total, *terms.values()])
    return Loss(total, terms)


def _learning(trainee: ClassifierTrainee) -> list[torch.nn.Parameter]:
    return [parameter for group in trainee.optimizer.param_groups for parameter in group["params"]]


def not_a_number(what: str, epoch: int, batch: int | None) -> TrainingError:
    """Say where training broke down."""
    where = f"epoch {epoch + 1}" if batch is None else f"epoch {epoch + 1}, batch {batch + 1}"
    return TrainingError(
        f"In {where}, {what} became infinite or not a number. Lower the learning rate or beta; the state after the "
        "last whole epoch is kept."
    )
