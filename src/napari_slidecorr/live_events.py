"""What live training says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.events import Event
from napari_slidecorr.geometry import Box, Grid


@dataclass(frozen=True, kw_only=True)
class LiveBegun(Event):
    """Slides are open and the backbone is made; ``device`` says where it runs and with which weights."""

    device: str


@dataclass(frozen=True, kw_only=True)
class LiveIdle(Event):
    """There is nothing to do; when ``settled`` also not once regions have not changed for a moment."""

    settled: bool


@dataclass(frozen=True, kw_only=True)
class LiveFilled(Event):
    """How many cells of a slide have features (``done`` of ``total``), and how many are labelled.

    Attributes
    ----------
    slide_id : str
    labelled : int
    trouble : str
        Why the rest cannot be had; else empty.
    """

    slide_id: str
    labelled: int
    trouble: str = ""


@dataclass(frozen=True, kw_only=True)
class CacheTold(Event):
    """How much is kept on the disk, of how many slides and backbones, and the bound; ``folder`` None: nothing is."""

    folder: Path | None
    slides: int
    size_bytes: int
    limit_bytes: int


@dataclass(frozen=True, kw_only=True)
class LiveFitted(Event):
    """A head was fitted.

    Attributes
    ----------
    version : int
        Of `LiveWishes`, whose regions it was fitted to.
    classes : tuple of str
        That have patches.
    patches, slides : int
        Labelled ones.
    seconds : float
    """

    version: int
    classes: tuple[str, ...]
    patches: int
    slides: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class LiveWaits(Event):
    """No head can be fitted to the regions as they are; the map stays as it was.

    Attributes
    ----------
    message : str
        Why, and what to do.
    lost : tuple of str
        Classes that had regions and have none any more.
    """

    version: int
    message: str
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LiveCells(Event):
    """Cells of a map that grows or changes.

    Attributes
    ----------
    slide_id : str
    version : int
        Of the regions that the head was fitted to.
    grid : Grid
    cells : ndarray, shape (N, 2), int32
    shown : ndarray, shape (N,), uint8
        Number of the most probable class in ``classes``, from 1; 255 where the model is unsure.
    probabilities : ndarray, shape (N, K), float32
        Of ``classes``; 0 for those without patches.
    classes : tuple of str
        All of the project.
    in_view : bool
        Whether these are the cells that the window shows.
    last : bool
        Whether the slide is painted as far as there are features.
    """

    slide_id: str
    version: int
    grid: Grid
    cells: NDArray[np.int32]
    shown: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    classes: tuple[str, ...]
    in_view: bool
    last: bool


@dataclass(frozen=True, kw_only=True)
class LiveJudged(Event):
    """What heads say of slides that they have not seen.

    Attributes
    ----------
    auc : float
        Patch AUC over all held-out patches; NaN when no slide can be held out.
    slides : int
        With labels.
    warning : str
        Why this means little, or that there is none; else empty.
    """

    version: int
    auc: float
    slides: int
    warning: str


@dataclass(frozen=True)
class LiveSuggestion:
    """A patch to label next.

    Attributes
    ----------
    slide_id : str
    cell : (int, int)
    box : Box
        The patch, level-0 pixels.
    class_name : str
        What the model takes it for, with ``probability``.
    reason : str
        For a person: how unsure the model is, and how few labels the slide has.
    score : float
    """

    slide_id: str
    cell: tuple[int, int]
    box: Box
    class_name: str
    probability: float
    reason: str
    score: float


@dataclass(frozen=True, kw_only=True)
class LiveSuggested(Event):
    """Patches to label next, the best first."""

    version: int
    suggestions: tuple[LiveSuggestion, ...]
