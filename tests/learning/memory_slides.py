from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.levels import BACKGROUND, Level
from napari_slidecorr.regions import Region, RegionSet, polygon_from_rings
from napari_slidecorr.slide import Slide

SIZE_PX = 32
CLASSES = ("stroma", "tumour")
COLOURS = ((225, 160, 190), (120, 70, 150))


class MemorySource:
    """A slide that is an array."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.path = Path("memory.tif")
        self.pixels = pixels
        self.levels = (Level((pixels.shape[0], pixels.shape[1]), (1.0, 1.0), (64, 64)),)
        self.mpp, self.mpp_source, self.properties = None, "", {}

    def read_level(self, level: int, y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
        assert level == 0
        out = np.full((height, width, 3), BACKGROUND, np.uint8)
        y0, x0 = max(y, 0), max(x, 0)
        part = self.pixels[y0 : max(0, y + height), x0 : max(0, x + width)]
        out[y0 - y : y0 - y + part.shape[0], x0 - x : x0 - x + part.shape[1]] = part
        return out

    def close(self) -> None:
        pass


def two_class_slide(slide_id: str, seed: int, side: int = 192) -> Slide:
    """Left half of class 0, right half of class 1, each slide with a tint of its own; a strip of glass below."""
    rng = np.random.default_rng(seed)
    pixels = np.empty((side + 64, side, 3), np.float64)
    pixels[:, : side // 2], pixels[:, side // 2 :] = COLOURS
    pixels += rng.normal(0, 12, 3) + rng.normal(0, 10, pixels.shape)
    pixels[side:] = 250
    return Slide(slide_id, MemorySource(np.clip(pixels, 0, 255).astype(np.uint8)), (0.5, 0.5), "user")


def halves(side: int = 192) -> RegionSet:
    def rectangle(x0: int, x1: int) -> list[tuple[float, float]]:
        return [(0, x0), (side, x0), (side, x1), (0, x1)]

    left, right = (0, side // 2), (side // 2, side)
    regions = [Region(n, polygon_from_rings(rectangle(*s))) for n, s in zip(CLASSES, (left, right), strict=True)]
    return RegionSet(tuple(regions))
