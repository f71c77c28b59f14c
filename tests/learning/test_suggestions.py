"""What is uncertain, which slides need labels, and that a list goes from slide to slide."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_slidecorr.learning.suggestions import (
    APART,
    choose,
    disagreement,
    entropy,
    margin,
    uncertainty_of,
)


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        pytest.param([1, 0, 0], 0.0, id="sure"),
        pytest.param([1 / 3, 1 / 3, 1 / 3], 1.0, id="alike"),
        pytest.param([0.5, 0.5, 0], math.log(2) / math.log(3), id="two of three"),
    ],
)
def test_entropy_is_a_share_of_the_largest(row, wanted):
    assert entropy(np.array([row]))[0] == pytest.approx(wanted, abs=1e-6)


def test_margin_is_one_where_two_classes_are_alike():
    np.testing.assert_allclose(margin(np.array([[0.5, 0.5, 0], [1, 0, 0], [0.6, 0.1, 0.3]])), [1, 0, 0.7])


def test_disagreement_of_one_head_is_nothing_and_of_opposite_heads_a_half():
    one = np.array([[[1.0, 0.0], [0.2, 0.8]]])
    np.testing.assert_array_equal(disagreement(one), [0, 0])
    opposite = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    np.testing.assert_allclose(disagreement(opposite), [0.5])


def rows(count, classes, seed):
    values = np.random.default_rng(seed).dirichlet(np.ones(classes), count)
    return values.astype(np.float32)


@given(st.integers(1, 40), st.integers(2, 5), st.integers(0, 4), st.integers(0, 1000))
def test_all_measures_lie_between_0_and_1(count, classes, heads, seed):
    by_head = (
        np.stack([rows(count, classes, seed + i) for i in range(heads)]) if heads else np.zeros((0, count, classes))
    )
    found = uncertainty_of(rows(count, classes, seed), by_head)
    for values in (found.entropy, found.margin, found.disagreement, found.total):
        assert values.shape == (count,)
        assert ((values >= 0) & (values <= 1 + 1e-6)).all()


def needs_of(labelled, looks):
    """What the first patch of each slide is told to need, were it the only one to choose."""
    alone = [choose(np.ones(1), np.array([s]), np.zeros((1, 2), int), labelled, looks, 1) for s in range(len(looks))]
    return [each.need for (each,) in alone]


def test_a_slide_without_labels_needs_them_most_and_so_does_its_stain():
    looks = np.array([[0, 0, 0], [0.01, 0, 0], [1, 0, 0], [1.01, 0, 0]])
    needs = needs_of([50, 0, 0, 0], looks)
    assert needs[0] == min(needs)
    assert needs[2] == pytest.approx(needs[3], rel=0.02)
    assert needs[2] > needs[1] > needs[0], "another stain comes before a slide that is stained alike"


def test_without_any_label_all_slides_need_them_alike():
    np.testing.assert_array_equal(needs_of([0, 0, 0], np.eye(3)), [1, 1, 1])


def spread(per_slide, slides):
    """Cells far from each other on each slide, all as uncertain."""
    cells = np.stack([np.arange(per_slide) * (APART + 1), np.zeros(per_slide, int)], axis=1)
    return np.full(per_slide * slides, 0.5), np.repeat(np.arange(slides), per_slide), np.tile(cells, (slides, 1))


def test_a_list_goes_from_slide_to_slide():
    uncertainty, slide_index, cells = spread(10, 3)
    found = choose(uncertainty, slide_index, cells, [4, 4, 4], np.eye(3), 6)
    assert np.bincount(slide_index[[each.row for each in found]]).tolist() == [2, 2, 2]


def test_the_least_covered_slide_comes_first_and_its_score_says_why():
    uncertainty, slide_index, cells = spread(10, 3)
    best = choose(uncertainty, slide_index, cells, [9, 0, 9], np.eye(3), 1)[0]
    assert slide_index[best.row] == 1
    assert best.score == pytest.approx(best.uncertainty * best.need)


def test_of_one_slide_the_most_uncertain_comes_first_and_no_neighbour_follows():
    uncertainty = np.array([0.1, 0.9, 0.8, 0.5])
    cells = np.array([[0, 0], [10, 10], [10, 10 + APART], [30, 30]])
    found = choose(uncertainty, np.zeros(4, int), cells, [3], np.zeros((1, 3)), 4)
    assert [each.row for each in found] == [1, 3, 0]


def test_nothing_to_choose_from_is_an_empty_list():
    none = np.zeros(0)
    assert choose(none, np.zeros(0, int), np.zeros((0, 2), int), [1, 2], np.eye(2), 5) == []
