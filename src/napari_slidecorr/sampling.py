"""Which patches meet in a batch: m slides x n patches, a pure function of (seed, epoch).

SCR sums over pairs of patches of one slide, so its strength depends on how a batch is composed; and a batch of one
class teaches nothing. Both are settled here, without a pixel.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.errors import CohortError
from napari_slidecorr.patches import PatchTable

Rows = NDArray[np.int64]


def same_slide_pairs(slide_index: NDArray[np.integer]) -> int:
    """Count the pairs of patches of one slide in a batch: sum over slides of n (n - 1) / 2."""
    _, counts = np.unique(slide_index, return_counts=True)
    return int((counts * (counts - 1) // 2).sum())


def class_shares(table: PatchTable) -> NDArray[np.float64]:
    """How often `slide_batches` draws each class, shape (K,), adding up to 1: slides in turn, and classes in a slide."""
    present = table.counts() > 0
    present = present[present.any(axis=1)]
    return np.asarray((present / present.sum(axis=1, keepdims=True)).mean(axis=0))


def rows_of_rank(rows: Rows, slide_index: NDArray[np.integer], rank: int, ranks: int) -> Rows:
    """Deal whole slides of a batch to processes, so that no same-slide pair is torn apart.

    Parameters
    ----------
    rows : ndarray, int64
        A batch, from `slide_batches`.
    slide_index : ndarray
        Of the table that the rows are of.
    rank, ranks : int
        Which of how many processes; each gives the same ``rows``.

    Returns
    -------
    ndarray, int64
        The rows of that process, in the order of the batch; together those of all processes are the batch.

    Raises
    ------
    CohortError
        If there are fewer slides in the batch than processes.
    """
    of_row = slide_index[rows]
    slides, first = np.unique(of_row, return_index=True)
    if len(slides) < ranks:
        raise CohortError(
            f"A batch of {len(slides)} slides cannot be dealt to {ranks} processes; raise slides_per_batch, or start "
            "fewer processes."
        )
    mine = slides[np.argsort(first)][rank::ranks]
    return rows[np.isin(of_row, mine)]


def slide_batches(
    table: PatchTable, *, slides_per_batch: int, patches_per_slide: int, seed: int, epoch: int
) -> list[Rows]:
    """Compose the batches of one epoch.

    Parameters
    ----------
    table : PatchTable
        The training patches.
    slides_per_batch, patches_per_slide : int
        m (2 or more) and n. With fewer than m slides a batch has all of them; with one slide n is at least 2.
    seed, epoch : int
        Decide everything: the same numbers give the same batches, whatever was done before.

    Returns
    -------
    list of ndarray, int64
        Rows of the table; together about as many as it has. Slides are drawn equally often, and so are the classes
        inside a slide; patches of small slides therefore come more than once.

    Raises
    ------
    CohortError
        If the table has fewer than two classes.
    """
    labels = np.unique(table.label)
    if len(labels) < 2:
        raise CohortError("The training patches are all of one class; nothing can be learnt from them.")
    rng = np.random.default_rng([seed, epoch, 0xBA7C])
    patches = {int(s): _endless_patches(table, int(s), rng) for s in np.unique(table.slide_index)}
    slides = _endless_slides(table, rng)
    m = min(max(slides_per_batch, 2), len(patches))
    n = max(patches_per_slide, 2) if m == 1 else patches_per_slide
    batches = max(1, round(len(table) / (m * n)))
    return [_batch(table, patches, slides, m, n) for _ in range(batches)]


def _batch(table: PatchTable, patches: dict[int, Iterator[int]], slides: Iterator[int], m: int, n: int) -> Rows:
    chosen: list[int] = []
    waiting: list[int] = []
    while len(chosen) < m:
        slide = next(slides)
        (chosen if slide not in chosen else waiting).append(slide)
    rows = np.asarray([next(patches[slide]) for slide in chosen for _ in range(n)], np.int64)
    if len(np.unique(table.label[rows])) > 1:
        return rows
    return _with_second_class(table, patches, rows, n)


def _with_second_class(table: PatchTable, patches: dict[int, Iterator[int]], rows: Rows, n: int) -> Rows:
    """Replace the last slide's patches by those of a slide that has another class."""
    label = table.label[rows[0]]
    other = np.unique(table.slide_index[table.label != label])
    taken = set(table.slide_index[rows[:-n]].tolist())
    slide = int(next((s for s in other if int(s) not in taken), other[0]))
    wanted: list[int] = []
    while len(wanted) < n or all(table.label[row] == label for row in wanted):
        wanted.append(next(patches[slide]))
    return np.concatenate([rows[:-n], np.asarray(wanted[-n:], np.int64)])


def _endless_patches(table: PatchTable, slide: int, rng: np.random.Generator) -> Iterator[int]:
    """Rows of one slide for ever, its classes in turn, each class reshuffled when it is used up."""
    rows = np.flatnonzero(table.slide_index == slide)
    by_class = [rows[table.label[rows] == label] for label in np.unique(table.label[rows])]
    children = rng.spawn(len(by_class))
    streams = [_endless(rows_of_class, child) for rows_of_class, child in zip(by_class, children, strict=True)]
    start = int(rng.integers(len(streams)))
    while True:
        for stream in streams[start:] + streams[:start]:
            yield next(stream)


def _endless_slides(table: PatchTable, rng: np.random.Generator) -> Iterator[int]:
    """Slides for ever; those with the same set of classes take turns with the other sets."""
    sets: dict[frozenset[int], list[int]] = {}
    for slide in np.unique(table.slide_index):
        kinds = frozenset(np.unique(table.label[table.slide_index == slide]).tolist())
        sets.setdefault(kinds, []).append(int(slide))
    groups = [np.asarray(sets[kinds]) for kinds in sorted(sets, key=sorted)]
    while True:
        shuffled = [rng.permutation(group) for group in groups]
        places = np.concatenate([(np.arange(len(g)) + rng.random()) / len(g) for g in shuffled])
        yield from np.concatenate(shuffled)[np.argsort(places, kind="stable")].tolist()


def _endless(rows: Rows, rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from rng.permutation(rows).tolist()
