from dataclasses import replace

import numpy as np
import pytest

from napari_slidecorr.errors import MapError
from napari_slidecorr.geometry import Grid
from napari_slidecorr.metrics import accuracy, patch_auc, slide_probabilities
from napari_slidecorr.prediction_map import PredictionMap

GRID = Grid((2, 2), (0, 0), (100, 100), (100, 100), (0.5, 0.5))


def example():
    tumour = np.asarray([[0.9, 0.4], [np.nan, 0.55]], np.float32)
    return PredictionMap(np.stack([1 - tumour, tumour]), ("stroma", "tumour"), GRID, "a", "m")


def test_class_map_keeps_unsure_and_not_predicted_at_zero():
    assert example().class_map().tolist() == [[2, 1], [0, 2]]
    assert example().class_map(0.58).tolist() == [[2, 1], [0, 0]]


def test_the_models_own_bounds_are_the_default_and_a_threshold_overrules_them():
    own = replace(example(), bounds=(0.5, 0.25))
    assert own.class_map().tolist() == [[2, 0], [0, 2]]
    assert own.unsure().tolist() == [[False, True], [False, False]]
    assert own.area_mm2() == pytest.approx({"stroma": 0.0, "tumour": 0.005})
    for threshold in (0.0, 0.58):
        np.testing.assert_array_equal(own.class_map(threshold), example().class_map(threshold))
    with pytest.raises(MapError, match="bounds"):
        replace(example(), bounds=(0.5,))


def test_slide_score_is_the_mean_of_the_patches():
    assert example().slide_score()["tumour"] == pytest.approx((0.9 + 0.4 + 0.55) / 3)


def test_area_counts_the_stride():
    assert example().area_mm2() == pytest.approx({"stroma": 0.0025, "tumour": 0.005})


def test_an_empty_map_has_no_score_and_a_wrong_shape_is_refused():
    with pytest.raises(MapError, match="no patch"):
        PredictionMap.empty(("a", "b"), GRID, "s", "m").slide_score()
    with pytest.raises(MapError, match="shape"):
        PredictionMap(np.zeros((2, 3, 2), np.float32), ("a", "b"), GRID, "s", "m")


def test_auc_by_counting_pairs():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 60)
    score = rng.normal(size=60).round(1)
    pairs = [(p > n) + 0.5 * (p == n) for p in score[label == 1] for n in score[label == 0]]
    assert patch_auc(label, np.stack([-score, score], axis=1)) == pytest.approx(np.mean(pairs))


def test_auc_of_one_class_is_undefined_and_of_three_is_the_mean_of_those_that_occur():
    assert np.isnan(patch_auc(np.zeros(3, int), np.ones((3, 2))))
    label = np.asarray([0, 0, 2, 2])
    probabilities = np.asarray([[0.8, 0, 0.2], [0.6, 0, 0.4], [0.3, 0, 0.7], [0.7, 0, 0.3]])
    assert patch_auc(label, probabilities) == pytest.approx(0.75)


def test_accuracy_and_slide_means():
    probabilities = np.asarray([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    assert accuracy(np.asarray([0, 1, 1]), probabilities) == pytest.approx(2 / 3)
    means = slide_probabilities(np.asarray([4, 4, 9]), probabilities)
    assert means[4].tolist() == pytest.approx([0.55, 0.45])
