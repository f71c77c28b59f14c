"""In which order the cells of a map are predicted, and how many at a time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.geometry import Box, Grid

Block = tuple[slice, slice]
Cell = tuple[int, int]

AHEAD_PATCHES = 64
AHEAD_BYTES = 64 << 20
"""So much is read while a batch is computed, two batches at least: a queue this deep hides that reads take unlike times."""

FIRST_BATCH = 4
WATCHED_S = 0.25
"""While cells in view are left a batch takes about so long: the map is seen to grow, and can turn to another view."""

CPU_SIZES = (8, 16, 32, 64)
GPU_SIZES = (64, 128, 256, 512)
CLEARLY = 0.97
"""A larger batch is taken when it needs less than this part of the time a patch."""


@dataclass(frozen=True)
class Piece:
    """A batch of cells of one block, row by row; none for a block of glass."""

    block: Block
    cells: list[Cell]


def cell_window(grid: Grid, box: Box) -> Block:
    """Give the rows and columns of the cells whose drawn squares meet a box of level-0 pixels; perhaps none."""
    window = []
    for low, high, corner, stride, length in zip(
        (box.y0, box.x0), (box.y1, box.x1), grid.corner_px, grid.stride_px, grid.shape, strict=True
    ):
        first, last = int((low - corner) // stride), int(-((corner - high) // stride))
        window.append(slice(min(max(first, 0), length), min(max(last, 0), length)))
    rows, columns = window
    return rows, columns


def meet(one: Block, other: Block) -> Block | None:
    """Give what two blocks share; None when that is nothing."""
    rows, columns = (slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


def blocks_in(grid: Grid, blocks: Sequence[Block], box: Box) -> list[Block]:
    """Give the blocks of which a cell meets a box of level-0 pixels."""
    window = cell_window(grid, box)
    return [block for block in blocks if meet(block, window)]


class Sweep:
    """Hands out the cells of a map batch by batch: those in view first, then whole blocks.

    Parameters
    ----------
    grid : Grid
    blocks : sequence of (slice, slice)
        In the order in which they are walked when nobody looks.
    wanted : ndarray, shape grid.shape, bool
        Cells that are to be predicted.
    """

    def __init__(self, grid: Grid, blocks: Sequence[Block], wanted: NDArray[np.bool_]) -> None:
        self._grid, self._blocks = grid, list(blocks)
        self._todo = np.zeros(grid.shape, bool)
        self._left: dict[Cell, int] = {}
        for block in self._blocks:
            self._todo[block] = wanted[block]
            self._left[_key(block)] = int(np.count_nonzero(wanted[block]))
        self._empty = {key for key, left in self._left.items() if not left}
        self._in_view: deque[Block] = deque()
        self._owner: dict[Cell, Block] = {}
        self._queue = deque(self._blocks)

    def look(self, box: Box | None) -> None:
        """Begin with the cells in a box of level-0 pixels, then with the blocks nearest to it; None: as they were given."""
        self._blocks = [block for block in self._blocks if _key(block) in self._left]
        if box is None:
            self._in_view, self._queue = deque(), deque(self._blocks)
            return
        nearest = sorted(self._blocks, key=lambda block: _distance(self._grid, block, box))
        window = cell_window(self._grid, box)
        shared = (meet(block, window) for block in nearest)
        self._in_view, self._queue = deque(part for part in shared if part), deque(nearest)
        self._owner = {_key(part): block for block in nearest if (part := meet(block, window))}

    @property
    def is_watched(self) -> bool:
        """Whether cells in view are still to be handed out."""
        while self._in_view and not self._todo[self._in_view[0]].any():
            self._in_view.popleft()
        return bool(self._in_view)

    def take(self, size: int) -> Piece | None:
        """Give the next cells, at most so many and all of one block; None when all are handed out."""
        if self.is_watched:
            part = self._in_view[0]
            return self._hand_out(self._owner[_key(part)], part, size)
        while self._queue:
            block = self._queue[0]
            if self._todo[block].any() or _key(block) in self._empty:
                return self._hand_out(block, block, size)
            self._queue.popleft()
        return None

    def _hand_out(self, block: Block, part: Block, size: int) -> Piece:
        cells = np.argwhere(self._todo[part])[:size] + [side.start for side in part]
        self._todo[tuple(cells.T)] = False
        self._empty.discard(_key(block))
        return Piece(block, [(int(row), int(column)) for row, column in cells])

    def put_back(self, pieces: Sequence[Piece]) -> None:
        """Take back cells that were not computed; call `look` next."""
        for piece in pieces:
            if piece.cells:
                self._todo[tuple(np.asarray(piece.cells).T)] = True
            else:
                self._empty.add(_key(piece.block))

    def finish(self, piece: Piece) -> bool:
        """Count cells as done; True when their block is whole with them."""
        key = _key(piece.block)
        self._left[key] -= len(piece.cells)
        if self._left[key]:
            return False
        del self._left[key]
        return True


def _key(block: Block) -> Cell:
    return block[0].start, block[1].start


def _distance(grid: Grid, block: Block, box: Box) -> float:
    """Squared level-0 pixels between the centres of a block and a box."""
    rows, columns = block
    upper, lower = grid.patch_box(rows.start, columns.start), grid.patch_box(rows.stop - 1, columns.stop - 1)
    y = (upper.y0 + lower.y1) - (box.y0 + box.y1)
    x = (upper.x0 + lower.x1) - (box.x0 + box.x1)
    return (y / 2) ** 2 + (x / 2) ** 2


class BatchSize:
    """How many patches a forward pass takes.

    Parameters
    ----------
    fixed : int
        0 tries some sizes on the first batches and keeps the fastest.
    sizes : sequence of int
        What is tried, in this order.

    Notes
    -----
    The first batch is not counted: it loads kernels and grows the memory.
    """

    def __init__(self, fixed: int, sizes: Sequence[int] = CPU_SIZES) -> None:
        self._fixed, self._sizes = fixed, tuple(sizes)
        self._untried = deque(() if fixed else (self._sizes[0], *self._sizes))
        self._seconds: dict[int, float] = {}
        self._patch_s: float | None = None
        self._records = 0
        self.limit = max((fixed, *sizes))

    def next(self, *, watched: bool = False) -> int:
        """Give the size of the batch that is read next; a small one while somebody waits for cells in view."""
        if watched:
            quick = FIRST_BATCH if self._patch_s is None else int(WATCHED_S / self._patch_s)
            return max(1, min(quick, self.best, self.limit))
        size = self._untried.popleft() if self._untried else self.best
        return min(size, self.limit)

    @property
    def best(self) -> int:
        """The given size, or the fastest found so far."""
        if self._fixed:
            return min(self._fixed, self.limit)
        best = self._sizes[0]
        for size, seconds in sorted(self._seconds.items()):
            if size <= self.limit and seconds < CLEARLY * self._seconds.get(best, np.inf):
                best = size
        return best

    def record(self, count: int, seconds: float) -> None:
        """Note how long a batch took."""
        self._records += 1
        if not count or self._records == 1:
            return
        each = seconds / count
        self._patch_s = each if self._patch_s is None else (self._patch_s + each) / 2
        if count in self._sizes:
            self._seconds[count] = min(each, self._seconds.get(count, np.inf))

    def halve(self, count: int) -> None:
        """Never again so many: they did not fit into the memory."""
        self.limit = max(1, count // 2)


def every(seconds: float) -> Iterator[bool]:
    """Say at each step whether so much time has passed since it last said so; yes at the first."""
    last = -np.inf
    while True:
        due = time.monotonic() - last >= seconds
        if due:
            last = time.monotonic()
        yield due
