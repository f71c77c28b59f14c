"""The Live dock: label, see the map change, correct, repeat; and what to label next, and what helps on these slides."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QCoreApplication, Signal
from superqt import QCollapsible

from napari_slidecorr._napari.desk import desk_of
from napari_slidecorr._napari.dock import Dock
from napari_slidecorr._napari.errands import Errands
from napari_slidecorr._napari.film_strip import FilmStrip
from napari_slidecorr._napari.form import make_form
from napari_slidecorr._napari.keep_box import KeepBox
from napari_slidecorr._napari.live_facts import LiveFacts
from napari_slidecorr._napari.live_gaze import LiveGaze
from napari_slidecorr._napari.live_map import OTHER_MAPS, LiveMap
from napari_slidecorr._napari.live_status import LiveStatus, line
from napari_slidecorr._napari.live_worker import LiveWorker, await_stopped
from napari_slidecorr._napari.parts import box, button, timer
from napari_slidecorr._napari.remedy_box import RemedyBox
from napari_slidecorr._napari.strip_labels import StripLabels
from napari_slidecorr._napari.travel import Traveller
from napari_slidecorr.backbone_table import BACKBONES
from napari_slidecorr.events import Event, JobEnd, Notice
from napari_slidecorr.geometry import Box
from napari_slidecorr.live_config import LiveConfig
from napari_slidecorr.live_events import (
    CacheTold,
    LiveBegun,
    LiveCells,
    LiveFilled,
    LiveFitted,
    LiveJudged,
    LiveSuggested,
    LiveSuggestion,
    LiveWaits,
)
from napari_slidecorr.regions import RegionSet
from napari_slidecorr.session import sentence

if TYPE_CHECKING:
    import napari.viewer

    from napari_slidecorr.fast_config import FastConfig

LABEL_MS = 150
"""Strokes within so long are one change."""

PAINT_MS = 60
"""A growing map is painted at most so often."""

CLOSE_S = 10.0


class LiveDock(Dock):
    """Train while you label.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer

    Attributes
    ----------
    painted
        Signal with a slide's id, the version of its regions, and whether all of the slide is painted.
    """

    painted = Signal(str, int, bool)

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        self.desk = desk_of(napari_viewer)
        self.map: LiveMap | None = None
        self._errands = Errands(self)
        self.worker = LiveWorker(self)
        self.gaze = LiveGaze(napari_viewer, self.session, self, self._on_look)
        self.traveller = Traveller(self.desk, self)
        self.labels = StripLabels(self.desk, self._relabel, self)
        self._changed: set[str] = set()
        self._waits = False
        self._running: tuple[FastConfig, Any] | None = None
        self._tell_timer = timer(LABEL_MS, self._tell_changes, self)
        self._paint_timer = timer(PAINT_MS, self._paint, self)
        self._make_parts()
        self._connect()
        self._on_project()

    def _make_parts(self) -> None:
        names = [known.name for known in BACKBONES if known.usable]
        self.form = make_form(LiveConfig(), {"backbone": ["tf_efficientnet_lite0", "resnet18", "resnet50", *names]})
        self.live_button = button(
            "Start live", "Compute features, and fit a head at each change of regions.", self.toggle
        )
        self.phase = line()
        self.facts = LiveFacts(self._errands, self.message.tell)
        fold = QCollapsible("Features")
        fold.setDuration(0)
        fold.addWidget(self.facts)
        self.fold = fold
        self.told = LiveStatus(self._go_without)
        self.keeping = KeepBox(self.session, self._plain_config, self.labels.flush_all, self.message.tell, self.attempt)
        self.strip = FilmStrip(self._errands)
        self.remedies = RemedyBox(self.session, self._plain_config, self.attempt)
        self.strip_box = box("What to label next", self.strip)
        parts = (
            box("Live", self.form, self.live_button, self.phase, fold),
            self.message,
            box("Model", self.told, self.keeping),
            self.strip_box,
            box("What helps", self.remedies),
        )
        for part in parts:
            self.body.addWidget(part)
        self.body.addStretch(1)

    def _connect(self) -> None:
        self.worker.happened.connect(self._on_event)
        self.worker.failed.connect(self._on_failed)
        self.strip.labelled.connect(self._on_labelled)
        self.strip.skipped.connect(lambda one: self.worker.wishes.skip(one.slide_id, one.cell))
        self.strip.asked.connect(lambda one: self.attempt(lambda: self.traveller.go(one.slide_id, one.box)))
        self.remedies.used.connect(self.keeping.use)
        session = self.session
        self.listen(session.message, self.message.tell)
        self.listen(session.project_changed, self._on_project)
        self.listen(session.slides_changed, self._on_cohort)
        self.listen(session.classes_changed, self._on_cohort)
        self.listen(session.regions_changed, self._on_saved)
        self.listen(session.current_slide_changed, self._on_slide)
        self.listen(session.job_started, self._on_job)
        self.listen(session.job_event, self._on_job_event)
        self.listen(session.job_ended, self._on_job_end)
        self.listen(self.desk.edited, self._on_edited)
        viewer = self.desk.viewer
        self._hear(viewer.cursor.events.position, self._on_cursor)
        self._hear(viewer.layers.events.inserted, self._on_layer)
        stop = weakref.WeakMethod(self.close_worker)  # Qt would keep the dock for ever
        quits = QCoreApplication.instance().aboutToQuit
        quits.connect(lambda: alive() if (alive := stop()) else await_stopped(CLOSE_S))
        worker = self.worker
        self.destroyed.connect(lambda: worker.running and worker.stop(CLOSE_S))  # with the window, without the x

    def _hear(self, emitter: Any, slot: Callable[[Any], None]) -> None:
        """Connect an event of the viewer for as long as the dock lives; a method of a deleted dock cannot be disconnected."""
        alive = weakref.WeakMethod(slot)

        def heard(event: Any) -> None:
            if (method := alive()) is not None:
                method(event)

        emitter.connect(heard)
        self.destroyed.connect(lambda: emitter.disconnect(heard))

    # -- what a script may call too -----------------------------------------------------------------------------------

    def toggle(self) -> None:
        """Start, or stop."""
        if self.worker.running:
            self.stop()
        else:
            self.attempt(self.start)

    def start(self) -> None:
        """Begin with the settings in the form.

        Raises
        ------
        ProjectError
            If no project is open.
        ConfigError
            If a setting is not allowed; its field is marked.
        """
        project, config = self.session.require_project(), self._plain_config()
        self._begin(config)
        self.message.tell("")
        self.gaze.look()
        for editor in self.desk.editors():  # what was drawn and is not saved yet
            self.worker.wishes.relabel(editor.slide_id, editor.regions)
        self._running = config, (project.cohort, project.classes)
        self._show_running()

    def _begin(self, config: FastConfig) -> None:
        wishes = self.worker.start(self.session.require_project(), config)
        wishes.rest(resting=self.session.busy)
        self.facts.begin()
        self._changed.clear()
        self._waits = False
        self.told.rest("Starting ...")
        self.fold.expand(animate=False)

    def stop(self) -> None:
        """End, and take the map away; features that were computed are kept."""
        self.worker.stop()
        self._running = None
        if self.map is not None:
            self.map.remove()
            self.map = None
        self.strip.show_suggestions((), None, {})
        self.told.rest("Not running.")
        self.phase.setText("")
        self._show_running()

    def shut(self) -> None:
        """End, without a wait for the thread, which reads a slide to the end of a block."""
        self.labels.flush_all()
        self.stop()

    def close_worker(self) -> None:
        """End, and wait for the thread: the program is about to end."""
        self.labels.flush_all()
        self.worker.stop(CLOSE_S)

    def _plain_config(self) -> FastConfig:
        config: LiveConfig = self.form.read()
        return config.fast

    # -- what the window says -----------------------------------------------------------------------------------------

    def _on_look(self, slide_id: str, seen: Box | None) -> None:
        self.worker.wishes.look(slide_id, seen)

    def _on_slide(self, slide_id: str) -> None:
        self.labels.flush(slide_id)
        if self.map is not None and self.map.prediction.slide_id != slide_id:
            self.map.remove()
            self.map = None
        self.gaze.look()

    def _on_edited(self, slide_id: str) -> None:
        """Regions changed under a hand: told soon, with what else changes meanwhile."""
        self._changed.add(slide_id)
        if self.worker.running and not self._tell_timer.isActive():
            self._tell_timer.start()

    def _tell_changes(self) -> None:
        changed, self._changed = self._changed, set()
        for slide_id in changed:
            self._relabel(slide_id, self.desk.regions(slide_id))

    def _relabel(self, slide_id: str, regions: RegionSet | None) -> None:
        self.worker.wishes.relabel(slide_id, regions)

    def _on_saved(self, slide_id: str) -> None:
        """Regions that no hand here has changed: imported, restored, or drawn elsewhere."""
        if self.desk.editor_of(slide_id) is None and not self.labels.telling:
            self._relabel(slide_id, None)

    def _on_cohort(self) -> None:
        """Slides or classes are others: begin anew, with the features that are kept. Other colours alone need nothing."""
        project = self.session.project
        if self._running is None or project is None:
            return
        config, known = self._running
        if known != (project.cohort, project.classes):
            self.labels.flush_all()
            self._begin(config)
            self.gaze.look()
            self._running = config, (project.cohort, project.classes)
        elif self.map is not None:
            self.map.set_colors(project.colors)

    def _on_project(self) -> None:
        self.labels.forget()
        self.keeping.use(None)
        self.remedies.forget()
        self.stop()
        for one in (self.keeping.job, self.remedies.job):
            one.update_buttons()

    def _on_layer(self, event: Any) -> None:
        """Another map of the slide came: hide it, unless a job makes it, which somebody wants to watch."""
        from napari_slidecorr._napari.layers import identity

        if self.map is not None and not self.session.busy and identity(event.value).get("kind") in OTHER_MAPS:
            self.map.hide_others()

    def _on_cursor(self, _event: Any = None) -> None:
        self.worker.wishes.move()
        if self.map is not None:
            y, x = self.desk.viewer.cursor.position[-2:]
            self.told.here.setText(self.map.told_at((float(y), float(x))))

    def _go_without(self) -> None:
        self.worker.wishes.go_without()

    def _on_labelled(self, suggestion: LiveSuggestion, class_name: str) -> None:
        if self.attempt(lambda: self.labels.add(suggestion.slide_id, suggestion.box, class_name)):
            self.message.tell(f"{suggestion.slide_id}: one patch is {class_name} now.")

    # -- what the worker says -----------------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        match event:
            case LiveCells():
                self._take(event)
            case LiveFilled():
                self.facts.show_filled(event)
                going_on = event.done < event.total and not event.trouble
                self.phase.setText(f"{event.phase}: {event.done:,} of {event.total:,}" if going_on else "")
            case CacheTold():
                self.facts.show_cache(event)
            case LiveBegun():
                self.phase.clear()
                self.message.tell(event.device)
            case Notice():
                self.message.tell(event.message, is_error=event.warning)
            case LiveFitted() | LiveWaits() | LiveJudged() | LiveSuggested():
                self._on_head(event)
            case _:
                self.phase.setText(event.phase)

    def _on_head(self, event: LiveFitted | LiveWaits | LiveJudged | LiveSuggested) -> None:
        match event:
            case LiveFitted():
                self._waits = False
                self.told.show_fitted(event)
            case LiveWaits():
                self._waits = True
                self.told.show_waits(event)
                if self.map is not None and self.map.is_in_viewer:
                    self.map.wait(waiting=True)
            case LiveJudged():
                self.told.show_judged(event, self.map)
            case LiveSuggested():
                project = self.session.require_project()
                self.strip.show_suggestions(event.suggestions, project, project.colors)

    def _on_failed(self, error: BaseException) -> None:
        self.stop()
        self.message.tell(sentence(error), is_error=True)

    def _take(self, cells: LiveCells) -> None:
        """Put cells into the map of the slide in view; painted at once where somebody looks."""
        if cells.slide_id != self.session.current_slide:
            return
        if self.map is None or not self.map.takes(cells):
            self.map = LiveMap(self.desk.viewer, cells, self.session.require_project().colors)
        self.map.write(cells)
        self.map.wait(waiting=self._waits)
        if cells.in_view:
            self._paint()
        elif not self._paint_timer.isActive():
            self._paint_timer.start()

    def _paint(self) -> None:
        if self.map is not None and self.map.is_in_viewer and self.map.refresh():
            self.told.show_score(self.map)
            self.painted.emit(self.map.prediction.slide_id, self.map.version, self.map.whole)

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def _on_job(self, _title: str) -> None:
        self.worker.wishes.rest(resting=True)
        for one in (self.keeping.job, self.remedies.job):
            if one.is_running:
                one.begin()
            one.update_buttons()

    def _on_job_event(self, event: Event) -> None:
        for one in (self.keeping.job, self.remedies.job):
            if one.is_running:
                one.show_event(event)

    def _on_job_end(self, _end: JobEnd) -> None:
        self.worker.wishes.rest(resting=False)
        for one in (self.keeping.job, self.remedies.job):
            one.rest()

    def _show_running(self) -> None:
        running = self.worker.running
        self.live_button.setText("Stop live" if running else "Start live")
        self.form.setEnabled(not running)
        self.strip_box.setVisible(running)
