"""Make the pictures of every labelling tool in use, and of the import preview: a real window, worked with mouse and keys.

Needs a display; without one run it under a virtual one::

    xvfb-run -a -s "-screen 0 1600x1200x24" python docs/screenshots_labelling.py
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

from napari_slidecorr._napari.torch_door import load_torch

load_torch()

import napari  # noqa: E402 - torch comes before the first window
from PIL import Image  # noqa: E402
from qtpy.QtCore import Qt  # noqa: E402
from qtpy.QtTest import QTest  # noqa: E402
from shapely.affinity import affine_transform  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from person import Person  # noqa: E402

from napari_slidecorr import drain, write_regions  # noqa: E402
from napari_slidecorr.regions import Region, RegionSet  # noqa: E402
from napari_slidecorr.sample_data import CLASS_COLORS, make_cohort  # noqa: E402

IMAGES = Path(__file__).parent / "images" / "labelling"
SIZE = (1366, 768)
SIDE_PX = 2048
LEFT_PX = 346
"""Napari's own panels, left of the canvas, are cut off."""
Key = Qt.Key


class Labelling:
    """A window with one slide and the Regions dock, and a person in front of it."""

    def __init__(self, out: Path, folder: Path) -> None:
        self.out = out
        samples = drain(make_cohort(folder / "slides", slides=4, size_px=SIDE_PX))
        self.sample = samples[0]
        self.viewer = napari.Viewer(show=True)
        self.viewer.window._qt_window.resize(*SIZE)  # noqa: SLF001 - the public one is deprecated
        self.slides, self.dock = (
            self.viewer.window.add_plugin_dock_widget("napari-slidecorr", name, tabify=True)[1]
            for name in ("Slides", "Regions")
        )
        self.slides.create_project(folder / "my project")
        for name, color in CLASS_COLORS.items():
            self.dock.classes.add_class(name)
            self.dock.classes.recolour_class(name, color)
        self.slides.add_slides([sample.path for sample in samples[:2]])
        self.person = Person(self.viewer)
        self.person.wait(lambda: self.dock.desk.editor is not None)
        QTest.qWait(600)
        self.dock.parentWidget().raise_()  # docks have found their places by now
        self.viewer.reset_view()
        QTest.qWait(200)

    @property
    def editor(self) -> Any:
        """Of the slide in view."""
        return self.dock.desk.editor

    def shoot(self, name: str, widget: Any = None) -> None:
        """Store what the window, or one of its dialogs, shows."""
        QTest.qWait(300)
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / f"{name}.png"
        if widget is None:
            pixels = self.viewer.screenshot(canvas_only=False, flash=False)[..., :3]
            Image.fromarray(pixels[:, LEFT_PX:]).save(path)
        else:
            widget.grab().save(str(path))
        image = Image.open(path).convert("RGB").quantize(128, method=Image.Quantize.FASTOCTREE)
        image.save(path, optimize=True)
        print(path.name)


def ring(y: float, x: float, radius: float) -> list[tuple[float, float]]:
    """Places around a centre."""
    turns = [2 * math.pi * step / 30 for step in range(30)]
    return [(y + radius * math.sin(turn), x + radius * math.cos(turn) * 1.2) for turn in turns]


def outlines(at: Labelling) -> None:
    """Polygon, lasso, rectangle and ellipse, each while it is drawn."""
    person = at.person
    person.click((20, 20))
    person.key(Key.Key_1, Key.Key_P)
    person.click((1330, 560), (1320, 800), (1500, 960), (1700, 880))
    person.hover(1730, 700)
    at.shoot("polygon")
    person.polygon((1700, 620))
    person.key(Key.Key_2, Key.Key_L)
    with person.dragging(ring(760, 1360, 170)[:24]):
        at.shoot("lasso")
    person.key(Key.Key_3, Key.Key_R)
    with person.dragging([(640, 640), (700, 700), (860, 820)]):
        at.shoot("rectangle")
    person.key(Key.Key_O)
    with person.dragging([(300, 820), (400, 900), (540, 1060)]):
        at.shoot("ellipse")
    QTest.qWait(200)


def ours(at: Labelling) -> None:
    """Brush, cutting, adding, wand, knife, and what is done to the selection."""
    person = at.person
    person.key(Key.Key_1, Key.Key_B)
    with person.dragging([(1450, 1680), (1400, 1720), (1420, 1760), (1520, 1760), (1560, 1700)]):
        at.shoot("brush")
    with person.dragging([(760, 1300), (760, 1400)], Qt.KeyboardModifier.AltModifier):
        at.shoot("brush-cuts")
    person.key(Key.Key_R)
    with person.dragging([(800, 800), (850, 850), (980, 940)], Qt.KeyboardModifier.ShiftModifier):
        at.shoot("rectangle-adds-with-shift")
    QTest.qWait(200)
    at.shoot("rectangle-added")
    person.key(Key.Key_2, Key.Key_W)
    with person.dragging([(1210, 1270), (1212, 1270)]):
        person.wait(lambda: "tolerance" in note_of(at))
        at.shoot("wand")
    QTest.qWait(300)
    at.shoot("wand-done")
    person.key(Key.Key_K)
    with person.dragging([(1250, 640), (1500, 740), (1800, 760)]):
        at.shoot("split")
    QTest.qWait(200)
    person.key(Key.Key_S)
    person.drag((1240, 500), (1400, 600), (1600, 800), (1750, 1000), (1800, 1030), (1800, 1034))
    QTest.qWait(100)
    at.shoot("select")


def note_of(at: Labelling) -> str:
    """The word beside the mouse."""
    from napari_slidecorr._napari.ghost import ghost_of

    ghost = ghost_of(at.viewer)
    return ghost.note if ghost is not None else ""


def keys(at: Labelling) -> None:
    """The list of keys in the dock."""
    from superqt import QCollapsible

    folded = at.dock.findChild(QCollapsible)
    folded.expand(animate=False)
    QTest.qWait(300)
    at.dock.verticalScrollBar().setValue(at.dock.verticalScrollBar().maximum())
    at.shoot("keys")
    folded.collapse(animate=False)


def preview(at: Labelling, folder: Path) -> None:
    """An import whose coordinates are those of a smaller level, before and after another meaning is chosen."""
    small = [
        Region(name.title(), affine_transform(region.polygon, [0.25, 0, 0, 0.25, 0, 0]))
        for region in at.sample.regions
        for name in ["necrosis" if region.class_name == "stroma" else region.class_name]
    ]
    path = folder / "second reader.geojson"
    write_regions(path, RegionSet(tuple(small)))
    at.dock.preview_import(path)
    at.person.wait(lambda: at.dock.preview is not None)
    at.shoot("import-preview", at.dock.preview)
    others = list(at.dock.preview.meanings)[1:]
    others[0].click()
    QTest.qWait(800)
    at.shoot("import-preview-scaled", at.dock.preview)
    at.dock.preview.reject()


def main(out: Path) -> None:
    """Work with each tool once, and take a picture while it is in use."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        at = Labelling(out, folder)
        outlines(at)
        ours(at)
        keys(at)
        preview(at, folder)
        at.dock.desk.flush()
        at.viewer.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the pictures")
    main(parser.parse_args().out)
