import json
from dataclasses import replace

import numpy as np
import pytest

from napari_slidecorr.errors import CohortError
from napari_slidecorr.events import drain
from napari_slidecorr.fast_config import FastConfig, HeadConfig
from napari_slidecorr.geometry import PatchGeometry
from napari_slidecorr.learning.abstention import unsure_thresholds
from napari_slidecorr.learning.fast_training import fit_and_judge
from napari_slidecorr.learning.heads import fit_head
from napari_slidecorr.learning.held_out import FEW_GROUPS
from napari_slidecorr.learning.labelled import Labelled
from napari_slidecorr.learning.nuisance import (
    blind_to,
    nuisance_directions,
    slides_hold_several_classes,
    without_directions,
)
from napari_slidecorr.learning.remedies import FEWEST_GROUPS, RemedyTried, compare
from napari_slidecorr.learning.remedy_table import CHANCE, needed_gain, paired_gain, remedies
from napari_slidecorr.patches import PatchTable


def cohort(*, slides=14, each=40, dim=40, shift=0.0, one_class=False, seed=0) -> Labelled:
    """Patches of slides whose features are moved along the very direction that tells the class."""
    rng = np.random.default_rng(seed)
    slide_index = np.repeat(np.arange(slides), each)
    labels = slide_index % 2 if one_class else rng.integers(0, 2, len(slide_index))
    direction = np.zeros(dim)
    direction[0] = 1
    features = rng.normal(0, 1, (len(labels), dim)) + np.outer(labels - 0.5, direction) * 2.5
    features += np.outer(shift * rng.normal(0, 1, slides), direction)[slide_index]
    features = features.astype(np.float16)
    centres = np.stack([features[slide_index == s].mean(axis=0, dtype=np.float64) for s in range(slides)])
    nowhere = np.zeros(len(labels), np.int64)
    table = PatchTable(
        nowhere,
        nowhere,
        slide_index.astype(np.int32),
        labels.astype(np.int16),
        tuple(f"s{i}" for i in range(slides)),
        ("a", "b"),
        ((1, 1),) * slides,
        PatchGeometry(1),
    )
    return Labelled(features, table, centres.astype(np.float32))


def returned(steps):
    """What a generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def compared(labelled: Labelled, **more):
    return drain(compare(labelled, FastConfig(), nets=False, repeats=2, **more))


def test_a_shift_of_slides_is_met_by_centring():
    report = compared(cohort(shift=2.0))
    assert report.proposal is not None
    assert report.proposal.remedy.centring > 0
    assert report.proposal.gain > report.proposal.needed > report.proposal.gain_error > 0
    assert "Proposed: centring" in report.sentence
    assert report.proposal.remedy.applied_to(FastConfig()).centring == report.proposal.remedy.centring


@pytest.mark.parametrize("seed", range(4))
def test_without_a_shift_centring_is_not_proposed(seed):
    report = compared(cohort(shift=0.0, seed=seed))
    assert report.proposal is None or report.proposal.remedy.centring == 0


def test_slides_of_one_class_refuse_what_would_take_the_class_away():
    report = compared(cohort(one_class=True))
    refused = {row.remedy.name for row in report.rows if row.refused}
    assert refused == {"centring 0.5", "projection 4", "projection 16"}
    assert "refused" in report.table()
    assert all(np.isnan(row.inside_auc) for row in report.rows)


def test_the_plain_head_is_the_row_to_beat():
    report = compared(cohort())
    plain = report.rows[0]
    assert plain.gain == plain.gain_error == 0
    assert not plain.helps
    for row in report.rows[1:]:
        assert row.gain == pytest.approx(row.auc - plain.auc, abs=1e-9)


@pytest.mark.parametrize("slides", [4, FEWEST_GROUPS - 1])
def test_few_groups_propose_nothing(slides):
    report = compared(cohort(slides=slides, shift=3.0))
    assert report.proposal is None
    assert "too few" in report.sentence
    assert bool(report.warning) == (slides < FEW_GROUPS)


def test_another_fixed_penalty_is_shown_and_never_proposed():
    report = compared(cohort(shift=1.0))
    fixed = [row for row in report.rows if row.remedy.head.penalty is not None]
    assert len(fixed) > 3
    assert not any(row.helps for row in fixed)
    assert not replace(fixed[0], gain=0.5, needed=0.01).helps
    assert "not proposed" in report.table()


def test_the_needed_gain_by_hand():
    assert needed_gain(0.01, 15, 1) == pytest.approx(0.01 * 1.7613, rel=1e-4)  # t(0.95; 14), from a table
    assert needed_gain(0.01, 5, 5) == pytest.approx(0.01 * 3.7469, rel=1e-4)  # t(0.99; 4)
    assert np.isnan(needed_gain(0.01, 1, 3))


def test_of_many_useless_remedies_the_best_is_rarely_proposed():
    rng = np.random.default_rng(0)
    proposed = 0
    for _ in range(400):
        shared = rng.normal(0, 0.01, 15)  # folds differ for all remedies alike
        gains = [paired_gain(shared + rng.normal(0, 0.02, 15), 0.25) for _ in range(7)]
        proposed += any(gain > needed_gain(error, 15, 7) for gain, error in gains)
    assert proposed / 400 <= CHANCE


def test_groups_are_held_out_together():
    labelled = cohort(slides=12)
    report = compared(labelled, groups={f"s{i}": f"p{i // 2}" for i in range(12)})
    assert (report.slides, report.groups) == (12, 6)


def test_adapters_are_tried_too_and_events_tell_each_row():
    config = FastConfig(head=HeadConfig(net="adapter", steps=15))
    events = list(compare(cohort(slides=6, each=16), config, repeats=1))
    tried = [event.row.remedy.name for event in events if isinstance(event, RemedyTried)]
    assert tried == [remedy.name for remedy in remedies(config)]
    assert {"adapter, SCR", "adapter, SCR batch-centred", "adapter, SDA"} <= set(tried)
    json.dumps(events[-1].result.to_json(), allow_nan=False)


def test_the_same_call_gives_the_same_table():
    first, second = (compared(cohort(slides=8, shift=1.0)).table() for _ in range(2))
    assert first == second


def test_no_slide_to_hold_out_is_told_at_once():
    with pytest.raises(CohortError, match="held out"):
        compare(cohort(slides=2, one_class=True), FastConfig())


def test_the_error_of_a_gain_by_hand():
    gain, error = paired_gain(np.asarray([0.01, 0.03, np.nan]), ratio=0.25)
    assert gain == pytest.approx(0.02)
    assert error == pytest.approx(np.sqrt((1 / 2 + 0.25) * 0.0002))
    assert np.isnan(paired_gain(np.asarray([0.1]), 0.25)[1])


def test_projection_removes_where_slides_differ_and_keeps_the_class():
    rng = np.random.default_rng(0)
    slide_index = np.repeat(np.arange(10), 60)
    labels = rng.integers(0, 2, 600)
    features = rng.normal(0, 0.5, (600, 12))
    features[:, 0] += 3 * labels
    features[:, 5] += 4 * rng.normal(0, 1, 10)[slide_index]
    directions = nuisance_directions(features, labels, slide_index, 1)
    assert abs(directions[5, 0]) > 0.99
    clean = without_directions(features, directions)
    assert abs(clean[:, 5]).max() < 0.5
    head = fit_head(clean, labels, slide_index, HeadConfig(penalty=0.1))
    np.testing.assert_allclose(blind_to(head, directions).predict(features), head.predict(clean), atol=1e-4)


@pytest.mark.parametrize("projection", [0, 16])
def test_projection_does_not_know_the_labels_of_held_out_slides(projection):
    labelled = cohort(slides=10, each=20, dim=80)
    noise = np.random.default_rng(1).normal(0, 1, labelled.features.shape).astype(np.float16)
    config = FastConfig(head=HeadConfig(penalty=0.1), projection=projection)
    result = returned(fit_and_judge(replace(labelled, features=noise), config))
    label = labelled.table.label
    assert result.held_out.auc(label) < 0.6
    said = result.held_out.probabilities
    assert result.unsure_below == unsure_thresholds(label, said, labelled.table.slide_index, config.unsure_error)


def test_what_counts_as_several_classes():
    assert slides_hold_several_classes(np.asarray([0, 1, 0, 1]), np.asarray([0, 0, 1, 1]))
    assert not slides_hold_several_classes(np.asarray([0, 0, 1, 1]), np.asarray([0, 0, 1, 1]))
