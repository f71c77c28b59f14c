"""What a careless split would have promised: the same head judged on patches of slides it knows, and of slides it does not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.diagnostics.drawn_auc import drawn_auc
from napari_slidecorr.diagnostics.feature_table import Measure, bootstrap_interval, slide_weights
from napari_slidecorr.errors import CohortError
from napari_slidecorr.learning.heads import DEFAULT_PENALTY, fit_linear_folds
from napari_slidecorr.learning.held_out import fold_of_rows
from napari_slidecorr.metrics import patch_auc

NAME = "leakage_gap"
FOLDS = 5
FEWEST_GROUPS = 5


def leakage_gap(
    features: NDArray[np.floating],
    label: NDArray[np.int16],
    slide_index: NDArray[np.int32],
    groups: Sequence[str],
    classes: int,
    *,
    folds: int = FOLDS,
    draws: int = 1000,
    seed: int = 0,
) -> Measure:
    """AUC of a linear head with patches dealt to folds at random, minus that with whole slides (groups) dealt to them.

    Parameters
    ----------
    features : ndarray, shape (N, D)
        Of a backbone that was trained on none of these patches.
    groups : sequence of str
        Of each slide.

    Returns
    -------
    Measure
        Undefined below `FEWEST_GROUPS` groups or two classes, and where those held out tell no AUC. The interval is over slides, both scores drawn together.
    """
    names = np.unique(np.asarray(groups)[slide_index])
    if len(names) < FEWEST_GROUPS or len(np.unique(label)) < 2:
        reason = f"It needs {FEWEST_GROUPS} patients (or slides) and two classes; there are {len(names)}."
        return _undefined(reason, label, slide_index)
    numbers = {name: i for i, name in enumerate(names)}
    of_slide = {slide: numbers.get(group, -1) for slide, group in enumerate(groups)}
    try:
        by_group, total = fold_of_rows(label, slide_index, groups=of_slide, folds=folds, seed=seed)
    except CohortError as error:
        return _undefined(str(error), label, slide_index)
    there = by_group >= 0
    if len(np.unique(label[there])) < 2:
        reason = "The slides that can be held out have one class; label every class on two or more."
        return _undefined(reason, label, slide_index)
    at_random = np.random.default_rng(seed).permutation(len(label)) % total
    careful, careless = (
        _out_of_fold(features, label, slide_index, fold, total, classes) for fold in (by_group, at_random)
    )
    value = patch_auc(label[there], careless[there]) - patch_auc(label[there], careful[there])
    low, high = bootstrap_interval(_drawn(label, slide_index, careful, careless, there, draws, seed))
    note = (
        f"A linear head on the backbone as it was before training: {patch_auc(label[there], careless[there]):.3f} with patches "
        f"dealt at random, {patch_auc(label[there], careful[there]):.3f} with whole patients dealt, {total} folds each."
    )
    slides = len(np.unique(slide_index))
    return Measure(NAME, float(value), low, high, 0.0, n_slides=slides, n_patches=len(label), note=note)


def _undefined(reason: str, label: NDArray[np.int16], slide_index: NDArray[np.int32]) -> Measure:
    return Measure(NAME, None, reason=reason, n_slides=len(np.unique(slide_index)), n_patches=len(label))


def _out_of_fold(
    features: NDArray[np.floating],
    label: NDArray[np.int16],
    slide_index: NDArray[np.int32],
    fold: NDArray[np.int64],
    total: int,
    classes: int,
) -> NDArray[np.float32]:
    heads = fit_linear_folds(features, label, slide_index, fold, total, [DEFAULT_PENALTY], classes)[0]
    found = np.full((len(label), classes), np.nan, np.float32)
    for held, head in enumerate(heads):
        found[fold == held] = head.predict(features[fold == held])
    return found


def _drawn(
    label: NDArray[np.int16],
    slide_index: NDArray[np.int32],
    careful: NDArray[np.float32],
    careless: NDArray[np.float32],
    there: NDArray[np.bool_],
    draws: int,
    seed: int,
) -> NDArray[np.float64]:
    weights = slide_weights(len(np.unique(slide_index[there])), draws, seed)
    one, other = (drawn_auc(label[there], slide_index[there], said[there], weights) for said in (careless, careful))
    return one - other
