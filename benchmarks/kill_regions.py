"""Kills processes that edit regions at random moments, then sees what is on the disk.

    python benchmarks/kill_regions.py --quick --json kill_regions.json

Two kinds of children take turns: one calls `Project.save_regions` as a notebook does, the other edits in a real window
(`--windows N` of the kills; needs a display, xvfb-run will do), where changes are saved by themselves. Each writes to a
log, before each change of the regions, when it makes it and how many changes there were; then it is killed. Every
second kill waits for a file that is just being written.

- ``broken_files``: files under their final name (regions, their states, the project's) that cannot be read.
- ``lost_seconds_max``: how long before the kill the first change was made that is not on the disk.
- ``wrong_states``: times that what is on the disk is no state that the child ever made.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from shapely import box

from napari_slidecorr.errors import SlideCorrError
from napari_slidecorr.project import Project
from napari_slidecorr.regions import Region, RegionSet

SLIDE = "slide"
SIDE_PX = 4096
READY = "ready"


def region(number: int) -> Region:
    """The region of a change: its uid says which."""
    y, x = (number * 37) % (SIDE_PX - 60), (number * 91) % (SIDE_PX - 60)
    return Region(("tumour", "stroma")[number % 2], box(y, x, y + 50, x + 50), f"change {number}")


def make_project(folder: Path, regions: int) -> Project:
    """A project of one slide with some regions."""
    path = folder / f"{SLIDE}.tif"
    pixels = np.full((SIDE_PX, SIDE_PX, 3), 210, np.uint8)
    tifffile.imwrite(path, pixels, tile=(512, 512), photometric="rgb", metadata=None, compression="deflate")
    project = Project.create(folder / "project", ("tumour", "stroma"))
    project.add_slides([path], mpp=0.5)
    project.save_regions(SLIDE, RegionSet(tuple(region(-number) for number in range(1, regions + 1))))
    return project


class Log:
    """Lines ``number seconds``: a change is about to be made."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")

    def note(self, what: Any) -> None:
        """Write a line."""
        self._file.write(f"{what} {time.time()}\n")
        self._file.flush()


def last_number(regions: RegionSet) -> int:
    return max((int(r.uid.split()[1]) for r in regions), default=0)


def edit_in_notebook(folder: Path, log: Log, rng: random.Random) -> None:
    """Save change after change, as quickly as it goes or with pauses."""
    project = Project.open(folder)
    regions = project.regions(SLIDE)
    number = max(0, last_number(regions))
    log.note(READY)
    while True:
        number += 1
        regions = changed(regions, number, rng)
        log.note(number)
        project.save_regions(SLIDE, regions)
        if rng.random() < 0.3:
            time.sleep(rng.uniform(0, 0.05))


def changed(regions: RegionSet, number: int, rng: random.Random) -> RegionSet:
    """A region more; now and then one of the old ones less, so that the set does not grow for ever."""
    kept = list(regions)
    if len(kept) > 100 and rng.random() < 0.7:
        kept.pop(rng.randrange(len(kept) - 1))
    return RegionSet((*kept, region(number)))


def edit_in_window(folder: Path, log: Log, rng: random.Random) -> None:
    """Change regions through the dock's editor at random times, as a hand would."""
    import napari
    from qtpy.QtCore import QTimer

    from napari_slidecorr._napari.dock_regions import RegionsDock
    from napari_slidecorr._napari.dock_slides import SlidesDock

    viewer = napari.Viewer()
    slides, dock = SlidesDock(viewer), RegionsDock(viewer)
    viewer.window.add_dock_widget(slides)
    viewer.window.add_dock_widget(dock)
    slides.open_project(folder)
    number = 0

    def edit() -> None:
        nonlocal number
        editor = dock.desk.editor
        if editor is None:
            QTimer.singleShot(50, edit)
            return
        if number == 0:
            number = max(0, last_number(editor.regions))
            log.note(READY)
        number += 1
        log.note(number)
        editor.set_regions(changed(editor.regions, number, rng))
        QTimer.singleShot(int(rng.expovariate(1 / 80)), edit)

    QTimer.singleShot(50, edit)
    napari.run()


def start(kind: str, folder: Path, log: Path, seed: int) -> subprocess.Popen[bytes]:
    """Start a child of its own group, so that nothing of it is left."""
    command = [
        sys.executable,
        __file__,
        "--child",
        kind,
        "--folder",
        str(folder),
        "--log",
        str(log),
        "--seed",
        str(seed),
    ]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def kill(child: subprocess.Popen[bytes], folder: Path, log: Path, rng: random.Random) -> float:
    """Kill a child some time after it is ready; give the time of the kill."""
    ends = time.monotonic() + 120
    while not (log.exists() and READY in log.read_text()):
        if child.poll() is not None or time.monotonic() > ends:
            sys.exit(f"the child ended before it began: {child.stderr.read().decode()[-2000:] if child.stderr else ''}")
        time.sleep(0.005)
    time.sleep(rng.uniform(0.0, 2.0))
    ends = time.monotonic() + (3 if rng.random() < 0.5 else 0)
    while time.monotonic() < ends and not any((folder / "regions").rglob("*.part")):
        time.sleep(0.0002)
    if child.poll() is not None:
        sys.exit(f"the child ended by itself: {child.stderr.read().decode()[-2000:] if child.stderr else ''}")
    at = time.time()
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    return at


def check(folder: Path, log: Path, killed_at: float) -> dict[str, float]:
    """See what a kill left."""
    broken = 0
    made = {}
    for line in log.read_text().splitlines():
        what, _, when = line.partition(" ")
        if what != READY and when:
            made[int(what)] = float(when)
    try:
        project = Project.open(folder)
        regions = project.regions(SLIDE)
    except SlideCorrError as error:
        print(error, flush=True)
        return {"broken": 1, "lost": 0.0, "wrong": 0, "part": 0}
    for state in project.region_states(SLIDE):
        try:
            project.regions_at(SLIDE, state)
        except SlideCorrError as error:
            print(error, flush=True)
            broken += 1
    last = last_number(regions)
    lost = [when for number, when in made.items() if number > last]
    newest = project.region_states(SLIDE)
    kept = project.regions_at(SLIDE, newest[0]) if newest else RegionSet()
    return {
        "broken": broken,
        "lost": killed_at - min(lost) if lost else 0.0,
        "wrong": last > max(made, default=last) or last_number(kept) > last,
        "part": any((folder / "regions").rglob("*.part")),
    }


def measure(trials: int, windows: int, seed: int, out: Path | None = None) -> dict[str, Any]:
    """Kill so many children, of which some are windows; the figures so far are in ``out`` after each."""
    rng = random.Random(seed)  # noqa: S311 - when to kill
    figures: dict[str, Any] = {"trials": 0, "windows": 0, "while_writing": 0, "broken_files": 0, "wrong_states": 0}
    figures |= {"lost_seconds_max": 0.0, "lost_seconds_max_notebook": 0.0, "lost_seconds_max_window": 0.0}
    with tempfile.TemporaryDirectory() as name:
        project = make_project(Path(name), 60)
        log = Path(name) / "log.txt"
        kinds = ["window"] * windows + ["notebook"] * (trials - windows)
        rng.shuffle(kinds)
        for number, kind in enumerate(kinds):
            log.unlink(missing_ok=True)
            for part in (project.folder / "regions").rglob("*.part"):
                part.unlink()  # of the one before, so that those seen from now on are this one's
            child = start(kind, project.folder, log, seed + number)
            found = check(project.folder, log, kill(child, project.folder, log, rng))
            figures["trials"] += 1
            figures["windows"] += kind == "window"
            figures["while_writing"] += bool(found["part"])
            figures["broken_files"] += int(found["broken"])
            figures["wrong_states"] += bool(found["wrong"])
            for which in ("lost_seconds_max", f"lost_seconds_max_{kind}"):
                figures[which] = max(figures[which], round(found["lost"], 3))
            if out:
                out.write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 kills instead of 200")
    parser.add_argument("--trials", type=int, help="so many kills")
    parser.add_argument("--windows", type=int, help="so many of them in a window; a tenth when left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--child", choices=("notebook", "window"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        edit = edit_in_window if given.child == "window" else edit_in_notebook
        edit(given.folder, Log(given.log), random.Random(given.seed))  # noqa: S311 - when to edit
        return
    trials = given.trials or (20 if given.quick else 200)
    display = bool(os.environ.get("DISPLAY")) or sys.platform != "linux"
    windows = given.windows if given.windows is not None else trials // 10 * display
    figures = measure(trials, windows, given.seed, given.json)
    print(", ".join(f"{name} {value}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
