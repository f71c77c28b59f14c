from dataclasses import replace

import numpy as np
import pytest

from napari_slidecorr.errors import MapError
from napari_slidecorr.geometry import Grid
from napari_slidecorr.map_comparison import MapComparison
from napari_slidecorr.prediction_map import PredictionMap


def a_map(stride, *, seed=0, classes=("a", "b"), slide_id="s", slide=(300, 230)):
    grid = Grid.over(slide, (32, 32), (stride, stride))
    rng = np.random.default_rng(seed)
    first = rng.random(grid.shape, np.float32)
    first[rng.random(grid.shape) < 0.2] = np.nan
    values = np.stack([first, 1 - first])[: len(classes)]
    return PredictionMap(values, classes, grid, slide_id, "m")


def test_the_same_map_does_not_differ_from_itself():
    one = a_map(32)
    comparison = MapComparison(one, one)
    assert comparison.classes == ("a", "b")
    for values in (comparison.difference("a"), comparison.disagreement()):
        np.testing.assert_array_equal(values[one.predicted], 0)
        assert np.isnan(values[~one.predicted]).all()


def test_the_difference_is_one_less_the_other():
    one, other = a_map(32), a_map(32, seed=1)
    both = one.predicted & other.predicted
    found = MapComparison(one, other).difference("b")
    np.testing.assert_array_equal(found[both], (one.probabilities[1] - other.probabilities[1])[both])
    assert np.isnan(found[~both]).all()
    np.testing.assert_array_equal(found, -MapComparison(other, one).difference("b"))
    argmax = one.class_map() != other.class_map()
    np.testing.assert_array_equal(MapComparison(one, other).disagreement()[both], argmax[both])


@pytest.mark.parametrize("strides", [(32, 8), (8, 32), (16, 24)])
def test_cells_of_another_stride_are_found_at_the_centre(strides):
    one, other = (a_map(stride, seed=stride) for stride in strides)
    found = MapComparison(one, other).difference("a")
    edges = [one.grid.cell_edges_px(axis) for axis in (0, 1)]
    for row in range(one.grid.shape[0]):
        for column in range(one.grid.shape[1]):
            y, x = ((edges[a][i] + edges[a][i + 1]) / 2 for a, i in enumerate((row, column)))
            i, j = (int((c - other.grid.corner_px[a]) // strides[1]) for a, c in enumerate((y, x)))
            expected = one.probabilities[0, row, column] - other.probabilities[0, i, j]
            np.testing.assert_array_equal(found[row, column], expected)


def test_beyond_the_second_map_there_is_nothing():
    one = a_map(32)
    part = Grid((2, 3), one.grid.origin_px, one.grid.stride_px, one.grid.cell_px)
    small = replace(one, probabilities=np.full((2, 2, 3), 0.5, np.float32), grid=part)
    found = np.isfinite(MapComparison(one, small).difference("a"))
    assert not found[2:].any()
    assert not found[:, 3:].any()
    assert found[:2, :3].any()


def test_classes_are_compared_by_name():
    one = a_map(32)
    turned = replace(one, probabilities=one.probabilities[::-1].copy(), classes=("b", "a"))
    comparison = MapComparison(one, turned)
    np.testing.assert_array_equal(comparison.difference("a")[one.predicted], 0)
    np.testing.assert_array_equal(comparison.disagreement()[one.predicted], 0)


def test_maps_that_cannot_be_compared_are_refused():
    with pytest.raises(MapError, match="map of s cannot be compared with one of t"):
        MapComparison(a_map(32), a_map(32, slide_id="t"))
    with pytest.raises(MapError, match="share no class"):
        MapComparison(a_map(32), a_map(32, classes=("c", "d")))
