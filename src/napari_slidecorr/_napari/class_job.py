"""A class is renamed, merged or deleted on all slides: by a job on those that are not open, then on the open ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import QTimer

from napari_slidecorr.class_changes import Change, ClassesChanged, change_everywhere, renamed_classes
from napari_slidecorr.errors import ProjectError, SlideCorrError
from napari_slidecorr.events import Event, JobEnd, drain

if TYPE_CHECKING:
    from napari_slidecorr._napari.desk import Desk
    from napari_slidecorr._napari.region_editor import RegionEditor

TITLE = "Changing a class"
"""Of the job. No slide comes into view while it runs: its regions may be about to change."""


def change_class(desk: Desk, old: str, new: str, change: Change, edit: Callable[[RegionEditor], None]) -> None:
    """Start to give a class another name, or none (empty), everywhere; what is pending on open slides is saved first.

    Parameters
    ----------
    change
        Gives the new regions of a slide; the very set for a slide that stays as it is.
    edit
        Does the same in an editor, when all else is written.

    Raises
    ------
    ProjectError
        If no project is open, it is read-only here, or a job runs.
    """
    session, project = desk.session, desk.session.require_project()
    if session.busy:
        raise ProjectError(f"{session.job_title} still runs and uses the classes; wait for it, or cancel it.")
    project.check_writable()
    desk.flush()
    work = _ClassChange(desk, old, new, change, edit)
    session.start(work.events, TITLE, work.hear, work.end)


class _ClassChange:
    """One change, from its start to its end; holds no dock, which may be closed meanwhile."""

    def __init__(self, desk: Desk, old: str, new: str, change: Change, edit: Callable[[RegionEditor], None]) -> None:
        self._desk, self._old, self._new, self._change, self._edit = desk, old, new, change, edit
        self._project = desk.session.require_project()
        self._was_current = desk.current_class == old
        self._open = [editor.slide_id for editor in desk.editors()]
        self._names = renamed_classes(self._project, old, new)
        self._changed: list[str] | None = None

    def events(self) -> Iterator[Event]:
        return change_everywhere(self._project, self._change, *self._names, leave=self._open)

    def hear(self, event: Event) -> None:
        if isinstance(event, ClassesChanged):
            self._changed = event.result

    def end(self, _end: JobEnd) -> None:
        """Let the open slides follow, if all others were written."""
        if self._changed is None:
            return
        try:
            self._finish(self._changed)
        except SlideCorrError as error:
            QTimer.singleShot(0, partial(self._desk.session.report, error))  # after what is told of the job's end

    def _finish(self, changed: list[str]) -> None:
        for editor in self._desk.editors():
            self._edit(editor)
        self._desk.flush()
        self._catch_up()
        self._desk.take_class(self._new if self._was_current else self._desk.current_class)
        for slide_id in changed:
            self._desk.session.regions_changed.emit(slide_id)

    def _catch_up(self) -> None:
        """Change what was closed meanwhile; and an editor that just saved may have brought the old class back."""
        project, still_open = self._project, {editor.slide_id for editor in self._desk.editors()}
        closed = set(self._open) - still_open
        classes = [name for name in project.classes if name != self._old]
        if closed or len(classes) < len(project.classes):
            others = [slide.id for slide in project.cohort if slide.id not in closed]
            drain(change_everywhere(project, self._change, classes, leave=others))
