"""One writer at a time for a folder that is being filled: a claim beside it, respected as long as its owner lives.

A claim of another machine is watched by our own clock before it counts as left behind (clocks of two machines are never
compared); see `napari_slidecorr.io.owner_file`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_slidecorr.errors import MapError
from napari_slidecorr.events import check_interrupted
from napari_slidecorr.io import owner_file
from napari_slidecorr.io.atomic import make_folder
from napari_slidecorr.io.owner_file import Beat, Owner

SUFFIX = ".claim"
WATCH_S = 35.0
"""How long a claim from another machine must stand still before it counts as left behind."""

FORGOTTEN_S = 600.0
"""How old, by our clock, a claim from another machine may look at one glance: clocks differ by less than that."""

PREDICTING, TRAINING, CONVERTING = "a prediction", "a training", "a conversion"
_SAYS = {
    PREDICTING: "{who} is predicting this slide",
    TRAINING: "it is being trained by another program ({who})",
    CONVERTING: "{who} is writing it",
}


class ClaimedError(MapError):
    """Somebody else is writing there now."""


@contextmanager
def claimed(path: Path, program: str = PREDICTING) -> Iterator[None]:
    """Be the only one who writes to a folder, as long as the block lasts.

    Parameters
    ----------
    path : Path
        It need not exist yet; the claim is the file ``<name>.claim`` beside it.
    program : str
        What is done there: `PREDICTING`, `TRAINING` or `CONVERTING`.

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
    me = Owner.here(program)
    _take(file, me)
    beat = Beat(file)
    try:
        yield
    finally:
        beat.stop()
        owner_file.give_back(file, me)


def is_claimed(path: Path) -> bool:
    """Whether somebody seems to write there, at one glance; who wants to be sure takes the claim.

    A claim of another machine counts until it has not been touched for `FORGOTTEN_S`.

    Raises
    ------
    ProjectError
        If the claim cannot be read.
    """
    file = path.with_name(path.name + SUFFIX)
    owner = owner_file.read(file, PREDICTING)
    if owner is None:
        return False
    if owner.is_here:
        return owner.runs
    stamp = _stamp(file)
    return stamp is not None and time.time() - stamp / 1e9 < FORGOTTEN_S


def _take(file: Path, me: Owner) -> None:
    while not owner_file.make(file, me):
        other = owner_file.read(file, me.program)
        if other is None:
            continue  # it was given back in between
        if _lives(file, other):
            who = f"process {other.pid} on {other.host}" if other.token else "another process"
            says = _SAYS[me.program].format(who=who)
            raise ClaimedError(f"{file.name.removesuffix(SUFFIX)}: {says}; wait for it, or stop it first.")
        if not owner_file.put_away(file, other, me):
            _wait_for_the_other(owner_file.right_to_put_away(file, other))


def _wait_for_the_other(right: Path) -> None:
    """Give whoever removes a claim a moment; remove what one left that died over it."""
    time.sleep(0.05)
    check_interrupted()
    owner = owner_file.read(right, PREDICTING)
    if owner is not None and not _lives(right, owner):
        right.unlink(missing_ok=True)


def _lives(file: Path, owner: Owner) -> bool:
    return owner.runs if owner.is_here else _is_touched(file)


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
