"""What the Prediction dock shows of a map: its legend and scores, other maps beside it, corrections, and its export."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QCheckBox, QComboBox, QFormLayout, QLabel, QSizePolicy, QSpinBox, QVBoxLayout, QWidget
from superqt import QLabeledDoubleSlider

from napari_slidecorr._napari.dock import Dock, narrow, refill
from napari_slidecorr._napari.errands import Errands
from napari_slidecorr._napari.gaze import Gaze
from napari_slidecorr._napari.layers import Colors
from napari_slidecorr._napari.map_comparison import MapComparisonBox
from napari_slidecorr._napari.map_correction import MapCorrection
from napari_slidecorr._napari.map_export import MapExport
from napari_slidecorr._napari.map_layers import MAX_SPREAD, MapView, map_colors
from napari_slidecorr._napari.map_legend import MapLegend, told_score
from napari_slidecorr._napari.map_shelf import MapShelf
from napari_slidecorr._napari.open_dock import open_dock
from napari_slidecorr._napari.parts import box, timer
from napari_slidecorr._napari.stage import PAINT_MS
from napari_slidecorr.decision import Threshold, sane
from napari_slidecorr.errors import MapError, ProjectError
from napari_slidecorr.events import BlockDone, CellsDone
from napari_slidecorr.io import map_zarr
from napari_slidecorr.prediction_map import PredictionMap
from napari_slidecorr.stored_maps import StoredMap, remove_map, stored_maps

if TYPE_CHECKING:
    from napari_slidecorr.project import Project

REFRESH_MS = 200
"""A growing map is painted at most so often; each painting uploads it to the GPU."""

OWN_BOUNDS = "The model's own bounds"
OWN_BOUNDS_TIP = (
    "A cell has a class where exactly one class reaches its bound, found on held-out slides; else it is unsure, and grey. "
    "Without this the threshold below is the same for all classes."
)
ENTROPY, SPREAD = object(), object()
"""Entries of the drop-down *Show* that are no class."""

TOP_K = 100
"""Patches that the second slide score is the mean of, unless somebody says otherwise."""


@dataclass(frozen=True)
class ShownMap:
    """A map and where it is stored; while it is being made it is not complete."""

    prediction: PredictionMap
    path: Path
    complete: bool


class MapPanel(QWidget):
    """The map of the slide in view, the one that grows or a stored one.

    Parameters
    ----------
    dock : Dock
        Whose viewer, session and message line are used.
    gaze : Gaze
    """

    def __init__(self, dock: Dock, gaze: Gaze) -> None:
        super().__init__()
        self._dock, self._gaze = dock, gaze
        self._viewer, self._session = dock.viewer, dock.session
        self._errands = Errands(self)
        self._shown: ShownMap | None = None
        self._growing: ShownMap | None = None
        self._reading: Path | None = None
        self._after_paint = timer(PAINT_MS, self._show_current, self)
        self._view: MapView | None = None
        self._painted = 0.0
        self._make_parts()
        choices = rows(Map=self.shelf, Show=self.view_choice, Unsure=self.own_bounds, Threshold=self.threshold)
        self.top_row = rows(Highest=self.top_k)
        self.map_box = box("Map", choices, self.legend, self.here, self.score, self.top_row, self.exporting)
        self.compare_box = box("Compare", self.comparison)
        self.correct_box = box("Correct", self.correction)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for part in (self.map_box, self.exporting.job, self.compare_box, self.correct_box):
            layout.addWidget(part)
        self._connect()

    def _make_parts(self) -> None:
        self.view_choice = narrow(QComboBox())
        self.view_choice.setToolTip(
            "What the colours show: the most probable class, how probable one class is, or how unsure."
        )
        self.own_bounds = QCheckBox(OWN_BOUNDS)
        self.own_bounds.setToolTip(OWN_BOUNDS_TIP)
        self.own_bounds.setChecked(True)
        self.threshold = QLabeledDoubleSlider()
        self.threshold.setRange(0, 1)
        self.threshold.setSingleStep(0.05)
        self.threshold.setToolTip("Cells whose most probable class is less probable than this are unsure, and grey.")
        self.top_k = QSpinBox()
        self.top_k.setRange(1, 1_000_000)
        self.top_k.setValue(TOP_K)
        self.top_k.setToolTip("Patches of the highest probability of a class, whose mean is the second slide score.")
        self.legend = MapLegend()
        self.score, self.here = _line(), _line()
        self.here.setMinimumHeight(2 * self.here.fontMetrics().lineSpacing())  # the dock must not jump with the mouse
        self.here.setAlignment(Qt.AlignmentFlag.AlignTop)
        tell, attempt = self._dock.message.tell, self._dock.attempt
        self.shelf = MapShelf(self._remove)
        self.exporting = MapExport(tell, self._session)
        self.comparison = MapComparisonBox(self._viewer, self._gaze.box, attempt, self._session.report)
        self.correction = MapCorrection(
            self._viewer, lambda: self._view, attempt, tell, lambda: attempt(self.train_again)
        )

    def _connect(self) -> None:
        self.view_choice.currentIndexChanged.connect(self._on_view_choice)
        self.threshold.valueChanged.connect(self._on_threshold)
        self.own_bounds.toggled.connect(self._on_threshold)
        self.top_k.valueChanged.connect(self._tell_score)
        self.legend.alpha_changed.connect(self._on_alpha)
        self.shelf.chosen.connect(self._on_chosen)
        self.comparison.begun.connect(self._on_compared)
        cursor = getattr(self._viewer, "__wrapped__", self._viewer).cursor
        cursor.events.position.connect(self._on_cursor)
        self.destroyed.connect(lambda: cursor.events.position.disconnect(self._on_cursor))
        self.exporting.follow(self._dock)
        self._dock.listen(self._session.maps_changed, self._on_maps)
        self._dock.listen(self._session.classes_changed, self._on_classes)
        self._dock.listen(self._session.current_slide_changed, self.show_slide)

    # -- a map that grows ---------------------------------------------------------------------------------------------

    def begin(self, prediction: PredictionMap, path: Path) -> None:
        """A map is being made."""
        self._growing = ShownMap(prediction, path, complete=False)
        if prediction.slide_id == self._session.current_slide:
            self.show_map(self._growing)
            self._list_maps()

    def grow(self, event: BlockDone | CellsDone) -> None:
        """Put cells into the map that is being made; painted at once if it was not a moment ago."""
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
                self.refresh()

    def finish(self, prediction: PredictionMap, path: Path | None, *, complete: bool) -> None:
        """A map has been made, or the part of it that was asked for."""
        self._growing = None
        if path is not None and prediction.slide_id == self._session.current_slide:
            self.show_map(ShownMap(prediction, path, complete=complete))

    def rest(self) -> None:
        """Nothing is being made any more."""
        self._growing = None
        self.refresh()
        self._list_maps()
        self.update_parts()

    def refresh(self) -> None:
        """Paint what has come since the last time."""
        if self._view is not None:
            self._view.refresh()
            self._painted = time.monotonic()

    # -- stored maps --------------------------------------------------------------------------------------------------

    def show_slide(self, slide_id: str) -> None:
        """Show what there is of the slide that came into view: the map that grows, or the newest that is stored."""
        self.hide_map()
        self._gaze.look()
        project = self._session.project
        if self._growing is not None and self._growing.prediction.slide_id == slide_id:
            self.show_map(self._growing)
        elif project is not None and slide_id:
            self._errands.run(lambda: _newest_map(project, slide_id), self._on_read, self._session.report)
        self._list_maps()

    def _on_read(self, shown: ShownMap | None) -> None:
        if shown is not None and self._view is None and shown.prediction.slide_id == self._session.current_slide:
            self.show_map(shown)
            self._list_maps()

    def _on_maps(self, slide_id: str) -> None:
        if slide_id == self._session.current_slide:
            self._list_maps()

    def _list_maps(self) -> None:
        """List the stored maps of the slide in view, in a thread: their descriptions are read."""
        project, slide_id = self._session.project, self._session.current_slide
        if project is None or not slide_id:
            self._on_listed(slide_id, [])
        else:
            self._errands.run(
                lambda: stored_maps(project, slide_id), partial(self._on_listed, slide_id), self._session.report
            )

    def _on_listed(self, slide_id: str | None, stored: list[StoredMap]) -> None:
        if slide_id == self._session.current_slide:
            shown = self._shown.path if self._shown is not None else None
            self.shelf.fill(stored, self._reading or shown)
            self._offer()

    def _on_chosen(self, stored: StoredMap) -> None:
        """Show another stored map; the one that grows is shown as it is now."""
        if self._growing is not None and self._growing.path == stored.path:
            self.show_map(self._growing)
        else:
            self._reading = stored.path  # stays chosen when the maps are listed anew meanwhile
            self._errands.run(
                lambda: _read(stored), partial(self._on_chosen_read, stored), partial(self._on_not_read, stored)
            )

    def _on_chosen_read(self, stored: StoredMap, shown: ShownMap) -> None:
        if self._reading == stored.path:
            self._reading = None
            self.show_map(shown)

    def _on_not_read(self, stored: StoredMap, error: BaseException) -> None:
        if self._reading == stored.path:
            self._reading = None
        self._session.report(error)

    def _remove(self, stored: StoredMap) -> None:
        """Take a map out of the project, unless it is being made."""

        def remove() -> None:
            if self._growing is not None and self._growing.path == stored.path:
                raise ProjectError("This map is being made; cancel the prediction first.")
            moved = remove_map(self._session.require_project(), stored)
            self._dock.message.tell(f"The map lies in {moved} now.")
            self.remove_layers()
            self._after_paint.start()

        self._dock.attempt(remove)

    def _show_current(self) -> None:
        self.show_slide(self._session.current_slide or "")

    def train_again(self) -> None:
        """Open the Training dock with the model of the map in view as the start.

        Raises
        ------
        MapError
            If the project does not have its run any more.
        """
        stored = self.shelf.current
        if stored is None or not stored.run:
            raise MapError("The project does not have the training of this map's model any more; start a new one.")
        run = self._session.require_project().folder / "runs" / stored.run
        open_dock(self._viewer, "Training")
        self._session.continue_from.emit(run)

    # -- the map in view ----------------------------------------------------------------------------------------------

    @property
    def view(self) -> MapView | None:
        """The layers of the map in view."""
        return self._view

    def show_map(self, shown: ShownMap) -> None:
        """Put a map into the viewer; the same map, further on, goes into the layers that show it."""
        prediction = shown.prediction
        view, before = self._view, self._shown
        self._shown = shown
        if view is not None and before is not None and before.path == shown.path and view.takes(prediction):
            view.replace(prediction)
        else:
            self.comparison.end()
            self._view = MapView(self._viewer, prediction, self._colors, self.legend.opacities)
            probabilities = [(f"Probability of {name}", name) for name in prediction.classes]
            entries = [("Most probable class", None), *probabilities, ("Uncertainty (entropy)", ENTROPY)]
            if prediction.spread is not None:
                entries.append(("Uncertainty (spread over orientations)", SPREAD))
            refill(self.view_choice, entries)
            self._on_view_choice()
            self._on_threshold()
        self.update_parts()
        self._offer()

    def hide_map(self) -> None:
        """Show no map; its layers stay in the viewer."""
        self._reading = None
        self.comparison.end()
        self.correction.rest()
        self._shown = self._view = None
        self._offer()
        self.update_parts()

    def remove_layers(self) -> None:
        """Show no map, and take its layers out of the viewer."""
        view = self._view
        self.hide_map()
        if view is not None:
            view.remove()

    def _offer(self) -> None:
        """Say to export and comparison what there is."""
        project, shown = self._session.project, self._shown
        whole = shown is not None and shown.complete
        what = (project, shown.path, shown.prediction.slide_id) if project is not None and shown and whole else None
        self.exporting.offer(what, self.needed)
        others = [one for one in self.shelf.stored if shown is not None and one.path != shown.path]
        self.comparison.offer(self._view, self._colors, others)
        self.compare_box.setVisible(self._view is not None and bool(others))

    @property
    def _colors(self) -> Colors:
        """Of all classes of the project, and of those that only the map in view has."""
        project, shown = self._session.project, self._shown
        known = project.colors if project is not None else {}
        return map_colors(shown.prediction.classes if shown is not None else (), known)

    def _on_view_choice(self) -> None:
        chosen = self.view_choice.currentData()
        if self._view is not None:
            self.comparison.end()
            if chosen is ENTROPY or chosen is SPREAD:
                self._view.show_uncertainty("entropy" if chosen is ENTROPY else "spread")
            else:
                self._view.show_class(chosen)
            self._tell_legend()
        self._offer_bounds()

    def needed(self) -> Threshold:
        """What a class must reach to be shown and exported: None for the model's own bounds."""
        has = self._shown is not None and bool(self._shown.prediction.bounds)
        value = float(self.threshold.value())
        return None if self.own_bounds.isChecked() and (has or not value) else value

    def _offer_bounds(self) -> None:
        """Offer what the map in view knows: maps of models without bounds have the slider alone."""
        shown, shows_classes = self._shown, self.view_choice.currentData() is None
        bounds = dict(zip(shown.prediction.classes, sane(shown.prediction.bounds), strict=False)) if shown else {}
        told = ", ".join(f"{name} {bound:.2f}" for name, bound in bounds.items())
        self.own_bounds.setToolTip(f"{OWN_BOUNDS_TIP} {told}".strip())
        self.own_bounds.setEnabled(bool(bounds) and shows_classes)
        self.threshold.setEnabled(shows_classes and not (bounds and self.own_bounds.isChecked()))

    def _on_compared(self) -> None:
        """Two maps are compared by their class maps, so that is what *Show* and the legend say."""
        self.view_choice.blockSignals(True)
        self.view_choice.setCurrentIndex(0)
        self.view_choice.blockSignals(False)
        self._tell_legend()
        self._offer_bounds()

    def _on_threshold(self) -> None:
        self._offer_bounds()
        if self._view is not None:
            self._view.set_threshold(self.needed())
            self.comparison.follow()
            self._tell_legend()

    def _on_alpha(self, name: str, alpha: float) -> None:
        if self._view is not None:
            self._view.set_alpha(name, alpha)

    def _on_classes(self) -> None:
        """Colours or names have changed."""
        self.correction.fill()
        if self._view is not None:
            self._view.set_colors(self._colors)
            self._tell_legend()

    def _on_cursor(self, _event: Any = None) -> None:
        """Say what the map has below the mouse, from its own numbers, whatever layer is shown."""
        if self._view is not None and not self.map_box.isHidden():
            y, x = self._viewer.cursor.position[-2:]
            self.here.setText(self._view.told_at((float(y), float(x))))

    def _tell_legend(self) -> None:
        if self._shown is None or self._view is None:
            return
        chosen = self.view_choice.currentData()
        if chosen is None:
            prediction, areas = self._shown.prediction, self._shown.complete
            self.legend.show_classes(prediction, self._colors, self.needed(), with_areas=areas)
            return
        high = {ENTROPY: "1: all classes alike", SPREAD: f"{MAX_SPREAD:g}"}.get(chosen, "1")
        self.legend.show_ramp(self._view.probability.colormap, "0", high)

    def _tell_score(self) -> None:
        shown = self._shown
        whole = shown is not None and shown.complete
        self.score.setText(told_score(shown.prediction, self.top_k.value()) if shown is not None and whole else "")
        for part in (self.score, self.top_row):
            part.setVisible(whole)

    def update_parts(self) -> None:
        """Show what there is to say of the map in view."""
        for part in (self.map_box, self.correct_box):
            part.setVisible(self._shown is not None)
        self.here.clear()
        self.correction.fill()
        self._tell_score()
        self._tell_legend()


def _line() -> QLabel:
    label = QLabel()
    label.setWordWrap(True)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    return label


def _newest_map(project: Project, slide_id: str) -> ShownMap | None:
    stored = stored_maps(project, slide_id)
    return _read(stored[-1]) if stored else None


def _read(stored: StoredMap) -> ShownMap:
    return ShownMap(map_zarr.read(stored.path, allow_incomplete=True), stored.path, complete=stored.complete)


def rows(**editors: QWidget) -> QWidget:
    """Editors below each other, with a label before each."""
    made = QWidget()
    layout = QFormLayout(made)
    layout.setContentsMargins(0, 0, 0, 0)
    for label, editor in editors.items():
        layout.addRow(label, editor)
    return made
