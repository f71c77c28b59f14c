"""Ours written for another program and read back is the same, up to what docs/region-formats.md says of the format."""

import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapely import Polygon

from napari_slidecorr.errors import ProjectError
from napari_slidecorr.io import read_regions, write_regions
from napari_slidecorr.regions import Region, RegionSet

numbers = st.floats(-1e6, 1e6, allow_nan=False)


@st.composite
def polygons(draw):
    """Rectangles at any place, with up to two triangular holes."""
    y, x = draw(numbers), draw(numbers)
    height, width = draw(st.floats(1, 1e5)), draw(st.floats(1, 1e5))

    def at(v, u):
        return y + v * height, x + u * width

    triangles = [
        [at(0.25, 0.25), at(0.25, 0.5), at(0.5, 0.25)],
        [at(0.75, 0.75), at(0.75, 0.5), at(0.5, 0.75)],
    ]
    return Polygon([at(0, 0), at(0, 1), at(1, 1), at(1, 0)], triangles[: draw(st.integers(0, 2))])


names = st.text(st.characters(exclude_categories=["C"]), max_size=8).map(lambda text: " ".join(text.split()))
"""Class names as a project keeps them."""

strange = names | st.sampled_from(["", "Tumor & <Stroma> \"quoted\" 'so'", "肿瘤", "Größe", "]]>", "&amp;", "None!"])
uids = st.uuids().map(str) | st.builds("{}/{}".format, st.uuids(), st.integers(0, 20))


def sets(classes):
    one = st.builds(Region, classes, polygons(), uids)
    return st.lists(one, max_size=6, unique_by=lambda r: r.uid).map(lambda regions: RegionSet(tuple(regions)))


def back(regions, folder, form):
    path = Path(folder) / f"{uuid.uuid4()}.{'geojson' if form == 'geojson' else 'xml'}"
    write_regions(path, regions, colors={"a": (1, 2, 3)}, format=form)
    found = read_regions(path)
    assert found.skipped == found.repaired == found.notes == {}
    return found.regions


@given(regions=sets(strange))
def test_geojson(tmp_path_factory, regions):
    assert back(regions, tmp_path_factory.getbasetemp(), "geojson") == regions


@given(regions=sets(strange.filter(lambda name: name != "None" and not name.endswith(" (holes)"))))
def test_asap(tmp_path_factory, regions):
    assert back(regions, tmp_path_factory.getbasetemp(), "asap") == regions


@given(regions=sets(strange.filter(lambda name: name != "Description")))
def test_aperio_puts_the_regions_of_a_class_together(tmp_path_factory, regions):
    order = list(dict.fromkeys(region.class_name for region in regions))
    together = RegionSet(tuple(sorted(regions, key=lambda region: order.index(region.class_name))))
    assert back(regions, tmp_path_factory.getbasetemp(), "aperio") == together


BOX = Polygon([(0, 0), (0, 90), (90, 90), (90, 0)], [[(20, 20), (20, 40), (40, 40), (40, 20)]])


@pytest.mark.parametrize("form", ["geojson", "asap", "aperio"])
def test_a_hole_stays_with_its_region_and_an_island_in_it_stays(tmp_path, form):
    island = Polygon([(25, 25), (25, 35), (35, 35)])
    filled = Polygon(BOX.exterior)
    regions = RegionSet(
        (Region("A", BOX, "a1"), Region("A", filled, "a2"), Region("A", island, "a3"), Region("B", filled, "b"))
    )
    assert back(regions, tmp_path, form) == regions


@pytest.mark.parametrize("form", ["geojson", "asap", "aperio"])
def test_colours_go_with_the_classes(tmp_path, form):
    path = tmp_path / "a.xml"
    write_regions(
        path, RegionSet((Region("A", BOX), Region("B", BOX))), colors={"A": (1, 2, 3), "B": (250, 0, 9)}, format=form
    )
    assert read_regions(path).colors == {"A": (1, 2, 3), "B": (250, 0, 9)}


@pytest.mark.parametrize("form", ["asap", "aperio"])
def test_what_xml_cannot_hold_is_left_out_of_a_name(tmp_path, form):
    (region,) = back(RegionSet((Region("A\x00\x1b\ufffeB", BOX, "u"),)), tmp_path, form)
    assert region == Region("AB", BOX, "u")


@pytest.mark.parametrize("form", ["geojson", "asap", "aperio"])
def test_a_failed_write_leaves_what_was_there(tmp_path, form, monkeypatch):
    path = tmp_path / "a.xml"
    path.write_text("before", "utf-8")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("napari_slidecorr.io.atomic.os.fsync", full)
    with pytest.raises(ProjectError, match="no space left"):
        write_regions(path, RegionSet((Region("A", BOX),)), format=form)
    assert path.read_text("utf-8") == "before"
    assert [one.name for one in tmp_path.iterdir()] == ["a.xml"]


def test_an_xml_name_alone_means_asap(tmp_path):
    write_regions(tmp_path / "a.xml", RegionSet((Region("A", BOX),)))
    assert read_regions(tmp_path / "a.xml").format == "ASAP XML"
