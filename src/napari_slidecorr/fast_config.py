"""Settings of the fast way: a small head on features of a frozen backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from napari_slidecorr.config import (
    CoralConfig,
    CrossEntropyConfig,
    GroupDroConfig,
    PatchConfig,
    SceConfig,
    ScrConfig,
    SdaConfig,
)
from napari_slidecorr.errors import ConfigError
from napari_slidecorr.settings import check, setting

PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Strengths of the L2 penalty among which slide-wise validation chooses."""


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """What is trained on features of a frozen backbone."""

    net: Literal["linear", "mlp", "adapter"] = setting(
        "linear",
        "Head",
        "linear: logistic regression, best in most trials; mlp: 256 hidden units; adapter: a residual bottleneck of 64.",
    )
    penalty: float | None = setting(
        None,
        "Penalty",
        "L2 penalty of the linear head, on standardized features; empty: chosen by validation on held-out slides.",
        ge=0.0001,
        le=100,
        step=0.05,
    )
    objective: CrossEntropyConfig | ScrConfig | SceConfig | SdaConfig | CoralConfig | GroupDroConfig = setting(
        CrossEntropyConfig(), "Objective", "What an mlp or adapter minimizes; a linear head takes cross-entropy."
    )
    steps: int = setting(300, "Steps", "Of the optimizer, for an mlp or adapter.", ge=1, le=100_000, advanced=True)
    learning_rate: float = setting(
        1e-3, "Learning rate", "The highest, for an mlp or adapter; it falls to 0.", gt=0, advanced=True
    )
    slides_per_batch: int = setting(8, "Slides per batch", "Of an mlp or adapter.", ge=2, advanced=True)
    patches_per_slide: int = setting(
        4, "Patches per slide", "Of each slide in a batch, for an mlp or adapter.", ge=1, advanced=True
    )
    seed: int = setting(0, "Seed", "Decides folds, batches and start.", ge=0, advanced=True)

    def __post_init__(self) -> None:
        check(self)
        kind = self.objective.kind
        if self.net == "linear" and kind != "ce":
            raise ConfigError(
                f"objective is {kind!r}, and a linear head on frozen features has no features that {kind.upper()} could "
                "move; choose the head mlp or adapter, or the objective ce."
            )
        if kind in ("scr", "sce", "coral") and self.patches_per_slide < 2:
            raise ConfigError(f"patches_per_slide is 1: {kind.upper()} compares patches of one slide; take 2 or more.")


@dataclass(frozen=True, kw_only=True)
class FastConfig:
    """Everything that decides a fast training; with the same slides and regions it gives the same model."""

    backbone: str = setting(
        "tf_efficientnet_lite0",
        "Backbone",
        "Frozen: resnet18, resnet50, ..., any timm name, or one that `slidecorr backbones` lists.",
    )
    weights: str = setting(
        "imagenet", "Weights", "imagenet (the backbone's own from the hub), random, or the path of a local file."
    )
    patches: PatchConfig = setting(PatchConfig(), "Patches", "Cells of the map; overlap makes it finer.")
    head: HeadConfig = setting(HeadConfig(), "Head", "What is trained.")
    centring: float = setting(
        0.0,
        "Centring",
        "Share of each slide's mean feature that is taken off; 0.5 helps against stain where slides hold several classes.",
        ge=0,
        le=1,
        step=0.1,
    )
    projection: int = setting(
        0,
        "Projection",
        "How many directions in which slides of one class differ are taken out; linear head, slides of several classes.",
        ge=0,
        le=64,
        advanced=True,
    )
    unsure_error: float = setting(
        0.1,
        "Unsure",
        "Share of a class's patches that may be left out of it; what then fits no class, or several, is unsure.",
        gt=0,
        lt=0.5,
        step=0.05,
        advanced=True,
    )
    stain: Literal["none", "macenko"] = setting(
        "none", "Stain normalization", "macenko brings the two stains of every slide to one reference.", advanced=True
    )
    batch_size: int = setting(32, "Batch size", "Patches a forward pass.", ge=1, le=4096, advanced=True)
    device: Literal["auto", "cuda", "mps", "cpu"] = setting(
        "auto", "Device", "auto takes a GPU when there is one, and says which.", advanced=True
    )

    def __post_init__(self) -> None:
        check(self)
        if self.projection and self.head.net != "linear":
            raise ConfigError(
                f"projection is {self.projection}, and only a linear head can carry it; choose the linear head, or 0."
            )
