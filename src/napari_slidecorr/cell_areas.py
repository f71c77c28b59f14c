"""Connected areas of the cells of a map and their outlines, all areas at once: a map may have hundreds of thousands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int32]
Ring = NDArray[np.int32]
"""Corners of an outline, shape (N, 2), (row, column) of the lines between cells; one at each turn, the first not again."""


def label_areas(class_map: NDArray[np.uint8], classes: int) -> tuple[Labels, list[int]]:
    """Number the 4-connected areas of each class, one class after the other, each in the order of its first cell.

    Parameters
    ----------
    class_map : ndarray, shape (rows, columns)
        1 to ``classes``; 0 belongs to no area.

    Returns
    -------
    labels : ndarray, shape (rows, columns), int32
        From 1 on; 0 where there is no area.
    counts : list of int
        How many areas each class has.
    """
    from scipy import ndimage

    labels = np.zeros(class_map.shape, np.int32)
    counts: list[int] = []
    for number in range(1, classes + 1):
        mine = class_map == number
        found, count = ndimage.label(mine)
        labels[mine] = found[mine] + sum(counts)
        counts.append(int(count))
    return labels, counts


def outlines(labels: Labels) -> Iterator[tuple[int, list[Ring]]]:
    """Walk the areas of a labelled map; of each the outer ring first, then its holes.

    Parameters
    ----------
    labels : ndarray, shape (rows, columns)
        Each number is one 4-connected area; 0 is none.

    Yields
    ------
    (int, list of ndarray)
        The area's number, rising, and its rings. An area is a valid polygon: rings are simple and touch in points alone.

    Notes
    -----
    Borders are walked with the area on the left hand, straight run by straight run. Where two cells of an area meet
    at a corner, the walk turns round the cell between them that is outside, so that a ring never meets itself.
    """
    runs = _all_runs(labels)
    order, starts = _cycles(_next_runs(labels, runs))
    points = np.stack([runs.row, runs.column], axis=1)[order]
    ends = np.append(starts[1:], len(order))
    owner = runs.label[order[starts]]
    is_hole = _signed_areas(points, starts) < 0
    first = 0
    ranked = np.lexsort((is_hole, owner))
    for last in [*(np.flatnonzero(np.diff(owner[ranked])) + 1).tolist(), len(ranked)]:
        if last > first:
            rings = [points[starts[ring] : ends[ring]] for ring in ranked[first:last].tolist()]
            yield int(owner[ranked[first]]), rings
        first = last


@dataclass(frozen=True)
class _Runs:
    """Straight pieces of borders: where each begins and ends, of which area, and its way (0 E, 1 S, 2 W, 3 N)."""

    row: Labels
    column: Labels
    end_row: Labels
    end_column: Labels
    label: Labels
    way: NDArray[np.int8]


def _all_runs(labels: Labels) -> _Runs:
    """Find all runs, those of one way together, in the order of the ways."""
    around = np.pad(labels, 1)
    above, below, left, right = around[:-1, 1:-1], around[1:, 1:-1], around[1:-1, :-1], around[1:-1, 1:]
    parts = []
    # The area lies on the left hand: going east it is above the line, going south right of it, and so on.
    for way, (mine, other) in enumerate([(above, below), (right.T, left.T), (below, above), (left.T, right.T)]):
        line, low, high, label = _runs_along(np.where(mine != other, mine, 0))
        start, end = (low, high) if way in (0, 1) else (high, low)
        places = (line, start, line, end) if way in (0, 2) else (start, line, end, line)
        parts.append((*places, label, np.full(len(line), way, np.int8)))
    return _Runs(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _runs_along(edges: Labels) -> tuple[Labels, Labels, Labels, Labels]:
    """Find equal neighbours in each row: row, first, one past the last, and their number; 0 is no run."""
    padded = np.pad(edges, ((0, 0), (1, 1)))
    change = padded[:, 1:] != padded[:, :-1]
    row, begin = np.nonzero(change[:, :-1] & (edges != 0))
    _, end = np.nonzero(change[:, 1:] & (edges != 0))
    return row.astype(np.int32), begin.astype(np.int32), (end + 1).astype(np.int32), edges[row, begin]


def _next_runs(labels: Labels, runs: _Runs) -> Labels:
    """Give for each run the number of the one that follows: to the right if the area lies there, else to the left."""
    around = np.pad(labels, 1)
    ahead_right = np.empty_like(runs.label)
    for way, (down, along) in enumerate([(1, 1), (1, 0), (0, 0), (0, 1)]):
        mine = runs.way == way
        ahead_right[mine] = around[runs.end_row[mine] + down, runs.end_column[mine] + along]
    turned = (runs.way + np.where(ahead_right == runs.label, 1, 3)) % 4
    following = np.empty_like(runs.label)
    at = np.empty([n + 1 for n in labels.shape], np.int32)
    for way in range(4):
        begin = np.flatnonzero(runs.way == way)
        at[runs.row[begin], runs.column[begin]] = begin
        mine = turned == way
        following[mine] = at[runs.end_row[mine], runs.end_column[mine]]
    return following


def _cycles(following: Labels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Put the elements of a permutation in the order of its cycles, and tell where each cycle begins."""
    order: NDArray[np.int64] = np.empty(len(following), np.int64)
    seen = bytearray(len(following))
    starts = []
    ahead, out, count = following.data, order.data, 0
    for first in range(len(following)):
        if seen[first]:
            continue
        starts.append(count)
        one = first
        while not seen[one]:
            seen[one] = 1
            out[count] = one
            count += 1
            one = ahead[one]
    return order, np.asarray(starts, np.int64)


def _signed_areas(points: NDArray[np.int32], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Twice the area of each ring, positive where it was walked with the inside on the left hand."""
    if not len(starts):
        return np.zeros(0)
    following = np.arange(1, len(points) + 1)
    following[np.append(starts[1:], len(points)) - 1] = starts
    y, x = points.T.astype(np.float64)
    return np.add.reduceat(y * x[following] - x * y[following], starts)
