"""How well slides that a model has not seen are scored, each by itself, and whether its probabilities mean what they say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.diagnostics.drawn_auc import drawn_auc
from napari_slidecorr.diagnostics.feature_table import FeatureTable, Measure, bootstrap_interval, slide_weights
from napari_slidecorr.metrics import accuracy, patch_auc

BINS = 15
Probabilities = NDArray[np.floating]


@dataclass(frozen=True)
class SlideScore:
    """One slide.

    Attributes
    ----------
    auc : float or None
        None when the slide has one class.
    accuracy : float
    calibration_error : float
        See `calibration_error`.
    worst : int
        Row of the patch whose own class got the lowest probability.
    """

    slide: str
    group: str
    n_patches: int
    auc: float | None
    accuracy: float
    calibration_error: float
    worst: int


def slide_scores(table: FeatureTable) -> tuple[SlideScore, ...]:
    """Score each slide by itself, the worst first: lowest accuracy."""
    probabilities = _probabilities(table)
    found = []
    for slide in np.unique(table.slide_index):
        rows = np.flatnonzero(table.slide_index == slide)
        label, said = table.label[rows], probabilities[rows]
        auc = patch_auc(label, said)
        found.append(
            SlideScore(
                table.slides[slide],
                table.groups[slide],
                len(rows),
                auc if np.isfinite(auc) else None,
                accuracy(label, said),
                calibration_error(label, said),
                int(rows[np.argmin(said[np.arange(len(rows)), label])]),
            )
        )
    return tuple(sorted(found, key=lambda score: score.accuracy))


def auc_over_slides(table: FeatureTable, name: str, *, draws: int = 1000, seed: int = 0) -> Measure:
    """Patch AUC pooled over slides, with an interval over slides."""
    probabilities = _probabilities(table)
    value = patch_auc(table.label, probabilities)
    if not np.isfinite(value):
        return Measure.undefined(name, "There are patches of one class only.", table)
    slides = np.unique(table.slide_index)
    drawn = drawn_auc(table.label, table.slide_index, probabilities, slide_weights(len(slides), draws, seed))
    low, high = bootstrap_interval(drawn)
    return Measure(name, value, low, high, 0.5, n_slides=len(slides), n_patches=len(table))


def calibration_error(label: NDArray[np.integer], probabilities: Probabilities) -> float:
    """Expected calibration error: mean distance of the highest probability from how often it is right, in 15 even bins.

    References
    ----------
    Guo et al., On calibration of modern neural networks, ICML 2017.
    """
    said = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == label
    place = np.minimum((said * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(place, said - right, BINS)
    return float(np.abs(gaps).sum() / max(1, len(label)))


def temperature(label: NDArray[np.integer], probabilities: Probabilities) -> float:
    """The number by which logits must be divided so that the probabilities fit the labels best.

    Parameters
    ----------
    label : ndarray, shape (N,)
        Of slides that the model has not seen.
    probabilities : ndarray, shape (N, K)

    Returns
    -------
    float
        Above 1: the model says too much. Between 0.05 and 20.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    logits = np.log(np.maximum(probabilities, 1e-12))

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(logits / np.exp(log_temperature), axis=1)[np.arange(len(label)), label].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def tempered(probabilities: Probabilities, by: float) -> NDArray[np.float64]:
    """Probabilities of logits that are divided by a temperature."""
    from scipy.special import softmax

    return np.asarray(softmax(np.log(np.maximum(probabilities, 1e-12)) / by, axis=1))


def _probabilities(table: FeatureTable) -> NDArray[np.float32]:
    if table.probabilities is None:
        raise ValueError("the table has no probabilities")
    return table.probabilities
