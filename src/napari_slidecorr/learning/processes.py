"""Several processes that train one model: ``torchrun`` starts them, whole slides of a batch are dealt to them.

What adds up over slides is added up; where an objective compares all slides of a batch, features are gathered. Either
way loss and gradients are those of one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

from napari_slidecorr.errors import ModelError, SlideCorrError, TrainingError, sentence
from napari_slidecorr.events import Interrupted
from napari_slidecorr.learning.augment import Places
from napari_slidecorr.sampling import Rows, rows_of_rank

_FAILURE = "slidecorr/failure"
_store: list[Any] = []


@dataclass(frozen=True)
class Share:
    """The part of a batch that falls to this process.

    Attributes
    ----------
    rows : ndarray, int64
        Its rows of the table.
    batch : ndarray, int64
        Those of all processes.
    dealt : tuple of ndarray
        For each process the places of its rows in the batch.
    rank : int
    """

    rows: Rows
    batch: Rows
    dealt: tuple[NDArray[np.int64], ...]
    rank: int

    @property
    def places(self) -> Places:
        """Where its rows stand in the batch."""
        return Places(self.dealt[self.rank], sum(map(len, self.dealt)))


def rank_and_ranks() -> tuple[int, int]:
    """Which of how many processes this is; (0, 1) when it is alone."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def is_started_together() -> bool:
    """Whether ``torchrun`` started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def joined(device: str = "auto") -> Iterator[int]:
    """Meet the processes that ``torchrun`` started; gives this one's rank, and 0 when it is alone.

    Parameters
    ----------
    device : str
        The setting: with ``auto`` and ``cuda`` each process takes the GPU of its local rank.

    Raises
    ------
    ModelError
        If there are fewer GPUs than processes, or the device is ``mps``.
    """
    if not is_started_together() or distributed.is_initialized():
        yield rank_and_ranks()[0]
        return
    from torch.distributed.rendezvous import rendezvous

    _take_gpu(device)
    store, rank, ranks = next(rendezvous("env://"))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=ranks)
    _store.append(store)
    try:
        yield rank
    finally:
        _store.clear()
        distributed.destroy_process_group()


def _take_gpu(device: str) -> None:
    if device == "mps":
        raise ModelError("Several processes cannot share the device mps; choose cpu, or start one process.")
    if device == "cpu" or not torch.cuda.is_available():
        return
    local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= count:
        raise ModelError(f"There are {count} GPUs for more processes than that; start {count} processes at most.")
    torch.cuda.set_device(local)


def barrier() -> None:
    """Wait until all processes are here."""
    if rank_and_ranks()[1] > 1:
        gathered_objects(None)


def share_of(rows: Rows, slide_index: NDArray[np.integer[Any]]) -> Share:
    """Deal a batch, whole slides to each process.

    Raises
    ------
    CohortError
        If there are fewer slides in it than processes.
    """
    rank, ranks = rank_and_ranks()
    if ranks == 1:
        return Share(rows, rows, (np.arange(len(rows)),), 0)
    mine = [rows_of_rank(rows, slide_index, one, ranks) for one in range(ranks)]
    slides = [np.unique(slide_index[part]) for part in mine]
    return Share(mine[rank], rows, tuple(np.flatnonzero(np.isin(slide_index[rows], one)) for one in slides), rank)


def gathered_objects(mine: Any) -> list[Any]:
    """Give what each process has, by rank."""
    ranks = rank_and_ranks()[1]
    if ranks == 1:
        return [mine]
    found: list[Any] = [None] * ranks
    distributed.all_gather_object(found, mine)
    return found


def gathered(part: Tensor, share: Share) -> Tensor:
    """Put the rows of all processes together, in the order of the batch; own rows keep their gradient.

    Parameters
    ----------
    part : Tensor, shape (n, ...)
        Of the rows of this process.

    Returns
    -------
    Tensor, shape (N, ...)
    """
    if len(share.dealt) == 1:
        return part
    longest = max(map(len, share.dealt))
    padded = part.new_zeros(longest, *part.shape[1:])
    padded[: len(part)] = part.detach()
    parts = [torch.empty_like(padded) for _ in share.dealt]
    distributed.all_gather(parts, padded)
    whole = part.new_zeros(share.places.total, *part.shape[1:])
    for rank, places in enumerate(share.dealt):
        index = torch.from_numpy(places).to(part.device)
        found = part if rank == share.rank else parts[rank][: len(places)]
        whole = whole.index_copy(0, index, found)
    return whole


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over all processes, in place."""
    if rank_and_ranks()[1] == 1 or not tensors:
        return
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    distributed.all_reduce(flat)
    for tensor, summed in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(summed.view_as(tensor))


def add_up_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Let each gradient be the sum over all processes; one that a process has not counts as 0 there."""
    if rank_and_ranks()[1] == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    add_up([parameter.grad for parameter in parameters if parameter.grad is not None])


def in_step(items: Iterator[Any]) -> Iterator[Any]:
    """Pass items on; an error of one process ends all of them, so that none waits for ever.

    Raises
    ------
    TrainingError
        If another process failed; with its sentence.
    Interrupted
        If another process is no longer wanted.
    """
    if rank_and_ranks()[1] == 1:
        yield from items
        return
    while True:
        item, error = None, None
        try:
            item = next(items, None)
        except (SlideCorrError, OSError, Interrupted) as raised:
            error = raised
        _agree(error)
        if item is None:
            return
        yield item


def _agree(error: Exception | None) -> None:
    failed = torch.tensor([float(error is not None)])
    distributed.all_reduce(failed)
    if not failed.item():
        return
    told = gathered_objects(None if error is None else (isinstance(error, Interrupted), sentence(error)))
    if error is not None:
        raise error
    rank, (interrupted, said) = next((rank, one) for rank, one in enumerate(told) if one is not None)
    if interrupted:
        raise Interrupted
    raise TrainingError(f"Process {rank}: {said}")


@contextmanager
def failing_together() -> Iterator[None]:
    """Tell other processes why this one ends, and why another one did when it no longer answers.

    Raises
    ------
    TrainingError
        If another process failed between two steps.
    """
    rank, ranks = rank_and_ranks()
    try:
        yield
    except SlideCorrError as error:
        _publish(rank, ranks, error)
        raise
    except (RuntimeError, MemoryError) as error:
        if ranks > 1 and (told := _published()):
            raise TrainingError(told) from error
        _publish(rank, ranks, error)
        raise


def _publish(rank: int, ranks: int, error: Exception) -> None:
    if ranks > 1 and _store and not _published():
        _store[0].set(_FAILURE, f"Process {rank}: {sentence(error)}")


def _published() -> str:
    if not _store or not _store[0].check([_FAILURE]):
        return ""
    return str(_store[0].get(_FAILURE), "utf-8")
