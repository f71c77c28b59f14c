"""A slide of 100,000 x 100,000 px: opening, the first view, memory, and how evenly a real window pans over it.

The slide is sparse and made in seconds. Opening and memory are measured in a process of its own with nothing but the reader
loaded; panning needs a display: `xvfb-run -a -s "-screen 0 1600x1200x24" python benchmarks/huge_slide.py --json huge.json`.
`--no-window` leaves it out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from mosaic import write_huge

from napari_slidecorr.level_view import LevelView

CODE = """
import json, resource, sys, time
from pathlib import Path
from napari_slidecorr.io import open_slide
import tifffile, imagecodecs  # the reader's own imports, before the clock: they are paid once in a session
imagecodecs.zlib_decode(imagecodecs.zlib_encode(b"x"))

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6

before = resident_mb()
start = time.perf_counter()
slide = open_slide(sys.argv[1])
opened = time.perf_counter()
views = slide.view_levels()
views[-1][:]
y, x = (n // 2 for n in views[0].shape[:2])
views[0][y : y + 1000, x : x + 1000]
shown = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 * 1.048576
figures = {"open_s": opened - start, "first_view_s": shown - start, "peak_mb": peak - before, "process_mb": peak}
print(json.dumps(figures | {"levels": len(views), "side_px": views[0].shape[0]}))
"""
TARGETS = {"first_view_s": 0.2, "peak_mb": 50}
FRAMES = 150


def in_a_fresh_process(path: Path) -> dict[str, float]:
    """Medians of five: seconds to open, to the first view (coarsest level and 1,000 px of level 0), memory above before."""
    environment = {**os.environ, "SLIDECORR_CACHE_DIR": ""}
    runs = [
        json.loads(
            subprocess.run([sys.executable, "-c", CODE, path], capture_output=True, check=True, env=environment).stdout
        )
        for _ in range(5)
    ]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def in_a_window(path: Path, pictures: Path | None) -> dict[str, float]:
    """Open the slide in napari, pan at three zooms, and take the gaps between frames that were drawn."""
    import napari
    from qtpy.QtWidgets import QApplication

    from napari_slidecorr._napari.layers import add_slide
    from napari_slidecorr.io import open_slide

    reads = timed_reads()
    viewer = napari.Viewer()
    viewer.window.resize(1400, 1000)
    QApplication.processEvents()
    start = time.perf_counter()
    slide = open_slide(path)
    add_slide(viewer, slide)
    QApplication.processEvents()
    figures: dict[str, float] = {"window_first_view_s": time.perf_counter() - start}
    for name, zoom in (("whole", None), ("middle", 1 / 12), ("full", 1.0)):
        viewer.reset_view()
        camera = getattr(viewer, "scene", viewer).camera
        if zoom is not None:
            camera.zoom = zoom / slide.mpp[0]
        reads.clear()
        gaps = pan(viewer, camera, slide)
        figures |= (
            told(f"pan_{name}", gaps) | {f"pan_{name}_reads": len(reads)} | told(f"pan_{name}_read", reads or [0])
        )
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            viewer.screenshot(str(pictures / f"huge_{name}.png"), canvas_only=False, flash=False)
    viewer.layers.clear()
    QApplication.processEvents()
    image = np.zeros((1000, 1400, 3), np.uint8)
    viewer.add_image(image, scale=slide.mpp, translate=[n * m / 2 for n, m in zip(slide.shape, slide.mpp, strict=True)])
    figures |= told("pan_plain_image", pan(viewer, camera, slide))  # what the window costs without any slide
    viewer.close()
    return figures


def told(name: str, values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        f"{name}_p50_ms": statistics.median(ordered),
        f"{name}_p95_ms": ordered[int(0.95 * len(ordered))],
        f"{name}_max_ms": ordered[-1],
    }


def timed_reads() -> list[float]:
    """Give the list that the time of every read of a level goes into, in milliseconds."""
    times: list[float] = []
    plain = LevelView.__getitem__

    def read(view: LevelView, key: Any) -> Any:
        start = time.perf_counter()
        pixels = plain(view, key)
        times.append((time.perf_counter() - start) * 1e3)
        return pixels

    LevelView.__getitem__ = read
    return times


def pan(viewer: Any, camera: Any, slide: Any) -> list[float]:
    """Move by a fiftieth of the view at each frame; milliseconds from one drawn frame to the next."""
    from qtpy.QtWidgets import QApplication

    canvas = viewer.window._qt_viewer.canvas  # noqa: SLF001 - the only way to ask for a frame and wait for it
    step = canvas.size[1] / camera.zoom / 50
    gaps, last = [], None
    centre = [n * m / 2 for n, m in zip(slide.shape, slide.mpp, strict=True)]
    for index in range(FRAMES):
        turn = index if index < FRAMES // 2 else FRAMES - index
        camera.center = (centre[0], centre[1] + turn * step)
        canvas._scene_canvas.native.repaint()  # noqa: SLF001
        QApplication.processEvents()
        now = time.perf_counter()
        if last is not None:
            gaps.append((now - last) * 1e3)
        last = now
    return gaps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the window")
    parser.add_argument("--no-window", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "huge.tif"
        start = time.perf_counter()
        write_huge(path, arguments.side)
        figures = {"write_s": time.perf_counter() - start, "file_mb": path.stat().st_size / 1e6}
        figures |= in_a_fresh_process(path)
        if not arguments.no_window:
            figures |= in_a_window(path, arguments.pictures)
    for name, value in figures.items():
        print(f"{name:24} {value:10.3f}" + (f"   at most {TARGETS[name]:g}" if name in TARGETS else ""))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
