"""Optimizers, and how much slower a layer learns the farther it lies from the head."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import nn

from napari_slidecorr.config import TrainConfig
from napari_slidecorr.errors import ModelError
from napari_slidecorr.learning.models import PAPER_BACKBONES, PatchClassifier

SCALE = "lr_scale"
"""In a group of the optimizer: what the learning rate of the moment is multiplied by."""


def make_optimizer(model: PatchClassifier, objective: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Make the optimizer of all parameters that learn.

    Raises
    ------
    ModelError
        If layers shall learn at different rates, and the backbone does not tell the order of its layers.
    """
    groups = _groups(model, objective, config)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let the head learn at a rate, and each group at its part of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(SCALE, 1.0)


def _groups(model: PatchClassifier, objective: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    own = [*model.head.parameters(), *objective.parameters()]
    if config.layer_decay == 1:
        return [{"params": [p for p in (*model.backbone.parameters(), *own) if p.requires_grad]}]
    depths = layer_depths(model, config.backbone)
    deepest = max(depths.values()) + 1
    at: dict[int, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.backbone.named_parameters():
        at[depths[name]].append(parameter)
    at[deepest] = own
    learning = {depth: [p for p in at[depth] if p.requires_grad] for depth in sorted(at)}
    return [{"params": ps, SCALE: config.layer_decay ** (deepest - depth)} for depth, ps in learning.items() if ps]


def layer_depths(model: PatchClassifier, backbone: str) -> dict[str, int]:
    """Give each parameter of a backbone the number of its stage, counted from 0 at the input.

    Raises
    ------
    ModelError
        If the backbone does not tell.
    """
    if backbone in PAPER_BACKBONES:
        return _depths_by_order(model.backbone)
    from timm.models import group_parameters

    net: Any = model.backbone
    try:
        depths = group_parameters(net, net.group_matcher(coarse=True), reverse=True)
        return {name: int(depths[name]) for name, _ in net.named_parameters()}
    except (AttributeError, KeyError, NotImplementedError) as error:
        raise ModelError(f"{backbone} does not tell the order of its layers; set layer_decay to 1.") from error


def _depths_by_order(net: nn.Module) -> dict[str, int]:
    """Stages in the order of their names; a normalization belongs to what it follows."""
    stages: list[str] = []
    depths: dict[str, int] = {}
    for name, _ in net.named_parameters():
        parts = name.split(".")
        stage = ".".join(parts[: 2 if parts[0] in ("features", "classifier") else 1])
        is_norm = stage.rpartition(".")[2].startswith(("bn", "norm"))
        if not stages or (stage != stages[-1] and not is_norm):
            stages.append(stage)
        depths[name] = len(stages) - 1
    return depths
