"""Can a linear classifier tell from features which slide a patch is of?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.diagnostics.feature_table import FeatureTable, Measure, bootstrap_interval, slide_weights

GAP = 2.0
"""Least distance, in sides of a patch, between patches that teach the probe and those that try it: one patch lies between."""
LEAST = 3
"""Fewest patches of a slide on each side."""
PER_SLIDE = 200
"""More patches of a slide than this sharpen nothing."""
STRENGTHS = (0.01, 0.1, 1.0, 10.0)

Floats = NDArray[np.floating]


def slide_probe(table: FeatureTable, *, permutations: int = 200, draws: int = 1000, seed: int = 0) -> Measure:
    """Balanced accuracy of naming the slide of patches from features, on parts of the slides that did not teach it.

    Each slide is cut in two parts with one patch free between; each part is tried by a probe that the other taught.

    Parameters
    ----------
    permutations : int
        Probes of shuffled slides, which give the band of chance.
    draws : int
        Bootstrap draws over slides.

    Returns
    -------
    Measure
        Undefined when fewer than two slides can be cut.

    Notes
    -----
    A ridge classifier on standardized features, its strength chosen by leave-one-out error; its closed form makes probes
    of shuffled slides nearly free, which a logistic regression does not. Its interval is over slides.
    """
    return _measured(table, "slide_probe", permutations, draws, seed)


def within_class_probe(table: FeatureTable, *, permutations: int = 200, draws: int = 1000, seed: int = 0) -> Measure:
    """`slide_probe` inside each class alone, averaged over classes: what is left when class cannot help.

    Returns
    -------
    Measure
        Undefined when no class has two slides that can be cut.
    """
    name = "within_class_probe"
    parts = []
    for label, class_name in enumerate(table.classes):
        part = _measured(table.rows(table.label == label), class_name, permutations, draws, seed)
        if part.value is not None:
            parts.append(part)
    if not parts:
        return Measure.undefined(name, "No class has two slides with enough patches to cut each slide in two.", table)

    def mean(field: str) -> float:
        return float(np.mean([getattr(part, field) for part in parts]))

    return Measure(
        name,
        mean("value"),
        mean("low"),
        mean("high"),
        mean("chance"),
        mean("chance_low"),
        mean("chance_high"),
        n_slides=max(part.n_slides for part in parts),
        n_patches=sum(part.n_patches for part in parts),
        note="Mean over " + ", ".join(f"{part.name} {part.value:.2f}" for part in parts) + ".",
    )


def _measured(table: FeatureTable, name: str, permutations: int, draws: int, seed: int) -> Measure:
    table = table.at_most(PER_SLIDE, seed)
    part = parts_of(table)
    usable = np.unique(table.slide_index[part >= 0])
    if len(usable) < 2:
        reason = (
            f"A probe needs two slides with {LEAST} patches or more on both sides of a cut; {len(usable)} have them."
        )
        return Measure.undefined(name, reason, table)
    kept = table.rows(part >= 0)
    halves = _Halves.of(kept.features, part[part >= 0])
    slide = np.searchsorted(usable, kept.slide_index)
    recalls = halves.recalls(slide, len(usable))
    rng = np.random.default_rng(seed)
    shuffled = np.asarray(
        [halves.recalls(_shuffled(slide, halves.part, rng), len(usable)) for _ in range(permutations)]
    )
    weights = slide_weights(len(usable), draws, seed)
    low, high = bootstrap_interval(weights @ recalls / len(usable))
    chance_low, chance_high = bootstrap_interval(shuffled.mean(axis=1)) if permutations else (None, None)
    return Measure(
        name,
        float(recalls.mean()),
        low,
        high,
        1 / len(usable),
        chance_low,
        chance_high,
        n_slides=len(usable),
        n_patches=len(kept),
        note=_left_out(len(np.unique(table.slide_index)) - len(usable)),
    )


def _left_out(count: int) -> str:
    return f"{count} slides are too small to be cut in two and were left out." if count else ""


def _shuffled(slide: NDArray[np.int64], part: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Deal the slides' names anew inside each part, so that each keeps its number of patches there."""
    dealt = slide.copy()
    for side in (0, 1):
        rows = np.flatnonzero(part == side)
        dealt[rows] = slide[rng.permutation(rows)]
    return dealt


def parts_of(table: FeatureTable) -> NDArray[np.int64]:
    """Cut each slide in two parts, 0 and 1, as even as can be; -1 for patches between them and slides that are too small.

    Returns
    -------
    ndarray, shape (N,), int64
    """
    part = np.full(len(table), -1, np.int64)
    for slide in np.unique(table.slide_index):
        rows = np.flatnonzero(table.slide_index == slide)
        best = max((_cut(table.place[rows, axis]) for axis in (0, 1)), key=_evenness)
        if _evenness(best) >= LEAST:
            part[rows] = best
    return part


def _evenness(part: NDArray[np.int64]) -> int:
    return min(int((part == 0).sum()), int((part == 1).sum()))


def _cut(along: NDArray[np.float64]) -> NDArray[np.int64]:
    """Cut a line of patches where both sides hold most."""
    ends = np.unique(along)
    left = np.searchsorted(np.sort(along), ends, side="right")
    right = len(along) - np.searchsorted(np.sort(along), ends + GAP, side="left")
    end = ends[np.argmax(np.minimum(left, right))]
    return np.where(along <= end, 0, np.where(along >= end + GAP, 1, -1))


@dataclass(frozen=True, eq=False)
class _Halves:
    """The two closed-form probes of a table: what maps the slides of one part to scores on the other."""

    part: NDArray[np.int64]
    maps: tuple[_Ridge, _Ridge]

    @classmethod
    def of(cls, features: Floats, part: NDArray[np.int64]) -> _Halves:
        one, other = features[part == 0], features[part == 1]
        return cls(part, (_Ridge.of(one, other), _Ridge.of(other, one)))

    def recalls(self, slide: NDArray[np.int64], count: int) -> Floats:
        """Share of each slide's patches that are named rightly, mean of both parts, shape (count,)."""
        found = np.zeros(count)
        for taught, ridge in enumerate(self.maps):
            train, test = slide[self.part == taught], slide[self.part != taught]
            right = ridge.named(train, count) == test
            found += np.bincount(test, right, count) / np.maximum(np.bincount(test, minlength=count), 1)
        return found / 2


@dataclass(frozen=True, eq=False)
class _Ridge:
    """Ridge regression from N patches to M others, without the targets: G (G + a I)^-1 for a few strengths a."""

    vectors: Floats
    values: Floats
    across: Floats

    @classmethod
    def of(cls, train: Floats, test: Floats) -> _Ridge:
        mean, spread = train.mean(axis=0), train.std(axis=0)
        varying = spread > 1e-6 * max(float(spread.max()), 1e-30)
        x, y = ((part[:, varying] - mean[varying]) / spread[varying] for part in (train, test))
        gram = (x @ x.T) / max(1, x.shape[1])
        values, vectors = np.linalg.eigh(gram.astype(np.float64))
        return cls(vectors, np.maximum(values, 0), (y @ x.T / max(1, x.shape[1])).astype(np.float64) @ vectors)

    def named(self, slide: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """Name the slide of each of the M patches, shape (M,)."""
        sizes = np.bincount(slide, minlength=count)
        target = (slide[:, None] == np.arange(count)) / np.maximum(sizes, 1)
        target = (target - target.mean(axis=0)) * len(slide)
        seen = self.vectors.T @ target
        strength = min(STRENGTHS, key=lambda a: self._leave_one_out(target, seen, a))
        scores: Floats = self.across @ (seen / (self.values + strength)[:, None])
        return np.asarray(scores.argmax(axis=1), np.int64)

    def _leave_one_out(self, target: Floats, seen: Floats, strength: float) -> float:
        """Mean squared error on each patch of the regression that the others teach."""
        shrink = self.values / (self.values + strength)
        fitted = self.vectors @ (shrink[:, None] * seen)
        leverage = (self.vectors**2) @ shrink
        return float(np.mean(((target - fitted) / np.maximum(1 - leverage, 1e-6)[:, None]) ** 2))
