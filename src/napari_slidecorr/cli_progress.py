"""Long work as a person sees it in a terminal: a bar there, plain lines in a log, next to nothing for a script.

All of it goes to standard error; standard output belongs to results.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Protocol

from napari_slidecorr.cohort_prediction import SlideEnded
from napari_slidecorr.events import EpochDone, Event, Notice

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_SECONDS = 10.0
"""In a log, work inside one phase says how far it is at most this often."""


class _Display(Protocol):
    def show(self, event: Event) -> None: ...


@contextmanager
def shown(events: Iterable[Event], *, quiet: bool = False, mixed: bool = False) -> Iterator[Iterator[Event]]:
    """Give events that show themselves as they pass; the work is closed whichever way this ends, Ctrl-C included.

    Parameters
    ----------
    quiet : bool
        Show warnings only.
    mixed : bool
        Events of several slides come mixed: each has a bar of its own until it has ended.
    """
    with ExitStack() as stack:
        if isinstance(events, Generator):
            stack.enter_context(closing(events))
        yield _shown(events, _display(stack, quiet=quiet, mixed=mixed))


def _shown(events: Iterable[Event], display: _Display) -> Iterator[Event]:
    for event in events:
        display.show(event)
        yield event


def _display(stack: ExitStack, *, quiet: bool, mixed: bool) -> _Display:
    if quiet:
        return _Warnings()
    if not sys.stderr.isatty():
        return _MixedLines() if mixed else _Lines()
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    kind = _ManyBars if mixed else _Bars
    return kind(
        stack.enter_context(Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True))
    )


class _Warnings:
    def show(self, event: Event) -> None:
        if isinstance(event, Notice) and event.warning:
            _print(sentence(event))


class _Lines:
    """One line for every notice, epoch and new phase, and now and then how far it is."""

    def __init__(self) -> None:
        self._phase = ""
        self._printed = 0.0

    def show(self, event: Event) -> None:
        now = time.monotonic()
        if isinstance(event, Notice | EpochDone):
            _print(sentence(event))
        elif event.phase != self._phase or now - self._printed > LINE_SECONDS:
            _print(f"{event.phase} {event.done}/{event.total}" if event.total > 1 else event.phase)
        else:
            return
        self._phase, self._printed = event.phase, now


class _MixedLines:
    """The same for slides that are predicted side by side: how far each is, now and then."""

    def __init__(self) -> None:
        self._printed: dict[str, float] = {}

    def show(self, event: Event) -> None:
        now = time.monotonic()
        if isinstance(event, Notice):
            _print(sentence(event))
            if isinstance(event, SlideEnded):
                self._printed.pop(event.phase, None)
        elif now - self._printed.get(event.phase, -LINE_SECONDS) >= LINE_SECONDS:
            _print(f"{event.phase} {event.done}/{event.total}" if event.total > 1 else event.phase)
            self._printed[event.phase] = now


class _Bars:
    """A bar for the phase at hand; notices and epochs scroll away above it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._phase = ""
        self._task: TaskID | None = None

    def show(self, event: Event) -> None:
        if isinstance(event, Notice | EpochDone):
            self._progress.console.print(sentence(event), markup=False, highlight=False)
            return
        if not event.total:
            return
        if self._task is None or event.phase != self._phase:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._phase, self._task = event.phase, self._progress.add_task(event.phase, total=event.total)
        self._progress.update(self._task, completed=event.done, total=event.total)


class _ManyBars:
    """A bar for each slide that is being predicted; notices scroll away above them."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def show(self, event: Event) -> None:
        if isinstance(event, Notice):
            self._progress.console.print(sentence(event), markup=False, highlight=False)
            if isinstance(event, SlideEnded) and event.phase in self._tasks:
                self._progress.remove_task(self._tasks.pop(event.phase))
        elif event.total:
            if event.phase not in self._tasks:
                self._tasks[event.phase] = self._progress.add_task(event.phase, total=event.total)
            self._progress.update(self._tasks[event.phase], completed=event.done, total=event.total)


def sentence(event: Notice | EpochDone) -> str:
    """Give what a notice or an epoch has to say, in one line."""
    if isinstance(event, Notice):
        return f"Warning: {event.message}" if event.warning else event.message
    return f"Epoch {event.epoch + 1}: loss {event.loss:.4f}, {event.scores} ({event.seconds:.1f} s)"


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - this is the terminal's own room
