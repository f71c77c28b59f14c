"""Files that are written whole or not at all: beside the target, flushed to the disk, then renamed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from napari_slidecorr.errors import ProjectError

PART = ".part"
"""Added to the name of a file or folder while it is being written; what still has it can be thrown away."""

_CAUSES = {
    errno.ENOSPC: "no space left on the disk; free some and try again",
    errno.EDQUOT: "the disk quota is used up; free some space and try again",
    errno.EACCES: "no permission to write there; choose a folder that you may write to",
    errno.EPERM: "no permission to write there; choose a folder that you may write to",
    errno.EROFS: "the disk is read-only; choose a folder that you may write to",
    errno.ENOENT: "its folder does not exist; make it first",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another place",
    errno.EISDIR: "there is a folder of that name; choose another name",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


def part_path(path: Path) -> Path:
    """Give the name under which a file or folder is written until it is whole."""
    return path.with_name(path.name + PART)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that gets its name only when the block ends without an error.

    Whatever happens, `path` is either what it was or whole; the ``.part`` file is removed on failure.

    Raises
    ------
    ProjectError
        If the system refuses (disk full, no permission); names the path, the cause and what to do.
    """
    part = part_path(path)
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, ProjectError):
            raise write_error(path, error) from error
        raise


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; see `atomic_file`."""
    with atomic_file(path) as file:
        file.write(data)


def atomic_write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file whole or not at all; see `atomic_file`."""
    atomic_write_bytes(path, text.encode("utf-8"))


def make_folder(path: Path) -> None:
    """Make a folder and its parents unless they exist.

    Raises
    ------
    ProjectError
        If the system refuses; names the path, the cause and what to do.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ProjectError(f"{path}: cannot be made: there is a file of that name; choose another name.") from error
    except OSError as error:
        raise write_error(path, error) from error


def write_error(path: Path, error: OSError) -> ProjectError:
    """Say in one sentence why a path cannot be written."""
    cause = _CAUSES.get(error.errno or 0) or f"{error.strerror or error}; choose another place"
    return ProjectError(f"{path}: cannot be written: {cause}.")
