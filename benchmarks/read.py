"""How much reading costs beyond decoding: random places, a sweep, threads, and opening.

Everything is held against decoding the same tiles in the same process, in interleaved rounds, as CPU time; the ratio is
the result. `python benchmarks/read.py --quick --json read.json`
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from napari_slidecorr.io import open_slide
from napari_slidecorr.io.tiles import Key, Tile, TileReader
from napari_slidecorr.slide import Slide

TILE = 256


def write_slide(path: Path, side: int) -> None:
    """An SVS-like pyramid: JPEG 4:2:0 at quality 80 over coloured noise that codes to about 14 kB a tile."""
    rng = np.random.default_rng(0)
    block = Image.fromarray(rng.integers(60, 255, (256, 256, 3), np.uint8)).resize(
        (1024, 1024), Image.Resampling.BICUBIC
    )
    block = np.asarray(block)

    def tiles() -> Iterator[np.ndarray]:
        for row in range(side // TILE):
            for column in range(side // TILE):
                y, x = row * TILE % 1024, column * TILE % 1024
                yield np.roll(block, (row * 37, column * 53), (0, 1))[y : y + TILE, x : x + TILE]

    tifffile.imwrite(
        path, tiles(), shape=(side, side, 3), dtype=np.uint8, tile=(TILE, TILE), photometric="rgb",
        compression="jpeg", compressionargs={"level": 80}, subsampling=(2, 2), metadata=None,
    )  # fmt: skip


def cpu_seconds(results: Iterable[object]) -> float:
    """CPU time of taking one result after the other and dropping it."""
    start = time.process_time()
    for _ in results:
        pass
    return time.process_time() - start


def uncached(slide: Slide) -> tuple[Any, TileReader]:
    """A reader of level 0 that keeps one tile: what is measured is reading, not remembering."""
    source = getattr(slide.source, "source", slide.source)
    return source, TileReader(source.levels, source.tiles.load, capacity_bytes=1)


def touched(y: int, x: int, size: int) -> list[Key]:
    return [
        (0, r, c) for r in range(y // TILE, -(-(y + size) // TILE)) for c in range(x // TILE, -(-(x + size) // TILE))
    ]


def random_reads(slide: Slide, size: int, rounds: int, reads: int, side: int) -> float:
    """Median over rounds of read CPU / decode CPU, fresh places every round."""
    source, reader = uncached(slide)
    rng, ratios = np.random.default_rng(size), []
    for _ in range(rounds):
        places = [tuple(map(int, rng.integers(0, side - size, 2))) for _ in range(reads)]
        raw = cpu_seconds(source.tiles.load(*key) for y, x in places for key in touched(y, x, size))
        ours = cpu_seconds(reader.read(0, y, x, size, size) for y, x in places)
        ratios.append(ours / raw)
    return statistics.median(ratios)


def sweep(slide: Slide, side: int, rows: int, threads: int) -> tuple[float, float]:
    """CPU over decoding each distinct tile once, and decodes per distinct tile, in a sweep of 224-px patches."""
    source = getattr(slide.source, "source", slide.source)
    loads, load = Counter(), source.tiles.load

    def counting(*key: int) -> Tile:
        loads[key] += 1
        return load(*key)

    reader = TileReader(source.levels, counting)
    places = [(y, x) for y in range(0, rows * TILE - 224, 224) for x in range(0, side - 224, 224)]
    distinct = sorted({key for y, x in places for key in touched(y, x, 224)})
    raw = cpu_seconds(load(*key) for key in distinct)

    def read(place: tuple[int, int]) -> tuple[int, ...]:
        return reader.read(0, *place, 224, 224).shape

    with ThreadPoolExecutor(threads) as pool:
        ours = cpu_seconds((map if threads == 1 else pool.map)(read, places))
    return ours / raw, sum(loads.values()) / len(distinct)


def open_ms(path: Path) -> float:
    start = time.perf_counter()
    open_slide(path)
    return (time.perf_counter() - start) * 1e3


def measure(path: Path, side: int, rounds: int, reads: int) -> dict[str, float]:
    write_slide(path, side)
    slide = open_slide(path)
    figures = {"open_ms": statistics.median(open_ms(path) for _ in range(rounds))}
    for size in (256, 512, 1024):
        figures[f"random_{size}_over_decode"] = random_reads(slide, size, rounds, reads * 256 // size, side)
    for threads in (1, 8):
        figures[f"sweep_{threads}_over_decode"], figures[f"sweep_{threads}_decodes_per_tile"] = sweep(
            slide, side, side // TILE // 2, threads
        )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small slide and few rounds")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        side, rounds, reads = (4096, 5, 60) if arguments.quick else (16384, 15, 200)
        figures = measure(Path(folder) / "slide.tif", side, rounds, reads)
    for name, value in figures.items():
        print(f"{name:32} {value:8.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
