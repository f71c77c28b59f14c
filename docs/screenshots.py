"""Make the pictures of the README: a real session on sample slides, with no part of it painted by hand.

Needs a display; without one run it under a virtual one::

    xvfb-run -a -s "-screen 0 1600x1200x24" python docs/screenshots.py
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from napari_slidecorr._napari.torch_door import load_torch

load_torch()

import napari  # noqa: E402 - torch comes before the first window
from PIL import Image  # noqa: E402
from qtpy.QtWidgets import QApplication, QDockWidget  # noqa: E402

from napari_slidecorr import drain  # noqa: E402
from napari_slidecorr.config import ScrConfig  # noqa: E402
from napari_slidecorr.demo import DEMO_CONFIG, PREDICT_CONFIG  # noqa: E402
from napari_slidecorr.events import JobStatus  # noqa: E402
from napari_slidecorr.sample_data import CLASS_COLORS, SampleSlide, make_cohort  # noqa: E402

IMAGES = Path(__file__).parent / "images"
DOCKS = ("Slides", "Regions", "Training", "Prediction")
SIZE = (1500, 950)
CONFIG = replace(DEMO_CONFIG, objective=ScrConfig(beta=0.2))


class Window:
    """A viewer with the plugin's docks, and what to wait for in it."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.viewer = napari.Viewer(show=True)
        self.viewer.window._qt_window.resize(*SIZE)  # noqa: SLF001 - the public one is deprecated
        self.docks: dict[str, Any] = {}
        for name in DOCKS:
            _, self.docks[name] = self.viewer.window.add_plugin_dock_widget("napari-slidecorr", name, tabify=True)
        self.session = self.docks["Slides"].session
        self.ends: list[Any] = []
        self.session.job_ended.connect(self.ends.append)

    def wait(self, condition: Callable[[], bool], seconds: float = 600) -> None:
        """Let the window live until something is so."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError
            QApplication.processEvents()
            time.sleep(0.01)

    def rest(self, seconds: float = 1.5) -> None:
        """Let the window live for a while."""
        end = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() > end)

    def front(self, name: str) -> None:
        """Bring a dock to the front."""
        widget = self.docks[name]
        while not isinstance(widget, QDockWidget):
            widget = widget.parent()
        widget.show()
        widget.raise_()

    def show(self, slide_id: str) -> None:
        """Show a slide, and all of it."""
        self.docks["Slides"].show_slide(slide_id)
        self.wait(lambda: self.session.current_slide == slide_id)
        self.rest(0.3)
        self.viewer.reset_view()

    def finish(self) -> None:
        """Wait for the end of a job, which must be a good one."""
        self.wait(lambda: bool(self.ends))
        ended = self.ends.pop()
        if ended.status is not JobStatus.COMPLETED:
            raise RuntimeError(f"The job {ended.status.value}: {ended.error}")

    def shoot(self, name: str) -> None:
        """Store what the window shows."""
        self.rest()
        pixels = self.viewer.screenshot(canvas_only=False, flash=False)
        self.out.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels[..., :3]).quantize(256, method=Image.Quantize.MEDIANCUT)
        image.save(self.out / f"{name}.png", optimize=True)
        print(f"{name}.png")


def begin(window: Window, folder: Path, samples: tuple[SampleSlide, ...]) -> None:
    """Make a project of sample slides with their regions."""
    slides, regions = window.docks["Slides"], window.docks["Regions"]
    slides.create_project(folder / "my project")
    for name, color in CLASS_COLORS.items():
        regions.classes.add_class(name)
        regions.classes.recolour_class(name, color)
    slides.add_slides([sample.path for sample in samples])
    window.wait(lambda: len(slides.table.ids) == len(samples) and slides.desk.editor is not None)
    for sample in samples:
        if not sample.held_out:
            window.session.project.save_regions(sample.id, sample.regions)
    window.show(samples[1].id)
    window.show(samples[0].id)
    window.session.slides_changed.emit()


def main(out: Path) -> None:
    """Go the whole way once, and take a picture at each station."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        samples = drain(make_cohort(folder / "slides"))
        window = Window(out)
        begin(window, folder, samples)
        window.front("Slides")
        window.shoot("slides")
        window.front("Regions")
        window.docks["Regions"].draw("add_polygon")
        window.shoot("regions")
        window.front("Training")
        window.docks["Training"].form.set(CONFIG)
        window.docks["Training"].train()
        window.finish()
        scroll_to(window.docks["Training"], window.docks["Training"].progress.curve)
        window.shoot("training")
        prediction = window.docks["Prediction"]
        prediction.form.set(PREDICT_CONFIG)
        for sample, name in ((samples[0], "napari"), (next(s for s in samples if s.held_out), "prediction")):
            window.show(sample.id)
            window.front("Prediction")
            prediction.predict()
            window.finish()
            window.shoot(name)
        window.viewer.close()


def scroll_to(dock: Any, part: Any) -> None:
    """Scroll a dock until a part of it is in view."""
    QApplication.processEvents()
    dock.ensureWidgetVisible(part)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the pictures")
    main(parser.parse_args().out)
