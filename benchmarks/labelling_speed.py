"""How many clicks, drags and keys twenty classed regions on two slides take, here and in QuPath.

A scripted person works in a real window, with mouse and keys alone: ten regions of two classes on each of two slides, ten
of them outlined with the lasso and ten painted with the brush. For QuPath the same job is counted from its documented keys
and buttons; no QuPath is run. Needs a display; without one run it under a virtual one::

    xvfb-run -a -s "-screen 0 1600x1200x24" python benchmarks/labelling_speed.py --json speed.json
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from napari_slidecorr._napari.torch_door import load_torch

load_torch()

import napari  # noqa: E402 - torch comes before the first window
from person import Person  # noqa: E402
from qtpy.QtCore import Qt  # noqa: E402
from qtpy.QtTest import QTest  # noqa: E402

from napari_slidecorr import drain  # noqa: E402
from napari_slidecorr.project import Project  # noqa: E402
from napari_slidecorr.sample_data import make_cohort  # noqa: E402

CLASSES = ("tumour", "stroma")
SLIDES, A_SLIDE = 2, 10
QUPATH_PAGES = (
    "https://qupath.readthedocs.io/en/stable/docs/reference/shortcuts.html",
    "https://qupath.readthedocs.io/en/stable/docs/starting/annotating.html",
    "https://qupath.readthedocs.io/en/stable/docs/tutorials/projects.html",
    "https://qupath.readthedocs.io/en/stable/docs/tutorials/cell_classification.html",
)


def window(folder: Path) -> tuple[Any, Any, Any]:
    """Give a viewer with the docks on a new project of two slides; the first is in view, whole."""
    samples = drain(make_cohort(folder / "slides", slides=4, size_px=1024))[:SLIDES]
    viewer = napari.Viewer(show=True)
    viewer.window._qt_window.resize(1366, 768)  # noqa: SLF001 - the public one is deprecated
    slides, regions = (
        viewer.window.add_plugin_dock_widget("napari-slidecorr", name, tabify=True)[1] for name in ("Slides", "Regions")
    )
    slides.create_project(folder / "project")
    for name in CLASSES:
        regions.classes.add_class(name)
    slides.add_slides([sample.path for sample in samples])
    return viewer, slides, regions


def places(shape: tuple[int, int]) -> list[tuple[float, float]]:
    """Where the ten regions of a slide go: five across, two down."""
    height, width = shape
    return [(height * (0.3 + 0.4 * row), width * (0.1 + 0.2 * column)) for row in range(2) for column in range(5)]


def label_slide(person: Person, shape: tuple[int, int]) -> None:
    """Draw ten regions: a class and a tool for each five, one drag for each region."""
    for number, (y, x) in enumerate(places(shape)):
        if number == 0:
            person.key(Qt.Key.Key_1, Qt.Key.Key_L)
        elif number == A_SLIDE // 2:
            person.key(Qt.Key.Key_2, Qt.Key.Key_B)
        radius = shape[0] * 0.06
        turns = [2 * math.pi * step / 24 for step in range(24)]
        ring = [(y + radius * math.sin(turn), x + radius * math.cos(turn)) for turn in turns]
        if number < A_SLIDE // 2:
            person.drag(*ring)
        else:
            person.drag((y - radius / 3, x), (y, x + radius / 3), (y + radius / 3, x))
        QTest.qWait(60)


def ours(folder: Path) -> tuple[Counter[str], float]:
    """Do the job; gives what the hand did and how long the script took.

    Raises
    ------
    RuntimeError
        If not all regions are on the disk with their classes.
    """
    viewer, _slides, regions = window(folder)
    person = Person(viewer)
    person.wait(lambda: regions.desk.editor is not None)
    QTest.qWait(500)
    viewer.reset_view()
    QTest.qWait(100)
    begun = time.perf_counter()
    for number, slide in enumerate(regions.session.project.cohort):
        if number:
            person.key(Qt.Key.Key_PageDown)
        person.wait(lambda wanted=slide.id: regions.session.current_slide == wanted and regions.desk.editor is not None)
        QTest.qWait(200)
        label_slide(person, regions.desk.editor.layer.metadata["napari_slidecorr"]["shape"])
    seconds = time.perf_counter() - begun
    regions.desk.flush()
    viewer.close()
    _check(Project.open(folder / "project"))
    return person.count, seconds


def _check(project: Project) -> None:
    for slide in project.cohort:
        found = Counter(region.class_name for region in project.regions(slide.id))
        if found != Counter(dict.fromkeys(CLASSES, A_SLIDE // 2)):
            raise RuntimeError(f"{slide.id}: the disk holds {dict(found)}")


def qupath() -> dict[str, Counter[str]]:
    """Count the same job in QuPath from its documentation, in two ways that give regions their class.

    Notes
    -----
    Both ways choose a tool by one key for each five regions (*P*, where a polygon that is begun by dragging ends when the
    button is let go, and *B*), and draw each region by one drag. *Ctrl + S* saves a slide, and a click in the project's list
    shows the next one.

    *set class*: as documented, a drawn annotation gets its class by a click in the list and one on *Set class*. *auto set*:
    the button *Auto set* below that list, which the pages below do not describe, gives new annotations the class that is
    chosen there: a click to switch it on, and one for each change of class. No key that chooses a class is documented.
    """
    drawing = Counter(drags=SLIDES * A_SLIDE, keys=SLIDES * 2)
    slides = Counter(keys=SLIDES, clicks=SLIDES - 1)
    auto = Counter(clicks=1 + SLIDES * 2)
    one_by_one = Counter(clicks=2 * SLIDES * A_SLIDE)
    return {"set class": drawing + slides + one_by_one, "auto set": drawing + slides + auto}


def report(counted: Counter[str]) -> dict[str, int]:
    """Give the counts and their sum."""
    kinds = {kind: counted[kind] for kind in ("clicks", "drags", "keys")}
    return {**kinds, "total": sum(kinds.values())}


def main(out: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        counted, seconds = ours(Path(folder))
    told = {
        "regions": SLIDES * A_SLIDE,
        "slides": SLIDES,
        "ours": {**report(counted), "script_seconds": round(seconds, 2)},
        "qupath_by_its_documentation": {way: report(each) for way, each in qupath().items()},
        "qupath_pages": QUPATH_PAGES,
    }
    print(f"{'':28}{'clicks':>8}{'drags':>8}{'keys':>8}{'total':>8}")
    rows = {"ours": told["ours"], **{f"QuPath, {w}": each for w, each in told["qupath_by_its_documentation"].items()}}
    for name, each in rows.items():
        print(f"{name:28}{each['clicks']:>8}{each['drags']:>8}{each['keys']:>8}{each['total']:>8}")
    if out is not None:
        out.write_text(json.dumps(told, indent=2), "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the counts go")
    parser.add_argument("--quick", action="store_true", help="the same; it takes seconds")
    main(parser.parse_args().json)
