import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_slidecorr.cohort import k_fold, leave_one_group_out, split_by_group
from napari_slidecorr.errors import CohortError

BOTH = ("stroma", "tumour")


def cohort(n, classes=BOTH):
    return {f"s{i}": f"s{i}" for i in range(n)}, {f"s{i}": classes for i in range(n)}


def test_a_quarter_of_eight_slides_is_two():
    groups, classes = cohort(8)
    split = split_by_group(groups, classes, fraction=0.25, seed=0)
    assert len(split.validation) == 2
    assert sorted((*split.train, *split.validation)) == sorted(groups)
    assert split == split_by_group(groups, classes, fraction=0.25, seed=0)


@pytest.mark.parametrize(("slides", "fraction", "held"), [(20, 0.05, 1), (20, 0.01, 1), (3, 0.7, 2), (2, 0.99, 1)])
def test_the_share_is_rounded_and_both_sides_get_one(slides, fraction, held):
    groups, classes = cohort(slides)
    assert len(split_by_group(groups, classes, fraction=fraction, seed=0).validation) == held


def test_another_seed_can_hold_out_others():
    groups, classes = cohort(8)
    assert len({split_by_group(groups, classes, fraction=0.25, seed=seed).validation for seed in range(10)}) > 1


def test_slides_of_a_patient_stay_together():
    groups = {"a1": "A", "a2": "A", "b": "B", "c": "C"}
    for seed in range(10):
        split = split_by_group(groups, dict.fromkeys(groups, BOTH), fraction=0.4, seed=seed)
        assert len({"a1", "a2"} & set(split.train)) in (0, 2)


def test_a_slide_without_labels_takes_no_part():
    groups, classes = cohort(3)
    split = split_by_group({**groups, "empty": "empty"}, classes, fraction=0.3, seed=1)
    assert "empty" not in (*split.train, *split.validation)


def test_with_one_class_a_slide_both_sides_still_have_both():
    groups = {f"s{i}": f"s{i}" for i in range(6)}
    classes = {f"s{i}": (BOTH[i % 2],) for i in range(6)}
    split = split_by_group(groups, classes, fraction=0.2, seed=3)
    for side in (split.train, split.validation):
        assert {name for slide in side for name in classes[slide]} == set(BOTH)


def mixed(n):
    """Slides that have both classes, the first alone and the second alone, in turn."""
    groups = {f"s{i}": f"s{i}" for i in range(n)}
    return groups, {f"s{i}": (BOTH, BOTH[:1], BOTH[1:])[i % 3] for i in range(n)}


def test_who_is_held_out_stays_who_it_was():
    """A run that an earlier version began goes on with the very slides that it held out."""
    groups, classes = mixed(9)
    splits = [split_by_group(groups, classes, fraction=0.4, seed=seed).validation for seed in range(3)]
    assert splits == [("s1", "s3", "s4", "s7"), ("s2", "s3", "s5", "s7"), ("s3", "s4", "s6", "s7")]
    folds = [[fold.validation for fold in k_fold(groups, classes, folds=4, seed=seed)] for seed in range(2)]
    assert folds == [
        [("s2", "s3", "s4"), ("s1", "s8"), ("s0", "s7"), ("s5", "s6")],
        [("s3", "s4", "s8"), ("s1", "s2"), ("s6", "s7"), ("s0", "s5")],
    ]


def test_folds_are_of_one_size_give_or_take_one():
    for count, folds in ((9, 4), (10, 3), (11, 4), (12, 4)):
        groups, classes = mixed(count)
        for seed in range(20):
            sizes = [len(fold.validation) for fold in k_fold(groups, classes, folds=folds, seed=seed)]
            assert max(sizes) - min(sizes) <= 1


def test_as_many_folds_as_slides_leave_one_out():
    groups, classes = cohort(4)
    assert sorted(fold.validation for fold in k_fold(groups, classes, folds=4, seed=0)) == [
        (f"s{i}",) for i in range(4)
    ]


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        pytest.param(
            {"a": BOTH, "a2": BOTH, "a3": ("stroma",), "b": ("stroma",)},
            "Class 'tumour' is labelled on one slide or patient only (a, a2); one side of a slide-wise split would lack it. "
            "Label it on a second one.",
            id="a class of one patient",
        ),
        pytest.param(
            {"a": BOTH},
            "Class 'stroma' is labelled on one slide or patient only (a); one side of a slide-wise split would lack it. "
            "Label it on a second one.",
            id="one slide",
        ),
        pytest.param(
            {},
            "Labelled regions are on 0 slides only; a slide-wise split needs at least 2.",
            id="no labels",
        ),
        pytest.param(
            {"a": "xy", "b": "yz", "c": "zx"},
            "The slides cannot be divided so that every class stands on both sides. Label more classes on each slide, or add "
            "slides.",
            id="classes go round",
        ),
    ],
)
def test_what_cannot_be_divided_is_told(classes, words):
    groups = {"a": "a", "a2": "a", "a3": "a", "b": "b", "c": "c"}
    with pytest.raises(CohortError) as told:
        split_by_group(groups, classes, fraction=0.5, seed=0)
    assert str(told.value) == words


def test_a_class_that_no_further_slide_could_give_ends_the_search():
    classes = {"s0": "bcd", "s1": "abc", "s2": "abd", "s3": "b"}
    with pytest.raises(CohortError, match="cannot be divided"):
        split_by_group({slide: slide for slide in classes}, classes, fraction=0.3, seed=0)


def test_nothing_is_held_out_when_told_so():
    groups, classes = cohort(1)
    split = split_by_group(groups, classes, fraction=0.0, seed=0)
    assert split.train == ("s0",)
    assert split.validation == ()


@given(st.data())
def test_no_group_on_both_sides_and_every_class_on_each(data):
    n = data.draw(st.integers(2, 12))
    groups = {f"s{i}": f"g{data.draw(st.integers(0, 6))}" for i in range(n)}
    classes = {slide: data.draw(st.sets(st.sampled_from("abc"), max_size=3).map(sorted)) for slide in groups}
    fraction = data.draw(st.floats(0.05, 0.95))
    try:
        split = split_by_group(groups, classes, fraction=fraction, seed=data.draw(st.integers(0, 5)))
    except CohortError:
        return
    sides = [set(split.train), set(split.validation)]
    assert {groups[s] for s in sides[0]}.isdisjoint({groups[s] for s in sides[1]})
    every = {name for names in classes.values() for name in names}
    assert all({name for slide in side for name in classes[slide]} == every for side in sides)


def sides_of(split, groups, classes):
    """Group names and class names of both sides."""
    sides = (split.train, split.validation)
    return [{groups[s] for s in side} for side in sides], [{n for s in side for n in classes[s]} for side in sides]


@given(st.data())
def test_every_group_is_held_out_once_in_folds_that_have_all_classes(data):
    n = data.draw(st.integers(2, 14))
    groups = {f"s{i}": f"g{data.draw(st.integers(0, 9))}" for i in range(n)}
    classes = {slide: data.draw(st.sets(st.sampled_from("abc"), max_size=3).map(sorted)) for slide in groups}
    folds, seed = data.draw(st.integers(2, 5)), data.draw(st.integers(0, 5))
    try:
        splits = k_fold(groups, classes, folds=folds, seed=seed)
    except CohortError:
        return
    assert splits == k_fold(groups, classes, folds=folds, seed=seed)
    labelled = sorted(slide for slide in groups if classes[slide])
    assert sorted(slide for split in splits for slide in split.validation) == labelled
    held = []
    for split in splits:
        assert sorted((*split.train, *split.validation)) == labelled
        (train, validation), names = sides_of(split, groups, classes)
        assert train.isdisjoint(validation)
        assert names[0] == names[1] == {name for of_slide in classes.values() for name in of_slide}
        held.append(len(validation))
    assert len(splits) == folds
    assert max(held) - min(held) <= 1


def test_slides_of_one_class_each_make_five_folds():
    groups = {f"s{i:02}": f"s{i:02}" for i in range(15)}
    classes = {slide: (BOTH[i >= 10],) for i, slide in enumerate(groups)}
    for seed in range(20):
        assert len(k_fold(groups, classes, folds=5, seed=seed)) == 5
    assert k_fold(groups, classes, folds=5, seed=0) != k_fold(groups, classes, folds=5, seed=1)


def test_a_class_on_too_few_slides_for_the_folds_is_named():
    groups, classes = cohort(6)
    classes = {slide: BOTH if i < 3 else ("stroma",) for i, slide in enumerate(groups)}
    with pytest.raises(CohortError, match=r"'tumour' is labelled on 3 .* Use 3 folds at most"):
        k_fold(groups, classes, folds=4, seed=0)
    with pytest.raises(CohortError, match="2 to 6 folds, not 7"):
        k_fold(groups, classes, folds=7, seed=0)


def test_folds_that_cannot_be_made_end():
    """Each class is on two of the three groups, but no two folds can both have all three."""
    groups = {name: name for name in "abc"}
    with pytest.raises(CohortError, match="fewer folds"):
        k_fold(groups, {"a": "xy", "b": "yz", "c": "zx"}, folds=2, seed=0)


def test_each_patient_is_left_out_in_turn():
    groups = {"a1": "A", "a2": "A", "b": "B", "c": "C", "empty": "D"}
    classes = {"a1": BOTH, "a2": ("stroma",), "b": BOTH, "c": ("tumour",)}
    splits = leave_one_group_out(groups, classes)
    assert [split.validation for split in splits] == [("a1", "a2"), ("b",), ("c",)]
    for split in splits:
        assert sorted((*split.train, *split.validation)) == ["a1", "a2", "b", "c"]
        assert {name for slide in split.train for name in classes[slide]} == set(BOTH)
    with pytest.raises(CohortError, match="tumour"):
        leave_one_group_out({"a": "a", "b": "b"}, {"a": BOTH, "b": ("stroma",)})
