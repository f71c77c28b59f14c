"""Bytes of a slide file at any place, from many threads and after a fork, and what a file must be before it is parsed."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from napari_slidecorr.errors import SlideError

_LFS_POINTER = b"version https://git-lfs"
_LOOK = "see that its drive is connected and that you may read it"


@dataclass(frozen=True)
class FileState:
    """What tells that a file is still the one that was opened.

    Attributes
    ----------
    size : int
        Bytes.
    mtime_ns : int
        Time of last change.
    """

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """Look at a file now.

        Raises
        ------
        SlideError
            If there is no such file.
        """
        try:
            stat = path.stat()
        except OSError as error:
            raise SlideError(f"{path}: no such file; it was moved or its drive is not connected.") from error
        return cls(stat.st_size, stat.st_mtime_ns)

    def check(self, path: Path) -> None:
        """Raise SlideError if the file was changed or replaced since."""
        if FileState.of(path) != self:
            raise SlideError(
                f"{path.name}: the file was changed or replaced since the slide was opened; open it again."
            )


def check_is_data(path: Path) -> None:
    """Raise SlideError, in one sentence, for a file that holds no slide whatever its format."""
    if path.is_dir():
        raise SlideError(f"{path.name}: this is a folder, not a slide; choose the file in it.")
    if FileState.of(path).size == 0:
        raise SlideError(f"{path.name}: the file is empty (0 bytes); copy it again.")
    try:
        with path.open("rb") as file:
            head = file.read(len(_LFS_POINTER))
    except OSError as error:
        raise SlideError(f"{path.name}: the file cannot be read ({error.strerror}); {_LOOK}.") from error
    if head == _LFS_POINTER:
        raise SlideError(f"{path.name}: this is a Git LFS pointer, not the slide; fetch the file with `git lfs pull`.")


class RawFile:
    """Positional reads of one file; no shared position, so threads and forked children cannot disturb each other.

    Parameters
    ----------
    path : Path
        Opened at the first read and held against `state`.
    state : FileState
        What the file was when its directory was read.
    """

    def __init__(self, path: Path, state: FileState) -> None:
        self.path, self.state = path, state
        self._fresh()

    def _fresh(self) -> None:
        self._lock = threading.Lock()
        self._shared: _Descriptor | None = None
        self._own = threading.local()

    def read(self, offset: int, count: int) -> bytes:
        """Give ``count`` bytes.

        Raises
        ------
        SlideError
            If the file ends before, cannot be read, or is no longer the one that was opened.
        """
        descriptor = self._descriptor()
        if descriptor.state() != self.state:
            self.state.check(self.path)
        parts: list[bytes] = []
        missing = count
        while missing:
            try:
                part = descriptor.read(missing, offset + count - missing)
            except OSError as error:
                raise SlideError(f"{self.path.name}: reading failed ({error.strerror}); {_LOOK}.") from error
            if not part:
                self.state.check(self.path)
                raise SlideError(f"{self.path.name}: the file ends {missing} bytes early; copy it again.")
            parts.append(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Let go of the handle once running reads are done; a later read opens it again."""
        self._fresh()

    def after_fork(self) -> None:
        """Give a forked child its own handle and a lock that nobody holds."""
        self._fresh()

    def _descriptor(self) -> _Descriptor:
        if not hasattr(os, "pread"):
            found = getattr(self._own, "descriptor", None)
            if found is None:
                found = self._own.descriptor = self._open()
            return found
        if self._shared is None:
            with self._lock:
                if self._shared is None:
                    self._shared = self._open()
        return self._shared

    def _open(self) -> _Descriptor:
        self.state.check(self.path)
        try:
            return _Descriptor(self.path)
        except OSError as error:
            raise SlideError(f"{self.path.name}: the file cannot be opened ({error.strerror}); {_LOOK}.") from error


class _Descriptor:
    """An open file, closed when nobody holds it any more: a read in another thread never meets a recycled number."""

    def __init__(self, path: Path) -> None:
        self._number = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))

    def read(self, count: int, offset: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._number, count, offset)
        os.lseek(self._number, offset, os.SEEK_SET)  # this handle belongs to one thread
        return os.read(self._number, count)

    def state(self) -> FileState:
        """Size and time of change now, of this very file even if its name leads elsewhere; a microsecond."""
        stat = os.fstat(self._number)
        return FileState(stat.st_size, stat.st_mtime_ns)

    def __del__(self) -> None:
        if hasattr(self, "_number"):
            os.close(self._number)
