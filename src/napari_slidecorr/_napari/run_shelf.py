"""The trainings of a project: the list, what is known of the selected ones, and what can be done with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qtpy.QtCore import QUrl, Signal
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QDialog, QDialogButtonBox, QLabel, QMessageBox, QTextBrowser, QVBoxLayout, QWidget

from napari_slidecorr._napari.errands import Errands
from napari_slidecorr._napari.parts import button, row, timer
from napari_slidecorr._napari.run_details import RunDetails
from napari_slidecorr._napari.run_list import RunList
from napari_slidecorr.errors import SlideCorrError, sentence
from napari_slidecorr.session import Session
from napari_slidecorr.stored_runs import Stored, StoredRun, remove_runs, stored_runs

CARD_NAME = "MODEL_CARD.md"
SOON_MS = 300


class RunShelf(QWidget):
    """List, details and buttons; reads the folder in a thread.

    Parameters
    ----------
    tell : callable
        Shows a sentence, and whether it is an error.

    Attributes
    ----------
    listed
        The list was read anew.
    resume_asked, continue_asked
        Carry the entry that is to go on where it stopped, or to be trained on from.
    """

    listed = Signal()
    resume_asked = Signal(object)
    continue_asked = Signal(object)

    def __init__(self, session: Session, tell: Callable[[str, bool], None]) -> None:
        super().__init__()
        self._session, self._tell = session, tell
        self._errands = Errands(self)
        self._asked = 0
        self._soon = timer(SOON_MS, self.read, self)
        self.list, self.details = RunList(), RunDetails()
        self.none_yet = QLabel()
        self.resume_button = button("Resume", "Go on with the selected training where it stopped.", self._resume)
        self.continue_button = button("Fine-tune", "", self._continue)
        self.card_button = button("Model card", "What the model was trained on, and how it did.", self._show_card)
        self.folder_button = button("Folder", "Open the folder of the training.", self._open_folder)
        self.remove_button = button("Remove ...", "Move the training to the folder removed.", self._remove)
        self.buttons = row(self.resume_button, self.continue_button)
        self.more = row(self.card_button, self.folder_button, self.remove_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self.none_yet, self.list, self.buttons, self.more, self.details):
            layout.addWidget(widget)
        self.list.chosen.connect(self._on_chosen)
        self._on_chosen()

    # -- reading ------------------------------------------------------------------------------------------------------

    def read_soon(self) -> None:
        """Read the list again when nothing has happened for a moment."""
        if not self._soon.isActive():
            self._soon.start()

    def read(self) -> None:
        """Read the list, in a thread."""
        self._asked += 1
        asked, project = self._asked, self._session.project
        if project is None:
            self._on_read([])
            return
        self._errands.run(
            lambda: stored_runs(project),
            lambda entries: self._on_read(entries) if asked == self._asked else None,
            self._session.report,
        )

    def _on_read(self, entries: list[Stored]) -> None:
        self.list.show_entries(entries)
        self.list.setVisible(bool(entries))
        self.none_yet.setText("No training yet." if self._session.project is not None else "No project is open.")
        self.none_yet.setVisible(not entries)
        self.listed.emit()

    @property
    def newest_stopped(self) -> Stored | None:
        """The newest training that can be resumed; None when there is none."""
        return next((one for one in reversed(self.list.entries) if one.resumable), None)

    # -- the selected -------------------------------------------------------------------------------------------------

    def _on_chosen(self) -> None:
        selected = self.list.selected
        self.details.show_entries(selected)
        self.buttons.setVisible(len(selected) == 1)
        self.more.setVisible(len(selected) == 1)
        self.update_buttons()

    def update_buttons(self) -> None:
        """Enable what can be done with the selected trainings now."""
        one = self.one
        idle = not self._session.busy
        onward = isinstance(one, StoredRun) and one.state == "finished" and not one.leaky
        self.resume_button.setEnabled(idle and one is not None and one.resumable and "/" not in one.name)
        self.continue_button.setEnabled(onward)
        fast = isinstance(one, StoredRun) and one.fast is not None
        self.continue_button.setText("Fine-tune from this" if fast else "Train on from this")
        self.continue_button.setToolTip(
            "Put the settings for a training of the network that starts from the backbone of this fast model into the form."
            if fast
            else "Put the settings of this training into the form, with its weights as the start and the same slides held out."
        )
        self.card_button.setEnabled(one is not None and (one.folder / CARD_NAME).is_file())
        self.folder_button.setEnabled(one is not None)
        self.remove_button.setEnabled(idle and one is not None and one.state != "running" and "/" not in one.name)

    @property
    def one(self) -> Stored | None:
        """The selected entry; None when it is not exactly one."""
        selected = self.list.selected
        return selected[0] if len(selected) == 1 else None

    def _resume(self) -> None:
        self.resume_asked.emit(self.one)

    def _continue(self) -> None:
        self.continue_asked.emit(self.one)

    def _open_folder(self) -> None:
        if self.one is not None and not QDesktopServices.openUrl(QUrl.fromLocalFile(str(self.one.folder))):
            self._tell(f"No program opens folders here; it is {self.one.folder}.", False)

    def _show_card(self) -> None:
        if self.one is None:
            return
        try:
            dialog = CardDialog(self.one.folder / CARD_NAME, self)
        except (OSError, UnicodeDecodeError) as error:
            self._tell(f"{self.one.name}: its model card cannot be read ({error}).", True)
            return
        dialog.show()

    def _remove(self) -> None:
        """Ask, and move the training aside."""
        one, project = self.one, self._session.project
        if one is None or project is None:
            return
        question = f"Remove {one.name}? It is moved to the folder 'removed' of the project; maps that it made stay."
        yes, no = QMessageBox.StandardButton.Yes, QMessageBox.StandardButton.No
        if QMessageBox.question(self, "Remove a training", question, yes | no, no) != yes:
            return
        try:
            moved = remove_runs(project, one)
        except SlideCorrError as error:
            self._tell(sentence(error), True)
            return
        self._tell(f"{one.name} lies in {moved} now.", False)
        self._session.runs_changed.emit()


class CardDialog(QDialog):
    """A model card, to read and copy from.

    Raises
    ------
    OSError, UnicodeDecodeError
        If it cannot be read.
    """

    def __init__(self, path: Path, parent: QWidget) -> None:
        super().__init__(parent)
        text = path.read_text("utf-8")
        self.setWindowTitle(f"Model card of {path.parent.name}")
        self.browser = QTextBrowser()
        self.browser.setMarkdown(text)
        self.browser.setOpenExternalLinks(True)
        close = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        close.rejected.connect(self.close)
        layout = QVBoxLayout(self)
        layout.addWidget(self.browser)
        layout.addWidget(close)
        self.resize(640, 640)
