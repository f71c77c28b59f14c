"""What a window wants of live training: said in one thread, taken in another; of several wishes the latest wins."""

from __future__ import annotations

import threading
import time

from napari_slidecorr.geometry import Box
from napari_slidecorr.regions import RegionSet

Cell = tuple[int, int]

HAND_S = 0.25
"""So long after the mouse moved somebody may be drawing, and the painting of the window needs the processor more."""


class LiveWishes:
    """An inbox that any thread may fill at any time, and that nobody waits to fill.

    Attributes
    ----------
    version : int
        Raised with each change of regions. What was made of a version can be told by it.
    """

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._regions: dict[str, RegionSet | None] = {}
        self._seen: tuple[str, Box | None] = "", None
        self._skipped: frozenset[tuple[str, Cell]] = frozenset()
        self._without: bool = False
        self._resting = False
        self._closed = False
        self._moved = -HAND_S
        self.version = 0

    # -- said by the window -------------------------------------------------------------------------------------------

    def relabel(self, slide_id: str, regions: RegionSet | None) -> int:
        """Say that the regions of a slide are others; None: read them from the project. Gives the new version."""
        with self._news:
            self._regions[slide_id] = regions
            self.version += 1
            self._news.notify_all()
            return self.version

    def look(self, slide_id: str, box: Box | None) -> None:
        """Say which slide is in view, and what the window shows of it in level-0 pixels."""
        with self._news:
            self._seen = slide_id, box
            self._news.notify_all()

    def skip(self, slide_id: str, cell: Cell) -> None:
        """Say that a patch is not to be suggested any more."""
        with self._news:
            self._skipped |= {(slide_id, cell)}
            self._news.notify_all()

    def go_without(self) -> None:
        """Say that classes which lost their last region are to be left out of the model."""
        with self._news:
            self._without = True
            self.version += 1
            self._news.notify_all()

    def move(self) -> None:
        """Say that the mouse moves over the slide."""
        self._moved = time.monotonic()

    def rest(self, *, resting: bool) -> None:
        """Say whether long work is to wait, because a job needs the machine."""
        with self._news:
            self._resting = resting
            self._news.notify_all()

    def close(self) -> None:
        """Say that nothing is wanted any more."""
        with self._news:
            self._closed = True
            self._news.notify_all()

    # -- asked by who works -------------------------------------------------------------------------------------------

    def take_regions(self) -> tuple[int, dict[str, RegionSet | None]]:
        """Give the version, and the regions that were said since the last time."""
        with self._news:
            taken, self._regions = self._regions, {}
            return self.version, taken

    def take_without(self) -> bool:
        """Whether lost classes are to be left out; asked once for each time it was said."""
        with self._news:
            without, self._without = self._without, False
            return without

    @property
    def seen(self) -> tuple[str, Box | None]:
        """Slide and box in view."""
        return self._seen

    @property
    def skipped(self) -> frozenset[tuple[str, Cell]]:
        """Patches that are not to be suggested."""
        return self._skipped

    @property
    def resting(self) -> bool:
        """Whether long work is to wait."""
        return self._resting

    @property
    def closed(self) -> bool:
        """Whether nothing is wanted any more."""
        return self._closed

    @property
    def hand_moves(self) -> bool:
        """Whether the mouse moved a moment ago."""
        return time.monotonic() - self._moved < HAND_S

    def give_way(self, version: int) -> None:
        """Return once the mouse has stood still for a moment, or at once if there are newer regions."""
        while self.hand_moves and not self._closed and self.version == version:
            with self._news:
                self._news.wait(HAND_S / 4)

    def outdated(self, version: int, slide_id: str) -> bool:
        """Whether there are newer regions, another slide is in view, or nothing is wanted any more."""
        return self._closed or self.version != version or self._seen[0] != slide_id

    def wait(self, seconds: float) -> None:
        """Return at the next wish, or after so long."""
        with self._news:
            if not self._closed and not self._regions:
                self._news.wait(seconds)
