"""Use one window for a long time, and see whether memory, threads and open files stay flat.

    xvfb-run -a -s "-screen 0 1600x1200x24" python benchmarks/soak.py --minutes 120 --json soak.json

A round is what a person does again and again: look at each slide, draw a region and take it back, train (a small network, one
epoch), map the slide in view, and take the run and the map away. Told after each round are the memory of the process (RSS), threads, open
files and layers. `growth_mb_per_round` is the slope of the memory over the second half of the rounds (least squares), so what is loaded
once does not count; `growth_mb` is that slope times the rounds of that half.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SLIDES, SIZE_PX = 4, 1024


class Window:
    """A window with four docks on a project of made-up slides."""

    def __init__(self, folder: Path) -> None:
        import napari

        sys.path.insert(0, str(Path(__file__).parent))
        from person import Person

        from napari_slidecorr import Project, drain
        from napari_slidecorr.config import PatchConfig, PredictConfig, TrainConfig
        from napari_slidecorr.sample_data import CLASS_COLORS, make_cohort

        cohort = drain(make_cohort(folder / "slides", slides=SLIDES, size_px=SIZE_PX))
        self.project = Project.create(folder / "project", tuple(CLASS_COLORS))
        self.project.add_slides([sample.path for sample in cohort])
        for sample in cohort:
            self.project.save_regions(sample.id, sample.regions)
        self.viewer = napari.Viewer()
        self.viewer.window._qt_window.resize(1500, 1100)  # noqa: SLF001 - the public one is deprecated
        self.slides, self.regions, self.training, self.prediction = (
            self.viewer.window.add_plugin_dock_widget("napari-slidecorr", name, tabify=True)[1]
            for name in ("Slides", "Regions", "Training", "Prediction")
        )
        self.session, self.person = self.slides.session, Person(self.viewer)
        self.ends: list[Any] = []
        self.session.job_ended.connect(self.ends.append)
        self.slides.open_project(self.project.folder)
        self.training.form.set(
            TrainConfig(
                backbone="resnet18",
                weights="random",
                epochs=1,
                patches=PatchConfig(size_px=64),
                device="cpu",
            )
        )
        self.prediction.form.set(PredictConfig(device="cpu"))

    def round(self) -> None:
        """Look, draw, train, map, and take away."""
        for entry in self.project.cohort:
            self.show(entry.id)
            self.draw_and_take_back()
        self.job(self.training.train_button)
        self.prediction.list_runs()
        self.person.wait(self.prediction.predict_button.isEnabled)
        self.job(self.prediction.predict_button)
        self.look_around()
        self.take_away()

    def show(self, slide_id: str) -> None:
        """Bring a slide into view, whole."""
        self.slides.show_slide(slide_id)
        desk = self.slides.desk
        self.person.wait(lambda: self.session.current_slide == slide_id and desk.editor is not None)
        self.viewer.reset_view()
        self.person.wait(lambda: not self.slides.errands.running)

    def draw_and_take_back(self) -> None:
        """Draw a triangle, and undo it."""
        editor = self.slides.desk.editor
        before = len(editor.regions)
        self.person.press_button(self.regions.tool_box.buttons["add_polygon"])
        self.person.polygon((300, 300), (300, 600), (600, 450))
        self.person.wait(lambda: len(editor.regions) == before + 1)
        editor.undo()
        self.person.wait(lambda: len(editor.regions) == before)

    def job(self, button: Any) -> None:
        """Press a button that starts a job, and wait for its end.

        Raises
        ------
        RuntimeError
            If the job failed.
        """
        self.ends.clear()
        self.person.press_button(button)
        self.person.wait(lambda: bool(self.ends), 600)
        if self.ends[0].error is not None:
            raise RuntimeError(str(self.ends[0].error))
        self.person.wait(lambda: not self.session.busy)

    def look_around(self) -> None:
        """Zoom in and out over the map."""
        for zoom in (2.0, 0.5, 4.0, 0.25):
            self.viewer.scene.camera.zoom *= zoom
            end = time.monotonic() + 0.2
            self.person.wait(lambda end=end: time.monotonic() > end)

    def take_away(self) -> None:
        """Move the map and the run out of the project, as its shelves do."""
        from napari_slidecorr.stored_maps import remove_map, stored_maps
        from napari_slidecorr.stored_runs import remove_runs, stored_runs

        for entry in self.project.cohort:
            for stored in stored_maps(self.session.project, entry.id):
                remove_map(self.session.project, stored)
        for stored in stored_runs(self.session.project):
            remove_runs(self.session.project, stored)
        self.session.runs_changed.emit()


def state(viewer: Any) -> dict[str, float]:
    """What the process holds now."""
    import psutil

    gc.collect()
    process = psutil.Process()
    return {
        "rss_mb": process.memory_info().rss / 1e6,
        "threads": process.num_threads(),
        "open_files": process.num_fds(),
        "layers": len(viewer.layers),
    }


def slope(values: list[float]) -> float:
    """Change of the second half of the values per step (least squares)."""
    half = np.asarray(values[len(values) // 2 :])
    return float(np.polyfit(np.arange(len(half)), half, 1)[0]) if len(half) > 1 else 0.0


def main(minutes: float) -> dict[str, Any]:
    """Work in a window until the time is over, and give the curves."""
    from napari_slidecorr._napari.torch_door import load_torch

    load_torch()
    with tempfile.TemporaryDirectory() as name:
        os.environ["SLIDECORR_CACHE_DIR"] = str(Path(name) / "cache")
        os.environ["SLIDECORR_CONFIG_DIR"] = str(Path(name) / "config")
        window = Window(Path(name))
        curves: dict[str, list[float]] = {"minutes": [], "rss_mb": [], "threads": [], "open_files": [], "layers": []}
        begun = time.monotonic()
        while time.monotonic() - begun < minutes * 60:
            window.round()
            curves["minutes"].append((time.monotonic() - begun) / 60)
            for key, value in state(window.viewer).items():
                curves[key].append(value)
            print(*(f"{key} {values[-1]:.1f}" for key, values in curves.items()), sep="  ", flush=True)
        window.viewer.close()
    growth = slope(curves["rss_mb"])
    return {
        "rounds": len(curves["minutes"]),
        "growth_mb_per_round": growth,
        "growth_mb": growth * (len(curves["rss_mb"]) - len(curves["rss_mb"]) // 2),
        "threads_growth_per_round": slope(curves["threads"]),
        "open_files_growth_per_round": slope(curves["open_files"]),
        "load_average": os.getloadavg()[0],
        "curves": curves,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--quick", action="store_true", help="three minutes")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures = main(3 if arguments.quick else arguments.minutes)
    print({key: value for key, value in figures.items() if key != "curves"})
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))
