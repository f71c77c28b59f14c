"""What is doubtful about labels before a training begins: no error, but seldom meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np
import shapely

from napari_slidecorr.patches import PatchTable
from napari_slidecorr.regions import RegionSet

LEAST_OVERLAP = 0.25
"""Classes that share less than this part of a patch on a slide only touch: outlines are drawn by hand."""


def label_doubts(training: PatchTable, regions: Mapping[str, RegionSet]) -> Iterator[str]:
    """Say what is doubtful, a sentence each.

    Parameters
    ----------
    training : PatchTable
        The patches that are trained on.
    regions : mapping of slide id to RegionSet
        Of at least the slides of the table; all polygons valid.

    Yields
    ------
    str
        For a class that is on one training slide alone, though there are more; and for each slide on which regions of
        two classes overlap.
    """
    yield from _lonely_classes(training)
    for slide_id, footprint in zip(training.slides, training.footprints, strict=True):
        for one, other in combinations(training.classes, 2):
            shared = _shared_area(regions[slide_id], one, other)
            if shared > LEAST_OVERLAP * footprint[0] * footprint[1]:
                yield (
                    f"{slide_id}: regions of {one!r} and {other!r} overlap; a patch there counts as the class that covers "
                    "more of it."
                )


def _lonely_classes(training: PatchTable) -> Iterator[str]:
    counts = training.counts()
    if np.count_nonzero(counts.sum(axis=1)) < 2:
        return
    for name, of_class in zip(training.classes, counts.T, strict=True):
        having = np.flatnonzero(of_class)
        if len(having) == 1:
            yield (
                f"Class {name!r} is on one training slide alone ({training.slides[having[0]]}): its look cannot be told "
                "from that slide's. Label it on a second one."
            )


def _shared_area(regions: RegionSet, one: str, other: str) -> float:
    polygons = [[region.polygon for region in regions.of_class(name)] for name in (one, other)]
    if not all(polygons):
        return 0.0
    first, second = (shapely.union_all(of_class) for of_class in polygons)
    return float(shapely.area(shapely.intersection(first, second)))
