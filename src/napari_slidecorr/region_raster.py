"""All regions of a slide as one small picture: which class lies where, and where its outlines run.

Drawn by scan lines over all outlines at once, so that ten thousand take a fraction of a second: a cell belongs to a
region when its *centre* does, holes left out. What is smaller than a cell keeps one cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import shapely
from numpy.typing import NDArray

from napari_slidecorr.geometry import YX
from napari_slidecorr.regions import Region

MOST_CELLS = 4096
"""Longest side of the picture: twice what a screen shows, and quickly brought to the graphics card."""

MOST_CODES = 127
"""Two values each, fill and outline, must fit into a byte beside 0; the classes beyond share the last code."""

_CHUNK_CELLS = 2_000_000

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Cells = tuple[int, int, int, int]


@dataclass(frozen=True)
class RasterFrame:
    """Which level-0 pixels the cells stand for: cell (i, j) covers ``stride_px`` pixels a side from (i, j) * stride_px.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns of cells.
    stride_px : int
    """

    shape: YX
    stride_px: int

    @classmethod
    def of_slide(cls, shape: YX, most: int = MOST_CELLS) -> RasterFrame:
        """Give the finest frame of a slide that has at most ``most`` cells a side."""
        stride = max(1, -(-max(shape) // most))
        return cls((-(-shape[0] // stride), -(-shape[1] // stride)), stride)

    def cells_of(self, box: tuple[float, float, float, float]) -> Cells:
        """Give the cells (r0, c0, r1, c1) that a box (y0, x0, y1, x1) in level-0 pixels touches, one more all round."""
        low = np.floor(np.asarray(box[:2]) / self.stride_px) - 1
        high = np.ceil(np.asarray(box[2:]) / self.stride_px) + 1
        r0, c0 = (int(n) for n in np.clip(low, 0, self.shape))
        r1, c1 = (int(n) for n in np.clip(high, 0, self.shape))
        return r0, c0, r1, c1


def fill_value(code: int) -> int:
    """The value of cells inside a class; that of its outline is one more."""
    return 1 + 2 * code


def codes_of(classes: Sequence[str]) -> dict[str, int]:
    """Number classes for `paint_regions`."""
    return {name: min(index, MOST_CODES - 1) for index, name in enumerate(dict.fromkeys(classes))}


def paint_regions(
    regions: Sequence[Region], codes: Mapping[str, int], frame: RasterFrame, window: Cells | None = None
) -> NDArray[np.uint8]:
    """Paint regions, the later over the earlier.

    Parameters
    ----------
    codes : mapping of class name to int, 0 to 126
    window : (r0, c0, r1, c1), optional
        The cells that are wanted; the whole frame if None.

    Returns
    -------
    ndarray, shape (r1 - r0, c1 - c0), uint8
        0 where no region is, else `fill_value` of its class, or that plus one on its outline.
    """
    if window is None:
        return _painted(regions, codes, frame, (0, 0, *frame.shape))
    r0, c0, r1, c1 = window
    wide = max(0, r0 - 1), max(0, c0 - 1), min(frame.shape[0], r1 + 1), min(frame.shape[1], c1 + 1)
    picture = _painted(regions, codes, frame, wide)  # at its very edge an outline cannot be told from a cut
    return picture[r0 - wide[0] : r1 - wide[0], c0 - wide[1] : c1 - wide[1]]


def _painted(
    regions: Sequence[Region], codes: Mapping[str, int], frame: RasterFrame, window: Cells
) -> NDArray[np.uint8]:
    r0, c0, r1, c1 = window
    canvas = np.zeros((max(0, r1 - r0), max(0, c1 - c0)), np.uint8)
    if not regions or not canvas.size:
        return canvas
    polygons = np.asarray([region.polygon for region in regions], object)
    values = np.asarray([fill_value(codes[region.class_name]) for region in regions], np.uint8)
    edges = _edges_of(polygons, frame.stride_px, (r0, c0))
    spans = _spans(edges, canvas.shape)
    _fill(canvas, spans, values)
    _outline(canvas, spans, values)
    turned = _spans(edges.turned(), canvas.shape[::-1])
    _outline(canvas.T, turned, values)
    _dots(canvas, polygons, values, frame.stride_px, (r0, c0))
    return canvas


@dataclass(frozen=True, eq=False)
class _Edges:
    """Sides of all rings, E of them, in cells; the centre of cell (i, j) lies at (i, j)."""

    owner: Ints
    start: Floats
    stop: Floats

    def turned(self) -> _Edges:
        return _Edges(self.owner, self.start[:, ::-1], self.stop[:, ::-1])


@dataclass(frozen=True, eq=False)
class _Spans:
    """Runs of cells inside a polygon, ordered by polygon and row: columns from ``start`` to before ``stop``."""

    owner: Ints
    row: Ints
    start: Ints
    stop: Ints


def _edges_of(polygons: NDArray[np.object_], stride_px: int, origin: YX) -> _Edges:
    rings, owner_of_ring = shapely.get_rings(polygons, return_index=True)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    points = points / stride_px - 0.5 - np.asarray(origin)
    same = ring[1:] == ring[:-1]
    return _Edges(owner_of_ring[ring[1:][same]], points[:-1][same], points[1:][same])


def _spans(edges: _Edges, shape: tuple[int, ...]) -> _Spans:
    """Cut the sides with the rows' centre lines; between the first cut and the second lies the inside, and so on."""
    low, high = (
        np.clip(np.ceil(reach(edges.start[:, 0], edges.stop[:, 0])), 0, shape[0]).astype(np.int64)
        for reach in (np.minimum, np.maximum)
    )
    crossing = np.flatnonzero(high > low)
    side, step = _expanded(high[crossing] - low[crossing])
    side = crossing[side]
    row = low[side] + step
    (y0, x0), (y1, x1) = edges.start[side].T, edges.stop[side].T
    column = x0 + (row - y0) * (x1 - x0) / (y1 - y0)
    order = np.lexsort((column, edges.owner[side] * shape[0] + row))
    owner, row, cut = edges.owner[side][order], row[order], np.ceil(column[order])
    at = np.clip(cut, 0, shape[1]).astype(np.int64)
    keep = at[1::2] > at[::2]
    return _Spans(owner[::2][keep], row[::2][keep], at[::2][keep], at[1::2][keep])


def _expanded(counts: Ints) -> tuple[Ints, Ints]:
    """For each of ``counts[i]`` repeats give i and the number of the repeat."""
    index = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    return index, np.arange(len(index)) - first[index]


def _fill(canvas: NDArray[np.uint8], spans: _Spans, values: NDArray[np.uint8]) -> None:
    """Fill in the order of the polygons; in pieces, since each cell takes some bytes while it waits."""
    length = spans.stop - spans.start
    piece = np.cumsum(length) // _CHUNK_CELLS
    bounds = [0, *(np.flatnonzero(np.diff(piece)) + 1), len(length)]
    for begin, end in pairwise(bounds):
        index, step = _expanded(length[begin:end])
        index = index + begin
        canvas[spans.row[index], spans.start[index] + step] = values[spans.owner[index]]


def _outline(canvas: NDArray[np.uint8], spans: _Spans, values: NDArray[np.uint8]) -> None:
    """Mark both ends of each run, but where the window cuts it."""
    limit = canvas.shape[1]
    for inside, end in ((spans.start > 0, spans.start), (spans.stop < limit, spans.stop - 1)):
        canvas[spans.row[inside], end[inside]] = values[spans.owner[inside]] + 1


def _dots(
    canvas: NDArray[np.uint8], polygons: NDArray[np.object_], values: NDArray[np.uint8], stride_px: int, origin: YX
) -> None:
    """Give regions smaller than a cell the cell that their middle lies in."""
    y0, x0, y1, x1 = shapely.bounds(polygons).T
    small = (y1 - y0 < stride_px) | (x1 - x0 < stride_px)
    row, column = (((low + high)[small] / 2 // stride_px).astype(np.int64) for low, high in ((y0, y1), (x0, x1)))
    row, column = row - origin[0], column - origin[1]
    seen = (row >= 0) & (column >= 0) & (row < canvas.shape[0]) & (column < canvas.shape[1])
    empty = seen.copy()
    empty[seen] = canvas[row[seen], column[seen]] == 0
    canvas[row[empty], column[empty]] = values[small][empty] + 1
