"""Measure how long a cancelled training takes until its job is idle, in the threads that the dock uses.

    python benchmarks/cancel.py --json cancel.json

The disk is made slow: each read of a patch sleeps. The network is a real one, whose step takes longer than a cancel may.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_slidecorr._napari.torch_door import load_torch_for_job

load_torch_for_job()

import numpy as np  # noqa: E402 - torch comes first
from numpy.typing import NDArray  # noqa: E402
from qtpy.QtCore import QCoreApplication  # noqa: E402

from napari_slidecorr._napari.job import THREAD_NAME, Job  # noqa: E402
from napari_slidecorr.config import PatchConfig, ScrConfig, TrainConfig  # noqa: E402
from napari_slidecorr.events import Event, JobEnd, JobStatus  # noqa: E402
from napari_slidecorr.learning.models import make_model  # noqa: E402
from napari_slidecorr.learning.training import train  # noqa: E402
from napari_slidecorr.levels import Level  # noqa: E402
from napari_slidecorr.patches import PatchSource, PatchTable, cut_patches  # noqa: E402
from napari_slidecorr.regions import Region, RegionSet, polygon_from_rings  # noqa: E402
from napari_slidecorr.slide import Slide  # noqa: E402

SIDE_PX, PATCH_PX = 2048, 224
CLASSES = ("left", "right")


@dataclass(frozen=True)
class SlowSource:
    """Grey noise that takes its time."""

    seconds: float
    path: Path = Path("slow.tif")
    levels: tuple[Level, ...] = (Level((SIDE_PX, SIDE_PX), (1.0, 1.0), (256, 256)),)
    mpp: tuple[float, float] | None = (0.5, 0.5)
    mpp_source: str = "made"

    @property
    def properties(self) -> dict[str, str]:
        """None."""
        return {}

    def read_level(self, _level: int, y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
        """Sleep, then give pixels."""
        time.sleep(self.seconds)
        return np.random.default_rng([abs(y), abs(x)]).integers(0, 256, (height, width, 3), np.uint8)

    def close(self) -> None:
        """Nothing is open."""


def cohort(read_s: float) -> tuple[PatchTable, dict[str, Slide]]:
    """Make six slow slides of two classes."""
    slides = {f"s{i}": Slide(f"s{i}", SlowSource(read_s), (0.5, 0.5), "made") for i in range(6)}
    halves = [
        Region(name, polygon_from_rings([(0, x), (SIDE_PX, x), (SIDE_PX, x + SIDE_PX // 2), (0, x + SIDE_PX // 2)]))
        for name, x in zip(CLASSES, (0, SIDE_PX // 2), strict=True)
    ]
    sources = [
        PatchSource(name, slide.shape, (PATCH_PX, PATCH_PX), RegionSet(tuple(halves))) for name, slide in slides.items()
    ]
    return cut_patches(sources, CLASSES, PatchConfig(size_px=PATCH_PX, mpp=0.5)), slides


def seconds_to_idle(config: TrainConfig, run: Path, read_s: float, after_s: float) -> float:
    """Start a training, cancel it some time after its first step began, and wait for its end and its threads."""
    table, slides = cohort(read_s)
    sides = table.of_slides(("s0", "s1", "s2", "s3")), table.of_slides(("s4", "s5"))
    events: list[Event] = []
    ends: list[JobEnd] = []
    job = Job(lambda: train(*sides, slides, config, run=run), events.append, ends.append)
    while not reading() and not ends:
        QCoreApplication.processEvents()
        time.sleep(0.001)
    wait_until = time.monotonic() + after_s
    while time.monotonic() < wait_until:
        QCoreApplication.processEvents()
        time.sleep(0.001)
    begun = time.perf_counter()
    job.cancel()
    while not ends or reading():
        QCoreApplication.processEvents()
        time.sleep(0.001)
    if ends[0].status is not JobStatus.CANCELLED:
        raise SystemExit(f"A training was not cancelled: {ends[0]}")
    return time.perf_counter() - begun


def reading() -> bool:
    """Whether threads that read patches live."""
    return any(thread.name.startswith("read-patches") for thread in threading.enumerate())


def main(trials: int, backbone: str, read_s: float, seed: int) -> dict[str, Any]:
    """Cancel at random moments; give the seconds."""
    _application = QCoreApplication([])  # lives as long as this name
    rng = random.Random(seed)  # noqa: S311 - no secret
    config = TrainConfig(
        objective=ScrConfig(),
        backbone=backbone,
        weights="random",
        epochs=1000,
        device="cpu",
        patches=PatchConfig(size_px=PATCH_PX),
    )
    make_model(backbone, 2, weights="random")  # imports what takes seconds once
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for trial in range(trials):
            slow = read_s if trial % 2 == 0 else 0.0
            after_s = rng.uniform(0, 5.0)
            seconds.append(seconds_to_idle(config, Path(folder) / str(trial), slow, after_s))
    if any(thread.name == THREAD_NAME for thread in threading.enumerate()):
        raise SystemExit("A job's thread is left.")
    return {
        "trials": trials,
        "backbone": backbone,
        "read_s": read_s,
        "median_s": float(np.median(seconds)),
        "p95_s": float(np.quantile(seconds, 0.95)),
        "max_s": max(seconds),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--read-s", type=float, default=0.1, help="seconds that a read of the slow disk takes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="12 trials")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    figures = main(12 if given.quick else given.trials, given.backbone, given.read_s, given.seed)
    print(
        ", ".join(
            f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
        )
    )
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2))
