import pytest
from shapely import Polygon, box

from napari_slidecorr.errors import RegionsError
from napari_slidecorr.regions import Region, RegionSet, polygon_from_rings, simple_regions, valid_polygons


def test_area_leaves_holes_out():
    ring = polygon_from_rings([(0, 0), (10, 0), (10, 10), (0, 10)], [[(2, 2), (2, 4), (4, 4), (4, 2)]])
    regions = RegionSet((Region("tumour", ring), Region("", box(0, 0, 1, 1))))
    assert regions.area_px("tumour") == 96
    assert regions.classes == ("tumour",)


def test_reclassing_keeps_the_region():
    region = Region("tumour", box(0, 0, 1, 1))
    assert region.reclassed("stroma").uid == region.uid
    assert region.reclassed("stroma").polygon is region.polygon


@pytest.mark.parametrize("polygon", [Polygon(), None, Polygon([(0, 0), (float("nan"), 1), (1, 1)])])
def test_what_is_no_polygon_is_refused(polygon):
    with pytest.raises(RegionsError):
        Region("tumour", polygon)


def test_uids_are_unique():
    region = Region("tumour", box(0, 0, 1, 1))
    with pytest.raises(RegionsError, match=region.uid):
        RegionSet((region, region))


def test_a_figure_of_eight_becomes_two_polygons_with_the_same_area():
    eight = Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    parts = valid_polygons(eight)
    assert [part.is_valid for part in parts] == [True, True]
    assert sum(part.area for part in parts) == pytest.approx(50)
    with pytest.raises(RegionsError, match="crosses itself"):
        polygon_from_rings(eight.exterior.coords)


def test_a_valid_polygon_is_kept_as_it_is_and_a_line_vanishes():
    square = box(0, 0, 1, 1)
    assert valid_polygons(square) == [square]
    assert valid_polygons(Polygon([(0, 0), (1, 1), (2, 2)])) == []


def test_an_outline_drawn_across_itself_becomes_regions_of_its_parts():
    bow_tie = Region("tumour", Polygon([(0, 0), (100, 100), (100, 0), (0, 100)]), "bow")
    square = Region("stroma", box(0, 0, 1, 1))
    *parts, last = simple_regions([bow_tie, square])
    assert [(part.class_name, part.uid) for part in parts] == [("tumour", "bow/0"), ("tumour", "bow/1")]
    assert all(part.polygon.is_valid for part in parts)
    assert last == square
