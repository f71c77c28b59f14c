"""Measure how regularly a real window is served while it trains: the gaps of a 10 ms timer.

    xvfb-run -a -s "-screen 0 1600x1200x24" python benchmarks/gui_latency.py --json gui_latency.json

The training is started with the button of the dock. `idle_p99_ms` is the same window before it, `start_max_ms` the longest
gap until the first step, while torch and the network are loaded.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QApplication

from napari_slidecorr import Project, ScrConfig, TrainConfig, drain
from napari_slidecorr._napari.dock_training import TrainingDock
from napari_slidecorr._napari.layers import add_slide
from napari_slidecorr.config import PatchConfig
from napari_slidecorr.events import BatchDone, Event, JobEnd, JobStatus
from napari_slidecorr.sample_data import make_cohort

TICK_MS = 10


def make_project(folder: Path) -> Project:
    """Make a project of six small slides."""
    cohort = drain(make_cohort(folder / "slides", slides=6, size_px=1024))
    project = Project.create(folder / "project", tuple({name for sample in cohort for name in sample.regions.classes}))
    project.add_slides([sample.path for sample in cohort])
    for sample in cohort:
        project.save_regions(sample.id, sample.regions)
    return project


class Gaps:
    """Notes when a timer of 10 ms really fires."""

    def __init__(self) -> None:
        self.moments: list[float] = []
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(lambda: self.moments.append(time.perf_counter()))
        self._timer.start(TICK_MS)

    def take(self) -> np.ndarray:
        """Give the milliseconds between ticks since the last call."""
        gaps = np.diff(self.moments) * 1000
        self.moments = self.moments[-1:]
        return gaps


def serve(seconds: float, until: Callable[[], bool] = lambda: False) -> None:
    """Run the window's event loop for some time."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and not until():
        QApplication.processEvents()
        time.sleep(0.0005)


def main(seconds: float, backbone: str, size_px: int) -> dict[str, Any]:
    """Open a window, train, and give the gaps."""
    viewer = napari.Viewer()
    with tempfile.TemporaryDirectory() as folder:
        project = make_project(Path(folder))
        dock = TrainingDock(viewer)
        viewer.window.add_dock_widget(dock, name="Training")
        dock.session.project = project
        add_slide(viewer, project.slide(project.cohort[0].id))
        config = TrainConfig(
            objective=ScrConfig(),
            backbone=backbone,
            weights="random",
            epochs=1000,
            patches=PatchConfig(size_px=size_px),
            device="cpu",
        )
        dock.form.set(config)
        events: list[Event] = []
        ends: list[JobEnd] = []
        dock.session.job_event.connect(events.append)
        dock.session.job_ended.connect(ends.append)
        gaps = Gaps()
        serve(3)
        gaps.take()
        serve(3)
        idle = gaps.take()
        dock.train_button.click()
        serve(120, lambda: any(isinstance(event, BatchDone) for event in events) or bool(ends))
        start = gaps.take()
        serve(seconds, lambda: bool(ends))
        training = gaps.take()
        dock.job.cancel.click()
        serve(60, lambda: bool(ends))
        if not ends or ends[0].status is not JobStatus.CANCELLED:
            raise SystemExit(f"The training did not run until it was cancelled: {ends}")
        viewer.close()
    return {
        "seconds": seconds,
        "backbone": backbone,
        "ticks": len(training),
        "idle_p99_ms": float(np.quantile(idle, 0.99)),
        "start_max_ms": float(start.max()),
        "median_ms": float(np.median(training)),
        "p99_ms": float(np.quantile(training, 0.99)),
        "max_ms": float(training.max()),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size-px", type=int, default=128)
    parser.add_argument("--quick", action="store_true", help="15 seconds")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    figures = main(15 if given.quick else given.seconds, given.backbone, given.size_px)
    print(
        ", ".join(
            f"{name} {value:.1f}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
        )
    )
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2))
