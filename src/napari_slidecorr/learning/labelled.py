"""Labelled cells of slides with their features: what a fast training, the comparison of remedies and live mode begin with."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.errors import CohortError
from napari_slidecorr.events import Event, Notice
from napari_slidecorr.geometry import Grid
from napari_slidecorr.learning.cell_labels import label_cells
from napari_slidecorr.learning.centring import slide_centre
from napari_slidecorr.learning.extractor import Extractor, slide_grid
from napari_slidecorr.learning.feature_store import FeatureCache
from napari_slidecorr.learning.features import FeaturesAdded, FeaturesDone, SlideFeatures, extract
from napari_slidecorr.patches import PatchTable
from napari_slidecorr.regions import RegionSet
from napari_slidecorr.slide import Slide


@dataclass(frozen=True, eq=False)
class Labelled:
    """Features of all labelled cells.

    Attributes
    ----------
    features : ndarray, shape (N, D), float16
    table : PatchTable
        Where each is, on which slide, with which label; N rows.
    centres : ndarray, shape (S, D), float32
        Mean feature of the tissue of each slide of the table; 0 when they were not asked for.
    """

    features: NDArray[np.float16]
    table: PatchTable
    centres: NDArray[np.float32]

    def centred(self, share: float) -> NDArray[np.floating]:
        """Give features minus a share of their slide's mean; as they are for 0."""
        if share == 0:
            return self.features
        return self.features.astype(np.float32) - np.float32(share) * self.centres[self.table.slide_index]


def read_labelled(
    slides: Mapping[str, Slide],
    regions: Mapping[str, RegionSet],
    classes: Sequence[str],
    extractor: Extractor,
    *,
    cache: FeatureCache,
    overlap: float = 0.0,
    min_coverage: float = 0.5,
    with_centres: bool = False,
    batch_size: int = 32,
) -> Generator[Event, None, Labelled]:
    """Find the labelled cells of slides and get their features, from the cache where they are kept.

    Slides without a labelled cell and classes without any are left out, the latter with a `Notice`.

    Raises
    ------
    CohortError
        If fewer than two classes have cells.
    SlideError, ModelError
        As `features.extract`.
    """
    parts: list[tuple[str, Grid, SlideFeatures, NDArray[np.int16]]] = []
    for slide_id, regions_of_slide in regions.items():
        grid = slide_grid(slides[slide_id], extractor.geometry, overlap)
        found = label_cells(grid, regions_of_slide, tuple(classes), min_coverage)
        if not len(found.cells):
            continue
        wanted = np.zeros(grid.shape, bool)
        wanted[tuple(found.cells.T)] = True
        got = yield from _features(slides[slide_id], extractor, grid, cache, wanted, batch_size)
        rows = got.rows(found.cells)
        kept = SlideFeatures(got.slide_id, got.features[rows[rows >= 0]], found.cells[rows >= 0], grid, got.key)
        parts.append((slide_id, grid, kept, found.labels[rows >= 0]))
    labelled = _joined(parts, tuple(classes), extractor)
    labelled = yield from _without_empty_classes(labelled)
    if not with_centres:
        return labelled
    centres = np.zeros((len(labelled.table.slides), extractor.dim), np.float32)
    for index, slide_id in enumerate(labelled.table.slides):
        centres[index] = yield from slide_centre(slides[slide_id], extractor, cache)
    return replace(labelled, centres=centres)


def _features(
    slide: Slide, extractor: Extractor, grid: Grid, cache: FeatureCache, wanted: NDArray[np.bool_], batch_size: int
) -> Generator[Event, None, SlideFeatures]:
    """Pass events on, without the arrays that nobody needs here."""
    for event in extract(slide, extractor, grid, cache=cache, wanted=wanted, batch_size=batch_size):
        if isinstance(event, FeaturesDone):
            return event.result
        if isinstance(event, FeaturesAdded):
            yield Event(phase=event.phase, done=event.done, total=event.total)
        else:
            yield event
    raise CohortError(f"{slide.id}: its features were not computed to the end; start again.")


def _joined(
    parts: Sequence[tuple[str, Grid, SlideFeatures, NDArray[np.int16]]], classes: tuple[str, ...], extractor: Extractor
) -> Labelled:
    if not parts:
        raise CohortError(
            "No patch lies far enough inside a region. Draw regions of two classes or more, larger than a patch, or "
            "choose a smaller patch size."
        )
    corners = []
    for _, grid, found, _ in parts:
        y, x = (np.asarray(grid.patch_starts_px(axis), np.int64)[found.cells[:, axis]] for axis in (0, 1))
        corners.append((y, x))
    table = PatchTable(
        np.concatenate([y for y, _ in corners]),
        np.concatenate([x for _, x in corners]),
        np.repeat(np.arange(len(parts)), [len(labels) for *_, labels in parts]).astype(np.int32),
        np.concatenate([labels for *_, labels in parts]),
        tuple(slide_id for slide_id, *_ in parts),
        classes,
        tuple(grid.cell_px for _, grid, _, _ in parts),
        extractor.geometry,
    )
    features = np.concatenate([found.features for _, _, found, _ in parts])
    return Labelled(features, table, np.zeros((len(parts), extractor.dim), np.float32))


def _without_empty_classes(labelled: Labelled) -> Generator[Event, None, Labelled]:
    table = labelled.table
    counts = table.counts().sum(axis=0)
    kept = np.flatnonzero(counts)
    for name in np.asarray(table.classes)[counts == 0]:
        message = f"Class {str(name)!r} has no patches and is left out of the model."
        yield Notice(phase="Labelled patches", message=message, warning=True)
    if len(kept) < 2:
        raise CohortError(
            f"Only class {table.classes[kept[0]]!r} has patches; a classifier needs at least two. Label another class, or "
            "draw its regions larger."
        )
    classes = tuple(table.classes[i] for i in kept)
    return replace(
        labelled, table=replace(table, classes=classes, label=np.searchsorted(kept, table.label).astype(np.int16))
    )
