"""Kills `slidecorr predict` at random moments, goes on, and compares with the map that nobody disturbed.

`python benchmarks/kill_prediction.py --quick --json kill.json`

- ``unequal_maps``: finished maps that are not equal, bit for bit, to the undisturbed one.
- ``false_complete``: times that a killed process left a map that claims to be complete and is not equal to it.
- ``kills``, ``kills_while_writing``, ``finished_maps``: how many there were, and how many died with blocks missing.

Each process is forked from one that has imported torch and computed nothing yet, so that dying takes no time.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from napari_slidecorr.cli import app
from napari_slidecorr.geometry import PatchGeometry
from napari_slidecorr.io import map_zarr
from napari_slidecorr.learning.models import make_model, save_model
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.project import Project
from napari_slidecorr.sample_data import make_cohort

OPTIONS = ("--block-cells", "4", "--batch-size", "8", "--device", "cpu")


def make_project(folder: Path) -> Project:
    """A project with one slide and a small random model."""
    *_, made = make_cohort(folder / "slides", slides=4, size_px=1024)
    project = Project.create(folder / "project", ("one", "two"))
    project.add_slides([made.result[0].path])
    run = project.folder / "runs" / "random"
    run.mkdir(parents=True)
    model = make_model("test_resnet", 2, weights="random")
    spec = ModelSpec(
        backbone="test_resnet", classes=("one", "two"), geometry=PatchGeometry(32, None), mean=model.mean,
        std=model.std, objective={"kind": "ce"}, train_slides=(), validation_slides=(), initial_weights="random",
        weights_sha256="", package_version="0",
    )  # fmt: skip
    save_model(run, model, spec)
    return project


def start(project: Project) -> int:
    """Fork a process that runs the command as a shell would, quietly; give its id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        with Path(os.devnull).open("w") as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
            try:
                app(["predict", str(project.folder), *OPTIONS], standalone_mode=False)
                code = 0
            finally:
                os._exit(code)
    return pid


def chunks(path: Path) -> int:
    return sum(1 for file in path.glob("0/c/0/*/*") if file.suffix != ".part")


def killed(pid: int, path: Path, rng: random.Random, blocks: int, whole_s: float) -> bool:
    """Kill a process a moment after a random block, now and then at any time of a run that nobody disturbs.

    False when it ended before.
    """
    begun = chunks(path)
    wanted = begun + rng.randint(1, max(1, blocks // 4))
    at_any_time = begun == blocks or rng.random() < 0.1
    deadline = time.monotonic() + (rng.uniform(0, whole_s) if at_any_time else 600)
    while time.monotonic() < deadline and (at_any_time or chunks(path) < min(wanted, blocks)):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            check(status)
            return False
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.005))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return True
    check(status)
    return False


def check(status: int) -> None:
    """A process that nobody killed must have succeeded, or nothing was measured."""
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"slidecorr predict ended by itself with exit code {os.waitstatus_to_exitcode(status)}")


def measure(kills: int, seed: int) -> dict[str, int]:
    torch.set_num_threads(1)
    rng = random.Random(seed)  # noqa: S311 - when to kill
    with tempfile.TemporaryDirectory() as name:
        project = make_project(Path(name))
        slide = project.cohort[0].id
        begun = time.monotonic()
        check(os.waitpid(start(project), 0)[1])
        whole_s = time.monotonic() - begun
        (path,) = project.maps(slide)
        expected = map_zarr.read(path).probabilities
        blocks = chunks(path)
        shutil.rmtree(path)
        figures = {"unequal_maps": 0, "false_complete": 0, "kills": 0, "kills_while_writing": 0, "finished_maps": 0}
        while figures["kills"] < kills or path.exists():
            if figures["kills"] < kills and not map_zarr.is_complete(path):
                died = killed(start(project), path, rng, blocks, whole_s)
            else:
                died = False
                check(os.waitpid(start(project), 0)[1])
            complete = map_zarr.is_complete(path)
            equal = complete and np.array_equal(map_zarr.read(path).probabilities, expected, equal_nan=True)
            figures["kills"] += died
            figures["kills_while_writing"] += died and 0 < chunks(path) < blocks
            figures["false_complete"] += died and complete and not equal
            if not died:
                figures["finished_maps"] += 1
                figures["unequal_maps"] += not equal
                shutil.rmtree(path)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 kills instead of 200")
    parser.add_argument("--kills", type=int, help="so many kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    figures = measure(arguments.kills or (20 if arguments.quick else 200), arguments.seed)
    for name, value in figures.items():
        print(f"{name:24} {value:6d}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
