"""One slide of live training: which of its cells have features, and which are labelled. numpy alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.errors import SlideCorrError
from napari_slidecorr.geometry import Box, Grid
from napari_slidecorr.slide import Slide

Cells = NDArray[np.int32]
Features = NDArray[np.float16]
Labels = NDArray[np.int16]
Rows = NDArray[np.int64]

FIRST_ROOM = 1024


@dataclass(frozen=True, eq=False)
class LabelledCells:
    """Cells that regions cover, shape (N, 2), and their classes, shape (N,)."""

    cells: Cells
    labels: Labels


NO_LABELS = LabelledCells(np.zeros((0, 2), np.int32), np.zeros(0, np.int16))


class LiveSlide:
    """Features and labels of the cells of a slide, as they come.

    Parameters
    ----------
    slide : Slide
    grid : Grid
    tissue : ndarray, shape of the grid, bool
        Cells that are wanted in any case.
    dim : int
        D, numbers a cell.
    group : str
        What is held out together.
    look : ndarray, shape (3,)
        Mean optical density of the tissue: slides that are stained alike have similar ones.
    inner : ndarray, shape of the grid, bool, optional
        Cells that are full of tissue, which are worth to be suggested; all of the tissue when left out.

    Attributes
    ----------
    painted : (object, int)
        What the cells were last painted with, and how many rows of them.
    labelled : LabelledCells
    trouble : str
        Why no more features can be had; empty while they can.
    """

    def __init__(
        self,
        slide: Slide,
        grid: Grid,
        tissue: NDArray[np.bool_],
        dim: int,
        *,
        group: str = "",
        look: NDArray[np.floating] | None = None,
        inner: NDArray[np.bool_] | None = None,
    ) -> None:
        self.slide, self.grid, self.tissue, self.group = slide, grid, tissue, group or slide.id
        self.inner = tissue if inner is None else inner & tissue
        self.look = np.zeros(3) if look is None else np.asarray(look, np.float64)
        self.place = np.full(grid.shape, -1, np.int64)
        self.painted: tuple[object, int] = (None, 0)
        self.labelled = NO_LABELS
        self.trouble = ""
        self._given_up = np.zeros(grid.shape, bool)
        self._features = np.zeros((0, dim), np.float16)
        self._cells = np.zeros((0, 2), np.int32)
        self.count = 0

    @property
    def id(self) -> str:
        """The slide's id."""
        return self.slide.id

    @property
    def features(self) -> Features:
        """What is there, shape (count, D), float16, in the order in which it came."""
        return self._features[: self.count]

    @property
    def cells(self) -> Cells:
        """Row and column of each, shape (count, 2)."""
        return self._cells[: self.count]

    def take(self, cells: Cells, features: Features) -> int:
        """Add cells that are not there yet; gives how many."""
        new = self.place[tuple(cells.T)] < 0
        cells, features = cells[new], features[new]
        end = self.count + len(cells)
        if end > len(self._cells):
            room = max(end, min(max(FIRST_ROOM, 2 * len(self._cells)), int(self.wanted().sum())))
            self._features = _grown(self._features, self.count, room)
            self._cells = _grown(self._cells, self.count, room)
        self._features[self.count : end], self._cells[self.count : end] = features, cells
        self.place[tuple(cells.T)] = np.arange(self.count, end)
        self.count = end
        return len(cells)

    def let_go(self) -> None:
        """Forget the features of cells that are not labelled: they are missing again."""
        rows = np.unique(self.training_rows()[0])
        self._features, self._cells = self._features[rows], self._cells[rows]
        self.count = len(rows)
        self.place[:] = -1
        self.place[tuple(self._cells.T)] = np.arange(self.count)
        self.painted = None, 0

    @property
    def cell_bytes(self) -> int:
        """How much memory the features of a cell take."""
        return self._features.shape[1] * self._features.itemsize

    def wanted(self) -> NDArray[np.bool_]:
        """Cells of tissue and labelled ones, shape of the grid."""
        out = self.tissue.copy()
        out[tuple(self.labelled.cells.T)] = True
        return out

    def missing(self) -> NDArray[np.bool_]:
        """Wanted cells that have no features yet and may get them, shape of the grid."""
        return self._open(self.wanted())

    def missing_labelled(self) -> NDArray[np.bool_]:
        """Of these the labelled ones."""
        out = np.zeros(self.grid.shape, bool)
        out[tuple(self.labelled.cells.T)] = True
        return self._open(out)

    def _open(self, cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.asarray(cells & (self.place < 0) & ~self._given_up)

    def give_up(self, cells: NDArray[np.bool_], error: SlideCorrError | None = None) -> None:
        """Ask no more for cells that cannot be read, and after an error for none."""
        self._given_up |= cells & (self.place < 0)
        if error is not None:
            self._given_up[:] = True
            self.trouble = str(error)

    def training_rows(self) -> tuple[Rows, Labels]:
        """Rows of labelled cells that have features, and their classes."""
        rows = self.place[tuple(self.labelled.cells.T)]
        return rows[rows >= 0], self.labelled.labels[rows >= 0]

    def rows_in(self, box: Box | None) -> NDArray[np.bool_]:
        """Which rows have a patch that meets a box in level-0 pixels, shape (count,); none without a box."""
        if box is None:
            return np.zeros(self.count, bool)
        y, x = (np.asarray(self.grid.patch_starts_px(axis))[self.cells[:, axis]] for axis in (0, 1))
        height, width = self.grid.cell_px
        return np.asarray((y < box.y1) & (y + height > box.y0) & (x < box.x1) & (x + width > box.x0))


def _grown(old: NDArray[Any], used: int, room: int) -> NDArray[Any]:
    new: NDArray[Any] = np.zeros((room, *old.shape[1:]), old.dtype)
    new[:used] = old[:used]
    return new
