"""Frames of a real window while one pans over regions and draws another: ours, and napari's plain Shapes layer beside it.

    xvfb-run -a -s "-screen 0 1600x1200x24" python benchmarks/draw_regions.py --json draw_regions.json

For 100, 1,000 and 10,000 polygons of 50 corners on a slide of 40,000 x 40,000 px: p95 and longest gap, in milliseconds,
from one drawn frame to the next. Panning goes over the whole slide in view and over a twelfth of it, with rests, in which
shapes are exchanged; drawing clicks twelve corners with mouse events, the frame in which the polygon is finished
included. Each window is a process of its own. `none_pan_*` is the window with the slide and no regions: what no layer can
undercut. On a machine that is busy with other things the gaps are those things' too; `*_cpu_p95_ms_*` is the time that the
window's own thread was at work for a frame.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mosaic import write_huge

SIDE = 40_000
COUNTS = (100, 1000, 10_000)
RADIUS_PX = 100
CORNERS = 50
NEAR = 1 / 12
REST_S = 0.35
CLASSES = ("tumour", "stroma")


Gaps = np.ndarray
"""Shape (frames, 2): milliseconds by the clock, and of the thread at work."""


def outlines(count: int) -> Iterator[np.ndarray]:
    """Give rings, (y, x) in level-0 pixels, the same in every run."""
    rng = np.random.default_rng(1)
    angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    circle = np.stack([np.sin(angle), np.cos(angle)], 1)
    for _ in range(count):
        centre = rng.uniform(2 * RADIUS_PX, SIDE - 2 * RADIUS_PX, 2)
        yield centre + circle * RADIUS_PX * rng.uniform(0.7, 1.3, (CORNERS, 1))


class Window:
    """A shown viewer, whose frames are drawn one by one and timed."""

    def __init__(self) -> None:
        import napari
        from qtpy.QtWidgets import QApplication

        self.viewer = napari.Viewer()
        self.viewer.window.resize(1400, 1000)
        self.process = QApplication.processEvents
        self.process()
        self.canvas = self.viewer.window._qt_viewer.canvas.native  # noqa: SLF001 - the only way to ask for a frame
        self.moments: list[tuple[float, float]] = []

    def frame(self) -> None:
        """Draw a frame and note when it was done, by the clock and by the thread's own time."""
        self.canvas.repaint()
        self.process()
        self.moments.append((time.perf_counter(), time.thread_time()))

    def take(self) -> Gaps:
        """Give milliseconds from frame to frame since the last call."""
        gaps = np.diff(np.asarray(self.moments).reshape(-1, 2), axis=0) * 1e3
        self.moments = []
        return gaps

    def rest(self, seconds: float = REST_S, until: Callable[[], bool] = lambda: False) -> None:
        """Leave the view alone, so that the layers settle; frames go on."""
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends and not until():
            self.frame()

    def look(self, part: float) -> None:
        """Bring the middle of the slide into view, as large as that part of it."""
        self.viewer.reset_view()
        self.viewer.scene.camera.zoom /= part
        self.rest()
        self.rest()
        self.take()

    def pan(self, frames: int) -> Gaps:
        """Move by a fiftieth of the view a frame, there and back, and rest three times."""
        camera = self.viewer.scene.camera
        step, (y, x) = self.canvas.height() / camera.zoom / 50, camera.center[-2:]
        for index in range(frames):
            turn = index if index < frames // 2 else frames - index
            camera.center = (y, x + turn * step)
            self.frame()
            if index % (frames // 3) == frames // 3 - 1:
                self.rest()
        return self.take()

    def draw(self, layer: Any, number: int) -> Gaps:
        """Click a polygon of twelve corners with the mouse."""
        from qtpy.QtCore import QEvent

        layer.mode = "add_polygon"
        self.rest(0.1)
        self.take()
        middle = np.asarray([self.canvas.width() / 2, self.canvas.height() / 2]) + 20 * number
        angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        corners = middle + 120 * np.stack([np.cos(angle), np.sin(angle)], 1)
        for before, corner in zip([corners[0], *corners], corners, strict=False):
            for part in (0.5, 1.0):
                self.mouse(QEvent.Type.MouseMove, before + part * (corner - before))
            self.mouse(QEvent.Type.MouseButtonPress, corner)
            self.mouse(QEvent.Type.MouseButtonRelease, corner)
        for kind in (QEvent.Type.MouseButtonPress, QEvent.Type.MouseButtonRelease, QEvent.Type.MouseButtonDblClick):
            self.mouse(kind, corners[-1])
        self.mouse(QEvent.Type.MouseButtonRelease, corners[-1])
        self.rest(0.6)
        return self.take()

    def mouse(self, kind: Any, at: np.ndarray) -> None:
        """Send a mouse event to the canvas, and draw the frame after it."""
        from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
        from qtpy.QtGui import QMouseEvent
        from qtpy.QtWidgets import QApplication

        point = QPoint(*(int(n) for n in at))
        moved, none = kind == QEvent.Type.MouseMove, Qt.MouseButton.NoButton
        left = none if moved else Qt.MouseButton.LeftButton
        held = none if moved or kind == QEvent.Type.MouseButtonRelease else left
        there = QPointF(point), QPointF(self.canvas.mapToGlobal(point))
        QApplication.sendEvent(self.canvas, QMouseEvent(kind, *there, left, held, Qt.KeyboardModifier.NoModifier))
        self.frame()


def slide_alone(window: Window, folder: Path, _count: int) -> Any:
    from napari_slidecorr._napari.layers import add_slide
    from napari_slidecorr.io import open_slide

    add_slide(window.viewer, open_slide(folder / "slide.tif"))


def plain(window: Window, folder: Path, count: int) -> Any:
    """Show the same polygons in napari's own layer, with colours and scale."""
    slide_alone(window, folder, 0)
    image = window.viewer.layers[0]
    layer = window.viewer.add_shapes(
        list(outlines(count)),
        shape_type="polygon",
        edge_width=30,
        edge_color=[(1, 0, 0, 1)] * count,
        face_color=[(1, 0, 0, 0.25)] * count,
        scale=image.scale,
        units=image.units,
    )
    return layer, lambda: len(layer.data)


def ours(window: Window, folder: Path, count: int) -> Any:
    """The Regions dock on a project of one slide."""
    from shapely import Polygon

    from napari_slidecorr import Project
    from napari_slidecorr._napari.dock_regions import RegionsDock
    from napari_slidecorr._napari.layers import add_slide
    from napari_slidecorr.regions import Region, RegionSet

    project = Project.create(folder / f"project_{count}", CLASSES)
    project.add_slides([folder / "slide.tif"])
    regions = (Region(CLASSES[n % 2], Polygon(ring)) for n, ring in enumerate(outlines(count)))
    project.save_regions("slide", RegionSet(tuple(regions)))
    dock = RegionsDock(window.viewer)
    window.viewer.window.add_dock_widget(dock, name="Regions")
    dock.session.project = project
    slide = project.slide("slide")
    add_slide(window.viewer, slide)
    dock.session.current_slide = "slide"
    layer = dock.desk.open_regions(slide)
    window.viewer.layers.selection.active = layer
    window.dock = dock
    return layer, lambda: len(dock.desk.editor.regions)


KINDS = {"none": slide_alone, "plain": plain, "ours": ours}


def measure(kind: str, count: int, folder: Path, *, quick: bool, pictures: Path | None) -> dict[str, float]:
    """Pan and draw in one window; gives figures by name."""
    window = Window()
    made = KINDS[kind](window, folder, count)
    few = kind == "plain" and count == max(COUNTS)
    frames = 12 if few else 18 if quick else 60
    gaps: list[Gaps] = []
    for part in (1.0, NEAR):
        window.look(part)
        gaps.append(window.pan(frames))
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            window.viewer.screenshot(
                str(pictures / f"{kind}_{count}_{'far' if part == 1 else 'near'}.png"), canvas_only=False, flash=False
            )
    figures = told(f"{kind}_pan", count, gaps)
    if made:
        layer, total = made
        drawn: list[Gaps] = []
        for number in range(1 if few else 2 if quick else 5):
            before = total()
            drawn.append(window.draw(layer, number))
            window.rest(20, lambda before=before: total() > before)
            drawn.append(window.take())
            if total() != before + 1:
                raise SystemExit(f"{kind}, {count}: the polygon was not drawn ({before} before, {total()} after).")
        figures |= told(f"{kind}_draw", count, drawn)
    window.viewer.close()
    return figures


def told(name: str, count: int, gaps: list[Gaps]) -> dict[str, float]:
    clock, cpu = np.concatenate(gaps).T
    return {
        f"{name}_p95_ms_{count}": float(np.quantile(clock, 0.95)),
        f"{name}_p50_ms_{count}": float(np.median(clock)),
        f"{name}_max_ms_{count}": float(np.max(clock)),
        f"{name}_cpu_p95_ms_{count}": float(np.quantile(cpu, 0.95)),
        f"{name}_cpu_max_ms_{count}": float(np.max(cpu)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer frames and polygons")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="how many polygons")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the windows")
    parser.add_argument("--one", nargs=3, metavar=("KIND", "COUNT", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        kind, count, folder = given.one
        print(json.dumps(measure(kind, int(count), Path(folder), quick=given.quick, pictures=given.pictures)))
        return
    figures: dict[str, float] = {}
    again = ["--quick"] * given.quick + (["--pictures", str(given.pictures)] if given.pictures else [])
    with tempfile.TemporaryDirectory() as folder:
        write_huge(Path(folder) / "slide.tif", SIDE)
        for kind, count in [("none", 0), *((kind, count) for count in given.counts for kind in ("ours", "plain"))]:
            command = [sys.executable, __file__, "--one", kind, str(count), folder, *again]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{kind} {count}:\n{done.stderr}")
            found = json.loads(done.stdout.splitlines()[-1])
            figures |= found
            print("   ".join(f"{name} {value:.0f}" for name, value in found.items()), flush=True)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
