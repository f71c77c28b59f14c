"""Patches as lines to draw: the outlines of all patches of a slide, joined into as few long lines as there can be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.config import PatchConfig
from napari_slidecorr.geometry import YX
from napari_slidecorr.patches import PatchSource, PatchTable, cut_patches
from napari_slidecorr.regions import Region, RegionSet, valid_polygons


def slide_patches(
    slide_id: str, shape: YX, footprint_px: YX, regions: RegionSet, classes: Sequence[str], config: PatchConfig
) -> PatchTable:
    """Cut the patches of one slide as a training would; outlines drawn across themselves are repaired first."""
    parts = (Region(r.class_name, polygon) for r in regions for polygon in valid_polygons(r.polygon))
    return cut_patches([PatchSource(slide_id, shape, footprint_px, RegionSet(tuple(parts)))], classes, config)


def joined(tables: Sequence[PatchTable]) -> PatchTable:
    """Put tables of one slide each, with the same classes and geometry, one below the other."""
    first = tables[0]
    index = [np.full(len(table), number, np.int32) for number, table in enumerate(tables)]
    return PatchTable(
        np.concatenate([table.y for table in tables]),
        np.concatenate([table.x for table in tables]),
        np.concatenate(index),
        np.concatenate([table.label for table in tables]),
        tuple(table.slides[0] for table in tables),
        first.classes,
        tuple(table.footprints[0] for table in tables),
        first.geometry,
    )


def patch_outlines(table: PatchTable) -> tuple[NDArray[np.float64], NDArray[np.int16]]:
    """Give the outlines of the patches of one slide as straight lines.

    Lines of one class that touch or overlap along a row or column become one: a block of n x n patches has 2 (n + 1).

    Parameters
    ----------
    table : PatchTable
        Of one slide.

    Returns
    -------
    lines : ndarray, shape (L, 2, 2), float64
        Both ends, (y, x) in level-0 pixels, corner-based.
    labels : ndarray, shape (L,), int16
        Into the classes of the table.
    """
    height, width = table.footprints[0] if table.footprints else (0, 0)
    rows, row_labels = _runs(table.y, table.x, table.label, height, width)
    columns, column_labels = _runs(table.x, table.y, table.label, width, height)
    lines = np.concatenate([rows, columns[:, :, ::-1]])
    return lines, np.concatenate([row_labels, column_labels])


def _runs(
    across: NDArray[np.int64], along: NDArray[np.int64], label: NDArray[np.int16], thick: int, length: int
) -> tuple[NDArray[np.float64], NDArray[np.int16]]:
    """Join the two sides of each patch that run along one axis, at ``across`` and ``across + thick``."""
    line, start = np.concatenate([across, across + thick]), np.tile(along, 2)
    name = np.tile(label, 2)
    order = np.lexsort((start, line, name))
    line, start, name = line[order], start[order], name[order]
    new = np.ones(len(line), bool)
    new[1:] = (np.diff(name) != 0) | (np.diff(line) != 0) | (np.diff(start) > length)
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(line))[: len(first)] - 1
    ends = [np.stack([line[first], start[first]], 1), np.stack([line[first], start[last] + length], 1)]
    return np.stack(ends, 1).astype(np.float64), name[first]
