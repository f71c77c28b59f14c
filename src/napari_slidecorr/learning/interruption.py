"""Steps of a network that end early when nobody wants them any more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from napari_slidecorr.events import check_interrupted


@contextmanager
def interruptible_layers(model: nn.Module) -> Iterator[None]:
    """Ask after each layer, forward and backward, whether the step is still wanted.

    A step of a common network takes seconds on a CPU, a layer a fraction of one. Values and gradients are the same with
    and without. A GPU's backward pass runs in threads of torch's own and is not asked; it is short.
    """
    layers = [module for module in model.modules() if not any(module.children())]
    handles = [layer.register_forward_hook(_ask) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _ask(_layer: nn.Module, _inputs: Any, output: Any) -> None:
    check_interrupted()
    if isinstance(output, Tensor) and output.requires_grad:
        output.register_hook(_ask_backward)  # type: ignore[no-untyped-call]


def _ask_backward(_gradient: Tensor) -> None:
    check_interrupted()
