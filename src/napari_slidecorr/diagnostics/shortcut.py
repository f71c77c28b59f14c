"""What a head learns from these features when class and slide are tied more and more strongly in its training."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.diagnostics.feature_table import FeatureTable, Measure, bootstrap_interval, slide_weights

TIES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Cramér's V between class and slide in the training patches."""
LEAST = 16
"""Fewest patches of each class on each of two slides."""
VALIDATION = 0.25
NAME, UNSEEN = "average_performance_drop", "average_performance_drop_unseen"


@dataclass(frozen=True)
class ShortcutCurve:
    """Balanced accuracy over the strength of the tie.

    Attributes
    ----------
    ties : tuple of float
        Cramér's V, from 0 to 1.
    accuracy : tuple of float
        On other patches of the two slides, both classes alike; empty when undefined.
    accuracy_unseen : tuple of float
        On the other slides; empty without such.
    drop, drop_unseen : Measure
        Average performance drop: mean over the ties above 0 of accuracy / accuracy without a tie, minus 1. Interval over
        pairs of slides.
    """

    ties: tuple[float, ...]
    accuracy: tuple[float, ...]
    accuracy_unseen: tuple[float, ...]
    drop: Measure
    drop_unseen: Measure


def shortcut_curve(
    table: FeatureTable, *, by_group: bool = False, pairs: int = 4, repeats: int = 3, draws: int = 1000, seed: int = 0
) -> ShortcutCurve:
    """Train heads on pairs of slides (groups) whose share of the two classes is tied to the slide, and try them untied.

    Takes the two classes with most patches.

    Parameters
    ----------
    pairs : int
        Pairs of slides, drawn at random from those with enough patches of both classes.
    repeats : int
        Draws of patches for each pair.

    References
    ----------
    Average performance drop of PathoROB (Kömen, de Jong et al., arXiv:2507.17845); computed by croma
    (https://github.com/clemsgrs/croma).
    """
    two = np.sort(np.argsort(-np.bincount(table.label, minlength=len(table.classes)), kind="stable")[:2])
    table = table.rows(np.isin(table.label, two))
    confounder = table.group_index if by_group else table.slide_index.astype(np.int64)
    label = np.searchsorted(two, table.label)
    chosen = _pairs(confounder, label, pairs, seed)
    if not chosen:
        what = "groups" if by_group else "slides"
        reason = f"There are no two {what} with {LEAST} patches or more of both of the same two classes each."
        return ShortcutCurve(TIES, (), (), *(Measure.undefined(name, reason, table) for name in (NAME, UNSEEN)))
    inside, unseen = [], []
    for number, pair in enumerate(chosen):
        own, other = _sweep(table.features, confounder, label, pair, repeats, seed + number)
        inside.append(own)
        unseen.append(other)
    slides = len({one for pair in chosen for one in pair})
    facts = {"n_slides": slides, "n_patches": len(table), "chance": 0.0}
    seen_elsewhere = [matrix for matrix in unseen if matrix is not None]
    return ShortcutCurve(
        TIES,
        _mean(inside),
        _mean(seen_elsewhere),
        _drop(NAME, inside, draws, seed, facts),
        _drop(UNSEEN, seen_elsewhere, draws, seed, facts)
        if seen_elsewhere
        else Measure.undefined(UNSEEN, "There is no further slide with both classes.", table),
    )


def _pairs(confounder: NDArray[np.int64], label: NDArray[np.int64], most: int, seed: int) -> list[tuple[int, int]]:
    names = np.unique(confounder)
    full = [n for n in names if min(np.bincount(label[confounder == n], minlength=2)) >= LEAST]
    found = list(combinations(full, 2))
    order = np.random.default_rng(seed).permutation(len(found))[:most]
    return [(int(found[i][0]), int(found[i][1])) for i in order]


def _sweep(
    features: NDArray[np.float32],
    confounder: NDArray[np.int64],
    label: NDArray[np.int64],
    pair: tuple[int, int],
    repeats: int,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Accuracies on the two slides and on all others, shape (ties, repeats) each; None without others."""
    from croma.downstream.probe import IN_DOMAIN, probe_sweep_over_test_sets

    rows = np.isin(confounder, pair)
    side = np.searchsorted(pair, confounder[rows])
    cells = 2 * label[rows] + side
    base = 4 * int((np.bincount(cells, minlength=4).min() - 2) / 3.5 / 4) or 4
    schedule = [
        ([(i, j, round(base * (1 + v if i == j else 1 - v))) for i in (0, 1) for j in (0, 1)], 2 * base) for v in TIES
    ]
    seen, others = _rotated(features[rows], features[~rows])
    tests = {UNSEEN: (others, label[~rows])} if len(np.unique(label[~rows])) == 2 else None
    found = probe_sweep_over_test_sets(
        seen,
        side,
        label[rows],
        schedule=schedule,
        test_sets=tests,
        iterations=repeats,
        seed=seed,
        validation_fraction=VALIDATION,
    )
    return found[IN_DOMAIN], found.get(UNSEEN)


def _rotated(train: NDArray[np.float32], other: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Standardize, and turn into as many numbers as there are patches: the same to a penalized linear head, and quicker."""
    mean, spread = train.mean(axis=0, dtype=np.float64), np.maximum(train.std(axis=0, dtype=np.float64), 1e-6)
    x = (train - mean) / spread
    _, _, axes = np.linalg.svd(x, full_matrices=False)
    return x @ axes.T, ((other - mean) / spread) @ axes.T


def _mean(matrices: list[NDArray[np.float64]]) -> tuple[float, ...]:
    return tuple(float(v) for v in np.mean([m.mean(axis=1) for m in matrices], axis=0)) if matrices else ()


def _drop(name: str, matrices: list[NDArray[np.float64]], draws: int, seed: int, facts: dict[str, float]) -> Measure:
    from croma import apd

    drops = np.asarray([apd(matrix) for matrix in matrices])
    low, high = bootstrap_interval(slide_weights(len(drops), draws, seed) @ drops / len(drops))
    note = f"Mean over {len(drops)} pairs of slides."
    return Measure(
        name,
        float(drops.mean()),
        low,
        high,
        facts["chance"],
        n_slides=int(facts["n_slides"]),
        n_patches=int(facts["n_patches"]),
        note=note,
    )
