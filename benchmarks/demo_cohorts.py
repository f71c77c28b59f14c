"""Run the demo on each of its cohorts with several seeds, and print the table of the README.

    python benchmarks/demo_cohorts.py --seeds 3 --json demo_cohorts.json

A seed makes other slides, another split and another start. Nothing is chosen: each run is in the table.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from napari_slidecorr import drain
from napari_slidecorr.demo import run_demo
from napari_slidecorr.sample_data import COHORTS

SCORES = ("train_auc", "validation_auc", "held_out_auc")


def run(kind: str, seed: int) -> dict[str, Any]:
    """Run one demo; give its scores by objective, and the seconds of all of it."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        result = drain(run_demo(Path(folder) / "demo", kind=kind, seed=seed))
        rows = {row.objective: {score: getattr(row, score) for score in SCORES} for row in result.rows}
        return {"rows": rows, "seconds": time.perf_counter() - begun}


def spread(values: list[float]) -> str:
    """Mean and standard deviation, or the one value."""
    return f"{mean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def main(seeds: int, kinds: list[str]) -> dict[str, Any]:
    """Run all and print a line each."""
    figures: dict[str, Any] = {}
    print(f"| cohort ({seeds} seeds) | objective | training AUC | validation AUC | held-out AUC |")
    print("|---|---|---|---|---|")
    for kind in kinds:
        runs = figures[kind] = [run(kind, seed) for seed in range(seeds)]
        for objective in runs[0]["rows"]:
            cells = (spread([one["rows"][objective][score] for one in runs]) for score in SCORES)
            print(f"| {kind} | {objective} | {' | '.join(cells)} |", flush=True)
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=list(COHORTS), choices=COHORTS)
    parser.add_argument("--quick", action="store_true", help="one seed of the default cohort")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = main(1, ["default"]) if given.quick else main(given.seeds, given.kinds)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2))
