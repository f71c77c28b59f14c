"""What is open and which job runs: the one thing that docks share. psygnal, no Qt, no torch.

Docks read from here and listen here; none knows another. How a job gets its own thread is the `Runner`'s business,
which is handed in, so that a session works without any window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from psygnal import Signal

from napari_slidecorr.errors import ProjectError, sentence
from napari_slidecorr.events import Event, JobEnd, JobStatus, Predicted, Trained

if TYPE_CHECKING:
    from napari_slidecorr.project import Project

__all__ = ["MakeEvents", "OnEnd", "OnEvent", "Runner", "RunningJob", "Session", "sentence"]

MakeEvents = Callable[[], Iterator[Event]]
OnEvent = Callable[[Event], None]
OnEnd = Callable[[JobEnd], None]


class RunningJob(Protocol):
    """A job that was started."""

    def cancel(self) -> None:
        """Ask it to stop after its next event."""
        ...

    def pause(self) -> None:
        """Take no further event until `resume`; a cancelled job still ends."""
        ...

    def resume(self) -> None:
        """Go on where it was paused."""
        ...

    def stop(self, seconds: float) -> bool:
        """Cancel and wait; False when it still runs after that time."""
        ...


class Runner(Protocol):
    """Runs a stream of events elsewhere and calls back in the caller's thread; sends exactly one `JobEnd`."""

    def __call__(self, make_events: MakeEvents, on_event: OnEvent, on_end: OnEnd) -> RunningJob:
        """Start; ``make_events`` is called where the events are stepped, so that its errors end the job too."""
        ...


class Session:
    """The open project, the slide in view, and at most one running job.

    Attributes
    ----------
    project_changed, slides_changed, runs_changed
        Something else is open; slides came, went or changed; a run was finished.
    project_reopened
        The same project was read anew; carries the id of the slide that was in view, or an empty one.
    regions_changed, current_slide_changed, maps_changed
        Carry the slide's id.
    classes_changed, continue_from
        Names or colours are others; carries the folder of a run that somebody wants to train on from.
    job_started, job_event, job_ended
        Carry the title, each `Event`, and the one `JobEnd`.
    job_paused
        Whether the running job pauses now.
    message
        A sentence for the user, and whether it is an error.
    """

    project_changed = Signal()
    project_reopened = Signal(str)
    slides_changed = Signal()
    regions_changed = Signal(str)
    current_slide_changed = Signal(str)
    runs_changed = Signal()
    maps_changed = Signal(str)
    classes_changed = Signal()
    continue_from = Signal(object)
    job_started = Signal(str)
    job_event = Signal(Event)
    job_ended = Signal(JobEnd)
    job_paused = Signal(bool)
    message = Signal(str, bool)

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._project: Project | None = None
        self._current_slide: str | None = None
        self._job: RunningJob | None = None
        self._job_title = ""
        self._paused = False

    @property
    def project(self) -> Project | None:
        """The open project; None before one is opened."""
        return self._project

    @project.setter
    def project(self, project: Project | None) -> None:
        if self.busy:
            raise ProjectError(
                f"{self._job_title} still runs. Wait for its end, or cancel it, before opening a project."
            )
        if self._project is not None and self._project is not project:
            self._project.release()
        if project is not None:
            project.claim()
        self._project = project
        self._current_slide = None
        self.project_changed.emit()
        self.slides_changed.emit()
        self.runs_changed.emit()

    def open_project(self, folder: Path) -> Project:
        """Open a project folder and tell everybody.

        Raises
        ------
        ProjectError
            If it is not a project, or while a job runs.
        """
        from napari_slidecorr.project import Project

        self.project = project = Project.open(folder)
        return project

    def create_project(self, folder: Path, classes: tuple[str, ...] = ()) -> Project:
        """Make a new project in a folder, open it and tell everybody.

        Raises
        ------
        ProjectError
            If the folder cannot be written or holds a project already, or while a job runs.
        """
        from napari_slidecorr.project import Project

        self.project = project = Project.create(folder, classes)
        return project

    def reopen_project(self, *, take_over: bool = False) -> Project:
        """Read the open project anew, and have it for ourselves if it is free or its owner is dead.

        Parameters
        ----------
        take_over : bool
            Also from an owner on another machine that may be dead, as it has not been heard of for a minute.

        Raises
        ------
        ProjectError
            If none is open, it cannot be read any more, or a job runs.
        """
        from napari_slidecorr.project import Project

        slide_id = self._current_slide or ""
        fresh = Project.open(self.require_project().folder)
        if take_over and not self.busy:
            fresh.claim(take_over=True)
        self.project = fresh
        self.project_reopened.emit(slide_id)
        return fresh

    def require_project(self) -> Project:
        """Give the open project.

        Raises
        ------
        ProjectError
            If none is open; says where to open one.
        """
        if self._project is None:
            raise ProjectError("No project is open. Open or create one in the Slides dock.")
        return self._project

    @property
    def current_slide(self) -> str | None:
        """Id of the slide in view; None when there is none."""
        return self._current_slide

    @current_slide.setter
    def current_slide(self, slide_id: str | None) -> None:
        if slide_id != self._current_slide:
            self._current_slide = slide_id
            self.current_slide_changed.emit(slide_id or "")

    @property
    def busy(self) -> bool:
        """Whether a job runs."""
        return bool(self._job_title)

    @property
    def job_title(self) -> str:
        """What the running job is called; empty without one."""
        return self._job_title

    def start(
        self,
        make_events: MakeEvents,
        title: str,
        on_event: OnEvent | None = None,
        on_end: OnEnd | None = None,
        *,
        writes: bool = True,
    ) -> bool:
        """Start a job, unless one runs.

        Parameters
        ----------
        make_events
            Called in the job's own thread; gives the events. Everything slow belongs into it.
        title
            What it is, for a person: ``"Training"``.
        on_event, on_end
            Called in this thread before the session's own signals.
        writes
            Whether it changes the project's folder, which a read-only project forbids.

        Returns
        -------
        bool
            False, with an error message, when another job runs or it may not write.
        """
        if self.busy:
            self.message.emit(f"{self._job_title} still runs. {title} can start when it ends or is cancelled.", True)
            return False
        if writes and self._project is not None and self._project.read_only:
            self.message.emit(f"{title} cannot start: {self._project.read_only}", True)
            return False
        self._job_title = title
        self.job_started.emit(title)

        def pass_event(event: Event) -> None:
            if on_event is not None:
                on_event(event)
            self.job_event.emit(event)
            self._tell_result(event)

        def pass_end(end: JobEnd) -> None:
            self._job, self._job_title, self._paused = None, "", False
            try:
                if on_end is not None:
                    on_end(end)
            finally:
                self.job_ended.emit(end)
                self._tell_end(title, end)

        self._job = self._runner(make_events, pass_event, pass_end)
        return True

    def cancel(self) -> None:
        """Ask the running job to stop after its next event, also a paused one; nothing happens without one."""
        if self._job is not None:
            self._job.cancel()

    @property
    def paused(self) -> bool:
        """Whether the running job was asked to pause."""
        return self._paused

    def pause(self) -> None:
        """Let the running job rest after its next event; nothing happens without one."""
        self._set_paused(paused=True)

    def resume(self) -> None:
        """Let a paused job go on."""
        self._set_paused(paused=False)

    def _set_paused(self, *, paused: bool) -> None:
        if self._job is None or paused == self._paused:
            return
        (self._job.pause if paused else self._job.resume)()
        self._paused = paused
        self.job_paused.emit(paused)

    def close(self, seconds: float = 10.0) -> bool:
        """Cancel the running job, wait for its end and let others write; False when it still runs after that time."""
        ended = self._job is None or self._job.stop(seconds)
        if self._project is not None:
            self._project.release()
        return ended

    def report(self, error: BaseException) -> None:
        """Send an error to whoever shows messages."""
        self.message.emit(sentence(error), True)

    def _tell_result(self, event: Event) -> None:
        """A result is news for every dock, also when the one that asked for it is gone."""
        if isinstance(event, Trained):
            self.runs_changed.emit()
        elif isinstance(event, Predicted):
            self.maps_changed.emit(event.result.slide_id)

    def _tell_end(self, title: str, end: JobEnd) -> None:
        if end.status is JobStatus.FAILED and end.error is not None:
            self.message.emit(f"{title} failed: {sentence(end.error)}", True)
        else:
            self.message.emit(f"{title} {end.status.value}.", False)
