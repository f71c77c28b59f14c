"""Slides to measure on: a large mosaic of tissue, coded as scanners do, and one of 100,000 x 100,000 px that is nearly empty."""

import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile

from napari_slidecorr.geometry import Box
from napari_slidecorr.io import open_slide
from napari_slidecorr.sample_data import make_cohort
from napari_slidecorr.slide import Slide

TILE = 256
FACTORS = (1, 4, 16)
_BLOCK = 1024


def tissue_block(path: Path | None) -> np.ndarray:
    """The most structured 1024 px of a slide, shape (1024, 1024, 3); of a made-up one where no path is given."""
    if path is not None:
        return _most_structured(open_slide(path))
    with tempfile.TemporaryDirectory() as folder:
        *_, made = make_cohort(Path(folder), slides=4, size_px=3072)
        slide = open_slide(made.result[0].path)
        block = _most_structured(slide)
        slide.close()
    noise = np.random.default_rng(0).normal(0, 5, block.shape)  # a camera's, so that a tile codes to some 14 kB
    return np.clip(block + noise, 0, 255).astype(np.uint8)


def _most_structured(slide: Slide) -> np.ndarray:
    height, width = slide.shape
    corners = [
        (y, x)
        for y in range(0, max(1, height - _BLOCK), _BLOCK // 2)
        for x in range(0, max(1, width - _BLOCK), _BLOCK // 2)
    ]
    best = max(corners, key=lambda c: float(slide.read(Box(*c, c[0] + _BLOCK, c[1] + _BLOCK), 64).std()))
    return slide.read(Box(*best, best[0] + _BLOCK, best[1] + _BLOCK), _BLOCK)


def write_mosaic(path: Path, block: np.ndarray, side: int) -> None:
    """An SVS-like pyramid: JPEG 4:2:0 of quality 80 in tiles of 256 px, levels of factor 1, 4 and 16.

    Every tile is another crop of the block, turned and dimmed; levels do not show the same picture, which no timing sees.
    """
    rng = np.random.default_rng(1)

    def tiles(count: int) -> Iterator[np.ndarray]:
        for _ in range(count):
            y, x = rng.integers(0, _BLOCK - TILE, 2)
            tile = block[y : y + TILE, x : x + TILE]
            tile = tile[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
            yield np.ascontiguousarray(np.clip(tile * rng.uniform(0.9, 1.1), 0, 255).astype(np.uint8))

    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for factor in FACTORS:
            length = side // factor
            tif.write(
                tiles((-(-length // TILE)) ** 2), shape=(length, length, 3), dtype=np.uint8, tile=(TILE, TILE),
                photometric="rgb", compression="jpeg", compressionargs={"level": 80}, subsampling=(2, 2),
                subfiletype=int(factor > 1), metadata=None,
            )  # fmt: skip


def write_huge(path: Path, side: int = 100_000, written: float = 0.002, seed: int = 0) -> None:
    """A sparse pyramid of factor 2: a share of tiles with coloured stripes, all of them amid the slide and in coarse levels."""
    rng = np.random.default_rng(seed)
    ramp = np.add.outer(np.arange(TILE), np.arange(TILE)) % 128
    coded = [
        zlib.compress(np.stack([np.full_like(ramp, 120 + 9 * i), ramp + 60, 255 - ramp], 2).astype(np.uint8).tobytes())
        for i in range(8)
    ]

    def tiles(count: int, share: float) -> Iterator[bytes]:
        chosen = rng.random((count, count)) < share
        amid = slice(max(0, count // 2 - 20), count // 2 + 20)
        chosen[amid, amid] = True
        for one in chosen.flat:
            yield coded[rng.integers(8)] if one else b""

    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        length, factor = side, 1
        while True:
            share = 1.0 if length <= 4096 else min(1.0, written * factor**2)
            tif.write(
                tiles(-(-length // TILE), share), shape=(length, length, 3), dtype=np.uint8, tile=(TILE, TILE),
                photometric="rgb", compression="deflate", subfiletype=int(factor > 1), metadata=None,
                resolution=(40000 / factor, 40000 / factor), resolutionunit="CENTIMETER",
            )  # fmt: skip
            if length <= 1000:
                return
            length, factor = -(-length // 2), factor * 2
