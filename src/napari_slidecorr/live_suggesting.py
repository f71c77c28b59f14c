"""Which patches of which slides to label next, gathered from slides and told for a person."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.events import check_interrupted
from napari_slidecorr.live_events import LiveSuggestion
from napari_slidecorr.live_head import LiveHead
from napari_slidecorr.live_slide import LiveSlide
from napari_slidecorr.live_wishes import Cell

if TYPE_CHECKING:
    from napari_slidecorr.learning.suggestions import Suggested

CANDIDATES = 1500
"""So many cells of each slide are looked at, drawn anew for each head."""

SUGGESTIONS = 12


@dataclass(frozen=True, eq=False)
class Candidates:
    """Cells that may be labelled next.

    Attributes
    ----------
    cells : ndarray, shape (N, 2)
    slide_index : ndarray, shape (N,)
    probabilities : ndarray, shape (N, K)
    by_head : ndarray, shape (H, N, K)
        What heads say that did without some slides.
    """

    cells: NDArray[np.int32]
    slide_index: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    by_head: NDArray[np.float32]


def suggest(
    slides: Sequence[LiveSlide],
    classes: Sequence[str],
    head: LiveHead,
    skipped: Collection[tuple[str, Cell]],
    count: int = SUGGESTIONS,
) -> tuple[LiveSuggestion, ...]:
    """Suggest patches, the best first; none when all are labelled or have no features yet.

    Raises
    ------
    Interrupted
        If nobody wants them any more.
    """
    from napari_slidecorr.learning.suggestions import choose, uncertainty_of

    found = _candidates(slides, head, skipped)
    if found is None:
        return ()
    counts = [len(slide.labelled.labels) for slide in slides]
    looks = np.stack([slide.look for slide in slides])
    total = uncertainty_of(found.probabilities, found.by_head).total
    best = choose(total, found.slide_index, found.cells, counts, looks, count)
    return tuple(_told(slides, classes, head, found, each) for each in best)


def _candidates(
    slides: Sequence[LiveSlide], head: LiveHead, skipped: Collection[tuple[str, Cell]]
) -> Candidates | None:
    """Unlabelled cells full of tissue that have features, some of each slide."""
    parts = []
    for index, slide in enumerate(slides):
        check_interrupted()
        rows = _free_rows(slide, [cell for slide_id, cell in skipped if slide_id == slide.id])
        if len(rows) > CANDIDATES:
            rows = np.sort(np.random.default_rng([head.number, index]).choice(rows, CANDIDATES, replace=False))
        if len(rows):
            features = slide.features[rows]
            found = head.head.predict(features)
            by_head = np.zeros((len(head.others), *found.shape), np.float32)
            for number, other in enumerate(head.others):
                by_head[number] = other.predict(features)
            parts.append((np.full(len(rows), index), slide.cells[rows], found, by_head))
    if not parts:
        return None
    return Candidates(
        np.concatenate([cells for _, cells, _, _ in parts]),
        np.concatenate([index for index, _, _, _ in parts]),
        np.concatenate([found for _, _, found, _ in parts]),
        np.concatenate([by_head for _, _, _, by_head in parts], axis=1),
    )


def _free_rows(slide: LiveSlide, skipped: Sequence[Cell]) -> NDArray[np.int64]:
    free = slide.inner.copy()
    free[tuple(slide.labelled.cells.T)] = False
    for cell in skipped:
        free[cell] = False
    return np.flatnonzero(free[tuple(slide.cells.T)])


def _told(
    slides: Sequence[LiveSlide], classes: Sequence[str], head: LiveHead, found: Candidates, best: Suggested
) -> LiveSuggestion:
    slide, values = slides[int(found.slide_index[best.row])], found.probabilities[best.row]
    row, column = (int(value) for value in found.cells[best.row])
    told = ", ".join(f"{classes[int(k)]} {values[i]:.2f}" for i, k in enumerate(head.used))
    reason = (
        f"{slide.id}: {told}\n"
        f"Unsure: {best.uncertainty:.2f} of 1 (entropy, margin, disagreement of heads without one slide each)\n"
        f"Need for labels: {best.need:.2f} of 1 ({len(slide.labelled.labels)} labelled patches on this slide, and those "
        "of slides that are stained alike)"
    )
    name, box = classes[int(head.used[values.argmax()])], slide.grid.patch_box(row, column)
    return LiveSuggestion(slide.id, (row, column), box, name, float(values.max()), reason, best.score)
