"""What may stand between a frozen backbone and the linear head: nothing, an MLP, or a residual bottleneck adapter."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_slidecorr.errors import ModelError

MLP_UNITS = 256
BOTTLENECK = 64
NECKS = ("linear", "mlp", "adapter")


class Standardize(nn.Module):
    """Features minus their mean over their standard deviation; both are fitted once and saved with the weights."""

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def fit(self, features: Tensor) -> None:
        """Take mean and deviation of features, shape (N, D); a feature that never changes keeps its scale."""
        deviation = features.std(dim=0, correction=0)
        self.mean.copy_(features.mean(dim=0))
        self.scale.copy_(torch.where(deviation > 1e-6, 1 / deviation.clamp(min=1e-6), torch.ones_like(deviation)))

    def forward(self, features: Tensor) -> Tensor:
        """Give standardized features, shape (N, D)."""
        return (features - self.mean) * self.scale


class Residual(nn.Module):
    """Features plus what a bottleneck makes of them; at the start nothing."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(dim, BOTTLENECK), nn.Linear(BOTTLENECK, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Give adapted features, shape (N, D)."""
        adapted: Tensor = features + self.up(torch.relu(self.down(features)))
        return adapted


def make_neck(kind: str, dim: int) -> tuple[nn.Module, int]:
    """Make a neck for features of length ``dim``; also gives the length of what comes out.

    Raises
    ------
    ModelError
        For a kind that this version does not know.
    """
    if kind == "linear":
        return nn.Identity(), dim
    if kind == "mlp":
        layers = (nn.Linear(dim, MLP_UNITS), nn.BatchNorm1d(MLP_UNITS), nn.ReLU())
        return nn.Sequential(Standardize(dim), *layers), MLP_UNITS
    if kind == "adapter":
        return nn.Sequential(Standardize(dim), Residual(dim)), dim
    raise ModelError(f"There is no head {kind!r}; this version knows {', '.join(NECKS)}. Update napari-slidecorr.")
