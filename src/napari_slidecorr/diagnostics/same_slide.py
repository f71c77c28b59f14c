"""Are features of one slide more alike than features of different slides, at the same class?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.diagnostics.feature_table import FeatureTable, Measure, bootstrap_interval, slide_weights

NAME = "same_slide_correlation"
Floats = NDArray[np.float64]


def same_slide_correlation(table: FeatureTable, *, draws: int = 1000, seed: int = 0) -> Measure:
    """Mean cosine of same-slide pairs minus that of different-slide pairs, inside a class, averaged over classes.

    Features are centred inside each class first. 0 for features that know no slide; what slide correlation reduction
    lowers (Zhang et al., MIDL 2021, eq. 3, up to the normalizer).

    Returns
    -------
    Measure
        Undefined when no class lies on two slides with two patches on one of them.
    """
    sums, sizes = _class_sums(table)
    ones = np.ones((1, len(table.slides)))
    value = _difference(sums, sizes, ones)[0]
    if not np.isfinite(value):
        return Measure.undefined(NAME, "No class has patches on two slides and two patches on one of them.", table)
    drawn = _difference(sums, sizes, slide_weights(len(table.slides), draws, seed).astype(np.float64))
    low, high = bootstrap_interval(drawn)
    slides = len(np.unique(table.slide_index))
    return Measure(NAME, float(value), low, high, 0.0, n_slides=slides, n_patches=len(table))


def slide_similarity(table: FeatureTable) -> Floats:
    """Mean cosine between the patches of each two slides, centred and compared inside a class; shape (S, S).

    On the diagonal pairs of a patch with itself do not count. NaN where no class gives a pair.
    """
    sums, sizes = _class_sums(table)
    total = np.zeros((len(table.slides), len(table.slides)))
    pairs = np.zeros_like(total)
    for class_sums, class_sizes in zip(sums, sizes, strict=True):
        total += class_sums @ class_sums.T - np.diag(class_sizes)
        pairs += np.outer(class_sizes, class_sizes) - np.diag(class_sizes)
    return np.divide(total, pairs, out=np.full_like(total, np.nan), where=pairs > 0)


def _class_sums(table: FeatureTable) -> tuple[list[Floats], list[Floats]]:
    """Sum of the centred unit features of each slide, and how many, for each class: shapes (S, D) and (S,)."""
    sums, sizes = [], []
    for label in range(len(table.classes)):
        rows = table.label == label
        found = np.zeros((len(table.slides), table.features.shape[1]))
        np.add.at(found, table.slide_index[rows], _units(table.features[rows]))
        sums.append(found)
        sizes.append(np.bincount(table.slide_index[rows], minlength=len(table.slides)).astype(np.float64))
    return sums, sizes


def _units(features: NDArray[np.float32]) -> Floats:
    if not len(features):
        return features.astype(np.float64)
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    unit: Floats = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    return unit


def _difference(sums: list[Floats], sizes: list[Floats], weights: Floats) -> Floats:
    """Same-slide minus different-slide mean cosine, mean over classes, for each row of slide weights.

    A slide that was drawn twice is no pair of different slides.
    """
    found = []
    for class_sums, n in zip(sums, sizes, strict=True):
        gram = class_sums @ class_sums.T
        own, crossed = np.diag(gram), gram - np.diag(np.diag(gram))
        same = _ratio(weights @ (own - n), weights @ (n * (n - 1)))
        other_pairs = np.outer(n, n) - np.diag(n * n)
        other = _ratio(
            np.einsum("bs,st,bt->b", weights, crossed, weights), np.einsum("bs,st,bt->b", weights, other_pairs, weights)
        )
        found.append(same - other)
    stacked = np.asarray(found)
    defined = np.isfinite(stacked)
    total = np.where(defined, stacked, 0).sum(axis=0)
    return _ratio(total, defined.sum(axis=0).astype(np.float64))


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
