"""From class probabilities to a class, or to none: the one place that says when a model had better say nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

UNSURE = -1
"""Label of patches of which the model is not sure."""

HIGHEST = 0.5
"""Of any bound: a class that is more probable than all others together may always be the answer."""

LOWEST = 0.5
"""Of any bound, over the number of classes: a class below half of chance is never the answer. While labels are few, a handful of
patches that no model gets right would else let every class in everywhere, and all of a map would be unsure."""

Threshold = float | None
"""A probability that the best class must reach, the same for all; None: the model's own bounds, where it has them."""


def sane(bounds: Sequence[float]) -> tuple[float, ...]:
    """Bring bounds, one for each of K classes, between `LOWEST` / K and `HIGHEST`; bounds that were brought there stay."""
    return tuple(min(HIGHEST, max(LOWEST / len(bounds), float(bound))) for bound in bounds)


def decide(probabilities: NDArray[np.floating], bounds: Sequence[float]) -> NDArray[np.int16]:
    """Give the class of each patch, or `UNSURE` where not exactly one class may be the answer.

    Parameters
    ----------
    probabilities : ndarray, shape (K, ...)
        Class first, as in a `PredictionMap`; NaN where nothing was predicted.
    bounds : sequence of float
        `ModelSpec.unsure_below`, taken as `sane` makes them; when empty the most probable class is the answer everywhere.

    Returns
    -------
    ndarray, shape (...), int16
        -1 for unsure, and where nothing was predicted.
    """
    known = np.isfinite(probabilities).all(axis=0)
    filled = np.where(known, probabilities, 0)
    best = filled.argmax(axis=0).astype(np.int16)
    if not len(bounds):
        return np.where(known, best, np.int16(UNSURE))
    least = np.asarray(sane(bounds), np.float64).reshape((-1,) + (1,) * (probabilities.ndim - 1))
    may = filled >= least
    sure = known & (may.sum(axis=0) == 1)
    return np.where(sure, may.argmax(axis=0), UNSURE).astype(np.int16)


def unsure(probabilities: NDArray[np.floating], bounds: Sequence[float]) -> NDArray[np.bool_]:
    """Say where a model predicts something and is not sure of it; shapes as in `decide`."""
    known = np.isfinite(probabilities).all(axis=0)
    return np.asarray(known & (decide(probabilities, bounds) == UNSURE))
