"""When a model had better say nothing: a bound for each class, from predictions for slides that it has not seen.

numpy alone, so that views may ask too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.decision import sane


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
        As `decision.sane` makes them. The lowest for a class with too few patches to bound anything: it is the answer
        easily, so it makes the model unsure rather than sure.

    Notes
    -----
    Split-conformal prediction for each class by itself, with weights. For new patches like those held out, the true class is
    among those that `decide` lets in with probability 1 - error or more, but for a class whose bound would lie below half
    of chance: of that one, patches below half of chance are given up. Patches of one slide are alike, so for a new *slide*
    the share varies around that.

    References
    ----------
    Vovk, "Conditional validity of inductive conformal predictors", ACML 2012.
    """
    there = np.isfinite(probabilities).all(axis=1)
    labels, probabilities, slide_index = labels[there], probabilities[there], slide_index[there]
    out = []
    for k in range(probabilities.shape[1]):
        rows = labels == k
        out.append(_bound(probabilities[rows, k], slide_index[rows], error))
    return sane(out)


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
