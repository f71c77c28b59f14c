import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapely import Polygon

from napari_slidecorr.errors import RegionsError
from napari_slidecorr.io import read_regions, write_regions
from napari_slidecorr.io.regions_file import CLOSED, REPAIRED
from napari_slidecorr.io.regions_geojson import NAMED, SCALED
from napari_slidecorr.regions import Region, RegionSet

SQUARE = [[10.0, 20.0], [40.0, 20.0], [40.0, 60.0], [10.0, 60.0], [10.0, 20.0]]
BOW_TIE = [[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]


def polygon(*rings, **properties):
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": list(rings)},
        "properties": {"objectType": "annotation", **properties},
    }


@pytest.fixture
def read(tmp_path):
    def read_what(content):
        path = tmp_path / "some regions.geojson"
        path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
        return read_regions(path)

    return read_what


# -- what other programs wrote -----------------------------------------------------------------------------------------

GOLDEN = [
    # file, regions of each class ("" unclassed), holes, what was told
    ("dlup-qupath05.geojson", {"UT": 1, "I": 2}, 0, {NAMED: 3}),
    ("histoqc-geojson_example.json", {"Tumor": 3, "Invborder": 5}, 1, {}),
    ("histoqc-holed.geojson", {"": 1}, 1, {}),
    ("insitupy-annotations-Tumor.geojson", {"Tumor cells": 28}, 0, {SCALED: 28}),
    ("insitupy-demo_points.geojson", {}, 0, {"A MultiPoint was left out: it has no area.": 1}),
    ("insitupy-demo_regions.geojson", {"Region 1": 1, "Region 2": 1, "Region 3": 1}, 0, {NAMED: 3}),
    (
        "insitupy-test_regions.geojson",
        {"A-1": 1, "A-2": 1},
        1,
        {"A MultiPoint was left out: it has no area.": 1, NAMED: 2},
    ),
    ("large_image-sample.geojson", {"": 10}, 0, {}),
    ("luna-1006844.annotation.geojson", {"Other": 3, "Tumor": 4, "TILs": 8}, 0, {NAMED: 15}),
    ("luna-123.annotation.geojson", {"Other": 1, "Tumor": 1}, 0, {NAMED: 2}),
    (
        "luna-region_annotation_results.geojson",
        {},
        0,
        {"A cell was left out: only annotations are regions.": 1},
    ),
    ("qupath-polygon.geojson", {"": 3}, 26, {}),
    ("wsidicom-qupath-brush.json", {"brush": 1}, 0, {NAMED: 1}),
    ("wsidicom-qupath-ellipse.json", {"ellipse": 1}, 0, {NAMED: 1}),
    ("wsidicom-qupath-line.json", {}, 0, {"A LineString was left out: it has no area.": 1}),
    ("wsidicom-qupath-multipoint.json", {}, 0, {"A MultiPoint was left out: it has no area.": 1}),
    ("wsidicom-qupath-point.json", {}, 0, {"A Point was left out: it has no area.": 1}),
    ("wsidicom-qupath-polygon-cell-classified.json", {"Cell": 2, "Nucleus": 2}, 0, {}),
    ("wsidicom-qupath-polygon.json", {"polygon": 1}, 0, {NAMED: 1}),
    ("wsidicom-qupath-polyline.json", {}, 0, {"A LineString was left out: it has no area.": 1}),
    ("wsidicom-qupath-rectangle.json", {"rectangle": 1}, 0, {NAMED: 1}),
    ("wsidicom-qupath-wand.json", {"wand": 1}, 0, {NAMED: 1}),
    ("wsiprocess-test_annotation.geojson", {"": 1}, 0, {}),
]


@pytest.mark.parametrize(("name", "classes", "holes", "skipped"), GOLDEN, ids=[case[0] for case in GOLDEN])
def test_reads_and_rewrites_what_others_wrote(shared_data, tmp_path, name, classes, holes, skipped):
    found = read_regions(shared_data / "annotations" / name)
    assert {key: len(found.regions.of_class(key)) for key in {r.class_name for r in found.regions}} == classes
    assert sum(len(region.polygon.interiors) for region in found.regions) == holes
    assert found.skipped | found.repaired | found.notes == skipped
    write_regions(tmp_path / "again.geojson", found.regions)
    again = read_regions(tmp_path / "again.geojson")
    assert (again.regions, again.skipped, again.repaired, again.notes) == (found.regions, {}, {}, {})


def test_a_known_area_lies_where_it_was_drawn(shared_data):
    found = read_regions(shared_data / "annotations" / "wsidicom-qupath-rectangle.json").regions
    assert found.regions[0].polygon.bounds == (15298, 26268, 15474, 26478)  # y0 x0 y1 x1


def test_both_ways_of_colours(shared_data, read):
    folder = shared_data / "annotations"
    colors = read_regions(folder / "histoqc-geojson_example.json").colors
    assert colors == {"Tumor": (200, 0, 0), "Invborder": (0, 255, 0)}
    assert read_regions(folder / "insitupy-demo_points.geojson").colors == {"Tumor center": (132, 81, 104)}
    assert read([polygon(SQUARE, classification={"name": "no colour"})]).colors == {}


# -- what a feature means ----------------------------------------------------------------------------------------------


def test_x_and_y_change_places(read):
    (region,) = read(polygon(SQUARE)).regions
    assert list(region.polygon.exterior.coords) == [(y, x) for x, y in SQUARE]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(polygon(SQUARE), id="bare feature"),
        pytest.param([polygon(SQUARE)], id="array"),
        pytest.param({"type": "FeatureCollection", "features": [polygon(SQUARE)]}, id="collection"),
        pytest.param(polygon(SQUARE)["geometry"], id="bare geometry"),
        pytest.param("\ufeff" + json.dumps(polygon(SQUARE)), id="byte order mark"),
        pytest.param(polygon([[*point, 0] for point in SQUARE]), id="three coordinates"),
        pytest.param(polygon(SQUARE[:-1]), id="ring left open"),
    ],
)
def test_every_root_gives_the_region(read, content):
    (region,) = read(content).regions
    assert region.area_px == 1200


@pytest.mark.parametrize("content", [[], {"type": "FeatureCollection", "features": []}])
def test_no_region_is_no_error(read, content):
    found = read(content)
    assert (found.regions, found.skipped) == (RegionSet(), {})


def test_derived_classes_and_nested_objects(read):
    child = polygon(SQUARE, classification={"names": ["Tumor", "Positive"]})
    found = read(polygon(SQUARE, classification={"name": "Tissue"}, childObjects=[child])).regions
    assert [region.class_name for region in found] == ["Tissue", "Tumor: Positive"]


def test_a_name_is_no_class_where_something_has_one(read):
    found = read([polygon(SQUARE, name="mine"), polygon(SQUARE, classification={"name": "Tumor"})])
    assert [region.class_name for region in found.regions] == ["", "Tumor"]
    assert found.skipped == {}


def test_parts_of_a_multipolygon(read):
    multi = {"type": "MultiPolygon", "coordinates": [[SQUARE], [[[100, 0], [110, 0], [110, 10]]]]}
    feature = {"type": "Feature", "id": "abc", "geometry": multi, "properties": {}}
    found = read(feature)
    assert [region.uid for region in found.regions] == ["abc/0", "abc/1"]
    assert found.skipped == {}


@pytest.mark.parametrize(
    ("feature", "words"),
    [
        pytest.param({"type": "Feature", "geometry": None}, "without a geometry", id="null"),
        pytest.param(polygon(), "fewer than three corners", id="no ring"),
        pytest.param(polygon([[0, 0], [1, 1]]), "fewer than three corners", id="two corners"),
        pytest.param(polygon([[0, 0], [1, 1], [2, 2]]), "without an area", id="flat"),
        pytest.param(polygon(SQUARE) | {"properties": {"objectType": "detection"}}, "detection", id="detection"),
        pytest.param(polygon(SQUARE) | {"id": "PathTileObject", "properties": {}}, "tile", id="old tile"),
        pytest.param(
            {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [SQUARE], "plane": {"z": 2}}},
            "another z plane",
            id="z plane",
        ),
    ],
)
def test_what_is_left_out_is_counted(read, feature, words):
    found = read([feature, feature, polygon(SQUARE)])
    assert len(found.regions) == 1
    assert [(words in reason, count) for reason, count in found.skipped.items()] == [(True, 2)]


def test_a_crossing_outline_is_repaired_and_told(read):
    found = read(polygon(BOW_TIE, classification={"name": "A"}) | {"id": "tie"})
    assert [region.area_px for region in found.regions] == [25, 25]
    assert [region.uid for region in found.regions] == ["tie/0", "tie/1"]
    assert found.skipped == {}
    assert found.repaired == {REPAIRED: 1}


def test_an_open_ring_is_closed_and_told(read):
    found = read([polygon(SQUARE[:-1]), polygon(SQUARE)])
    assert [region.area_px for region in found.regions] == [1200, 1200]
    assert found.repaired == {CLOSED: 1}


def test_numbers_that_are_none_matter_only_in_coordinates(read):
    measured = polygon(SQUARE, measurements={"Solidity": float("nan"), "Ratio": float("inf")})
    assert len(read(measured).regions) == 1


def test_a_file_is_refused_by_the_feature_that_cannot_be_understood(read):
    with pytest.raises(RegionsError, match=r"feature 3 .*finite"):
        read([polygon(SQUARE), polygon(SQUARE), polygon([[float("-inf"), 0], [1, 0], [1, 1]])])


def test_corners_with_and_without_a_height(read):
    (region,) = read(polygon([[0, 0, 5], [4, 0], [4, 4, 1], [0, 0]])).regions
    assert region.area_px == 8


def test_keys_may_come_in_any_order(read):
    text = json.dumps({"features": [polygon(SQUARE)], "crs": {"features": [1]}, "type": "FeatureCollection"})
    assert len(read(text).regions) == 1


def test_uids_are_unique_and_the_same_at_each_reading(read):
    again = polygon(SQUARE) | {"id": "PathAnnotationObject"}
    twice = polygon(SQUARE) | {"id": "mine"}
    content = [again, again, twice, twice, polygon(SQUARE) | {"id": 7}]
    uids = [region.uid for region in read(content).regions]
    assert len(set(uids)) == 5
    assert uids[2] == "mine"
    assert "PathAnnotationObject" not in uids
    assert uids == [region.uid for region in read(content).regions]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param("", "empty", id="empty"),
        pytest.param("  \n", "empty", id="blank"),
        pytest.param(json.dumps(polygon(SQUARE))[:70], "cut short", id="cut short"),
        pytest.param(json.dumps(polygon([[float("nan"), 0], [1, 0], [1, 1]])), "feature 1 .* not a finite", id="nan"),
        pytest.param(json.dumps(polygon(SQUARE)).replace("40.0", "1e999"), "not a finite", id="overflow"),
        pytest.param(polygon([["a", 0], [1, 0], [1, 1]]), "feature 1", id="letters"),
        pytest.param(polygon([[0], [1, 0], [1, 1]]), "feature 1", id="one coordinate"),
        pytest.param(polygon(3), "feature 1", id="a number as ring"),
        pytest.param({"type": "Topology"}, "not GeoJSON", id="topojson"),
        pytest.param({"type": "FeatureCollection"}, "not GeoJSON", id="no features"),
        pytest.param("3", "not a file of regions", id="a number"),
        pytest.param("[3]", "not GeoJSON", id="numbers"),
        pytest.param("[" * 100_000, "cannot be understood|not JSON", id="deep"),
    ],
)
def test_what_cannot_be_read_names_the_file(read, content, words):
    with pytest.raises(RegionsError, match=words) as caught:
        read(content)
    assert str(caught.value).startswith("some regions.geojson: ")


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(RegionsError, match=r"gone\.geojson: cannot be read"):
        read_regions(tmp_path / "gone.geojson")
    (tmp_path / "a.json").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(RegionsError, match=r"a\.json: .*not"):
        read_regions(tmp_path / "a.json")


# -- what is written ---------------------------------------------------------------------------------------------------


def test_written_as_current_qupath_does(tmp_path):
    hole = [(30, 15), (30, 20), (35, 20)]
    region = Region("Tumor", Polygon([(y, x) for x, y in SQUARE], [hole]), "0cba7e43-108b-41bb-9a8e-25991e4ca592")
    plain = Region("", Polygon([(0, 0), (0, 1), (1, 1)]), "b")
    write_regions(tmp_path / "a.geojson", RegionSet((region, plain)), colors={"Tumor": (200, 0, 0)})
    assert json.loads((tmp_path / "a.geojson").read_text("utf-8")) == {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "id": "0cba7e43-108b-41bb-9a8e-25991e4ca592",
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [SQUARE, [[15.0, 30.0], [20.0, 30.0], [20.0, 35.0], [15.0, 30.0]]],
                },
                "properties": {
                    "objectType": "annotation",
                    "classification": {"name": "Tumor", "color": [200, 0, 0]},
                },
            },
            {
                "type": "Feature",
                "id": "b",
                "geometry": {"type": "Polygon", "coordinates": [[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]]},
                "properties": {"objectType": "annotation"},
            },
        ],
    }


numbers = st.floats(-1e6, 1e6, allow_nan=False)


@st.composite
def polygons(draw):
    """Rectangles at any place, some with a triangular hole."""
    y, x = draw(numbers), draw(numbers)
    height, width = draw(st.floats(1, 1e5)), draw(st.floats(1, 1e5))

    def at(v, u):
        return y + v * height, x + u * width

    hole = [[at(0.25, 0.25), at(0.25, 0.75), at(0.75, 0.5)]] if draw(st.booleans()) else []
    return Polygon([at(0, 0), at(0, 1), at(1, 1), at(1, 0)], hole)


region_sets = st.lists(
    st.builds(Region, st.text(max_size=8), polygons(), st.text(min_size=1, max_size=8)), unique_by=lambda r: r.uid
).map(lambda regions: RegionSet(tuple(regions)))


@given(regions=region_sets)
def test_written_and_read_is_the_same(tmp_path_factory, regions):
    path: Path = tmp_path_factory.getbasetemp() / "round.geojson"
    write_regions(path, regions, colors={"a": (1, 2, 3)})
    found = read_regions(path)
    assert (found.regions, found.skipped, found.repaired, found.notes) == (regions, {}, {}, {})
