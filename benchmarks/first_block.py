"""How long somebody waits, after a click on *Predict*, for the first cells of the map where they look.

`xvfb-run -a -s "-screen 0 1600x1200x24" python benchmarks/first_block.py --quick --json first_block.json`

A real window, the Prediction dock, a ResNet-18 with patches of 224 px as *Train* makes it, loaded; each trial zooms to another random view of
tissue and clicks *Predict* on a slide without a map. The clock runs from the click until the window has painted, and a cell in
view is coloured.

- ``p50_s``, ``p95_s``: over the trials.
- ``turn_p50_s``, ``turn_p95_s``: the same from moving the view while the map is made.
- ``load_s``: the first click of all, which loads torch and the model.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from napari_slidecorr._napari.torch_door import load_torch

load_torch()

import napari  # noqa: E402 - torch comes before the first window
import numpy as np  # noqa: E402
import tifffile  # noqa: E402
from qtpy.QtWidgets import QApplication  # noqa: E402

from napari_slidecorr._napari.dock_prediction import PredictionDock  # noqa: E402
from napari_slidecorr._napari.layers import add_slide, find_layer  # noqa: E402
from napari_slidecorr.geometry import PatchGeometry  # noqa: E402
from napari_slidecorr.learning.models import make_model, save_model  # noqa: E402
from napari_slidecorr.learning.sweep import cell_window  # noqa: E402
from napari_slidecorr.model_spec import ModelSpec  # noqa: E402
from napari_slidecorr.project import Project  # noqa: E402

CLASSES = ("one", "two", "three")
SPEC = ModelSpec(
    backbone="resnet18", classes=CLASSES, geometry=PatchGeometry(224, None), mean=(0.5,) * 3, std=(0.5,) * 3,
    objective={"kind": "ce"}, train_slides=(), validation_slides=(), initial_weights="random",
    weights_sha256="0" * 64, package_version="0",
)  # fmt: skip
LIMIT_S = 60.0


def write_slide(path: Path, side: int) -> None:
    """A pyramid of tissue-like noise, all of it tissue."""
    rng = np.random.default_rng(0)
    full = np.clip(rng.normal((200, 120, 180), 25, (side, side, 3)), 0, 255).astype(np.uint8)
    with tifffile.TiffWriter(path) as file:
        for level, step in enumerate((1, 4, 16)):
            file.write(
                full[::step, ::step], tile=(256, 256), photometric="rgb", compression="jpeg",
                subifds=2 if level == 0 else 0, subfiletype=int(level > 0), metadata=None,
            )  # fmt: skip


class Window:
    """A viewer with a slide and the Prediction dock."""

    def __init__(self, folder: Path, side: int) -> None:
        write_slide(folder / "slide.tif", side)
        self.project = Project.create(folder / "project", CLASSES)
        (known,) = self.project.add_slides([folder / "slide.tif"])
        run = folder / "project" / "runs" / "random"
        run.mkdir(parents=True)
        save_model(run, make_model("resnet18", len(CLASSES), weights="random"), SPEC)
        self.slide_id, self.side = known.id, side
        self.viewer = napari.Viewer(show=True)
        self.viewer.window._qt_window.resize(1500, 950)  # noqa: SLF001 - the public one is deprecated
        self.dock = PredictionDock(self.viewer)
        self.viewer.window.add_dock_widget(self.dock, name="Prediction")
        self.dock.session.project = self.project
        add_slide(self.viewer, self.project.slide(self.slide_id))
        self.dock.session.current_slide = self.slide_id
        self.rest(1)

    def wait(self, condition: Callable[[], bool]) -> float:
        """Let the window live until something is so; give the seconds."""
        start = time.perf_counter()
        while not condition():
            QApplication.processEvents()
            time.sleep(0.001)
            if time.perf_counter() - start > LIMIT_S:
                raise TimeoutError
        return time.perf_counter() - start

    def rest(self, seconds: float) -> None:
        """Let the window live for a while."""
        end = time.perf_counter() + seconds
        self.wait(lambda: time.perf_counter() > end)

    def go(self, rng: np.random.Generator) -> None:
        """Show a random place, between 1:1 and a quarter of that."""
        camera = self.viewer.scene.camera
        camera.zoom = 2 ** rng.uniform(-2, 0)
        camera.center = tuple(rng.uniform(0.15, 0.85, 2) * self.side)

    def is_painted(self) -> bool:
        """Whether a cell in view has a colour in the layer, and the window nothing left to paint."""
        layer = find_layer(self.viewer, "class_map", self.slide_id)
        box = self.dock.gaze.box()
        if layer is None or box is None or self.dock.panel.view is None:
            return False
        view = self.dock.panel.view
        if view._changed or not layer.data[cell_window(view.prediction.grid, box)].any():  # noqa: SLF001
            return False
        QApplication.processEvents()  # the paint that `refresh` asked for
        return True

    def trial(self, rng: np.random.Generator) -> tuple[float, float]:
        """Click and wait; then move and wait; then cancel and forget the map."""
        self.go(rng)
        self.rest(0.5)
        self.dock.predict_button.click()
        first = self.wait(self.is_painted)
        while self.is_painted():
            self.go(rng)
            QApplication.processEvents()
        turned = self.wait(self.is_painted)
        self.dock.job.cancel.click()
        self.wait(lambda: not self.dock.session.busy)
        self.rest(0.3)
        self.dock.panel.remove_layers()
        shutil.rmtree(self.project.folder / "maps", ignore_errors=True)
        self.rest(0.3)
        return first, turned


def measure(*, quick: bool) -> dict[str, float]:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        window = Window(Path(folder), 8192 if quick else 16384)
        load, _ = window.trial(rng)
        times = np.asarray([window.trial(rng) for _ in range(5 if quick else 20)])
        window.viewer.close()
    (p50, turn_p50), (p95, turn_p95) = np.percentile(times, 50, axis=0), np.percentile(times, 95, axis=0)
    return {"p50_s": p50, "p95_s": p95, "turn_p50_s": turn_p50, "turn_p95_s": turn_p95, "load_s": load}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller slide and 5 trials instead of 20")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    figures = {name: float(value) for name, value in measure(quick=arguments.quick).items()}
    for name, value in figures.items():
        print(f"{name:12} {value:9.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
