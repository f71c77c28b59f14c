"""All settings that a person can make, each told once (see `settings`).

Defaults of the method are the paper's (Zhang et al., MIDL 2021, section 4): beta 0.2, SGD, learning rate 5e-4 falling
to 1e-4 after half of the epochs, weight decay 1e-4, 10 epochs. What the paper does not give is ours: momentum, and
batches of 8 slides x 4 patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from napari_slidecorr.errors import ConfigError
from napari_slidecorr.geometry import PatchGeometry
from napari_slidecorr.settings import check, setting


@dataclass(frozen=True, kw_only=True)
class PatchConfig:
    """How regions are cut into patches."""

    size_px: int = setting(
        224, "Patch size", "Side of the square that the model sees, in pixels.", ge=16, le=2048, step=16
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
        0.0, "Overlap", "Part of a patch that its neighbour shows again.", ge=0, lt=1, step=0.05, advanced=True
    )
    min_coverage: float = setting(
        0.5, "Coverage", "Part of a patch that must lie in regions of its class.", gt=0, le=1, step=0.05, advanced=True
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    def geometry(self) -> PatchGeometry:
        """What one input of the model is."""
        return PatchGeometry(self.size_px, self.mpp)


@dataclass(frozen=True, kw_only=True)
class CrossEntropyConfig:
    """Plain cross-entropy, the paper's Baseline."""

    kind: ClassVar[str] = "ce"
    title: ClassVar[str] = "Cross-entropy (Baseline)"

    def __post_init__(self) -> None:
        check(self)


PAPER = (
    "H. Zhang, Y. Meng, X. Qian, X. Yang, S. E. Coupland, Y. Zheng: A regularization term for slide correlation reduction in "
    "whole slide image analysis with deep learning. MIDL 2021, PMLR 143:842-854."
)
"""Where slide correlation reduction comes from; told by reports and model cards."""

FEW_SLIDES = 20
"""Below so many training slides SCR gained nothing in any simulation or data set that was tried."""


@dataclass(frozen=True, kw_only=True)
class ScrConfig:
    """Slide correlation reduction: cross-entropy + beta x the correlation of same-slide features."""

    kind: ClassVar[str] = "scr"
    title: ClassVar[str] = "Slide correlation reduction (SCR)"
    beta: float = setting(0.2, "Beta", "Weight of the same-slide correlation in the loss.", ge=0, step=0.05)
    reduction: Literal["sum", "mean"] = setting(
        "sum",
        "Pairs",
        "sum over same-slide pairs as in the paper, or (ours) their mean; mean needs beta x pairs to pull as much.",
        advanced=True,
    )
    normalizer: Literal["paper", "centred"] = setting(
        "paper",
        "Normalizer",
        "paper: relu(tanh(f)) - 1/2; centred (ours): tanh(f - mean of the batch) / 2.",
        advanced=True,
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class SceConfig:
    """Slide correlation enhancement: SCR with its sign reversed, the paper's ablation."""

    kind: ClassVar[str] = "sce"
    title: ClassVar[str] = "Slide correlation enhancement (SCE, ablation)"
    beta: float = setting(0.2, "Beta", "Weight of the same-slide correlation, which this *raises*.", ge=0, step=0.05)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class SdaConfig:
    """Slide-domain adversarial training: a slide classifier behind a gradient-reversal layer."""

    kind: ClassVar[str] = "sda"
    title: ClassVar[str] = "Slide-domain adversarial (SDA)"
    strength: float = setting(
        0.3, "Strength", "Factor of the reversed gradient from the slide classifier.", ge=0, step=0.05
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class CoralConfig:
    """Deep CORAL: the covariances of features of different slides are drawn together."""

    kind: ClassVar[str] = "coral"
    title: ClassVar[str] = "Correlation alignment (CORAL)"
    coral_weight: float = setting(
        1.0, "CORAL weight", "Weight of the distance between the covariances of slides.", ge=0, step=0.5
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class GroupDroConfig:
    """Group DRO: slides with a high loss gain weight, so that the worst slide is what is minimized."""

    kind: ClassVar[str] = "groupdro"
    title: ClassVar[str] = "Worst slide (Group DRO)"
    step_size: float = setting(
        0.01, "Step size", "How fast the weights of slides follow their losses.", ge=0, step=0.01
    )

    def __post_init__(self) -> None:
        check(self)


ObjectiveConfig = ScrConfig | CrossEntropyConfig | SceConfig | SdaConfig | CoralConfig | GroupDroConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a training; with the same slides and regions it gives the same model."""

    objective: ScrConfig | CrossEntropyConfig | SceConfig | SdaConfig | CoralConfig | GroupDroConfig = setting(
        ScrConfig(), "Objective", "What training minimizes."
    )
    backbone: str = setting(
        "resnet18", "Backbone", "resnet18, resnet50, densenet121, alexnet, vgg16 (torchvision), or any timm name."
    )
    weights: str = setting(
        "imagenet", "Start from", "imagenet (from the hub), random, or the path of a local weights file."
    )
    epochs: int = setting(10, "Epochs", "Passes over the patches.", ge=1, le=10_000)
    patches: PatchConfig = setting(PatchConfig(), "Patches", "How regions are cut into patches.")
    validation_fraction: float = setting(
        0.25,
        "Held out",
        "Part of the slides (or patients) kept for validation; 0 trains on all, and nothing says how good it is.",
        ge=0,
        lt=1,
        step=0.05,
    )
    split: Literal["slides", "patches"] = setting(
        "slides",
        "Split",
        "slides: whole slides (or patients) are held out; patches: leaky, patches of every slide, to show how that flatters.",
        advanced=True,
    )
    continue_from: str = setting(
        "",
        "Continue from",
        "Name of a finished run of the project: its weights, with the same slides held out; new slides train.",
        advanced=True,
    )
    fit_head_first: bool = setting(
        False,
        "Fit the head first",
        "Fit the last layer on the frozen network, as fast training does, before the network learns; statistics of batches stay.",
        advanced=True,
    )
    optimizer: Literal["sgd", "adamw"] = setting("sgd", "Optimizer", "SGD as in the paper, or AdamW.", advanced=True)
    learning_rate: float = setting(
        5e-4,
        "Learning rate",
        "The highest; the schedule says when.",
        gt=0,
        advanced=True,
    )
    schedule: Literal["step", "cosine", "one_cycle"] = setting(
        "step",
        "Schedule",
        "step: a fifth of the learning rate in the second half, as in the paper; cosine: down to 0; one_cycle: up, then down.",
        advanced=True,
    )
    momentum: float = setting(0.9, "Momentum", "Of SGD.", ge=0, lt=1, step=0.05, advanced=True)
    weight_decay: float = setting(1e-4, "Weight decay", "L2 penalty on the weights.", ge=0, advanced=True)
    slides_per_batch: int = setting(8, "Slides per batch", "m: how many slides meet in a batch.", ge=2, advanced=True)
    patches_per_slide: int = setting(
        4, "Patches per slide", "n: how many patches of each of them; SCR needs 2 or more.", ge=1, advanced=True
    )
    stain: Literal["none", "macenko"] = setting(
        "none",
        "Stain normalization",
        "macenko brings the two stains of every slide to one reference, in training and in prediction.",
    )
    class_weights: Literal["none", "balanced"] = setting(
        "none",
        "Class weights",
        "Batches already take the classes of a slide in turn; balanced evens out what slides of few classes leave.",
        advanced=True,
    )
    label_smoothing: float = setting(
        0.0, "Label smoothing", "Part of each label that is dealt to all classes.", ge=0, lt=1, step=0.05, advanced=True
    )
    flip_rotate: bool = setting(
        True, "Flip and rotate", "Show patches in all eight orientations at random.", advanced=True
    )
    colour_jitter: bool = setting(
        False,
        "Colour jitter",
        "Multiply brightness, contrast, saturation and hue by factors from [0.8, 1.2], as in the paper.",
        advanced=True,
    )
    hed_jitter: float = setting(
        0.0,
        "Stain jitter",
        "Vary haematoxylin, eosin and rest each by up to this part, and by this optical density; 0.05 is light, 0.2 strong.",
        ge=0,
        le=1,
        step=0.05,
        advanced=True,
    )
    train_layers: Literal["all", "last_block", "head"] = setting(
        "all",
        "Layers that learn",
        "all; last_block: the backbone's last stage and the head; head alone. The rest stays as it started.",
        advanced=True,
    )
    layer_decay: float = setting(
        1.0,
        "Learning rate by depth",
        "Each stage of the backbone learns at this part of the rate of the one above it; 1: all at the same.",
        gt=0,
        le=1,
        step=0.05,
        advanced=True,
    )
    gradient_checkpointing: bool = setting(
        False,
        "Compute layers twice",
        "Takes less memory and a third more time: layers are computed again for their gradients (gradient checkpointing).",
        advanced=True,
    )
    gradient_clip: float = setting(
        0.0,
        "Gradient clipping",
        "Longest gradient (L2 norm of all weights) of a step; 0: as long as it is.",
        ge=0,
        advanced=True,
    )
    keep: Literal["last", "best"] = setting(
        "last",
        "Model kept",
        "last: of the last epoch, as in the paper; best: of the highest held-out AUC, whose value then flatters.",
        advanced=True,
    )
    patience: int = setting(
        0, "Patience", "Stop after so many epochs without a higher held-out AUC; 0: never.", ge=0, advanced=True
    )
    bf16: Literal["off", "auto"] = setting(
        "off",
        "Half precision",
        "auto: compute in bfloat16 on GPUs that have it; elsewhere nothing changes.",
        advanced=True,
    )
    device: Literal["auto", "cuda", "mps", "cpu"] = setting(
        "auto", "Device", "auto takes a GPU when there is one, and says which.", advanced=True
    )
    seed: int = setting(0, "Seed", "Decides split, batches, start and augmentation.", ge=0, advanced=True)

    def __post_init__(self) -> None:
        check(self)
        if self.objective.kind in ("scr", "sce", "coral") and self.patches_per_slide < 2:
            raise ConfigError(
                f"patches_per_slide is {self.patches_per_slide}: {self.objective.kind.upper()} compares patches of one "
                "slide and needs at least 2 of each."
            )
        if self.split == "patches" and (self.validation_fraction == 0 or self.continue_from):
            raise ConfigError(
                "split is 'patches', a comparison that needs validation_fraction above 0 and no continue_from; change these, "
                "or hold out whole slides."
            )
        if self.validation_fraction == 0 and (self.keep == "best" or self.patience):
            raise ConfigError(
                f"validation_fraction is 0, and keep {self.keep!r} with patience {self.patience} needs held-out slides: hold "
                "some out, or keep the last epoch without patience."
            )


DEFAULT_VARIANTS = ("baseline", "scr", "cj", "scr+cj")
"""What `napari_slidecorr.comparison.compare` trains side by side unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """How a map is made; patch size, resolution and classes come from the model."""

    overlap: float = setting(
        0.0,
        "Overlap",
        "Part of a patch that its neighbour sees again; higher gives a finer map.",
        ge=0,
        lt=1,
        step=0.25,
    )
    tissue_only: bool = setting(True, "Tissue only", "Leave glass out.")
    orientations: bool = setting(
        False,
        "Eight orientations",
        "See each patch turned and mirrored, eight times the work: the mean is the map, the spread its own layer.",
        advanced=True,
    )
    batch_size: int = setting(
        32,
        "Batch size",
        "Patches a forward pass; 0: by trial. Another size changes probabilities by rounding alone, about 1e-6.",
        ge=0,
        le=4096,
        advanced=True,
    )
    block_cells: int = setting(
        16, "Block", "Side of the blocks in which the map is made and stored, in cells.", ge=1, le=1024, advanced=True
    )
    device: Literal["auto", "cuda", "mps", "cpu"] = setting(
        "auto", "Device", "auto takes a GPU when there is one, and says which.", advanced=True
    )

    def __post_init__(self) -> None:
        check(self)
