"""A model applied to a whole slide: a map of class probabilities, block by block."""

from __future__ import annotations

import copy
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from napari_slidecorr.config import PredictConfig
from napari_slidecorr.errors import MapError, ModelError, SlideError
from napari_slidecorr.events import BlockDone, CellsDone, Event, Notice, Predicted
from napari_slidecorr.geometry import Box, Grid
from napari_slidecorr.learning.centring import offset_of
from napari_slidecorr.learning.loading import Patches
from napari_slidecorr.learning.models import PatchClassifier, choose_device, classify, describe_device
from napari_slidecorr.learning.reading import Reading, ReadPiece, default_readers
from napari_slidecorr.learning.staining import AS_READ, StainStep, make_stain_step
from napari_slidecorr.learning.sweep import (
    AHEAD_BYTES,
    AHEAD_PATCHES,
    CPU_SIZES,
    GPU_SIZES,
    BatchSize,
    Block,
    Cell,
    Sweep,
    every,
)
from napari_slidecorr.levels import PixelSource
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.prediction_map import PredictionMap
from napari_slidecorr.slide import Slide
from napari_slidecorr.tissue import TissueMask, find_tissue
from napari_slidecorr.wanted import Wanted

COARSEST = 1.5
"""How many times coarser than the model's patches a slide may be; finer ones are resampled."""

UNREADABLE_SHARE = 0.1
"""More damaged patches than this share of a slide (and than 32) end the prediction."""

PAINT_S = 0.1
"""Cells of blocks that are not yet whole are told at most so often."""


def prediction_grid(slide: Slide, spec: ModelSpec, config: PredictConfig) -> Grid:
    """Lay the cells of a map over a slide, at the resolution that the model was trained at.

    Raises
    ------
    SlideError
        If the slide can only be viewed, if the model has an mpp and the slide none, or if the slide is more than 1.5 times
        coarser.
    """
    slide.check_brightfield()
    mpp = spec.geometry.mpp
    cell = spec.geometry.footprint_px(slide.mpp, slide.path.name)
    if mpp is not None and slide.mpp is not None and max(slide.mpp) > COARSEST * mpp:
        raise SlideError(
            f"{slide.path.name}: has {max(slide.mpp):g} um/px, and the model was trained at {mpp:g} um/px. Use a slide "
            "scanned at a finer resolution, or train a model at a coarser one."
        )
    height, width = (max(1, round(n * (1 - config.overlap))) for n in cell)
    return Grid.over(slide.shape, cell, (height, width), slide.mpp)


def predict(
    slide: Slide,
    model: PatchClassifier,
    spec: ModelSpec,
    config: PredictConfig,
    *,
    blocks: Sequence[Block] | None = None,
    wanted: Wanted | None = None,
) -> Iterator[Event]:
    """Classify the patches of a slide.

    Parameters
    ----------
    model, spec
        What `models.load_model` gives; the model is moved to the config's device.
    blocks : sequence of (slice, slice), optional
        Only these blocks of the grid, in cells; all of them when left out.
    wanted : Wanted, optional
        What is on the screen, asked before every batch: its cells come first, then the blocks nearest to it, and
        `CellsDone` events tell of cells whose block is not yet whole.

    Returns
    -------
    iterator of Event
        `Notice`, plain events that count patches, a `BlockDone` for every block, glass or not, and at the end
        `Predicted` with the `PredictionMap`. Closing it ends the reading.

    Raises
    ------
    SlideError
        Now, if the model cannot be used on the slide; later, if too much of the slide is damaged.
    ModelError
        Now, if the device is absent or the model has another number of classes than its spec.
    MapError
        Now, if a block lies outside of the grid.

    Notes
    -----
    Without `wanted` and with a fixed batch size the same call gives the same bits. Other batch sizes, and so a size
    found by trial and cells taken in view order, change probabilities by rounding alone, about 1e-6.

    A patch at the slide's edge is moved inwards, so that it shows no background that is not on the slide; see `Grid`.
    """
    grid = prediction_grid(slide, spec, config)
    chosen = list(grid.blocks(config.block_cells) if blocks is None else blocks)
    _check_blocks(chosen, grid)
    if model.head.out_features != len(spec.classes):
        raise ModelError(
            f"The model has {model.head.out_features} outputs for {len(spec.classes)} classes; train it again."
        )
    device = choose_device(config.device)
    # Downwards: the rows read last are those that the next block needs again, and they are still in the cache.
    chosen.sort(key=lambda block: (block[1].start, block[0].start))
    job = _Job(slide, model, spec, config, grid, device, wanted)
    return _predict(job, chosen)


def _check_blocks(blocks: Sequence[Block], grid: Grid) -> None:
    for block in blocks:
        for part, length in zip(block, grid.shape, strict=True):
            if not 0 <= part.start < part.stop <= length or part.step not in (None, 1):
                raise MapError(f"Block {block} does not lie in the map of {grid.shape[0]} x {grid.shape[1]} cells.")


_tissue: WeakKeyDictionary[PixelSource, TissueMask] = WeakKeyDictionary()


@dataclass(frozen=True)
class _Job:
    slide: Slide
    model: PatchClassifier
    spec: ModelSpec
    config: PredictConfig
    grid: Grid
    device: torch.device
    wanted: Wanted | None = None
    stain: StainStep = AS_READ

    def read(self, cell: Cell) -> Patches:
        """Read the patch of a cell as the model sees it."""
        return self.stain(self.slide, self.slide.read(self.grid.patch_box(*cell), self.spec.geometry.size_px))

    @property
    def box(self) -> Box | None:
        """What is looked at now."""
        return self.wanted.box_on(self.slide.id) if self.wanted else None


def _predict(job: _Job, blocks: Sequence[Block]) -> Generator[Event, None, None]:
    yield Notice(phase="Preparing", message=f"Predicting on {describe_device(job.device)}.")
    # The weights are shared, the offset is not: another thread may predict another slide with this model.
    model = copy.copy(job.model)
    job = replace(job, model=model, stain=(yield from make_stain_step([job.slide], job.spec.stain)))
    model.offset = yield from offset_of(job.slide, job.model, job.spec, job.config.device)
    wanted = yield from _find_cells(job, blocks)
    total = sum(int(np.count_nonzero(wanted[block])) for block in blocks)
    if not total and _covers(blocks, job.grid):
        yield Notice(phase="Preparing", message=f"{job.slide.id}: no tissue was found.", warning=True)
    out = PredictionMap.empty(
        job.spec.classes,
        job.grid,
        job.slide.id,
        job.spec.id,
        with_spread=job.config.orientations,
        bounds=job.spec.unsure_below,
    )
    job.model.to(job.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    damage = _Damage(job.slide, int(np.count_nonzero(wanted)))
    yield from _run(job, blocks, wanted, total, out, damage)
    if damage.count:
        yield Notice(phase="Predicting", message=damage.message(), warning=True)
    yield Predicted(phase="Predicted", done=total, total=total, result=out)


def _covers(blocks: Sequence[Block], grid: Grid) -> bool:
    cells: int = sum((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in blocks)
    return cells == grid.shape[0] * grid.shape[1]


def _find_cells(job: _Job, blocks: Sequence[Block]) -> Generator[Event, None, NDArray[np.bool_]]:
    """Tell which cells of the grid are to be predicted, shape (rows, columns)."""
    yield Event(phase="Finding tissue", total=len(blocks))
    wanted = _tissue_of(job.slide).cells(job.grid) if job.config.tissue_only else np.ones(job.grid.shape, bool)
    yield Event(phase="Finding tissue", done=len(blocks), total=len(blocks))
    return wanted


def _tissue_of(slide: Slide) -> TissueMask:
    """Find the tissue of a slide, once as long as it is open: whoever predicts again waits less."""
    if slide.source not in _tissue:
        _tissue[slide.source] = find_tissue(slide)
    return _tissue[slide.source]


class _Damage:
    """Counts patches that cannot be read, and gives up when they are too many of those that the slide has."""

    def __init__(self, slide: Slide, total: int) -> None:
        self.count, self.total, self.slide = 0, total, slide
        self.first: SlideError | None = None

    def add(self, errors: Sequence[SlideError]) -> None:
        self.count += len(errors)
        self.first = self.first or next(iter(errors), None)
        if self.count > max(32, UNREADABLE_SHARE * self.total) or self.count == self.total > 0:
            raise SlideError(self.message()) from self.first

    def message(self) -> str:
        return f"{self.slide.path.name}: {self.count} of {self.total} patches cannot be read (first: {self.first})."


def _run(
    job: _Job, blocks: Sequence[Block], wanted: NDArray[np.bool_], total: int, out: PredictionMap, damage: _Damage
) -> Generator[Event, None, None]:
    done = 0
    fresh: list[Cell] = []
    sweep = Sweep(job.grid, blocks, wanted)
    on_cpu = job.device.type == "cpu"
    batch = BatchSize(job.config.batch_size, CPU_SIZES if on_cpu else GPU_SIZES)
    paints = every(PAINT_S)
    with Reading(job.read, job.spec.geometry.size_px, default_readers(on_cpu=on_cpu)) as reading:
        for found in _in_order(job, sweep, batch, reading):
            piece = found.piece
            damage.add([found.errors[number] for number in sorted(found.errors)])
            start = time.perf_counter()
            yield from _fill(job, found, out, batch)
            batch.record(len(piece.cells), time.perf_counter() - start)
            done += len(piece.cells)
            counts = {"phase": "Predicting", "done": done, "total": total}
            if job.wanted is not None:
                fresh += piece.cells
            if sweep.finish(piece):
                fresh = _outside(fresh, piece.block)
                yield _block_done(piece.block, out, counts)
            elif job.wanted is not None and next(paints):
                yield _cells_done(fresh, out, counts)
                fresh = []
            else:
                yield Event(**counts)  # type: ignore[arg-type]


def _in_order(job: _Job, sweep: Sweep, batch: BatchSize, reading: Reading) -> Iterator[ReadPiece]:
    """Give the pieces with their patches as they are wanted, some read ahead; what nobody wants now is put back."""
    patch_bytes = 3 * job.spec.geometry.size_px**2
    ahead = max(1, min(AHEAD_PATCHES, AHEAD_BYTES // patch_bytes))
    seen: Box | None = None

    def top_up() -> None:
        while reading.pieces < 2 or reading.patches < ahead:
            if (piece := sweep.take(batch.next(watched=sweep.is_watched))) is None:
                return
            reading.add(piece)

    while True:
        if (box := job.box) != seen:
            seen = box
            sweep.put_back(reading.drop())
            sweep.look(box)
        top_up()
        if not reading.pieces:
            return
        taken = reading.take()
        top_up()
        yield taken


def _block_done(block: Block, out: PredictionMap, counts: dict[str, Any]) -> BlockDone:
    rows, columns = block
    spread = None if out.spread is None else out.spread[rows, columns].copy()
    values = out.probabilities[:, rows, columns].copy()
    return BlockDone(**counts, rows=rows, columns=columns, probabilities=values, spread=spread)


def _outside(cells: Sequence[Cell], block: Block) -> list[Cell]:
    rows, columns = block
    return [(y, x) for y, x in cells if not (rows.start <= y < rows.stop and columns.start <= x < columns.stop)]


def _cells_done(cells: Sequence[Cell], out: PredictionMap, counts: dict[str, Any]) -> CellsDone:
    rows, columns = np.asarray(cells).T
    spread = None if out.spread is None else out.spread[rows, columns]
    values = out.probabilities[:, rows, columns]
    return CellsDone(**counts, rows=rows, columns=columns, probabilities=values, spread=spread, slide_id=out.slide_id)


def _fill(job: _Job, found: ReadPiece, out: PredictionMap, batch: BatchSize) -> Generator[Notice, None, None]:
    """Classify the patches that could be read and write them to their cells; the others stay NaN."""
    cells, patches = np.asarray(found.piece.cells), found.patches
    if found.errors:
        good = np.delete(np.arange(len(cells)), list(found.errors))
        cells, patches = cells[good], patches[good]
    start = 0
    while start < len(cells):
        count = min(batch.limit, len(cells) - start)
        try:
            values, spread = _classify(job, patches[start : start + count])
        except ModelError as error:
            if count == 1 or not isinstance(error.__cause__, torch.cuda.OutOfMemoryError):
                raise
            batch.halve(count)
            yield Notice(
                phase="Predicting",
                message=f"{count} patches at once do not fit into the GPU's memory; going on with {batch.limit}.",
            )
            continue
        rows, columns = cells[start : start + count].T
        out.probabilities[:, rows, columns] = values.T
        if out.spread is not None:
            out.spread[rows, columns] = spread
        start += count


def _classify(job: _Job, patches: Patches) -> tuple[NDArray[np.float32], NDArray[np.float32] | float]:
    """Give probabilities, shape (N, K), and over eight orientations the spread of the best class's, shape (N,)."""
    if not job.config.orientations:
        return classify(job.model, patches), np.nan
    turned = [np.rot90(patches, k, axes=(1, 2)) for k in range(4)]
    each = np.stack([classify(job.model, view) for one in turned for view in (one, one[:, :, ::-1])])
    mean = each.mean(axis=0)
    best = mean.argmax(axis=1)
    return mean, each.std(axis=0)[np.arange(len(mean)), best]
