"""What training minimizes: cross-entropy, and beside it a term on what slides share or do not share.

Pure functions and modules on tensors; nothing here knows slides, files or networks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_slidecorr.config import (
    CoralConfig,
    CrossEntropyConfig,
    GroupDroConfig,
    ObjectiveConfig,
    SceConfig,
    ScrConfig,
    SdaConfig,
)
from napari_slidecorr.errors import ConfigError
from napari_slidecorr.learning.slide_terms import (
    Normalizer,
    Reduction,
    coral_distance,
    reverse_gradient,
    slide_correlation,
)

__all__ = ["CORRELATION_BY_CROSS_ENTROPY", "Loss", "Objective", "Output", "make_objective", "slide_correlation"]

CORRELATION_BY_CROSS_ENTROPY = "correlation_by_cross_entropy"
"""Name of ``beta x L / cross-entropy`` among the measures of an epoch."""


class Output(NamedTuple):
    """What a classifier gives for a batch.

    Attributes
    ----------
    logits : Tensor, shape (N, K)
    features : Tensor, shape (N, D)
        The pooled output of the backbone, which the linear head sees.
    """

    logits: Tensor
    features: Tensor


class Loss(NamedTuple):
    """What an objective gives for a batch.

    Attributes
    ----------
    total : Tensor, shape ()
        To be minimized.
    terms : dict of str to Tensor
        Its parts, each of shape () and before its weight.
    """

    total: Tensor
    terms: dict[str, Tensor]


class Objective(nn.Module):
    """What training minimizes. Its own parameters, if any, are trained along with the network's.

    Attributes
    ----------
    progress : float in [0, 1]
        How much of the training is over; set by the training before each batch.
    share : float in (0, 1]
        Which part of the batch's patches this process has. Means over the batch are multiplied by it, so that losses
        and gradients of all processes *add up* to those of the batch, if each has whole slides
        (`sampling.rows_of_rank`). This holds if `adds_up`; the others look at all slides at once.
    class_share : float in (0, 1]
        The same of the patches' class weights, by which weighted cross-entropy is averaged.
    adds_up : bool
        Whether the loss is a sum over slides: cross-entropy, SCR and SCE as in the paper, SDA.
    criterion : CrossEntropyLoss
        With the class weights and the label smoothing.
    """

    progress: float = 1.0
    share: float = 1.0
    class_share: float = 1.0
    adds_up: bool = True

    def __init__(self) -> None:
        super().__init__()
        self.criterion = nn.CrossEntropyLoss()

    def cross_entropy(self, output: Output, label: Tensor) -> Tensor:
        """Mean cross-entropy of the batch, times `class_share`."""
        found: Tensor = self.criterion(output.logits, label)
        return found * self.class_share

    def set_share(self, mine: Tensor, whole: Tensor) -> None:
        """Tell which part of a batch this process has.

        Parameters
        ----------
        mine, whole : Tensor, int64
            Labels of its patches, and of all.
        """
        weight = self.criterion.weight
        self.share = len(mine) / len(whole)
        self.class_share = self.share if weight is None else float(weight[mine].sum() / weight[whole].sum())

    def measures(self, terms: Mapping[str, float], patches: int, pairs: float) -> dict[str, float]:  # noqa: ARG002
        """Give what helps to judge the mean terms of an epoch; nothing unless told otherwise.

        Parameters
        ----------
        terms : mapping of str to float
            Means over the epoch.
        patches : int
            N, patches in a batch.
        pairs : float
            P, same-slide pairs in a batch.
        """
        return {}

    def forward(self, output: Output, label: Tensor, slide_index: Tensor) -> Loss:
        """Give the loss of a batch.

        Parameters
        ----------
        output : Output
        label : Tensor, shape (N,), int64
        slide_index : Tensor, shape (N,), int64
            Into the slides of the training, 0 to S - 1.
        """
        raise NotImplementedError


class CrossEntropy(Objective):
    """Plain cross-entropy, the paper's Baseline."""

    def forward(self, output: Output, label: Tensor, slide_index: Tensor) -> Loss:  # noqa: ARG002
        """Give the mean cross-entropy of the batch."""
        total = self.cross_entropy(output, label)
        return Loss(total, {"cross_entropy": total})


class SlideCorrelation(Objective):
    """Cross-entropy + beta x `slide_correlation`: SCR for beta above 0, SCE for beta below.

    Notes
    -----
    ``L = mean_i C(p_i, l_i) + beta * L_cr``, equation 2 of Zhang et al., MIDL 2021.
    """

    def __init__(self, beta: float, normalizer: Normalizer = "paper", reduction: Reduction = "sum") -> None:
        super().__init__()
        self.beta, self.normalizer, self.reduction = beta, normalizer, reduction
        self.adds_up = normalizer == "paper" and reduction == "sum"

    def forward(self, output: Output, label: Tensor, slide_index: Tensor) -> Loss:
        """Give the weighted sum, and both terms before the weight."""
        cross_entropy = self.cross_entropy(output, label)
        correlation = slide_correlation(
            output.features, slide_index, normalizer=self.normalizer, reduction=self.reduction
        )
        terms = {"cross_entropy": cross_entropy, "slide_correlation": correlation}
        return Loss(cross_entropy + self.beta * correlation, terms)

    def measures(self, terms: Mapping[str, float], patches: int, pairs: float) -> dict[str, float]:
        """Give ``beta x L / cross-entropy``, and the least that L could be (which is not 0)."""
        weighted = abs(self.beta) * terms["slide_correlation"]
        least = -patches / 8
        return {
            CORRELATION_BY_CROSS_ENTROPY: weighted / max(terms["cross_entropy"], 1e-12),
            "slide_correlation_bound": least if self.reduction == "sum" else least / max(pairs, 1),
        }


class SlideAdversarial(Objective):
    """Cross-entropy + that of a slide classifier, whose gradient is reversed before it enters the backbone.

    Notes
    -----
    The slide classifier learns to name the slide; the backbone receives its gradient times ``-strength * ramp``, where
    ``ramp = 2 / (1 + exp(-10 progress)) - 1`` rises from 0 to 1.

    References
    ----------
    Ganin et al., "Domain-adversarial training of neural networks", JMLR 17, 2016.
    Lafarge et al., "Domain-adversarial neural networks to address the appearance variability of histopathology
    images", DLMIA 2017.
    """

    def __init__(self, strength: float, feature_dim: int, slide_count: int) -> None:
        super().__init__()
        self.strength = strength
        self.slide_head = nn.Linear(feature_dim, slide_count)

    def forward(self, output: Output, label: Tensor, slide_index: Tensor) -> Loss:
        """Give the sum of both cross-entropies, and each of them."""
        ramp = 2 / (1 + math.exp(-10 * self.progress)) - 1
        cross_entropy = self.cross_entropy(output, label)
        slide_logits = self.slide_head(reverse_gradient(output.features, self.strength * ramp))
        slide_cross_entropy = self.share * functional.cross_entropy(slide_logits, slide_index)
        terms = {"cross_entropy": cross_entropy, "slide_cross_entropy": slide_cross_entropy}
        return Loss(cross_entropy + slide_cross_entropy, terms)


class CorrelationAlignment(Objective):
    """Cross-entropy + weight x `coral_distance`."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.adds_up = False

    def forward(self, output: Output, label: Tensor, slide_index: Tensor) -> Loss:
        """Give the weighted sum, and both terms before the weight."""
        cross_entropy = self.cross_entropy(output, label)
        distance = coral_distance(output.features, slide_index)
        terms = {"cross_entropy": cross_entropy, "coral_distance": distance}
        return Loss(cross_entropy + self.weight * distance, terms)


class WorstSlide(Objective):
    r"""Group DRO with slides as groups: a weighted mean of slides' losses, whose weights follow the losses.

    Notes
    -----
    For each slide s of a batch with mean cross-entropy ``L_s``, first ``q_s <- q_s exp(step L_s)`` and then
    ``q <- q / sum(q)``; minimized is ``sum_s q_s L_s``. Ours: the weights of the slides in the batch are divided by
    their sum, so that a step is as long whichever slides meet. The weights are part of the objective's state.

    References
    ----------
    Sagawa et al., "Distributionally robust neural networks for group shifts", ICLR 2020, algorithm 1.
    """

    slide_weight: Tensor

    def __init__(self, step: float, slide_count: int) -> None:
        super().__init__()
        self.step = step
        self.adds_up = False
        self.register_buffer("slide_weight", torch.full((slide_count,), 1 / slide_count))

    def forward(self, output: Output, label: Tensor, slide_index: Tensor) -> Loss:
        """Give the weighted mean, and as terms the plain mean over patches and the loss of the worst slide."""
        each = functional.cross_entropy(
            output.logits,
            label,
            weight=self.criterion.weight,
            label_smoothing=self.criterion.label_smoothing,
            reduction="none",
        )
        slides, member, count = torch.unique(slide_index, return_inverse=True, return_counts=True)
        of_slide = each.new_zeros(len(slides)).index_add(0, member, each) / count
        with torch.no_grad():
            self.slide_weight[slides] *= torch.exp(self.step * of_slide).to(self.slide_weight.dtype)
            self.slide_weight /= self.slide_weight.sum()
            weight = self.slide_weight[slides] / self.slide_weight[slides].sum()
        terms = {"cross_entropy": self.cross_entropy(output, label), "worst_slide": of_slide.max()}
        return Loss((weight * of_slide).sum(), terms)


def make_objective(
    config: ObjectiveConfig,
    *,
    feature_dim: int,
    slide_count: int,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Objective:
    """Make the objective that a config names.

    Parameters
    ----------
    feature_dim : int
        D, of the network.
    slide_count : int
        S, how many slides are trained on.
    class_weight : Tensor, shape (K,), optional
        Of the cross-entropy over the classes.
    label_smoothing : float in [0, 1)
        Of the same.
    """
    objective = _make(config, feature_dim, slide_count)
    objective.criterion = nn.CrossEntropyLoss(class_weight, label_smoothing=label_smoothing)
    return objective


def _make(config: ObjectiveConfig, feature_dim: int, slide_count: int) -> Objective:
    match config:
        case CrossEntropyConfig():
            return CrossEntropy()
        case ScrConfig(beta=beta, normalizer=normalizer, reduction=reduction):
            return SlideCorrelation(beta, normalizer, reduction)
        case SceConfig(beta=beta):
            return SlideCorrelation(-beta)
        case SdaConfig(strength=strength):
            return SlideAdversarial(strength, feature_dim, slide_count)
        case CoralConfig(coral_weight=weight):
            return CorrelationAlignment(weight)
        case GroupDroConfig(step_size=step):
            return WorstSlide(step, slide_count)
    raise ConfigError(f"There is no objective for {config!r}.")
