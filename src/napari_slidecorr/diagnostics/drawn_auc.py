"""The patch AUC of every bootstrap draw of slides at once: pairs of patches are counted once for each two slides."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def drawn_auc(
    label: NDArray[np.integer],
    slide_index: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    weights: NDArray[np.integer],
) -> Floats:
    """Give what `metrics.patch_auc` gives for the patches of drawn slides, without drawing patches.

    Parameters
    ----------
    label, slide_index : ndarray, shape (P,)
    probabilities : ndarray, shape (P, K)
    weights : ndarray, shape (draws, S)
        How often each slide was drawn, in the order of the sorted indices that occur.

    Returns
    -------
    ndarray, shape (draws,)
        NaN where fewer than two classes were drawn.

    Notes
    -----
    An AUC is the share of pairs, one patch of the class and one of another, in which the first has the higher
    probability, ties counting half. Pairs of two slides come as often as the product of how often each was drawn.
    """
    slides, index = np.unique(slide_index, return_inverse=True)
    drawn = weights.astype(np.float64)
    classes = [1] if probabilities.shape[1] == 2 else np.unique(label).tolist()
    total, defined = np.zeros(len(drawn)), np.zeros(len(drawn))
    for name in classes:
        won, positive, negative = _won(label == name, probabilities[:, name], index, len(slides))
        pairs = (drawn @ positive) * (drawn @ negative)
        share = np.divide(((drawn @ won) * drawn).sum(axis=1), pairs, out=np.zeros(len(drawn)), where=pairs > 0)
        total += share
        defined += pairs > 0
    found: Floats = np.divide(total, defined, out=np.full(len(drawn), np.nan), where=defined > 0)
    return found


def _won(
    positive: NDArray[np.bool_], score: NDArray[np.floating], slide: NDArray[np.int64], slides: int
) -> tuple[Floats, Floats, Floats]:
    """Pairs that patches of the class in one slide win over others in another, shape (S, S), and how many each has."""
    own, of_own = score[positive], slide[positive]
    won = np.zeros((slides, slides))
    for other in range(slides):
        rest = np.sort(score[~positive & (slide == other)])
        below = np.searchsorted(rest, own, side="left") + np.searchsorted(rest, own, side="right")
        won[:, other] = np.bincount(of_own, below / 2, slides)
    own_count, rest_count = (np.bincount(slide[side], minlength=slides) for side in (positive, ~positive))
    return won, own_count.astype(np.float64), rest_count.astype(np.float64)
