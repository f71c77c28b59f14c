"""The buttons that write the map in view, or all of the project's, for other programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QFileDialog, QVBoxLayout, QWidget

from napari_slidecorr import io
from napari_slidecorr._napari.errands import Errands
from napari_slidecorr._napari.job_bar import JobBar
from napari_slidecorr._napari.parts import button, row
from napari_slidecorr.decision import Threshold
from napari_slidecorr.events import Event, JobEnd
from napari_slidecorr.qupath_folder import export_qupath
from napari_slidecorr.session import Session, sentence

if TYPE_CHECKING:
    from napari_slidecorr._napari.dock import Dock
    from napari_slidecorr.project import Project

TITLE = "Export for QuPath"
FILTERS = {
    "QuPath polygons (*.geojson)": ".geojson",
    "QuPath tiles with probabilities (*.tiles.geojson)": ".tiles.geojson",
    "OME-TIFF (*.ome.tif)": ".ome.tif",
    "OME-Zarr (*.ome.zarr)": ".ome.zarr",
    "Table, a line a patch (*.csv)": ".csv",
    "The same for Python and R (*.parquet)": ".parquet",
    "Figure (*.png)": ".png",
}


def _own_bounds() -> None:
    """The model's own bounds."""


class MapExport(QWidget):
    """*Export ...* and *QuPath folder ...*, and the writing in threads.

    Parameters
    ----------
    tell
        Shows a sentence, and whether it is an error.
    session : Session
        Runs the export of all slides.

    Attributes
    ----------
    job : JobBar
        Of the export of all slides; laid out by whoever shows this, and hidden without one.
    """

    def __init__(self, tell: Callable[..., None], session: Session) -> None:
        super().__init__()
        self._tell, self._session = tell, session
        self._errands = Errands(self)
        self._map: tuple[Project, Path, str] | None = None
        self._threshold: Callable[[], Threshold] = _own_bounds
        self.button = button(
            "Export ...", "Write the map for QuPath, as OME-TIFF or OME-Zarr, table or figure.", self._choose
        )
        self.folder_button = button(
            "QuPath folder ...",
            "Write the newest map and the regions of every slide into one folder, with a script that QuPath runs.",
            self._choose_folder,
        )
        self.job = JobBar(session, TITLE, self.folder_button)
        self.job.setVisible(self.job.is_running)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(row(self.button, self.folder_button))
        self.offer(None)

    def offer(self, what: tuple[Project, Path, str] | None, threshold: Callable[[], Threshold] = _own_bounds) -> None:
        """Say what can be exported: project, path of a complete map, slide's id; None when there is none."""
        self._map, self._threshold = what, threshold
        self.button.setEnabled(what is not None)
        self.job.update_buttons()

    def export(self, path: str | Path) -> bool:
        """Write the map, in a thread, as its name says; False when there is none that is complete."""
        if self._map is None:
            self._tell("There is no complete map of this slide to export; predict it first.", is_error=True)
            return False
        project, stored, _ = self._map
        threshold = self._threshold()
        self._tell(f"Writing {Path(path).name} ...")
        self._errands.run(
            lambda: project.export(stored, path, threshold=threshold),
            lambda _none: self._tell(f"Exported to {path}."),
            lambda error: self._tell(sentence(error), is_error=True),
        )
        return True

    def export_all(self, folder: str | Path) -> bool:
        """Write maps and regions of all slides for QuPath, as a job; False, with the reason told, when it cannot start."""
        project, threshold = self._session.require_project(), self._threshold()

        def events() -> Iterator[Event]:
            return export_qupath(project, Path(folder), threshold=threshold)

        return self._session.start(events, TITLE, writes=False)

    def follow(self, dock: Dock) -> None:
        """Show how far the export of all slides is, for as long as a dock lives."""
        dock.listen(self._session.job_started, self._on_start)
        dock.listen(self._session.job_event, self._on_event)
        dock.listen(self._session.job_ended, self._on_end)

    def _on_start(self, _title: str) -> None:
        self.job.update_buttons()
        if self.job.is_running:
            self.job.begin()
            self.job.show()

    def _on_event(self, event: Event) -> None:
        if self.job.is_running:
            self.job.show_event(event)

    def _on_end(self, _end: JobEnd) -> None:
        self.job.rest()
        self.job.hide()

    def _choose_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder for QuPath")
        if folder:
            self.export_all(folder)

    def _choose(self) -> None:
        start = f"{self._map[2]}.geojson" if self._map is not None else ""
        path, chosen = QFileDialog.getSaveFileName(self, "Export the map", start, ";;".join(FILTERS))
        if path:
            self.export(with_suffix(path, chosen))


def with_suffix(path: str, chosen_filter: str) -> str:
    """Give a file's name the suffix of the chosen kind unless it has one of ours."""
    return path if path.lower().endswith(io.MAP_SUFFIXES) else path + FILTERS[chosen_filter]
