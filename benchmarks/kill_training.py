"""Kill real training processes at random moments, resume them, and compare the weights with those never killed.

    python benchmarks/kill_training.py --trials 100 --json kill_training.json

Every second kill waits for a file that is just being written. `unequal_resumes` counts trainings whose weights differ
in any bit from the uninterrupted one, `broken_checkpoints` files that a kill left unreadable under their final name.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import multiprocessing
import random
import tempfile
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from napari_slidecorr import drain
from napari_slidecorr.config import CrossEntropyConfig, PatchConfig, ScrConfig, SdaConfig, TrainConfig
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.project import Project
from napari_slidecorr.sample_data import make_cohort

SCR = TrainConfig(
    objective=ScrConfig(beta=0.1),
    backbone="test_resnet",
    weights="random",
    epochs=5,
    patches=PatchConfig(size_px=32),
    learning_rate=3e-3,
    colour_jitter=True,
    device="cpu",
)
CONFIGS = {
    "scr-sgd": SCR,
    "sda-adamw": replace(SCR, objective=SdaConfig(), optimizer="adamw"),
    "ce-sgd": replace(SCR, objective=CrossEntropyConfig()),
}
TIMEOUT_S = 120.0

Context = multiprocessing.context.ForkServerContext


def make_project(folder: Path) -> None:
    """Make a project of four small slides."""
    cohort = drain(make_cohort(folder / "slides", slides=4, size_px=512))
    classes = tuple(dict.fromkeys(name for sample in cohort for name in sample.regions.classes))
    project = Project.create(folder / "project", classes)
    project.add_slides([sample.path for sample in cohort])
    for sample in cohort:
        project.save_regions(sample.id, sample.regions)


def train(folder: Path, kind: str, name: str) -> None:
    """Start or resume one run; what a process does until it is killed."""
    project = Project.open(folder / "project")
    begun = (project.folder / "runs" / name / "config.json").exists()
    drain(project.train(CONFIGS[kind], name=name, resume=begun))


def start(context: Context, folder: Path, kind: str, name: str) -> BaseProcess:
    """Start a process of its own."""
    process = context.Process(target=train, args=(folder, kind, name))
    process.start()
    return process


def finish(context: Context, folder: Path, kind: str, name: str) -> str:
    """Train to the end; give the hash of the weights."""
    run = folder / "project" / "runs" / name
    if not (run / "model.json").exists():
        process = start(context, folder, kind, name)
        process.join(TIMEOUT_S)
        if process.exitcode != 0:
            process.kill()
            return f"ended with {process.exitcode}"
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def kill(process: BaseProcess, run: Path, after_s: float, *, while_writing: bool) -> bool:
    """Send SIGKILL after some time, or then at the next write; whether it was still running."""
    process.join(after_s)
    ends = time.monotonic() + TIMEOUT_S
    while while_writing and process.is_alive() and time.monotonic() < ends and not any(run.glob("*.part")):
        time.sleep(0.0005)
    hit = process.is_alive()
    process.kill()
    process.join()
    return hit


def broken_files(run: Path) -> list[str]:
    """List the files that cannot be read, although they bear their final name."""
    from safetensors import SafetensorError, safe_open

    broken = []
    for path in run.glob("*.*"):
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, "pt") as file:
                    [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118 (not a mapping)
            elif path.name == "model.json":
                ModelSpec.load(path)
            elif path.suffix == ".json":
                json.loads(path.read_text("utf-8"))
            elif path.suffix == ".csv" and not path.read_text("utf-8").endswith("\n"):
                broken.append(path.name)
        except (SafetensorError, ValueError, OSError):
            broken.append(path.name)
    return broken


def reference(context: Context, folder: Path) -> dict[str, tuple[str, float]]:
    """Train each kind without interruption; give the hash of its weights and the seconds it takes."""
    whole = {}
    for kind in CONFIGS:
        finish(context, folder, kind, f"warm-{kind}")
        begun = time.perf_counter()
        whole[kind] = finish(context, folder, kind, f"whole-{kind}"), time.perf_counter() - begun
    return whole


def main(trials: int, seed: int) -> dict[str, Any]:
    """Kill and resume until so many kills hit a running training; give the counts."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["napari_slidecorr.learning.training", "timm", "sklearn.metrics"])
    rng = random.Random(seed)  # noqa: S311 - no secret
    counts = dict.fromkeys(("kills", "kills_while_writing", "unequal_resumes", "broken_checkpoints"), 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_project(folder)
        whole = reference(context, folder)
        for number in itertools.takewhile(lambda _: counts["kills"] < trials, itertools.count()):
            kind, run_name = rng.choice(list(CONFIGS)), f"trial-{number:04d}"
            weights, seconds = whole[kind]
            run = folder / "project" / "runs" / run_name
            process = start(context, folder, kind, run_name)
            if not kill(process, run, rng.uniform(0, 0.9 * seconds), while_writing=rng.random() < 0.5):
                continue
            broken, writing = broken_files(run), any(run.glob("*.part"))
            found = finish(context, folder, kind, run_name)
            for count, counted in zip(counts, (True, writing, found != weights, broken), strict=True):
                counts[count] += bool(counted)
            if broken or found != weights:
                print(f"{run_name} ({kind}): broken {broken}, weights {found}, not {weights}", flush=True)
    return {"trials": trials, **counts, "seconds_of_a_training": max(seconds for _, seconds in whole.values())}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="10 kills")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    figures = main(10 if given.quick else given.trials, given.seed)
    print(", ".join(f"{name} {value:.3g}" for name, value in figures.items()))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2))
