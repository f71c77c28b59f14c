"""Batch normalization over the patches of all processes, on any device; torch's own needs a GPU."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def share_batch_norms(model: nn.Module) -> None:
    """Let each batch normalization of a network count the whole batch, in place; names of tensors stay.

    Notes
    -----
    In training, mean and variance are those of all processes' patches together, and gradients flow through both. In
    evaluation nothing changes.
    """
    for layer in model.modules():
        if isinstance(layer, _BatchNorm):
            layer.forward = functools.partial(_forward, layer)  # type: ignore[method-assign]


def _forward(layer: Any, inputs: Tensor) -> Tensor:
    if not layer.training:
        found: Tensor = type(layer).forward(layer, inputs)
        return found
    mean, variance, count = _moments(inputs)
    _remember(layer, mean, variance * count / (count - 1).clamp(min=1))
    shape = (1, -1, *[1] * (inputs.dim() - 2))
    found = (inputs - mean.view(shape)) * torch.rsqrt(variance.view(shape) + layer.eps)
    if layer.affine:
        found = found * layer.weight.view(shape) + layer.bias.view(shape)
    return _behind(layer, found)


def _moments(inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance (biased) of each channel, and how many values they are of."""
    from torch.distributed.nn.functional import all_reduce  # some builds of torch have none

    axes = [axis for axis in range(inputs.dim()) if axis != 1]
    values = inputs.float() if inputs.dtype in (torch.float16, torch.bfloat16) else inputs
    count = values.new_tensor([values.numel() / values.shape[1]])
    summed: Tensor = all_reduce(torch.cat([values.sum(axes), count]))  # type: ignore[no-untyped-call]
    mean, count = summed[:-1] / summed[-1], summed[-1].detach()
    shape = (1, -1, *[1] * (values.dim() - 2))
    # In two passes: the difference of large sums would lose what is left of small variances.
    variance: Tensor = all_reduce((values - mean.view(shape)).square().sum(axes)) / count  # type: ignore[no-untyped-call]
    return mean, variance, count


def _remember(layer: Any, mean: Tensor, variance: Tensor) -> None:
    if not layer.track_running_stats:
        return
    with torch.no_grad():
        layer.num_batches_tracked += 1
        part = 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
        layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), part)
        layer.running_var.lerp_(variance.to(layer.running_var.dtype), part)


def _behind(layer: Any, found: Tensor) -> Tensor:
    """What timm's normalizations do beside normalizing."""
    for name in ("drop", "act"):
        step = getattr(layer, name, None)
        found = step(found) if callable(step) else found
    return found
