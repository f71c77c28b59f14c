"""One writer at a time: a small file beside a folder says who works on it, on whichever machine that is.

The file is made in one step that fails when it is there already. Its owner touches it every few seconds, so a claim
whose owner died can be told from one that is kept: on the same machine the process is gone, on another the file is no
longer touched for a while of the watcher's own clock (clocks of two machines are never compared).
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
from pathlib import Path

from napari_slidecorr.errors import MapError
from napari_slidecorr.events import check_interrupted
from napari_slidecorr.io.atomic import make_folder, write_error

SUFFIX = ".claim"
TOUCH_S = 10.0
"""How often an owner shows that it lives."""

WATCH_S = 35.0
"""How long a claim from another machine must stand still before it counts as left behind."""


class ClaimedError(MapError):
    """Somebody else is writing there now."""


@dataclass(frozen=True)
class _Owner:
    """Who holds a claim: a process, told from a later one of the same number by when it began."""

    token: str
    host: str
    pid: int
    began: float


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Be the only one who writes to a folder, as long as the block lasts.

    Parameters
    ----------
    path : Path
        It need not exist yet; the claim is the file ``<name>.claim`` beside it.

    Raises
    ------
    ClaimedError
        If a process that lives holds it; says which and where. A claim of another machine is watched for `WATCH_S`
        before it is taken over.
    ProjectError
        If the claim cannot be written.
    """
    make_folder(path.parent)
    file = path.with_name(path.name + SUFFIX)
    mine = _Owner(uuid.uuid4().hex, _host(), os.getpid(), _began(os.getpid()) or 0.0)
    _take(file, mine)
    over = threading.Event()
    toucher = threading.Thread(target=_touch, args=(file, over), name="claim", daemon=True)
    toucher.start()
    try:
        yield
    finally:
        over.set()
        toucher.join()
        if _owner(file) == mine:
            with suppress(OSError):  # it is stale from now on, whoever comes next takes it over
                file.unlink()


def _take(file: Path, mine: _Owner) -> None:
    while not _make(file, mine):
        other = _owner(file)
        if other is None and not file.exists():
            continue
        if _lives(file, other):
            who = f"process {other.pid} on {other.host.partition(' ')[0]}" if other else "another process"
            raise ClaimedError(
                f"{file.name.removesuffix(SUFFIX)}: {who} is predicting this slide; wait for it, or stop it first."
            )
        _replace(file, other, mine)
        if _owner(file) == mine:
            return


def _make(file: Path, owner: _Owner) -> bool:
    """Write a claim beside its place and link it there, which fails when there is one; never half-written."""
    new = file.with_name(f"{file.name}.{owner.token}")
    try:
        new.write_text(json.dumps(asdict(owner)), "utf-8")
        try:
            os.link(new, file)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            return _make_without_link(file, owner)
    except OSError as error:
        raise write_error(file, error) from error
    finally:
        new.unlink(missing_ok=True)
    return True


def _make_without_link(file: Path, owner: _Owner) -> bool:
    try:
        with file.open("x", encoding="utf-8") as claim:
            claim.write(json.dumps(asdict(owner)))
    except FileExistsError:
        return False
    return True


def _replace(file: Path, stale: _Owner | None, mine: _Owner) -> None:
    """Put our claim in the place of one left behind; of several who try, one at most succeeds.

    Who may do it is decided by a claim on that very claim. The winner looks again before it writes: the one left behind
    may have been replaced, and its helper file removed, since we looked.
    """
    right = file.with_name(f"{file.name}.{stale.token if stale else 'unreadable'}.taken")
    if not _make(right, mine):
        time.sleep(0.05)
        _drop_if_dead(right)
        return
    try:
        if _owner(file) == stale:
            new = file.with_name(f"{file.name}.{mine.token}")
            new.write_text(json.dumps(asdict(mine)), "utf-8")
            new.replace(file)
    except OSError as error:
        raise write_error(file, error) from error
    finally:
        right.unlink(missing_ok=True)


def _drop_if_dead(right: Path) -> None:
    """Remove what a process left that died while it took a claim over."""
    check_interrupted()
    owner = _owner(right)
    if right.exists() and not _lives(right, owner):
        right.unlink(missing_ok=True)


def _lives(file: Path, owner: _Owner | None) -> bool:
    if owner is not None and owner.host == _host():
        began = _began(owner.pid)
        if began in (None, owner.began):
            return began is not None
    return _is_touched(file)  # another machine, another process of that number, or a clock that was set meanwhile


def _is_touched(file: Path) -> bool:
    """Watch a claim for a while; opening it makes network file systems look at the server again."""
    first, until = _stamp(file), time.monotonic() + WATCH_S
    while first is not None and time.monotonic() < until:
        check_interrupted()
        time.sleep(min(0.25, WATCH_S))
        if (now := _stamp(file)) != first:
            return now is not None
    return False


def _stamp(file: Path) -> int | None:
    try:
        with file.open("rb") as claim:
            return os.fstat(claim.fileno()).st_mtime_ns
    except OSError:
        return None


def _touch(file: Path, over: threading.Event) -> None:
    while not over.wait(TOUCH_S):
        with suppress(OSError):  # a network that is away for a moment; the work itself will tell
            os.utime(file)


def _owner(file: Path) -> _Owner | None:
    """Who holds a claim; None when there is none, or none that can be read."""
    try:
        return _Owner(**json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _host() -> str:
    """Name this machine, and on Linux its container: process numbers mean nothing beyond."""
    name = socket.gethostname()
    try:
        return f"{name} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return name


def _began(pid: int) -> float | None:
    """When a process began; None when it is gone, or dead and merely not buried."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else round(process.create_time(), 2)
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        return 0.0
