"""What training minimizes: cross-entropy, and beside it a term on the features that slides share.

Pure functions and modules on tensors; nothing here knows slides, files or networks.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_slidecorr.config import CrossEntropyConfig, ObjectiveConfig, SceConfig, ScrConfig, SdaConfig
from napari_slidecorr.errors import ConfigError


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


def slide_correlation(features: Tensor, slide_index: Tensor) -> Tensor:
    r"""Sum of the inner products of squashed features over all same-slide pairs, divided by D.

    Parameters
    ----------
    features : Tensor, shape (N, D), float
    slide_index : Tensor, shape (N,), int
        Which slide each patch is from; any numbers.

    Returns
    -------
    Tensor, shape ()
        0 when no two patches are of one slide; never below ``-N / 8``.

    Notes
    -----
    With ``g = relu(tanh(f)) - 0.5`` (the normalizer of the released code) this is

    .. math::
        L_{cr} = \\frac{1}{D} \\sum_{i<j} \\langle g_i, g_j \\rangle [s_i = s_j]
               = \\frac{1}{2D} \\Big( \\sum_s \\big\\| \\sum_{i \\in s} g_i \\big\\|^2 - \\sum_i \\| g_i \\|^2 \\Big),

    the right side in O(N D) without an N x N mask. It is a sum over pairs, not a mean: its strength grows with the
    number of same-slide pairs in a batch.

    References
    ----------
    Zhang et al., "A regularization term for slide correlation reduction in whole slide image analysis with deep
    learning", MIDL 2021, PMLR 143:842-854, equations 3, 5 and 6.

    Examples
    --------
    >>> slide_correlation(torch.zeros(2, 4), torch.tensor([7, 7]))
    tensor(0.2500)
    """
    squashed = torch.relu(torch.tanh(features)) - 0.5
    slides, member = torch.unique(slide_index, return_inverse=True)
    sums = squashed.new_zeros(len(slides), squashed.shape[1]).index_add(0, member, squashed)
    return (sums.square().sum() - squashed.square().sum()) / (2 * squashed.shape[1])


def reverse_gradient(features: Tensor, factor: float) -> Tensor:
    """Give the same values, whose gradient comes back times ``-factor`` (Ganin et al., JMLR 2016)."""
    return features.detach() * (1 + factor) - features * factor


class Objective(nn.Module):
    """What training minimizes. Its own parameters, if any, are trained along with the network's.

    Attributes
    ----------
    progress : float in [0, 1]
        How much of the training is over; set by the training before each batch.
    """

    progress: float = 1.0

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
        total = functional.cross_entropy(output.logits, label)
        return Loss(total, {"cross_entropy": total})


class SlideCorrelation(Objective):
    """Cross-entropy + beta x `slide_correlation`: SCR for beta above 0, SCE for beta below.

    Notes
    -----
    ``L = mean_i C(p_i, l_i) + beta * L_cr``, equation 2 of Zhang et al., MIDL 2021.
    """

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, output: Output, label: Tensor, slide_index: Tensor) -> Loss:
        """Give the weighted sum, and both terms before the weight."""
        cross_entropy = functional.cross_entropy(output.logits, label)
        correlation = slide_correlation(output.features, slide_index)
        terms = {"cross_entropy": cross_entropy, "slide_correlation": correlation}
        return Loss(cross_entropy + self.beta * correlation, terms)


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
        cross_entropy = functional.cross_entropy(output.logits, label)
        slide_logits = self.slide_head(reverse_gradient(output.features, self.strength * ramp))
        slide_cross_entropy = functional.cross_entropy(slide_logits, slide_index)
        terms = {"cross_entropy": cross_entropy, "slide_cross_entropy": slide_cross_entropy}
        return Loss(cross_entropy + slide_cross_entropy, terms)


def make_objective(config: ObjectiveConfig, *, feature_dim: int, slide_count: int) -> Objective:
    """Make the objective that a config names.

    Parameters
    ----------
    feature_dim : int
        D, of the network.
    slide_count : int
        S, how many slides are trained on.
    """
    match config:
        case CrossEntropyConfig():
            return CrossEntropy()
        case ScrConfig(beta=beta):
            return SlideCorrelation(beta)
        case SceConfig(beta=beta):
            return SlideCorrelation(-beta)
        case SdaConfig(strength=strength):
            return SlideAdversarial(strength, feature_dim, slide_count)
    raise ConfigError(f"There is no objective for {config!r}.")
