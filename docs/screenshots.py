"""Go through the tutorial in a real window, word for word, and make its pictures and those of the README.

Needs a display; without one run it under a virtual one::

    xvfb-run -a -s "-screen 0 1600x1200x24" python docs/screenshots.py

What is pressed is looked up by the words on the buttons, and at the end compared with the bold words of the tutorial: a
step that is told and not done, or done and not told, is an error.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "benchmarks")]
from window import Window, own_home

DOCS = Path(__file__).parent
TUTORIAL = DOCS / "tutorial.md"
NEW, LAST = "default-07", "default-08"
SEVERAL_CELLS = 2
"""A wrong area of fewer cells is not worth a lasso."""


class Tutorial:
    """A person who reads the tutorial, and a camera."""

    def __init__(self, images: Path) -> None:
        self.at = Window(images)
        self.begun = time.monotonic()
        from person import Person

        self.person = Person(self.at.viewer)

    @property
    def session(self) -> Any:
        """Of all docks."""
        return self.at.dock("Slides").session

    def tell(self, step: str) -> None:
        """Say how long it has taken so far."""
        print(f"{time.monotonic() - self.begun:6.0f} s  {step}", flush=True)

    # -- the steps ----------------------------------------------------------------------------------------------------

    def slides(self) -> None:
        """Three doors, and sample slides behind the first."""
        dock = self.at.open("Slides")
        self.at.rest(1)
        self.at.shoot("1-welcome")
        self.at.job(dock.session, lambda: self.at.press(dock, "Make sample slides"))
        self.at.wait(lambda: self.session.current_slide is not None and len(dock.table.ids) == 8, 60)
        self.at.rest(2)
        self.at.shoot("2-slides")
        self.tell("sample slides")

    def regions(self) -> None:
        """One more region, on the first slide."""
        at, dock = self.at, self.at.open("Regions")
        at.viewer.reset_view()
        at.rest(0.5)
        at.click_row(dock.classes.table, "stroma")
        at.press(dock, "Polygon")
        before = len(self.desk.editor.regions)
        self.person.polygon(*self.free_place())
        at.wait(lambda: len(self.desk.editor.regions) > before, 10)
        at.shoot("3-regions")
        self.tell("a region")

    @property
    def desk(self) -> Any:
        """What the docks draw with."""
        return self.at.dock("Slides").desk

    def free_place(self) -> list[tuple[float, float]]:
        """Corners of a polygon in known stroma in which nothing is drawn."""
        from shapely import maximum_inscribed_circle, unary_union

        drawn = unary_union([region.polygon for region in self.desk.editor.regions]).buffer(40)
        known = unary_union([region.polygon for region in truth(self.session.current_slide).of_class("stroma")])
        (centre, edge) = maximum_inscribed_circle(known.difference(drawn)).coords
        radius = 0.85 * math.dist(centre, edge)
        turns = [math.tau * step / 9 for step in range(9)]
        return [(centre[0] + radius * math.sin(turn), centre[1] + radius * math.cos(turn)) for turn in turns]

    def train(self) -> None:
        """A fast training."""
        at, slides = self.at, self.at.front("Slides")
        at.wait(slides.next_step.button.isVisible, 20)
        at.press(slides, "Open Training")
        at.rest(1.5)
        dock = at.dock("Training")
        at.shoot("4-training")
        at.job(self.session, lambda: at.press(dock, "Train"))
        at.shoot("5-trained")
        self.tell("trained")

    def predict(self, slide: str, picture: str) -> None:
        """A map of a slide that took no part in the training."""
        at, slides = self.at, self.at.front("Slides")
        self.show(slide)
        if "Open Prediction" in at.said:
            at.front("Prediction")
        else:
            at.press(slides, "Open Prediction")
        dock = at.dock("Prediction")
        at.rest(1)
        at.job(self.session, lambda: at.press(dock, "Predict"))
        at.viewer.reset_view()
        at.shoot(picture)
        self.tell(picture)

    def show(self, slide: str) -> None:
        """Choose a slide in the table and show it."""
        dock = self.at.front("Slides")
        self.at.click_row(dock.table, slide)
        self.at.press(dock, "Show")
        self.at.wait(lambda: self.session.current_slide == slide, 30)
        self.at.rest(1)
        self.at.viewer.reset_view()

    def correct(self) -> None:
        """Draw around what is wrong, train again, look again."""
        at, dock = self.at, self.at.front("Prediction")
        name, corners = self.wrong_place(dock.panel.view.prediction)
        before = len(self.desk.editor.regions)
        at.choose("Right class", dock.panel.correction.class_choice, name)
        at.press(dock, "Lasso")
        at.rest(0.5)
        with self.person.dragging(corners):
            at.shoot("7-wrong")
        at.wait(lambda: len(self.desk.editor.regions) > before, 10)
        at.press(dock, "Lasso")
        training = at.front("Training")
        at.rest(1)
        at.job(self.session, lambda: at.press(training, "Train"))
        self.tell("trained again")

    def wrong_place(self, prediction: Any) -> tuple[str, list[tuple[float, float]]]:
        """The class and the outline of the largest area that the map has wrong."""
        from scipy import ndimage
        from shapely import MultiPoint, contains_xy, unary_union

        known, best = truth(prediction.slide_id), None
        given = np.where(prediction.predicted, prediction.probabilities.argmax(0), -1)
        centres = cell_centres(prediction)
        for number, name in enumerate(prediction.classes):
            area = unary_union([region.polygon for region in known.of_class(name)]).buffer(-60)
            is_name = contains_xy(area, centres[..., 0], centres[..., 1])
            parts, count = ndimage.label(is_name & (given >= 0) & (given != number))
            for part in range(1, count + 1):
                size = int((parts == part).sum())
                if best is None or size > best[0]:
                    points = MultiPoint(centres[parts == part]).convex_hull.buffer(110).intersection(area.buffer(30))
                    best = size, name, points
        if best is None or best[0] < SEVERAL_CELLS:
            raise RuntimeError(f"The map of {prediction.slide_id} has nothing wrong that is worth a lasso: {best}")
        outline = max(getattr(best[2], "geoms", [best[2]]), key=lambda part: part.area).simplify(10)
        return best[1], list(outline.exterior.coords)

    def diagnose(self) -> None:
        """Tissue or slide?"""
        at, dock = self.at, self.at.open("Diagnostics")
        at.rest(1)
        at.job(self.session, lambda: at.press(dock, "Diagnose"))
        at.wait(lambda: bool(dock.shown), 30)
        at.shoot("9-diagnostics")
        self.tell("diagnosed")

    def full(self) -> None:
        """The whole network, a few epochs."""
        at, prediction = self.at, self.at.front("Prediction")
        at.press(prediction, "Train again from here")
        at.rest(1)
        dock = at.dock("Training")
        form = dock.form.forms["full"]
        at.said += ["Advanced settings", "Epochs"]
        form.fold.expand(animate=False)
        form.edits["epochs"].write(2)
        at.rest(0.5)
        at.job(self.session, lambda: at.press(dock, "Train"))
        at.shoot("10-full")
        self.tell("trained the network")

    def export(self) -> None:
        """The map for QuPath."""
        at, dock = self.at, self.at.front("Prediction")
        at.rest(1)
        target = Path.home() / f"{self.session.current_slide}.geojson"

        def save(dialog: Any) -> None:
            from qtpy.QtWidgets import QDialogButtonBox

            dialog.selectFile(str(target))
            dialog.findChild(QDialogButtonBox).button(QDialogButtonBox.StandardButton.Save).click()

        at.dialog(save)
        at.press(dock, "Export ...")
        at.wait(target.is_file, 60)
        self.tell("exported")


def cell_centres(prediction: Any) -> Any:
    """Where the cells of a map lie, (rows, columns, 2), (y, x) in level-0 pixels."""
    edges = (np.asarray(prediction.grid.cell_edges_px(axis)) for axis in (0, 1))
    y, x = ((each[:-1] + each[1:]) / 2 for each in edges)
    return np.stack(np.meshgrid(y, x, indexing="ij"), -1)


def truth(slide: str) -> Any:
    """What a sample slide's tissue is: it is made once more, from the same seed."""
    from napari_slidecorr.sample_data import make_slide, plan_cohort

    with tempfile.TemporaryDirectory() as folder:
        return make_slide(Path(folder) / f"{slide}.tif", plan_cohort()[slide]).truth


def compare(said: list[str]) -> None:
    """See that the bold words of the tutorial are what was done, in this order."""
    told = re.findall(r"\*\*(.+?)\*\*", TUTORIAL.read_text("utf-8").replace("\n", " "))
    if told != said:
        raise SystemExit(f"The tutorial says\n  {told}\nand what was done is\n  {said}")
    print("Every bold word of the tutorial was done, in its order.")


def main(images: Path) -> None:
    """Go the whole way once."""
    with tempfile.TemporaryDirectory() as made, own_home(Path(made)):
        one = Tutorial(images)
        one.slides()
        one.regions()
        one.train()
        one.predict(LAST, "6-map")
        one.correct()
        one.predict(NEW, "8-next-map")
        one.diagnose()
        one.full()
        one.export()
        one.at.close()
    compare(one.at.said)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, default=DOCS / "images" / "tutorial", help="folder of the pictures")
    main(parser.parse_args().images)
