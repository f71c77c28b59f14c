"""What heads say of slides that they have not seen: folds of slides or patients, scores, and the penalty chosen by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.errors import CohortError
from napari_slidecorr.fast_config import PENALTIES, HeadConfig
from napari_slidecorr.learning.heads import (
    DEFAULT_PENALTY,
    Head,
    Labels,
    LinearHead,
    Numbers,
    Probabilities,
    balance_weights,
    check_arrays,
    fit_head,
    fit_linear_folds,
)
from napari_slidecorr.learning.nuisance import fit_projected
from napari_slidecorr.metrics import patch_auc

FEW_GROUPS = 8
"""Below this many slides or patients a score on held-out ones means little (an AUC below 0.5 is usual there)."""

_NONE_HELD_OUT = (
    "No slide can be held out: each has a class that is labelled nowhere else. Label every class on two or more."
)
_ONE_HELD_OUT = (
    "Only one slide or patient can be held out, and one says nothing about new ones: the others have a class that is "
    "labelled nowhere else. Label every class on two or more."
)


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """What heads say of groups of slides that each of them has not seen.

    Attributes
    ----------
    probabilities : ndarray, shape (N, K), float32
        NaN for patches that no fold held out.
    fold : ndarray, shape (N,), int64
        Which fold held a patch out; -1 for none.
    heads : tuple of Head
        Of each fold; how far they disagree on a patch says how unsure it is.
    penalty : float
        Of linear heads.
    warning : str
        One sentence when there are so few groups that scores mean little; else empty.
    """

    probabilities: Probabilities
    fold: NDArray[np.int64]
    heads: tuple[Head, ...]
    penalty: float = DEFAULT_PENALTY
    warning: str = ""

    def auc(self, labels: Labels) -> float:
        """Patch AUC over all patches that were held out."""
        there = self.fold >= 0
        return patch_auc(labels[there], self.probabilities[there])


@dataclass(frozen=True)
class PenaltyScore:
    """How a penalty did on held-out groups: mean over folds of patch AUC and of cross-entropy."""

    penalty: float
    auc: float
    cross_entropy: float


def leave_one_group_out(
    features: Numbers,
    labels: Labels,
    slide_index: Labels,
    config: HeadConfig,
    *,
    groups: Sequence[int] | Mapping[int, int] | None = None,
    classes: int | None = None,
    folds: int | None = None,
    projection: int = 0,
) -> OutOfFold:
    """Judge each slide (or patient) by a head that was trained without it.

    Parameters
    ----------
    groups : sequence or mapping, slide index to group, optional
        What is held out together; each slide alone when left out.
    folds : int, optional
        Deal groups to so many folds instead of leaving out each in turn.
    projection : int
        Make linear heads blind to so many nuisance directions, found anew on the training slides of each fold: those of
        all slides would know the labels of the ones held out.

    Raises
    ------
    CohortError
        If fewer than two groups can be held out, or there are fewer than two classes, or projection is ruled out by the labels.
    """
    count = classes if classes is not None else int(np.max(labels, initial=-1)) + 1
    check_arrays(features, labels, slide_index, count)
    fold, total = fold_of_rows(labels, slide_index, groups=groups, folds=folds, seed=config.seed)
    penalty = config.penalty or DEFAULT_PENALTY
    if projection:
        seen = [fold != held for held in range(total)]
        heads: Sequence[Head] = [
            fit_projected(features[rows], labels[rows], slide_index[rows], config, projection, classes=count)
            for rows in seen
        ]
    elif config.net == "linear":
        heads = fit_linear_folds(features, labels, slide_index, fold, total, [penalty], count)[0]
    else:
        heads = [_fit_without(features, labels, slide_index, config, count, fold == held) for held in range(total)]
    probabilities = np.full((len(labels), count), np.nan, np.float32)
    for held, head in enumerate(heads):
        probabilities[fold == held] = head.predict(features[fold == held])
    there = len(_groups_of(slide_index, groups)[1])
    return OutOfFold(probabilities, fold, tuple(heads), penalty, few_groups_warning(there))


def choose_penalty(
    features: Numbers,
    labels: Labels,
    slide_index: Labels,
    *,
    groups: Sequence[int] | Mapping[int, int] | None = None,
    classes: int | None = None,
    penalties: Sequence[float] = PENALTIES,
    folds: int = 5,
    seed: int = 0,
    max_rows: int = 8000,
) -> tuple[float, list[PenaltyScore]]:
    """Choose the strength of the L2 penalty by validation on held-out slides.

    Parameters
    ----------
    folds : int
        At most; with fewer groups each is left out in turn.
    max_rows : int
        Of more patches a part is looked at, drawn so that slides and classes keep as many as they can.

    Returns
    -------
    (float, list of PenaltyScore)
        The penalty of the lowest balanced cross-entropy on held-out slides, and how each did.

    Raises
    ------
    CohortError
        If fewer than two groups can be held out, or there are fewer than two classes.
    """
    count = classes if classes is not None else int(np.max(labels, initial=-1)) + 1
    check_arrays(features, labels, slide_index, count)
    rows = balanced_part(labels, slide_index, max_rows, seed)
    features, labels, slide_index = features[rows], labels[rows], slide_index[rows]
    fold, total = fold_of_rows(labels, slide_index, groups=groups, folds=folds, seed=seed)
    heads = fit_linear_folds(features, labels, slide_index, fold, total, penalties, count)
    weight = balance_weights(labels, slide_index, count)
    scores = [_penalty_score(p, h, features, labels, fold, weight) for p, h in zip(penalties, heads, strict=True)]
    return min(scores, key=lambda score: score.cross_entropy).penalty, scores


def few_groups_warning(groups: int) -> str:
    """Say that so few groups prove nothing; empty when there are enough."""
    if groups >= FEW_GROUPS:
        return ""
    return (
        f"Scores on held-out slides come from {groups} slides or patients only: they can be far off, also below chance. "
        f"Label on {FEW_GROUPS} or more before you trust them."
    )


def fold_of_rows(
    labels: Labels,
    slide_index: Labels,
    *,
    groups: Sequence[int] | Mapping[int, int] | None = None,
    folds: int | None = None,
    seed: int = 0,
) -> tuple[NDArray[np.int64], int]:
    """Say which fold holds each patch out, shape (N,), and how many folds there are.

    Patches of a group that alone has a class are in no fold (-1), they are always trained on.

    Raises
    ------
    CohortError
        If fewer than two groups can be held out.
    """
    member, names = _groups_of(slide_index, groups)
    has = np.zeros((len(names), int(labels.max()) + 1), bool)
    has[member, labels] = True
    only = has.sum(axis=0) == 1
    free = np.flatnonzero(~(has & only).any(axis=1))
    _check_several(len(free))
    fold_of_group = np.full(len(names), -1, np.int64)
    order = np.random.default_rng([seed, 0xF01D]).permutation(free) if folds is not None else free
    rarity = [int(has.sum(axis=0)[has[group]].min()) for group in order]
    kind = has[order] @ (1 << np.arange(has.shape[1], dtype=np.int64))  # groups of the same classes are dealt in turn
    order = order[np.lexsort((kind, rarity))]
    total = min(folds or len(order), len(order))
    fold_of_group[order] = np.arange(len(order)) % total
    dealt = _keep_classes_in_training(fold_of_group, has)
    _check_several(int(np.count_nonzero(dealt >= 0)))
    return dealt[member], total


def _check_several(held_out: int) -> None:
    if held_out < 2:
        raise CohortError(_ONE_HELD_OUT if held_out else _NONE_HELD_OUT)


def balanced_part(labels: Labels, slide_index: Labels, most: int, seed: int = 0) -> NDArray[np.int64]:
    """Choose at most so many patches, the same number of each slide and class where they have them; sorted rows."""
    if len(labels) <= most:
        return np.arange(len(labels))
    rng = np.random.default_rng([seed, 0xBA1A])
    shuffled = rng.permutation(len(labels))
    cell = slide_index[shuffled].astype(np.int64) * (int(labels.max()) + 1) + labels[shuffled]
    by_cell = np.argsort(cell, kind="stable")
    _, first, counts = np.unique(cell[by_cell], return_index=True, return_counts=True)
    rank = np.arange(len(labels)) - np.repeat(first, counts)
    chosen: NDArray[np.int64] = np.sort(shuffled[by_cell[np.argsort(rank, kind="stable")[:most]]])
    return chosen


def _keep_classes_in_training(fold_of_group: NDArray[np.int64], has: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Take groups out of folds that would leave training without a class."""
    out = fold_of_group.copy()
    for fold in range(int(out.max()) + 1):
        held = np.flatnonzero(out == fold)
        for group in held:
            if not has[out != fold].any(axis=0)[has.any(axis=0)].all():
                out[group] = -1
    return out


def _groups_of(
    slide_index: Labels, groups: Sequence[int] | Mapping[int, int] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number of the group of each patch, and the names of groups."""
    of_slide = slide_index if groups is None else np.asarray([groups[int(slide)] for slide in slide_index])
    names, member = np.unique(of_slide, return_inverse=True)
    return member, names


def _penalty_score(
    penalty: float,
    heads: Sequence[LinearHead],
    features: Numbers,
    labels: Labels,
    fold: NDArray[np.int64],
    weight: NDArray[np.float32],
) -> PenaltyScore:
    aucs, losses, shares = [], [], []
    for held, head in enumerate(heads):
        rows = np.flatnonzero(fold == held)
        if not len(rows):
            continue
        probabilities = head.predict(features[rows])
        aucs.append(patch_auc(labels[rows], probabilities))
        chosen = probabilities[np.arange(len(rows)), labels[rows]].clip(1e-7, 1)
        losses.append(float(-(weight[rows] * np.log(chosen)).sum()))
        shares.append(float(weight[rows].sum()))
    known = [auc for auc in aucs if np.isfinite(auc)]
    auc = float(np.mean(known)) if known else float("nan")
    return PenaltyScore(penalty, auc, sum(losses) / max(sum(shares), 1e-12))


def _fit_without(
    features: Numbers,
    labels: Labels,
    slide_index: Labels,
    config: HeadConfig,
    classes: int,
    held: NDArray[np.bool_],
) -> Head:
    return fit_head(features[~held], labels[~held], slide_index[~held], config, classes=classes)
