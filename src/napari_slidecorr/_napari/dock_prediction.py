"""The Prediction dock: which model on which slides, a map that grows while it is made, and its export."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QComboBox, QFileDialog, QFormLayout, QLabel, QSizePolicy, QWidget
from superqt import QLabeledDoubleSlider

from napari_slidecorr import io
from napari_slidecorr._napari.dock import Dock, narrow, refill
from napari_slidecorr._napari.errands import Errands
from napari_slidecorr._napari.form import make_form
from napari_slidecorr._napari.job_bar import JobBar
from napari_slidecorr._napari.layers import find_layer
from napari_slidecorr._napari.map_correction import MapCorrection
from napari_slidecorr._napari.map_layers import MapView
from napari_slidecorr._napari.map_legend import legend, told_score
from napari_slidecorr._napari.parts import box, button
from napari_slidecorr._napari.torch_door import load_torch_for_job
from napari_slidecorr.config import PredictConfig
from napari_slidecorr.errors import ConfigError, ProjectError
from napari_slidecorr.events import BlockDone, Event, JobEnd, MapBegun, Notice, Predicted
from napari_slidecorr.geometry import Box
from napari_slidecorr.prediction_map import PredictionMap
from napari_slidecorr.session import sentence

if TYPE_CHECKING:
    import napari.viewer

    from napari_slidecorr.project import Project

REFRESH_MS = 200
"""A growing map is painted at most so often; each painting uploads it to the GPU."""

TITLE = "Prediction"
CURRENT, ALL = "current", "all"
FILTERS = {
    "QuPath polygons (*.geojson)": ".geojson",
    "QuPath tiles with probabilities (*.tiles.geojson)": ".tiles.geojson",
    "OME-TIFF (*.ome.tif)": ".ome.tif",
    "OME-Zarr (*.ome.zarr)": ".ome.zarr",
    "Table, a line a patch (*.csv)": ".csv",
    "Figure (*.png)": ".png",
}
UNCERTAINTY = object()
"""The entry of the drop-down *Show* that is no class."""


@dataclass(frozen=True)
class _Stored:
    """A map and where it is stored; while it is being made it is not complete."""

    prediction: PredictionMap
    path: Path
    complete: bool


class PredictionDock(Dock):
    """Predict slides, look at the maps, export them.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        self.errands = Errands(self)
        self.run_choice, self.slide_choice, self.view_choice = (narrow(QComboBox()) for _ in range(3))
        self.form = make_form(PredictConfig())
        self.predict_button = button("Predict", "Make the map of the chosen slides.", self.predict)
        self.job = JobBar(self.session, TITLE, self.predict_button)
        self.threshold = QLabeledDoubleSlider()
        self.threshold.setRange(0, 1)
        self.threshold.setSingleStep(0.05)
        self.threshold.setToolTip("Cells whose most probable class is less probable than this are unsure, and grey.")
        self.legend, self.score, self.here = (_told() for _ in range(3))
        self.here.setMinimumHeight(2 * self.here.fontMetrics().lineSpacing())  # the dock must not jump with the mouse
        self.here.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.export_button = button(
            "Export ...", "Write the map for QuPath, as OME-TIFF or OME-Zarr, table or figure.", self._choose_export
        )
        self.body.addWidget(box("Predict", _rows(Model=self.run_choice, Slides=self.slide_choice), self.form))
        self.body.addWidget(self.job)
        self.body.addWidget(self.message)
        choices = _rows(Show=self.view_choice, Threshold=self.threshold)
        self.correction = MapCorrection(napari_viewer, lambda: self._view, self.attempt, self.message.tell)
        parts = self.legend, self.here, self.score, self.correction, self.export_button
        self.map_box = box("Map", choices, *parts)
        self.body.addWidget(self.map_box)
        self.body.addStretch(1)
        self._shown: _Stored | None = None
        self._growing: _Stored | None = None
        self._view: MapView | None = None
        self._timer = QTimer(self)
        self._timer.setInterval(REFRESH_MS)
        self._timer.timeout.connect(self._refresh)
        self._connect()
        self._on_project()

    def _connect(self) -> None:
        self.view_choice.currentIndexChanged.connect(self._on_view_choice)
        self.threshold.valueChanged.connect(self._on_threshold)
        cursor = getattr(self.viewer, "__wrapped__", self.viewer).cursor
        cursor.events.position.connect(self._on_cursor)
        self.destroyed.connect(lambda: cursor.events.position.disconnect(self._on_cursor))
        self.listen(self.session.message, self.message.tell)
        self.listen(self.session.project_changed, self._on_project)
        self.listen(self.session.slides_changed, self._list_slides)
        self.listen(self.session.runs_changed, self.list_runs)
        self.listen(self.session.current_slide_changed, self._on_current)
        self.listen(self.session.job_started, self._on_start)
        self.listen(self.session.job_event, self._on_event)
        self.listen(self.session.job_ended, self._on_end)

    # -- what a script may call too -----------------------------------------------------------------------------------

    def predict(self) -> bool:
        """Predict the chosen slides with the chosen model; False, with the reason in the dock, when it cannot."""
        try:
            config: PredictConfig = self.form.read()
            slides = self._chosen_slides()
        except (ConfigError, ProjectError) as error:
            self.message.tell(sentence(error), is_error=True)
            return False
        project, run = self.session.require_project(), self.run_choice.currentData()
        first_box = self._visible_box() if slides[0] == self.session.current_slide else None

        def events() -> Iterator[Event]:
            load_torch_for_job()
            return project.predict(slides, run, config, first_box=first_box)

        return self.session.start(events, TITLE)

    def export(self, path: str | Path) -> bool:
        """Write the map in view, in a thread, as its name says; False when there is none that is complete."""
        stored = self._shown
        if stored is None or not stored.complete:
            self.message.tell("There is no complete map of this slide to export; predict it first.", is_error=True)
            return False
        project, threshold = self.session.require_project(), self.threshold.value()
        self.message.tell(f"Writing {Path(path).name} ...")
        self.errands.run(
            lambda: project.export(stored.path, path, threshold=threshold),
            lambda _none: self.message.tell(f"Exported to {path}."),
            lambda error: self.message.tell(sentence(error), is_error=True),
        )
        return True

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

    def _list_slides(self) -> None:
        project = self.session.project
        slides = [slide.id for slide in project.cohort] if project is not None else []
        entries: list[tuple[str, Any]] = [("Slide in view", CURRENT), (f"All {len(slides)} slides", ALL)]
        refill(self.slide_choice, entries + [(slide, (slide,)) for slide in slides])
        self._update()

    def _chosen_slides(self) -> list[str]:
        chosen = self.slide_choice.currentData()
        project = self.session.require_project()
        if not project.runs():
            raise ProjectError("There is no trained model yet. Train one in the Training dock.")
        if chosen == ALL:
            slides = [slide.id for slide in project.cohort]
            return sorted(slides, key=lambda slide: slide != self.session.current_slide)
        if chosen != CURRENT:
            return list(chosen)
        if self.session.current_slide is None:
            raise ProjectError("No slide is in view. Show one from the Slides dock, or choose slides here.")
        return [self.session.current_slide]

    def _visible_box(self) -> Box | None:
        """What the window shows of the slide, in level-0 pixels: it is predicted first."""
        layer = find_layer(self.viewer, "slide", self.session.current_slide or "")
        if layer is None:
            return None
        factor = layer.downsample_factors[layer.data_level][:2]
        (y0, x0), (y1, x1) = (layer.corner_pixels[:, :2] * factor).round().astype(int).tolist()
        return Box(y0, x0, y1, x1) if y1 > y0 and x1 > x0 else None

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
            begun = replace(event.begun, probabilities=event.begun.probabilities.copy())
            self._growing = _Stored(begun, event.path, complete=False)
            if begun.slide_id == self.session.current_slide:
                self._show(self._growing)
        elif isinstance(event, BlockDone):
            self._on_block(event)
        elif isinstance(event, Predicted):
            self._on_predicted(event)

    def _on_block(self, event: BlockDone) -> None:
        if self._growing is not None:
            self._growing.prediction.probabilities[:, event.rows, event.columns] = event.probabilities
            if self._view is not None and self._shown is self._growing:
                self._view.write(event.rows, event.columns, event.probabilities)

    def _on_predicted(self, event: Predicted) -> None:
        self._growing = None
        if event.path is not None and event.result.slide_id == self.session.current_slide:
            self._show(_Stored(event.result, event.path, complete=True))

    def _on_end(self, _end: JobEnd) -> None:
        self._growing = None
        self._timer.stop()
        self._refresh()
        self.job.rest()
        self._update()

    def _refresh(self) -> None:
        if self._view is not None:
            self._view.refresh()

    def _on_project(self) -> None:
        self._hide_map()
        self.list_runs()
        self._list_slides()

    def _on_current(self, slide_id: str) -> None:
        """Show what there is of the slide that came into view: the map that grows, or the newest that is stored."""
        self._hide_map()
        project = self.session.project
        if self._growing is not None and self._growing.prediction.slide_id == slide_id:
            self._show(self._growing)
        elif project is not None and slide_id:
            self.errands.run(lambda: _newest_map(project, slide_id), self._on_read, self.session.report)

    def _on_read(self, stored: _Stored | None) -> None:
        if stored is not None and self._view is None and stored.prediction.slide_id == self.session.current_slide:
            self._show(stored)

    # -- the map ------------------------------------------------------------------------------------------------------

    def _show(self, stored: _Stored) -> None:
        """Put a map into the viewer; the same map, further on, goes into the layers that show it."""
        classes = stored.prediction.classes
        same = (
            self._view is not None
            and self._view.is_in_viewer
            and self._shown is not None
            and self._shown.path == stored.path
            and self._view.prediction.classes == classes
            and self._view.prediction.grid == stored.prediction.grid
        )
        self._shown = stored
        if same and self._view is not None:
            self._view.replace(stored.prediction)
        else:
            self._view = MapView(self.viewer, stored.prediction, self.session.require_project().colors)
            probabilities = [(f"Probability of {name}", name) for name in classes]
            entries = [("Most probable class", None), *probabilities, ("Uncertainty (0 to 1)", UNCERTAINTY)]
            refill(self.view_choice, entries)
            self._on_view_choice()
            self._on_threshold()
        self._update()

    def _hide_map(self) -> None:
        self._shown = self._view = None
        self._update()

    def _on_view_choice(self) -> None:
        chosen = self.view_choice.currentData()
        if self._view is not None and chosen is UNCERTAINTY:
            self._view.show_uncertainty()
        elif self._view is not None:
            self._view.show_class(chosen)
        self.threshold.setEnabled(chosen is None)

    def _on_threshold(self) -> None:
        if self._view is not None:
            self._view.set_threshold(self.threshold.value())
            self._tell_legend()

    def _on_cursor(self, _event: Any = None) -> None:
        """Say what the map has below the mouse, from its own numbers, whatever layer is shown."""
        if self._view is not None and not self.map_box.isHidden():
            y, x = self.viewer.cursor.position[-2:]
            self.here.setText(self._view.told_at((float(y), float(x))))

    def _tell_legend(self) -> None:
        if self._shown is not None:
            colors = self.session.require_project().colors
            areas = self._shown.complete
            self.legend.setText(legend(self._shown.prediction, colors, self.threshold.value(), with_areas=areas))

    def _update(self) -> None:
        """Enable what can be clicked, and say the score of a whole map."""
        self.job.update_buttons()
        self.map_box.setVisible(self._shown is not None)
        complete = self._shown is not None and self._shown.complete
        self.export_button.setEnabled(complete)
        self.score.setText(told_score(self._shown.prediction) if self._shown is not None and complete else "")
        self.score.setVisible(complete)
        self.here.clear()
        self.correction.fill()
        self._tell_legend()

    def _choose_export(self) -> None:
        start = f"{self._shown.prediction.slide_id}.geojson" if self._shown is not None else ""
        path, chosen = QFileDialog.getSaveFileName(self, "Export the map", start, ";;".join(FILTERS))
        if path:
            self.export(with_suffix(path, chosen))


def with_suffix(path: str, chosen_filter: str) -> str:
    """Give a file's name the suffix of the chosen kind unless it has one of ours."""
    return path if path.lower().endswith(io.MAP_SUFFIXES) else path + FILTERS[chosen_filter]


def _told() -> QLabel:
    label = QLabel()
    label.setWordWrap(True)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    return label


def _newest_map(project: Project, slide_id: str) -> _Stored | None:
    maps = project.maps(slide_id)
    return _Stored(io.read_map(maps[-1]), maps[-1], complete=True) if maps else None


def _rows(**editors: QWidget) -> QWidget:
    rows = QWidget()
    layout = QFormLayout(rows)
    layout.setContentsMargins(0, 0, 0, 0)
    for label, editor in editors.items():
        layout.addRow(label, editor)
    return rows
