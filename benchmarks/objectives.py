"""Time and memory of slide correlation: closed form, a loop that fills a mask, and the N x N product.

    python benchmarks/objectives.py [--quick] --json objectives.json

Forward and backward, one thread, slides of 4 patches, best of several runs; and what SCR adds to a training step of
ResNet-18 on 32 patches of 224 px. ``ratio``s above 1 speak for the closed form.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from napari_slidecorr.config import CrossEntropyConfig, ScrConfig
from napari_slidecorr.learning.models import make_model
from napari_slidecorr.learning.objectives import Objective, Output, make_objective
from napari_slidecorr.learning.slide_terms import slide_correlation, squash

Correlation = Callable[[Tensor, Tensor], Tensor]


def mask_loop(features: Tensor, slide_index: Tensor) -> Tensor:
    """Equation 6 as it stands: a mask filled pair by pair in Python, then the masked product."""
    ids = slide_index.tolist()
    mask = torch.zeros(len(ids), len(ids))
    for i in range(len(ids)):
        for j in range(i + 1, len(ids)):
            if ids[i] == ids[j]:
                mask[i, j] = 1
    squashed = squash(features)
    return ((squashed @ squashed.T) * mask).sum() / features.shape[1]


def product(features: Tensor, slide_index: Tensor) -> Tensor:
    """The masked N x N product with the mask made by one comparison."""
    squashed = squash(features)
    mask = torch.triu(slide_index[:, None] == slide_index, diagonal=1)
    return ((squashed @ squashed.T) * mask).sum() / features.shape[1]


WAYS: dict[str, Correlation] = {"closed_form": slide_correlation, "mask_loop": mask_loop, "product": product}


def one_pass(way: Correlation, features: Tensor, slide_index: Tensor) -> None:
    features.grad = None
    way(features, slide_index).backward()


def objective_pass(objective: Objective, output: Output, label: Tensor, slide_index: Tensor) -> None:
    objective(output, label, slide_index).total.backward()


def best_ms(call: Callable[[], object], repeats: int) -> float:
    """Shortest of several runs, in milliseconds, after one that does not count."""
    call()
    found = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        found.append(time.perf_counter() - begun)
    return 1000 * min(found)


def allocated_mb(call: Callable[[], object]) -> float:
    """Highest sum of what torch had allocated inside a call, in MB, from the profiler's own record."""
    with torch.profiler.profile(profile_memory=True) as profiler:
        call()
    now = peak = 0
    for event in sorted(_memory_events(profiler), key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak / 1e6


def _memory_events(profiler: torch.profiler.profile) -> list[Any]:
    return [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]


def compare(patches: int, dim: int, repeats: int) -> dict[str, float]:
    """Time and memory of each way on one batch."""
    features = torch.randn(patches, dim, generator=torch.Generator().manual_seed(0)).requires_grad_()
    slide_index = torch.arange(patches) // 4
    values = [way(features, slide_index).item() for way in WAYS.values()]
    row: dict[str, float] = {"N": patches, "D": dim, "largest_difference": max(values) - min(values)}
    for name, way in WAYS.items():
        row[f"{name}_ms"] = best_ms(partial(one_pass, way, features, slide_index), repeats)
        row[f"{name}_mb"] = allocated_mb(partial(one_pass, way, features, slide_index))
    for other in ("mask_loop", "product"):
        row[f"{other}_time_ratio"] = row[f"{other}_ms"] / row["closed_form_ms"]
        row[f"{other}_memory_ratio"] = row[f"{other}_mb"] / row["closed_form_mb"]
    return row


def overhead(patches: int, size_px: int, repeats: int) -> dict[str, float]:
    """What SCR adds to a step of ResNet-18: the two objectives alone, beside the whole step."""
    model = make_model("resnet18", 2, weights="random", seed=0).train()
    inputs = torch.randn(patches, 3, size_px, size_px)
    label, slide_index = torch.arange(patches) % 2, torch.arange(patches) // 4
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    scr, plain = (
        make_objective(config, feature_dim=512, slide_count=patches // 4)
        for config in (ScrConfig(), CrossEntropyConfig())
    )

    def step() -> None:
        optimizer.zero_grad()
        plain(model(inputs), label, slide_index).total.backward()
        optimizer.step()

    output = model(inputs)
    leaves = Output(*(tensor.detach().requires_grad_() for tensor in output))
    alone = [best_ms(partial(objective_pass, o, leaves, label, slide_index), 20 * repeats) for o in (scr, plain)]
    step_ms = best_ms(step, repeats)
    added = alone[0] - alone[1]
    return {"step_ms": step_ms, "scr_ms": added, "overhead_percent": 100 * added / step_ms}


def main(*, quick: bool) -> dict[str, Any]:
    """Run all and print a line each."""
    torch.set_num_threads(1)
    sizes = (64, 256) if quick else (64, 256, 1024)
    repeats = 5 if quick else 15
    rows = []
    print("| N, D | closed form, ms | mask loop | N x N product | memory: closed form, MB | mask loop | product |")
    print("|---|---|---|---|---|---|---|")
    for patches in sizes:
        for dim in (512, 2048):
            row = compare(patches, dim, repeats)
            rows.append(row)
            times = (
                f"{row['closed_form_ms']:.2f} | x {row['mask_loop_time_ratio']:.1f} | x {row['product_time_ratio']:.1f}"
            )
            memory = f"{row['closed_form_mb']:.1f} | x {row['mask_loop_memory_ratio']:.1f}"
            print(f"| {patches}, {dim} | {times} | {memory} | x {row['product_memory_ratio']:.1f} |", flush=True)
    beside = overhead(32, 128 if quick else 224, 2 if quick else 4)
    print(
        f"ResNet-18 step {beside['step_ms']:.0f} ms, SCR {beside['scr_ms']:.2f} ms: {beside['overhead_percent']:.3f} %"
    )
    return {"rows": rows, **beside, "torch": torch.__version__, "threads": 1, "quick": quick}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer sizes, smaller patches")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    figures = main(quick=given.quick)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2), "utf-8")
