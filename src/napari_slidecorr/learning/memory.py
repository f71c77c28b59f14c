"""What training takes of memory, and how it takes less of it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from napari_slidecorr.errors import ModelError
from napari_slidecorr.learning.models import PAPER_BACKBONES, PatchClassifier

_WORDS = ("out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; only CUDA has an error of its own for it."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def start_counting(device: torch.device) -> None:
    """Let `peak_memory` of a GPU count from here; that of the process cannot be set back."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Give the most memory so far, in bytes: of the GPU's tensors, else of the process; 0 where it is not told."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_memory(device: torch.device) -> None:
    """Give back what torch keeps for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def checkpoint_gradients(model: PatchClassifier, backbone: str) -> None:
    """Let a backbone forget what is inside of its blocks, and compute it again for the gradients.

    Raises
    ------
    ModelError
        If the backbone cannot.
    """
    net: Any = model.backbone
    if backbone in PAPER_BACKBONES:
        _forget_parts(net)
        return
    try:
        net.set_grad_checkpointing(True)
    except (AttributeError, AssertionError, TypeError) as error:
        raise ModelError(f"{backbone} cannot compute its layers twice; switch gradient_checkpointing off.") from error


def _forget_parts(net: Any) -> None:
    """Let parts of torchvision's backbones forget: residual and dense blocks, and chains up to a pooling."""
    if hasattr(net, "layer1"):
        parts = [block for name in ("layer1", "layer2", "layer3", "layer4") for block in getattr(net, name)]
    else:
        parts = [part for name, part in net.features.named_children() if name.startswith(("dense", "transition"))]
    for part in parts:
        part.forward = _forgetful(part.forward)
    if not parts:
        net.features.forward = _in_order([_forgetful(_in_order(chain)) for chain in _chains(net.features)])


def _chains(layers: Iterable[nn.Module]) -> list[list[nn.Module]]:
    """Cut behind poolings: no chain then begins with a ReLU, which would write into what the chain was given."""
    chains: list[list[nn.Module]] = [[]]
    for layer in layers:
        chains[-1].append(layer)
        if isinstance(layer, nn.MaxPool2d):
            chains.append([])
    return [chain for chain in chains if chain]


def _in_order(steps: Sequence[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    def run(inputs: Tensor) -> Tensor:
        return functools.reduce(lambda found, step: step(found), steps, inputs)

    return run


def _forgetful(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def twice(inputs: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(inputs)
        found: Tensor = checkpoint(forward, inputs, use_reentrant=False)
        return found

    return twice


@contextmanager
def statistics_at_rest(model: nn.Module) -> Iterator[None]:
    """Keep batch normalizations from counting a batch again that is computed a second time."""
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    before = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
        layer.num_batches_tracked = None if layer.num_batches_tracked is None else layer.num_batches_tracked.clone()
    try:
        yield
    finally:
        for layer, (momentum, count) in zip(layers, before, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, count
