"""Which part of a network learns; the rest stays as it started."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from napari_slidecorr.errors import ModelError
from napari_slidecorr.learning.models import PatchClassifier

_LAST_BLOCKS = {
    "resnet18": "layer4",
    "resnet50": "layer4",
    "densenet121": "features.denseblock4",
    "alexnet": "features.10",
    "vgg16": "features.24",
}
"""Where the last stage of torchvision's backbones begins; timm's say it themselves."""


def freeze(model: PatchClassifier, backbone: str, train_layers: str) -> None:
    """Switch off the gradients of what is not to learn.

    Parameters
    ----------
    train_layers : str
        ``all``; ``last_block``: the last stage of the backbone and all behind it; ``head``: the classifier alone.

    Raises
    ------
    ModelError
        If it is not known where the last stage of the backbone begins.
    """
    if train_layers == "all":
        return
    for parameter in model.backbone.parameters():
        parameter.requires_grad = False
    if train_layers == "last_block":
        start = last_block(model, backbone) + "."
        named = list(model.backbone.named_parameters())
        first = next((index for index, (name, _) in enumerate(named) if name.startswith(start)), len(named))
        for _, parameter in named[first:]:
            parameter.requires_grad = True


def last_block(model: PatchClassifier, backbone: str) -> str:
    """Name the module of a backbone with which its last stage begins."""
    told: Any = getattr(model.backbone, "feature_info", None)
    if backbone in _LAST_BLOCKS:
        return _LAST_BLOCKS[backbone]
    stages = [str(stage["module"]) for stage in told or ()]
    if not stages:
        raise ModelError(f"{backbone} does not say where its last block begins; train all layers, or the head.")
    if len(stages) < 2 or _mixes(model.backbone.get_submodule(stages[-1])):
        return stages[-1]
    # A mere normalization is named as the last stage (DenseNet): the stage is all behind the one before.
    names = [name for name, _ in model.backbone.named_parameters()]
    behind = max(index for index, name in enumerate(names) if name.startswith(stages[-2] + ".")) + 1
    return names[behind].rpartition(".")[0]


def _mixes(stage: nn.Module) -> bool:
    return any(isinstance(layer, nn.Conv2d | nn.Linear) for layer in stage.modules())


def set_training(model: PatchClassifier, *, keep_statistics: bool = False) -> None:
    """Bring a model into training mode, and its frozen parts into evaluation: their batch statistics stay too.

    Parameters
    ----------
    keep_statistics : bool
        Hold the mean and variance of every batch normalization: a head that was fitted with them would see other features.
    """
    model.train()
    for module in model.modules():
        if keep_statistics and isinstance(module, _BatchNorm):
            module.eval()
        own: list[nn.Parameter] = list(module.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()
