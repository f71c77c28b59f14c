"""What live training has in hand: labelled cells, a head fitted to them, and candidates for the next labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.live_slide import LiveSlide
from napari_slidecorr.slide import Slide
from napari_slidecorr.stain import optical_density

if TYPE_CHECKING:
    from napari_slidecorr.learning.heads import Head

LOOK_PX = 256
"""Side of the picture that tells how a slide is stained."""


@dataclass(frozen=True, eq=False)
class LiveHead:
    """A fitted head and what was found of it.

    Attributes
    ----------
    number : int
        Each head has its own.
    version : int
        Of the regions that it was fitted to.
    used : ndarray, shape (K',)
        Which of the project's classes it knows.
    bounds : tuple of float
        As `decision.decide` takes them; empty before it is judged.
    others : tuple of Head
        Each without some slides.
    """

    head: Head
    number: int
    version: int
    used: NDArray[np.int64]
    bounds: tuple[float, ...] = ()
    others: tuple[Head, ...] = ()
    judged: bool = False

    @property
    def look(self) -> tuple[int, tuple[float, ...]]:
        """What decides how a cell is painted."""
        return self.number, self.bounds


@dataclass(frozen=True, eq=False)
class Training:
    """Labelled cells with features, of all slides.

    Attributes
    ----------
    features : ndarray, shape (N, D), float16
    label : ndarray, shape (N,)
        Into ``used``.
    slide_index : ndarray, shape (N,)
    groups : list of int
        Of each slide.
    used : ndarray, shape (K,)
        Which of the project's classes have cells.
    """

    features: NDArray[np.float16]
    label: NDArray[np.int64]
    slide_index: NDArray[np.int64]
    groups: list[int]
    used: NDArray[np.int64]

    @classmethod
    def of(cls, slides: Iterable[LiveSlide]) -> Training:
        """Gather what is labelled and has features; slides without any are left out."""
        parts = [(slide, *slide.training_rows()) for slide in slides]
        parts = [part for part in parts if len(part[1])]
        if not parts:
            none = np.zeros(0, np.int64)
            return cls(np.zeros((0, 1), np.float16), none, none, [], none)
        names = list(dict.fromkeys(slide.group for slide, *_ in parts))
        used, label = np.unique(np.concatenate([labels for *_, labels in parts]), return_inverse=True)
        return cls(
            np.concatenate([slide.features[rows] for slide, rows, _ in parts]),
            label.astype(np.int64),
            np.repeat(np.arange(len(parts)), [len(rows) for _, rows, _ in parts]),
            [names.index(slide.group) for slide, *_ in parts],
            used.astype(np.int64),
        )

    @property
    def slides(self) -> int:
        """How many have labels."""
        return len(self.groups)

    def part(self, most: int) -> Training:
        """Give at most so many cells, the same number of each slide and class where they have them."""
        from napari_slidecorr.learning.held_out import balanced_part

        rows = balanced_part(self.label, self.slide_index, most)
        return replace(self, features=self.features[rows], label=self.label[rows], slide_index=self.slide_index[rows])


def waiting_sentence(lost: Sequence[str], classes: int) -> str:
    """Say why no head can be fitted, and what to do."""
    if lost:
        names = " and ".join(repr(name) for name in lost)
        return f"{names} lost the last region; the map waits as it was. Draw a region of it, undo, or press 'Go on without'."
    have = "no class has" if classes == 0 else "only one class has"
    return f"So far {have} a labelled patch. Draw regions of two classes or more, each larger than a patch."


def mean_density(slide: Slide, tissue: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean optical density of the tissue of a slide in red, green and blue, shape (3,); 0 without tissue.

    Parameters
    ----------
    tissue : ndarray, bool
        Over the whole slide, at any resolution.
    """
    picture = slide.thumbnail(LOOK_PX)
    y, x = (np.arange(shown) * total // shown for shown, total in zip(picture.shape[:2], tissue.shape, strict=True))
    dense = optical_density(picture)[tissue[np.ix_(y, x)]]
    return np.asarray(dense.mean(axis=0)) if len(dense) else np.zeros(3)
