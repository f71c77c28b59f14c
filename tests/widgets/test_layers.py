import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from napari.components import ViewerModel
from shapely import Polygon
from shapely.affinity import translate
from shapely.geometry import box
from slides import flat_slide

from napari_slidecorr._napari import layers, map_layers
from napari_slidecorr.geometry import Grid
from napari_slidecorr.prediction_map import PredictionMap
from napari_slidecorr.regions import Region, RegionSet

COLORS = {"tumour": (255, 0, 0), "stroma": (0, 0, 255)}


def ring(y, x, side):
    return [(y, x), (y, x + side), (y + side, x + side), (y + side, x)]


HOLED = Polygon(ring(0.123456789, 100, 200), [ring(10, 110, 20), ring(50, 150, 20), ring(100, 200, 30)])


@pytest.fixture
def viewer():
    return ViewerModel()


def shown(viewer, *regions):
    return layers.add_regions(viewer, flat_slide(), RegionSet(regions), ("tumour", "stroma"), COLORS)


def edit(layer, index, change):
    data = layer.data
    data[index] = change(data[index])
    layer.data = data


@st.composite
def holed_polygons(draw):
    """A star around a centre, with up to three holes along its middle."""
    centre = np.asarray([draw(st.floats(-1e5, 1e5)), draw(st.floats(-1e5, 1e5))])
    radius = draw(st.floats(20, 1e4))
    corners = draw(st.lists(st.floats(1, 1.5), min_size=8, max_size=30))
    angle = np.linspace(0, 2 * np.pi, len(corners), endpoint=False)
    outline = centre + radius * np.asarray(corners)[:, None] * np.stack([np.sin(angle), np.cos(angle)], 1)
    holes = [
        [(centre[0] + radius * dy, centre[1] + radius * (dx + k)) for dy, dx in ((-0.1, 0), (-0.1, 0.1), (0.1, 0.1))]
        for k in (-0.4, 0.0, 0.3)[: draw(st.integers(0, 3))]
    ]
    return Polygon(outline, holes)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(holed_polygons(), st.sampled_from(["tumour", "stroma", "", "other"])), max_size=4))
def test_regions_to_layer_to_regions_is_the_identity(drawn):
    regions = [Region(name, polygon) for polygon, name in drawn]
    layer = shown(ViewerModel(), *regions)
    back = layers.regions_of(layer)
    assert [after is before for before, after in zip(regions, back, strict=True)] == [True] * len(regions)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(holed_polygons(), st.floats(-100, 100), st.floats(-100, 100))
def test_a_moved_region_takes_its_holes_along(polygon, dy, dx):
    layer = shown(ViewerModel(), Region("tumour", polygon, "a"))
    edit(layer, 0, lambda vertices: vertices + np.asarray([dy, dx]))
    (after,) = layers.regions_of(layer)
    wanted = translate(polygon, dy, dx)
    assert after.uid == "a"
    assert len(after.polygon.interiors) == len(polygon.interiors)
    assert after.polygon.symmetric_difference(wanted).area < 0.1 * wanted.length, (
        "float32 leaves some hundredths of a px"
    )


def test_a_dragged_corner_changes_that_corner_only(viewer):
    layer = shown(viewer, Region("tumour", HOLED))
    edit(layer, 0, lambda vertices: np.concatenate([vertices[:2], vertices[2:3] + 50, vertices[3:]]))
    (after,) = layers.regions_of(layer)
    assert after.polygon.exterior.coords[2] == pytest.approx((250.123456, 350), abs=1e-4)
    assert [Polygon(hole).area for hole in after.polygon.interiors] == pytest.approx([400, 400, 900], abs=0.1)


def test_a_corner_put_in_keeps_the_holes(viewer):
    layer = shown(viewer, Region("tumour", HOLED))
    edit(layer, 0, lambda vertices: np.insert(vertices, 1, [[-30.0, 150.0]], axis=0))
    (after,) = layers.regions_of(layer)
    assert len(after.polygon.exterior.coords) == 6
    assert len(after.polygon.interiors) == 3


def test_the_other_regions_stay_what_they_were(viewer):
    first, second = Region("tumour", HOLED), Region("stroma", box(400, 400, 450, 450))
    layer = shown(viewer, first, second)
    edit(layer, 1, lambda vertices: vertices + 1)
    back = layers.regions_of(layer).regions
    assert back[0] is first
    assert back[1].uid == second.uid
    assert back[1].polygon.bounds == pytest.approx((401, 401, 451, 451))


def test_pixels_lie_half_a_pixel_off_corners(viewer):
    layer = shown(viewer, Region("tumour", box(16, 16, 32, 32)))
    covered = layer.to_labels((64, 64))
    assert np.flatnonzero(covered.any(axis=0)).tolist() == list(range(16, 32))
    assert np.flatnonzero(covered.any(axis=1)).tolist() == list(range(16, 32))


def test_drawn_shapes_get_class_colour_and_a_lasting_uid(viewer):
    layer = shown(viewer)
    layers.set_class(layer, "stroma")
    layers.recolour(layer, COLORS)
    layer.add_polygons([np.asarray(ring(9.5, 9.5, 10))])
    (drawn,) = layers.regions_of(layer)
    assert (drawn.class_name, drawn.polygon.bounds) == ("stroma", (10, 10, 20, 20))
    assert layer.edge_color[0].tolist() == [0, 0, 1, 1]
    assert layers.regions_of(layer).regions[0].uid == drawn.uid
    assert layer.features["uid"].tolist() == [drawn.uid]


def test_a_copied_shape_is_another_region(viewer):
    layer = shown(viewer, Region("tumour", HOLED, "a"))
    layer.selected_data = {0}
    layer._copy_data()
    layer._paste_data()
    first, second = layers.regions_of(layer)
    assert (first.uid, first.polygon) == ("a", HOLED)
    assert second.uid != "a"
    assert len(second.polygon.interiors) == 3


@pytest.mark.parametrize(
    ("kind", "vertices", "area"),
    [
        pytest.param("rectangle", ring(0, 0, 10), 100, id="rectangle"),
        pytest.param("ellipse", ring(0, 0, 10), 25 * np.pi, id="ellipse"),
        pytest.param("line", [(0, 0), (5, 5)], 0, id="a line has no area"),
        pytest.param("path", ring(0, 0, 10), 0, id="nor has a path"),
        pytest.param("polygon", [(0, 0), (10, 10), (0, 10), (10, 0)], 50, id="crosses itself: two triangles"),
    ],
)
def test_any_shape_that_napari_draws(viewer, kind, vertices, area):
    layer = shown(viewer)
    layer.add([np.asarray(vertices, float)], shape_type=kind)
    found = layers.regions_of(layer)
    assert sum(region.area_px for region in found) == pytest.approx(area, rel=0.01)
    assert [r.uid for r in layers.regions_of(layer)] == [r.uid for r in found]


def test_reclass_keeps_the_outline_to_the_bit_and_changes_the_colour(viewer):
    layer = shown(viewer, Region("tumour", HOLED), Region("tumour", box(400, 400, 450, 450)))
    layers.reclass(layer, [0], "necrosis", {**COLORS, "necrosis": (0, 255, 0)})
    first, second = layers.regions_of(layer)
    assert (first.class_name, second.class_name) == ("necrosis", "tumour")
    assert first.polygon is not None
    assert first.polygon.equals_exact(HOLED, 0)
    assert layer.edge_color[0].tolist() == [0, 1, 0, 1]
    assert "necrosis" in layer.features["class"].cat.categories


def test_appended_regions_come_back_as_they_are(viewer):
    layer = shown(viewer, Region("tumour", HOLED))
    more = [Region("fat", translate(HOLED, 300, 300)), Region("stroma", box(1, 2, 30, 40))]
    layers.append_regions(layer, more, COLORS)
    assert [after is before for before, after in zip(more, layers.regions_of(layer).regions[1:], strict=True)] == [
        True
    ] * 2


def test_deleting_leaves_the_others(viewer):
    regions = [Region("tumour", translate(HOLED, 300 * i, 0)) for i in range(3)]
    layer = shown(viewer, *regions)
    layer.selected_data = {1}
    layer.remove_selected()
    assert list(layers.regions_of(layer)) == [regions[0], regions[2]]


@pytest.mark.parametrize(
    ("mpp", "unit", "scale"), [((0.5, 0.25), "micrometer", (0.5, 0.25)), (None, "pixel", (1, 1))], ids=["mpp", "no mpp"]
)
def test_all_layers_of_a_slide_share_scale_and_units(viewer, mpp, unit, scale):
    slide = flat_slide(mpp=mpp)
    image = layers.add_slide(viewer, slide)
    regions = layers.add_regions(viewer, slide, RegionSet(), (), {})
    map_layers.MapView(viewer, prediction(mpp=mpp), COLORS)
    assert {str(u) for layer in viewer.layers for u in layer.units} == {unit}
    assert viewer.layers.extent.units is not None
    assert tuple(image.scale) == tuple(regions.scale) == scale
    assert layers.add_slide(viewer, slide) is image, "a slide is shown once"
    assert layers.find_layer(viewer, "regions", "flat") is regions
    assert layers.find_layer(viewer, "regions", "other") is None


def prediction(mpp=(0.5, 0.5), shape=(4, 6), slide_id="flat"):
    probabilities = np.full((2, *shape), np.nan, np.float32)
    return PredictionMap(
        probabilities, ("tumour", "stroma"), Grid(shape, (0, 0), (64, 64), (64, 64), mpp), slide_id, "m"
    )


def test_a_map_lies_on_the_pixels_it_was_made_from(viewer):
    slide = flat_slide()
    image = layers.add_slide(viewer, slide)
    view = map_layers.MapView(viewer, prediction(), COLORS)
    corner = view.class_map.data_to_world((-0.5, -0.5)), view.class_map.data_to_world((1.5, 2.5))
    assert [tuple(map(float, image.world_to_data(point)[:2])) for point in corner] == [(-0.5, -0.5), (127.5, 191.5)]


def test_a_map_grows_block_by_block_in_place(viewer):
    layers.add_slide(viewer, flat_slide())
    view = map_layers.MapView(viewer, prediction(), COLORS)
    array = view.class_map.data
    assert not array.any()
    block = np.stack([np.full((2, 3), 0.8, np.float32), np.full((2, 3), 0.2, np.float32)])
    view.write(slice(1, 3), slice(2, 5), block)
    view.refresh()
    assert view.class_map.data is array
    assert array[1:3, 2:5].tolist() == [[1] * 3] * 2
    assert np.count_nonzero(array) == 6
    view.show_class("stroma")
    assert np.nanmax(view.probability.data) == pytest.approx(0.2)
    assert np.isnan(view.probability.data).sum() == 24 - 6
    assert (view.class_map.visible, view.probability.visible) == (False, True)
    view.show_class(None)
    view.set_threshold(0.9)
    assert array[1:3, 2:5].tolist() == [[map_layers.UNSURE] * 3] * 2, "unsure is not the same as not predicted"
    assert np.count_nonzero(array) == 6
    assert not view.class_map.editable


def test_a_second_map_of_a_slide_takes_the_place_of_the_first(viewer):
    layers.add_slide(viewer, flat_slide())
    regions = shown(viewer)
    viewer.layers.selection.active = regions
    map_layers.MapView(viewer, prediction(), COLORS)
    second = map_layers.MapView(viewer, prediction(shape=(8, 12)), COLORS)
    assert [layers.identity(layer)["kind"] for layer in viewer.layers] == [
        "slide",
        "probability",
        "class_map",
        "regions",
    ]
    assert second.class_map.data.shape == (8, 12)
    assert viewer.layers.selection.active is regions, "whoever draws goes on drawing"


def test_a_class_keeps_its_colour_on_the_map(viewer):
    view = map_layers.MapView(viewer, prediction(), COLORS)
    assert view.class_map.colormap.map(np.asarray([0, 1, 2])).tolist() == [[0, 0, 0, 0], [1, 0, 0, 1], [0, 0, 1, 1]]
    grey = view.class_map.colormap.map(np.asarray([map_layers.UNSURE]))[0]
    assert grey.tolist() == pytest.approx([110 / 255] * 3 + [1])
