"""A million reads at random places in eight threads, each compared with the whole picture: `wrong` must be 0.

The cache holds a third of the tiles, so that they come and go all the time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tifffile

from napari_slidecorr.io import open_slide

SIDE, TILE, PATCH, THREADS = 960, 32, 24, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reads", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    padded = np.pad(pixels, ((PATCH, PATCH), (PATCH, PATCH), (0, 0)), constant_values=255)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noise.tif"
        tifffile.imwrite(path, pixels, tile=(TILE, TILE), photometric="rgb", metadata=None)
        source = open_slide(path).source
        source.tiles.cache.capacity_bytes = pixels.nbytes // 3
        places = rng.integers(-PATCH, SIDE, (arguments.reads, 2))

        def wrong(part: np.ndarray) -> int:
            return sum(
                source.read_level(0, y, x, PATCH, PATCH).tobytes()
                != padded[y + PATCH : y + 2 * PATCH, x + PATCH : x + 2 * PATCH].tobytes()
                for y, x in part.tolist()
            )

        start = time.perf_counter()
        with ThreadPoolExecutor(THREADS) as pool:
            count = sum(pool.map(wrong, np.array_split(places, THREADS)))
    figures = {"reads": arguments.reads, "threads": THREADS, "wrong": count, "seconds": time.perf_counter() - start}
    print(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
