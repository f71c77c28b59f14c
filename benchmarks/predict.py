"""What a prediction costs beyond its forward passes: waiting for tiles, memory, and what is left after the last block.

`python benchmarks/predict.py --quick --json predict.json [--only memory|overlap|decodes|forward|peer]`

- ``memory``: ``peak_mb_*``, the largest resident memory of a process that predicts a made slide of that many pixels a side;
  ``after_last_block_s``: from the last block to the complete map, on the largest slide.
- ``overlap``: ``wall_over_max_read_forward``, the forward only waits, twice as long as reading takes; ``..._equal``, just as
  long. Reading alone is the sweep with a forward that takes no time, forward alone the same waits one after the other.
- ``decodes``: ``decodes_per_tile``, decoded tiles over distinct ones in a sweep of a slide that the cache does not hold, in
  blocks of 16 cells; only tiles between two columns of blocks are decoded twice, a quarter as many in blocks of 64 cells.
- ``forward``: ``forward_share_cpu``, time in a real ResNet-18 over all time, patches of 224 px.
- ``peer``: ``ratio_to_peer``, patches a second over those of `predict_peers.py`'s tiatoolbox where it is installed (or lies in
  ``--packages``), else of its loop; on ``--slide``, else on a made one of 3072 px.
"""

import argparse
import importlib.machinery
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
import torch
from PIL import Image
from predict_peers import CLASSES, SPEC

from napari_slidecorr.config import PredictConfig
from napari_slidecorr.events import BlockDone, drain
from napari_slidecorr.io import open_slide
from napari_slidecorr.learning import inference
from napari_slidecorr.learning.models import PatchClassifier, make_model, save_model
from napari_slidecorr.project import Project

CONFIG = PredictConfig(tissue_only=False, batch_size=16, device="cpu")
TILE = 256
BAND = 14
"""Width in tiles of the tissue on a sparse slide, from corner to corner."""


def write_slide(path: Path, side: int) -> None:
    """JPEG 4:2:0 at quality 80 over coloured noise that codes to about 14 kB a tile, no two neighbours alike."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(60, 255, (256, 256, 3), np.uint8))
    block = np.asarray(noise.resize((1024, 1024), Image.Resampling.BICUBIC))

    def tiles() -> Iterator[np.ndarray]:
        for row in range(side // TILE):
            for column in range(side // TILE):
                yield np.roll(block, (row * 37, column * 53), (0, 1))[:TILE, :TILE]

    tifffile.imwrite(
        path, tiles(), shape=(side, side, 3), dtype=np.uint8, tile=(TILE, TILE), photometric="rgb",
        compression="jpeg", compressionargs={"level": 80}, subsampling=(2, 2), metadata=None,
    )  # fmt: skip


@contextmanager
def forward(seconds: float) -> Iterator[None]:
    """Let the model only wait, and say that all classes are alike."""
    real = inference.classify

    def wait(_model: PatchClassifier, patches: np.ndarray) -> np.ndarray:
        time.sleep(seconds)
        return np.full((len(patches), len(CLASSES)), 1 / len(CLASSES), np.float32)

    inference.classify = wait
    try:
        yield
    finally:
        inference.classify = real


def sweep_seconds(path: Path, model: PatchClassifier, config: PredictConfig, wait: float) -> float:
    """Wall time of one sweep from a cold cache."""
    slide = open_slide(path)
    with forward(wait):
        start = time.perf_counter()
        drain(inference.predict(slide, model, SPEC, config))
    return time.perf_counter() - start


def waits_seconds(wait: float, count: int) -> float:
    """Wall time of so many waits one after the other: a sleep always takes a little longer than it is told."""
    start = time.perf_counter()
    for _ in range(count):
        time.sleep(wait)
    return time.perf_counter() - start


def overlap(path: Path, model: PatchClassifier, config: PredictConfig, times: float, rounds: int) -> float:
    """Median of some rounds: wall / max(reading alone, waiting alone), with a wait so many times as long as the reading."""
    cells = inference.prediction_grid(open_slide(path), SPEC, config).shape
    batches = -(-cells[0] * cells[1] // config.batch_size)
    ratios = []
    for _ in range(rounds):
        read = sweep_seconds(path, model, config, 0)
        wait = times * read / batches
        alone = waits_seconds(wait, batches)
        ratios.append(sweep_seconds(path, model, config, wait) / max(read, alone))
    return float(np.median(ratios))


def decodes_per_tile(path: Path, model: PatchClassifier) -> float:
    """Over a slide with a cache of a twentieth of its tiles, as 256 MB are to one of 41,000 px."""
    slide = open_slide(path)
    source: Any = getattr(slide.source, "source", slide.source)
    loads, load = Counter(), source.tiles.load

    def counting(*key: int) -> np.ndarray:
        loads[key] += 1
        return load(*key)

    source.tiles.load = counting
    tiles = (slide.shape[0] // TILE) * (slide.shape[1] // TILE)
    source.tiles.cache.capacity_bytes = max(tiles // 20, 3 * 16) * TILE * TILE * 3
    with forward(0):
        drain(inference.predict(slide, model, SPEC, replace(CONFIG, block_cells=16)))
    return sum(loads.values()) / len(loads)


def forward_share(path: Path, model: PatchClassifier, cells: int) -> float:
    """Time inside the real network over the whole time, for a square of cells."""
    real, spent = inference.classify, []

    def timed(*arguments: Any) -> np.ndarray:
        start = time.perf_counter()
        result = real(*arguments)
        spent.append(time.perf_counter() - start)
        return result

    inference.classify = timed
    try:
        start = time.perf_counter()
        square = [(slice(0, cells), slice(0, cells))]
        drain(inference.predict(open_slide(path), model, SPEC, CONFIG, blocks=square))
        wall = time.perf_counter() - start
    finally:
        inference.classify = real
    return sum(spent) / wall


def write_sparse_slide(path: Path, side: int) -> None:
    """A pyramid with tissue in a band from corner to corner; all other tiles are left out, as scanners do."""
    rng = np.random.default_rng(0)
    pixels = np.clip(rng.normal((200, 120, 180), 25, (TILE, TILE, 3)), 0, 255).astype(np.uint8)
    code = imagecodecs.jpeg8_encode(pixels, level=80, colorspace="RGB", outcolorspace="YCBCR", subsampling=(2, 2))

    def tiles(n: int, width: float) -> Iterator[bytes]:
        for row in range(n):
            for column in range(n):
                yield code if abs(row - column) < width / 2 else b""

    counts = [-(-side // (TILE * 4**level)) for level in range(4)]
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for level, n in enumerate(counts):
            n_px = -(-side // 4**level)
            file.write(
                tiles(n, max(1, BAND / 4**level)), shape=(n_px, n_px, 3), dtype=np.uint8, tile=(TILE, TILE),
                photometric="ycbcr", compression="jpeg", subsampling=(2, 2), metadata=None,
                subifds=len(counts) - 1 if level == 0 else 0, subfiletype=int(level > 0),
            )  # fmt: skip


def child(side: int) -> dict[str, float]:
    """Predict a sparse slide in this process through a project; its peak and how long the end takes."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_sparse_slide(folder / "slide.tif", side)
        project = Project.create(folder / "project", CLASSES)
        (known,) = project.add_slides([folder / "slide.tif"])
        run = folder / "project" / "runs" / "random"
        run.mkdir(parents=True)
        save_model(run, make_model("resnet18", len(CLASSES), weights="random"), SPEC)
        last = cells = 0.0
        with forward(0):
            for event in project.predict([known.id], config=replace(CONFIG, tissue_only=True, batch_size=32)):
                if isinstance(event, BlockDone):
                    last, cells = time.perf_counter(), cells + np.isfinite(event.probabilities[0]).sum()
        end = time.perf_counter() - last
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"peak_mb": peak, "after_last_block_s": end, "cells": float(cells)}


def in_child(side: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", str(side)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def ratio_to_peer(slide: Path | None, packages: Path | None, rounds: int) -> dict[str, Any]:
    """Ask `predict_peers.py` in a process of its own."""
    paths = [str(packages)] if packages else []
    peer = "tiatoolbox" if importlib.machinery.PathFinder.find_spec("tiatoolbox", sys.path + paths) else "loop"
    with tempfile.TemporaryDirectory() as folder:
        path, told = slide or Path(folder) / "slide.tif", Path(folder) / "told.json"
        if slide is None:
            write_slide(path, 3072)
        command = [sys.executable, str(Path(__file__).with_name("predict_peers.py")), "--slide", str(path)]
        command += ["--peer", peer, "--rounds", str(rounds), "--json", str(told)]
        command += ["--packages", str(packages)] if packages else []
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads(told.read_text())


def memory(*, quick: bool) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for side in (5_000, 20_000) if quick else (5_000, 20_000, 100_000):
        told = in_child(side)
        figures[f"peak_mb_{side // 1000}k"] = told["peak_mb"]
        figures |= {"after_last_block_s": told["after_last_block_s"], "predicted_cells": told["cells"]}
    return figures


def on_made_slide(stages: Collection[str], *, quick: bool) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    model = make_model("resnet18", len(CLASSES), weights="random").eval()
    side, rounds = (6144, 3) if quick else (10240, 7)
    config = replace(CONFIG, batch_size=8 if quick else 16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.tif"
        write_slide(path, side)
        if "overlap" in stages:
            figures["wall_over_max_read_forward"] = overlap(path, model, config, 2, rounds)
            figures["wall_over_max_read_forward_equal"] = overlap(path, model, config, 1, rounds)
        if "decodes" in stages:
            figures["decodes_per_tile"] = decodes_per_tile(path, model)
        if "forward" in stages:
            figures["forward_share_cpu"] = forward_share(path, model, 8 if quick else 16)
    return figures


STAGES = ("memory", "overlap", "decodes", "forward", "peer")


def measure(stages: Collection[str], *, quick: bool, slide: Path | None, packages: Path | None) -> dict[str, Any]:
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    if "memory" in stages:  # first, while this process is small: a child's peak begins with its parent's
        figures |= memory(quick=quick)
    if {"overlap", "decodes", "forward"} & set(stages):
        figures |= on_made_slide(stages, quick=quick)
    if "peer" in stages:
        figures |= ratio_to_peer(slide, packages, 1 if quick else 3)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller slides, fewer rounds, none of 100,000 px")
    parser.add_argument("--only", action="append", choices=STAGES, help="measure this alone; repeat for more")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--slide", type=Path, help="a slide that openslide opens, to compare with a peer")
    parser.add_argument("--packages", type=Path, help="where tiatoolbox was installed, unless it is beside us")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(arguments.child)))
        return
    stages = arguments.only or STAGES
    figures = measure(stages, quick=arguments.quick, slide=arguments.slide, packages=arguments.packages)
    for name, value in figures.items():
        print(f"{name:36} {value if isinstance(value, str) else format(value, '9.3f')}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
