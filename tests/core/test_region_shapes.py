"""What drawing does to regions: geometry that is checked by areas and by a naive second way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import Point, Polygon, box, unary_union

from napari_slidecorr import open_slide
from napari_slidecorr.errors import RegionsError
from napari_slidecorr.geometry import Box
from napari_slidecorr.grow import Growth, read_growth
from napari_slidecorr.region_shapes import (
    added_to,
    corners,
    drawn_into,
    ellipse,
    filled,
    merged,
    polygons_of_mask,
    region_under,
    simplified,
    split,
    stroke,
    subtracted_from,
    touched,
)
from napari_slidecorr.regions import Region, RegionSet


def square(y, x, side, name="tumour"):
    return Region(name, box(y, x, y + side, x + side))


def holed(y, x, side):
    inner = box(y + side / 4, x + side / 4, y + side / 2, x + side / 2)
    return Region("tumour", box(y, x, y + side, x + side).difference(inner))


def areas(regions):
    return sorted(region.area_px for region in regions)


def test_adding_joins_what_touches_and_keeps_the_uid():
    one, other = square(0, 0, 100), square(500, 500, 10)
    grown = added_to(RegionSet((one, other)), one.uid, box(50, 50, 150, 150))
    assert [r.uid for r in grown] == [one.uid, other.uid]
    assert grown.regions[0].area_px == 2 * 100 * 100 - 50 * 50
    assert grown.regions[1] is other


def test_adding_apart_gives_a_second_region_of_the_class():
    one = square(0, 0, 100)
    grown = added_to(RegionSet((one,)), one.uid, box(200, 200, 210, 210))
    assert areas(grown) == [100, 10_000]
    assert {r.class_name for r in grown} == {"tumour"}
    assert grown.regions[0].uid == one.uid


def test_subtracting_cuts_a_hole_or_a_corner_or_all():
    one = square(0, 0, 100)
    regions = RegionSet((one,))
    hole = subtracted_from(regions, {one.uid}, box(40, 40, 60, 60)).regions[0]
    assert len(hole.polygon.interiors) == 1
    assert hole.area_px == 100 * 100 - 20 * 20
    assert hole.uid == one.uid
    parts = subtracted_from(regions, {one.uid}, box(-1, 40, 101, 60))
    assert areas(parts) == [4000, 4000]
    assert len(subtracted_from(regions, {one.uid}, box(-1, -1, 101, 101))) == 0
    assert subtracted_from(regions, {one.uid}, box(200, 200, 300, 300)).regions[0] is one


@pytest.mark.parametrize(
    ("line", "pieces"),
    [
        pytest.param([(-10, 50), (110, 50)], [5000, 5000], id="straight"),
        pytest.param([(-10, 20), (50, 20), (50, 110)], [8000 - 50 * 80 + 0, 6000], id="bent"),
        pytest.param([(-10, 30), (110, 30), (110, 60), (-10, 60)], [3000, 3000, 4000], id="there and back"),
    ],
)
def test_a_line_from_edge_to_edge_splits(line, pieces):
    one = square(0, 0, 100)
    parted = split(RegionSet((one,)), line)
    assert areas(parted) == pytest.approx(sorted(pieces))
    assert one.uid in {r.uid for r in parted}
    assert sum(areas(parted)) == pytest.approx(one.area_px)


def test_splitting_through_a_hole_keeps_the_hole_out():
    one = holed(0, 0, 100)
    parted = split(RegionSet((one,)), [(30, -10), (30, 110)])
    assert len(parted) == 2
    assert sum(areas(parted)) == pytest.approx(one.area_px)
    assert not any(r.polygon.interiors for r in parted)


@pytest.mark.parametrize("line", [[(50, 50)], [(50, 50), (50, 50)], [(20, 20), (60, 60)], [(-50, 50), (50, 50)]])
def test_a_line_that_does_not_go_through_is_refused(line):
    with pytest.raises(RegionsError):
        split(RegionSet((square(0, 0, 100),)), line)


def test_only_the_named_regions_are_split():
    one, other = square(0, 0, 100), square(0, 200, 100)
    parted = split(RegionSet((one, other)), [(50, -10), (50, 400)], {other.uid})
    assert parted.regions[0] is one
    assert len(parted) == 3


def test_merging_needs_one_class_and_contact():
    a, b, c, d = square(0, 0, 100), square(50, 50, 100), square(500, 0, 10), square(0, 0, 5, "stroma")
    regions = RegionSet((a, b, c, d))
    joined = merged(regions, {a.uid, b.uid})
    assert [r.uid for r in joined] == [a.uid, c.uid, d.uid]
    assert joined.regions[0].area_px == 17_500
    with pytest.raises(RegionsError, match="several classes"):
        merged(regions, {a.uid, d.uid})
    with pytest.raises(RegionsError, match="do not touch"):
        merged(regions, {a.uid, c.uid})
    with pytest.raises(RegionsError, match="two or more"):
        merged(regions, {a.uid})
    assert areas(merged(regions, {a.uid, b.uid, c.uid})) == [25, 100, 17_500]


def test_filling_and_its_refusal():
    one = holed(0, 0, 100)
    assert filled(RegionSet((one,)), {one.uid}).regions[0].area_px == 10_000
    with pytest.raises(RegionsError, match="hole"):
        filled(RegionSet((square(0, 0, 5),)), {one.uid})


def test_simplifying_keeps_the_area_and_drops_corners():
    round_one = Region("a", Point(0, 0).buffer(100, quad_segs=64))
    simple = simplified(RegionSet((round_one,)), {round_one.uid}, 2.0).regions[0]
    assert corners([simple]) < corners([round_one]) / 4
    assert simple.area_px == pytest.approx(round_one.area_px, rel=0.04)
    assert simple.polygon.hausdorff_distance(round_one.polygon) <= 2.0
    for bad in (0.0, float("nan")):
        with pytest.raises(RegionsError, match="above 0"):
            simplified(RegionSet((round_one,)), {round_one.uid}, bad)
    with pytest.raises(RegionsError, match="Select"):
        simplified(RegionSet((round_one,)), set(), 1.0)


def test_an_ellipse_has_the_area_of_one():
    made = ellipse(10, 20, 110, 220)
    assert made.bounds == pytest.approx((10, 20, 110, 220))
    assert made.area == pytest.approx(np.pi * 50 * 100, rel=0.005)


def test_a_stroke_covers_what_a_brush_would():
    path = [(0.0, 0.0), (0.0, 200.0), (100.0, 200.0)]
    made = stroke(path, 20)
    naive = unary_union(
        [Point(y, x).buffer(20) for y, x in [(0, i) for i in range(201)] + [(i, 200) for i in range(101)]]
    )
    assert made.symmetric_difference(naive).area < 0.02 * naive.area
    assert stroke([(5.0, 5.0)], 10).area == pytest.approx(np.pi * 100, rel=0.03)
    ring = stroke([(0.0, 0.0), (0.0, 100.0), (100.0, 100.0), (100.0, 0.0), (0.0, 0.0)], 10)
    assert len(ring.interiors) == 1
    for points, radius in (([], 1.0), ([(0.0, 0.0)], 0.0), ([(0.0, 0.0)], float("nan"))):
        with pytest.raises(RegionsError):
            stroke(points, radius)


def test_what_lies_on_top_is_under_the_cursor():
    low, high = square(0, 0, 100), square(50, 50, 100)
    regions = RegionSet((low, high))
    assert region_under(regions, 60, 60) is high
    assert region_under(regions, 10, 10) is low
    assert region_under(regions, 400, 10) is None
    assert region_under(RegionSet((holed(0, 0, 100),)), 30, 30) is None
    assert touched(regions, box(-10, -10, 20, 20)) == [low]
    assert touched(regions, box(100, 0, 150, 40)) == []  # an edge is no area


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_outlines_of_a_mask_have_its_area_and_holes(seed):
    from scipy.ndimage import gaussian_filter

    mask = gaussian_filter(np.random.default_rng(seed).normal(size=(60, 80)), 4) > 0.02
    polygons = polygons_of_mask(mask, (100, 200), (4, 2), detail=0.01)
    assert all(p.is_valid for p in polygons)
    assert sum(p.area for p in polygons) == pytest.approx(mask.sum() * 8, rel=0.06, abs=40)
    rows, columns = np.nonzero(mask)
    for row, column in list(zip(rows, columns, strict=True))[::97]:
        assert any(p.covers(Point(100 + (row + 0.5) * 4, 200 + (column + 0.5) * 2)) for p in polygons)


def test_an_island_in_a_hole_is_found():
    mask = np.zeros((50, 50), bool)
    mask[5:45, 5:45] = True
    mask[15:35, 15:35] = False
    mask[22:28, 22:28] = True
    outer, island = polygons_of_mask(mask, detail=0.01)
    assert len(outer.interiors) == 1
    assert island.area == pytest.approx(36, abs=1)
    assert polygons_of_mask(np.zeros((5, 5), bool)) == []


def picture():
    """Pink on white: a disk of radius 180 with a hole of radius 80, and another disk apart."""
    y, x = np.mgrid[:600, :900]
    ring = (np.hypot(y - 300, x - 300) < 180) & (np.hypot(y - 300, x - 300) > 80)
    pink = ring | (np.hypot(y - 300, x - 720) < 90)
    pixels = np.where(pink[..., None], (200, 120, 160), (240, 240, 240)).astype(float)
    return np.clip(pixels + np.random.default_rng(0).normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)


def test_the_wand_stops_at_the_border_of_its_colour():
    growth = Growth(picture(), Box(1000, 2000, 3400, 5600), (1000 + 4 * 180, 2000 + 4 * 300))
    assert growth.step == (4.0, 4.0)
    assert growth.seed == (180, 300)
    polygon = growth.polygon(7.0)
    ring = Point(1000 + 1200, 2000 + 1200).buffer(4 * 180).difference(Point(2200, 3200).buffer(4 * 80))
    assert polygon.intersection(ring).area / polygon.union(ring).area > 0.92
    assert ring.buffer(8).covers(polygon)
    assert len(polygon.interiors) == 1
    assert growth.polygon(300.0).area == pytest.approx(2400 * 3600, rel=0.01)
    areas = [growth.mask(t).sum() for t in (2, 8, 16, 32)]
    assert areas == sorted(areas)


def test_the_wand_tells_grain_from_smoothness_of_one_colour():
    rng = np.random.default_rng(1)
    pixels = np.clip(160 + rng.normal(0, 1, (300, 400, 3)), 0, 255)
    pixels[:, 200:] += rng.normal(0, 40, (300, 200, 1))
    pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    left = Growth(pixels, Box(0, 0, 300, 400), (150.0, 50.0)).mask(7.0)
    assert left[:, :170].mean() > 0.98
    assert not left[:, 200 + 12 :].any()  # but for the rim


def test_the_wand_reads_no_finer_than_the_screen_and_only_the_slide(tmp_path):
    import tifffile

    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, np.full((800, 1200, 3), 200, np.uint8), tile=(256, 256), photometric="rgb")
    slide = open_slide(path)
    growth = read_growth(slide, Box(-100, -100, 5000, 5000), (400.0, 600.0), 300)
    assert growth.box == Box(0, 0, 800, 1200)
    assert growth.pixels.shape == (200, 300, 3)
    for outside in ((-1.0, 5.0), (800.0, 5.0), (5.0, 1200.0)):
        with pytest.raises(RegionsError, match="outside"):
            read_growth(slide, Box(-100, -100, 5000, 5000), outside)


def test_a_drawn_shape_goes_to_the_region_under_its_beginning():
    low, high, far = square(0, 0, 100), square(50, 50, 100, "stroma"), square(500, 500, 10)
    regions = RegionSet((low, high, far))
    shape = box(60, 60, 200, 200)
    after, uids = drawn_into(regions, shape, "new", (60, 60), "fat")
    assert [r.class_name for r in after] == ["tumour", "stroma", "tumour", "fat"]
    assert uids == [after.regions[3].uid]
    after, uids = drawn_into(regions, shape, "add", (60, 60), "fat")
    assert uids == [high.uid]
    assert after.regions[1].polygon.bounds == (50, 50, 200, 200)
    assert after.regions[0] is low
    after, uids = drawn_into(regions, shape, "subtract", (60, 60), "fat")
    assert uids == [high.uid]
    assert areas(after)[1] == 10_000 - 90 * 90


def test_a_shape_begun_beside_regions_goes_to_the_chosen_then_to_those_it_touches():
    one, two, other = square(0, 0, 100), square(0, 150, 100), square(0, 300, 100, "stroma")
    regions = RegionSet((one, two, other))
    bar = box(40, -50, 60, 450)
    assert drawn_into(regions, bar, "add", (50, -40), "tumour", [two.uid])[1] == [two.uid]
    assert drawn_into(regions, bar, "subtract", (50, -40), "tumour", [two.uid])[1] == [two.uid]
    assert drawn_into(regions, bar, "subtract", (50, -40), "tumour")[1] == [one.uid, two.uid, other.uid]
    assert drawn_into(regions, bar, "add", (50, -40), "stroma")[1] == [other.uid]
    made, (uid,) = drawn_into(regions, bar, "add", (50, -40), "fat")
    assert (len(made), made.regions[-1].uid) == (4, uid)
    with pytest.raises(RegionsError, match="no region to cut"):
        drawn_into(regions, box(900, 900, 950, 950), "subtract", (900, 900), "fat")
    with pytest.raises(RegionsError, match="no area"):
        drawn_into(regions, Polygon(), "new", (0, 0), "fat")
