import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from napari_slidecorr.errors import ProjectError
from napari_slidecorr.io.atomic import atomic_file, atomic_write_bytes, atomic_write_text, make_folder

WRITE_FOR_EVER = """
import sys
from pathlib import Path
from napari_slidecorr.io.atomic import atomic_write_bytes
n = 0
while True:
    atomic_write_bytes(Path(sys.argv[1]), bytes([n % 256]) * 300_000)
    n += 1
"""


def test_writes_and_leaves_nothing_else(tmp_path):
    atomic_write_text(tmp_path / "a.json", "é\n")
    atomic_write_bytes(tmp_path / "a.json", b"two")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_bytes() == b"two"


def test_text_is_utf8_with_its_own_line_ends(tmp_path):
    atomic_write_text(tmp_path / "a.txt", "é\nb")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\nb"


def test_an_error_half_way_keeps_what_was_there(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), atomic_file(path) as file:
        file.writelines([b"new", "no bytes"])
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left on the disk; free some"),
        (errno.EACCES, "no permission to write there; choose a folder"),
        (errno.EROFS, "read-only"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_the_system_refuses(tmp_path, monkeypatch, number, words):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def refuse(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(ProjectError, match=words) as caught:
        atomic_write_bytes(path, b"new")
    assert str(path) in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    assert path.read_bytes() == b"old"


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(small_disk):
    path = small_disk / "a.bin"
    atomic_write_bytes(path, b"old" * 1000)
    with pytest.raises(ProjectError, match="no space left on the disk"):
        atomic_write_bytes(path, os.urandom(200_000))
    assert [p.name for p in small_disk.iterdir()] == ["a.bin"]
    assert path.read_bytes() == b"old" * 1000
    atomic_write_bytes(path, b"fits")


@pytest.fixture
def locked_folder(tmp_path):
    """A folder that nobody may write to, the superuser included."""
    folder = tmp_path / "locked"
    folder.mkdir()
    (folder / "a.bin").write_bytes(b"old")
    if os.geteuid():
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
        return
    if subprocess.run(["chattr", "+i", str(folder)], capture_output=True, check=False).returncode:
        pytest.skip("this file system cannot lock a folder")
    yield folder
    subprocess.run(["chattr", "-i", str(folder)], check=True)


def test_a_folder_without_permission(locked_folder):
    with pytest.raises(ProjectError, match="no permission") as caught:
        atomic_write_bytes(locked_folder / "a.bin", b"new")
    assert str(locked_folder) in str(caught.value)
    assert (locked_folder / "a.bin").read_bytes() == b"old"
    with pytest.raises(ProjectError, match="no permission"):
        make_folder(locked_folder / "inner")


def test_a_folder_that_is_missing(tmp_path):
    with pytest.raises(ProjectError, match="folder does not exist"):
        atomic_write_bytes(tmp_path / "nowhere" / "a.bin", b"")


def test_a_folder_where_a_file_is_wanted(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(ProjectError, match="there is a folder of that name"):
        atomic_write_bytes(tmp_path / "a", b"")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_file_where_a_folder_is_wanted(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(ProjectError, match="there is a file of that name"):
        make_folder(tmp_path / "a")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_kill_leaves_a_whole_file(tmp_path):
    path = tmp_path / "a.bin"
    for pause in (0.0, 0.013, 0.031):
        process = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, str(path)])
        path.unlink(missing_ok=True)
        while not path.exists():
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        data = path.read_bytes()
        assert len(data) == 300_000
        assert len(set(data)) == 1
