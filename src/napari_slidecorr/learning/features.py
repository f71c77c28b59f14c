"""Features of a frozen backbone for the patches of slides: computed once, kept, and read by all that need them.

`extract` fills the cells of a grid, what is in view first; `table_features` gives those of the patches of a table. Both
read what is kept (`feature_store`) and compute only the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.errors import ModelError, SlideError
from napari_slidecorr.events import Event, Notice
from napari_slidecorr.geometry import Box, Grid
from napari_slidecorr.learning.extractor import Extractor
from napari_slidecorr.learning.feature_store import FeatureCache, FeatureEntry, FeatureKey, Features
from napari_slidecorr.learning.loading import Patches, read_ahead, stack
from napari_slidecorr.learning.staining import make_stain_step
from napari_slidecorr.patches import PatchTable
from napari_slidecorr.slide import Slide

BATCH = 32
CHUNK = 256
"""Patches that are put on the disk at once: what is lost at most when the work is killed."""

UNREADABLE_SHARE = 0.1
"""More damaged patches than this share of those asked for (and than 32) end the work."""

Cells = NDArray[np.int32]
View = Callable[[], Box | None]


@dataclass(frozen=True, eq=False)
class SlideFeatures:
    """Features of some cells of a grid over a slide.

    Attributes
    ----------
    slide_id : str
    features : ndarray, shape (N, D), float16
    cells : ndarray, shape (N, 2), int32
        Row and column of each.
    grid : Grid
    key : FeatureKey
    """

    slide_id: str
    features: Features
    cells: Cells
    grid: Grid
    key: FeatureKey

    def rows(self, cells: NDArray[np.integer]) -> NDArray[np.int64]:
        """Say where cells, shape (M, 2), lie in `features`; -1 for those that are not there."""
        place = np.full(self.grid.shape, -1, np.int64)
        place[tuple(self.cells.T)] = np.arange(len(self.cells))
        wanted = np.asarray(cells).reshape(-1, 2)
        return np.asarray(place[wanted[:, 0], wanted[:, 1]])


@dataclass(frozen=True, kw_only=True)
class FeaturesAdded(Event):
    """Features of a few more cells, kept already or just computed; see `SlideFeatures`.

    Attributes
    ----------
    slide_id : str
    cells : ndarray, shape (n, 2), int32
    features : ndarray, shape (n, D), float16
    """

    slide_id: str
    cells: Cells
    features: Features


@dataclass(frozen=True, kw_only=True)
class FeaturesDone(Event):
    """The end; ``result`` holds the features of all cells that could be read."""

    result: SlideFeatures


@dataclass(frozen=True, kw_only=True)
class TableFeaturesDone(Event):
    """The end; ``result`` is the features of all rows of a table, shape (P, D), float16."""

    result: Features


def extract(
    slide: Slide,
    extractor: Extractor,
    grid: Grid,
    *,
    cache: FeatureCache,
    wanted: NDArray[np.bool_] | None = None,
    view: View | None = None,
    batch_size: int = BATCH,
) -> Iterator[Event]:
    """Give the features of a grid's cells: those that are kept at once, the others as they are computed.

    Parameters
    ----------
    grid : Grid
        `slide_grid`, for example.
    cache : FeatureCache
        Read first; what is computed is added in chunks, so that a later call goes on where this one was stopped.
    wanted : ndarray, shape of the grid, bool, optional
        Which cells, for example those with tissue (``find_tissue(slide).cells(grid)``); all when left out.
    view : callable, optional
        Gives the level-0 box that is on the screen, or None; asked before each batch, whose cells are the nearest to its
        centre.
    batch_size : int
        Patches a forward pass.

    Returns
    -------
    iterator of Event
        One `FeaturesAdded` for all that is kept, one for each batch, a `Notice` if something could not be read or
        kept, and at the end `FeaturesDone`. Closing it keeps what was computed.

    Raises
    ------
    SlideError
        Now, if the slide cannot be read; later, if too much of it is damaged.
    ModelError
        Later, if a feature is not a finite number; names the slide and the cell.
    """
    entry = cache.entry(extractor.key(slide))
    cells = np.argwhere(np.ones(grid.shape, bool) if wanted is None else wanted).astype(np.int32)
    return _extract(_Work(slide, extractor, entry, batch_size), grid, cells, view)


def table_features(
    table: PatchTable,
    slides: Mapping[str, Slide],
    extractor: Extractor,
    *,
    cache: FeatureCache,
    batch_size: int = BATCH,
) -> Iterator[Event]:
    """Give the features of the patches of a table, wherever they were cut; kept like those of cells.

    Returns
    -------
    iterator of Event
        Ends with `TableFeaturesDone`.

    Raises
    ------
    SlideError
        Later, if a slide cannot be read, or one of these patches is damaged.
    ModelError
        Later, if a feature is not a finite number.
    """
    return _table_features(table, slides, extractor, cache, batch_size)


@dataclass(frozen=True)
class _Work:
    slide: Slide
    extractor: Extractor
    entry: FeatureEntry
    batch_size: int


def _extract(work: _Work, grid: Grid, cells: Cells, view: View | None) -> Generator[Event, None, None]:
    phase = f"Features of {work.slide.id}"
    work.entry.refresh()
    rows = work.entry.rows(_corners(grid, cells))
    kept, missing = cells[rows >= 0], cells[rows < 0]
    done = len(kept)
    counts = {"phase": phase, "total": len(cells), "slide_id": work.slide.id}
    found = work.entry.features[rows[rows >= 0]]
    yield FeaturesAdded(**counts, done=done, cells=kept, features=found)  # type: ignore[arg-type]
    if len(missing):
        ahead = _by_view(grid, missing, view, work.batch_size)
        boxes = (([(tuple(cell), grid.patch_box(*cell)) for cell in batch.tolist()]) for batch in ahead)
        with closing(_computed(work, boxes, len(cells))) as batches:
            for event in batches:
                if isinstance(event, _Batch):
                    done += len(event.names)
                    new = np.asarray(event.names, np.int32).reshape(-1, 2)
                    yield FeaturesAdded(**counts, done=done, cells=new, features=event.features)  # type: ignore[arg-type]
                else:
                    yield event
    rows = work.entry.rows(_corners(grid, cells))
    there = rows >= 0
    result = SlideFeatures(work.slide.id, work.entry.features[rows[there]], cells[there], grid, work.entry.key)
    yield FeaturesDone(phase=phase, done=len(cells), total=len(cells), result=result)


def _corners(grid: Grid, cells: NDArray[np.integer]) -> NDArray[np.int64]:
    """Upper left corners of the patches of cells, shape (N, 2), level-0 pixels."""
    y, x = (np.asarray(grid.patch_starts_px(axis), np.int64) for axis in (0, 1))
    return np.stack([y[cells[:, 0]], x[cells[:, 1]]], axis=1)


def _by_view(grid: Grid, cells: Cells, view: View | None, size: int) -> Iterator[Cells]:
    """Batches of cells: the nearest to the middle of what is in view now, else row by row."""
    left = cells
    centre = _corners(grid, cells) + np.asarray(grid.cell_px) / 2
    while len(left):
        box = view() if view is not None else None
        if box is None or len(left) <= size:
            chosen = np.arange(min(size, len(left)))
        else:
            middle = (box.y0 + box.y1) / 2, (box.x0 + box.x1) / 2
            chosen = np.argpartition(np.abs(centre - middle).max(axis=1), size - 1)[:size]
        batch = left[chosen]
        left, centre = np.delete(left, chosen, axis=0), np.delete(centre, chosen, axis=0)
        yield batch


@dataclass(frozen=True, kw_only=True)
class _Batch(Event):
    names: list[tuple[int, int]]
    features: Features


_Named = tuple[tuple[int, int], Box]


def _computed(work: _Work, batches: Iterator[list[_Named]], total: int) -> Generator[Event, None, None]:
    """Read, compute and keep patches, of ``total`` asked for; what was computed is kept also when this is closed."""
    stain = yield from make_stain_step([work.slide], work.extractor.stain)
    damaged: list[SlideError] = []
    pending: list[tuple[Box, NDArray[np.float16]]] = []
    warned = False

    def read(named: _Named) -> tuple[_Named, Patches | SlideError]:
        try:
            return named, stain(work.slide, work.slide.read(named[1], work.extractor.geometry.size_px))
        except SlideError as error:
            return named, error

    try:
        with closing(read_ahead(batches, read)) as reader:
            for found in reader:
                good = [(named, patch) for named, patch in found if not isinstance(patch, SlideError)]
                damaged += [patch for _, patch in found if isinstance(patch, SlideError)]
                _check_damage(work.slide, damaged, total)
                features = work.extractor.features(stack([patch for _, patch in good], work.extractor.geometry.size_px))
                _check_finite(work.slide, [named for named, _ in good], features)
                pending += [(named[1], row) for (named, _), row in zip(good, features, strict=True)]
                if len(pending) >= CHUNK:
                    _keep(work.entry, pending)
                if work.entry.trouble and not warned:
                    warned = True
                    yield Notice(phase="Keeping features", message=work.entry.trouble, warning=True)
                yield _Batch(phase="", names=[named[0] for named, _ in good], features=features)
    finally:
        _keep(work.entry, pending)
    if work.entry.trouble and not warned:
        yield Notice(phase="Keeping features", message=work.entry.trouble, warning=True)
    if damaged:
        message = f"{work.slide.path.name}: {len(damaged)} of {total} patches cannot be read (first: {damaged[0]}) Copy the slide again."
        yield Notice(phase="Features", message=message, warning=True)


def _keep(entry: FeatureEntry, pending: list[tuple[Box, NDArray[np.float16]]]) -> None:
    if pending:
        corners = np.asarray([(box.y0, box.x0) for box, _ in pending], np.int64)
        entry.add(corners, np.stack([row for _, row in pending]))
        pending.clear()


def _check_damage(slide: Slide, damaged: Sequence[SlideError], total: int) -> None:
    if len(damaged) > max(32, UNREADABLE_SHARE * total) or len(damaged) == total:
        raise SlideError(
            f"{slide.path.name}: {len(damaged)} of {total} patches cannot be read (first: {damaged[0]}) Copy the slide again."
        ) from damaged[0]


def _check_finite(slide: Slide, named: Sequence[_Named], features: Features) -> None:
    """Refuse what is no number: it would silently spoil every head that sees it."""
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        cell, box = named[int(bad[0])]
        raise ModelError(
            f"{slide.id}: the backbone gives features that are no finite numbers for patch {cell} at level-0 pixel "
            f"({box.y0}, {box.x0}). Choose other weights or another backbone."
        )


def _table_features(
    table: PatchTable, slides: Mapping[str, Slide], extractor: Extractor, cache: FeatureCache, batch_size: int
) -> Generator[Event, None, None]:
    out = np.zeros((len(table), extractor.dim), np.float16)
    done = 0
    for index, slide_id in enumerate(table.slides):
        rows = np.flatnonzero(table.slide_index == index)
        work = _Work(slides[slide_id], extractor, cache.entry(extractor.key(slides[slide_id])), batch_size)
        corners = np.stack([table.y[rows], table.x[rows]], axis=1)
        work.entry.refresh()
        missing = rows[work.entry.rows(corners) < 0]
        boxes = (
            [
                ((int(table.y[row]), int(table.x[row])), table.box(int(row)))
                for row in missing[start : start + batch_size]
            ]
            for start in range(0, len(missing), batch_size)
        )
        with closing(_computed(work, boxes, len(rows))) as batches:
            for event in batches if len(missing) else ():
                if isinstance(event, _Batch):
                    done += len(event.names)
                    yield Event(phase=f"Features of {slide_id}", done=done, total=len(table))
                else:
                    yield event
        found = work.entry.rows(corners)
        if (found < 0).any():
            row = int(rows[np.flatnonzero(found < 0)[0]])
            raise SlideError(f"{slide_id}: the patch at {table.box(row)} cannot be read; take its region out.")
        out[rows] = work.entry.features[found]
        done += len(rows) - len(missing)
        yield Event(phase=f"Features of {slide_id}", done=done, total=len(table))
    yield TableFeaturesDone(phase="Features", done=len(table), total=len(table), result=out)
