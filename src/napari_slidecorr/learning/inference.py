"""A model applied to a whole slide: a map of class probabilities, block by block."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import tee

import numpy as np
import torch
from numpy.typing import NDArray

from napari_slidecorr.config import PredictConfig
from napari_slidecorr.errors import MapError, ModelError, SlideError
from napari_slidecorr.events import BlockDone, Event, Notice, Predicted
from napari_slidecorr.geometry import Box, Grid
from napari_slidecorr.learning.loading import Patches, read_ahead, stack
from napari_slidecorr.learning.models import PatchClassifier, choose_device, classify, describe_device
from napari_slidecorr.learning.staining import AS_READ, StainStep, make_stain_step
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.prediction_map import PredictionMap
from napari_slidecorr.slide import Slide
from napari_slidecorr.tissue import find_tissue

COARSEST = 1.5
"""How many times coarser than the model's patches a slide may be; finer ones are resampled."""

UNREADABLE_SHARE = 0.1
"""More damaged patches than this share of a slide (and than 32) end the prediction."""

Block = tuple[slice, slice]
Cell = tuple[int, int]


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
    first_box: Box | None = None,
) -> Iterator[Event]:
    """Classify the patches of a slide.

    Parameters
    ----------
    model, spec
        What `models.load_model` gives; the model is moved to the config's device.
    blocks : sequence of (slice, slice), optional
        Only these blocks of the grid, in cells; all of them when left out.
    first_box : Box, optional
        Level-0 pixels, for example what is on the screen; the blocks nearest to its centre come first.

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
    """
    grid = prediction_grid(slide, spec, config)
    chosen = list(grid.blocks(config.block_cells) if blocks is None else blocks)
    _check_blocks(chosen, grid)
    if model.head.out_features != len(spec.classes):
        raise ModelError(f"The model has {model.head.out_features} outputs, and its spec {len(spec.classes)} classes.")
    device = choose_device(config.device)
    if first_box is None:
        # Downwards: the rows read last are those that the next block needs again, and they are still in the cache.
        chosen.sort(key=lambda block: (block[1].start, block[0].start))
    else:
        chosen.sort(key=lambda block: _distance(grid, block, first_box))
    job = _Job(slide, model, spec, config, grid, device)
    return _predict(job, chosen)


def _check_blocks(blocks: Sequence[Block], grid: Grid) -> None:
    for block in blocks:
        for part, length in zip(block, grid.shape, strict=True):
            if not 0 <= part.start < part.stop <= length or part.step not in (None, 1):
                raise MapError(f"Block {block} does not lie in the map of {grid.shape[0]} x {grid.shape[1]} cells.")


def _distance(grid: Grid, block: Block, box: Box) -> float:
    """Squared level-0 pixels between the centres of a block and a box."""
    rows, columns = block
    upper, lower = grid.patch_box(rows.start, columns.start), grid.patch_box(rows.stop - 1, columns.stop - 1)
    y = (upper.y0 + lower.y1) - (box.y0 + box.y1)
    x = (upper.x0 + lower.x1) - (box.x0 + box.x1)
    return (y / 2) ** 2 + (x / 2) ** 2


@dataclass(frozen=True)
class _Job:
    slide: Slide
    model: PatchClassifier
    spec: ModelSpec
    config: PredictConfig
    grid: Grid
    device: torch.device
    stain: StainStep = AS_READ


@dataclass(frozen=True)
class _Piece:
    """A batch of cells of one block, and whether it is the block's last."""

    block: Block
    cells: list[Cell]
    last: bool


def _predict(job: _Job, blocks: Sequence[Block]) -> Generator[Event, None, None]:
    yield Notice(phase="Preparing", message=f"Predicting on {describe_device(job.device)}.")
    job = replace(job, stain=(yield from make_stain_step([job.slide], job.spec.stain)))
    wanted = yield from _find_cells(job, blocks)
    total = sum(int(np.count_nonzero(wanted[block])) for block in blocks)
    if not total and _covers(blocks, job.grid):
        yield Notice(phase="Preparing", message=f"{job.slide.id}: no tissue was found.", warning=True)
    out = PredictionMap.empty(job.spec.classes, job.grid, job.slide.id, job.spec.id)
    job.model.to(job.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    damage = _Damage(job.slide, total)
    yield from _run(job, blocks, wanted, out, damage)
    if damage.count:
        yield Notice(phase="Predicting", message=damage.message(), warning=True)
    yield Predicted(phase="Predicted", done=total, total=total, result=out)


def _covers(blocks: Sequence[Block], grid: Grid) -> bool:
    cells: int = sum((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in blocks)
    return cells == grid.shape[0] * grid.shape[1]


def _find_cells(job: _Job, blocks: Sequence[Block]) -> Generator[Event, None, NDArray[np.bool_]]:
    """Tell which cells of the grid are to be predicted, shape (rows, columns)."""
    yield Event(phase="Finding tissue", total=len(blocks))
    wanted = find_tissue(job.slide).cells(job.grid) if job.config.tissue_only else np.ones(job.grid.shape, bool)
    yield Event(phase="Finding tissue", done=len(blocks), total=len(blocks))
    return wanted


def _pieces(blocks: Sequence[Block], wanted: NDArray[np.bool_], size: int) -> Iterator[_Piece]:
    """Cut blocks into batches of cells, row by row: a map of millions of cells never lists them all."""
    for block in blocks:
        cells = np.argwhere(wanted[block]) + [part.start for part in block]
        starts = range(0, max(1, len(cells)), size)
        for start in starts:
            piece = [(int(row), int(column)) for row, column in cells[start : start + size]]
            yield _Piece(block, piece, last=start == starts[-1])


class _Damage:
    """Counts patches that cannot be read, and gives up when they are too many."""

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
    job: _Job, blocks: Sequence[Block], wanted: NDArray[np.bool_], out: PredictionMap, damage: _Damage
) -> Generator[Event, None, None]:
    done = 0
    pieces, ahead = tee(_pieces(blocks, wanted, job.config.batch_size))

    def read(cell: Cell) -> Patches | SlideError:
        try:
            return job.stain(job.slide, job.slide.read(job.grid.patch_box(*cell), job.spec.geometry.size_px))
        except SlideError as error:
            return error

    with closing(read_ahead((piece.cells for piece in ahead), read)) as reader:
        for piece, found in zip(pieces, reader, strict=True):
            damage.add([patch for patch in found if isinstance(patch, SlideError)])
            _fill(job, piece, found, out.probabilities)
            done += len(piece.cells)
            counts = {"phase": "Predicting", "done": done, "total": damage.total}
            if piece.last:
                rows, columns = piece.block
                block = out.probabilities[:, rows, columns].copy()
                yield BlockDone(**counts, rows=rows, columns=columns, probabilities=block)  # type: ignore[arg-type]
            else:
                yield Event(**counts)  # type: ignore[arg-type]


def _fill(job: _Job, piece: _Piece, found: Sequence[Patches | SlideError], probabilities: NDArray[np.float32]) -> None:
    """Classify the patches that could be read and write them to their cells; the others stay NaN."""
    pairs = [(cell, patch) for cell, patch in zip(piece.cells, found, strict=True) if not isinstance(patch, SlideError)]
    if not pairs:
        return
    rows, columns = np.asarray([cell for cell, _ in pairs]).T
    patches = stack([patch for _, patch in pairs], job.spec.geometry.size_px)
    probabilities[:, rows, columns] = classify(job.model, patches).T
