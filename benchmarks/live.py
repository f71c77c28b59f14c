"""Measure live training in a real window: from the end of a stroke to the repainted view, and to the whole slide.

    xvfb-run -a -s "-screen 0 1600x1200x24" python benchmarks/live.py --json live.json

Five made slides with 20,000 cells together. Their features are *not* a backbone's: 1,280 numbers a cell, random, with the class
of the tissue in 40 of them and an offset of each slide, written through the feature cache under the very keys that live training asks
for. So nothing is computed from pixels, and reading, fitting, painting and drawing are the real thing. A hand draws each stroke
with the mouse on the canvas, a corner every 0.36 s (a polygon, its class in turn); the clock starts with the release that ends it.

`p50_view_s`, `p95_view_s`: until the view was painted on the screen with a head fitted to that stroke. `p95_slide_s`: until all cells of
the slide were. `p99_frame_gap_ms`: of a 10 ms timer, from the first stroke to the last map; `idle_p99_frame_gap_ms` is
the same window before the first stroke, with nothing to do, and says how busy the machine was. `p99_frame_work_ms` is what
the window's thread itself worked between two ticks: the gap that a machine with nothing else to do would have, but for drawing.
`without_live_p99_frame_gap_ms` is of strokes drawn by the same hand on the last slide when live training has been stopped: what
the docks and the machine's way to draw take by themselves. ``napari_alone_p99_frame_gap_ms`` is of the same hand in a window without any
dock, on a plain Shapes layer over the same slide.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import Qt

sys.path.insert(0, str(Path(__file__).parent))
LEFT, NONE = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
SIZE_PX, SLIDES, DIM, TELLING = 32, 5, 1280, 40
CLASSES = ("tumour", "lymphoid", "stroma")
TICK_MS = 10
TISSUE_SHARE = 0.56
HOVER_S, PRESS_S = 0.15, 0.06
"""A quick hand: so long it rests before and after a click, and so long the button is down."""


def make_project(folder: Path, cells: int) -> tuple[Any, Any]:
    """Make slides of so many cells each, and label a little of each class on each."""
    import shapely

    from napari_slidecorr import Project, drain
    from napari_slidecorr.regions import Region, RegionSet
    from napari_slidecorr.sample_data import make_cohort

    side = int(np.ceil(np.sqrt(cells / TISSUE_SHARE))) * SIZE_PX
    cohort = drain(make_cohort(folder / "slides", slides=SLIDES, size_px=side))
    project = Project.create(folder / "project", CLASSES)
    project.add_slides([sample.path for sample in cohort])
    for sample in cohort:
        first = [
            max(sample.regions.of_class(name), key=lambda r: r.area_px)
            for name in CLASSES
            if sample.regions.of_class(name)
        ]
        seeds = [(region.class_name, region.polygon.representative_point()) for region in first]
        boxes = [Region(name, shapely.box(p.x - 60, p.y - 60, p.x + 60, p.y + 60)) for name, p in seeds]
        project.save_regions(sample.id, RegionSet(tuple(boxes)))
    return project, cohort


def fill_cache(project: Any, cohort: Any, config: Any) -> int:
    """Write features of all cells into the cache, under the keys of the extractor; gives how many."""
    from napari_slidecorr.learning.extractor import slide_grid
    from napari_slidecorr.learning.fast_training import make_extractor
    from napari_slidecorr.learning.feature_store import FeatureCache
    from napari_slidecorr.tissue import find_tissue

    extractor, cache, total = make_extractor(config), FeatureCache(), 0
    for number, sample in enumerate(cohort):
        rng = np.random.default_rng(number)
        slide = project.slide(sample.id)
        grid = slide_grid(slide, extractor.geometry)
        cells = np.argwhere(find_tissue(slide).cells(grid)).astype(np.int32)
        truth = truth_of(grid, sample, cells)
        features = rng.normal(0, 1, (len(cells), DIM)) + rng.normal(0, 0.3, DIM)
        for k in range(len(CLASSES)):
            features[truth == k, k * TELLING : (k + 1) * TELLING] += 0.6
        y, x = (np.asarray(grid.patch_starts_px(axis), np.int64)[cells[:, axis]] for axis in (0, 1))
        cache.entry(extractor.key(slide)).add(np.stack([y, x], axis=1), features.astype(np.float16))
        total += len(cells)
    return total


def truth_of(grid: Any, sample: Any, cells: Any) -> Any:
    """Class of each cell as the slide was drawn; -1 for none."""
    from napari_slidecorr.learning.cell_labels import label_cells
    from napari_slidecorr.regions import simple_regions

    found = label_cells(grid, simple_regions(sample.truth), CLASSES, 0.5)
    out = np.full(grid.shape, -1)
    out[tuple(found.cells.T)] = found.labels
    return out[tuple(cells.T)]


@dataclass(frozen=True)
class Stroke:
    """Seconds from its end to the view and to the whole slide."""

    view_s: float
    slide_s: float


class Gaps:
    """Notes when a timer of 10 ms really fires, and how long the window's thread has worked by then."""

    def __init__(self) -> None:
        from qtpy.QtCore import Qt, QTimer

        self.moments: list[tuple[float, float]] = []
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(lambda: self.moments.append((time.perf_counter(), time.thread_time())))
        self._timer.start(TICK_MS)

    def take(self) -> np.ndarray:
        """Give the milliseconds between ticks since the last call, and those that the thread worked, shape (N, 2)."""
        gaps = np.diff(np.asarray(self.moments), axis=0) * 1000
        self.moments = self.moments[-1:]
        return gaps


def serve(seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
    """Run the window's event loop for some time; whether it came to what was waited for."""
    from qtpy.QtWidgets import QApplication

    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        QApplication.processEvents()
        if until():
            return True
        time.sleep(0.0005)
    return False


def draw_square(person: Any, place: tuple[float, float]) -> None:
    """Click four corners around a place, and twice at the last."""
    from qtpy.QtTest import QTest

    (y, x), half = place, 1.6 * SIZE_PX
    corners = [(y - half, x - half), (y - half, x + half), (y + half, x + half), (y + half, x - half)]
    for corner in corners:
        person.hover(*corner)
        serve(HOVER_S)
        QTest.mousePress(person.canvas, LEFT, NONE, person.at(*corner))
        serve(PRESS_S)
        QTest.mouseRelease(person.canvas, LEFT, NONE, person.at(*corner))
        serve(HOVER_S)
    QTest.mouseDClick(person.canvas, LEFT, NONE, person.at(*corners[-1]))


def napari_alone(path: Path, where: list[tuple[float, float]], window: tuple[int, int]) -> np.ndarray:
    """Draw the same squares on a plain Shapes layer, in a window without docks; gives its gaps."""
    import napari
    from person import Person

    viewer = napari.Viewer()
    viewer.window._qt_window.resize(*window)  # noqa: SLF001 - the public one is deprecated
    (image,) = viewer.open(path, plugin="napari-slidecorr")
    shapes = viewer.add_shapes(ndim=2, scale=image.scale[-2:])
    serve(0.5)
    viewer.scene.camera.zoom *= 2
    shapes.mode = "add_polygon"
    serve(1)
    gaps, person = Gaps(), Person(viewer)
    for place in where:
        draw_square(person, place)
        serve(1)
    if len(shapes.data) != len(where):
        raise SystemExit(f"{len(where)} squares were drawn on the plain layer, and {len(shapes.data)} are there.")
    found = gaps.take()
    viewer.close()
    return found


class Window:
    """The docks, and a person who draws."""

    def __init__(self, project: Any, config: Any, size: tuple[int, int]) -> None:
        import napari
        from person import Person

        self.viewer = napari.Viewer()
        self.viewer.window._qt_window.resize(*size)  # noqa: SLF001 - the public one is deprecated
        self.slides, self.regions, self.live = (
            self.viewer.window.add_plugin_dock_widget("napari-slidecorr", name)[1]
            for name in ("Slides", "Regions", "Live")
        )
        self.person, self.desk = Person(self.viewer), self.slides.desk
        self.slides.open_project(project.folder)
        self.live.form.set(config)
        self.painted: list[tuple[float, int, bool]] = []
        self.drawn: list[float] = []
        self.live.painted.connect(
            lambda _slide, version, whole: self.painted.append((time.perf_counter(), version, whole))
        )
        canvas = self.viewer.window._qt_viewer.canvas._scene_canvas  # noqa: SLF001 - nothing public tells of drawing
        canvas.events.draw.connect(lambda _event: self.drawn.append(time.perf_counter()), position="last")

    def show(self, slide_id: str) -> None:
        """Bring a slide into view, and look at the middle half of it."""
        self.slides.show_slide(slide_id)
        if not serve(60, lambda: self.slides.session.current_slide == slide_id and self.desk.editor is not None):
            raise SystemExit(f"{slide_id} does not come into view.")
        serve(0.3)
        self.viewer.reset_view()
        self.viewer.scene.camera.zoom *= 2
        serve(0.5)

    def wait_for_map(self) -> None:
        """Until the slide in view is painted and nothing goes on."""
        live = self.live
        ready = lambda: live.map is not None and live.map.whole and not live.phase.text()  # noqa: E731
        if not serve(120, ready):
            raise SystemExit(f"No map comes: {live.told.status.text()} {live.message.text()}")
        serve(2)

    def draw(self, class_name: str, place: tuple[float, float]) -> None:
        """Draw a square of a class around a place."""
        person = self.person
        person.press_button(self.regions.tool_box.buttons["add_polygon"])
        self.regions.classes.table.choose(class_name)
        self.desk.take_class(class_name)
        draw_square(person, place)

    def stroke(self, class_name: str, place: tuple[float, float]) -> Stroke:
        """Draw a square of a class around a place, and wait for what becomes of it."""
        before = self.live.worker.wishes.version
        self.draw(class_name, place)
        ended = time.perf_counter()
        self.painted.clear()
        self.drawn.clear()
        if not serve(30, lambda: any(version > before and whole for _, version, whole in self.painted)):
            raise SystemExit(f"A stroke changes nothing: {self.live.told.status.text()} {self.live.message.text()}")
        view = next(at for at, version, _ in self.painted if version > before)
        whole = next(at for at, version, all_of_it in self.painted if version > before and all_of_it)
        serve(2, lambda: any(at > whole for at in self.drawn))  # nothing is drawn when no cell looks otherwise
        on_screen = [next((at for at in self.drawn if at >= moment), moment) - ended for moment in (view, whole)]
        return Stroke(*on_screen)


def places(project: Any, cohort: Any, slide_id: str, count: int, seed: int) -> list[tuple[str, tuple[float, float]]]:
    """Places in the middle half of a slide with the class that they are drawn as."""
    import shapely

    sample = next(one for one in cohort if one.id == slide_id)
    height, width = project.slide(slide_id).shape
    rng, found = np.random.default_rng(seed), []
    while len(found) < count:
        y, x = rng.uniform(0.32, 0.68, 2) * (height, width)
        names = [region.class_name for region in sample.truth if region.polygon.contains(shapely.Point(y, x))]
        if names and names[0] in CLASSES:
            found.append((names[0], (float(y), float(x))))
    return found


def main(strokes: int, cells: int, size: tuple[int, int]) -> dict[str, Any]:
    """Open a window, draw, and give the figures."""
    from napari_slidecorr._napari.torch_door import load_torch

    load_torch()
    from napari_slidecorr.live_config import LiveConfig

    config = LiveConfig(weights="random", size_px=SIZE_PX, mpp=0.5, device="cpu")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["SLIDECORR_CACHE_DIR"] = str(folder / "cache")
        project, cohort = make_project(folder, cells)
        total = fill_cache(project, cohort, config.fast)
        window = Window(project, config, size)
        ids = [known.id for known in project.cohort]
        window.show(ids[0])
        window.person.press_button(window.live.live_button)
        window.wait_for_map()
        gaps, taken, found = Gaps(), [], []
        serve(3)
        idle = gaps.take()
        for number, slide_id in enumerate(ids):
            if number:
                window.show(slide_id)
                window.wait_for_map()
            gaps.take()
            for class_name, place in places(project, cohort, slide_id, strokes // SLIDES, number):
                found.append(window.stroke(class_name, place))
                serve(0.5)
            taken.append(gaps.take())
        judged = window.live.told.score.text()
        window.live.stop()
        window.live.close_worker()
        gaps.take()
        last = places(project, cohort, ids[-1], strokes // SLIDES, SLIDES)
        for class_name, place in last:
            window.draw(class_name, place)
            serve(1)
        alone = gaps.take()
        window.viewer.close()
        plain = napari_alone(Path(project.slide(ids[-1]).path), [place for _, place in last], size)
    view, slide = ([getattr(one, name) for one in found] for name in ("view_s", "slide_s"))
    all_gaps = np.concatenate(taken)
    return {
        "strokes": len(found),
        "patches": total,
        "slides": SLIDES,
        "dim": DIM,
        "window_px": "{} x {}".format(*size),
        "p50_view_s": float(np.quantile(view, 0.5)),
        "p95_view_s": float(np.quantile(view, 0.95)),
        "p95_slide_s": float(np.quantile(slide, 0.95)),
        "p99_frame_gap_ms": float(np.quantile(all_gaps[:, 0], 0.99)),
        "max_frame_gap_ms": float(all_gaps[:, 0].max()),
        "p99_frame_work_ms": float(np.quantile(all_gaps[:, 1], 0.99)),
        "without_live_p99_frame_gap_ms": float(np.quantile(alone[:, 0], 0.99)),
        "without_live_p99_frame_work_ms": float(np.quantile(alone[:, 1], 0.99)),
        "napari_alone_p99_frame_gap_ms": float(np.quantile(plain[:, 0], 0.99)),
        "napari_alone_p99_frame_work_ms": float(np.quantile(plain[:, 1], 0.99)),
        "idle_p99_frame_gap_ms": float(np.quantile(idle[:, 0], 0.99)),
        "load_average": os.getloadavg()[0],
        "score": judged,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strokes", type=int, default=50)
    parser.add_argument("--cells", type=int, default=4000, help="tissue cells of each slide, about")
    parser.add_argument("--window", type=int, nargs=2, default=(1500, 1000), help="width and height of the window")
    parser.add_argument("--quick", action="store_true", help="10 strokes")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    figures = main(10 if given.quick else given.strokes, given.cells, tuple(given.window))
    print(
        ", ".join(
            f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}" for key, value in figures.items()
        )
    )
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2))
