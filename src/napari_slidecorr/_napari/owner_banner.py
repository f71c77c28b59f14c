"""A banner in each dock while the project can only be looked at: who has it, and how to get it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QFrame, QLabel, QPushButton, QSizePolicy, QVBoxLayout

from napari_slidecorr.errors import SlideCorrError

if TYPE_CHECKING:
    from napari_slidecorr.session import Session

LOOK_MS = 2000
STYLE = "#owner_banner { background: #7a4b00; border-radius: 4px; } #owner_banner QLabel { color: white; }"


class OwnerBanner(QFrame):
    """Hidden while everything can be changed; looks every two seconds whether that is still so.

    Parameters
    ----------
    session : Session
    """

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.setObjectName("owner_banner")
        self.setStyleSheet(STYLE)
        self._session = session
        self.label = QLabel()
        self.label.setWordWrap(True)
        self.label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.button = QPushButton()
        self.button.clicked.connect(lambda _checked: self.reopen())
        layout = QVBoxLayout(self)
        layout.addWidget(self.label)
        layout.addWidget(self.button)
        self._timer = QTimer(self)
        self._timer.timeout.connect(self.refresh)
        self._timer.start(LOOK_MS)
        self.refresh()

    def refresh(self) -> None:
        """Show how things stand."""
        project = self._session.project
        reason = project.read_only if project is not None else ""
        self.setVisible(bool(reason))
        if project is None or not reason:
            return
        try:
            free = project.can_take_over
        except SlideCorrError:
            free = False  # the folder cannot even be looked into just now
        owner_gone = " It is no longer in use there: you can take it over." if free else ""
        self.label.setText(f"{reason}{owner_gone}")
        self.button.setText("Take over" if free else "Read again")
        self.button.setToolTip(
            "Open the project for changes, as it is on the disk now."
            if free
            else "Show the project as it is on the disk now."
        )

    def reopen(self) -> None:
        """Open the project anew, for changes if nobody else has it any more."""
        try:
            self._session.reopen_project(take_over=True)
        except SlideCorrError as error:
            self._session.report(error)
        self.refresh()
