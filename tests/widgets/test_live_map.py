"""The live map without a window: what is written, and what is painted of it."""

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_slidecorr._napari.live_map import LiveMap
from napari_slidecorr.geometry import Grid
from napari_slidecorr.live_events import LiveCells

CLASSES = ("stroma", "tumour")


def cells(shown, version=1):
    places = np.argwhere(np.ones((2, 2), bool)).astype(np.int32)
    probabilities = np.full((4, 2), 0.5, np.float32)
    grid = Grid.over((100, 100), (50, 50), (50, 50), (0.5, 0.5))
    return LiveCells(
        phase="Painting",
        slide_id="a",
        version=version,
        grid=grid,
        cells=places,
        shown=np.asarray(shown, np.uint8),
        probabilities=probabilities,
        classes=CLASSES,
        in_view=True,
        last=True,
    )


@pytest.fixture
def live_map():
    return LiveMap(ViewerModel(), cells([1, 1, 2, 2]), {"stroma": (255, 0, 0), "tumour": (0, 0, 255)})


def test_a_map_is_painted_only_where_it_looks_otherwise_but_news_are_told(live_map):
    painted = []
    live_map.layer.refresh = lambda **_: painted.append(live_map.layer.data.copy())
    live_map.write(cells([1, 1, 2, 2]))
    assert live_map.refresh()
    live_map.write(cells([1, 1, 2, 2], version=2))
    assert live_map.refresh()
    assert (len(painted), live_map.version) == (1, 2)
    live_map.write(cells([1, 2, 2, 2], version=3))
    assert live_map.refresh()
    assert not live_map.refresh()
    assert painted[-1][:2, :2].tolist() == [[1, 2], [2, 2]]


def test_the_users_opacity_stays_and_comes_back_after_a_wait(live_map):
    live_map.layer.opacity = 0.8
    live_map.wait(waiting=False)
    assert live_map.layer.opacity == 0.8
    live_map.wait(waiting=True)
    assert (live_map.layer.opacity, live_map.layer.name) == (0.2, "a live (waits)")
    live_map.wait(waiting=False)
    assert (live_map.layer.opacity, live_map.layer.name) == (0.8, "a live")
