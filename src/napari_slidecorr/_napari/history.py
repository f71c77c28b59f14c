"""Undo and redo for the regions of one slide; napari's Shapes has none of its own."""

from __future__ import annotations

from collections.abc import Callable

from napari_slidecorr.regions import RegionSet


class History:
    """The states that the regions of a slide went through.

    A state is the whole `RegionSet`; it is frozen and shares its regions with its neighbours, so that a step costs a
    tuple and no geometry.

    Parameters
    ----------
    present : RegionSet
        Where the history starts; it cannot be undone.
    limit : int
        How many steps back are kept.
    """

    def __init__(self, present: RegionSet, limit: int = 200) -> None:
        self.present = present
        self._limit = limit
        self._past: list[RegionSet] = []
        self._future: list[RegionSet] = []

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to take back."""
        return bool(self._past)

    @property
    def can_redo(self) -> bool:
        """Whether there is a step to do again."""
        return bool(self._future)

    def record(self, state: RegionSet) -> bool:
        """Make a state the present; False when it is the present already. What was undone is forgotten."""
        if state == self.present:
            return False
        self._past = [*self._past, self.present][-self._limit :]
        self._future.clear()
        self.present = state
        return True

    def translate(self, change: Callable[[RegionSet], RegionSet]) -> None:
        """Change past, present and future alike, as when a class gets another name."""
        self._past = [change(state) for state in self._past]
        self._future = [change(state) for state in self._future]
        self.present = change(self.present)

    def undo(self) -> RegionSet | None:
        """Go one step back and give the state there; None at the start."""
        if not self._past:
            return None
        self._future.append(self.present)
        self.present = self._past.pop()
        return self.present

    def redo(self) -> RegionSet | None:
        """Go one undone step forward again and give the state there; None when there is none."""
        if not self._future:
            return None
        self._past.append(self.present)
        self.present = self._future.pop()
        return self.present
