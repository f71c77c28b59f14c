"""A folder that one program at a time may write to: claimed by a window, borrowed by a call."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_slidecorr.errors import ProjectError
from napari_slidecorr.io.owner_file import Owner
from napari_slidecorr.project_lock import WINDOW, Life, ProjectLock


class OwnedFolder:
    """Keeps writers of a folder apart; see `napari_slidecorr.project.Project`.

    Without `claim` each change has the folder for as long as it takes. With it the folder is ours until `release`, the
    object's end or the program's, and others are told.

    Attributes
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._owning = ProjectLock(folder)
        self._refused = ""
        self._closed = False
        self._changing = threading.RLock()
        weakref.finalize(self, self._owning.release)

    @property
    def read_only(self) -> str:
        """Why nothing can be changed here, as a sentence; empty when all can."""
        if self._owning.taken_by is not None:
            return f"{self.folder.name} was taken over by {self._owning.taken_by}; it is open for viewing here."
        return self._refused

    @property
    def owner(self) -> Owner | None:
        """Who has the project, ourselves included; None when nobody has."""
        found = self._owning.owner()
        return found[0] if found else None

    @property
    def can_take_over(self) -> bool:
        """Whether a project that another program had is free, or its owner does not live any more."""
        found = self._owning.owner()
        return bool(self.read_only) and not self._closed and (found is None or found[1] is not Life.ALIVE)

    def claim(self, *, take_over: bool = False) -> str:
        """Keep the project for this program until `release`, as a window does.

        Of an owner whose process is gone it is taken at once.

        Parameters
        ----------
        take_over : bool
            Also take it from an owner on another machine that has not been heard of for a minute.

        Returns
        -------
        str
            Empty, or why it is open for viewing only: who has it, or that the folder cannot be written.
        """
        self._closed = False
        try:
            owner = self._owning.acquire(WINDOW, take_over=take_over)
        except ProjectError as error:
            self._refused = f"{self.folder.name} is open for viewing only, as its folder cannot be written: {error}"
            self._closed = True
        else:
            self._refused = "" if owner is None else refusal_to_view(self.folder, owner)
        return self._refused

    def release(self) -> None:
        """Let others write; changes that are made from now on have the folder for themselves only as they are made."""
        self._owning.release()

    def check_writable(self) -> None:
        """See that nothing is known that forbids changes.

        Raises
        ------
        ProjectError
            If the project is read-only here.
        """
        if self.read_only:
            raise ProjectError(self.read_only)

    @contextmanager
    def _change(self) -> Iterator[None]:
        """Have the folder during a change, with what others changed before known."""
        self.check_writable()
        with self._changing, self._owning.for_a_change():
            self._refresh()
            yield

    def _refresh(self) -> None:
        """Read again what others have changed."""


def refusal_to_view(folder: Path, owner: Owner) -> str:
    """Say that a project can be looked at but not changed, and who can."""
    return f"{folder.name} is open in {owner}, so that it is read-only here."
