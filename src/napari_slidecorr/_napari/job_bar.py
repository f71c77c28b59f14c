"""How far a job is, and the button that cancels it."""

from __future__ import annotations

from qtpy.QtWidgets import QLabel, QProgressBar, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from napari_slidecorr._napari.parts import button, row
from napari_slidecorr.events import Event
from napari_slidecorr.session import Session

NOT_NOW = "\nNot now: "


def say_not_now(starter: QPushButton, job_title: str) -> None:
    """Say in a button's tool tip which job it waits for; an empty title takes that out again."""
    own = starter.toolTip().partition(NOT_NOW)[0]
    starter.setToolTip(f"{own}{NOT_NOW}{job_title} still runs." if job_title else own)


class JobBar(QWidget):
    """Start buttons, *Cancel*, a bar and a line that says what is being done.

    Parameters
    ----------
    title : str
        Of the jobs that this bar is for; others only disable the start buttons, whose tool tips say so.
    starters : QPushButton
        Enabled when a project is open and no job runs.

    Attributes
    ----------
    buttons : QWidget
        The row of the buttons; a dock may add its own.
    """

    def __init__(self, session: Session, title: str, *starters: QPushButton) -> None:
        super().__init__()
        self._session, self._title = session, title
        self.starters = starters
        self.cancel = button("Cancel", "Stop after the running step; what is finished stays.", self._cancel)
        self.cancel.setObjectName("cancel")
        self.bar = QProgressBar()
        self.phase = QLabel()
        self.phase.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self.buttons = row(*starters, self.cancel)
        for widget in (self.buttons, self.bar, self.phase):
            layout.addWidget(widget)
        self.rest()
        if self.is_running:
            self.begin()

    @property
    def is_running(self) -> bool:
        """Whether the running job is one of this bar's."""
        return self._session.job_title == self._title

    @property
    def waits_for(self) -> str:
        """Title of a running job that is another dock's; empty without one."""
        return "" if self.is_running else self._session.job_title

    def begin(self) -> None:
        """Show that a job of this bar has started, before its first event."""
        self.bar.setRange(0, 0)
        self.phase.setText("Starting ...")
        self.bar.show()
        self.phase.show()
        self.update_buttons()

    def show_event(self, event: Event, *, overall: bool = True) -> None:
        """Show a step; one that is not a part of the overall count changes the line only."""
        count = f": {event.done} / {event.total}" if event.total else ""
        self.phase.setText(f"{event.phase}{count}")
        if overall and event.total:
            self.bar.setRange(0, event.total)
            self.bar.setValue(event.done)

    def rest(self) -> None:
        """Show that no job of this bar runs any more."""
        self.bar.hide()
        self.phase.hide()
        self.update_buttons()

    def update_buttons(self) -> None:
        """Enable what can be clicked now."""
        idle = self._session.project is not None and not self._session.busy
        for starter in self.starters:
            starter.setEnabled(idle)
            say_not_now(starter, self.waits_for)
        self.cancel.setText("Cancel")
        self.cancel.setEnabled(self.is_running)

    def _cancel(self) -> None:
        self.cancel.setText("Cancelling ...")
        self.cancel.setEnabled(False)
        self._session.cancel()
