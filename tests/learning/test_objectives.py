import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_slidecorr.config import (
    CoralConfig,
    CrossEntropyConfig,
    GroupDroConfig,
    SceConfig,
    ScrConfig,
    SdaConfig,
)
from napari_slidecorr.errors import ConfigError
from napari_slidecorr.learning.objectives import Output, make_objective
from napari_slidecorr.learning.slide_terms import coral_distance, reverse_gradient, slide_correlation, squash

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


@pytest.mark.parametrize("slides", CASES)
@pytest.mark.parametrize("normalizer", ["paper", "centred"])
def test_the_mean_is_the_sum_over_the_pairs(slides, normalizer):
    features, index = random_features(len(slides)), torch.tensor(slides)
    pairs = sum(a == b for a, b in combinations(slides, 2))
    mean = slide_correlation(features, index, normalizer=normalizer, reduction="mean")
    torch.testing.assert_close(mean * max(pairs, 1), slide_correlation(features, index, normalizer=normalizer))
    assert torch.isfinite(mean)


def test_the_centred_normalizer_does_not_see_a_shift_of_all_features():
    features, index = random_features(6), torch.tensor([0, 0, 1, 1, 2, 2])
    shifted = features + torch.arange(5.0)
    torch.testing.assert_close(squash(shifted, "centred"), squash(features, "centred"))
    found = slide_correlation(shifted, index, normalizer="centred")
    torch.testing.assert_close(found, slide_correlation(features, index, normalizer="centred"))
    assert (slide_correlation(shifted, index) - slide_correlation(features, index)).abs() > 0.1


def test_centred_by_hand():
    features = torch.tensor([[1.0], [3.0], [2.0], [2.0]])  # the mean is 2
    found = slide_correlation(features, torch.tensor([0, 0, 1, 1]), normalizer="centred")
    assert found.item() == pytest.approx(-((math.tanh(1) / 2) ** 2))


@pytest.mark.parametrize("slides", CASES)
def test_gradient_of_ours(slides):
    def ours(f):
        return slide_correlation(f, torch.tensor(slides), normalizer="centred", reduction="mean")

    assert torch.autograd.gradcheck(ours, random_features(len(slides)).requires_grad_())


@given(slides=st.lists(st.integers(0, 3), min_size=1, max_size=12), seed=st.integers(0, 1000))
def test_lower_bound_of_the_centred(slides, seed):
    features = 10 * random_features(len(slides), seed=seed)
    found = slide_correlation(features, torch.tensor(slides), normalizer="centred")
    assert found >= -len(slides) / 8 - 1e-9


def covariance_loop(features, slide_index):
    slides = [s for s in sorted(set(slide_index.tolist())) if (slide_index == s).sum() > 1]
    covariances = [torch.cov(features[slide_index == s].T) for s in slides]
    apart = [(one - other).square().sum() / (4 * features.shape[1] ** 2) for one, other in combinations(covariances, 2)]
    return torch.stack(apart).mean() if apart else features.new_zeros(())


@pytest.mark.parametrize("slides", [*CASES, pytest.param([0, 0, 0, 3, 3, 1, 3, 8, 8], id="uneven")])
def test_coral_equals_its_loop_over_covariances(slides):
    features, index = random_features(len(slides)), torch.tensor(slides)
    torch.testing.assert_close(coral_distance(features, index), covariance_loop(features, index))
    assert torch.autograd.gradcheck(lambda f: coral_distance(f, index), features.clone().requires_grad_())


def test_coral_by_hand():
    """Variances 2 and 8 of a single feature: 36 / 4."""
    features = torch.tensor([[0.0], [2.0], [0.0], [4.0]])
    assert coral_distance(features, torch.tensor([5, 5, 9, 9])).item() == pytest.approx(9.0)
    assert coral_distance(features + 100, torch.tensor([5, 5, 9, 9])).item() == pytest.approx(9.0)


def objective(config, **more):
    torch.manual_seed(0)
    return make_objective(config, feature_dim=4, slide_count=4, **more)


def test_coral_adds_the_distance():
    output, label, slide_index = random_output()
    loss = objective(CoralConfig(coral_weight=3.0))(output, label, slide_index)
    distance = coral_distance(output.features, slide_index)
    assert loss.terms["coral_distance"] == distance
    assert loss.total.item() == pytest.approx((loss.terms["cross_entropy"] + 3 * distance).item())


def patch_of(probability):
    return [math.log(probability), math.log(1 - probability)]


def test_group_dro_by_hand():
    """Two slides with losses log 2 and log 4, step 1: their weights become 2 : 4."""
    logits = torch.tensor([patch_of(0.5), patch_of(0.25), patch_of(0.25)])
    output = Output(logits, torch.zeros(3, 4))
    worst = objective(GroupDroConfig(step_size=1.0))
    loss = worst(output, torch.zeros(3, dtype=torch.long), torch.tensor([0, 2, 2]))
    assert loss.total.item() == pytest.approx((2 * math.log(2) + 4 * math.log(4)) / 6)
    assert loss.terms["worst_slide"].item() == pytest.approx(math.log(4))
    torch.testing.assert_close(worst.slide_weight, torch.tensor([2.0, 1.0, 4.0, 1.0]) / 8)


def test_group_dro_without_a_step_is_the_mean_over_slides_and_keeps_its_memory_otherwise():
    output, label, slide_index = random_output()
    still, moving = objective(GroupDroConfig(step_size=0.0)), objective(GroupDroConfig(step_size=2.0))
    mean = torch.nn.functional.cross_entropy(output.logits, label)  # slides have two patches each
    for _ in range(3):
        assert still(output, label, slide_index).total.item() == pytest.approx(mean.item())
        losses = moving(output, label, slide_index)
    assert mean < losses.total < losses.terms["worst_slide"]
    again = objective(GroupDroConfig(step_size=2.0))
    again.load_state_dict(moving.state_dict())
    assert again(output, label, slide_index).total == moving(output, label, slide_index).total


def test_group_dro_gradient_is_the_weighted_mean():
    output, label, slide_index = random_output()
    worst = objective(GroupDroConfig(step_size=1.0))
    total = worst(output, label, slide_index).total
    each = [
        torch.nn.functional.cross_entropy(output.logits[slide_index == s], label[slide_index == s]) for s in range(4)
    ]
    expected = sum(w * one for w, one in zip(worst.slide_weight, each, strict=True))
    found, wanted = (torch.autograd.grad(value, output.features, retain_graph=True)[0] for value in (total, expected))
    torch.testing.assert_close(found, wanted)


ALL = [
    CrossEntropyConfig(),
    ScrConfig(),
    SceConfig(),
    SdaConfig(),
    CoralConfig(),
    GroupDroConfig(),
    ScrConfig(reduction="mean", normalizer="centred"),
]


@pytest.mark.parametrize("config", ALL, ids=lambda config: config.kind)
def test_class_weights_and_smoothing_by_hand(config):
    output, label, slide_index = random_output(classes=3)
    weight = torch.tensor([1.0, 2.0, 4.0])
    loss = objective(config, class_weight=weight, label_smoothing=0.3)(output, label, slide_index)
    log_p = torch.log_softmax(output.logits, dim=1)
    target = 0.7 * torch.nn.functional.one_hot(label, 3) + 0.1
    expected = -(target * weight * log_p).sum() / weight[label].sum()
    assert loss.terms["cross_entropy"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss.total != objective(config)(output, label, slide_index).total


@pytest.mark.parametrize("config", ALL, ids=lambda config: config.kind)
@pytest.mark.parametrize("slides", [[0], [0, 1, 2], [3, 3, 3]])
def test_every_objective_is_finite_on_odd_batches(config, slides):
    features = torch.zeros(len(slides), 4, requires_grad=True)
    output = Output(features[:, :2], features)
    loss = objective(config)(output, torch.zeros(len(slides), dtype=torch.long), torch.tensor(slides))
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert torch.isfinite(features.grad).all()


def test_measures_of_an_epoch():
    terms = {"cross_entropy": 0.5, "slide_correlation": 3.0}
    found = objective(ScrConfig(beta=0.2)).measures(terms, 32, 48.0)
    assert found == pytest.approx({"correlation_by_cross_entropy": 1.2, "slide_correlation_bound": -4.0})
    found = objective(ScrConfig(beta=0.2, reduction="mean")).measures(terms, 32, 48.0)
    assert found["slide_correlation_bound"] == pytest.approx(-4 / 48)
    assert objective(CrossEntropyConfig()).measures({"cross_entropy": 0.5}, 32, 48.0) == {}


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


@pytest.mark.parametrize(
    ("options", "adds_up"),
    [({}, True), ({"reduction": "mean"}, False), ({"normalizer": "centred"}, False)],
)
def test_our_forms_reach_the_loss_and_look_at_all_slides_at_once(options, adds_up):
    output, label, slides = random_output()
    scr = objective(ScrConfig(beta=0.2, **options))
    expected = slide_correlation(output.features, slides, **options)
    assert scr(output, label, slides).terms["slide_correlation"].item() == pytest.approx(expected.item(), rel=1e-6)
    assert scr.adds_up is adds_up


@pytest.mark.parametrize(("config", "adds_up"), [(CrossEntropyConfig(), True), (SceConfig(), True), (SdaConfig(), True),
                                                 (CoralConfig(), False), (GroupDroConfig(), False)])  # fmt: skip
def test_which_losses_add_up_over_processes(config, adds_up):
    assert objective(config).adds_up is adds_up


def test_parts_of_a_batch_add_up_to_it_with_class_weights_too():
    output, label, slides = random_output()
    for weight in (None, torch.tensor([1.0, 2.0, 5.0])):
        whole = objective(SdaConfig(strength=1.0), class_weight=weight)
        expected, parts = whole(output, label, slides).total.item(), 0.0
        for rows in (slice(0, 2), slice(2, 8)):
            whole.set_share(label[rows], label)
            part = Output(output.logits[rows], output.features[rows])
            parts += whole(part, label[rows], slides[rows]).total.item()
        whole.set_share(label, label)
        assert (whole.share, whole.class_share) == (1, 1)
        assert parts == pytest.approx(expected, rel=1e-6)


def test_sdas_total_is_both_cross_entropies_and_its_ramp_is_the_usual_one():
    output, label, slides = random_output()
    sda = objective(SdaConfig(strength=1.0))
    loss = sda(output, label, slides)
    assert loss.total.item() == pytest.approx(sum(term.item() for term in loss.terms.values()), rel=1e-6)
    full, half = (slide_gradients(1.0, progress)[0][0] for progress in (1.0, 0.1))
    ramp = [2 / (1 + math.exp(-10 * progress)) - 1 for progress in (1.0, 0.1)]
    torch.testing.assert_close(half / ramp[1], full / ramp[0])


def test_a_single_pair_is_its_own_mean():
    features = random_features(2)
    of_pair = slide_correlation(features, torch.tensor([3, 3]))
    assert slide_correlation(features, torch.tensor([3, 3]), reduction="mean").item() == pytest.approx(of_pair.item())
    measured = objective(ScrConfig(beta=0.2, reduction="mean")).measures(
        {"cross_entropy": 1.0, "slide_correlation": 0.1}, 2, 1
    )
    assert measured["slide_correlation_bound"] == -0.25


def test_what_is_no_objective_is_named():
    with pytest.raises(ConfigError, match="no objective for 'x'"):
        objective("x")


def test_group_dro_weighs_classes_and_smooths_in_each_slides_loss():
    output, label, slides = random_output()
    weight = torch.tensor([1.0, 2.0, 4.0])
    found = objective(GroupDroConfig(step_size=0.0), class_weight=weight, label_smoothing=0.3)(output, label, slides)
    target = 0.7 * torch.nn.functional.one_hot(label, 3) + 0.1
    each = -(target * weight * torch.log_softmax(output.logits, dim=1)).sum(dim=1)
    assert found.total.item() == pytest.approx(each.mean().item(), rel=1e-5)  # two patches on each slide
    assert found.terms["worst_slide"].item() == pytest.approx(each.reshape(4, 2).mean(dim=1).max().item(), rel=1e-5)
