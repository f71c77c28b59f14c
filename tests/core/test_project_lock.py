"""Who may write to a project: two programs, dead owners, other machines, closed folders."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from shapely import box
from typer.testing import CliRunner

from napari_slidecorr.cli import app
from napari_slidecorr.errors import ProjectError
from napari_slidecorr.io import owner_file
from napari_slidecorr.io.owner_file import Owner
from napari_slidecorr.project import Project
from napari_slidecorr.project_lock import CALL, LOCK_FILE, WINDOW, Life, ProjectLock
from napari_slidecorr.regions import Region, RegionSet

OTHER = """
import sys, time
from napari_slidecorr.project import Project
project = Project.open(sys.argv[1])
print(project.claim() or "claimed", flush=True)
sys.stdin.readline()
"""


def regions(count):
    return RegionSet(tuple(Region("tumour", box(n, n, n + 7, n + 9), f"uid {n}") for n in range(count)))


@pytest.fixture
def project(tmp_path):
    import numpy as np
    import tifffile

    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.full((64, 64, 3), 200, np.uint8), tile=(64, 64), photometric="rgb", metadata=None)
    made = Project.create(tmp_path / "project", ["tumour"])
    made.add_slides([path], mpp=0.5)
    return made


@pytest.fixture
def other(project):
    """Another process that has the project as a window does."""
    command = [sys.executable, "-c", OTHER, str(project.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "claimed\n"
        yield process
        process.kill()


def left_by(folder, **changes):
    """A lock file as somebody else would have left it."""
    owner = replace(Owner.here(WINDOW), token="theirs", **changes)  # noqa: S106 - no password
    (folder / LOCK_FILE).write_text(json.dumps(asdict(owner)))
    return owner


def age(folder, seconds):
    then = time.time() - seconds
    os.utime(folder / LOCK_FILE, (then, then))


# -- one writer --------------------------------------------------------------------------------------------------------


def test_the_second_is_told_and_changes_nothing(project, other):
    before = {path: path.read_bytes() for path in project.folder.rglob("*") if path.is_file()}
    second = Project.open(project.folder)
    told = second.claim()
    assert told == second.read_only
    assert f"is open in a window on {os.uname().nodename}, process {other.pid}, since" in told
    for change in (
        lambda: second.save_regions("a", regions(1)),
        lambda: second.set_classes(["x"]),
        lambda: second.set_group("a", "x"),
        lambda: second.set_mpp("a", 1),
        lambda: second.remove_slide("a"),
        lambda: second.add_slides([project.folder.parent / "b.tif"]),
    ):
        with pytest.raises(ProjectError, match="read-only here"):
            change()
    assert second.regions("a") == RegionSet()
    assert not second.can_take_over
    assert {path: path.read_bytes() for path in project.folder.rglob("*") if path.is_file()} == before


def test_a_notebook_is_refused_while_a_window_has_it(project, other):
    with pytest.raises(ProjectError, match=f"process {other.pid}.*nothing was changed"):
        project.save_regions("a", regions(1))
    other.communicate("\n")
    project.save_regions("a", regions(1))
    assert not (project.folder / LOCK_FILE).exists()


def test_commands_that_write_are_refused_and_others_not(project, other, tmp_path):
    file = tmp_path / "a.geojson"
    file.write_text('{"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 0]]]}')
    folder = str(project.folder)
    for command in (
        ["regions", "import", folder, str(file)],
        ["set", folder, "a", "--mpp", "1"],
        ["add", folder, str(tmp_path / "a.tif")],
        ["regions", "restore", folder, "1", "--slide", "a"],
    ):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 2, command
        assert done.stderr.count("\n") == 1
    assert CliRunner().invoke(app, ["info", folder]).exit_code == 0
    train = CliRunner().invoke(app, ["train", folder, "--weights", "random"])
    assert "no regions yet" in train.stderr
    assert other.poll() is None
    assert Project.open(project.folder).regions("a") == RegionSet()


def test_an_owner_that_was_killed_leaves_nothing_to_clean(project, other):
    second = Project.open(project.folder)
    second.claim()
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (project.folder / LOCK_FILE).exists()
    assert second.can_take_over
    assert second.claim() == second.read_only == ""
    second.save_regions("a", regions(1))
    assert second.owner.pid == os.getpid()


def test_a_killed_process_that_nobody_buried_is_dead(project, other):
    other.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while project._owning.owner()[1] is not Life.DEAD and time.monotonic() < deadline:
        time.sleep(0.01)
    project.save_regions("a", regions(1))


def test_two_windows_of_one_program(project):
    assert project.claim() == ""
    second = Project.open(project.folder)
    assert "this very program" in second.claim()
    project.save_regions("a", regions(2))
    assert second.regions("a") == regions(2)
    project.release()
    assert second.claim() == ""


def test_what_is_forgotten_is_free(project):
    claimed = Project.open(project.folder)
    claimed.claim()
    del claimed
    assert project.owner is None
    project.save_regions("a", regions(1))


def test_others_changes_are_known_before_the_next(project):
    second = Project.open(project.folder)
    second.set_classes(["tumour", "stroma"])
    second.set_mpp("a", 0.25)
    second.save_regions("a", regions(3))
    project.set_group("a", "Jane")
    found = Project.open(project.folder)
    assert (found.classes, found.cohort[0].group, found.cohort[0].mpp) == (("tumour", "stroma"), "Jane", (0.25, 0.25))
    assert project.regions("a") == regions(3)
    assert project.slide("a").mpp == (0.25, 0.25)


def test_changes_at_the_same_time_all_count(project):
    def add(name):
        own = Project.open(project.folder)
        with own._change():
            own.set_classes([*own.classes, name])

    threads = [threading.Thread(target=add, args=(f"c{n}",)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(Project.open(project.folder).classes) == {"tumour", *(f"c{n}" for n in range(12))}


# -- other machines ----------------------------------------------------------------------------------------------------


def test_an_owner_on_another_machine_lives_as_long_as_it_is_heard_of(project):
    left_by(project.folder, host="elsewhere", pid=1)
    assert "elsewhere, process 1" in project.claim()
    age(project.folder, 50)
    assert not project.can_take_over
    age(project.folder, 70)
    assert project.can_take_over
    assert "elsewhere" in project.claim()
    assert project.claim(take_over=True) == ""
    project.save_regions("a", regions(1))


def test_an_owner_that_was_thought_dead_overwrites_nothing(project):
    project.claim()
    project.save_regions("a", regions(1))
    theirs = left_by(project.folder, host="elsewhere", pid=1)
    with pytest.raises(ProjectError, match="was taken over by a window on elsewhere"):
        project.save_regions("a", regions(2))
    assert "taken over" in project.read_only
    with pytest.raises(ProjectError, match="taken over"):
        project.set_classes([])
    assert Project.open(project.folder).regions("a") == regions(1)
    assert project.owner == theirs


def test_a_lock_that_was_deleted_by_hand_comes_back(project):
    project.claim()
    (project.folder / LOCK_FILE).unlink()
    project.save_regions("a", regions(1))
    assert project.owner.pid == os.getpid()


def test_a_number_that_another_process_has_now(project):
    left_by(project.folder, birth="another boot 123")
    assert project.claim() == ""


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": "x"}'])
def test_a_lock_that_says_nothing(project, content):
    (project.folder / LOCK_FILE).write_text(content)
    assert "not known" in project.claim()
    age(project.folder, 70)
    assert project.claim(take_over=True) == ""


def test_a_lock_is_touched_while_it_is_held(project, monkeypatch):
    monkeypatch.setattr(owner_file, "BEAT_S", 0.02)
    project.claim()
    age(project.folder, 70)
    deadline = time.monotonic() + 10
    while time.time() - (project.folder / LOCK_FILE).stat().st_mtime > 60 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert time.time() - (project.folder / LOCK_FILE).stat().st_mtime < 60


def test_a_disk_without_hard_links(project, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert project.claim() == ""
    assert "this very program" in Project.open(project.folder).claim()


def test_of_many_who_want_a_dead_owners_lock_one_gets_it(tmp_path):
    for _ in range(20):
        left_by(tmp_path, birth="long ago")
        locks = [ProjectLock(tmp_path) for _ in range(8)]
        got = []
        threads = [threading.Thread(target=lambda lock=lock, got=got: got.append(lock.acquire(CALL))) for lock in locks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert got.count(None) == 1
        (winner,) = [lock for lock in locks if lock.held]
        winner.check()
        winner.release()
        assert list(tmp_path.iterdir()) == []


# -- a folder that cannot be written -----------------------------------------------------------------------------------

READ_ONLY = """
import os, sys
from napari_slidecorr.errors import ProjectError
from napari_slidecorr.project import Project
warm = Project.open(sys.argv[1])  # what root alone may import is imported
warm.regions("a"), warm.region_states("a"), warm.claim(), warm.release()
if os.geteuid() == 0:
    os.setuid(65534)
project = Project.open(sys.argv[1])
print(project.claim())
print(len(project.regions("a")), len(project.region_states("a")), project.can_take_over)
try:
    project.save_regions("a", project.regions("a"))
except ProjectError as error:
    print(error)
try:
    Project.open(sys.argv[1]).set_classes(["x"])
except ProjectError as error:
    print(error)
"""


def test_a_read_only_folder_opens_for_viewing(project):
    project.save_regions("a", regions(3))
    folder = project.folder
    top = Path(tempfile.gettempdir())
    for path in [path for path in folder.parents if path.is_relative_to(top) and path != top]:
        path.chmod(0o755)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = sorted(folder.rglob("*"))
    told = subprocess.run([sys.executable, "-c", READ_ONLY, str(folder)], capture_output=True, text=True, check=False)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    assert told.stderr == ""
    claimed, counts, refused, again = told.stdout.splitlines()
    assert "is open for viewing only, as its folder cannot be written" in claimed
    assert counts == "3 1 False"
    assert refused == claimed
    assert "no permission to write there" in again
    assert sorted(folder.rglob("*")) == before
