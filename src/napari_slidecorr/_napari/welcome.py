"""What the Slides dock shows before a project is open: three doors, each to a first map in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QStandardPaths, Qt, Signal
from qtpy.QtWidgets import QFileDialog, QLabel, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from napari_slidecorr._napari.job_bar import JobBar, say_not_now
from napari_slidecorr._napari.parts import box, button, row, while_alive
from napari_slidecorr.io import PICTURE_SUFFIXES, SLIDE_SUFFIXES
from napari_slidecorr.project_file import FILE
from napari_slidecorr.recent_projects import RecentProject, recent_projects

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_slidecorr._napari.dock import Dock
    from napari_slidecorr._napari.errands import Errands
    from napari_slidecorr.events import Event, JobEnd

TITLE = "Making sample slides"
NAME_PX = 250
"""Longer names of projects are shortened in their middle."""


def slide_filter() -> str:
    """The kinds of slide files, as a file dialog wants them."""
    kinds = " ".join(f"*{suffix}" for suffix in (*SLIDE_SUFFIXES, *PICTURE_SUFFIXES) if suffix != ".zarr")
    return f"Slides ({kinds});;All files (*)"


def sample_folder() -> Path:
    """A folder among the user's documents that is not there yet."""
    home = QStandardPaths.writableLocation(QStandardPaths.StandardLocation.DocumentsLocation)
    first = Path(home or Path.home()) / "slidecorr-samples"
    numbered = (first.with_name(f"{first.name}-{n}") for n in range(2, 10_000))
    return first if not first.exists() else next(folder for folder in numbered if not folder.exists())


class Welcome(QWidget):
    """Sample slides, my slides, or a project that there is already.

    Parameters
    ----------
    dock : Dock
        Whose session makes the sample slides.
    errands : Errands

    Attributes
    ----------
    slides_chosen
        Signal with the paths of slides and the folder of the project that they are for, new or not.
    project_chosen
        Signal with the folder of a project that is to be opened.
    """

    slides_chosen = Signal(list, object)
    project_chosen = Signal(object)

    def __init__(self, dock: Dock, errands: Errands) -> None:
        super().__init__()
        self._dock, self._session, self._errands = dock, dock.session, errands
        self.recent: list[QPushButton] = []
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for door in (self._sample_door(), self._slides_door(), self._project_door()):
            layout.addWidget(door)
        dock.listen(self._session.job_started, self._on_start)
        dock.listen(self._session.job_ended, self._on_end)
        self._on_end(None)
        if self.job.is_running:
            self._on_start(TITLE)

    def _sample_door(self) -> QWidget:
        self.sample_button = button(
            "Make sample slides",
            "Makes small slides that look like stained tissue, with a few regions of three tissue classes drawn on most of "
            "them, and opens the first. Nothing is downloaded.",
            lambda: self.make_samples(sample_folder()),
        )
        self.elsewhere_button = button(
            "Elsewhere ...", "Choose the folder that the sample slides go into.", self._ask_elsewhere
        )
        self.sample_text = _text("")
        self.job = JobBar(self._session, TITLE)
        return box(
            "Try it on sample slides", self.sample_text, row(self.sample_button, self.elsewhere_button), self.job
        )

    def _slides_door(self) -> QWidget:
        self.slides_button = button(
            "Choose slides ...",
            "Choose whole-slide images from your scanner, then a folder in which your regions, models and maps are kept.",
            self._ask_slides,
        )
        text = _text("Choose slide files, then a folder for what you draw and train. The files stay as they are.")
        return box("Start with my slides", text, self.slides_button)

    def _project_door(self) -> QWidget:
        self.open_button = button(
            "Open a project ...", "Choose the folder of a project that you worked on before.", self._ask_project
        )
        self._recent = QWidget()
        self._recent_layout = QVBoxLayout(self._recent)
        self._recent_layout.setContentsMargins(0, 0, 0, 0)
        return box("Go on with a project", self._recent, self.open_button)

    # -- what a script may call too -----------------------------------------------------------------------------------

    def make_samples(self, folder: Path) -> bool:
        """Make a project of sample slides in a thread, and open it when it is whole."""

        def events() -> Iterator[Event]:
            from napari_slidecorr.sample_project import make_sample_project

            return make_sample_project(folder)

        on_event, on_end = while_alive(self, self.job.show_event), while_alive(self, self._on_made)
        return self._session.start(events, TITLE, on_event, on_end)

    def refresh(self) -> None:
        """Look, in a thread, which projects were open last, and which of them are there."""
        folder = sample_folder()
        self.sample_text.setText(
            f"Eight small slides with some regions drawn, in the folder {folder.name} among your documents. Takes about "
            "half a minute."
        )
        self.sample_text.setToolTip(str(folder))
        self._errands.run(recent_projects, self._show_recent, self._session.report)

    # -- asking -------------------------------------------------------------------------------------------------------

    def _ask_elsewhere(self) -> None:
        if folder := QFileDialog.getExistingDirectory(self, "An empty folder for the sample slides"):
            self.make_samples(Path(folder))

    def _ask_slides(self) -> None:
        paths, _ = QFileDialog.getOpenFileNames(self, "Your slides", "", slide_filter())
        if not paths:
            return
        where = str(Path(paths[0]).parent)
        told = "A folder for the project: an empty one, or that of a project"
        if folder := QFileDialog.getExistingDirectory(self, told, where):
            self.slides_chosen.emit([Path(path) for path in paths], Path(folder))

    def _ask_project(self) -> None:
        if folder := QFileDialog.getExistingDirectory(self, "The folder of a project"):
            self.project_chosen.emit(Path(folder))

    # -- what happens -------------------------------------------------------------------------------------------------

    def _show_recent(self, found: list[RecentProject]) -> None:
        for old in self.recent:
            self._recent_layout.removeWidget(old)
            old.deleteLater()
        self.recent = [self._recent_button(each) for each in found]
        for made in self.recent:
            self._recent_layout.addWidget(made)
        self._recent.setVisible(bool(self.recent))
        for one, other in zip([self.slides_button, *self.recent], [*self.recent, self.open_button], strict=True):
            QWidget.setTabOrder(one, other)

    def _recent_button(self, project: RecentProject) -> QPushButton:
        folder = project.folder
        tip = f"Open {folder}" if project.there else f"{folder}: no project is there now."
        made = button("", tip, lambda: self.project_chosen.emit(folder))
        name = folder.name if project.there else f"{folder.name} (not found)"
        made.setText(made.fontMetrics().elidedText(name, Qt.TextElideMode.ElideMiddle, NAME_PX))
        made.setProperty("there", project.there)
        made.setEnabled(project.there and not self._session.busy)
        return made

    def _on_start(self, _title: str) -> None:
        self._enable(on=False)
        if self.job.is_running:
            self.job.begin()
            self.job.show()

    def _on_end(self, _end: JobEnd | None) -> None:
        self.job.rest()
        self.job.setVisible(self.job.is_running)
        self._enable(on=not self._session.busy)

    def _on_made(self, end: JobEnd) -> None:
        if end.result is not None:
            self.project_chosen.emit(end.result)

    def _enable(self, *, on: bool) -> None:
        for each in (self.sample_button, self.elsewhere_button, self.slides_button, self.open_button):
            each.setEnabled(on)
            say_not_now(each, self.job.waits_for)
        for each in self.recent:
            each.setEnabled(on and bool(each.property("there")))


def is_project(folder: Path) -> bool:
    """Whether a folder holds a project."""
    return (folder / FILE).is_file()


def _text(text: str) -> QLabel:
    label = QLabel(text)
    label.setWordWrap(True)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    return label
