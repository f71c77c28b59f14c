"""Who may write to a project: one program at a time, told by a small file that outlives nobody.

``writer.lock`` comes into being by a hard link, which is atomic on local disks and on NFS alike, and is touched every
few seconds. Whoever finds one can tell whether its owner is alive: on the same machine by its process, from elsewhere by
how long ago it was touched. A lock of the system (`flock`) would go with its process too, but it does not say who has
it, and on network disks it is often granted to everybody.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

from napari_slidecorr.errors import ProjectError
from napari_slidecorr.io.atomic import write_error

LOCK_FILE = "writer.lock"
BEAT_S = 10.0
"""How often an owner touches its lock."""

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


@dataclass(frozen=True)
class Owner:
    """Who has a project.

    Attributes
    ----------
    host, pid
        The machine's name and the number of the process there.
    since : str
        ISO 8601, UTC.
    program : str
        `WINDOW` or `CALL`.
    token : str
        Unlike that of any other owner, also of one in the same process.
    place, birth : str
        What tells this machine's processes from those of a container, and a process from a later one of the same
        number; empty where the system does not say.
    """

    host: str
    pid: int
    since: str
    program: str
    token: str
    place: str = ""
    birth: str = ""

    @classmethod
    def here(cls, program: str) -> Owner:
        """Give this process, from now on."""
        pid, now = os.getpid(), datetime.now(UTC).isoformat(timespec="seconds")
        return cls(socket.gethostname(), pid, now, program, uuid.uuid4().hex, _place(), _birth(pid))

    def __str__(self) -> str:
        since = datetime.fromisoformat(self.since).astimezone()
        here = " (this very program)" if self.is_here and self.pid == os.getpid() else ""
        return f"{self.program} on {self.host}, process {self.pid}{here}, since {since:%Y-%m-%d %H:%M}"

    @property
    def is_here(self) -> bool:
        """Whether its process would be among those of this machine."""
        return self.host == socket.gethostname() and self.place == _place() and os.name == "posix"

    def life(self, path: Path) -> Life:
        """Tell whether the owner of a lock file lives."""
        if self.is_here:
            return Life.ALIVE if _runs(self.pid) and self.birth == _birth(self.pid) else Life.DEAD
        return Life.SILENT if _silence(path) > SILENT_S else Life.ALIVE


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
        self._beat: threading.Event | None = None
        self._mutex = threading.RLock()
        self.taken_by: Owner | None = None

    @property
    def held(self) -> bool:
        """Whether we have it, as far as we know."""
        return self._me is not None

    def owner(self) -> tuple[Owner, Life] | None:
        """Who has it, we included, and whether they live; None when nobody has."""
        found = _read(self._path)
        return None if found is None else (found, found.life(self._path))

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
            while not _link(self._path, me):
                found = self.owner()
                if found is None:
                    continue  # it was released in between
                owner, life = found
                if life is Life.ALIVE or (life is Life.SILENT and not take_over):
                    return owner
                _put_away(self._path, owner, me)
            self._me, self.taken_by = me, None
            self._beat = threading.Event()
            beat = threading.Thread(target=_touch_often, args=(self._path, self._beat), name="slidecorr-lock")
            beat.daemon = True
            beat.start()
            return None

    def release(self) -> None:
        """Give it back; nothing happens without it, or in a fork of the process that has it."""
        with self._mutex:
            if self._me is None or self._me.pid != os.getpid():
                return
            me, self._me = self._me, None
            if self._beat is not None:
                self._beat.set()
            with suppress(OSError):  # the folder may be gone, or read-only by now; then the lock is a dead one
                if _read(self._path) == me:
                    self._path.unlink()

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
            if found is None and _link(self._path, me):
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


def _link(path: Path, me: Owner) -> bool:
    """Bring the lock into being with its whole content; False when there is one."""
    own = path.with_name(f"{path.name}.{me.token}")
    try:
        own.write_text(json.dumps(asdict(me)), "utf-8")
        return _link_or_create(own, path, me)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with suppress(OSError):
            own.unlink()


def _link_or_create(own: Path, path: Path, me: Owner) -> bool:
    try:
        os.link(own, path)
    except FileExistsError:
        return False
    except OSError:  # a disk without hard links, such as FAT: next best, its content a moment later
        return _create(path, me)
    return True


def _create(path: Path, me: Owner) -> bool:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(asdict(me)))
    except FileExistsError:
        return False
    return True


def _read(path: Path) -> Owner | None:
    """Who has the lock; an owner whose file says nothing is one of an unknown machine."""
    try:
        return Owner(**json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ProjectError(f"{path}: cannot be read ({error.strerror}); check the folder.") from error
    except (ValueError, TypeError):
        return Owner("a machine that is not known", 0, "1970-01-01T00:00:00+00:00", WINDOW, "")


def _put_away(path: Path, dead: Owner, me: Owner) -> None:
    """Remove the lock of a dead owner, unless somebody was quicker and has put a new one in its place.

    Who may do it is decided by a lock on that very lock: as long as the dead one lies there, nobody else touches it.
    """
    right = path.with_name(f"{path.name}.{dead.token or 'unreadable'}.taken")
    if not _link(right, me):
        time.sleep(0.02)
        other = _read(right)
        if other is not None and other.life(right) is not Life.ALIVE:
            right.unlink(missing_ok=True)
        return
    try:
        if _read(path) == dead:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        right.unlink(missing_ok=True)


def _touch_often(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        with suppress(OSError):  # a share that is away for a while: the next write will tell
            os.utime(path)


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


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return _stat(pid)[:1] not in (["Z"], ["X"])


def _birth(pid: int) -> str:
    """When a process began, on Linux: a later one of the same number differs; so does any after a restart."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""
    fields = _stat(pid)
    return f"{boot} {fields[19]}" if len(fields) > 19 else ""


def _stat(pid: int) -> list[str]:
    """The fields of a process from its state on; its name before them may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return []


def _place() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
