"""Patches read ahead by a few threads, in the order in which they are wanted."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.events import check_interrupted

AHEAD = 2
"""Batches that are read while one is being computed."""

MAX_WORKERS = 8

most_workers = MAX_WORKERS
"""How many threads a process uses at most; less where several processes share a machine."""

CHECK_S = 0.05
"""How often a wait for patches asks whether it is still wanted."""

ItemT = TypeVar("ItemT")
ReadT = TypeVar("ReadT")
Patches = NDArray[np.uint8]


def default_workers() -> int:
    """One thread a core, one core left for the network, at most eight."""
    return max(1, min(most_workers, (os.cpu_count() or 1) - 1))


def read_ahead(
    batches: Iterable[Iterable[ItemT]], read: Callable[[ItemT], ReadT], *, workers: int | None = None
) -> Generator[list[ReadT], None, None]:
    """Read batches in threads, at most two beyond the one that was handed out.

    Parameters
    ----------
    batches : iterable of iterables
        What to read; an empty one gives an empty list.
    read : callable
        Reads one item; called in several threads at once.
    workers : int, optional
        Threads. Their number changes the speed, never the result.

    Yields
    ------
    list
        What was read, in the order of the batch.

    Raises
    ------
    Exception
        What `read` raised, when its batch is due.
    Interrupted
        If the batch is no longer wanted while it is waited for.

    Notes
    -----
    Closing the generator drops what has not begun and waits for the threads to end.
    """
    pool = ThreadPoolExecutor(workers or default_workers(), thread_name_prefix="read-patches")
    source = iter(batches)
    waiting: deque[list[Future[ReadT]]] = deque()

    def top_up() -> None:
        for batch in islice(source, AHEAD - len(waiting)):
            waiting.append([pool.submit(read, item) for item in batch])

    try:
        top_up()
        while waiting:
            due = [_patient_result(future) for future in waiting.popleft()]
            top_up()
            yield due
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _patient_result(future: Future[ReadT]) -> ReadT:
    """Wait for a read, ready to give up."""
    while not wait([future], timeout=CHECK_S).done:
        check_interrupted()
    return future.result()


def stack(patches: Sequence[Patches], size_px: int) -> Patches:
    """Put patches into one array, shape (N, size_px, size_px, 3), also when there are none."""
    return np.stack(patches) if patches else np.zeros((0, size_px, size_px, 3), np.uint8)
