"""Who may write to a project: one program at a time.

``writer.lock`` is an owner's file (`napari_slidecorr.io.owner_file`). Whoever finds one can tell whether its owner is alive: on the
same machine by its process, from elsewhere by how long ago it was touched.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path

from napari_slidecorr.errors import ProjectError
from napari_slidecorr.io import owner_file
from napari_slidecorr.io.owner_file import Beat, Owner

LOCK_FILE = "writer.lock"
SILENT_S = 60.0
"""After so long without a touch an owner on another machine is taken for dead."""

PATIENCE_S = 5.0
"""How long a single change waits for another single change to end."""

WINDOW = "a window"
CALL = "a command or notebook"


class Life(Enum):
    """What can be told of the owner of a lock."""

    ALIVE = "alive"
    DEAD = "dead"
    SILENT = "silent"


class ProjectLock:
    """The right to write to one project folder; safe to share between threads.

    Parameters
    ----------
    folder : Path

    Attributes
    ----------
    taken_by : Owner or None
        Who took it from us, after we had not been heard of for long.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE
        self._me: Owner | None = None
        self._beat: Beat | None = None
        self._mutex = threading.RLock()
        self.taken_by: Owner | None = None

    @property
    def held(self) -> bool:
        """Whether we have it, as far as we know."""
        return self._me is not None

    def owner(self) -> tuple[Owner, Life] | None:
        """Who has it, we included, and whether they live; None when nobody has."""
        found = _read(self._path)
        return None if found is None else (found, life_of(found, self._path))

    def acquire(self, program: str, *, take_over: bool = False) -> Owner | None:
        """Get it, also from a dead owner; give who has it instead, or None when it is ours.

        Parameters
        ----------
        take_over : bool
            Also from an owner on another machine that was silent for long and may be dead.

        Raises
        ------
        ProjectError
            If the folder cannot be written.
        """
        with self._mutex:
            if self._me is not None:
                return None
            me = Owner.here(program)
            while not owner_file.make(self._path, me):
                found = self.owner()
                if found is None:
                    continue  # it was released in between
                owner, life = found
                if life is Life.ALIVE or (life is Life.SILENT and not take_over):
                    return owner
                _put_away(self._path, owner, me)
            self._me, self.taken_by = me, None
            self._beat = Beat(self._path)
            return None

    def release(self) -> None:
        """Give it back; nothing happens without it, or in a fork of the process that has it."""
        with self._mutex:
            if self._me is None or self._me.pid != os.getpid():
                return
            me, self._me = self._me, None
            if self._beat is not None:
                self._beat.stop()
            owner_file.give_back(self._path, me)  # if it cannot be, it is the lock of a dead owner

    def check(self) -> None:
        """See that it is still ours.

        Raises
        ------
        ProjectError
            If somebody else took it; says who.
        """
        with self._mutex:
            me = self._me
            if me is None or (found := _read(self._path)) == me:
                return
            if found is None and owner_file.make(self._path, me):
                return  # somebody deleted the file by hand
            self.taken_by = found or _read(self._path)
            self.release()
            raise ProjectError(
                f"{self._path.parent.name} was taken over by {self.taken_by}; open the project again to see its state."
            )

    @contextmanager
    def for_a_change(self) -> Iterator[None]:
        """Have it during a block: what is ours already is checked, else it is ours for the block alone.

        Raises
        ------
        ProjectError
            If somebody else has it; says who.
        """
        if self.held:
            self.check()
            yield
            return
        self._acquire_patiently()
        try:
            yield
        finally:
            self.release()

    def _acquire_patiently(self) -> None:
        ends = time.monotonic() + PATIENCE_S
        while (owner := self.acquire(CALL)) is not None:
            if owner.program != CALL or time.monotonic() > ends:
                raise ProjectError(refusal(self._path.parent, owner))
            time.sleep(0.02)


def refusal(folder: Path, owner: Owner) -> str:
    """Say that a project cannot be changed as somebody else has it."""
    return f"{folder.name} is open in {owner}; close it there first, nothing was changed."


def life_of(owner: Owner, path: Path) -> Life:
    """Tell whether the owner of a lock file lives."""
    if owner.is_here:
        return Life.ALIVE if owner.runs else Life.DEAD
    return Life.SILENT if _silence(path) > SILENT_S else Life.ALIVE


def _read(path: Path) -> Owner | None:
    return owner_file.read(path, WINDOW)


def _put_away(path: Path, dead: Owner, me: Owner) -> None:
    if owner_file.put_away(path, dead, me):
        return
    time.sleep(0.02)
    right = owner_file.right_to_put_away(path, dead)
    other = _read(right)
    if other is not None and life_of(other, right) is not Life.ALIVE:
        right.unlink(missing_ok=True)


def _silence(path: Path) -> float:
    """Seconds since the lock was touched, by the clock of the disk that it lies on; 0 if that cannot be told."""
    probe = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        probe.touch()
        silence = probe.stat().st_mtime - path.stat().st_mtime
    except OSError:
        return 0.0
    else:
        return silence
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
