"""A small file that says which process holds something, on whichever machine that is.

It comes into being by a hard link, in one step that fails when it is there already, on local disks and on NFS alike. Its
owner touches it every few seconds, so one whose owner died can be told from one that is kept: on the same machine the
process is gone, from elsewhere the file is no longer touched. A lock of the system (`flock`) would go with its process
too, but it does not say who has it, and on network disks it is often granted to everybody.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from napari_slidecorr.errors import ProjectError
from napari_slidecorr.io.atomic import write_error

BEAT_S = 10.0
"""How often an owner touches its file."""

_NOT_TOLD = "not told"  # of a process that is there, but somebody else's


@dataclass(frozen=True)
class Owner:
    """Who holds something.

    Attributes
    ----------
    host, pid
        The machine's name and the number of the process there.
    since : str
        ISO 8601, UTC.
    program : str
        What it does there, in words.
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

    @classmethod
    def unknown(cls, program: str) -> Owner:
        """Give the owner of a file that says nothing."""
        return cls("a machine that is not known", 0, "1970-01-01T00:00:00+00:00", program, "")

    def __str__(self) -> str:
        since = datetime.fromisoformat(self.since).astimezone()
        here = " (this very program)" if self.is_here and self.pid == os.getpid() else ""
        return f"{self.program} on {self.host}, process {self.pid}{here}, since {since:%Y-%m-%d %H:%M}"

    @property
    def is_here(self) -> bool:
        """Whether its process would be among those of this machine."""
        return self.host == socket.gethostname() and self.place == _place()

    @property
    def runs(self) -> bool:
        """Whether its process is there and is no later one of that number; asked only of an owner that `is_here`."""
        birth = _birth(self.pid)
        return birth == _NOT_TOLD or (bool(birth) and birth == self.birth)


class Beat:
    """Touches a file every few seconds until it is told to stop."""

    def __init__(self, path: Path) -> None:
        self._path, self._over = path, threading.Event()
        threading.Thread(target=self._touch, name="slidecorr-owner", daemon=True).start()

    def stop(self) -> None:
        """Touch it no more, but for a touch that is under way; a disk that hangs holds nobody up here."""
        self._over.set()

    def _touch(self) -> None:
        while not self._over.wait(BEAT_S):
            with suppress(OSError):  # a share that is away for a while: the next write will tell
                os.utime(self._path)


def make(path: Path, me: Owner) -> bool:
    """Bring an owner's file into being with its whole content; False when there is one.

    Raises
    ------
    ProjectError
        If it cannot be written.
    """
    own = path.with_name(f"{path.name}.{me.token}")
    try:
        own.write_text(json.dumps(asdict(me)), "utf-8")
        return _link_or_create(own, path, me)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with suppress(OSError):
            own.unlink()


def read(path: Path, program: str) -> Owner | None:
    """Give whose file it is, `Owner.unknown` where it says nothing; None when there is none.

    Raises
    ------
    ProjectError
        If it cannot be read.
    """
    try:
        return Owner(**json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ProjectError(f"{path}: cannot be read ({error.strerror}); check the folder.") from error
    except (ValueError, TypeError):
        return Owner.unknown(program)


def right_to_put_away(path: Path, dead: Owner) -> Path:
    """Name the file that decides who may remove that of a dead owner: as long as it lies there, nobody else does."""
    return path.with_name(f"{path.name}.{dead.token or 'unreadable'}.taken")


def put_away(path: Path, dead: Owner, me: Owner) -> bool:
    """Remove a dead owner's file, unless somebody was quicker and has put a new one in its place.

    Returns
    -------
    bool
        False when somebody else has the right to do so (`right_to_put_away`) now.

    Raises
    ------
    ProjectError
        If it cannot be removed.
    """
    right = right_to_put_away(path, dead)
    if not make(right, me):
        return False
    try:
        if read(path, me.program) == dead:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        right.unlink(missing_ok=True)
    return True


def give_back(path: Path, me: Owner) -> None:
    """Remove our own file; one that cannot be removed or read, or is another's by now, is left."""
    with suppress(OSError, ProjectError):
        if read(path, me.program) == me:
            path.unlink()


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


def _birth(pid: int) -> str:
    """When a process began, as text that no later process shares; empty when it is gone, or dead and not buried.

    On Linux by the boot and its ticks, which no setting of the clock changes.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        return _linux_birth(pid) or f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return ""
    except psutil.AccessDenied:
        return _NOT_TOLD


def _linux_birth(pid: int) -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()  # the name before them may hold anything
    return f"{boot} {fields[19]}"


def _place() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
