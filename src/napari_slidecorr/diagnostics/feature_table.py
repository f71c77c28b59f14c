"""Features of patches with what is known of each: the one input of all measures."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.errors import CohortError, ModelError


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """What a model makes of some patches.

    Attributes
    ----------
    features : ndarray, shape (N, D), float32
        Input of the model's last layer.
    label : ndarray, shape (N,), int16
        Index into ``classes``.
    slide_index : ndarray, shape (N,), int32
        Index into ``slides``.
    place : ndarray, shape (N, 2), float64
        Where each patch's upper left corner lies, (y, x), in sides of a patch.
    slides, classes : tuple of str
    groups : tuple of str
        Of each slide, usually the patient.
    probabilities : ndarray, shape (N, K), float32, optional
        What the model says.
    """

    features: NDArray[np.float32]
    label: NDArray[np.int16]
    slide_index: NDArray[np.int32]
    place: NDArray[np.float64]
    slides: tuple[str, ...]
    classes: tuple[str, ...]
    groups: tuple[str, ...]
    probabilities: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        rows = {len(self.features), len(self.label), len(self.slide_index), len(self.place)}
        if len(rows) != 1 or len(self.groups) != len(self.slides):
            raise CohortError(f"The columns of a feature table have {sorted(rows)} rows; give each patch one.")
        broken = ~np.isfinite(self.features).all(axis=1)
        if broken.any():
            slide = self.slides[self.slide_index[np.flatnonzero(broken)[0]]]
            raise ModelError(
                f"{int(broken.sum())} patches have features that are not finite numbers, the first on slide {slide}; "
                "train the model again with a lower learning rate."
            )

    def __len__(self) -> int:
        return len(self.features)

    @property
    def group_index(self) -> NDArray[np.int64]:
        """Shape (N,): each patch's group, as an index into the sorted names of groups."""
        _, of_slide = np.unique(np.asarray(self.groups, dtype=object).astype(str), return_inverse=True)
        return np.asarray(of_slide)[self.slide_index]

    def counts(self) -> NDArray[np.int64]:
        """Patches of each slide and class, shape (S, K)."""
        found = np.zeros((len(self.slides), len(self.classes)), np.int64)
        np.add.at(found, (self.slide_index, self.label), 1)
        return found

    def rows(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> FeatureTable:
        """Some of the patches; slides keep their indices."""
        return replace(
            self,
            features=self.features[rows],
            label=self.label[rows],
            slide_index=self.slide_index[rows],
            place=self.place[rows],
            probabilities=None if self.probabilities is None else self.probabilities[rows],
        )

    def joined(self, other: FeatureTable) -> FeatureTable:
        """Both tables as one; the other's slides are numbered behind.

        Raises
        ------
        CohortError
            If the classes differ, or a slide is in both.
        """
        shared = set(self.slides) & set(other.slides)
        if self.classes != other.classes or shared:
            raise CohortError(
                f"Tables of classes {self.classes} and {other.classes} cannot be joined; both hold {shared}."
            )
        both = None
        if self.probabilities is not None and other.probabilities is not None:
            both = np.concatenate([self.probabilities, other.probabilities])
        return replace(
            self,
            features=np.concatenate([self.features, other.features]),
            label=np.concatenate([self.label, other.label]),
            slide_index=np.concatenate([self.slide_index, other.slide_index + np.int32(len(self.slides))]),
            place=np.concatenate([self.place, other.place]),
            slides=self.slides + other.slides,
            groups=self.groups + other.groups,
            probabilities=both,
        )

    def at_most(self, per_slide: int, seed: int = 0) -> FeatureTable:
        """At most so many patches of each slide, drawn at random."""
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(self))
        slides = self.slide_index[order]
        by_slide = np.argsort(slides, kind="stable")
        first = np.searchsorted(slides[by_slide], np.arange(len(self.slides)))
        rank = np.arange(len(self)) - first[slides[by_slide]]
        return self.rows(np.sort(order[by_slide[rank < per_slide]]))


@dataclass(frozen=True)
class Measure:
    """One number about a model and a set of patches, or why there is none.

    Attributes
    ----------
    value, low, high : float or None
        The number and its 95 % interval, by bootstrap over slides unless ``note`` says otherwise.
    chance, chance_low, chance_high : float or None
        What features that know nothing would give, and the 95 % band of that.
    n_slides, n_patches : int
        What it was measured on.
    reason : str
        One sentence when there is no value.
    note : str
        What to know when reading it.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    chance_low: float | None = None
    chance_high: float | None = None
    n_slides: int = 0
    n_patches: int = 0
    reason: str = ""
    note: str = ""

    @classmethod
    def undefined(cls, name: str, reason: str, table: FeatureTable | None = None) -> Measure:
        """A measure that cannot be taken."""
        slides = 0 if table is None else len(np.unique(table.slide_index))
        return cls(name, None, n_slides=slides, n_patches=0 if table is None else len(table), reason=reason)


def bootstrap_interval(draws: NDArray[np.floating]) -> tuple[float | None, float | None]:
    """The 2.5 and 97.5 % points of bootstrap draws; None where fewer than half are defined."""
    finite = draws[np.isfinite(draws)]
    if len(finite) * 2 < len(draws) or not len(finite):
        return None, None
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)


def slide_weights(count: int, draws: int, seed: int = 0) -> NDArray[np.int64]:
    """How often each slide comes in each bootstrap draw, shape (draws, count)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(count, np.full(count, 1 / count), size=draws)
