"""The patches of batches, read ahead by a few threads, each into its place in the batch.

The thread that computes does nothing but compute: putting a batch together costs a fifth of reading it, and would come on
top of the forward passes.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np

from napari_slidecorr.errors import SlideError
from napari_slidecorr.events import check_interrupted
from napari_slidecorr.learning import loading
from napari_slidecorr.learning.loading import Patches
from napari_slidecorr.learning.sweep import Cell, Piece

MAX_READERS = 8
CHECK_S = 0.05
"""How often a wait for patches asks whether they are still wanted."""


def default_readers(*, on_cpu: bool) -> int:
    """Threads that read: all cores for a GPU, at most eight; beside a network that computes on the CPU one less.

    Never more than `loading.most_workers`, which processes that share a machine set.
    """
    cores = os.cpu_count() or 1
    return max(1, min(MAX_READERS, loading.most_workers, cores - 1 if on_cpu else cores))


@dataclass
class ReadPiece:
    """A batch of cells with its patches.

    Attributes
    ----------
    piece : Piece
    patches : ndarray, shape (N, S, S, 3), uint8
        In the order of the cells; undefined where there is an error.
    errors : dict of int to SlideError
        By the number of the cell in the batch.
    """

    piece: Piece
    patches: Patches
    errors: dict[int, SlideError] = field(default_factory=dict)
    _failure: BaseException | None = None

    def __post_init__(self) -> None:
        self._numbers: Iterator[int] = iter(range(len(self.piece.cells)))
        self._left, self._lock, self._read = len(self.piece.cells), threading.Lock(), threading.Event()
        self.runners: list[Future[None]] = []
        if not self._left:
            self._read.set()

    def fill(self, read: Callable[[Cell], Patches]) -> None:
        """Read patches that no other thread has begun until there are none; several threads do this at once."""
        while (number := self._next()) is not None:
            try:
                self.patches[number] = read(self.piece.cells[number])
            except SlideError as error:  # the others go on
                self.errors[number] = error
            except BaseException as error:  # noqa: BLE001 - raised where the batch is due
                self._failure = error
                self._read.set()
                return
            with self._lock:
                self._left -= 1
                if not self._left:
                    self._read.set()

    def _next(self) -> int | None:
        with self._lock:
            return next(self._numbers, None)

    def drop(self) -> None:
        """Begin no further patch."""
        with self._lock:
            self._numbers = iter(())
        for runner in self.runners:
            runner.cancel()

    def wait(self) -> None:
        """Wait until all is read, ready to give up.

        Raises
        ------
        Exception
            What reading raised, but for `SlideError`.
        Interrupted
            If the patches are no longer wanted.
        """
        while not self._read.wait(CHECK_S):
            check_interrupted()
        if self._failure is not None:
            raise self._failure


class Reading:
    """Pieces read by a few threads in the order in which they were added; a context that ends the threads.

    Parameters
    ----------
    read : callable
        Reads the patch of one cell, shape (S, S, 3), uint8; called in several threads at once.
    size_px : int
        S.
    workers : int
        Threads. Their number changes the speed, never the result.
    """

    def __init__(self, read: Callable[[Cell], Patches], size_px: int, workers: int) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="read-patches")
        self._read, self._size_px, self._workers = read, size_px, workers
        self._waiting: deque[ReadPiece] = deque()

    def add(self, piece: Piece) -> None:
        """Begin to read a piece when those before it are read."""
        count = len(piece.cells)
        added = ReadPiece(piece, np.empty((count, self._size_px, self._size_px, 3), np.uint8))
        added.runners = [self._pool.submit(added.fill, self._read) for _ in range(min(self._workers, count))]
        self._waiting.append(added)

    @property
    def pieces(self) -> int:
        """Pieces that were added and not taken."""
        return len(self._waiting)

    @property
    def patches(self) -> int:
        """Patches of these."""
        return sum(len(waiting.piece.cells) for waiting in self._waiting)

    def take(self) -> ReadPiece:
        """Give the piece that was added first, with its patches; errors as of `ReadPiece.wait`."""
        first = self._waiting.popleft()
        first.wait()
        return first

    def drop(self) -> list[Piece]:
        """Forget what was added and not taken, and give it back."""
        dropped = list(self._waiting)
        self._waiting.clear()
        for waiting in dropped:
            waiting.drop()
        return [waiting.piece for waiting in dropped]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Drop what has not begun and wait for the threads to end."""
        self.drop()
        self._pool.shutdown(wait=True, cancel_futures=True)
