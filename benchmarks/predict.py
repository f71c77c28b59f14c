"""What a prediction costs beyond its forward passes: waiting for tiles, memory, and what is left after the last block.

`python benchmarks/predict.py --quick --json predict.json`

- ``wall_over_max_read_forward``: the forward only waits, twice as long as reading takes; ``..._equal``: just as long.
- ``decodes_per_tile``: decoded tiles over distinct ones in a sweep of a slide that the cache does not hold, in blocks of
  16 cells; only tiles between two columns of blocks are decoded twice, a quarter as many with the usual 64 cells.
- ``forward_share_cpu``: time in a real ResNet-18 over all time, patches of 224 px.
- ``peak_mb_*``: largest resident memory of a process that predicts a made slide of that many pixels a side.
- ``after_last_block_s``: from the last block to the complete map, on the largest slide.
- ``ratio_to_peer`` (with ``--slide``): patches a second over those of a loop as WSInfer documents its own (a DataLoader, each worker
  reads a patch with ``openslide.read_region``, turns it into a tensor and normalizes it; batches of 32 into the same network with
  the same weights, on the same cells). The loop is ours, after that description; it is not WSInfer itself.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
import torch
from PIL import Image

from napari_slidecorr.config import PredictConfig
from napari_slidecorr.events import BlockDone, drain
from napari_slidecorr.geometry import PatchGeometry
from napari_slidecorr.io import open_slide
from napari_slidecorr.learning import inference
from napari_slidecorr.learning.models import PatchClassifier, make_model, save_model
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.project import Project

CLASSES = ("one", "two", "three")
SPEC = ModelSpec(
    backbone="resnet18", classes=CLASSES, geometry=PatchGeometry(224, None), mean=(0.5,) * 3, std=(0.5,) * 3,
    objective={"kind": "ce"}, train_slides=(), validation_slides=(), initial_weights="random",
    weights_sha256="0" * 64, package_version="0",
)  # fmt: skip
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


def overlap(path: Path, model: PatchClassifier, config: PredictConfig, times: float, rounds: int) -> float:
    """Best of some rounds: wall / max(reading alone, waiting alone), with a wait so many times as long as the reading."""
    cells = inference.prediction_grid(open_slide(path), SPEC, config).shape
    batches = -(-cells[0] * cells[1] // config.batch_size)
    ratios = []
    for _ in range(rounds):
        read = sweep_seconds(path, model, config, 0)
        wait = times * read / batches
        ratios.append(sweep_seconds(path, model, config, wait) / max(read, wait * batches))
    return min(ratios)


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


class PeerPatches(torch.utils.data.Dataset[torch.Tensor]):
    """The patches of cells as tensors, read with openslide at level 0 by whichever process asks."""

    def __init__(self, path: Path, boxes: list[tuple[int, int]], model: PatchClassifier) -> None:
        self.path, self.boxes, self.size, self.slide = path, boxes, SPEC.geometry.size_px, None
        self.mean, self.std = (torch.tensor(values).reshape(3, 1, 1) for values in (model.mean, model.std))

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: int) -> torch.Tensor:
        import openslide

        self.slide = self.slide or openslide.OpenSlide(self.path)
        y, x = self.boxes[index]
        picture = self.slide.read_region((x, y), 0, (self.size, self.size)).convert("RGB")
        tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
        return (tensor - self.mean) / self.std


def peer_seconds(path: Path, model: PatchClassifier, boxes: list[tuple[int, int]]) -> tuple[float, np.ndarray]:
    """Wall time of the peer's loop, its workers' start included, and the probabilities."""
    start = time.perf_counter()
    loader = torch.utils.data.DataLoader(PeerPatches(path, boxes, model), batch_size=32, num_workers=1)
    with torch.inference_mode():
        found = [torch.softmax(model(batch).logits, dim=1).numpy() for batch in loader]
    return time.perf_counter() - start, np.concatenate(found)


def ratio_to_peer(path: Path, rounds: int) -> dict[str, float]:
    """Ours and the peer's in turn on one slide; the medians' ratio, above 1 where ours is faster."""
    config, ours, theirs = replace(CONFIG, batch_size=32), [], []
    grid = inference.prediction_grid(open_slide(path), SPEC, config)
    boxes = [(b.y0, b.x0) for b in (grid.patch_box(i, j) for i in range(grid.shape[0]) for j in range(grid.shape[1]))]
    for _ in range(rounds):
        model = make_model("resnet18", len(CLASSES), weights="random", seed=0).eval()
        seconds, peers = peer_seconds(path, model, boxes)  # before ours: that changes the layout of the weights
        theirs.append(seconds)
        start = time.perf_counter()
        found = drain(inference.predict(open_slide(path), model, SPEC, config))
        ours.append(time.perf_counter() - start)
    difference = float(np.abs(found.probabilities.reshape(len(CLASSES), -1).T - peers).max())
    return {
        "ratio_to_peer": float(np.median(theirs) / np.median(ours)),
        "patches_per_s": len(boxes) / float(np.median(ours)),
        "peer_patches_per_s": len(boxes) / float(np.median(theirs)),
        "largest_difference_to_peer": difference,
    }


def measure(*, quick: bool, slide: Path | None) -> dict[str, float]:
    torch.set_num_threads(1)
    figures: dict[str, float] = {}
    # First, while this process is small: a child's peak begins with its parent's.
    for side in (5_000, 20_000) if quick else (5_000, 20_000, 100_000):
        told = in_child(side)
        figures[f"peak_mb_{side // 1000}k"] = told["peak_mb"]
        figures["after_last_block_s"] = told["after_last_block_s"]
    model = make_model("resnet18", len(CLASSES), weights="random").eval()
    side, rounds = (6144, 2) if quick else (10240, 3)
    config = replace(CONFIG, batch_size=8 if quick else 16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.tif"
        write_slide(path, side)
        figures["wall_over_max_read_forward"] = overlap(path, model, config, 2, rounds)
        figures["wall_over_max_read_forward_equal"] = overlap(path, model, config, 1, rounds)
        figures["decodes_per_tile"] = decodes_per_tile(path, model)
        figures["forward_share_cpu"] = forward_share(path, model, 8 if quick else 16)
    if slide is not None:
        figures |= ratio_to_peer(slide, 1 if quick else 3)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller slides, fewer rounds, none of 100,000 px")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--slide", type=Path, help="a slide that openslide opens, to compare with a peer's loop")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(arguments.child)))
        return
    figures = measure(quick=arguments.quick, slide=arguments.slide)
    for name, value in figures.items():
        print(f"{name:36} {value:9.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
