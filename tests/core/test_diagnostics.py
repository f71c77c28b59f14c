"""The measures of slide and tissue: hand-made cases with known answers, and naive loops beside the closed forms."""

import itertools

import numpy as np
import pytest

from napari_slidecorr.diagnostics.clusters import clustering_score
from napari_slidecorr.diagnostics.drawn_auc import drawn_auc
from napari_slidecorr.diagnostics.feature_table import FeatureTable, Measure, bootstrap_interval, slide_weights
from napari_slidecorr.diagnostics.robustness import robustness_index
from napari_slidecorr.diagnostics.same_slide import same_slide_correlation, slide_similarity
from napari_slidecorr.diagnostics.scores import (
    auc_over_slides,
    calibration_error,
    slide_scores,
    temperature,
    tempered,
)
from napari_slidecorr.diagnostics.shortcut import TIES, shortcut_curve
from napari_slidecorr.diagnostics.slide_probe import GAP, parts_of, slide_probe, within_class_probe
from napari_slidecorr.errors import CohortError, ModelError
from napari_slidecorr.metrics import patch_auc

COLUMNS = 8


def made(
    seed=0, *, slides=6, patches=40, width=32, classes=2, slide=0.0, tissue=0.0, one_class_a_slide=False, groups=None
):
    rng = np.random.default_rng(seed)
    count = slides * patches
    index = np.repeat(np.arange(slides), patches).astype(np.int32)
    label = index % classes if one_class_a_slide else rng.integers(0, classes, count)
    features = rng.normal(size=(count, width))
    features += slide * rng.normal(size=(slides, width))[index] + tissue * rng.normal(size=(classes, width))[label]
    at = np.tile(np.arange(patches), slides)
    return FeatureTable(
        features.astype(np.float32),
        label.astype(np.int16),
        index,
        np.stack([at // COLUMNS, at % COLUMNS], axis=1).astype(np.float64),
        tuple(f"slide {i}" for i in range(slides)),
        tuple("abc"[:classes]),
        groups or tuple(f"patient {i}" for i in range(slides)),
    )


def at(features, label, slide, place=None, groups=None):
    features = np.asarray(features, np.float32)
    slide = np.asarray(slide, np.int32)
    names = tuple(f"s{i}" for i in range(slide.max() + 1))
    place = np.stack([np.arange(len(slide)) * 10.0, np.zeros(len(slide))], axis=1) if place is None else place
    return FeatureTable(features, np.asarray(label, np.int16), slide, place, names, ("a", "b"), groups or names)


# -- the table ----------------------------------------------------------------------------------------------------------


def test_a_table_of_unequal_columns_is_refused():
    table = made()
    with pytest.raises(CohortError, match="rows; give each patch one"):
        FeatureTable(
            table.features[1:], table.label, table.slide_index, table.place, table.slides, table.classes, table.groups
        )


def test_features_that_are_no_numbers_are_refused_with_their_slide():
    table = made()
    features = table.features.copy()
    features[50, 3] = np.nan
    with pytest.raises(ModelError, match=r"1 patches .* first on slide slide 1"):
        FeatureTable(features, table.label, table.slide_index, table.place, table.slides, table.classes, table.groups)


def test_at_most_takes_so_many_of_each_slide_and_keeps_small_ones():
    table = made(slides=3, patches=30).rows(np.arange(70))
    assert np.bincount(table.at_most(12).slide_index).tolist() == [12, 12, 10]
    assert np.array_equal(table.at_most(12, seed=1).features, table.at_most(12, seed=1).features)


def test_counts_are_by_slide_and_class():
    table = at([[1.0]] * 5, [0, 1, 1, 0, 0], [0, 0, 0, 1, 1])
    assert table.counts().tolist() == [[1, 2], [2, 0]]


def test_groups_are_numbered_by_name():
    table = at([[1.0]] * 3, [0, 0, 0], [0, 1, 2], groups=("p", "q", "p"))
    assert table.group_index.tolist() == [0, 1, 0]


def test_bootstrap_weights_draw_as_many_slides_as_there_are():
    weights = slide_weights(7, 50)
    assert weights.shape == (50, 7)
    assert (weights.sum(axis=1) == 7).all()


def test_an_interval_of_mostly_undefined_draws_is_none():
    assert bootstrap_interval(np.array([np.nan, np.nan, 1.0])) == (None, None)
    assert bootstrap_interval(np.arange(101.0)) == (2.5, 97.5)


# -- the probe ----------------------------------------------------------------------------------------------------------


def test_a_probe_of_noise_stays_in_the_band_of_chance():
    inside = 0
    for seed in range(200):
        measure = slide_probe(made(seed, slides=5, patches=32, width=16), permutations=100, draws=10, seed=seed)
        inside += measure.chance_low <= measure.value <= measure.chance_high
    assert 0.9 <= inside / 200 <= 1.0


def test_a_probe_names_slides_that_differ():
    measure = slide_probe(made(slide=2.0))
    assert measure.value > 0.98
    assert measure.chance == pytest.approx(1 / 6)
    assert measure.chance_high < 0.4
    assert measure.n_slides == 6


def test_class_alone_does_not_move_the_probe_inside_a_class():
    table = made(tissue=3.0, one_class_a_slide=True)
    assert slide_probe(table).value > 0.3  # the class names half of the slides away
    inside = within_class_probe(table)
    assert inside.chance_low <= inside.value <= inside.chance_high
    assert inside.chance == pytest.approx(1 / 3)


def test_a_probe_is_taught_and_tried_on_patches_that_lie_apart():
    table = made()
    part = parts_of(table)
    assert {0, 1} <= set(part)
    for slide in range(6):
        one, other = (table.place[(table.slide_index == slide) & (part == side)] for side in (0, 1))
        gaps = np.abs(one[:, None] - other[None]).max(axis=2)
        assert gaps.min() >= GAP


def test_neighbours_that_are_alike_do_not_teach_the_probe():
    """Features that drift along the slide and know no slide: without the gap a probe would seem to name it."""
    rng = np.random.default_rng(0)
    table = made(patches=64, width=8)
    drift = np.cumsum(rng.normal(size=(6, 8, 8)), axis=1)  # slide, row, feature
    features = drift[table.slide_index, table.place[:, 0].astype(int)].astype(np.float32)
    part = parts_of(at(features, table.label, table.slide_index, table.place))
    assert (part == -1).sum() >= 6 * 8


def test_slides_too_small_to_cut_are_left_out_and_told():
    table = made(slides=3, patches=40).rows(np.arange(85))
    measure = slide_probe(table)
    assert measure.n_slides == 2
    assert "1 slides are too small" in measure.note


def test_a_probe_needs_two_slides():
    measure = slide_probe(made(slides=1))
    assert measure.value is None
    assert "two slides" in measure.reason


def test_constant_features_give_chance():
    table = made()
    flat = at(np.ones((len(table), 4)), table.label, table.slide_index, table.place)
    assert slide_probe(flat, permutations=10).value == pytest.approx(1 / 6, abs=0.01)


# -- same-slide correlation ---------------------------------------------------------------------------------------------


def naive_correlation(table):
    found = []
    for label in range(len(table.classes)):
        rows = np.flatnonzero(table.label == label)
        centred = table.features[rows].astype(np.float64)
        centred -= centred.mean(axis=0)
        unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        same, other = [], []
        for i, j in itertools.combinations(range(len(rows)), 2):
            (same if table.slide_index[rows[i]] == table.slide_index[rows[j]] else other).append(unit[i] @ unit[j])
        found.append(np.mean(same) - np.mean(other))
    return np.mean(found)


@pytest.mark.parametrize("slide", [0.0, 0.7])
def test_correlation_is_that_of_a_double_loop(slide):
    table = made(slides=4, patches=12, slide=slide)
    assert same_slide_correlation(table).value == pytest.approx(naive_correlation(table), abs=1e-9)


def test_similarity_of_slides_is_that_of_a_double_loop():
    table = made(slides=3, patches=8, classes=1, slide=0.5)
    unit = table.features - table.features.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    likeness = unit @ unit.T
    found = slide_similarity(table)
    own = likeness[:8, :8]
    assert found[0, 0] == pytest.approx((own.sum() - 8) / 56, abs=1e-5)
    assert found[0, 2] == pytest.approx(likeness[:8, 16:].mean(), abs=1e-5)


def test_correlation_knows_alike_slides_from_noise():
    noise, alike = same_slide_correlation(made()), same_slide_correlation(made(slide=1.0))
    assert noise.low < 0.01 < alike.low
    assert alike.value > 0.3


def test_class_alone_is_no_correlation():
    assert abs(same_slide_correlation(made(tissue=5.0)).value) < 0.02


def test_correlation_of_one_slide_is_undefined():
    assert same_slide_correlation(made(slides=1)).value is None


# -- robustness index ---------------------------------------------------------------------------------------------------


def blobs(order):
    """Two classes on two slides in the plane; what is far apart is the class, or the slide."""
    rng = np.random.default_rng(0)
    label, slide = np.tile([0, 0, 1, 1], 40), np.tile([0, 1, 0, 1], 40)
    direction = np.eye(2)[label if order == "class" else slide]
    return at(direction + 0.01 * rng.normal(size=(160, 2)), label, slide)


@pytest.mark.parametrize(("order", "expected"), [("class", 1.0), ("slide", 0.0)])
def test_neighbours_of_one_class_give_1_and_of_one_slide_0(order, expected):
    assert robustness_index(blobs(order)).value == pytest.approx(expected, abs=0.01)


def test_neighbours_at_random_give_the_base_rate():
    measure = robustness_index(made(1, slides=4, patches=100, width=64))
    assert measure.chance == pytest.approx(3 / 4, abs=0.02)  # three other slides of a class, one other class of a slide
    assert measure.value == pytest.approx(measure.chance, abs=0.05)
    assert measure.low < measure.value < measure.high


def test_own_counts_agree_with_the_library():
    table = made(2, slides=4, patches=60, slide=0.6, tissue=0.6)
    measure = robustness_index(table)
    assert measure.low < measure.value < measure.high
    weights = np.ones((1, 4), np.int64)[:, table.slide_index]
    from napari_slidecorr.diagnostics import robustness

    k = int(measure.note.split(" ", maxsplit=1)[0])
    same, other = robustness._evidence(
        table.features, table.label, table.slide_index.astype(np.int64), robustness._squares(table), k
    )
    assert robustness._share(weights @ same, weights @ other)[0] == pytest.approx(measure.value, abs=1e-3)


def test_one_class_a_slide_leaves_the_index_undefined_and_says_why():
    measure = robustness_index(made(one_class_a_slide=True))
    assert measure.value is None
    assert "one class only" in measure.reason


def test_the_index_by_group_needs_groups_of_several_slides():
    assert "group of its own" in robustness_index(made(), by_group=True).reason
    table = made(slide=1.0, groups=("p", "p", "q", "q", "r", "r"))
    assert robustness_index(table, by_group=True).value is not None


# -- the shortcut -------------------------------------------------------------------------------------------------------


def test_a_head_that_can_take_the_slide_for_the_class_loses_half():
    """Class is there, but the slide is louder: right without a tie, at chance on untied patches when they are one."""
    rng = np.random.default_rng(0)
    slide, label = np.repeat([0, 1], 120), np.tile([0, 1], 120)
    features = np.column_stack([np.tile(slide[:, None], 30), label + 0.05 * rng.normal(size=240)])
    curve = shortcut_curve(at(features, label, slide), pairs=1, repeats=3)
    assert curve.ties == TIES
    assert curve.accuracy[0] > 0.95
    assert curve.accuracy[-1] / curve.accuracy[0] - 1 == pytest.approx(-0.5, abs=0.05)
    assert curve.drop_unseen.value is None


def test_features_of_the_class_alone_lose_nothing():
    curve = shortcut_curve(made(slides=3, patches=80, tissue=4.0), pairs=2, repeats=2)
    assert curve.drop.value == pytest.approx(0.0, abs=0.01)
    assert curve.drop_unseen.value == pytest.approx(0.0, abs=0.01)


def test_a_shortcut_needs_two_slides_with_both_classes():
    curve = shortcut_curve(made(one_class_a_slide=True))
    assert curve.drop.value is None
    assert "no two slides" in curve.drop.reason


# -- clusters and scores ------------------------------------------------------------------------------------------------


def test_clusters_follow_the_class_or_the_slide():
    assert clustering_score(made(tissue=5.0)).value > 0.9
    assert clustering_score(made(slide=5.0)).value < -0.9
    assert clustering_score(made(slides=1)).value is None


def probable(label, right):
    said = np.full((len(label), 2), 1 - right, np.float32)
    said[np.arange(len(label)), label] = right
    return said


def test_calibration_error_of_a_hand_made_case():
    """Ten patches said with 0.9, eight of them right: off by 0.1."""
    label = np.zeros(10, np.int64)
    said = np.tile([0.9, 0.1], (10, 1))
    said[8:] = [0.1, 0.9]
    assert calibration_error(label, said) == pytest.approx(0.1)


def test_temperature_undoes_what_was_done():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 2)) * 2
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    label = (rng.random(4000) < true[:, 1]).astype(np.int64)
    bold = tempered(true, 1 / 3)
    found = temperature(label, bold)
    assert found == pytest.approx(3, rel=0.15)
    assert calibration_error(label, tempered(bold, found)) < calibration_error(label, bold)


def test_slides_are_scored_worst_first_with_their_worst_patch():
    table = made(slides=2, patches=10)
    said = probable(table.label, 0.8)
    said[13] = probable(table.label[13:14], 0.05)
    import dataclasses

    worst, best = slide_scores(dataclasses.replace(table, probabilities=said))
    assert (worst.slide, worst.worst, worst.accuracy) == ("slide 1", 13, 0.9)
    assert best.accuracy == 1.0


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("one_class_a_slide", [False, True])
def test_the_auc_of_all_draws_is_that_of_drawn_patches(classes, one_class_a_slide):
    rng = np.random.default_rng(4)
    table = made(4, slides=5, patches=12, classes=classes, one_class_a_slide=one_class_a_slide)
    said = rng.integers(1, 6, (len(table), classes)) / 5  # with ties
    weights = slide_weights(5, 40, seed=1)
    found = drawn_auc(table.label, table.slide_index, said, weights)
    for draw, drawn in enumerate(weights):
        rows = np.concatenate([np.repeat(np.flatnonzero(table.slide_index == s), n) for s, n in enumerate(drawn)])
        assert found[draw] == pytest.approx(patch_auc(table.label[rows], said[rows]), nan_ok=True)
    assert one_class_a_slide or np.isfinite(found).all()


def test_an_auc_has_an_interval_over_slides():
    import dataclasses

    table = made(slides=8)
    rng = np.random.default_rng(0)
    score = np.clip(0.5 + 0.2 * (table.label - 0.5) + 0.2 * rng.normal(size=len(table)), 0, 1)
    table = dataclasses.replace(table, probabilities=np.stack([1 - score, score], axis=1).astype(np.float32))
    measure = auc_over_slides(table, "held-out AUC", draws=200)
    assert measure.low < measure.value < measure.high
    assert measure.chance == 0.5
    only = auc_over_slides(table.rows(table.label == 0), "held-out AUC", draws=10)
    assert isinstance(only, Measure)
    assert only.value is None
