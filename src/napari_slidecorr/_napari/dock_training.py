"""The Training dock: what will be trained on, settings, how it goes, and the trainings there are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_slidecorr._napari.desk import desk_of
from napari_slidecorr._napari.dock import Dock
from napari_slidecorr._napari.errands import Errands
from napari_slidecorr._napari.fold import Fold
from napari_slidecorr._napari.graphics_card import has_gpu
from napari_slidecorr._napari.job_bar import JobBar, say_not_now
from napari_slidecorr._napari.objective_choice import ObjectiveChoice
from napari_slidecorr._napari.parts import box, button, timer
from napari_slidecorr._napari.patch_counts import PatchCounts
from napari_slidecorr._napari.patch_preview import PatchCheck
from napari_slidecorr._napari.run_shelf import RunShelf
from napari_slidecorr._napari.training_doubts import all_doubts
from napari_slidecorr._napari.training_form import TrainingForm
from napari_slidecorr._napari.training_progress import TrainingProgress
from napari_slidecorr._napari.training_work import MakeEvents, new_comparison, new_training, onward, resumed
from napari_slidecorr.comparison import comparison_settings
from napari_slidecorr.config import TrainConfig
from napari_slidecorr.cross_validation import folds_settings
from napari_slidecorr.errors import ConfigError
from napari_slidecorr.events import BatchDone, EpochDone, Event, JobEnd
from napari_slidecorr.patches import PatchTable
from napari_slidecorr.runs import settings_of
from napari_slidecorr.session import sentence
from napari_slidecorr.stored_runs import Stored, StoredRun

if TYPE_CHECKING:
    import napari.viewer
    from qtpy.QtWidgets import QTreeWidgetItem

TITLE = "Training"
COUNT_MS = 300
"""Patches are counted when regions and settings have been left alone for so long."""

NO_PATCHES = (
    "No patches yet. Draw or import regions of two classes or more, on two slides or more, in the Regions dock."
)
LOOK_MS = 200
"""After a start the dock scrolls to the progress, once it is laid out."""


def _why_no_patch(table: PatchTable) -> str:
    if not table.slides:
        return NO_PATCHES
    size, mpp = table.geometry.size_px, table.geometry.mpp
    wide = f"{size} px" if mpp is None else f"{size * mpp:,.0f} µm ({size} px)"
    return f"No patch lies far enough inside a region: one is {wide} wide. Draw larger regions, or choose a smaller patch size."


class TrainingDock(Dock):
    """Choose settings, see what there is to train on, train, watch, cancel; look at trainings again and go on with them.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer

    Attributes
    ----------
    form : TrainingForm
    counts : PatchCounts
    job : JobBar
    progress : TrainingProgress
    shelf : RunShelf
    objectives : ObjectiveChoice
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        self.errands = Errands(self)
        self.form = TrainingForm("full" if has_gpu() else "fast")
        self.counts = PatchCounts()
        self.preview = desk_of(napari_viewer).patches
        self.patch_check = PatchCheck(self.preview)
        self.train_button = button("Train", "Train a model on the labelled regions of all slides.", self.train)
        self.resume_button = button(
            "Resume last",
            "Go on with the newest training that was stopped or failed, with its own settings.",
            self.resume,
        )
        self.job = JobBar(self.session, TITLE, self.train_button, self.resume_button)
        self.pause_button = button("Pause", "Rest after the running step; nothing is lost.", self.pause)
        self.job.buttons.layout().addWidget(self.pause_button)
        self.progress = TrainingProgress()
        self.shelf = RunShelf(self.session, self.message.tell)
        self.objectives = ObjectiveChoice(self.compare)
        self._lay_out()
        self._table: PatchTable | None = None
        self._asked, self._looked = 0, False
        self._soon = timer(COUNT_MS, self.count, self)
        self._look = timer(LOOK_MS, self._look_at_progress, self)
        self._connect()
        self._show_way()
        self._on_project()
        if self.job.is_running:
            self.progress.begin()
            self.progress.show_paused(paused=self.session.paused)

    def _lay_out(self) -> None:
        self.body.addWidget(box("Settings", self.form))
        self.body.addWidget(self.counts)
        for widget in (self.job, self.message, self.progress):
            self.body.addWidget(widget)
        self.body.addWidget(box("Trainings", self.shelf))
        self.compare_fold = Fold("Compare objectives ...", self.objectives)
        self.body.addWidget(self.compare_fold)
        self.body.addWidget(box("Patches", self.patch_check, self.counts.table))
        self.body.addStretch(1)

    def _connect(self) -> None:
        self.form.changed.connect(self._on_form)
        self.shelf.listed.connect(self._update_buttons)
        self.shelf.resume_asked.connect(self.resume_stored)
        self.shelf.continue_asked.connect(self._on_continue)
        self.shelf.list.itemDoubleClicked.connect(self._look_at_details)
        self.listen(self.session.message, self.message.tell)
        self.listen(self.preview.switched, self.patch_check.follow)
        self.listen(self.session.project_changed, self._on_project)
        self.listen(self.session.slides_changed, self._recount)
        self.listen(self.session.regions_changed, self._recount)
        self.listen(self.session.classes_changed, self._recount)
        self.listen(self.session.runs_changed, self.shelf.read)
        self.listen(self.session.continue_from, self.continue_from)
        self.listen(self.session.job_started, self._on_start)
        self.listen(self.session.job_event, self._on_event)
        self.listen(self.session.job_paused, self._on_paused)
        self.listen(self.session.job_ended, self._on_end)

    # -- what a script may call too -----------------------------------------------------------------------------------

    def train(self) -> bool:
        """Start a training with the settings of the form; False, with the reason in the dock, when it cannot."""
        try:
            config = self.form.read()
        except ConfigError as error:
            self.message.tell(sentence(error), is_error=True)
            return False
        project = self.session.require_project()
        return self._start(new_training(project, config, self.form.rounds, self.form.folds.value()))

    def compare(self) -> bool:
        """Start a comparison of the chosen variants with the settings of the full way; False when it cannot."""
        try:
            base: TrainConfig = self.form.forms["full"].read()
        except ConfigError as error:
            self.message.tell(sentence(error), is_error=True)
            return False
        wanted, project = self.objectives, self.session.require_project()
        same_split = wanted.same_split.isChecked()
        return self._start(new_comparison(project, base, wanted.variants, wanted.seeds.value(), same_split=same_split))

    def resume(self) -> bool:
        """Go on with the newest training that was stopped or failed; its settings are shown in the form."""
        stopped = self.shelf.newest_stopped
        if stopped is None:
            self.message.tell("There is no stopped training to go on with; press Train to start one.", is_error=True)
            return False
        return self.resume_stored(stopped)

    def resume_stored(self, stored: Stored) -> bool:
        """Go on with a training, folds or a comparison where it stopped."""
        earlier = stored.record.curve if isinstance(stored, StoredRun) else ()
        if not self.attempt(lambda: self._show_settings(stored)):
            return False
        project, config = self.session.require_project(), self.form.forms["full"].read()
        if not self._start(resumed(project, stored, config)):
            return False
        self.progress.begin(earlier)
        return True

    def continue_from(self, run: Path) -> None:
        """Show the settings of a finished run with its weights as the start; a click on *Train* goes on from there.

        A run in the project that held whole slides out is gone on with as such: the same slides stay held out.
        """
        told = ""

        def fill() -> None:
            nonlocal told
            config, told = onward(run, self.session.require_project().folder / "runs")
            self.form.set(config)
            self.form.set_rounds("once")

        if self.attempt(fill):
            self.message.tell(f"Ready to go on from {run.name}: {told}. Press Train.")
            self.ensureWidgetVisible(self.form)

    def pause(self) -> None:
        """Let the training rest, or go on."""
        if self.session.paused:
            self.session.resume()
        else:
            self.session.pause()

    def count(self) -> None:
        """Count the patches that the regions give, in a thread."""
        project = self.session.project
        if project is None:
            self.counts.tell("Open a project in the Slides dock.")
            return
        try:
            patches = self.form.edits["patches"].read()
        except ConfigError as error:
            self.counts.tell(sentence(error))
            return
        self.preview.configure(patches)
        self._asked += 1
        asked = self._asked
        self.errands.run(
            lambda: project.patch_table(patches),
            lambda table: self._on_counted(table) if asked == self._asked else None,
            lambda error: self._on_not_counted(error) if asked == self._asked else None,
        )

    # Slots are methods, not lambdas: those of Qt die with the dock, a lambda was seen to be called after it.

    def _look_at_progress(self) -> None:
        self.ensureWidgetVisible(self.progress)

    def _look_at_details(self, _item: QTreeWidgetItem, _column: int) -> None:
        self.ensureWidgetVisible(self.shelf.details)

    def _on_continue(self, stored: Stored) -> None:
        self.continue_from(stored.folder)

    # -- what happens -------------------------------------------------------------------------------------------------

    def _show_settings(self, stored: Stored) -> None:
        if isinstance(stored, StoredRun):
            self.form.set(settings_of(stored.folder))
            self.form.set_rounds("once")
        elif stored.kind == "folds":
            config, folds = folds_settings(stored.folder)
            self.form.set(config)
            self.form.set_rounds("each" if folds is None else "folds", folds)
        else:
            config, variants, seeds, same_split = comparison_settings(stored.folder)
            self.form.set(config)
            self.objectives.show_choice(variants, seeds, same_split=same_split)

    def _start(self, events: MakeEvents) -> bool:
        return self.session.start(events, TITLE)

    def _on_start(self, _title: str) -> None:
        self._update_buttons()
        if not self.job.is_running:
            return
        self.message.tell("")
        self.progress.begin()
        self.job.begin()
        self._update_buttons()
        self._looked = False
        self._look.start()

    def _on_event(self, event: Event) -> None:
        if not self.job.is_running:
            return
        if not isinstance(event, EpochDone):
            self.job.show_event(event, overall=isinstance(event, BatchDone) or self.form.way == "fast")
        self.progress.take(event)
        if isinstance(event, EpochDone):
            self.shelf.read_soon()
            if not self._looked:
                self._looked = True
                self._look.start()

    def _on_paused(self, paused: bool) -> None:  # noqa: FBT001 - the shape of Session.job_paused
        self.pause_button.setText("Go on" if paused else "Pause")
        self.progress.show_paused(paused=paused and self.job.is_running)

    def _on_end(self, _end: JobEnd) -> None:
        self.job.rest()
        self.progress.show_paused(paused=False)
        self.shelf.read()
        self._update_buttons()

    def _on_project(self) -> None:
        self._table = None
        self.counts.tell("" if self.session.project is not None else "Open a project in the Slides dock.")
        self._soon.start()
        self._update_buttons()
        self.shelf.read()

    def _recount(self, _slide_id: str = "") -> None:
        self._soon.start()

    def _on_form(self) -> None:
        self._show_way()
        self._soon.start()
        self._warn()

    def _show_way(self) -> None:
        """Show what belongs to the way, and never be narrower than that: there is no scrolling sideways."""
        self.compare_fold.setVisible(self.form.way == "full")
        least = self.widget().minimumSizeHint().width() + self.verticalScrollBar().sizeHint().width()
        self.setMinimumWidth(max(self.minimumWidth(), least))

    def _on_counted(self, table: PatchTable) -> None:
        self._table = table
        self.counts.show_table(table)
        if not len(table):
            self.counts.tell(_why_no_patch(table))
        self._warn()

    def _on_not_counted(self, error: BaseException) -> None:
        self._table = None
        self.counts.tell(sentence(error))

    def _warn(self) -> None:
        try:
            config = self.form.read()
        except ConfigError:
            return  # the field is marked; doubts are told when it is mended
        project, table = self.session.project, self._table
        if project is None or table is None or not len(table):
            return
        groups = {slide.id: slide.group for slide in project.cohort}
        if set(table.slides) <= set(groups):
            rounds, folds = self.form.rounds, self.form.folds.value()
            self.counts.warn(all_doubts(table, config, groups, rounds=rounds, folds=folds))

    def _update_buttons(self) -> None:
        self.job.update_buttons()
        idle = self.session.project is not None and not self.session.busy
        self.objectives.start_button.setEnabled(idle)
        say_not_now(self.objectives.start_button, self.job.waits_for)
        self.pause_button.setEnabled(self.job.is_running)
        self.pause_button.setText("Go on" if self.session.paused else "Pause")
        if self.shelf.newest_stopped is None:
            self.resume_button.setEnabled(False)
        self.shelf.update_buttons()
