"""The layer of a network whose maps are looked at to explain a patch, found for each kind of backbone.

Networks of convolutions: the last maps that still have a place, torchvision's by name, timm's by its ``feature_info``.
Transformers: the tokens that enter the last block, laid out as the squares of the patch that they stand for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from napari_slidecorr.errors import ModelError
from napari_slidecorr.learning.known_backbones import ClassAndMean
from napari_slidecorr.learning.models import PatchClassifier

_TORCHVISION = {
    "resnet18": "layer4",
    "resnet50": "layer4",
    "densenet121": "features",
    "alexnet": "features.11",
    "vgg16": "features.29",
}
"""The last maps before the last pooling."""


@dataclass(frozen=True)
class ExplainedLayer:
    """Where in a network to look.

    Attributes
    ----------
    module : nn.Module
        Its output is looked at.
    as_maps : nn.Module
        Turns that output into maps (N, C, h, w) and back; its ``maps`` is what an explainer hooks.
    cells : (int, int)
        h and w.
    """

    module: nn.Module
    as_maps: _Rearranged
    cells: tuple[int, int]

    @contextmanager
    def inserted(self) -> Iterator[nn.Module]:
        """Lead the network's own way through the maps as long as the block lasts; give the layer to hook."""
        hook = self.module.register_forward_hook(lambda _module, _inputs, output: self.as_maps(output))
        try:
            yield self.as_maps.maps
        finally:
            hook.remove()


class _Rearranged(nn.Module):
    """An output that is seen as maps in between, and is the same behind it."""

    def __init__(self, there: Callable[[Tensor], Tensor], back: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.maps = nn.Identity()
        self._there, self._back = there, back

    def forward(self, output: Tensor) -> Tensor:
        return self._back(self.maps(self._there(output)), output)


def explained_layer(model: PatchClassifier, backbone: str, size_px: int) -> ExplainedLayer:
    """Find the layer that explains patches of a size.

    Parameters
    ----------
    model : PatchClassifier
        In evaluation mode.
    backbone : str
        Its name, for the message and torchvision's table.

    Raises
    ------
    ModelError
        If the network has no layer whose numbers have a place in the patch.
    """
    net: Any = model.backbone.net if isinstance(model.backbone, ClassAndMean) else model.backbone
    module, channels, prefix = _candidate(net, backbone)
    output = _output_of(model, module, size_px) if module is not None else None
    if module is None or output is None:
        raise _no_layer(backbone)
    as_maps = _arrange(output, channels, prefix)
    if as_maps is None:
        raise _no_layer(backbone)
    height, width = (int(n) for n in as_maps._there(output).shape[2:])  # noqa: SLF001 - the class is this module's
    if height * width < 2:
        raise ModelError(
            f"{backbone} sees patches of {size_px} px as one single cell, in which no place can be told; train with larger "
            "patches to explain them."
        )
    return ExplainedLayer(module, as_maps, (height, width))


def _no_layer(backbone: str) -> ModelError:
    return ModelError(
        f"{backbone} has no layer whose numbers have a place in the patch, so its patches cannot be explained; train with a "
        "ResNet, EfficientNet or vision transformer to see what they look at."
    )


def _candidate(net: Any, backbone: str) -> tuple[nn.Module | None, int | None, int]:
    """Give the module, how many channels it gives if that is known, and how many tokens have no place."""
    if backbone in _TORCHVISION:
        return net.get_submodule(_TORCHVISION[backbone]), None, 0
    if hasattr(net, "num_prefix_tokens") and hasattr(net, "blocks"):
        return getattr(net.blocks[-1], "norm1", None), int(net.embed_dim), int(net.num_prefix_tokens)
    told = list(getattr(net, "feature_info", ()) or ())
    if not told:
        return None, None, 0
    try:
        return net.get_submodule(told[-1]["module"]), int(told[-1]["num_chs"]), 0
    except (AttributeError, KeyError, TypeError):
        return None, None, 0  # timm describes a part that this network does not have


def _output_of(model: PatchClassifier, module: nn.Module, size_px: int) -> Tensor | None:
    """Give what a module puts out for one patch; None when the network does not go through it once."""
    seen: list[Any] = []
    hook = module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        with torch.no_grad():
            model(model.prepare(torch.zeros(1, size_px, size_px, 3, dtype=torch.uint8)))
    finally:
        hook.remove()
    return seen[0] if len(seen) == 1 and isinstance(seen[0], Tensor) else None


def _arrange(output: Tensor, channels: int | None, prefix: int) -> _Rearranged | None:
    """See an output as maps: it is maps already, has its channels last, or is a row of tokens; else None."""
    if output.ndim == 4 and channels in (None, output.shape[1]):
        return _Rearranged(lambda out: out, lambda maps, _: maps)
    if output.ndim == 4 and output.shape[3] == channels:
        return _Rearranged(lambda out: out.permute(0, 3, 1, 2), lambda maps, _: maps.permute(0, 2, 3, 1))
    if output.ndim != 3 or output.shape[2] != channels:
        return None
    side = isqrt(output.shape[1] - prefix)
    if side * side != output.shape[1] - prefix:
        return None

    def there(out: Tensor) -> Tensor:
        return out[:, prefix:].transpose(1, 2).reshape(len(out), -1, side, side)

    def back(maps: Tensor, out: Tensor) -> Tensor:
        return torch.cat([out[:, :prefix], maps.flatten(2).transpose(1, 2)], dim=1)

    return _Rearranged(there, back)
