"""Directions in which slides differ though their class is the same, and features without them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.errors import CohortError
from napari_slidecorr.fast_config import HeadConfig
from napari_slidecorr.learning.heads import Head, LinearHead, fit_head

Labels = NDArray[np.integer]


def slides_hold_several_classes(labels: Labels, slide_index: Labels) -> bool:
    """Whether most slides have patches of two classes or more, so that slide and class can be told apart."""
    slides = np.unique(slide_index)
    several = sum(len(np.unique(labels[slide_index == slide])) > 1 for slide in slides)
    return 2 * several > len(slides)


def check_several_classes(labels: Labels, slide_index: Labels, what: str) -> None:
    """Refuse a remedy that would take the class away with the slide.

    Raises
    ------
    CohortError
        If most slides have one class.
    """
    if not slides_hold_several_classes(labels, slide_index):
        raise CohortError(
            f"{what} takes away what slides differ in, and most of these slides have one class: it would take the class "
            "away too. Label several classes on each slide, or leave it out."
        )


def nuisance_directions(
    features: NDArray[np.floating], labels: Labels, slide_index: Labels, count: int
) -> NDArray[np.float32]:
    """Find the directions in which the means of slides differ most inside classes, shape (D, count), orthonormal.

    Parameters
    ----------
    features : ndarray, shape (N, D)
        Of training slides only.
    count : int
        How many; fewer come back when there are not so many differences.

    Raises
    ------
    CohortError
        If most slides have one class.
    """
    check_several_classes(labels, slide_index, "Projection")
    rows = []
    for k in np.unique(labels):
        of_class = labels == k
        means = [
            features[of_class & (slide_index == s)].mean(axis=0, dtype=np.float64)
            for s in np.unique(slide_index[of_class])
        ]
        rows.append(np.stack(means) - np.mean(means, axis=0))
    _, size, directions = np.linalg.svd(np.concatenate(rows), full_matrices=False)
    real = int(np.count_nonzero(size > 1e-6 * max(float(size[0]), 1e-12)))
    return np.asarray(directions[: min(count, real)].T, np.float32)


def without_directions(features: NDArray[np.floating], directions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give features, shape (N, D), float32, with nothing left along the directions."""
    plain = np.asarray(features, np.float32)
    return np.asarray(plain - (plain @ directions) @ directions.T, np.float32)


def blind_to(head: LinearHead, directions: NDArray[np.float32]) -> LinearHead:
    """Give the head that does with plain features what this one does with features without the directions."""
    weight = head.weight - (head.weight @ directions) @ directions.T
    return LinearHead(np.asarray(weight, np.float32), head.bias, head.penalty)


def fit_projected(
    features: NDArray[np.floating],
    labels: Labels,
    slide_index: Labels,
    config: HeadConfig,
    count: int,
    *,
    classes: int | None = None,
) -> Head:
    """Fit a linear head to features without their nuisance directions; it takes plain features and is blind to those.

    Raises
    ------
    CohortError
        If most slides have one class.
    """
    directions = nuisance_directions(features, labels, slide_index, count)
    plain = without_directions(features, directions)
    head = fit_head(plain, labels, slide_index, config, classes=classes)
    return blind_to(head, directions) if isinstance(head, LinearHead) else head
