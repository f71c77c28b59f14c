from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_slidecorr.config import CrossEntropyConfig, SceConfig, ScrConfig, SdaConfig
from napari_slidecorr.learning.objectives import Output, make_objective, reverse_gradient, slide_correlation

CASES = [
    pytest.param([0], id="one patch"),
    pytest.param([0, 1, 2, 3], id="no pair"),
    pytest.param([5, 5, 5, 5], id="one slide"),
    pytest.param([0, 0, 1, 1, 2, 2], id="pairs"),
    pytest.param([7, 3, 7, 3, 900, 7], id="ids not from 0, not in order"),
    pytest.param([-1, -1, 0, -5, -5], id="negative ids"),
]


def double_loop(features, slide_index):
    squashed = torch.relu(torch.tanh(features)) - 0.5
    pairs = combinations(range(len(features)), 2)
    same = [(squashed[i] * squashed[j]).sum() for i, j in pairs if slide_index[i] == slide_index[j]]
    return sum(same, start=squashed.new_zeros(())) / features.shape[1]


def random_features(count, dim=5, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_output(count=8, classes=3, dim=4):
    features = random_features(count, dim).float().requires_grad_()
    weight = random_features(dim, classes, seed=1).float()
    return Output(features @ weight, features), torch.arange(count) % classes, torch.arange(count) // 2


def test_two_silent_patches_of_one_slide():
    assert slide_correlation(torch.zeros(2, 2), torch.tensor([0, 0])).item() == pytest.approx(0.25)


def test_a_strong_and_a_silent_patch_of_one_slide():
    features = torch.tensor([[100.0, 100.0], [0.0, 0.0]])
    assert slide_correlation(features, torch.tensor([4, 4])).item() == pytest.approx(-0.25)


def test_it_is_a_sum_over_pairs_and_a_mean_over_features():
    assert slide_correlation(torch.zeros(4, 7), torch.zeros(4, dtype=torch.long)).item() == pytest.approx(6 / 4)


@pytest.mark.parametrize("slides", CASES)
def test_closed_form_equals_double_loop(slides):
    features, index = random_features(len(slides)), torch.tensor(slides)
    torch.testing.assert_close(slide_correlation(features, index), double_loop(features, index))


@pytest.mark.parametrize("slides", CASES)
def test_gradient(slides):
    features = random_features(len(slides)).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: slide_correlation(f, torch.tensor(slides)), features)


def test_no_pair_means_zero():
    assert slide_correlation(random_features(4), torch.arange(4)).item() == pytest.approx(0, abs=1e-12)


@given(slides=st.lists(st.integers(-3, 3), min_size=1, max_size=12), seed=st.integers(0, 1000))
def test_order_and_names_of_slides_do_not_matter(slides, seed):
    features, index = random_features(len(slides), seed=seed), torch.tensor(slides)
    order = torch.randperm(len(slides), generator=torch.Generator().manual_seed(seed))
    expected = slide_correlation(features, index)
    torch.testing.assert_close(slide_correlation(features[order], index[order]), expected)
    torch.testing.assert_close(slide_correlation(features, 1000 - 17 * index), expected)


@given(slides=st.lists(st.integers(0, 3), min_size=1, max_size=12), seed=st.integers(0, 1000))
def test_lower_bound(slides, seed):
    features = 10 * random_features(len(slides), seed=seed)
    assert slide_correlation(features, torch.tensor(slides)) >= -len(slides) / 8 - 1e-9


def test_lower_bound_is_reached_by_opposite_patches():
    features = torch.tensor([[1e3], [0.0], [1e3], [0.0]])
    assert slide_correlation(features, torch.tensor([0, 0, 1, 1])).item() == pytest.approx(-4 / 8)


def objective(config):
    torch.manual_seed(0)
    return make_objective(config, feature_dim=4, slide_count=4)


def test_cross_entropy_is_torchs():
    output, label, slide_index = random_output()
    loss = objective(CrossEntropyConfig())(output, label, slide_index)
    assert loss.total.item() == pytest.approx(torch.nn.functional.cross_entropy(output.logits, label).item())
    assert list(loss.terms) == ["cross_entropy"]


@pytest.mark.parametrize(("config", "factor"), [(ScrConfig(beta=0.3), 0.3), (SceConfig(beta=0.3), -0.3)])
def test_scr_adds_the_correlation_and_sce_takes_it_off(config, factor):
    output, label, slide_index = random_output()
    loss = objective(config)(output, label, slide_index)
    correlation = slide_correlation(output.features, slide_index)
    assert loss.terms["slide_correlation"].item() == pytest.approx(correlation.item())
    assert loss.total.item() == pytest.approx((loss.terms["cross_entropy"] + factor * correlation).item())


def test_beta_zero_is_cross_entropy():
    batch = random_output()
    assert objective(ScrConfig(beta=0.0))(*batch).total == objective(CrossEntropyConfig())(*batch).total


def test_reversed_gradient():
    features = random_features(3).requires_grad_()
    passed = reverse_gradient(features, 0.3)
    torch.testing.assert_close(passed, features)
    passed.sum().backward()
    torch.testing.assert_close(features.grad, torch.full_like(features, -0.3))


def slide_gradients(strength, progress=1.0):
    """Gradients of the slide term alone, on the features and on the slide head."""
    output, label, slide_index = random_output()
    adversary = objective(SdaConfig(strength=strength))
    adversary.progress = progress
    loss = adversary(output, label, slide_index)
    gradients = torch.autograd.grad(loss.terms["slide_cross_entropy"], [output.features, adversary.slide_head.weight])
    plain = torch.nn.functional.cross_entropy(adversary.slide_head(output.features), slide_index)
    return gradients, torch.autograd.grad(plain, [output.features, adversary.slide_head.weight])


def test_sda_turns_the_gradient_of_the_backbone_and_not_that_of_the_slide_head():
    (features, head), (plain_features, plain_head) = slide_gradients(0.5)
    torch.testing.assert_close(features, -0.5 * plain_features, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(head, plain_head)


def test_sda_begins_without_pressure_on_the_backbone():
    (features, _), _ = slide_gradients(0.5, progress=0.0)
    assert features.abs().max() == 0


def test_sda_names_each_training_slide():
    assert objective(SdaConfig()).slide_head.out_features == 4
