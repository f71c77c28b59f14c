"""Brush, wand, knife, and the modifiers of all drawing tools, with the mouse and the keys of a shown window."""

import re
import threading
from pathlib import Path

import numpy as np
import pytest
from hand import Hand
from qtpy.QtCore import QEvent, QPointF, Qt
from qtpy.QtGui import QKeyEvent, QMouseEvent
from qtpy.QtWidgets import QApplication
from shapely import Point, box

from napari_slidecorr._napari import layers
from napari_slidecorr._napari.dock_regions import RegionsDock
from napari_slidecorr._napari.dock_slides import SlidesDock
from napari_slidecorr._napari.ghost import ghost_of
from napari_slidecorr._napari.keys import SHORTCUTS, bound, markdown_table, napari_key
from napari_slidecorr._napari.region_tools import DRAWING, OWN, TOOLS
from napari_slidecorr.project import Project
from napari_slidecorr.regions import IGNORE, Region, RegionSet

A, B = "tumour", "stroma"
SHIFT, ALT, CTRL = (
    Qt.KeyboardModifier.ShiftModifier,
    Qt.KeyboardModifier.AltModifier,
    Qt.KeyboardModifier.ControlModifier,
)


class Painter(Hand):
    """A hand that holds modifiers, and can stop before it lets go."""

    def drag(self, *corners, modifier=Qt.KeyboardModifier.NoModifier, before_release=None):
        left = Qt.MouseButton.LeftButton
        self.qtbot.mousePress(self.canvas, left, modifier, self.at(*corners[0]))
        for corner in corners[1:]:
            point = self.at(*corner)
            there = QPointF(point), QPointF(self.canvas.mapToGlobal(point))
            move = QMouseEvent(QEvent.Type.MouseMove, *there, Qt.MouseButton.NoButton, left, modifier)
            QApplication.sendEvent(self.canvas, move)
            self.qtbot.wait(10)
        if before_release is not None:
            before_release()
        self.qtbot.mouseRelease(self.canvas, left, modifier, self.at(*corners[-1]))
        self.qtbot.wait(30)


def write_two_tissues(path, shape=(1024, 1536)):
    """Pink on the left half, violet on the right, glass around."""
    import tifffile

    full = np.full((*shape, 3), 245, np.uint8)
    full[100:900, 100:700] = (220, 150, 190)
    full[100:900, 760:1400] = (120, 80, 160)
    full = np.clip(full + np.random.default_rng(0).normal(0, 3, full.shape), 0, 255).astype(np.uint8)
    with tifffile.TiffWriter(path) as writer:
        options = {"photometric": "rgb", "tile": (256, 256), "compression": "deflate"}
        writer.write(full, subifds=1, **options, resolution=(20_000, 20_000), resolutionunit="CENTIMETER")
        writer.write(full[::4, ::4], subfiletype=1, **options)
    return path


@pytest.fixture
def dock(make_napari_viewer, qtbot, tmp_path):
    """The docks on a project of two slides in a shown window, the first in view, whole."""
    viewer = make_napari_viewer(show=True)
    viewer.window._qt_window.resize(1000, 800)
    slides, dock = SlidesDock(viewer), RegionsDock(viewer)
    qtbot.addWidget(slides)
    qtbot.addWidget(dock)
    project = dock.session.create_project(tmp_path / "project", (A, B))
    project.add_slides([write_two_tissues(tmp_path / f"{name}.tif") for name in ("one", "two")])
    dock.session.slides_changed.emit()
    slides.show_slide("one")
    qtbot.waitUntil(lambda: layers.find_layer(viewer, "regions", "one") is not None, timeout=60_000)
    viewer.reset_view()
    qtbot.wait(50)
    dock.slides = slides
    yield dock
    for thread in threading.enumerate():
        if thread.name == "slidecorr-errand":
            thread.join(10)


@pytest.fixture
def hand(dock, qtbot):
    return Painter(dock.viewer, qtbot)


def editor(dock):
    return dock.desk.editor


def regions(dock):
    return editor(dock).regions.regions


def put(dock, *shapes):
    """Regions (class, y, x, side); the first is selected."""
    made = RegionSet(tuple(Region(name, box(y, x, y + side, x + side)) for name, y, x, side in shapes))
    editor(dock).set_regions(made, select=[made.regions[0].uid] if shapes else [])
    return made.regions


def zoom(dock):
    return dock.desk.tools.zoom(editor(dock).layer)


# -- the one table of keys --------------------------------------------------------------------------------------------


def test_every_tool_has_a_key_of_its_own_and_all_keys_are_listed_once():
    keys = [key for shortcut in SHORTCUTS for key in shortcut.keys]
    assert len(keys) == len(set(keys))
    assert {tool.key for tool in TOOLS.values()} <= set(keys)
    assert {key for key, _ in bound()} == set(keys)
    assert set(OWN) | set(DRAWING) <= set(TOOLS)


def test_the_docs_list_the_keys_as_the_dock_does():
    page = Path(__file__).parents[2] / "docs" / "how-to-label.md"
    assert markdown_table() in page.read_text("utf-8")


def test_each_tool_is_taken_by_its_key_and_shown_by_its_button(dock, hand):
    for name, tool in TOOLS.items():
        hand.press(tool.key.lower())
        assert dock.desk.tools.tool == name
        assert [n for n, button in dock.tool_box.buttons.items() if button.isChecked()] == [name]
        assert f"Key: {tool.key}" in dock.tool_box.buttons[name].toolTip()


def test_every_bound_key_is_one_that_napari_knows(dock):
    keymap = {str(key) for key in editor(dock).layer.keymap}
    assert len(keymap) >= len(list(bound()))
    assert napari_key("Ctrl+Shift+Z") == "Control-Shift-Z"
    assert napari_key("PgDown") == "PageDown"


def test_keys_work_in_the_dock_too(dock):
    for key, text, tool in ((Qt.Key.Key_B, "b", "brush"), (Qt.Key.Key_K, "k", "split")):
        QApplication.sendEvent(dock, QKeyEvent(QEvent.Type.KeyPress, key, Qt.KeyboardModifier.NoModifier, text))
        assert dock.desk.tools.tool == tool
    put(dock, (A, 200, 200, 100))
    QApplication.sendEvent(dock, QKeyEvent(QEvent.Type.KeyPress, Qt.Key.Key_Z, CTRL))
    assert regions(dock) == ()


def test_naparis_own_buttons_put_our_tool_away(dock, hand):
    hand.press("b")
    editor(dock).layer.mode = "select"
    assert dock.desk.tools.tool == "select"
    assert not editor(dock).layer.mouse_pan
    hand.press("m")
    assert editor(dock).layer.mouse_pan


# -- brush ------------------------------------------------------------------------------------------------------------


def test_the_brush_paints_a_region_as_wide_as_it_looks(dock, hand):
    hand.press("2", "b")
    shown = []
    hand.drag((300, 300), (300, 600), before_release=lambda: shown.append(ghost_of(dock.desk.viewer).sketches))
    assert len(shown[0]) == 1
    assert ghost_of(dock.desk.viewer).sketches == ()
    (region,) = regions(dock)
    radius = dock.desk.tools.radius / zoom(dock)
    assert region.class_name == B
    assert region.area_px == pytest.approx(2 * radius * 300 + np.pi * radius**2, rel=0.03)
    assert region.polygon.bounds == pytest.approx((300 - radius, 300 - radius, 300 + radius, 600 + radius), abs=3)
    assert editor(dock).selected_regions == (region,)
    dock.desk.flush()
    assert len(Project.open(dock.session.project.folder).regions("one")) == 1


def test_a_stroke_begun_in_the_selected_region_goes_on_with_it_and_elsewhere_begins_anew(dock, hand):
    hand.press("b")
    hand.drag((300, 300), (300, 500))
    hand.drag((300, 500), (500, 500))
    assert len(regions(dock)) == 1
    hand.drag((800, 1000), (800, 1200))
    assert len(regions(dock)) == 2
    hand.press("2")
    assert [r.class_name for r in regions(dock)] == [A, A]  # the class is for the next one
    hand.drag((800, 1000), (700, 1000))
    assert [r.class_name for r in regions(dock)] == [A, A, B]


@pytest.mark.parametrize("modifier", [ALT, CTRL])
def test_the_brush_cuts_with_alt_or_ctrl(dock, hand, modifier):
    (one,) = put(dock, (A, 200, 200, 500))
    hand.press("b")
    hand.drag((450, 300), (450, 400), modifier=modifier)
    (cut,) = regions(dock)
    assert cut.uid == one.uid
    assert len(cut.polygon.interiors) == 1
    assert not cut.polygon.intersects(Point(450, 350))
    dock.tool_box.undo_button.click()
    assert regions(dock) == (one,)
    hand.drag((450, 900), (450, 1000), modifier=modifier)
    assert "no region to cut" in dock.message.text()
    assert regions(dock) == (one,)


def test_the_brush_stays_on_the_slide(dock, hand):
    hand.press("b")
    hand.drag((20, 300), (5, 600))
    (region,) = regions(dock)
    assert region.polygon.bounds[0] == 0


def test_brackets_change_the_brush_or_the_tolerance(dock, hand):
    tools = dock.desk.tools
    radius, tolerance = tools.radius, tools.tolerance
    hand.press("b", "]")
    assert tools.radius > radius
    assert dock.tool_box.radius.value() == round(tools.radius)
    hand.press("[", "[")
    assert tools.radius < radius
    assert tools.tolerance == tolerance
    hand.press("w", "]")
    assert tools.tolerance > tolerance
    for _ in range(60):
        hand.press("[")
    assert tools.tolerance == 1
    dock.tool_box.radius.setValue(50)
    assert tools.radius == 50


def test_esc_gives_a_stroke_up(dock, hand):
    hand.press("b")
    hand.drag((300, 300), (300, 500), before_release=lambda: hand.press("escape"))
    assert regions(dock) == ()
    hand.drag((300, 300), (300, 500))
    assert len(regions(dock)) == 1


def test_space_moves_the_view_while_it_is_held(dock, hand, qtbot):
    hand.press("b")
    centre = tuple(dock.viewer.scene.camera.center)
    tools, layer = dock.desk.tools, editor(dock).layer
    holding = tools.move_view(layer)
    next(holding)
    hand.drag((300, 300), (400, 500))
    assert regions(dock) == ()
    assert tuple(dock.viewer.scene.camera.center) != centre
    assert list(holding) == []
    assert not layer.mouse_pan
    dock.viewer.reset_view()
    qtbot.wait(50)
    hand.drag((300, 300), (300, 500))
    assert len(regions(dock)) == 1


# -- wand -------------------------------------------------------------------------------------------------------------


def test_the_wand_fills_the_tissue_that_was_clicked(dock, hand, qtbot):
    hand.press("2", "w")
    hand.click((500, 1000))
    qtbot.waitUntil(lambda: len(regions(dock)) == 1, timeout=60_000)
    (region,) = regions(dock)
    violet = box(100, 760, 900, 1400)
    assert region.class_name == B
    assert region.polygon.intersection(violet).area / region.polygon.union(violet).area > 0.85
    assert dock.session.current_slide == "one"


def test_the_wand_grows_and_shrinks_with_the_drag(dock, hand, qtbot):
    hand.press("w")
    before = dock.desk.tools.tolerance
    hand.drag((500, 300), (400, 300))
    assert dock.desk.tools.tolerance > before
    qtbot.waitUntil(lambda: len(regions(dock)) == 1, timeout=60_000)
    wide = regions(dock)[0].area_px
    dock.tool_box.undo_button.click()
    hand.drag((500, 300), (900, 300))
    qtbot.waitUntil(lambda: len(regions(dock)) == 1 or "Too little" in dock.message.text(), timeout=60_000)
    assert not regions(dock) or regions(dock)[0].area_px < wide


def test_a_wand_off_the_slide_is_told(dock, hand, qtbot):
    dock.viewer.scene.camera.zoom *= 0.8
    qtbot.wait(50)
    hand.press("w")
    hand.click((-60, 500))
    qtbot.waitUntil(lambda: "outside of the slide" in dock.message.text(), timeout=60_000)
    assert regions(dock) == ()


def test_a_wand_that_comes_too_late_for_its_slide_draws_nothing(dock, hand, qtbot):
    hand.press("w")
    hand.click((500, 1000))
    dock.slides.show_slide("two")
    qtbot.waitUntil(lambda: dock.session.current_slide == "two", timeout=60_000)
    qtbot.wait(300)
    assert all(r.class_name == A for r in regions(dock))
    assert len(regions(dock)) == 0


# -- knife, and what is done to the selection ------------------------------------------------------------------------


def test_the_knife_splits_what_it_crosses(dock, hand):
    one, other = put(dock, (A, 200, 200, 300), (B, 200, 700, 300))
    editor(dock).select([])
    hand.press("k")
    shown = []
    hand.drag((350, 100), (350, 1100), before_release=lambda: shown.append(ghost_of(dock.desk.viewer).sketches))
    assert not shown[0][0].closed
    assert sorted(r.class_name for r in regions(dock)) == [B, B, A, A]
    assert {one.uid, other.uid} < {r.uid for r in regions(dock)}
    dock.tool_box.undo_button.click()
    assert regions(dock) == (one, other)
    editor(dock).select([other.uid])
    hand.drag((350, 100), (350, 1100))
    assert [r.class_name for r in regions(dock)] == [A, B, B]
    hand.drag((800, 100), (800, 300))
    assert "goes through no region" in dock.message.text()


def test_merge_fill_hole_and_simplify_by_key_and_button(dock, hand):
    one, other = put(dock, (A, 200, 200, 300), (A, 400, 400, 300))
    editor(dock).select([one.uid, other.uid])
    hand.press("j")
    (whole,) = regions(dock)
    assert whole.area_px == 2 * 90_000 - 100 * 100
    put(dock, (A, 300, 300, 50), (A, 200, 200, 300))
    hand.press("h")
    (holed,) = regions(dock)
    assert len(holed.polygon.interiors) == 1
    dock.tool_box.fill_button.click()
    assert "hole" not in dock.message.text() or not editor(dock).selected_regions
    editor(dock).select([holed.uid])
    hand.press("f")
    assert regions(dock)[0].area_px == 90_000
    round_one = Region(B, Point(500, 500).buffer(200, quad_segs=64))
    editor(dock).set_regions(RegionSet((round_one,)), select=[round_one.uid])
    dock.tool_box.detail.setValue(3.0)
    dock.tool_box.simplify_button.click()
    assert re.fullmatch(r"256 corners became \d+\.", dock.message.text())
    (simple,) = regions(dock)
    assert simple.polygon.hausdorff_distance(round_one.polygon) <= 6.0  # 3 um at 0.5 um/px
    dock.tool_box.undo_button.click()
    assert regions(dock) == (round_one,)


def test_what_needs_a_selection_says_so(dock):
    put(dock, (A, 200, 200, 300))
    editor(dock).select([])
    box_ = dock.tool_box
    for button in (box_.merge_button, box_.fill_button, box_.simplify_button, box_.hole_button, box_.delete_button):
        dock.message.tell("")
        button.click()
        assert "elect" in dock.message.text()
    assert len(regions(dock)) == 1


# -- modifiers with napari's own tools --------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["r", "o", "l"])
def test_shift_adds_to_and_alt_cuts_from_the_region_under_the_mouse(dock, hand, qtbot, key):
    one, other = put(dock, (A, 200, 200, 300), (B, 200, 900, 300))
    editor(dock).select([])
    path = [(350, 350), (350, 500), (400, 700), (600, 700), (600, 500), (500, 350)]
    corners = path if key == "l" else [path[0], (500, 600), (600, 700)]
    hand.press("2", key)
    hand.drag(*corners, modifier=SHIFT)
    qtbot.waitUntil(lambda: len(editor(dock).layer.data) == 2 and regions(dock)[0] != one, timeout=60_000)
    grown = regions(dock)[0]
    assert (grown.uid, grown.class_name) == (one.uid, A)
    assert grown.area_px > one.area_px
    assert regions(dock)[1] == other
    dock.tool_box.undo_button.click()
    assert regions(dock) == (one, other)
    hand.drag(*corners, modifier=ALT)
    qtbot.waitUntil(lambda: regions(dock)[0] != one, timeout=60_000)
    assert regions(dock)[0].area_px < one.area_px
    assert len(regions(dock)) == 2
    hand.drag(*corners)
    qtbot.waitUntil(lambda: len(regions(dock)) == 3, timeout=60_000)
    assert regions(dock)[2].class_name == B


def test_a_polygon_clicked_with_alt_cuts(dock, hand, qtbot):
    (one,) = put(dock, (A, 200, 200, 500))
    editor(dock).select([])
    hand.press("p")
    for corner in ((300, 300), (300, 500), (500, 500), (500, 300)):
        hand.move(*corner)
        qtbot.mouseClick(hand.canvas, Qt.MouseButton.LeftButton, ALT, hand.at(*corner))
        qtbot.wait(30)
    qtbot.mouseDClick(hand.canvas, Qt.MouseButton.LeftButton, ALT, hand.at(500, 300))
    qtbot.waitUntil(lambda: bool(regions(dock)) and bool(regions(dock)[0].polygon.interiors), timeout=60_000)
    assert regions(dock)[0].uid == one.uid
    assert len(regions(dock)) == 1


def test_cutting_where_nothing_is_leaves_all_as_it_was(dock, hand, qtbot):
    (one,) = put(dock, (A, 200, 200, 200))
    hand.press("r")
    hand.drag((700, 700), (750, 800), (900, 1000), modifier=CTRL)
    qtbot.waitUntil(lambda: "no region to cut" in dock.message.text(), timeout=60_000)
    assert regions(dock) == (one,)
    assert len(editor(dock).layer.data) == 1


# -- from slide to slide ----------------------------------------------------------------------------------------------


def test_the_next_slide_keeps_tool_zoom_and_class(dock, hand, qtbot):
    hand.press("0", "b")
    dock.viewer.scene.camera.zoom *= 1.5
    seen = dock.viewer.scene.camera.zoom
    hand.press("pagedown")
    qtbot.waitUntil(lambda: dock.session.current_slide == "two", timeout=60_000)
    qtbot.waitUntil(lambda: dock.desk.editor is not None, timeout=60_000)
    qtbot.wait(50)
    assert dock.desk.tools.tool == "brush"
    assert dock.desk.current_class == IGNORE
    assert dock.viewer.scene.camera.zoom == seen
    hand.drag((500, 700), (500, 800))
    assert [r.class_name for r in regions(dock)] == [IGNORE]
    hand.press("pageup")
    qtbot.waitUntil(lambda: dock.session.current_slide == "one", timeout=60_000)
    assert regions(dock) == ()
    dock.desk.flush()
    assert len(Project.open(dock.session.project.folder).regions("two")) == 1
