"""The Prediction dock: which model on which slides, and below it the map that grows while it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QComboBox

from napari_slidecorr._napari.dock import Dock, narrow, refill
from napari_slidecorr._napari.form import make_form
from napari_slidecorr._napari.gaze import Gaze
from napari_slidecorr._napari.job_bar import JobBar
from napari_slidecorr._napari.map_panel import REFRESH_MS, MapPanel, rows
from napari_slidecorr._napari.parts import box, button
from napari_slidecorr._napari.torch_door import load_torch_for_job
from napari_slidecorr.config import PredictConfig
from napari_slidecorr.errors import ConfigError, ProjectError
from napari_slidecorr.events import BlockDone, CellsDone, Event, JobEnd, MapBegun, Notice, Predicted
from napari_slidecorr.geometry import Box
from napari_slidecorr.session import sentence

if TYPE_CHECKING:
    import napari.viewer

    from napari_slidecorr.project import Project

TITLE = "Prediction"
CURRENT, ALL = "current", "all"


class PredictionDock(Dock):
    """Predict slides, look at the maps, compare, correct and export them.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        self.gaze = Gaze(napari_viewer, self.session, self)
        self.run_choice, self.slide_choice = narrow(QComboBox()), narrow(QComboBox())
        self.run_choice.setToolTip("The trained model that looks at the slides; the newest is on top.")
        self.slide_choice.setToolTip("Which slides get a map: the one in view, all of the project, or one by name.")
        self.form = make_form(PredictConfig())
        self.predict_button = button("Predict", "Make the map of the chosen slides.", self.predict)
        self.view_button = button(
            "Only this view",
            "Make only the blocks of the map that the window shows of the slide in view; the rest can be made later.",
            self.predict_view,
        )
        self.job = JobBar(self.session, TITLE, self.predict_button, self.view_button)
        self.panel = MapPanel(self, self.gaze)
        self.export = self.panel.exporting.export
        self.body.addWidget(box("Predict", rows(Model=self.run_choice, Slides=self.slide_choice), self.form))
        for part in (self.job, self.message, self.panel):
            self.body.addWidget(part)
        self.body.addStretch(1)
        self._timer = QTimer(self)
        self._timer.setInterval(REFRESH_MS)
        self._timer.timeout.connect(self.panel.refresh)
        self._connect()
        self._on_project()
        self.panel.show_slide(self.session.current_slide or "")

    def _connect(self) -> None:
        self.listen(self.session.message, self.message.tell)
        self.listen(self.session.project_changed, self._on_project)
        self.listen(self.session.slides_changed, self._list_slides)
        self.listen(self.session.runs_changed, self.list_runs)
        self.listen(self.session.job_started, self._on_start)
        self.listen(self.session.job_event, self._on_event)
        self.listen(self.session.job_ended, self._on_end)

    # -- what a script may call too -----------------------------------------------------------------------------------

    def predict(self) -> bool:
        """Predict the chosen slides with the chosen model; False, with the reason in the dock, when it cannot."""
        return self._predict(self._chosen_slides, None)

    def predict_view(self) -> bool:
        """Predict only what the window shows of the slide in view; False, with the reason in the dock, when it cannot."""
        only = self.gaze.box()
        if only is None:
            self.message.tell(
                "No slide is in view. Show one from the Slides dock, and go where you want to look.", is_error=True
            )
            return False
        return self._predict(self._current_slide, only)

    def list_runs(self) -> None:
        """Fill the drop-down of models, the newest first."""
        project = self.session.project
        runs = list(reversed(project.runs())) if project is not None else []
        newest = runs[0] if runs else None
        known = {self.run_choice.itemData(i) for i in range(self.run_choice.count())}
        refill(self.run_choice, [(run.name, run) for run in runs])
        if newest not in known:
            self.run_choice.setCurrentIndex(0)
        self.job.update_buttons()

    def shut(self) -> None:
        """End a comparison, whose second map nobody could take away, and let the mouse move the picture."""
        self.panel.hide_map()

    # -- choices ------------------------------------------------------------------------------------------------------

    def _predict(self, slides_of: Callable[[], list[str]], only: Box | None) -> bool:
        try:
            config: PredictConfig = self.form.read()
            slides = slides_of()
        except (ConfigError, ProjectError) as error:
            self.message.tell(sentence(error), is_error=True)
            return False
        project, run = self.session.require_project(), self.run_choice.currentData()
        self.gaze.look()

        def events() -> Iterator[Event]:
            load_torch_for_job()
            return project.predict(slides, run, config, wanted=self.gaze.wanted, only_box=only)

        return self.session.start(events, TITLE)

    def _list_slides(self) -> None:
        project = self.session.project
        slides = [slide.id for slide in project.cohort] if project is not None else []
        entries: list[tuple[str, Any]] = [("Slide in view", CURRENT), (f"All {len(slides)} slides", ALL)]
        refill(self.slide_choice, entries + [(slide, (slide,)) for slide in slides])
        self.job.update_buttons()

    def _chosen_slides(self) -> list[str]:
        chosen = self.slide_choice.currentData()
        if chosen == CURRENT:
            return self._current_slide()
        slides = [slide.id for slide in self._trained_project().cohort]
        return sorted(slides, key=lambda slide: slide != self.session.current_slide) if chosen == ALL else list(chosen)

    def _current_slide(self) -> list[str]:
        self._trained_project()
        if self.session.current_slide is None:
            raise ProjectError("No slide is in view. Show one from the Slides dock, or choose slides here.")
        return [self.session.current_slide]

    def _trained_project(self) -> Project:
        project = self.session.require_project()
        if not project.runs():
            raise ProjectError("There is no trained model yet. Train one in the Training dock.")
        return project

    # -- what happens -------------------------------------------------------------------------------------------------

    def _on_start(self, _title: str) -> None:
        if self.job.is_running:
            self.message.tell("")
            self.job.begin()
            self._timer.start()
        self.job.update_buttons()

    def _on_event(self, event: Event) -> None:
        if not self.job.is_running:
            return
        self.job.show_event(event)
        if isinstance(event, Notice):
            self.message.tell(event.message)
        elif isinstance(event, MapBegun):
            self.panel.begin(event.begun, event.path)
        elif isinstance(event, BlockDone | CellsDone):
            self.panel.grow(event)
        elif isinstance(event, Predicted):
            self.panel.finish(event.result, event.path, complete=event.complete)

    def _on_end(self, _end: JobEnd) -> None:
        self._timer.stop()
        self.job.rest()
        self.panel.rest()

    def _on_project(self) -> None:
        self.panel.hide_map()
        self.list_runs()
        self._list_slides()
