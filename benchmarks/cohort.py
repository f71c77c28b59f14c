"""Many small slides predicted by two worker processes, beside the plain loop; and what a killed worker costs.

`python benchmarks/cohort.py --quick --json cohort.json`

- ``two_workers_over_loop``: wall time with two workers over that of the loop, the start of the workers (``start_s``)
  left out of the first and the load of the model left out of neither; ``..._with_start`` has both.
- ``overhead_s_per_slide``: two workers' wall time with their start, less the loop's, over the slides; both have all cores.
  ``one_thread_loop_s`` is the loop's with one thread: half of it is what two cores that share nothing would take.
- ``peak_worker_mb``, ``peak_worker_mb_half``: largest resident memory of a worker at the end, and after half of the
  slides: flat when they are alike. ``peak_loop_mb`` is the loop's own.
- ``lost_after_worker_kill``: maps that are missing or not equal, bit for bit, to the loop's, after workers were killed
  with SIGKILL in the middle of ``killed_workers`` slides.
- ``unequal_maps``: the same without a kill. ``failed_of_truncated``: failed slides when one of them is cut short (1), and
  ``done_beside_truncated`` the finished ones.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_slidecorr.cluster import client_on, predict_cohort_on
from napari_slidecorr.cohort_prediction import SlideEnded, predict_cohort
from napari_slidecorr.config import PredictConfig
from napari_slidecorr.events import BlockDone, drain
from napari_slidecorr.geometry import PatchGeometry
from napari_slidecorr.io import read_map
from napari_slidecorr.learning.models import make_model, save_model
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.project import Project
from napari_slidecorr.sample_data import make_cohort

CONFIG = PredictConfig(device="cpu", block_cells=2)
SIDE_PX = 1024
CLASSES = ("one", "two", "three")


def make_project(folder: Path, slides: int) -> Project:
    """Made slides of tissue, and a ResNet-18 that nobody trained."""
    made = drain(make_cohort(folder / "slides", "many", slides=slides, size_px=SIDE_PX))
    project = Project.create(folder / "project", CLASSES)
    project.add_slides([slide.path for slide in made])
    run = project.folder / "runs" / "random"
    run.mkdir(parents=True)
    torch.manual_seed(0)
    model = make_model("resnet18", len(CLASSES), weights="random")
    spec = ModelSpec(
        backbone="resnet18", classes=CLASSES, geometry=PatchGeometry(128, 0.5), mean=model.mean, std=model.std,
        objective={"kind": "ce"}, train_slides=(), validation_slides=(), initial_weights="random",
        weights_sha256="", package_version="0",
    )  # fmt: skip
    save_model(run, model, spec)
    return project


def take_maps(project: Project, name: str) -> dict[str, np.ndarray]:
    """Read all maps and move them away, so that the next round begins anew."""
    found = {one.id: read_map(path).probabilities for one in project.cohort for path in project.maps(one.id)}
    (project.folder / "maps").rename(project.folder / name)
    shutil.rmtree(project.folder / name)
    return found


def unequal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> int:
    return sum(not np.array_equal(found.get(key, 0), values, equal_nan=True) for key, values in expected.items())


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def loop_in_child(project: Project, threads: int | None = None) -> dict[str, float]:
    """Predict with the plain loop in a process of its own, with all cores or fewer threads; its wall time and peak."""
    command = [sys.executable, __file__, "--loop", str(project.folder)]
    environment = os.environ if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    told = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(told.stdout)


def loop(folder: Path) -> dict[str, float]:
    start = time.perf_counter()
    outcomes = drain(predict_cohort(Project.open(folder), config=CONFIG))
    assert all(one.state == "predicted" for one in outcomes)  # noqa: S101
    return {"seconds": time.perf_counter() - start, "peak_mb": peak_mb()}


def with_workers(client: Any, project: Project) -> dict[str, float]:
    """Predict on a cluster that runs already; wall time, and the workers' peak after half of the slides and at the end."""
    start, ended, half = time.perf_counter(), 0, 0.0
    for event in predict_cohort_on(client, project, config=CONFIG):
        ended += isinstance(event, SlideEnded)
        if not half and ended >= len(project.cohort) // 2:
            half = max(client.run(peak_mb).values())
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "half_mb": half, "peak_mb": max(client.run(peak_mb).values())}


def kill_in_the_middle(client: Any, project: Project, kills: int) -> int:
    """Predict, and kill the worker of a block that was just told, a few times on the way; how many were killed."""
    killed, ended, step = 0, 0, max(1, len(project.cohort) // (kills + 1))
    for event in predict_cohort_on(client, project, config=CONFIG):
        ended += isinstance(event, SlideEnded)
        if isinstance(event, BlockDone) and killed < kills and ended >= killed * step:
            tasks = client.cluster.scheduler.tasks
            busy = [task for key, task in list(tasks.items()) if str(key).endswith(f"-{event.slide_id}")]
            if busy and busy[0].processing_on:
                os.kill(busy[0].processing_on.pid, signal.SIGKILL)
                killed += 1
    return killed


def truncated_among_good(client: Any, project: Project) -> dict[str, int]:
    path = project.slide_path(project.cohort[1].id)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3])
    try:
        outcomes = drain(predict_cohort_on(client, Project.open(project.folder), config=CONFIG))
    finally:
        path.write_bytes(whole)
    states = [one.state for one in outcomes]
    return {"failed_of_truncated": states.count("failed"), "done_beside_truncated": states.count("predicted")}


def say(what: str) -> None:
    print(f"{time.strftime('%X')} {what}", file=sys.stderr, flush=True)


def measure(slides: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        project = make_project(Path(name), slides)
        say("slides made")
        alone = loop_in_child(project)
        take_maps(project, "loop")
        one_thread = loop_in_child(
            project, threads=1
        )  # as many as each of two workers has here: with others the last bits differ
        expected = take_maps(project, "one thread")
        say("loop done")
        begin = time.perf_counter()
        with client_on(2) as client:
            start = time.perf_counter() - begin
            two = with_workers(client, project)
            found = take_maps(project, "two")
            say("two workers done")
            killed = kill_in_the_middle(client, project, 2 if slides < 50 else 5)
            after = take_maps(project, "killed")
            say("killing done")
            cut = truncated_among_good(client, project)
    return {
        "slides": slides,
        "loop_s": alone["seconds"],
        "two_workers_s": two["seconds"],
        "start_s": start,
        "two_workers_over_loop": two["seconds"] / alone["seconds"],
        "two_workers_over_loop_with_start": (start + two["seconds"]) / alone["seconds"],
        "one_thread_loop_s": one_thread["seconds"],
        "overhead_s_per_slide": (start + two["seconds"] - alone["seconds"]) / slides,
        "peak_loop_mb": alone["peak_mb"],
        "peak_worker_mb_half": two["half_mb"],
        "peak_worker_mb": two["peak_mb"],
        "unequal_maps": unequal(found, expected),
        "killed_workers": killed,
        "lost_after_worker_kill": unequal(after, expected),
        **cut,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="12 slides instead of 100")
    parser.add_argument("--slides", type=int, help="so many slides")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--loop", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.loop:
        print(json.dumps(loop(arguments.loop)))
        return
    figures = measure(arguments.slides or (12 if arguments.quick else 100))
    for name, value in figures.items():
        print(f"{name:34} {value:10.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
