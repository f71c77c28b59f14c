"""A person labels five made slides in a real window, and looks at the map after each stroke: fifteen strokes, and then a few keys.

    xvfb-run -a -s "-screen 0 1600x1200x24" python benchmarks/live_story.py --pictures docs/images/live --json live_story.json

Three strokes a slide, one a class where the slide has it, each a polygon inside the tissue that is known to be of the class. Told
is the share of cells of known tissue that the live map gives the right class, over all five slides, after each slide; those painted as
unsure count as wrong in `accuracy`, and are left out in `accuracy_where_sure`. A picture of the window is kept at each step.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = ("tumour", "lymphoid", "stroma")
SLIDES, SIZE_PX = 5, 64
UNSURE = 255


class Story:
    """The window, the person, and the pictures."""

    def __init__(self, folder: Path, side: int, pictures: Path | None) -> None:
        import napari

        sys.path.insert(0, str(Path(__file__).parent))
        from person import Person

        from napari_slidecorr import Project, drain
        from napari_slidecorr.live_config import LiveConfig
        from napari_slidecorr.sample_data import CLASS_COLORS, make_cohort

        self.cohort = drain(make_cohort(folder / "slides", slides=SLIDES, size_px=side, seed=1))
        self.project = Project.create(folder / "project", tuple(CLASS_COLORS))
        self.project.add_slides([sample.path for sample in self.cohort])
        self.pictures, self.steps = pictures, 0
        self.viewer = napari.Viewer()
        self.viewer.window._qt_window.resize(1560, 1160)  # noqa: SLF001 - the public one is deprecated
        self.slides, self.regions, self.live = (
            self.viewer.window.add_plugin_dock_widget("napari-slidecorr", name, tabify=True)[1]
            for name in ("Slides", "Regions", "Live")
        )
        self.person, self.desk = Person(self.viewer), self.slides.desk
        self.slides.open_project(self.project.folder)
        self.live.form.set(LiveConfig(size_px=SIZE_PX, mpp=0.5, device="cpu"))

    def wait(self, condition: Any, seconds: float = 120) -> None:
        """Let the window run until something is so."""
        self.person.wait(condition, seconds)

    def show(self, slide_id: str) -> None:
        """Bring a slide into view, whole."""
        self.slides.show_slide(slide_id)
        self.wait(lambda: self.slides.session.current_slide == slide_id and self.desk.editor is not None)
        self.viewer.reset_view()
        self.pause(0.4)

    def pause(self, seconds: float) -> None:
        """Let the window run."""
        from qtpy.QtTest import QTest

        QTest.qWait(int(seconds * 1000))

    def picture(self, name: str) -> None:
        """Keep a picture of the window with the Live dock in front."""
        self.steps += 1
        if self.pictures is not None:
            self.live.parentWidget().raise_()
            self.pause(0.3)
            self.pictures.mkdir(parents=True, exist_ok=True)
            self.viewer.screenshot(self.pictures / f"{self.steps:02d}-{name}.png", canvas_only=False, flash=False)

    def begin(self) -> None:
        """Start live training, and wait until all features of the slide in view are there."""
        self.person.press_button(self.live.live_button)
        self.wait(lambda: self.live.facts.table.rowCount() == SLIDES, 200)

    def strokes(self, sample: Any) -> int:
        """Draw one polygon of each class that the slide has, in the tissue that is known to be of it."""
        done = 0
        for key, name in enumerate(CLASSES, 1):
            known = max(sample.regions.of_class(name), key=lambda region: region.area_px, default=None)
            if known is None:
                continue
            before = len(self.desk.editor.regions)
            version = self.live.worker.wishes.version
            self.person.press_button(self.regions.tool_box.buttons["add_polygon"])
            self.desk.choose(key)
            corners = list(known.polygon.simplify(12).exterior.coords)[:-1]
            self.person.polygon(*corners)
            self.wait(lambda before=before: len(self.desk.editor.regions) == before + 1)
            self.wait(lambda version=version: self.live.worker.wishes.version > version)
            done += 1
        return done

    def painted(self) -> None:
        """Wait until the map of the slide in view is that of the newest regions."""
        live = self.live
        self.wait(lambda: live.map is not None and live.map.version == live.worker.wishes.version and live.map.whole)

    def filled(self) -> None:
        """Wait until every slide has all its features."""
        table = self.live.facts.table
        self.wait(lambda: all(table.item(i, 1).text().startswith("all") for i in range(table.rowCount())), 300)

    def judged(self) -> None:
        """Wait for the score on held-out slides and the strip."""
        self.wait(lambda: "AUC" in self.live.told.score.text() and len(self.live.strip.suggestions) > 0)
        frames = self.live.strip._frames  # noqa: SLF001 - to see that pictures have come
        self.wait(lambda: all(not frame.icon().isNull() for frame in self.live.strip._frames) and bool(frames))  # noqa: SLF001

    def right_and_sure(self, sample: Any) -> tuple[int, int, int]:
        """Cells of known tissue of the slide in view: right ones, sure ones, all."""
        from napari_slidecorr.learning.cell_labels import label_cells
        from napari_slidecorr.regions import simple_regions

        shown = self.live.map
        truth = label_cells(shown.prediction.grid, simple_regions(sample.truth), CLASSES, 0.6)
        number = shown.layer.data[tuple(truth.cells.T)]
        return int((number == truth.labels + 1).sum()), int((number != UNSURE).sum()), len(number)

    def accuracy(self) -> dict[str, float]:
        """Show each slide and compare its map with the truth."""
        counts = []
        for sample in self.cohort:
            self.show(sample.id)
            self.painted()
            counts.append(self.right_and_sure(sample))
        right, sure, total = np.sum(counts, axis=0)
        return {"accuracy": right / total, "accuracy_where_sure": right / max(sure, 1), "unsure": 1 - sure / total}


def main(side: int, pictures: Path | None) -> dict[str, Any]:
    """Tell the story, and give its figures."""
    from napari_slidecorr._napari.torch_door import load_torch

    load_torch()
    with tempfile.TemporaryDirectory() as name:
        os.environ["SLIDECORR_CACHE_DIR"] = str(Path(name) / "cache")
        story = Story(Path(name), side, pictures)
        story.show(story.cohort[0].id)
        story.picture("before")
        begun, strokes = time.monotonic(), 0
        story.begin()
        story.picture("begun")
        for number, sample in enumerate(story.cohort, 1):
            story.show(sample.id)
            strokes += story.strokes(sample)
            story.painted()
            story.picture(f"slide-{number}")
        story.painted()
        labelled_s = time.monotonic() - begun
        story.filled()
        story.judged()
        ready_s = time.monotonic() - begun
        story.picture("judged")
        after = story.accuracy()
        strip = story.live.strip
        for _ in range(5):
            story.wait(lambda: len(strip.suggestions) > 0)
            strip.accept()
            story.pause(0.6)
        story.judged()
        story.picture("accepted")
        story.person.press_button(story.live.keeping.keep_button)
        story.wait(lambda: bool(story.slides.session.project.runs()), 200)
        story.wait(lambda: not story.slides.session.busy)
        story.pause(0.5)
        story.picture("kept")
        story.person.press_button(story.live.remedies.start_button)
        story.wait(lambda: story.live.remedies.report is not None, 300)
        story.live.verticalScrollBar().setValue(story.live.verticalScrollBar().maximum())
        story.picture("what-helps")
        figures = {
            "strokes": strokes,
            "seconds_to_last_stroke_painted": labelled_s,
            "seconds_until_all_features_and_judged": ready_s,
            **{key: float(value) for key, value in after.items()},
            "score": story.live.told.score.text(),
            "helps": story.live.remedies.sentence.text(),
            "load_average": os.getloadavg()[0],
        }
        story.live.stop()
        story.live.close_worker()
        story.viewer.close()
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=1024, help="side of a slide in pixels")
    parser.add_argument("--pictures", type=Path, help="folder of the pictures; none are kept when left out")
    parser.add_argument("--quick", action="store_true", help="slides of 768 pixels")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = main(768 if given.quick else given.side, given.pictures)
    print(
        "\n".join(
            f"{key}: {value:.3f}" if isinstance(value, float) else f"{key}: {value}" for key, value in found.items()
        )
    )
    if given.json:
        given.json.write_text(json.dumps(found, indent=2))
