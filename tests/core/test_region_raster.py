import itertools

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely import Polygon
from shapely.geometry import box

from napari_slidecorr.region_index import RegionIndex
from napari_slidecorr.region_raster import RasterFrame, codes_of, fill_value, paint_regions
from napari_slidecorr.regions import Region

CODES = codes_of(["a", "b"])


@st.composite
def stars(draw):
    """A star of any size and place, with up to one hole, on a slide of 640 x 960 px or partly beside it."""
    centre = np.asarray([draw(st.floats(-50, 700)), draw(st.floats(-50, 1000))])
    radius = np.asarray(draw(st.lists(st.floats(2, 200), min_size=3, max_size=20)))
    angle = np.linspace(0, 2 * np.pi, len(radius), endpoint=False)
    outline = centre + radius[:, None] * np.stack([np.sin(angle), np.cos(angle)], 1)
    star = Polygon(outline)
    hole = star.representative_point().buffer(draw(st.floats(1, 30)))
    cut = star.difference(hole) if draw(st.booleans()) else star
    return cut if isinstance(cut, Polygon) and cut.area > 0 else star


def slowly(regions, frame):
    """The same rule, cell by cell: the last region that has the cell's centre."""
    yy, xx = (np.mgrid[: frame.shape[0], : frame.shape[1]] + 0.5) * frame.stride_px
    canvas = np.zeros(frame.shape, np.uint8)
    for region in regions:
        canvas[shapely.contains_xy(region.polygon, yy, xx)] = 1 + CODES[region.class_name]
    return canvas


@given(st.lists(st.tuples(stars(), st.sampled_from("ab")), max_size=4), st.sampled_from([1, 4, 7]))
def test_a_cell_is_painted_when_its_centre_lies_in_a_region(drawn, stride):
    frame = RasterFrame((-(-640 // stride), -(-960 // stride)), stride)
    regions = [Region(name, star) for star, name in drawn]
    painted = paint_regions(regions, CODES, frame)
    wanted = slowly(regions, frame) > 0
    odd = (painted > 0) != wanted
    centres = (np.argwhere(odd) + 0.5) * stride
    outlines = shapely.union_all([region.polygon.boundary for region in regions])
    odd[odd] = (
        shapely.distance(shapely.points(centres), outlines) > 1e-6
    )  # a centre on the line may fall to either side
    wrong = odd & ~wanted  # only the one cell that a region smaller than a cell may keep
    assert not (odd & wanted).any()
    assert wrong.sum() <= sum(min(np.ptp(np.reshape(r.polygon.bounds, (2, 2)), axis=0)) < stride for r in regions)


@given(st.lists(st.tuples(stars(), st.sampled_from("ab")), max_size=4), st.tuples(*[st.integers(0, 80)] * 4))
def test_a_window_is_a_piece_of_the_whole(drawn, corners):
    frame = RasterFrame((80, 120), 8)
    regions = [Region(name, star) for star, name in drawn]
    r0, r1, c0, c1 = *sorted(corners[:2]), *sorted(corners[2:])
    whole = paint_regions(regions, CODES, frame)
    piece = paint_regions(regions, CODES, frame, (r0, c0, r1, c1))
    assert ((piece > 0) == (whole[r0:r1, c0:c1] > 0)).all()
    assert (piece == whole[r0:r1, c0:c1]).all()


def test_later_regions_lie_above_and_outlines_are_told_from_fills():
    frame = RasterFrame((10, 10), 10)
    painted = paint_regions([Region("a", box(10, 10, 60, 60)), Region("b", box(30, 30, 90, 90))], CODES, frame)
    assert painted[2, 2] == fill_value(0)
    assert painted[1, 3] == fill_value(0) + 1
    assert painted[6, 6] == fill_value(1)
    assert painted[8, 5] == fill_value(1) + 1
    assert painted[9, 9] == 0


def test_what_is_smaller_than_a_cell_keeps_a_cell():
    painted = paint_regions([Region("a", box(31, 52, 33, 53))], CODES, RasterFrame((10, 10), 10))
    assert np.argwhere(painted).tolist() == [[3, 5]]


@pytest.mark.parametrize(
    ("shape", "stride"), [((1000, 500), 1), ((4096, 10), 1), ((4097, 10), 2), ((100_000, 80_000), 25)]
)
def test_a_frame_is_as_fine_as_it_may_be(shape, stride):
    frame = RasterFrame.of_slide(shape)
    assert frame.stride_px == stride
    assert max(frame.shape) <= 4096
    assert all(n * stride >= length > (n - 1) * stride for n, length in zip(frame.shape, shape, strict=True))


def test_more_classes_than_codes_share_the_last():
    codes = codes_of([str(n) for n in range(300)])
    assert fill_value(max(codes.values())) + 1 <= 255


@given(st.lists(stars(), max_size=12), st.floats(-50, 700), st.floats(-50, 1000))
def test_the_index_finds_the_topmost_region_at_a_place(drawn, y, x):
    index = RegionIndex([Region("a", star) for star in drawn])
    inside = [i for i, star in enumerate(drawn) if star.covers(shapely.Point(y, x))]
    assert index.at(y, x) == (inside[-1] if inside else None)


@given(st.lists(stars(), max_size=12), st.tuples(*[st.floats(-50, 1000)] * 4))
def test_the_index_finds_what_meets_a_box(drawn, corners):
    y0, y1, x0, x1 = *sorted(corners[:2]), *sorted(corners[2:])
    index = RegionIndex([Region("a", star) for star in drawn])
    wanted = [i for i, star in enumerate(drawn) if box(*star.bounds).intersects(box(y0, x0, y1, x1))]
    assert index.within((y0, x0, y1, x1)).tolist() == wanted


def test_a_window_shows_what_the_whole_picture_shows_there():
    """Also where the edge of a region lies on that of the window."""
    rng = np.random.default_rng(0)
    frame = RasterFrame((40, 50), 1)
    boxes = [(int(y), int(x)) for y, x in rng.integers(0, 35, (30, 2))]
    regions = [Region("a", box(y, x, y + 6, x + 7), f"r{i}") for i, (y, x) in enumerate(boxes)]
    whole = paint_regions(regions, {"a": 0}, frame)
    for r0, c0 in itertools.product(range(0, 30, 3), range(0, 40, 3)):
        window = r0, c0, r0 + 9, c0 + 10
        assert np.array_equal(paint_regions(regions, {"a": 0}, frame, window), whole[r0 : r0 + 9, c0 : c0 + 10])
