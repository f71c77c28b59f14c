"""How long the pieces of a fast training take, on random features; no pixel, no window.

python benchmarks/fast_heads.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from napari_slidecorr.fast_config import HeadConfig
from napari_slidecorr.learning.heads import fit_head
from napari_slidecorr.learning.held_out import choose_penalty, leave_one_group_out

CELLS, DIM, SLIDES = 20_000, 1280, 5


def seconds(work: Callable[[], object], repeats: int) -> dict[str, float]:
    """Median and longest of several runs, after one that warms up."""
    work()
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return {"median_s": statistics.median(taken), "most_s": max(taken)}


def measure(repeats: int) -> dict[str, dict[str, float]]:
    """Time fits, predictions and validation for 5 slides, 20,000 cells of 1,280 numbers, two classes."""
    rng = np.random.default_rng(0)
    features = np.abs(rng.normal(0, 1, (CELLS, DIM))).astype(np.float16)
    slide_index = rng.integers(0, SLIDES, CELLS)
    labels = (features[:, :8].sum(axis=1) + rng.normal(0, 1, CELLS) > 6.4).astype(np.int64)
    config = HeadConfig(penalty=0.3)
    out = {}
    for count in (500, 2000, CELLS):
        rows = np.sort(rng.choice(CELLS, count, replace=False))
        args = features[rows], labels[rows], slide_index[rows]
        before = fit_head(*(part[: -max(10, count // 100)] for part in args), config)
        out[f"fit {count}"] = seconds(lambda args=args: fit_head(*args, config), repeats)
        out[f"fit {count}, from the last head"] = seconds(
            lambda args=args, before=before: fit_head(*args, config, start=before), repeats
        )
    head = before
    out["predict 20000"] = seconds(lambda: head.predict(features), repeats)
    out["predict 2000 (a view)"] = seconds(lambda: head.predict(features[:2000]), repeats)
    rows = rng.choice(CELLS, 2000, replace=False)
    args = features[rows], labels[rows], slide_index[rows]
    out["leave one slide out, 2000"] = seconds(lambda: leave_one_group_out(*args, config), repeats)
    out["choose the penalty, 2000"] = seconds(lambda: choose_penalty(*args), repeats)
    net = HeadConfig(net="mlp", steps=300)
    out["mlp, 300 steps, 2000"] = seconds(lambda: fit_head(*args, net), max(1, repeats // 3))
    return out


def main() -> None:
    """Measure and print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three runs of each instead of nine")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    found = measure(3 if options.quick else 9)
    result = {"threads": torch.get_num_threads(), "cells": CELLS, "numbers": DIM, "slides": SLIDES, "pieces": found}
    for name, figures in found.items():
        print(f"{name:34}  {figures['median_s']:7.3f} s   at most {figures['most_s']:7.3f} s")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
