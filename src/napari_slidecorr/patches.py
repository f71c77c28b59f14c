"""From regions to the table of patches: where each is, on which slide, with which label. No pixel is read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import shapely
from numpy.typing import NDArray

from napari_slidecorr.config import PatchConfig
from napari_slidecorr.errors import CohortError
from napari_slidecorr.geometry import YX, Box, PatchGeometry
from napari_slidecorr.regions import IGNORE, RegionSet


@dataclass(frozen=True)
class PatchSource:
    """A slide as patches are cut from it: its shape, footprint of a patch and regions; no pixels.

    Attributes
    ----------
    slide_id : str
    shape : (int, int)
        Rows and columns of level 0.
    footprint_px : (int, int)
        Level-0 pixels that one patch covers (`PatchGeometry.footprint_px`).
    regions : RegionSet
    """

    slide_id: str
    shape: YX
    footprint_px: YX
    regions: RegionSet


@dataclass(frozen=True, eq=False)
class PatchTable:
    """All patches of a training, P rows.

    Attributes
    ----------
    y, x : ndarray, shape (P,), int64
        Upper left corners in level-0 pixels.
    slide_index : ndarray, shape (P,), int32
        Into `slides`.
    label : ndarray, shape (P,), int16
        Into `classes`.
    slides, classes : tuple of str
    footprints : tuple of (int, int)
        Level-0 pixels a patch covers, for each slide.
    geometry : PatchGeometry
    """

    y: NDArray[np.int64]
    x: NDArray[np.int64]
    slide_index: NDArray[np.int32]
    label: NDArray[np.int16]
    slides: tuple[str, ...]
    classes: tuple[str, ...]
    footprints: tuple[YX, ...]
    geometry: PatchGeometry

    def __len__(self) -> int:
        return len(self.y)

    def counts(self) -> NDArray[np.int64]:
        """Patches of each slide and class, shape (slides, classes)."""
        out = np.zeros((len(self.slides), len(self.classes)), np.int64)
        np.add.at(out, (self.slide_index, self.label), 1)
        return out

    def box(self, row: int) -> Box:
        """The level-0 box of one patch."""
        height, width = self.footprints[self.slide_index[row]]
        y, x = int(self.y[row]), int(self.x[row])
        return Box(y, x, y + height, x + width)

    def of_rows(self, keep: NDArray[np.bool_]) -> PatchTable:
        """Give some rows; the slides stay, with or without patches."""
        return replace(
            self,
            y=self.y[keep],
            x=self.x[keep],
            slide_index=self.slide_index[keep],
            label=self.label[keep],
        )

    def of_slides(self, slides: Sequence[str]) -> PatchTable:
        """Give the rows of some slides; `slides` and `slide_index` are those of the new table."""
        index = {slide: self.slides.index(slide) for slide in slides}
        new_index = np.full(len(self.slides), -1, np.int32)
        new_index[list(index.values())] = np.arange(len(index))
        keep = new_index[self.slide_index] >= 0
        return PatchTable(
            self.y[keep],
            self.x[keep],
            new_index[self.slide_index[keep]],
            self.label[keep],
            tuple(slides),
            self.classes,
            tuple(self.footprints[i] for i in index.values()),
            self.geometry,
        )


def leaky_split(table: PatchTable, *, fraction: float, seed: int) -> tuple[PatchTable, PatchTable]:
    """Divide the *patches* of every slide at random: the careless split, only ever to be compared with.

    Both sides have patches of the same slides, so a network that knows the slides scores well on the second; how much
    better than on slides that it has not seen is the leakage gap. Nothing trained this way says how it does on the next
    slide.

    Parameters
    ----------
    fraction : float in (0, 1)
        Share of the patches of each slide and class that goes to the second table; at least one stays in the first.
    seed : int
        Decides which.

    Returns
    -------
    (PatchTable, PatchTable)
        With the slides of the table; no patch is in both.
    """
    rng = np.random.default_rng([seed, 0x1EAC])
    second = np.zeros(len(table), bool)
    for slide in range(len(table.slides)):
        for label in range(len(table.classes)):
            rows = np.flatnonzero((table.slide_index == slide) & (table.label == label))
            count = min(round(fraction * len(rows)), len(rows) - 1)
            second[rng.permutation(rows)[: max(0, count)]] = True
    return table.of_rows(~second), table.of_rows(second)


def cut_patches(sources: Sequence[PatchSource], classes: Sequence[str], config: PatchConfig) -> PatchTable:
    """Cut the regions of many slides into patches.

    Each slide has one grid from its upper left corner. A place becomes a patch of the class that covers most of it, if
    that is at least ``config.min_coverage`` and it lies whole on the slide; regions of class ``ignore`` are taken out.

    Parameters
    ----------
    classes : sequence of str
        Gives the labels their order; regions of other classes, and unclassed ones, are left out.

    Returns
    -------
    PatchTable
        Possibly with slides that have no patch; see `check_trainable`.
    """
    parts = [_cut_slide(source, classes, config) for source in sources]
    slide_index = [np.full(len(y), i, np.int32) for i, (y, _, _) in enumerate(parts)]
    columns = (
        [np.concatenate([np.zeros(0), *column]) for column in zip(*parts, strict=True)] if parts else [np.zeros(0)] * 3
    )
    return PatchTable(
        columns[0].astype(np.int64),
        columns[1].astype(np.int64),
        np.concatenate([np.zeros(0, np.int32), *slide_index]),
        columns[2].astype(np.int16),
        tuple(source.slide_id for source in sources),
        tuple(classes),
        tuple(source.footprint_px for source in sources),
        config.geometry,
    )


def _cut_slide(
    source: PatchSource, classes: Sequence[str], config: PatchConfig
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    stride = tuple(max(1, round(n * (1 - config.overlap))) for n in source.footprint_px)
    used = [name for name in classes if source.regions.of_class(name)]
    if not used:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)
    y, x = _places(source, used, (stride[0], stride[1]))
    height, width = source.footprint_px
    boxes = shapely.box(y, x, y + height, x + width)
    coverage = np.stack([covered_px(boxes, area_of(source.regions, name)) for name in used])
    best = coverage.argmax(axis=0)
    keep = coverage.max(axis=0) >= config.min_coverage * height * width - 1e-6
    label = np.asarray([classes.index(name) for name in used], np.int64)[best]
    return y[keep], x[keep], label[keep]


def _places(source: PatchSource, used: Sequence[str], stride: YX) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Corners on the slide's grid whose patch meets the bounds of some region, each once, row by row."""
    height, width = source.footprint_px
    rows = max(0, (source.shape[0] - height) // stride[0] + 1)
    columns = max(0, (source.shape[1] - width) // stride[1] + 1)
    keys = [np.zeros(0, np.int64)]
    for name in used:
        for region in source.regions.of_class(name):
            y0, x0, y1, x1 = region.polygon.bounds
            r = np.arange(max(0, int((y0 - height) // stride[0])), min(rows, int(y1 // stride[0]) + 1))
            c = np.arange(max(0, int((x0 - width) // stride[1])), min(columns, int(x1 // stride[1]) + 1))
            keys.append((r[:, None] * columns + c).ravel())
    unique = np.unique(np.concatenate(keys)).astype(np.int64)
    row, column = np.divmod(unique, max(columns, 1))
    return row * stride[0], column * stride[1]


def area_of(regions: RegionSet, name: str) -> shapely.Geometry:
    """Where a slide is labelled as a class: the union of its regions, without what ``ignore`` covers."""
    area = shapely.union_all([region.polygon for region in regions.of_class(name)])
    ignored = regions.of_class(IGNORE)
    return area.difference(shapely.union_all([region.polygon for region in ignored])) if ignored else area


def covered_px(boxes: NDArray[np.object_], area: shapely.Geometry) -> NDArray[np.float64]:
    """Square pixels of each box that lie in an area, shape (N,)."""
    shapely.prepare(area)
    covered = np.zeros(len(boxes))
    whole = shapely.contains_properly(area, boxes)
    covered[whole] = shapely.area(boxes[whole])
    part = ~whole & shapely.intersects(area, boxes)
    covered[part] = shapely.area(shapely.intersection(boxes[part], area))
    return covered


def check_trainable(table: PatchTable, regions: Mapping[str, RegionSet]) -> None:
    """Make sure that a table has what a training needs.

    Raises
    ------
    CohortError
        Without regions, without patches, or with fewer than two classes that have patches; says what to do.
    """
    if not any(len(regions_of_slide) for regions_of_slide in regions.values()):
        raise CohortError("There are no regions yet. Draw or import regions of at least two classes on two slides.")
    if not len(table):
        side = max((max(footprint) for footprint in table.footprints), default=table.geometry.size_px)
        raise CohortError(
            f"No region is large enough for a patch of {side} level-0 pixels. Draw larger regions, or choose a smaller "
            "patch size."
        )
    present = [name for name, count in zip(table.classes, table.counts().sum(axis=0), strict=True) if count]
    if len(present) < 2:
        raise CohortError(
            f"Only class {present[0]!r} has patches; a classifier needs at least two. Label another class, or draw its "
            "regions larger."
        )


def patches_sha256(*tables: PatchTable) -> str:
    """Hash where the patches of some tables lie and what they show, in their order; 64 hex digits."""
    digest = hashlib.sha256()
    for table in tables:
        for column in (table.y, table.x, table.slide_index, table.label):
            digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()
