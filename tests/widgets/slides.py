"""Slides in memory for tests of layers and docks."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from napari_slidecorr.levels import Level
from napari_slidecorr.slide import Slide


@dataclass(frozen=True)
class FlatSource:
    """Grey pixels of any size."""

    path: Path = Path("flat.tif")
    levels: tuple = (Level((1000, 1500), (1, 1), (256, 256)), Level((250, 375), (4, 4), (256, 256)))
    mpp: tuple | None = None
    mpp_source: str = ""
    properties: dict = field(default_factory=dict)

    def read_level(self, _level, _y, _x, height, width):
        return np.full((height, width, 3), 200, np.uint8)

    def close(self):
        pass


def flat_slide(slide_id="flat", mpp=(0.5, 0.5)):
    return Slide(slide_id, FlatSource(), mpp, "user")
