import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from napari_slidecorr.errors import CohortError
from napari_slidecorr.geometry import PatchGeometry
from napari_slidecorr.patches import PatchTable
from napari_slidecorr.sampling import class_shares, rows_of_rank, same_slide_pairs, slide_batches


def table_of(counts):
    """A table with counts[slide][class] patches."""
    slide, label = [], []
    for s, row in enumerate(counts):
        for k, n in enumerate(row):
            slide += [s] * n
            label += [k] * n
    p = len(slide)
    return PatchTable(
        np.arange(p),
        np.zeros(p, np.int64),
        np.asarray(slide, np.int32),
        np.asarray(label, np.int16),
        tuple(map(str, range(len(counts)))),
        tuple("ab"[: len(counts[0])]),
        ((8, 8),) * len(counts),
        PatchGeometry(8),
    )


def batches(table, m=8, n=4, seed=0, epoch=0):
    return slide_batches(table, slides_per_batch=m, patches_per_slide=n, seed=seed, epoch=epoch)


GOLDEN = [
    [[9, 6, 4, 2], [10, 11, 16, 17], [15, 14, 16, 17], [15, 14, 8, 7]],
    [[7, 8, 14, 15], [0, 3, 17, 16], [12, 11, 2, 4], [10, 13, 9, 6]],
]
GOLDEN_SMALL = [
    [[9, 4, 10], [16, 15, 6], [11, 2, 17], [5, 13, 8], [14, 7, 12], [16, 1, 11]],
    [[7, 14, 0], [17, 12, 3], [11, 8, 15], [16, 10, 9], [2, 15, 6], [17, 14, 6]],
]

tables = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8).map(table_of)


@pytest.mark.parametrize(("index", "pairs"), [([0, 1, 2], 0), ([5, 5], 1), ([1, 1, 1, 7, 7], 4), ([], 0)])
def test_pairs(index, pairs):
    assert same_slide_pairs(np.asarray(index, int)) == pairs


def test_a_class_of_a_single_patch_has_its_share():
    np.testing.assert_allclose(class_shares(table_of([(1, 3), (0, 2)])), (0.25, 0.75))


@given(tables, st.integers(2, 8), st.integers(1, 5), st.integers(0, 3))
@example(table_of([(0, 9), (9, 0)]), 2, 4, 0)
@example(table_of([(9, 1)]), 2, 1, 0)
@example(table_of([(9, 0), (9, 0), (0, 1)]), 2, 1, 0)
@example(table_of([(9, 9), (9, 0)]), 2, 1, 0)
@example(table_of([(9, 0), (5, 5), (5, 5), (0, 9), (9, 0)]), 3, 1, 0)
def test_m_slides_by_n_patches_and_never_one_label(table, m, n, epoch):
    if len(np.unique(table.label)) < 2:
        with pytest.raises(CohortError, match=r"^The training patches are all of one class; nothing can be learnt"):
            batches(table, m, n, epoch=epoch)
        return
    slides = len(np.unique(table.slide_index))
    n_used = max(n, 2) if slides == 1 else n
    for rows in batches(table, m, n, epoch=epoch):
        assert len(rows) == min(m, slides) * n_used
        assert len(np.unique(table.label[rows])) > 1
        found, counts = np.unique(table.slide_index[rows], return_counts=True)
        assert (counts % n_used == 0).all()
        if len(found) < min(m, slides):  # a slide stands twice only if no other has a second class
            other = table.slide_index[table.label != table.label[rows[0]]]
            assert set(other) <= set(table.slide_index[rows[:-n_used]])


def test_the_same_seed_and_epoch_give_the_same_batches_and_another_epoch_others():
    table = table_of([(20, 20)] * 6)
    first, again, later = batches(table), batches(table), batches(table, epoch=1)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any((a != b).any() for a, b in zip(first, later, strict=True))


def test_batches_stay_what_they_were():
    """A run that an earlier version began goes on with the very batches that it would have had."""
    table = table_of([(3, 3), (0, 4), (4, 0), (2, 0), (0, 2)])
    drawn = [[rows.tolist() for rows in batches(table, 2, 2, seed=7, epoch=epoch)] for epoch in range(2)]
    assert drawn == GOLDEN
    small = [[rows.tolist() for rows in batches(table, 3, 1, seed=7, epoch=epoch)] for epoch in range(2)]
    assert small == GOLDEN_SMALL


def test_a_small_table_is_one_batch():
    assert len(batches(table_of([(1, 1)] * 3))) == 1


def test_a_second_class_is_found_though_every_slide_is_in_the_batch():
    table = table_of([(9, 9), (9, 0)])
    for epoch in range(10):
        for rows in batches(table, m=2, n=1, epoch=epoch):
            assert len(np.unique(table.label[rows])) == 2


def test_an_epoch_shows_nearly_every_patch_of_even_slides_once():
    table = table_of([(16, 16)] * 8)
    shown = np.bincount(np.concatenate(batches(table)), minlength=len(table))
    assert shown.sum() == len(table)
    assert shown.max() == 1


def test_slides_and_classes_are_drawn_equally_often():
    table = table_of([(400, 10), (10, 10), (10, 400), (30, 30)])
    rows = np.concatenate(batches(table, m=2))
    per_slide = np.bincount(table.slide_index[rows])
    assert per_slide.max() - per_slide.min() <= 8
    for slide in range(4):
        of_slide = np.bincount(table.label[rows[table.slide_index[rows] == slide]], minlength=2)
        assert abs(of_slide[0] - of_slide[1]) <= 4


def test_batches_of_slides_with_one_class_each_hold_both_classes():
    table = table_of([(40, 0)] * 10 + [(0, 40)] * 3)
    for rows in batches(table, m=4):
        assert len(np.unique(table.label[rows])) == 2
        assert same_slide_pairs(table.slide_index[rows]) == 4 * 6


def test_shares_of_classes_are_what_batches_show():
    table = table_of([(40, 0)] * 5 + [(9, 40)] * 3 + [(0, 40)])
    shown = np.bincount(table.label[np.concatenate([np.concatenate(batches(table, epoch=e)) for e in range(20)])])
    shares = class_shares(table)
    assert shares == pytest.approx([(5 + 1.5) / 9, (1.5 + 1) / 9])
    assert shown / shown.sum() == pytest.approx(shares, abs=0.04)


@given(tables, st.integers(2, 8), st.integers(1, 5), st.integers(1, 4))
def test_ranks_get_whole_slides_and_together_the_batch(table, m, n, ranks):
    if len(np.unique(table.label)) < 2:
        return
    for rows in batches(table, m, n):
        if len(np.unique(table.slide_index[rows])) < ranks:
            with pytest.raises(CohortError, match=r"processes; raise slides_per_batch, or start fewer processes\.$"):
                rows_of_rank(rows, table.slide_index, 0, ranks)
            continue
        dealt = [rows_of_rank(rows, table.slide_index, rank, ranks) for rank in range(ranks)]
        assert sorted(np.concatenate(dealt)) == sorted(rows)
        pairs = sum(same_slide_pairs(table.slide_index[part]) for part in dealt)
        assert pairs == same_slide_pairs(table.slide_index[rows])
        counts = [len(np.unique(table.slide_index[part])) for part in dealt]
        assert max(counts) - min(counts) <= 1


def test_one_rank_gets_all_in_order():
    table = table_of([(20, 20)] * 6)
    for rows in batches(table):
        assert (rows_of_rank(rows, table.slide_index, 0, 1) == rows).all()
