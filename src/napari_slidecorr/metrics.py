"""Scores of patches and slides; numpy in, floats out, scikit-learn inside."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def patch_auc(label: NDArray[np.integer], probabilities: NDArray[np.floating]) -> float:
    """Area under the ROC curve; for more than two classes the mean of one against rest.

    Parameters
    ----------
    label : ndarray, shape (P,)
    probabilities : ndarray, shape (P, K)

    Returns
    -------
    float
        NaN when fewer than two classes occur. Classes that do not occur are left out of the mean.
    """
    from sklearn.metrics import roc_auc_score

    present = np.unique(label)
    if len(present) < 2:
        return float("nan")
    if probabilities.shape[1] == 2:
        return float(roc_auc_score(label, probabilities[:, 1]))
    return float(np.mean([roc_auc_score(label == k, probabilities[:, k]) for k in present]))


def accuracy(label: NDArray[np.integer], probabilities: NDArray[np.floating]) -> float:
    """Share of patches whose most probable class is right; NaN without patches."""
    return float((probabilities.argmax(axis=1) == label).mean()) if len(label) else float("nan")


def slide_probabilities(
    slide_index: NDArray[np.integer], probabilities: NDArray[np.floating]
) -> dict[int, NDArray[np.float64]]:
    """Mean of the patch probabilities of each slide, shape (K,) each (Zhang et al. 2021, section 4)."""
    return {
        int(slide): probabilities[slide_index == slide].mean(axis=0, dtype=np.float64)
        for slide in np.unique(slide_index)
    }
