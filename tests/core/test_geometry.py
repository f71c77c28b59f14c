import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_slidecorr.errors import ConfigError, SlideError
from napari_slidecorr.geometry import Box, Grid, PatchGeometry


def test_a_box_that_ends_before_it_begins_is_refused():
    assert Box(2, 3, 5, 7).shape == (3, 4)
    assert Box(2, 3, 2, 7).shape == (0, 4)
    assert Box(2, 3, 5, 3).shape == (3, 0)
    with pytest.raises(ConfigError, match=r"^Box\(y0=5, x0=0, y1=4, x1=1\) ends before it begins\.$"):
        Box(5, 0, 4, 1)
    with pytest.raises(ConfigError, match="ends before"):
        Box(0, 5, 1, 4)


@pytest.mark.parametrize(
    ("size", "mpp", "slide", "expected"),
    [
        pytest.param(224, 0.5, (0.25, 0.25), (448, 448), id="finer slide"),
        pytest.param(224, 0.5, (0.499, 0.499), (224, 224), id="nearly the same"),
        pytest.param(100, 1.0, (0.5, 0.25), (200, 400), id="y and x apart"),
        pytest.param(16, 0.01, (0.5, 0.5), (1, 1), id="never nothing"),
        pytest.param(64, None, None, (64, 64), id="level-0 pixels"),
        pytest.param(64, None, (0.25, 0.25), (64, 64), id="level-0 pixels whatever they are"),
    ],
)
def test_footprint(size, mpp, slide, expected):
    assert PatchGeometry(size, mpp).footprint_px(slide) == expected


def test_a_slide_without_mpp_is_asked_for_it():
    ways = r"Set it in the Slides dock, with `slidecorr set PROJECT SLIDE --mpp SIZE`, or with open_slide\(mpp=...\)\.$"
    with pytest.raises(SlideError, match=rf"^a\.svs: no physical pixel size.*at 0\.5 um/px\. {ways}"):
        PatchGeometry(224, 0.5).footprint_px(None, "a.svs")
    with pytest.raises(SlideError, match=r"^the slide: "):
        PatchGeometry(224, 0.5).footprint_px(None)


def test_translate_of_cells_from_the_corner_is_half_a_stride_minus_half_a_pixel():
    grid = Grid((13, 13), (0, 0), (8, 8), (8, 8), (0.5, 0.25))
    assert grid.translate == (3.5 * 0.5, 3.5 * 0.25)
    assert grid.scale == (4.0, 2.0)
    assert grid.corner_px == (0, 0)


def test_the_first_cell_of_a_slide_is_centred_on_its_corner():
    grid = Grid.over((100, 100), (32, 32), (8, 8), (0.5, 0.5))
    assert grid.shape == (13, 13)
    assert grid.corner_px == (-4, -4)
    assert grid.translate == (-0.25, -0.25)
    assert grid.cell_edges_px(0)[:3] == [0, 4, 12]
    assert grid.cell_edges_px(0)[-2:] == [92, 100]


def test_patches_at_the_edge_are_moved_inwards():
    grid = Grid.over((100, 90), (32, 32), (8, 8))
    assert grid.patch_box(0, 0) == Box(0, 0, 32, 32)
    assert grid.patch_box(4, 5) == Box(16, 24, 48, 56)
    assert grid.patch_box(12, 11) == Box(68, 58, 100, 90)


def test_a_slide_smaller_than_a_patch_lies_in_its_middle():
    assert Grid.over((20, 90), (32, 32), (32, 32)).patch_box(0, 0) == Box(-6, 0, 26, 32)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 64), st.integers(0, 63))
def test_cells_tile_the_slide_and_each_patch_holds_its_cell(height, width, stride, more):
    cell = stride + more
    grid = Grid.over((height, width), (cell, cell), (stride, stride))
    assert all(-0.5 <= shift <= 0 for shift in grid.translate)
    for axis, length in enumerate((height, width)):
        edges, starts = grid.cell_edges_px(axis), grid.patch_starts_px(axis)
        assert edges[0] == 0
        assert edges[-1] == length
        assert all(low < high for low, high in itertools.pairwise(edges))
        for low, high, start in zip(edges[:-1], edges[1:], starts, strict=True):
            assert start <= low + 0.5
            assert high - 0.5 <= start + cell
            assert length < cell or 0 <= start <= length - cell


def test_a_stride_above_the_patch_would_leave_gaps_and_is_refused():
    with pytest.raises(ConfigError, match="stride_px"):
        Grid.over((10, 10), (4, 4), (5, 5))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 17))
def test_blocks_cover_every_cell_once(rows, columns, size):
    grid = Grid((rows, columns), (0, 0), (1, 1), (1, 1))
    seen = [
        (row, column)
        for r, c in grid.blocks(size)
        for row in range(r.start, r.stop)
        for column in range(c.start, c.stop)
    ]
    assert sorted(seen) == [(row, column) for row in range(rows) for column in range(columns)]


def test_a_grid_of_patches_that_are_not_square_keeps_y_and_x_apart():
    grid = Grid.over((100, 91), (15, 9), (10, 3), (0.5, 0.25))
    assert grid.origin_px == (-7, -4)
    assert all(isinstance(value, int) for value in grid.origin_px)
    assert grid.patch_box(2, 3) == Box(13, 5, 28, 14)
    assert grid.scale == (5.0, 0.75)
    assert grid.translate == (0.0, 0.0)


@pytest.mark.parametrize(("length", "start"), [(9, 0), (8, 0), (5, -2)])
def test_a_patch_that_is_as_large_as_the_slide_or_larger_lies_around_its_middle(length, start):
    grid = Grid((1, 1), (3, 3), (8, 8), (8, 8), None, (length, length))
    expected = 1 if length == 9 else start
    assert grid.patch_starts_px(0) == [expected]
    assert isinstance(grid.patch_starts_px(0)[0], int)


def test_the_cell_below_a_place_is_the_one_that_is_drawn_there():
    grid = Grid.over((100, 60), (15, 9), (10, 3))
    for axis in (0, 1):
        edges = grid.cell_edges_px(axis)
        middles = [(low + high) / 2 for low, high in itertools.pairwise(edges)]
        assert grid.cells_at(axis, np.array(middles)).tolist() == list(range(grid.shape[axis]))
    first, last = grid.corner_px[0], grid.corner_px[0] + 10 * grid.shape[0]
    places = np.array([first - 0.01, first, first + 9.99, first + 10, last - 0.01, last])
    assert grid.cells_at(0, places).tolist() == [-1, 0, 0, 1, grid.shape[0] - 1, -1]
    assert grid.cells_at(0, places).dtype == np.int64
