"""The regions of a project's slides on the disk, each with the states that it went through."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from napari_slidecorr import io
from napari_slidecorr.errors import RegionsError, SlideCorrError
from napari_slidecorr.io.atomic import make_folder, write_error
from napari_slidecorr.project_file import Color, Stamp, stamp_of
from napari_slidecorr.region_history import RegionHistory, RegionState
from napari_slidecorr.regions import RegionSet


class RegionStore:
    """``regions/<slide id>.geojson``, and ``regions/history/<slide id>/`` with its states.

    Parameters
    ----------
    folder : Path
        The project's.

    Attributes
    ----------
    history_trouble : str
        Why the last state could not be kept, though the regions were saved; empty when it could.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "regions"
        self._known: dict[str, tuple[Stamp | None, RegionSet]] = {}
        self._histories: dict[str, RegionHistory] = {}
        self.history_trouble = ""

    def path(self, slide_id: str) -> Path:
        """Where the regions of a slide are."""
        return self._folder / f"{slide_id}.geojson"

    def history_folder(self, slide_id: str) -> Path:
        """Where the states of a slide are."""
        return self._folder / "history" / slide_id

    def history(self, slide_id: str) -> RegionHistory:
        """The states of a slide."""
        return self._histories.setdefault(slide_id, RegionHistory(self.history_folder(slide_id)))

    def forget(self, slide_id: str) -> None:
        """Know nothing any more of a slide that is gone."""
        self._known.pop(slide_id, None)
        self._histories.pop(slide_id, None)

    def read(self, slide_id: str) -> RegionSet:
        """Give the regions of a slide; the file is read again when another program has changed it.

        Raises
        ------
        RegionsError
            If the file is damaged; names the newest state that is whole, and how to bring it back.
        """
        path = self.path(slide_id)
        stamp = stamp_of(path)
        known = self._known.get(slide_id)
        if known is None or known[0] != stamp:
            known = stamp, RegionSet() if stamp is None else self._read(slide_id, path)
            self._known[slide_id] = known
        return known[1]

    def write(self, slide_id: str, regions: RegionSet, colors: Mapping[str, Color]) -> None:
        """Write the regions of a slide, whole or not at all, then keep them as a state.

        Raises
        ------
        ProjectError
            If the regions cannot be written. If only the state cannot, `history_trouble` says so.
        """
        before = self._before(slide_id)
        path = self.path(slide_id)
        make_folder(path.parent)
        io.write_regions(path, regions, colors=colors)
        self._known[slide_id] = stamp_of(path), regions
        self._keep(slide_id, regions, before)

    def _read(self, slide_id: str, path: Path) -> RegionSet:
        try:
            return io.read_regions(path).regions
        except RegionsError as error:
            raise RegionsError(f"{error} {self._rescue(slide_id)}".strip()) from error

    def _rescue(self, slide_id: str) -> str:
        state = self.history(slide_id).newest_good()
        if state is None:
            return ""
        command = f"slidecorr regions restore {self._folder.parent} --slide {slide_id} {state.name}"
        when = f"{state.time.astimezone():%Y-%m-%d %H:%M:%S}"
        return (
            f"The newest whole state is of {when} ({state.regions} regions): bring it back with 'Restore ...' in the "
            f"Regions dock, or with: {command}"
        )

    def _before(self, slide_id: str) -> RegionSet | None:
        """What is about to be replaced; None when that cannot be read, which no state could hold either."""
        try:
            return self.read(slide_id)
        except RegionsError:
            self._copy_aside(self.path(slide_id))
            return None

    def _copy_aside(self, path: Path) -> None:
        try:
            shutil.copy2(path, path.with_name(f"{path.name}.damaged"))
        except OSError as error:
            raise write_error(path, error) from error

    def _keep(self, slide_id: str, regions: RegionSet, before: RegionSet | None) -> None:
        try:
            self.history(slide_id).keep(regions, before)
            self.history_trouble = ""
        except (SlideCorrError, OSError) as error:
            self.history_trouble = (
                f"The regions of {slide_id} are saved, but not their state for 'Restore ...': {error}"
            )


def find_state(states: tuple[RegionState, ...], wanted: str) -> RegionState:
    """Give the state of a name, or of a number in the list: 1 is the newest.

    Raises
    ------
    RegionsError
        If there is none.
    """
    if wanted.isdecimal() and 1 <= int(wanted) <= len(states):
        return states[int(wanted) - 1]
    for state in states:
        if state.name == wanted:
            return state
    raise RegionsError(f"There is no state {wanted!r}; there are {len(states)}, numbered from 1, the newest.")
