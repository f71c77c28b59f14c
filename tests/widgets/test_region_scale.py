"""Thousands of regions: shapes near the view, the others as a picture, and none ever lost."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from napari.components import ViewerModel
from shapely.affinity import translate
from shapely.geometry import box
from slides import flat_slide

from napari_slidecorr import read_regions
from napari_slidecorr._napari import layers, region_view
from napari_slidecorr._napari.region_editor import RegionEditor
from napari_slidecorr._napari.region_view import area_to_load, view_box
from napari_slidecorr._napari.writer import write_regions_layer
from napari_slidecorr.region_index import RegionIndex
from napari_slidecorr.region_raster import RasterFrame, paint_regions
from napari_slidecorr.regions import Region, RegionSet

A, B = "tumour", "stroma"
COLORS = {A: (255, 0, 0), B: (0, 0, 255)}


def square(y, x, side, name=A, **more):
    return Region(name, box(y, x, y + side, x + side), **more)


def field(count, side=10, shape=(1000, 1500)):
    """Regions all over a slide."""
    rng = np.random.default_rng(3)
    places = rng.uniform(0, np.asarray(shape) - side, (count, 2))
    return RegionSet(tuple(square(y, x, side, (A, B)[n % 2]) for n, (y, x) in enumerate(places)))


class Desk:
    """A viewer's model, a layer of regions and its editor; what is saved is kept in memory."""

    def __init__(self, regions):
        self.viewer = ViewerModel()
        slide = flat_slide()
        layers.add_slide(self.viewer, slide)
        self.saved, self.told = regions, []
        project = SimpleNamespace(
            colors=COLORS, classes=(A, B), read_only="", history_trouble="", save_regions=self.save
        )
        few = regions if len(regions) <= region_view.FEW else RegionSet()
        self.layer = layers.add_regions(self.viewer, slide, few, (A, B), COLORS)
        self.editor = RegionEditor(
            self.layer,
            "flat",
            project,
            changed=lambda _: None,
            saved=lambda _: None,
            tell=lambda text, _: self.told.append(text),
            regions=regions,
            viewer=self.viewer,
        )

    def save(self, _slide_id, regions):
        self.saved = regions

    def look(self, y, x, height):
        """Bring a place into view, so that the view is so many level-0 pixels high."""
        mpp = self.layer.scale[0]
        camera = self.viewer.scene.camera
        camera.center, camera.zoom = (0, y * mpp, x * mpp), self.viewer.canvas.size[0] / (height * mpp)
        self.editor.view.settle()

    def settle(self):
        while self.editor.view.overview.is_painting:
            time.sleep(0.005)
            from qtpy.QtWidgets import QApplication

            QApplication.processEvents()

    @property
    def uids(self):
        return [str(uid) for uid in self.layer.features["uid"]]


@pytest.fixture
def small_limits(monkeypatch):
    """So that a few regions are already too many."""
    monkeypatch.setattr(region_view, "FEW", 6)
    monkeypatch.setattr(region_view, "NEAR", 4)


@pytest.fixture(autouse=True)
def application(qapp):
    yield qapp
    for thread in threading.enumerate():
        if thread.name == "slidecorr-errand":
            thread.join(10)


def check(desk, model):
    """The truth is the model's, and what is seen is the truth: each region once, as a shape or in the picture."""
    assert outline(desk.editor.regions) == model
    if len(model) <= region_view.FEW:
        assert desk.uids == [uid for uid, *_ in model]
        assert not layers.identity(desk.layer)["elsewhere"]
    elsewhere = layers.identity(desk.layer)["elsewhere"]
    assert sorted([*desk.uids, *(region.uid for region in elsewhere)]) == sorted(uid for uid, *_ in model)
    assert outline(layers.all_regions_of(desk.layer), ordered=False) == sorted(model)
    overview = desk.editor.view.overview
    if overview.layer is not None:
        desk.settle()
        painted = paint_regions(elsewhere, overview._codes, overview.frame)
        assert (np.asarray(overview.layer.data) == painted).all()
        assert overview.layer.visible == bool(elsewhere)


def outline(regions, *, ordered=True):
    told = [(region.uid, region.class_name, *(round(n * 4) / 4 for n in region.polygon.bounds)) for region in regions]
    return told if ordered else sorted(told)


def quarter(n):
    return round(n * 4) / 4


STEPS = st.one_of(
    st.tuples(st.just("look"), st.floats(0, 1000), st.floats(0, 1500), st.sampled_from([60, 200, 900])),
    st.tuples(st.just("draw"), st.integers(0, 900), st.integers(0, 1400), st.sampled_from([A, B])),
    st.tuples(st.just("move"), st.integers(0, 50), st.integers(-40, 40), st.integers(-40, 40)),
    st.tuples(st.just("delete"), st.integers(0, 50)),
    st.tuples(st.just("reclass"), st.integers(0, 50), st.sampled_from([A, B])),
    st.tuples(st.just("touch"), st.integers(0, 50)),
    st.tuples(st.just("import"), st.integers(1, 4)),
    st.tuples(st.just("undo")),
    st.tuples(st.just("redo")),
    st.tuples(st.just("rename"), st.sampled_from([(A, B), (B, A)])),
)


class Model:
    """The same steps on a plain list of (uid, class, bounds)."""

    def __init__(self, regions):
        self.now, self.past, self.future = outline(regions), [], []

    def become(self, state):
        if state != self.now:
            self.past.append(self.now)
            self.future.clear()
            self.now = state

    def travel(self, back, forth):
        if back:
            forth.append(self.now)
            self.now = back.pop()

    def rename(self, old, new):
        def change(state):
            return [(uid, new if name == old else name, *rest) for uid, name, *rest in state]

        self.now, self.past, self.future = change(self.now), [*map(change, self.past)], [*map(change, self.future)]


def take(desk, model, step):
    """Do a step as a hand does it, and in the model."""
    name, *given = step
    editor, layer = desk.editor, desk.layer
    if name == "look":
        desk.look(*given)
    elif name == "draw":
        y, x, kind = given
        layers.set_class(layer, kind)
        layer.add_polygons([np.asarray([(y, x), (y, x + 30), (y + 30, x + 30), (y + 30, x)]) - 0.5])
        editor.read()
        model.become([*model.now, (editor.regions.regions[-1].uid, kind, y, x, y + 30, x + 30)])
    elif name == "import":
        fresh = field(given[0])
        editor.set_regions(editor.regions.added(fresh))
        model.become([*model.now, *outline(fresh)])
    elif name in ("undo", "redo"):
        getattr(editor, name)()
        model.travel(*((model.past, model.future) if name == "undo" else (model.future, model.past)))
    elif name == "rename":
        editor.rename_class(*given[0])
        model.rename(*given[0])
    elif name == "touch" and model.now:
        y0, x0, y1, x1 = model.now[given[0] % len(model.now)][2:]
        found = editor.region_at((y0 + y1) / 2, (x0 + x1) / 2)
        editor.select([found.uid])
        assert [region.uid for region in editor.selected_regions] == [found.uid]
    elif name in ("move", "delete", "reclass") and desk.uids:
        touch_shape(desk, model, name, *given)


def touch_shape(desk, model, name, number, *given):
    """Change one of the shapes that are in the layer."""
    index = number % len(desk.uids)
    uid = desk.uids[index]
    place = [each[0] for each in model.now].index(uid)
    before = model.now[place]
    desk.layer.selected_data = {index}
    if name == "move":
        shapes = desk.layer.data
        shapes[index] = shapes[index] + np.asarray(given)
        desk.layer.data = shapes
        desk.editor.read()
        dy, dx = given
        y0, x0, y1, x1 = before[2:]
        after = [(*before[:2], *(quarter(n) for n in (y0 + dy, x0 + dx, y1 + dy, x1 + dx)))]
    elif name == "delete":
        desk.editor.delete_selected()
        after = []
    else:
        desk.editor.reclass(given[0])
        after = [(uid, given[0], *before[2:])]
    model.become([*model.now[:place], *after, *model.now[place + 1 :]])


@pytest.mark.usefixtures("small_limits")
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.integers(0, 14), st.lists(STEPS, min_size=4, max_size=14))
def test_whatever_is_done_no_region_is_lost(count, steps):
    regions = RegionSet(tuple(square(quarter(n * 61.5), n * 97, 30, (A, B)[n % 2], uid=f"r{n}") for n in range(count)))
    desk, model = Desk(regions), Model(regions)
    check(desk, model.now)
    for step in steps:
        take(desk, model, step)
        check(desk, model.now)
    desk.editor.save()
    desk.editor.flush()
    assert outline(desk.editor.regions) == model.now
    desk.editor.close()


def test_from_afar_there_is_a_picture_and_near_there_are_shapes():
    desk = Desk(field(3000))
    desk.look(500, 750, 1000)
    desk.settle()
    assert desk.uids == []
    (overview,) = (layer for layer in desk.viewer.layers if layers.identity(layer).get("kind") == "regions_overview")
    assert overview.visible
    assert not overview.editable
    assert overview.name == "flat regions from afar"
    desk.look(500, 750, 100)
    inside = {
        desk.editor.regions.regions[i].uid for i in desk.editor.view.index.within(view_box(desk.viewer, desk.layer))
    }
    assert inside <= set(desk.uids)
    assert 0 < len(desk.uids) <= region_view.NEAR


def test_the_picture_lies_on_the_pixels_that_it_stands_for():
    desk = Desk(field(600))
    overview = desk.editor.view.overview
    stride = overview.frame.stride_px
    corner = overview.layer.data_to_world((-0.5, -0.5))
    image = layers.find_layer(desk.viewer, "slide", "flat")
    assert image.world_to_data(corner) == pytest.approx((-0.5, -0.5))
    assert tuple(overview.layer.scale) == pytest.approx(tuple(np.asarray(desk.layer.scale) * stride))
    assert RasterFrame.of_slide((100_000, 50_000)).stride_px == 25


def test_small_moves_of_the_view_change_no_shape():
    desk = Desk(field(3000))
    desk.look(500, 750, 100)
    before = desk.layer.data[0], set(desk.uids)
    desk.look(510, 760, 105)
    assert desk.layer.data[0] is before[0]
    assert set(desk.uids) == before[1]
    desk.look(100, 100, 100)
    assert set(desk.uids) != before[1]


def test_shapes_stay_while_there_are_a_little_more_than_wanted_and_not_longer():
    index = RegionIndex(field(1000, shape=(1000, 1000)).regions)
    loaded = area_to_load(index, (0.0, 0.0, 500.0, 500.0), None)
    assert loaded is not None
    a_little_wider = (0.0, 0.0, 560.0, 560.0)
    assert len(index.within(a_little_wider)) > region_view.NEAR
    assert area_to_load(index, a_little_wider, None) is None
    assert area_to_load(index, a_little_wider, loaded) == a_little_wider
    assert area_to_load(index, (0.0, 0.0, 1000.0, 1000.0), loaded) is None


def test_a_region_of_the_picture_becomes_a_shape_when_it_is_touched():
    desk = Desk(field(3000))
    desk.look(500, 750, 1000)
    region = desk.editor.regions.regions[1234]
    y, x = (low + 5 for low in region.polygon.bounds[:2])
    top = desk.editor.region_at(y, x)
    desk.layer.mode = "select"
    mpp = desk.layer.scale[0]
    event = SimpleNamespace(position=((y - 0.5) * mpp, (x - 0.5) * mpp))
    desk.layer.mouse_drag_callbacks[0](desk.layer, event)
    assert desk.uids == [top.uid]
    desk.editor.select([top.uid])
    desk.editor.reclass(B if top.class_name == A else A)
    assert desk.editor.region_at(y, x).class_name != top.class_name
    desk.look(500, 751, 1000)
    assert desk.uids == [top.uid], "it stays while it is selected"
    desk.layer.selected_data = set()
    desk.look(500, 750, 1000)
    assert desk.uids == []


def test_shapes_lie_above_each_other_as_they_were_drawn_whenever_they_came():
    large = square(0, 0, 900)
    regions = RegionSet((*field(400, shape=(1000, 200)), large, *field(400)))
    desk = Desk(regions)
    desk.look(800, 1300, 200)
    desk.editor.view.bring([large.uid])
    desk.look(500, 500, 120)
    heights = dict(zip(desk.uids, desk.layer.z_index, strict=True))
    inner = [region.uid for region in regions if region.uid in heights]
    assert large.uid in inner
    assert [heights[uid] for uid in inner] == sorted(heights.values())
    assert len(set(heights.values())) == len(inner)


def test_saving_the_layer_from_the_menu_writes_all_regions(tmp_path):
    desk = Desk(field(700))
    desk.look(500, 750, 100)
    data, attributes, _ = desk.layer.as_layer_data_tuple()
    write_regions_layer(str(tmp_path / "all.geojson"), data, attributes)
    assert {region.uid for region in read_regions(tmp_path / "all.geojson").regions} == {
        region.uid for region in desk.editor.regions
    }


def test_thousands_selected_are_the_first_and_that_is_said():
    desk = Desk(field(3000))
    desk.editor.select([region.uid for region in desk.editor.regions])
    assert len(desk.editor.selected_regions) == 500
    assert "3,000" in desk.told[-1]


def test_an_edit_among_ten_thousand_takes_no_reading_of_all(monkeypatch):
    desk = Desk(field(10_000))
    desk.settle()
    desk.look(500, 750, 40)
    read = []
    plain = layers._polygons
    monkeypatch.setattr(layers, "_polygons", lambda *given: read.append(1) or plain(*given))
    desk.layer.add_polygons([np.asarray([(500, 750), (500, 760), (510, 760)])])
    desk.editor.read()
    assert len(read) == 1
    assert len(desk.editor.regions) == 10_001
    moved = desk.editor.regions.regions[-1]
    desk.editor.set_regions(
        RegionSet((*desk.editor.regions.regions[:-1], Region(A, translate(moved.polygon, 5, 5), moved.uid)))
    )
    assert desk.editor.history.can_undo
