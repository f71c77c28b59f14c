"""What the window shows: a map over a slide, compared pixel by pixel with the slide alone."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from napari_slidecorr._napari.layers import add_slide
from napari_slidecorr._napari.map_layers import MapView
from napari_slidecorr.geometry import Grid
from napari_slidecorr.levels import Level
from napari_slidecorr.prediction_map import PredictionMap
from napari_slidecorr.slide import Slide

STRIDE, SHAPE = 32, (640, 832)


@dataclass(frozen=True)
class Squares:
    """A slide that is green exactly where the cells (3..6, 4..9) and (12..14, 15..20) of a map are drawn."""

    path: Path = Path("squares.tif")
    levels: tuple = (Level(SHAPE, (1, 1), (256, 256)), Level((160, 208), (4, 4), (256, 256)))
    mpp: tuple | None = None
    mpp_source: str = ""
    properties: dict = field(default_factory=dict)

    def read_level(self, level, y, x, height, width):
        whole = np.full((*SHAPE, 3), (230, 200, 230), np.uint8)
        for rows, columns in ((slice(3, 7), slice(4, 10)), (slice(12, 15), slice(15, 21))):
            places = (slice(round((s.start - 0.5) * STRIDE), round((s.stop - 0.5) * STRIDE)) for s in (rows, columns))
            whole[tuple(places)] = (0, 200, 0)
        whole = whole[:: 4**level, :: 4**level]
        out = np.full((height, width, 3), 255, np.uint8)
        part = whole[y : y + height, x : x + width]
        out[: part.shape[0], : part.shape[1]] = part
        return out

    def close(self):
        pass


@pytest.mark.parametrize("mpp", [None, (0.25, 0.25)])
@pytest.mark.parametrize("cell", [32, 64])
def test_the_map_lies_on_the_slide_to_the_pixel(qtbot, make_napari_viewer, mpp, cell):
    viewer = make_napari_viewer(show=True)
    viewer.window._qt_window.resize(1300, 900)
    slide = Slide("squares", Squares(), mpp, "user")
    add_slide(viewer, slide)
    viewer.reset_view()
    viewer.camera.zoom = 1 / (mpp or (1, 1))[0]
    qtbot.wait(200)  # a window that was never painted must not get further layers
    grid = Grid.over(SHAPE, (cell, cell), (STRIDE, STRIDE), mpp)
    values = np.full((2, *grid.shape), np.nan, np.float32)
    for rows, columns in ((slice(3, 7), slice(4, 10)), (slice(12, 15), slice(15, 21))):
        values[0, rows, columns], values[1, rows, columns] = 0.9, 0.1
    view = MapView(viewer, PredictionMap(values, ("a", "b"), grid, "squares", "m"), {"a": (255, 0, 0)})
    view.class_map.opacity = 1
    view.class_map.visible = False  # the window is laid out with the layer already
    qtbot.wait(200)
    alone = viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)
    green = (alone[..., 1] > 150) & (alone[..., 0] < 80)
    assert 30_000 < green.sum() < 50_000, "the slide's squares are in view"
    view.class_map.visible = True
    qtbot.wait(200)
    over = viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)
    red = (over[..., 0] > 200) & (over[..., 1] < 60)
    still_green = (over[..., 1] > 150) & (over[..., 0] < 80)
    for axis in (0, 1):
        for found, wanted in zip(edges(red, axis), edges(green, axis), strict=True):
            assert abs(found - wanted) <= 1
    assert still_green.sum() <= 1300, "no more than a line of one pixel along the edges is not covered"


def edges(mask, axis):
    """Where the rows (0) or columns (1) that have any such pixel begin and end."""
    line = mask.any(axis=1 - axis).astype(int)
    return np.flatnonzero(np.diff(line))
