"""What long work says of itself: a stream of frozen events, the last of which carries the result.

A long function checks its arguments when called and returns a generator of events. Whoever steps the generator may
close it at any event; `drain` is for those who just want the result. What lasts long between two events asks
`check_interrupted` now and then.
"""

from __future__ import annotations

import enum
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.errors import SlideCorrError


@dataclass(frozen=True, kw_only=True)
class Event:
    """A step of long work.

    Attributes
    ----------
    phase : str
        What is being done, for a person to read.
    done, total : int
        How far it is; ``total`` 0 means unknown.
    """

    phase: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True, kw_only=True)
class Notice(Event):
    """Something that the user should know: a warning, or which device was chosen."""

    message: str
    warning: bool = False


@dataclass(frozen=True, kw_only=True)
class BatchDone(Event):
    """One optimizer step.

    Attributes
    ----------
    loss : float
        Total loss of the batch.
    terms : dict of str to float
        Its terms by name, for example ``cross_entropy`` and ``slide_correlation`` (the latter before beta).
    pairs : int
        Same-slide pairs in the batch.
    """

    epoch: int
    batch: int
    loss: float
    terms: dict[str, float]
    pairs: int


@dataclass(frozen=True, kw_only=True)
class EpochDone(Event):
    """One pass over the training patches, and what the held-out slides say after it.

    Attributes
    ----------
    loss, terms, pairs
        Means over the batches of the epoch.
    train_auc, validation_auc : float
        Patch AUC (macro, one against rest for more than two classes); NaN when undefined. Training AUC is taken from
        the predictions made while training, validation AUC from held-out slides.
    seconds : float
        Wall time of the epoch.
    data_wait_s : float
        How much of it training steps waited for patches to be read.
    patches_per_slide : int
        n of its batches: less than the setting once memory ran out; 0 in curves of older versions.
    leaky : bool
        Whether held-out patches are of the training slides: a comparison that flatters.
    peak_memory : int
        The most memory so far, in bytes: of a GPU's tensors, else of the process; 0 where it is not told.
    """

    epoch: int
    loss: float
    terms: dict[str, float]
    pairs: float
    train_auc: float
    validation_auc: float
    validation_accuracy: float
    patches_per_second: float
    seconds: float
    data_wait_s: float = 0.0
    patches_per_slide: int = 0
    leaky: bool = False
    peak_memory: int = field(default=0, compare=False)

    @property
    def scores(self) -> str:
        """Its scores in words."""
        training = f"training AUC {self.train_auc:.3f}"
        if math.isnan(self.validation_accuracy):
            return f"{training}, nothing held out"
        kind = "leaky" if self.leaky else "held-out"
        return f"{training}, {kind} AUC {self.validation_auc:.3f}, {kind} accuracy {self.validation_accuracy:.3f}"


@dataclass(frozen=True, kw_only=True)
class BlockDone(Event):
    """One block of a prediction map.

    Attributes
    ----------
    rows, columns : slice
        Where it lies in the map, in cells.
    probabilities : ndarray, shape (K, rows, columns), float32
        NaN where nothing was predicted.
    slide_id : str
        Of which slide, when several are predicted in turn.
    spread : ndarray, shape (rows, columns), float32, or None
        See `PredictionMap`.
    """

    rows: slice
    columns: slice
    probabilities: NDArray[np.float32]
    slide_id: str = ""
    spread: NDArray[np.float32] | None = None


@dataclass(frozen=True, kw_only=True)
class CellsDone(Event):
    """Some cells of blocks that are not yet whole, to be shown; they come again with their `BlockDone`.

    Attributes
    ----------
    rows, columns : ndarray, shape (N,), int64
        Where they lie in the map.
    probabilities : ndarray, shape (K, N), float32
        NaN where a patch could not be read.
    spread : ndarray, shape (N,), float32, or None
    slide_id : str
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    slide_id: str
    spread: NDArray[np.float32] | None = None


@dataclass(frozen=True, kw_only=True)
class Trained(Event):
    """The end of a training; ``result`` is its `TrainResult`."""

    result: TrainResult


@dataclass(frozen=True, kw_only=True)
class MapBegun(Event):
    """A map is about to be filled, for those who show its blocks as they come.

    Attributes
    ----------
    begun : PredictionMap
        What an earlier run left of it; NaN everywhere in a new one.
    path : Path
        Where it is stored.
    """

    begun: Any
    path: Path


@dataclass(frozen=True, kw_only=True)
class Predicted(Event):
    """The end of a prediction.

    Attributes
    ----------
    result : PredictionMap
    path : Path or None
        Where it was stored, if it was.
    complete : bool
        Whether that is the whole slide; not when a part of it was asked for.
    """

    result: Any
    path: Path | None = None
    complete: bool = True


@dataclass(frozen=True)
class TrainResult:
    """What a training leaves.

    Attributes
    ----------
    weights_path, spec_path : Path
        The model: safetensors, and `ModelSpec` as JSON beside it.
    epochs : tuple of EpochDone
        The curve.
    """

    weights_path: Path
    spec_path: Path
    epochs: tuple[EpochDone, ...] = field(default=())


class JobStatus(enum.Enum):
    """How a job ended."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True)
class JobEnd:
    """Exactly one of these ends every job."""

    status: JobStatus
    result: Any = None
    error: BaseException | None = None


class Interrupted(Exception):  # noqa: N818 - no error: somebody asked for it
    """Work was ended between two events, because whoever runs it wants no more."""


_is_unwanted: ContextVar[Callable[[], bool]] = ContextVar("is_unwanted", default=lambda: False)


@contextmanager
def interruptible(is_unwanted: Callable[[], bool]) -> Iterator[None]:
    """Let `check_interrupted` ask a function, in this thread, inside the block."""
    token = _is_unwanted.set(is_unwanted)
    try:
        yield
    finally:
        _is_unwanted.reset(token)


def check_interrupted() -> None:
    """End work that nobody wants any more; cheap, to be asked several times a second inside of long steps.

    Raises
    ------
    Interrupted
        If the function given to `interruptible` says so; never outside of one.
    """
    if _is_unwanted.get()():
        raise Interrupted


def drain(events: Iterable[Event]) -> Any:
    """Run long work to its end and give its result.

    Raises
    ------
    SlideCorrError
        If the events end without a result.
    """
    last = deque(events, maxlen=1)
    if not last or not hasattr(last[0], "result"):
        raise SlideCorrError("The work ended without a result; start it again.")
    return last[0].result


def throttle(events: Iterator[Event], seconds: float = 0.05) -> Generator[Event, None, None]:
    """Pass events on, but of batches and plain progress only one in each span; everything else always passes.

    A viewer that receives thousands of events a second stands still; 20 a second look the same. Closing the
    throttled stream closes the inner one.
    """
    passed = 0.0
    try:
        for event in events:
            now = time.monotonic()
            frequent = isinstance(event, BatchDone) or type(event) is Event
            if not frequent or now - passed >= seconds:
                passed = now
                yield event
    finally:
        if isinstance(events, Generator):
            events.close()
