"""Settings of live training, the few that somebody who labels has to think of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from napari_slidecorr.config import PatchConfig
from napari_slidecorr.fast_config import FastConfig, HeadConfig
from napari_slidecorr.settings import check, setting

BATCH = 8
"""Patches a forward pass: a new stroke waits for one at most."""


@dataclass(frozen=True, kw_only=True)
class LiveConfig:
    """Which features live training uses."""

    backbone: str = setting(
        "tf_efficientnet_lite0",
        "Backbone",
        "Frozen: resnet18, resnet50, ..., any timm name, or one that `slidecorr backbones` lists.",
    )
    weights: str = setting(
        "imagenet", "Weights", "imagenet (the backbone's own from the hub), random, or the path of a local file."
    )
    size_px: int = setting(
        224,
        "Patch size",
        "Side of a patch in pixels: the cells of the map. Smaller ones follow borders, larger ones see more around.",
        ge=16,
        le=2048,
        step=16,
    )
    mpp: float | None = setting(
        0.5,
        "Resolution",
        "Micrometres per pixel of a patch; empty: level-0 pixels as they are.",
        gt=0,
        le=100,
        step=0.05,
    )
    overlap: float = setting(
        0.0,
        "Overlap",
        "Part of a patch that its neighbour shows again; makes the map finer.",
        ge=0,
        lt=1,
        advanced=True,
    )
    penalty: float | None = setting(
        None,
        "Penalty",
        "L2 penalty of the head, on standardized features; empty: chosen on held-out slides when there is time.",
        ge=0.0001,
        le=100,
        advanced=True,
    )
    unsure_error: float = setting(
        0.1,
        "Unsure",
        "Share of a class's patches that may be left out of it; what then fits no class, or several, is unsure.",
        gt=0,
        lt=0.5,
        advanced=True,
    )
    device: Literal["auto", "cuda", "mps", "cpu"] = setting(
        "auto", "Device", "auto takes a GPU when there is one, and says which.", advanced=True
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    def fast(self) -> FastConfig:
        """The settings of a fast training with the same features and head."""
        return FastConfig(
            backbone=self.backbone,
            weights=self.weights,
            patches=PatchConfig(size_px=self.size_px, mpp=self.mpp, overlap=self.overlap),
            head=HeadConfig(penalty=self.penalty),
            unsure_error=self.unsure_error,
            batch_size=BATCH,
            device=self.device,
        )
