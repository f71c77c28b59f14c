import numpy as np
import pytest
from shapely import Polygon, box

from napari_slidecorr.config import PatchConfig
from napari_slidecorr.errors import CohortError
from napari_slidecorr.geometry import Box
from napari_slidecorr.patches import PatchSource, check_trainable, cut_patches, leaky_split
from napari_slidecorr.regions import IGNORE, Region, RegionSet

CLASSES = ("stroma", "tumour")
CONFIG = PatchConfig(size_px=16, mpp=None)


def square(name, y, x, size):
    return Region(name, box(y, x, y + size, x + size))


def source(*regions, slide_id="a", shape=(200, 300)):
    return PatchSource(slide_id, shape, (16, 16), RegionSet(regions))


def places(table):
    return sorted(zip(table.y.tolist(), table.x.tolist(), table.label.tolist(), strict=True))


def test_a_square_of_two_by_two_patches():
    table = cut_patches([source(square("tumour", 32, 48, 32))], CLASSES, CONFIG)
    assert places(table) == [(32, 48, 1), (32, 64, 1), (48, 48, 1), (48, 64, 1)]
    assert table.box(0) == Box(32, 48, 48, 64)
    assert table.counts().tolist() == [[0, 4]]


def test_a_patch_half_covered_counts_and_a_little_less_does_not():
    assert len(cut_patches([source(Region("tumour", box(32, 48, 48, 56)))], CLASSES, CONFIG)) == 1
    assert len(cut_patches([source(Region("tumour", box(32, 48, 48, 55.9)))], CLASSES, CONFIG)) == 0


def test_a_hole_has_no_patches():
    ring = Polygon([(0, 0), (80, 0), (80, 80), (0, 80)], [[(16, 16), (16, 64), (64, 64), (64, 16)]])
    table = cut_patches([source(Region("tumour", ring))], CLASSES, CONFIG)
    assert len(table) == 25 - 9


def test_where_classes_meet_the_larger_part_decides():
    halves = source(Region("tumour", box(0, 0, 16, 10)), Region("stroma", box(0, 10, 16, 32)))
    assert places(cut_patches([halves], CLASSES, CONFIG)) == [(0, 0, 1), (0, 16, 0)]


def test_ignore_is_taken_out_of_the_others():
    marked = source(square("tumour", 0, 0, 48), square(IGNORE, 0, 0, 16))
    table = cut_patches([marked], (*CLASSES,), CONFIG)
    assert len(table) == 8
    assert (0, 0, 1) not in places(table)


def test_overlapping_regions_of_a_class_give_each_patch_once():
    twice = source(square("tumour", 0, 0, 32), square("tumour", 0, 0, 32))
    assert len(cut_patches([twice], CLASSES, CONFIG)) == 4


def test_patches_lie_whole_on_the_slide():
    table = cut_patches([source(square("tumour", -50, -50, 600), shape=(40, 50))], CLASSES, CONFIG)
    assert places(table) == [(y, x, 1) for y in (0, 16) for x in (0, 16, 32)]


def test_coverage_equals_counting_pixels():
    rng = np.random.default_rng(0)
    triangle = Polygon(rng.uniform(0, 160, (3, 2)))
    table = cut_patches(
        [source(Region("tumour", triangle))], CLASSES, PatchConfig(size_px=16, mpp=None, min_coverage=0.3)
    )
    fine = np.arange(0, 160, 0.25) + 0.125
    from shapely import contains_xy

    inside = contains_xy(triangle, *np.meshgrid(fine, fine, indexing="ij")).reshape(10, 64, 10, 64).mean(axis=(1, 3))
    expected = {(r * 16, c * 16) for r, c in zip(*np.nonzero(inside > 0.31), strict=True)}
    allowed = {(r * 16, c * 16) for r, c in zip(*np.nonzero(inside > 0.29), strict=True)}
    found = {(y, x) for y, x, _ in places(table)}
    assert expected <= found <= allowed


def test_rows_of_some_slides_are_renumbered():
    table = cut_patches(
        [source(square("tumour", 0, 0, 32), slide_id=name) for name in "abc"], CLASSES, CONFIG
    ).of_slides(["c", "a"])
    assert table.slides == ("c", "a")
    assert table.counts().tolist() == [[0, 4], [0, 4]]


def test_the_leaky_split_has_every_slide_on_both_sides_and_no_patch_twice():
    marked = [source(square("tumour", 0, 0, 64), square("stroma", 96, 0, 48), slide_id=name) for name in "abc"]
    table = cut_patches(marked, CLASSES, CONFIG)
    first, second = leaky_split(table, fraction=0.25, seed=3)
    assert first.slides == second.slides == table.slides
    assert second.counts().tolist() == [[2, 4]] * 3
    assert (first.counts() + second.counts() == table.counts()).all()
    rows = [set(zip(t.slide_index.tolist(), t.y.tolist(), t.x.tolist(), strict=True)) for t in (first, second, table)]
    assert rows[0] | rows[1] == rows[2]
    assert not rows[0] & rows[1]
    again, other = leaky_split(table, fraction=0.25, seed=3)[1], leaky_split(table, fraction=0.25, seed=4)[1]
    assert (again.y == second.y).all()
    assert (again.x == second.x).all()
    assert not ((other.y == second.y).all() and (other.x == second.x).all())


def test_a_single_patch_of_a_class_stays_in_the_first_table():
    table = cut_patches([source(square("tumour", 0, 0, 16), square("stroma", 64, 0, 32))], CLASSES, CONFIG)
    first, second = leaky_split(table, fraction=0.9, seed=0)
    assert first.counts().tolist() == [[1, 1]]
    assert second.counts().tolist() == [[3, 0]]


@pytest.mark.parametrize(
    ("regions", "words"),
    [
        pytest.param((), "no regions", id="none"),
        pytest.param((square("tumour", 0, 0, 5),), "large enough", id="too small"),
        pytest.param((square("tumour", 0, 0, 50),), "Only class 'tumour'", id="one class"),
    ],
)
def test_what_is_missing_for_a_training_is_told(regions, words):
    marked = source(*regions)
    with pytest.raises(CohortError, match=words):
        check_trainable(cut_patches([marked], CLASSES, CONFIG), {"a": marked.regions})


def test_no_slides_at_all():
    with pytest.raises(CohortError, match="no regions"):
        check_trainable(cut_patches([], CLASSES, CONFIG), {})
