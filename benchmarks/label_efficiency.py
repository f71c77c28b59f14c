"""Count how many patches must be labelled until a head is nearly as good as with all labels: chosen at random, by entropy, slide-aware.

    python benchmarks/label_efficiency.py --json label_efficiency.json

Eight made slides of three classes, stained as eight laboratories would; features of EfficientNet-Lite0 (ImageNet weights) for cells
of 64 px, from the feature cache. Each seed holds out two slides for the AUC (other ones each time), begins with one patch of each
class on one slide, and labels five patches at a time with their true class. *random* draws from all unlabelled cells; *entropy* takes
the most uncertain ones, wherever they are; *slide-aware* is what the Live dock suggests: entropy, margin and disagreement of heads
without one slide each, times how few labels slide and stain have. Told is the number of labelled patches at which the AUC on the
held-out slides first reaches 95 % (and 99 %) of that of a head trained on all cells of the other six slides.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.errors import CohortError

STRATEGIES = ("random", "entropy", "slide-aware")
STEP, MOST, CANDIDATES = 5, 300, 3000
SHARES = (0.95, 0.99)
SLIDES, HELD_OUT = 8, 2


@dataclass(frozen=True)
class Cells:
    """Cells of known class of all slides: features (N, D), label, slide and place (N, 2) of each, and how slides look."""

    features: NDArray[np.float16]
    label: NDArray[np.int64]
    slide: NDArray[np.int64]
    cells: NDArray[np.int32]
    looks: NDArray[np.float64]

    def of(self, rows: NDArray[Any]) -> Cells:
        """Give some of them."""
        return Cells(self.features[rows], self.label[rows], self.slide[rows], self.cells[rows], self.looks)


def read_cells(folder: Path, size_px: int) -> Cells:
    """Make the slides and compute the features of all cells that lie in one tissue."""
    from napari_slidecorr import Project, drain
    from napari_slidecorr.learning.cell_labels import label_cells
    from napari_slidecorr.learning.extractor import slide_grid
    from napari_slidecorr.learning.fast_training import make_extractor
    from napari_slidecorr.learning.feature_store import FeatureCache
    from napari_slidecorr.learning.features import extract
    from napari_slidecorr.live_config import LiveConfig
    from napari_slidecorr.live_head import mean_density
    from napari_slidecorr.regions import simple_regions
    from napari_slidecorr.sample_data import CLASS_COLORS, make_cohort
    from napari_slidecorr.tissue import find_tissue

    cohort = drain(make_cohort(folder / "slides", slides=SLIDES, size_px=size_px))
    project = Project.create(folder / "project", tuple(CLASS_COLORS))
    project.add_slides([sample.path for sample in cohort])
    extractor = make_extractor(LiveConfig(size_px=64, mpp=0.5).fast)
    parts, looks = [], []
    for number, sample in enumerate(cohort):
        slide = project.slide(sample.id)
        grid = slide_grid(slide, extractor.geometry)
        found = label_cells(grid, simple_regions(sample.truth), tuple(CLASS_COLORS), 0.8)
        wanted = np.zeros(grid.shape, bool)
        wanted[tuple(found.cells.T)] = True
        got = drain(extract(slide, extractor, grid, cache=FeatureCache(folder / "cache"), wanted=wanted))
        rows = got.rows(found.cells)
        parts.append((got.features[rows], found.labels.astype(np.int64), np.full(len(rows), number), found.cells))
        looks.append(mean_density(slide, find_tissue(slide).mask))
    features, label, slide_index, cells = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Cells(features, label, slide_index.astype(np.int64), cells, np.stack(looks))


def run(cells: Cells, seed: int) -> dict[str, dict[str, float]]:
    """Label with each strategy from the same start; gives the patches needed for each share."""
    rng = np.random.default_rng(seed)
    held = np.isin(cells.slide, rng.choice(SLIDES, HELD_OUT, replace=False))
    pool, test = cells.of(~held), cells.of(held)
    full = auc(pool, np.arange(len(pool.label)), test)
    first = int(rng.choice(np.unique(pool.slide)))
    start = [int(rng.choice(np.flatnonzero((pool.slide == first) & (pool.label == k)))) for k in np.unique(pool.label)]
    return {
        "full": {"auc": full, "patches": float(len(pool.label))},
        **{name: needed(name, pool, test, start, full, np.random.default_rng([seed, 1])) for name in STRATEGIES},
    }


def needed(
    strategy: str, pool: Cells, test: Cells, start: list[int], full: float, rng: np.random.Generator
) -> dict[str, float]:
    """Label until the highest share is reached, or `MOST` patches are."""
    labelled, reached = list(start), dict.fromkeys(map(str, SHARES), float("nan"))
    while True:
        score = auc(pool, np.asarray(labelled), test)
        for share in SHARES:
            if np.isnan(reached[str(share)]) and score >= share * full:
                reached[str(share)] = float(len(labelled))
        if len(labelled) >= MOST or not np.isnan(list(reached.values())).any():
            return reached
        labelled += chosen(strategy, pool, np.asarray(labelled), rng)


def chosen(strategy: str, pool: Cells, labelled: NDArray[np.int64], rng: np.random.Generator) -> list[int]:
    """Choose the next patches."""
    from napari_slidecorr.learning import suggestions
    from napari_slidecorr.learning.held_out import leave_one_group_out

    free = np.setdiff1d(np.arange(len(pool.label)), labelled)
    free = rng.choice(free, min(CANDIDATES, len(free)), replace=False)
    if strategy == "random":
        return [int(row) for row in free[:STEP]]
    head = fit(pool, labelled)
    found = head.predict(pool.features[free])
    if strategy == "entropy":
        return [int(row) for row in free[np.argsort(-suggestions.entropy(found), kind="stable")[:STEP]]]
    try:
        others = leave_one_group_out(
            pool.features[labelled], pool.label[labelled], pool.slide[labelled], config(), classes=3
        ).heads
    except CohortError:
        others = ()
    by_head = np.asarray([other.predict(pool.features[free]) for other in others]).reshape(len(others), *found.shape)
    slides = np.unique(pool.slide)
    counts = [int((pool.slide[labelled] == slide).sum()) for slide in slides]
    index = np.searchsorted(slides, pool.slide[free])
    total = suggestions.uncertainty_of(found, by_head).total
    best = suggestions.choose(total, index, pool.cells[free], counts, pool.looks[slides], STEP)
    return [int(free[each.row]) for each in best]


def config() -> Any:
    """The head of live training before a penalty is chosen."""
    from napari_slidecorr.fast_config import HeadConfig

    return HeadConfig()


def fit(pool: Cells, rows: NDArray[np.int64]) -> Any:
    """Fit a head to labelled cells."""
    from napari_slidecorr.learning.heads import fit_head

    return fit_head(pool.features[rows], pool.label[rows], pool.slide[rows], config(), classes=3)


def auc(pool: Cells, rows: NDArray[np.int64], test: Cells) -> float:
    """Patch AUC on the held-out slides of a head that was fitted to some cells."""
    from napari_slidecorr.metrics import patch_auc

    return patch_auc(test.label, fit(pool, rows).predict(test.features))


def main(seeds: int, size_px: int) -> dict[str, Any]:
    """Give the medians and the figures of each seed."""
    with tempfile.TemporaryDirectory() as name:
        begun = time.monotonic()
        cells = read_cells(Path(name), size_px)
        print(f"{len(cells.label)} cells, features after {time.monotonic() - begun:.0f} s", flush=True)
        rows = []
        for seed in range(seeds):
            rows.append(run(cells, seed))
            print(seed, json.dumps(rows[-1]), flush=True)
    medians = {
        strategy: {
            str(share): float(
                np.median(
                    [row[strategy][str(share)] if np.isfinite(row[strategy][str(share)]) else MOST for row in rows]
                )
            )
            for share in SHARES
        }
        for strategy in STRATEGIES
    }
    return {"seeds": seeds, "cells": len(cells.label), "median_patches": medians, "each": rows}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--size-px", type=int, default=1536, help="side of a slide")
    parser.add_argument("--quick", action="store_true", help="2 seeds")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    figures = main(2 if given.quick else given.seeds, given.size_px)
    for strategy, told in figures["median_patches"].items():
        print(
            f"{strategy}: "
            + ", ".join(f"{patches:g} patches to {share} of the full AUC" for share, patches in told.items())
        )
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2))
