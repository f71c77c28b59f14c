"""Which patches to label next: those of which the model is unsure, on slides and stains that have the fewest labels.

numpy alone; arrays in, arrays out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating]
Places = NDArray[np.integer]

APART = 2
"""Cells that are no further apart than this in row and column show the same tissue: one of them is enough."""


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """How unsure a model is of patches, each from 0 to 1, shape (N,).

    Attributes
    ----------
    entropy : ndarray
        Of the probabilities, over its largest possible value.
    margin : ndarray
        1 less the distance between the two highest probabilities.
    disagreement : ndarray
        Half the mean absolute difference between the heads that did without one slide each and their mean; 0 without
        such heads.
    """

    entropy: Numbers
    margin: Numbers
    disagreement: Numbers

    @property
    def total(self) -> Numbers:
        """The mean of the three, disagreement over the largest there is so that it weighs as much."""
        most = max(float(self.disagreement.max(initial=0)), 1e-6)
        return np.asarray((self.entropy + self.margin + self.disagreement / most) / 3)


@dataclass(frozen=True)
class Suggested:
    """A patch that is worth a look.

    Attributes
    ----------
    row : int
        Into the arrays that were given.
    score : float
        ``uncertainty`` times ``need``.
    uncertainty, need : float
        0 to 1: how unsure the model is, and how few labels the slide and its stain have.
    """

    row: int
    score: float
    uncertainty: float
    need: float


def entropy(probabilities: Numbers) -> Numbers:
    """Entropy of each row of probabilities, shape (N, K), over its largest possible value; 0 to 1."""
    p = np.clip(np.asarray(probabilities, np.float64), np.finfo(np.float32).tiny, 1)
    return np.asarray(np.maximum(-(p * np.log(p)).sum(axis=1) / np.log(max(2, p.shape[1])), 0))


def margin(probabilities: Numbers) -> Numbers:
    """1 less the distance between the two highest probabilities of each row, shape (N, K); 1 where they are alike."""
    if probabilities.shape[1] < 2:
        return np.zeros(len(probabilities))
    highest = np.partition(np.asarray(probabilities, np.float64), -2, axis=1)[:, -2:]
    return np.asarray(1 - (highest[:, 1] - highest[:, 0]))


def disagreement(by_head: Numbers) -> Numbers:
    """How far heads are from their mean, shape (N,), 0 to 1.

    Parameters
    ----------
    by_head : ndarray, shape (H, N, K)
        Probabilities of each head; 0 comes back for fewer than two.
    """
    if len(by_head) < 2:
        return np.zeros(by_head.shape[1])
    return np.asarray(np.abs(by_head - by_head.mean(axis=0)).sum(axis=2).mean(axis=0) / 2)


def uncertainty_of(probabilities: Numbers, by_head: Numbers) -> Uncertainty:
    """Measure how unsure a model is; shapes as in `entropy` and `disagreement`."""
    return Uncertainty(entropy(probabilities), margin(probabilities), disagreement(by_head))


def choose(
    uncertainty: Numbers,
    slide_index: Places,
    cells: Places,
    labelled: Sequence[float],
    looks: Numbers,
    count: int,
) -> list[Suggested]:
    """Choose patches to label, the best first; each counts as labelled for the choice of the next.

    So a list goes from slide to slide instead of staying on the worst one.

    Parameters
    ----------
    uncertainty : ndarray, shape (N,)
        0 to 1.
    slide_index : ndarray, shape (N,)
        Into ``labelled`` and ``looks``.
    cells : ndarray, shape (N, 2)
        Row and column on the slide's grid; of neighbours one is taken.
    labelled : sequence of S numbers
        Labelled patches of each slide.
    looks : ndarray, shape (S, C)
        How slides look, such as their mean optical density; those that look alike cover for each other.
    count : int
        At most.

    Notes
    -----
    A slide needs labels as ``1 / (1 + n / n0) * 1 / (1 + e / e0)``: ``n`` are the labels of the slide, ``e`` those of all
    slides weighted by how alike they look (a Gaussian as wide as half the median distance), ``n0`` and ``e0`` their means.
    1 is a slide without any label of a look without any.
    """
    own = np.asarray(labelled, np.float64).copy()
    likeness = _likeness(np.asarray(looks, np.float64))
    step = max(1.0, float(own.mean()) / 2) if len(own) else 1.0
    left = np.ones(len(uncertainty), bool)
    found: list[Suggested] = []
    while len(found) < count and left.any():
        need = _need(own) * _need(likeness @ own)
        score = np.where(left, uncertainty * need[slide_index], -1.0)
        row = int(score.argmax())
        slide = int(slide_index[row])
        found.append(Suggested(row, float(score[row]), float(uncertainty[row]), float(need[slide])))
        own[slide] += step
        near = (slide_index == slide) & (np.abs(cells - cells[row]).max(axis=1) <= APART)
        left &= ~near
    return found


def _need(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    mean = float(counts.mean()) if len(counts) else 0.0
    return np.asarray(1 / (1 + counts / mean)) if mean > 0 else np.ones(len(counts))


def _likeness(looks: NDArray[np.float64]) -> NDArray[np.float64]:
    """How alike slides look, shape (S, S), 0 to 1."""
    distance = np.sqrt(np.square(looks[:, None] - looks[None]).sum(axis=2))
    others = distance[np.triu_indices(len(looks), 1)]
    width = float(np.median(others)) / 2 if len(others) else 0.0
    return np.asarray(np.exp(-np.square(distance / width) / 2)) if width > 0 else np.ones_like(distance)
