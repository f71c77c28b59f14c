import numpy as np
import pytest

from napari_slidecorr.geometry import Grid
from napari_slidecorr.tissue import TissueMask, tissue_of_picture


def picture(tissue=(180, 100, 160), glass=(243, 242, 244), noise=3):
    rng = np.random.default_rng(0)
    out = np.full((200, 300, 3), glass, float)
    out[50:150, 80:220] = tissue
    return (out + rng.normal(0, noise, out.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("tissue", [(180, 100, 160), (225, 200, 220), (120, 90, 150)])
def test_finds_a_rectangle_of_tissue(tissue):
    mask = tissue_of_picture(picture(tissue))
    truth = np.zeros((200, 300), bool)
    truth[50:150, 80:220] = True
    assert (mask & truth).sum() / (mask | truth).sum() > 0.97


def test_glass_alone_is_no_tissue():
    assert tissue_of_picture(picture(tissue=(243, 242, 244))).mean() < 0.01


def test_a_slide_full_of_tissue_is_found_whole():
    rng = np.random.default_rng(1)
    full = rng.normal((190, 110, 170), 18, (200, 200, 3)).clip(0, 255).astype(np.uint8)
    assert tissue_of_picture(full).mean() > 0.95


def test_black_is_neither():
    black = picture()
    black[:40] = 0
    assert not tissue_of_picture(black)[:38].any()


def test_cells_equal_means_over_the_drawn_cells():
    rng = np.random.default_rng(2)
    mask = TissueMask(rng.random((50, 70)) < 0.3, (4.0, 4.0))
    grid = Grid.over((200, 280), (32, 32), (16, 16))
    found = mask.cells(grid, 0.3)
    assert found.shape == (13, 18)
    rows, columns = ([int(edge // 4) for edge in grid.cell_edges_px(axis)] for axis in (0, 1))  # whole pixels
    for row, column in np.ndindex(*found.shape):
        part = mask.mask[rows[row] : rows[row + 1], columns[column] : columns[column + 1]]
        assert found[row, column] == (part.mean() >= 0.3)


def test_a_cell_of_glass_beside_tissue_is_left_out():
    mask = TissueMask(np.pad(np.ones((40, 40), bool), 20), (1.0, 1.0))
    grid = Grid.over((80, 80), (40, 40), (20, 20))
    assert mask.cells(grid).sum(axis=0).tolist() == [0, 3, 3, 3, 0]


def test_cells_smaller_than_a_pixel_of_the_mask_take_the_pixel_they_lie_in():
    mask = TissueMask(np.asarray([[True, False], [False, True]]), (100.0, 100.0))
    found = mask.cells(Grid.over((200, 200), (10, 10), (10, 10)))
    assert found.shape == (21, 21)
    assert found[:10, :10].all()
    assert not found[:10, 11:].any()
