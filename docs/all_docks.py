"""Take a picture of every dock: in both themes, without a project and with one whose names are long, on a small screen.

Needs a display; without one run it under a virtual one. Names what is cut off or has no tool tip::

    xvfb-run -a -s "-screen 0 1600x1200x24" python docs/all_docks.py --out docks
    QT_SCALE_FACTOR=1.5 xvfb-run -a -s "-screen 0 2100x1200x24" python docs/all_docks.py --out docks-150 --themes dark
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))
from window import DOCKS, LEFT_PX, Window, own_home

LONG = "2023-11-07_Hospital of the Holy Spirit_block 4A level 3_H&E_scanned again 40x_patient 0815-{}"


def cut_off(dock: Any) -> list[str]:
    """The visible buttons and short labels of a dock whose text is wider than they are."""
    from qtpy.QtWidgets import QLabel, QPushButton

    found = []
    for each in (*dock.findChildren(QPushButton), *dock.findChildren(QLabel)):
        wraps = isinstance(each, QLabel) and (each.wordWrap() or "<" in each.text())
        if each.isVisible() and not wraps and each.fontMetrics().horizontalAdvance(each.text()) > each.width():
            found.append(each.text())
    return found


def sideways(dock: Any) -> list[str]:
    """The parts of a dock that are wider than what shows them."""
    from qtpy.QtWidgets import QAbstractScrollArea

    areas = [dock, *dock.findChildren(QAbstractScrollArea)]
    return [type(each).__name__ for each in areas if each.isVisible() and each.horizontalScrollBar().maximum() > 0]


def project_of_long_names(folder: Path) -> Path:
    """Make a project of small slides with regions, a training, a diagnosis and a map."""
    from napari_slidecorr.config import PatchConfig, ScrConfig, TrainConfig
    from napari_slidecorr.events import drain
    from napari_slidecorr.project import Project
    from napari_slidecorr.run_diagnosis import diagnose_run
    from napari_slidecorr.sample_data import CLASS_COLORS, make_cohort

    samples = drain(make_cohort(folder / "slides", slides=6, size_px=640))
    project = Project.create(folder / LONG.format("project"), tuple(CLASS_COLORS))
    for number, sample in enumerate(samples):
        path = sample.path.rename(folder / "slides" / f"{LONG.format(number)}.tif")
        (slide,) = project.add_slides([path], group=f"patient of the hospital {number}")
        project.save_regions(slide.id, sample.regions)
    config = TrainConfig(
        objective=ScrConfig(),
        backbone="test_resnet",
        weights="random",
        epochs=2,
        patches=PatchConfig(size_px=64),
        device="cpu",
    )
    drain(project.train(config))
    drain(diagnose_run(project, project.runs()[-1]))
    drain(project.predict([project.cohort[0].id]))
    return project.folder


def look(window: Window, state: str) -> None:
    """Take a picture of each dock, and say what is amiss in it."""
    for name in DOCKS:
        dock = window.front(name)
        window.rest(1)
        window.shoot(f"{name.lower()}-{state}", left=LEFT_PX)
        for what, texts in (("cut off", cut_off(dock)), ("scrolls sideways", sideways(dock))):
            if texts:
                print(f"  {name}, {state}: {what}: {texts}", flush=True)
        bar = dock.verticalScrollBar()
        if bar.maximum() > 0:
            bar.setValue(bar.maximum())
            window.shoot(f"{name.lower()}-{state}-end", left=LEFT_PX)
            bar.setValue(0)


def main(out: Path, themes: list[str]) -> None:
    """Go through the docks without a project, then with one."""
    with tempfile.TemporaryDirectory() as made, own_home(Path(made)):
        window = Window(out)
        folder = project_of_long_names(Path(made))
        for name in DOCKS:
            window.open(name)
        for theme in themes:
            window.viewer.theme = theme
            look(window, f"{theme}-empty")
        slides = window.dock("Slides")
        slides.open_project(folder)
        window.wait(lambda: slides.session.current_slide is not None)
        for theme in themes:
            window.viewer.theme = theme
            look(window, f"{theme}-project")
        window.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--themes", nargs="+", default=["dark", "light"])
    given = parser.parse_args()
    main(given.out, given.themes)
