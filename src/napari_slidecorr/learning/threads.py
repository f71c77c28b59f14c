"""How many threads torch computes with, and how many read patches for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread inside the block.

    The order in which floating-point numbers are added depends on the number of threads; with one of them a result is
    the same on machines with few and with many cores. Small networks lose little by it.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def use_threads(compute: int | None, read: int) -> None:
    """Set for the whole process how many threads compute (None: as they are), and how many read patches at most."""
    from napari_slidecorr.learning import loading

    if compute is not None:
        torch.set_num_threads(compute)
    loading.most_workers = read
