"""When a model had better say nothing: a bound for each class, from predictions for slides that it has not seen.

numpy alone, so that views may ask too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

UNSURE = -1
"""Label of patches of which the model is not sure."""

HIGHEST = 0.5
"""Of any bound."""


def unsure_thresholds(
    labels: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    slide_index: NDArray[np.integer],
    error: float = 0.1,
) -> tuple[float, ...]:
    """Find from which probability on each class may be the answer.

    Parameters
    ----------
    labels : ndarray, shape (N,)
    probabilities : ndarray, shape (N, K)
        Of slides that were held out; rows with NaN are left out.
    slide_index : ndarray, shape (N,)
        Slides count alike, however many patches they have.
    error : float in (0, 1)
        Which share of the patches of a class may fall below its bound.

    Returns
    -------
    tuple of float, K of them
        0 for a class with too few patches to bound anything: it may always be the answer, so it makes the model unsure
        rather than sure.

    Notes
    -----
    Split-conformal prediction for each class by itself, with weights, and bounds of 1/2 at most: a class that is more
    probable than all others together may always be the answer. For new patches like those held out, the true
    class is among those that `decide` lets in with probability 1 - error or more; patches of one slide are alike, so for a new
    *slide* the share varies around that.

    References
    ----------
    Vovk, "Conditional validity of inductive conformal predictors", ACML 2012.
    """
    there = np.isfinite(probabilities).all(axis=1)
    labels, probabilities, slide_index = labels[there], probabilities[there], slide_index[there]
    out = []
    for k in range(probabilities.shape[1]):
        rows = labels == k
        out.append(min(HIGHEST, _bound(probabilities[rows, k], slide_index[rows], error)))
    return tuple(out)


def _bound(values: NDArray[np.floating], slide_index: NDArray[np.integer], error: float) -> float:
    """Give the largest bound below which no more than the allowed weight lies, a new patch counted as below."""
    if len(values) < 1 / error:
        return 0.0
    _, member, counts = np.unique(slide_index, return_inverse=True, return_counts=True)
    weight = 1 / (counts[member] * len(counts))
    order = np.argsort(values)
    below = np.cumsum(weight[order]) * len(values) / (len(values) + 1) + 1 / (len(values) + 1)
    place = int(np.searchsorted(below, error, side="right"))
    return float(values[order[place]]) if place else 0.0


def decide(probabilities: NDArray[np.floating], thresholds: Sequence[float]) -> NDArray[np.int16]:
    """Give the class of each patch, or `UNSURE` where not exactly one class may be the answer.

    Parameters
    ----------
    probabilities : ndarray, shape (K, ...)
        Class first, as in a `PredictionMap`; NaN where nothing was predicted.
    thresholds : sequence of float
        `ModelSpec.unsure_below`; when empty the most probable class is the answer everywhere.

    Returns
    -------
    ndarray, shape (...), int16
        -1 for unsure, and where nothing was predicted.
    """
    known = np.isfinite(probabilities).all(axis=0)
    best = np.where(known, probabilities, 0).argmax(axis=0).astype(np.int16)
    if not len(thresholds):
        return np.where(known, best, np.int16(UNSURE))
    bounds = np.asarray(thresholds, np.float64).reshape((-1,) + (1,) * (probabilities.ndim - 1))
    may = np.where(known, probabilities, 0) >= bounds
    sure = known & (may.sum(axis=0) == 1)
    return np.where(sure, may.argmax(axis=0), UNSURE).astype(np.int16)


def unsure(probabilities: NDArray[np.floating], thresholds: Sequence[float]) -> NDArray[np.bool_]:
    """Say where a model predicts something and is not sure of it; shapes as in `decide`."""
    known = np.isfinite(probabilities).all(axis=0)
    return np.asarray(known & (decide(probabilities, thresholds) == UNSURE))
