"""One writer at a time, whoever died before."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest

from napari_slidecorr.errors import ProjectError
from napari_slidecorr.io import claim, owner_file
from napari_slidecorr.io.claim import ClaimedError, claimed
from napari_slidecorr.io.owner_file import Owner

HOLD = """
import sys, time
from pathlib import Path
from napari_slidecorr.io.claim import claimed
with claimed(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(60)
"""


def holder(path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "mine\n"
    return process


def far_claim(path, **changes):
    """A claim as another machine would leave it."""
    file = path.with_name(path.name + claim.SUFFIX)
    owner = replace(Owner.here(claim.PREDICTING), host="elsewhere", pid=1, **{"token": "t", **changes})
    file.write_text(json.dumps(asdict(owner)))
    return file


def test_a_claim_is_made_and_removed(tmp_path):
    path = tmp_path / "new" / "map"
    with claimed(path):
        assert [file.name for file in path.parent.iterdir()] == ["map.claim"]
    assert list(path.parent.iterdir()) == []


def test_a_process_that_lives_is_named(tmp_path):
    process = holder(tmp_path / "map")
    try:
        with (
            pytest.raises(ClaimedError, match=f"map: process {process.pid} on .* is predicting"),
            claimed(tmp_path / "map"),
        ):
            pass
    finally:
        process.kill()
        process.communicate()
    with claimed(tmp_path / "map"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_dead_process_that_nobody_buried_is_dead(tmp_path):
    process = holder(tmp_path / "map")
    os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while owner_file._birth(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    with claimed(tmp_path / "map"):
        pass
    process.communicate()


def test_another_thread_is_another_writer(tmp_path):
    with claimed(tmp_path / "map"), pytest.raises(ClaimedError), claimed(tmp_path / "map"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_claim_of_another_machine_that_stands_still_is_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "WATCH_S", 0.5)
    far_claim(tmp_path / "map")
    with claimed(tmp_path / "map"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_claim_of_another_machine_that_is_touched_is_respected(tmp_path):
    file = far_claim(tmp_path / "map")
    over = threading.Event()

    def touch():
        while not over.wait(0.2):
            os.utime(file)

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        with pytest.raises(ClaimedError, match="process 1 on elsewhere"), claimed(tmp_path / "map"):
            pass
    finally:
        over.set()
        thread.join()


def test_an_owner_touches_its_claim(tmp_path, monkeypatch):
    monkeypatch.setattr(owner_file, "BEAT_S", 0.05)
    with claimed(tmp_path / "map"):
        first = (tmp_path / "map.claim").stat().st_mtime_ns
        time.sleep(0.3)
        assert (tmp_path / "map.claim").stat().st_mtime_ns > first


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"token": 1}'])
def test_a_claim_that_cannot_be_read_is_watched_and_replaced(tmp_path, monkeypatch, text):
    monkeypatch.setattr(claim, "WATCH_S", 0.3)
    (tmp_path / "map.claim").write_text(text)
    with claimed(tmp_path / "map"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_takeover_that_died_in_the_middle_blocks_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "WATCH_S", 0.3)
    far_claim(tmp_path / "map")
    far_claim(tmp_path / "map").rename(tmp_path / "map.claim.t.taken")
    far_claim(tmp_path / "map")
    with claimed(tmp_path / "map"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_without_links_it_works_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    with claimed(tmp_path / "map"), pytest.raises(ClaimedError), claimed(tmp_path / "map"):
        pass


def test_a_folder_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, "full")

    monkeypatch.setattr(type(tmp_path), "write_text", refuse)
    with pytest.raises(ProjectError, match="no space left"), claimed(tmp_path / "map"):
        pass


def _compete(path, inside, clashes, taken, start):
    claim.WATCH_S = 0.2
    start.wait()
    for _ in range(30):
        try:
            with claimed(path):
                with inside.get_lock():
                    clashes.value += inside.value
                    inside.value += 1
                    taken.value += 1
                time.sleep(0.002)
                with inside.get_lock():
                    inside.value -= 1
                if os.getpid() % 2:
                    far_claim(path, token=f"{os.getpid()} {time.monotonic_ns()}")  # as if this one had died elsewhere
        except ClaimedError:
            time.sleep(0.001)


def test_of_many_who_want_it_one_has_it(tmp_path):
    fork = multiprocessing.get_context("spawn")
    shared = [fork.Value("i", 0) for _ in range(3)]
    start = fork.Event()
    processes = [fork.Process(target=_compete, args=(tmp_path / "map", *shared, start)) for _ in range(6)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join(60)
    _inside, clashes, taken = (value.value for value in shared)
    assert [process.exitcode for process in processes] == [0] * 6
    assert clashes == 0
    assert taken >= 6
