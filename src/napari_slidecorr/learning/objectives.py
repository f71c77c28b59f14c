"""What training minimizes: cross-entropy, and beside it a term on what slides share or do not share.

Pure functions and modules on tensors; nothing here knows slides, files or networks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

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


Normalizer = Literal["paper", "centred"]
Reduction = Literal["sum", "mean"]


def squash(features: Tensor, normalizer: Normalizer = "paper") -> Tensor:
    """Bring features into [-1/2, 1/2].

    Parameters
    ----------
    features : Tensor, shape (N, D)
    normalizer : str
        ``paper``: ``relu(tanh(f)) - 1/2``, that of the released code; it mostly shifts the means of features.
        ``centred``, ours and not in the paper: ``tanh(f - mean of the batch) / 2``, which leaves means alone.
    """
    if normalizer == "paper":
        return torch.relu(torch.tanh(features)) - 0.5
    return torch.tanh(features - features.mean(dim=0)) / 2


def slide_correlation(
    features: Tensor, slide_index: Tensor, *, normalizer: Normalizer = "paper", reduction: Reduction = "sum"
) -> Tensor:
    r"""Sum of the inner products of squashed features over all same-slide pairs, divided by D.

    Parameters
    ----------
    features : Tensor, shape (N, D), float
    slide_index : Tensor, shape (N,), int
        Which slide each patch is from; any numbers.
    normalizer : str
        See `squash`.
    reduction : str
        ``sum`` over pairs as in the paper, or ``mean``, ours.

    Returns
    -------
    Tensor, shape ()
        0 when no two patches are of one slide; the sum is never below ``-N / 8``.

    Notes
    -----
    With ``g = relu(tanh(f)) - 0.5`` (the normalizer of the released code) this is

    .. math::
        L_{cr} = \\frac{1}{D} \\sum_{i<j} \\langle g_i, g_j \\rangle [s_i = s_j]
               = \\frac{1}{2D} \\Big( \\sum_s \\big\\| \\sum_{i \\in s} g_i \\big\\|^2 - \\sum_i \\| g_i \\|^2 \\Big),

    the right side in O(N D) without an N x N mask. It is a sum over pairs, not a mean: its strength grows with the
    number of same-slide pairs P in a batch. The mean pulls as much at ``beta_mean = beta_sum * P``.

    References
    ----------
    Zhang et al., "A regularization term for slide correlation reduction in whole slide image analysis with deep
    learning", MIDL 2021, PMLR 143:842-854, equations 3, 5 and 6.

    Examples
    --------
    >>> slide_correlation(torch.zeros(2, 4), torch.tensor([7, 7]))
    tensor(0.2500)
    """
    squashed = squash(features, normalizer)
    slides, member, count = torch.unique(slide_index, return_inverse=True, return_counts=True)
    sums = squashed.new_zeros(len(slides), squashed.shape[1]).index_add(0, member, squashed)
    total = (sums.square().sum() - squashed.square().sum()) / (2 * squashed.shape[1])
    return total if reduction == "sum" else total / (count * (count - 1) / 2).sum().clamp(min=1)


def coral_distance(features: Tensor, slide_index: Tensor) -> Tensor:
    r"""Mean squared distance between the feature covariances of two slides, over all pairs of slides.

    Parameters
    ----------
    features : Tensor, shape (N, D), float
    slide_index : Tensor, shape (N,), int

    Returns
    -------
    Tensor, shape ()
        0 when fewer than two slides have two patches.

    Notes
    -----
    With ``C_s`` the covariance of slide s, and A the slides with two patches or more,

    .. math::
        L = \frac{1}{|A| (|A| - 1) / 2} \sum_{s < t} \frac{1}{4 D^2} \| C_s - C_t \|_F^2.

    Since ``<C_s, C_t>`` is the sum of squares of ``X_s X_t'`` over ``(n_s - 1) (n_t - 1)``, with X the centred features
    of a slide, no D x D matrix is made.

    References
    ----------
    Sun and Saenko, "Deep CORAL: correlation alignment for deep domain adaptation", ECCV workshops 2016; with slides
    as the domains, in pairs, as in Gulrajani and Lopez-Paz, "In search of lost domain generalization", ICLR 2021.
    """
    slides, member, count = torch.unique(slide_index, return_inverse=True, return_counts=True)
    mean = features.new_zeros(len(slides), features.shape[1]).index_add(0, member, features) / count[:, None]
    centred = features - mean[member]
    of_slide = functional.one_hot(member, len(slides)).to(features.dtype) / (count - 1).clamp(min=1)
    inner = of_slide.T @ (centred @ centred.T).square() @ of_slide
    inner = inner[count > 1][:, count > 1]
    pairs = max(1, len(inner) * (len(inner) - 1) // 2)
    # Over all pairs, |C_s|^2 + |C_t|^2 - 2 <C_s, C_t> adds up to A times the trace less the sum of all.
    return (len(inner) * inner.trace() - inner.sum()) / (4 * features.shape[1] ** 2 * pairs)


def reverse_gradient(features: Tensor, factor: float) -> Tensor:
    """Give the same values, whose gradient comes back times ``-factor`` (Ganin et al., JMLR 2016)."""
    return features.detach() * (1 + factor) - features * factor


class Objective(nn.Module):
    """What training minimizes. Its own parameters, if any, are trained along with the network's.

    Attributes
    ----------
    progress : float in [0, 1]
        How much of the training is over; set by the training before each batch.
    share : float in (0, 1]
        Which part of the batch's patches this process has. Means over the batch are multiplied by it, so that losses
        and gradients of all processes *add up* to those of the batch, if each has whole slides
        (`sampling.rows_of_rank`). This holds for cross-entropy without class weights, SCR and SCE as in the paper,
        and SDA; the others look at all slides at once.
    criterion : CrossEntropyLoss
        With the class weights and the label smoothing.
    """

    progress: float = 1.0
    share: float = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.criterion = nn.CrossEntropyLoss()

    def cross_entropy(self, output: Output, label: Tensor) -> Tensor:
        """Mean cross-entropy of the batch, times `share`."""
        found: Tensor = self.criterion(output.logits, label)
        return found * self.share

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
