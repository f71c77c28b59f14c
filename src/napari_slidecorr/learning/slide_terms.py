"""Terms on the features of a batch and on which slide each patch is from: pure functions on tensors."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

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
        L_{cr} = \frac{1}{D} \sum_{i<j} \langle g_i, g_j \rangle [s_i = s_j]
               = \frac{1}{2D} \Big( \sum_s \big\| \sum_{i \in s} g_i \big\|^2 - \sum_i \| g_i \|^2 \Big),

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
    inner: Tensor = of_slide.T @ (centred @ centred.T).square() @ of_slide
    inner = inner[count > 1][:, count > 1]
    pairs = max(1, len(inner) * (len(inner) - 1) // 2)
    # Over all pairs, |C_s|^2 + |C_t|^2 - 2 <C_s, C_t> adds up to A times the trace less the sum of all.
    return (inner.trace() * len(inner) - inner.sum()) / (4 * features.shape[1] ** 2 * pairs)


def reverse_gradient(features: Tensor, factor: float) -> Tensor:
    """Give the same values, whose gradient comes back times ``-factor`` (Ganin et al., JMLR 2016)."""
    return features.detach() * (1 + factor) - features * factor
