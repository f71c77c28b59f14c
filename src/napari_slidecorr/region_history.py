"""The last states of a slide's regions on the disk, so that any of them can be brought back.

A state is a gzipped file named by its time (UTC): in the first line what it is, then one GeoJSON feature a line. Every
few states it holds all regions, between them only those that differ from the last whole one, and which of that one stay
where. So a state needs two files at most, and one damaged file never takes all others along.
"""

from __future__ import annotations

import gzip
import hashlib
import io as bytes_io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import shapely
from shapely import Polygon

from napari_slidecorr.errors import RegionsError
from napari_slidecorr.io.atomic import PART, atomic_write_bytes, make_folder
from napari_slidecorr.io.qupath import feature_lines
from napari_slidecorr.project_file import Stamp, stamp_of
from napari_slidecorr.regions import Region, RegionSet

FORMAT = 1
MOST_STATES = 50
MOST_BYTES = 64 * 2**20
"""Of all states of a slide; the oldest go first, the newest never."""

WHOLE_EVERY = 16
SUFFIX = ".json.gz"
_TIME = "%Y%m%dT%H%M%S.%fZ"
_CHUNK = 500
_DAMAGE = (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, IndexError, AttributeError)


@dataclass(frozen=True)
class RegionState:
    """What is known of a state without reading its regions.

    Attributes
    ----------
    name : str
        Names it among the states of its slide.
    time : datetime
        When it was saved, UTC.
    counts : dict of str to int
        Regions of each class; the empty name stands for those without one.
    change : str
        How it differs from the state before it.
    damaged : bool
        Whether its file cannot be read; the rest is empty then.
    """

    name: str
    time: datetime
    counts: dict[str, int]
    change: str
    damaged: bool = False

    @property
    def regions(self) -> int:
        """How many there are."""
        return sum(self.counts.values())

    @property
    def summary(self) -> str:
        """One line for a person."""
        if self.damaged:
            return "damaged, cannot be restored"
        many = f"{self.regions} region{'s' * (self.regions != 1)}"
        return f"{many}: {self.change}" if self.change else many


class _Whole(NamedTuple):
    """The last state that holds all its regions."""

    name: str
    stamp: Stamp | None
    regions: tuple[Region, ...]
    place: dict[str, int]
    followers: int


class RegionHistory:
    """The states of one slide.

    Parameters
    ----------
    folder : Path
        Its own; made with the first state.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._whole: _Whole | None = None

    def states(self) -> tuple[RegionState, ...]:
        """The last states, newest first."""
        return tuple(_state(path) for path in self._files()[:MOST_STATES])

    def read(self, name: str) -> RegionSet:
        """Give the regions of a state.

        Raises
        ------
        RegionsError
            If there is no such state, or its file is damaged.
        """
        path = self.folder / f"{name}{SUFFIX}"
        if not _is_name(name) or not path.is_file():
            raise RegionsError(f"There is no state {name!r} of {self.folder.name}; choose one that is listed.")
        try:
            told, lines = _read(path)
            own = [_region(line) for line in lines]
            if told["base"] is None:
                return RegionSet(tuple(own))
            _, base = _read(self.folder / f"{told['base']}{SUFFIX}")
            return RegionSet(tuple(_merged(told["parts"], [_region(line) for line in base], own)))
        except _DAMAGE as error:
            raise RegionsError(f"{path}: this state is damaged ({error}); choose another one.") from error

    def newest_good(self) -> RegionState | None:
        """The newest state that can be read as a whole; None when there is none."""
        for state in self.states():
            with suppress(RegionsError):
                self.read(state.name)
                return state
        return None

    def keep(self, regions: RegionSet, before: RegionSet | None = None) -> None:
        """Put a state on the disk, unless the newest one is the same; what is too much then goes.

        Parameters
        ----------
        before : RegionSet, optional
            What it came from. Where that is not the newest state, as another program wrote it, it is kept first.

        Raises
        ------
        ProjectError
            If it cannot be written; the states before are untouched.
        """
        newest = next(iter(self._files()), None)
        content = _content(newest) if newest else ""
        if before is not None and (before or newest) and (found := _digest(before)) != content:
            self._write(before, found, "as it was found")
            content = found
        if (digest := _digest(regions)) != content:
            self._write(regions, digest, change_of(before or RegionSet(), regions))
            self._prune()

    def _write(self, regions: RegionSet, digest: str, change: str) -> None:
        make_folder(self.folder)
        name = self._next_name()
        counts = Counter(region.class_name for region in regions)
        told = {"format": FORMAT, "content": digest, "counts": counts, "change": change, "base": None, "parts": []}
        whole, own = self._whole, list(regions)
        if whole is not None and whole.followers < WHOLE_EVERY and whole.stamp == self._stamp(whole.name):
            parts, fresh = _difference(whole, regions)
            if 2 * len(fresh) <= len(regions):
                told |= {"base": whole.name, "parts": parts}
                own = fresh
        atomic_write_bytes(self.folder / f"{name}{SUFFIX}", _packed(told, own))
        if told["base"] is None:
            place = {region.uid: at for at, region in enumerate(regions)}
            self._whole = _Whole(name, self._stamp(name), regions.regions, place, 0)
        elif whole is not None:
            self._whole = whole._replace(followers=whole.followers + 1)

    def _stamp(self, name: str) -> Stamp | None:
        return stamp_of(self.folder / f"{name}{SUFFIX}")

    def _next_name(self) -> str:
        now = datetime.now(UTC)
        if newest := next(iter(self._files()), None):
            now = max(now, _time(newest) + timedelta(microseconds=1))  # a clock may have been set back
        return now.strftime(_TIME)

    def _files(self) -> list[Path]:
        found = (path for path in self.folder.glob(f"*{SUFFIX}") if _is_name(_name(path)))
        return sorted(found, key=_name, reverse=True)

    def _prune(self) -> None:
        files = self._files()
        sizes = {_name(path): path.stat().st_size for path in files}
        kept: set[str] = set()
        for path in files[:MOST_STATES]:
            more = {_name(path), *filter(None, [_base(path)])} & sizes.keys()
            if kept and sum(sizes[name] for name in kept | more) > MOST_BYTES:
                break
            kept |= more
        killed = self.folder.glob(f"*{SUFFIX}{PART}")  # nobody else writes now: of a program that was killed
        for path in (*killed, *(path for path in files if _name(path) not in kept)):
            with suppress(FileNotFoundError):
                path.unlink()


def change_of(before: RegionSet, now: RegionSet) -> str:
    """Say in a line how regions differ from those before, class by class."""
    old = {region.uid: region for region in before}
    told: Counter[tuple[str, str]] = Counter()
    for region in now:
        known = old.pop(region.uid, None)
        name = region.class_name or "no class"
        if known is None:
            told["+", name] += 1
        elif known is not region and known.class_name != region.class_name:
            told["", f"{known.class_name or 'no class'} now {name}"] += 1
        elif known is not region and known.polygon != region.polygon:
            told["", f"{name} reshaped"] += 1
    told.update(("-", region.class_name or "no class") for region in old.values())
    return ", ".join(f"{sign}{count} {what}" for (sign, what), count in told.items()) or "another order"


def _difference(whole: _Whole, regions: RegionSet) -> tuple[list[list[int]], list[Region]]:
    """Describe regions by runs ``[start, stop]`` of a whole state, and ``[count]`` of others, which are given too."""
    parts: list[list[int]] = []
    fresh: list[Region] = []
    for region in regions:
        place = whole.place.get(region.uid)
        if place is None or (whole.regions[place] is not region and whole.regions[place] != region):
            fresh.append(region)
            if parts and len(parts[-1]) == 1:
                parts[-1][0] += 1
            else:
                parts.append([1])
        elif parts and len(parts[-1]) == 2 and parts[-1][1] == place:
            parts[-1][1] += 1
        else:
            parts.append([place, place + 1])
    return parts, fresh


def _merged(parts: Iterable[list[int]], base: list[Region], own: list[Region]) -> Iterator[Region]:
    rest = iter(own)
    for part in parts:
        if len(part) == 1:
            yield from islice(rest, part[0])
        elif not 0 <= part[0] <= part[1] <= len(base):
            raise ValueError("it needs regions that its whole state does not have")
        else:
            yield from base[part[0] : part[1]]


def _packed(told: dict[str, Any], regions: Iterable[Region]) -> bytes:
    buffer = bytes_io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1) as file:
        file.write(json.dumps(told).encode("ascii") + b"\n")
        for line in feature_lines(regions):
            file.write(line.encode("ascii") + b"\n")
    return buffer.getvalue()


def _read(path: Path) -> tuple[dict[str, Any], list[bytes]]:
    """Read a whole file; gzip's own checksum tells of any damage."""
    first, *lines = gzip.decompress(path.read_bytes()).splitlines()
    return json.loads(first), lines


def _head(path: Path) -> dict[str, Any]:
    with gzip.open(path) as file:
        told = json.loads(file.readline())
    if not isinstance(told, dict):
        raise TypeError("no state")
    return told


def _state(path: Path) -> RegionState:
    try:
        told = _head(path)
        return RegionState(_name(path), _time(path), dict(told["counts"]), str(told["change"]))
    except _DAMAGE:
        return RegionState(_name(path), _time(path), {}, "", damaged=True)


def _content(path: Path) -> str:
    try:
        return str(_head(path)["content"])
    except _DAMAGE:
        return ""  # unlike any other, so that the next state is written


def _base(path: Path) -> str | None:
    try:
        return _head(path)["base"]  # type: ignore[no-any-return]
    except _DAMAGE:
        return None


def _region(line: bytes) -> Region:
    told = json.loads(line)
    outer, *holes = (np.asarray(ring, float)[:, ::-1] for ring in told["geometry"]["coordinates"])
    name = told["properties"].get("classification", {}).get("name", "")
    return Region(name, Polygon(outer, holes), told["id"])


def _digest(regions: RegionSet) -> str:
    """The same for the same regions in the same order; in steps, so that other threads get their turn."""
    found = hashlib.sha256()
    for start in range(0, len(regions), _CHUNK):
        some = regions.regions[start : start + _CHUNK]
        found.update("\0".join(f"{r.uid}\0{r.class_name}" for r in some).encode("utf-8", "surrogatepass"))
        found.update(b"".join(shapely.to_wkb([r.polygon for r in some]).tolist()))
    return found.hexdigest()


def _name(path: Path) -> str:
    return path.name.removesuffix(SUFFIX)


def _time(path: Path) -> datetime:
    return datetime.strptime(_name(path), _TIME).replace(tzinfo=UTC)


def _is_name(name: str) -> bool:
    try:
        return bool(datetime.strptime(name, _TIME).replace(tzinfo=UTC))
    except ValueError:
        return False
