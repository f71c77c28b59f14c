import numpy as np
import pytest

from napari_slidecorr.decision import UNSURE, decide, sane, unsure
from napari_slidecorr.learning.abstention import unsure_thresholds


def simulated(rng, slides, each, strength=1.5):
    """Calibrated probabilities of two classes."""
    slide_index = np.repeat(np.arange(slides), each)
    labels = rng.integers(0, 2, len(slide_index))
    score = rng.normal(0, 1, len(labels)) + strength * (labels - 0.5)
    tumour = 1 / (1 + np.exp(-strength * score))
    return labels, np.stack([1 - tumour, tumour], axis=1), slide_index


@pytest.mark.parametrize(("error", "strength"), [(0.05, 2.5), (0.1, 1.5), (0.2, 1.5)])
def test_the_true_class_is_let_in_as_often_as_promised(error, strength):
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(40):
        bounds = np.asarray(unsure_thresholds(*simulated(rng, 10, 60, strength), error))
        labels, probabilities, _ = simulated(rng, 10, 60, strength)
        shares += [(probabilities[labels == k, k] >= bounds[k]).mean() for k in (0, 1)]
    assert np.mean(shares) >= 1 - error - 0.01


def test_of_a_hard_class_patches_below_half_of_chance_are_given_up_and_no_others():
    labels, probabilities, slide_index = simulated(np.random.default_rng(0), 10, 60, 1.5)
    wide = unsure_thresholds(labels, probabilities, slide_index, 0.01)
    assert wide == (0.25, 0.25)
    missed = [(probabilities[labels == k, k] < 0.25).mean() for k in (0, 1)]
    assert min(missed) > 0.01, "more than was promised, all of them below half of chance"


def test_what_is_sure_is_more_often_right():
    rng = np.random.default_rng(1)
    bounds = unsure_thresholds(*simulated(rng, 10, 100))
    labels, probabilities, _ = simulated(rng, 10, 100)
    found = decide(probabilities.T, bounds)
    sure = found != UNSURE
    assert 0.2 < sure.mean() < 0.95
    assert (found[sure] == labels[sure]).mean() > (probabilities.argmax(axis=1) == labels).mean() + 0.03


def test_a_good_model_is_always_sure():
    labels = np.arange(200) % 2
    probabilities = np.where(labels[:, None] == np.arange(2), 0.99, 0.01)
    bounds = unsure_thresholds(labels, probabilities, np.arange(200) // 20)
    assert bounds == (0.5, 0.5)
    assert not unsure(probabilities.T, bounds).any()


def test_bounds_by_hand():
    probabilities = np.asarray([[0.6, 0.4], [0.9, 0.1], [0.45, 0.55], [0.2, 0.8], [np.nan, np.nan]]).T
    assert decide(probabilities, (0.4, 0.4)).tolist() == [UNSURE, 0, UNSURE, 1, UNSURE]
    assert unsure(probabilities, (0.4, 0.4)).tolist() == [True, False, True, False, False]
    assert decide(probabilities, ()).tolist() == [0, 0, 1, 1, UNSURE]
    assert decide(probabilities.reshape(2, 5, 1), (0.4, 0.4)).shape == (5, 1)


def test_nothing_fits_is_unsure_too():
    assert decide(np.asarray([[0.35], [0.35], [0.3]]), (0.5, 0.5, 0.5)).tolist() == [UNSURE]


def test_slides_count_alike():
    probabilities = np.concatenate([np.full(900, 0.9), np.full(30, 0.3)])
    pair = np.stack([probabilities, 1 - probabilities], axis=1)
    slide_index = np.concatenate([np.zeros(900, int), np.ones(30, int)])
    labels = np.zeros(930, int)
    labels[0] = 1
    assert unsure_thresholds(labels, pair, slide_index)[0] == pytest.approx(
        0.3
    )  # half of the slides, a thirtieth of patches


def test_too_few_patches_give_the_lowest_bound():
    labels, probabilities, slide_index = simulated(np.random.default_rng(0), 2, 3)
    assert unsure_thresholds(labels, probabilities, slide_index) == (0.25, 0.25)


def test_a_class_below_half_of_chance_is_never_the_answer_and_one_above_a_half_always_may_be():
    assert sane((0.0, 0.9, 0.3)) == pytest.approx((1 / 6, 0.5, 0.3))
    assert sane(sane((0.0, 0.9, 0.3))) == sane((0.0, 0.9, 0.3))
    assert sane(()) == ()
    found = decide(np.asarray([[0.1, 0.6], [0.75, 0.3], [0.15, 0.1]]), (0.0, 0.0, 0.0))
    assert found.tolist() == [1, UNSURE]


def test_a_few_patches_that_no_head_gets_right_do_not_turn_a_map_grey():
    rng = np.random.default_rng(0)
    labels, slide_index = np.repeat([0, 1, 2], 20), np.tile(np.arange(5), 12)
    probabilities = np.full((60, 3), 0.02)
    probabilities[np.arange(60), labels] = 0.96
    probabilities[::6] = np.roll(probabilities[::6], 1, axis=1)  # a sixth is wrong, and surely so
    bounds = unsure_thresholds(labels, probabilities, slide_index)
    cells = rng.dirichlet((8, 0.5, 0.5), 1000).T
    assert unsure(cells, bounds).mean() < 0.2
    assert ((cells >= 0.02).sum(axis=0) != 1).mean() > 0.5, "what the bounds of those patches alone would make of it"
