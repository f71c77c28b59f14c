"""Seconds from asking for a slide to seeing it in a napari window: reader, layer, first paint, each in a fresh window twice.

Needs a display (or Xvfb). ``python benchmarks/open_in_viewer.py SLIDE ... [--json FILE]``
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import napari
import numpy as np

from napari_slidecorr._napari.reader import read_layers


def seconds(viewer: napari.Viewer, path: Path) -> float:
    """Open in a window that stands already, until its picture is no longer uniform."""
    start = time.perf_counter()
    for levels, arguments, _ in read_layers(str(path)):
        viewer.add_image(levels, **arguments)
    viewer.reset_view()
    seen = viewer.screenshot(canvas_only=True, flash=False)
    took = time.perf_counter() - start
    if np.std(seen) < 1:
        raise SystemExit(f"{path.name}: nothing was painted; is there a display?")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slides", nargs="+", type=Path)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    viewer = napari.Viewer(show=True)
    viewer.add_image(np.zeros((8, 8)), name="warm up")  # the first layer of a session pays for napari's own imports
    viewer.screenshot(flash=False)
    figures: dict[str, list[float]] = {}
    for _ in range(2):
        for path in options.slides:
            for layer in list(viewer.layers)[1:]:
                viewer.layers.remove(layer)
            napari.qt.get_qapp().processEvents()
            figures.setdefault(path.name, []).append(round(seconds(viewer, path), 3))
    viewer.close()
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
