"""The Prediction dock: which model on which slides, a map that grows while it is made, and what it says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QComboBox, QFormLayout, QLabel, QSizePolicy, QSpinBox, QWidget
from superqt import QLabeledDoubleSlider

from napari_slidecorr._napari.dock import Dock, narrow, refill
from napari_slidecorr._napari.errands import Errands
from napari_slidecorr._napari.form import make_form
from napari_slidecorr._napari.gaze import Gaze
from napari_slidecorr._napari.job_bar import JobBar
from napari_slidecorr._napari.map_comparison import MapComparisonBox
from napari_slidecorr._napari.map_correction import MapCorrection
from napari_slidecorr._napari.map_export import MapExport
from napari_slidecorr._napari.map_layers import MAX_SPREAD, MapView
from napari_slidecorr._napari.map_legend import MapLegend, told_score
from napari_slidecorr._napari.map_shelf import MapShelf
from napari_slidecorr._napari.parts import box, button
from napari_slidecorr._napari.torch_door import load_torch_for_job
from napari_slidecorr.config import PredictConfig
from napari_slidecorr.errors import ConfigError, MapError, ProjectError
from napari_slidecorr.events import BlockDone, CellsDone, Event, JobEnd, MapBegun, Notice, Predicted
from napari_slidecorr.geometry import Box
from napari_slidecorr.io import map_zarr
from napari_slidecorr.prediction_map import PredictionMap
from napari_slidecorr.session import sentence
from napari_slidecorr.stored_maps import StoredMap, remove_map, stored_maps

if TYPE_CHECKING:
    import napari.viewer

    from napari_slidecorr.project import Project

REFRESH_MS = 200
"""A growing map is painted at most so often; each painting uploads it to the GPU."""

TITLE = "Prediction"
PLUGIN = "napari-slidecorr"
CURRENT, ALL = "current", "all"
ENTROPY, SPREAD = object(), object()
"""Entries of the drop-down *Show* that are no class."""

TOP_K = 100
"""Patches that the second slide score is the mean of, unless somebody says otherwise."""


@dataclass(frozen=True)
class _Shown:
    """A map and where it is stored; while it is being made it is not complete."""

    prediction: PredictionMap
    path: Path
    complete: bool


class PredictionDock(Dock):
    """Predict slides, look at the maps, compare, correct and export them.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        self.errands = Errands(self)
        self.gaze = Gaze(napari_viewer, self.session, self)
        self._shown: _Shown | None = None
        self._growing: _Shown | None = None
        self._view: MapView | None = None
        self._painted = 0.0
        self._make_parts()
        self.body.addWidget(box("Predict", _rows(Model=self.run_choice, Slides=self.slide_choice), self.form))
        self.body.addWidget(self.job)
        self.body.addWidget(self.message)
        choices = _rows(Map=self.shelf, Show=self.view_choice, Threshold=self.threshold)
        self.map_box = box(
            "Map", choices, self.legend, self.here, self.score, _rows(Highest=self.top_k), self.exporting
        )
        self.compare_box = box("Compare", self.comparison)
        self.correct_box = box("Correct", self.correction)
        for part in (self.map_box, self.compare_box, self.correct_box):
            self.body.addWidget(part)
        self.body.addStretch(1)
        self._timer = QTimer(self)
        self._timer.setInterval(REFRESH_MS)
        self._timer.timeout.connect(self._refresh)
        self._connect()
        self._on_project()

    def _make_parts(self) -> None:
        self.run_choice, self.slide_choice, self.view_choice = (narrow(QComboBox()) for _ in range(3))
        self.form = make_form(PredictConfig())
        self.predict_button = button("Predict", "Make the map of the chosen slides.", self.predict)
        self.view_button = button(
            "Only this view",
            "Make only the blocks of the map that the window shows of the slide in view; the rest can be made later.",
            self.predict_view,
        )
        self.job = JobBar(self.session, TITLE, self.predict_button, self.view_button)
        self.threshold = QLabeledDoubleSlider()
        self.threshold.setRange(0, 1)
        self.threshold.setSingleStep(0.05)
        self.threshold.setToolTip("Cells whose most probable class is less probable than this are unsure, and grey.")
        self.top_k = QSpinBox()
        self.top_k.setRange(1, 1_000_000)
        self.top_k.setValue(TOP_K)
        self.top_k.setToolTip("Patches of the highest probability of a class, whose mean is the second slide score.")
        self.legend = MapLegend()
        self.score, self.here = (_told() for _ in range(2))
        self.here.setMinimumHeight(2 * self.here.fontMetrics().lineSpacing())  # the dock must not jump with the mouse
        self.here.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.shelf = MapShelf(self._remove)
        self.exporting = MapExport(self.message.tell)
        self.export_button, self.export = self.exporting.button, self.exporting.export
        self.comparison = MapComparisonBox(self.viewer, self.gaze.box, self.attempt, self.session.report)
        self.correction = MapCorrection(
            self.viewer, lambda: self._view, self.attempt, self.message.tell, lambda: self.attempt(self.train_again)
        )

    def _connect(self) -> None:
        self.view_choice.currentIndexChanged.connect(self._on_view_choice)
        self.threshold.valueChanged.connect(self._on_threshold)
        self.top_k.valueChanged.connect(self._update)
        self.legend.alpha_changed.connect(self._on_alpha)
        self.shelf.chosen.connect(self._on_chosen)
        cursor = getattr(self.viewer, "__wrapped__", self.viewer).cursor
        cursor.events.position.connect(self._on_cursor)
        self.destroyed.connect(lambda: cursor.events.position.disconnect(self._on_cursor))
        self.listen(self.session.message, self.message.tell)
        self.listen(self.session.project_changed, self._on_project)
        self.listen(self.session.slides_changed, self._list_slides)
        self.listen(self.session.runs_changed, self.list_runs)
        self.listen(self.session.maps_changed, self._on_maps)
        self.listen(self.session.classes_changed, self._on_classes)
        self.listen(self.session.current_slide_changed, self._on_current)
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

    def train_again(self) -> None:
        """Open the Training dock with the model of the map in view as the start.

        Raises
        ------
        MapError
            If the project does not have its run any more.
        """
        stored = self.shelf.current
        run = self.session.require_project().folder / "runs" / stored.run if stored is not None and stored.run else None
        if run is None:
            raise MapError("The project does not have the training of this map's model any more; start a new one.")
        dock, _ = self.viewer.window.add_plugin_dock_widget(PLUGIN, "Training", tabify=True)
        dock.show()
        dock.raise_()
        self.session.continue_from.emit(run)

    def list_runs(self) -> None:
        """Fill the drop-down of models, the newest first."""
        project = self.session.project
        runs = list(reversed(project.runs())) if project is not None else []
        newest = runs[0] if runs else None
        known = {self.run_choice.itemData(i) for i in range(self.run_choice.count())}
        refill(self.run_choice, [(run.name, run) for run in runs])
        if newest not in known:
            self.run_choice.setCurrentIndex(0)
        self._update()

    # -- choices ------------------------------------------------------------------------------------------------------

    def _predict(self, slides_of: Any, only: Box | None) -> bool:
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
        self._update()

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
        self._update()

    def _on_event(self, event: Event) -> None:
        if not self.job.is_running:
            return
        self.job.show_event(event)
        if isinstance(event, Notice):
            self.message.tell(event.message)
        elif isinstance(event, MapBegun):
            self._growing = _Shown(event.begun, event.path, complete=False)
            if event.begun.slide_id == self.session.current_slide:
                self._show(self._growing)
                self._list_maps()
        elif isinstance(event, BlockDone | CellsDone):
            self._on_cells(event)
        elif isinstance(event, Predicted):
            self._on_predicted(event)

    def _on_cells(self, event: BlockDone | CellsDone) -> None:
        if self._growing is None:
            return
        self._growing.prediction.probabilities[:, event.rows, event.columns] = event.probabilities
        if event.spread is not None and self._growing.prediction.spread is not None:
            self._growing.prediction.spread[event.rows, event.columns] = event.spread
        if self._view is not None and self._shown is self._growing:
            if isinstance(event, CellsDone):
                self._view.write_cells(event)
            else:
                self._view.write(event.rows, event.columns, event.probabilities, event.spread)
            if time.monotonic() - self._painted > REFRESH_MS / 1000:
                self._refresh()

    def _on_predicted(self, event: Predicted) -> None:
        self._growing = None
        if event.path is not None and event.result.slide_id == self.session.current_slide:
            self._show(_Shown(event.result, event.path, complete=event.complete))
        if not event.complete:
            self.message.tell("What is in view is predicted; Predict makes the rest of the map.")

    def _on_end(self, _end: JobEnd) -> None:
        self._growing = None
        self._timer.stop()
        self._refresh()
        self.job.rest()
        self._list_maps()
        self._update()

    def _refresh(self) -> None:
        if self._view is not None:
            self._view.refresh()
            self._painted = time.monotonic()

    def _on_project(self) -> None:
        self._hide_map()
        self.list_runs()
        self._list_slides()

    def _on_current(self, slide_id: str) -> None:
        """Show what there is of the slide that came into view: the map that grows, or the newest that is stored."""
        self._hide_map()
        self.gaze.look()
        project = self.session.project
        if self._growing is not None and self._growing.prediction.slide_id == slide_id:
            self._show(self._growing)
        elif project is not None and slide_id:
            self.errands.run(lambda: _newest_map(project, slide_id), self._on_read, self.session.report)
        self._list_maps()

    def _on_read(self, shown: _Shown | None) -> None:
        if shown is not None and self._view is None and shown.prediction.slide_id == self.session.current_slide:
            self._show(shown)
            self._list_maps()

    def _on_maps(self, slide_id: str) -> None:
        if slide_id == self.session.current_slide:
            self._list_maps()

    def _list_maps(self) -> None:
        """List the stored maps of the slide in view, in a thread: their descriptions are read."""
        project, slide_id = self.session.project, self.session.current_slide
        if project is None or not slide_id:
            self._on_listed(slide_id, [])
        else:
            self.errands.run(
                lambda: stored_maps(project, slide_id), partial(self._on_listed, slide_id), self.session.report
            )

    def _on_listed(self, slide_id: str | None, stored: list[StoredMap]) -> None:
        if slide_id == self.session.current_slide:
            self.shelf.fill(stored, self._shown.path if self._shown is not None else None)
            self._offer()

    def _on_chosen(self, stored: StoredMap) -> None:
        """Show another stored map; the one that grows is shown as it is now."""
        if self._growing is not None and self._growing.path == stored.path:
            self._show(self._growing)
        else:
            self.errands.run(lambda: _read(stored), partial(self._on_chosen_read, stored), self.session.report)

    def _on_chosen_read(self, stored: StoredMap, shown: _Shown) -> None:
        if self.shelf.current == stored:
            self._show(shown)
            self._offer()

    def _remove(self, stored: StoredMap) -> None:
        """Take a map out of the project, unless it is being made."""

        def remove() -> None:
            if self._growing is not None and self._growing.path == stored.path:
                raise ProjectError("This map is being made; cancel the prediction first.")
            moved = remove_map(self.session.require_project(), stored)
            self.message.tell(f"The map lies in {moved} now.")
            self._remove_layers()
            self._on_current(stored.slide_id)

        self.attempt(remove)

    # -- the map ------------------------------------------------------------------------------------------------------

    def _show(self, shown: _Shown) -> None:
        """Put a map into the viewer; the same map, further on, goes into the layers that show it."""
        prediction = shown.prediction
        view, before = self._view, self._shown
        self._shown = shown
        if view is not None and before is not None and before.path == shown.path and view.takes(prediction):
            view.replace(prediction)
        else:
            self.comparison.end()
            self._view = MapView(self.viewer, prediction, self.session.require_project().colors)
            probabilities = [(f"Probability of {name}", name) for name in prediction.classes]
            entries = [("Most probable class", None), *probabilities, ("Uncertainty (entropy)", ENTROPY)]
            if prediction.spread is not None:
                entries.append(("Uncertainty (spread over orientations)", SPREAD))
            refill(self.view_choice, entries)
            self._on_view_choice()
            self._on_threshold()
        self._update()
        self._offer()

    def _hide_map(self) -> None:
        self.comparison.end()
        self.correction.rest()
        self._shown = self._view = None
        self._offer()
        self._update()

    def _remove_layers(self) -> None:
        view = self._view
        self._hide_map()
        if view is not None:
            view.remove()

    def _offer(self) -> None:
        """Say to export and comparison what there is."""
        project, shown = self.session.project, self._shown
        complete = project is not None and shown is not None and shown.complete
        self.exporting.offer(
            (project, shown.path, shown.prediction.slide_id) if complete else None, self.threshold.value
        )
        others = [one for one in self.shelf.stored if shown is not None and one.path != shown.path]
        self.comparison.offer(self._view, project.colors if project is not None else {}, others)
        self.compare_box.setVisible(self._view is not None and bool(others))

    def _on_view_choice(self) -> None:
        chosen = self.view_choice.currentData()
        if self._view is not None:
            if chosen is ENTROPY or chosen is SPREAD:
                self._view.show_uncertainty("entropy" if chosen is ENTROPY else "spread")
            else:
                self._view.show_class(chosen)
            self._tell_legend()
        self.threshold.setEnabled(chosen is None)

    def _on_threshold(self) -> None:
        if self._view is not None:
            self._view.set_threshold(self.threshold.value())
            self._tell_legend()

    def _on_alpha(self, name: str, alpha: float) -> None:
        if self._view is not None:
            self._view.set_alpha(name, alpha)

    def _on_classes(self) -> None:
        """Colours or names have changed."""
        self.correction.fill()
        if self._view is not None:
            self._view.set_colors(self.session.require_project().colors)
            self._tell_legend()

    def _on_cursor(self, _event: Any = None) -> None:
        """Say what the map has below the mouse, from its own numbers, whatever layer is shown."""
        if self._view is not None and not self.map_box.isHidden():
            y, x = self.viewer.cursor.position[-2:]
            self.here.setText(self._view.told_at((float(y), float(x))))

    def _tell_legend(self) -> None:
        if self._shown is None or self._view is None:
            return
        chosen = self.view_choice.currentData()
        if chosen is None:
            colors = self.session.require_project().colors
            threshold, areas = self.threshold.value(), self._shown.complete
            self.legend.show_classes(self._shown.prediction, colors, threshold, with_areas=areas)
            return
        high = {ENTROPY: "1: all classes alike", SPREAD: f"{MAX_SPREAD:g}"}.get(chosen, "1")
        self.legend.show_ramp(self._view.probability.colormap, "0", high)

    def _update(self) -> None:
        """Enable what can be clicked, and say the score of a whole map."""
        self.job.update_buttons()
        shown = self._shown
        complete = shown is not None and shown.complete
        self.map_box.setVisible(shown is not None)
        self.correct_box.setVisible(shown is not None)
        self.score.setText(told_score(shown.prediction, self.top_k.value()) if complete else "")
        for part in (self.score, self.top_k.parentWidget()):
            part.setVisible(complete)
        self.here.clear()
        self.correction.fill()
        self._tell_legend()


def _told() -> QLabel:
    label = QLabel()
    label.setWordWrap(True)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    return label


def _newest_map(project: Project, slide_id: str) -> _Shown | None:
    stored = stored_maps(project, slide_id)
    return _read(stored[-1]) if stored else None


def _read(stored: StoredMap) -> _Shown:
    return _Shown(map_zarr.read(stored.path, allow_incomplete=True), stored.path, complete=stored.complete)


def _rows(**editors: QWidget) -> QWidget:
    rows = QWidget()
    layout = QFormLayout(rows)
    layout.setContentsMargins(0, 0, 0, 0)
    for label, editor in editors.items():
        layout.addRow(label, editor)
    return rows
