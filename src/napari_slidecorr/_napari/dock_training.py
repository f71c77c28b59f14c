"""The Training dock: what will be trained on, settings, a live curve, and the models that came of it."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel, QListWidget, QListWidgetItem, QSizePolicy

from napari_slidecorr._napari.curve import Curve
from napari_slidecorr._napari.desk import desk_of
from napari_slidecorr._napari.dock import Dock
from napari_slidecorr._napari.errands import Errands
from napari_slidecorr._napari.form import make_form
from napari_slidecorr._napari.job_bar import JobBar
from napari_slidecorr._napari.parts import box, button, timer
from napari_slidecorr._napari.patch_counts import PatchCounts, doubts
from napari_slidecorr._napari.patch_preview import PatchCheck
from napari_slidecorr._napari.torch_door import load_torch_for_job
from napari_slidecorr.config import TrainConfig
from napari_slidecorr.errors import ConfigError
from napari_slidecorr.events import BatchDone, EpochDone, Event, JobEnd, Notice
from napari_slidecorr.patches import PatchTable
from napari_slidecorr.runs import settings_of
from napari_slidecorr.session import sentence
from napari_slidecorr.settings import fields_of

if TYPE_CHECKING:
    import napari.viewer

    from napari_slidecorr.project import Project

BACKBONES = ("resnet18", "resnet50", "densenet121", "alexnet", "vgg16")
WEIGHTS = ("imagenet", "random")
TITLE = "Training"
COUNT_MS = 300
"""Patches are counted when regions and settings have been left alone for so long."""


class TrainingDock(Dock):
    """Choose settings, see what there is to train on, train, watch, cancel.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        self.errands = Errands(self)
        self.form = make_form(TrainConfig(), {"backbone": BACKBONES, "weights": WEIGHTS})
        self.counts = PatchCounts()
        self.train_button = button("Train", "Train a model on the labelled regions of all slides.", self.train)
        self.resume_button = button(
            "Resume", "Go on with the last training that was stopped, with its own settings.", self.resume
        )
        self.job = JobBar(self.session, TITLE, self.train_button, self.resume_button)
        self.terms, self.scores, self.notices = (_line() for _ in range(3))
        self.curve = Curve()
        self.runs = QListWidget()
        self.runs.setFixedHeight(90)
        self.runs.itemDoubleClicked.connect(self._show_run)
        self.body.addWidget(box("Settings", self.form))
        self.preview = desk_of(napari_viewer).patches
        self.patch_check = PatchCheck(self.preview)
        self.body.addWidget(box("Patches", self.counts, self.patch_check))
        self.body.addWidget(self.job)
        self.body.addWidget(self.message)
        self.progress = box("Progress", self.notices, self.terms, self.scores, self.curve)
        self.body.addWidget(self.progress)
        self.body.addWidget(box("Trained models", self.runs))
        self.body.addStretch(1)
        self.progress.hide()
        self._table: PatchTable | None = None
        self._asked = 0
        self._soon = timer(COUNT_MS, self.count, self)
        self._connect()
        self._on_project()

    def _connect(self) -> None:
        self.form.changed.connect(self._on_form)
        self.listen(self.session.message, self.message.tell)
        self.listen(self.preview.switched, self.patch_check.follow)
        self.listen(self.session.project_changed, self._on_project)
        self.listen(self.session.slides_changed, self._recount)
        self.listen(self.session.regions_changed, self._recount)
        self.listen(self.session.runs_changed, self.list_runs)
        self.listen(self.session.continue_from, self.continue_from)
        self.listen(self.session.job_started, self._on_start)
        self.listen(self.session.job_event, self._on_event)
        self.listen(self.session.job_ended, self._on_end)

    # -- what a script may call too -----------------------------------------------------------------------------------

    def train(self) -> bool:
        """Start a training with the settings of the form; False, with the reason in the dock, when it cannot."""
        try:
            config = self.form.read()
        except ConfigError as error:
            self.message.tell(sentence(error), is_error=True)
            return False
        return self._start(config, None)

    def resume(self) -> bool:
        """Go on with the newest training that was stopped; its settings are shown in the form."""
        project = self.session.require_project()
        stopped = stopped_run(project)
        if stopped is None:
            self.message.tell("There is no stopped training to go on with.", is_error=True)
            return False
        return self.attempt(lambda: self.form.set(settings_of(stopped))) and self._start(self.form.read(), stopped.name)

    def continue_from(self, run: Path) -> None:
        """Show the settings of a finished run with its weights as the start; a click on *Train* goes on from there."""

        def fill() -> None:
            self.form.set(replace(settings_of(run), weights=str(run / "model.safetensors")))

        if self.attempt(fill):
            self.message.tell(f"Ready to go on from {run.name}: its settings, and its weights as the start. Press Train.")

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

    def list_runs(self) -> None:
        """List the finished trainings, the newest first."""
        self.runs.clear()
        project = self.session.project
        for run in reversed(project.runs() if project is not None else []):
            auc = held_out_auc(run)
            item = QListWidgetItem(run.name if auc is None else f"{run.name}   held-out AUC {auc:.3f}")
            item.setData(Qt.ItemDataRole.UserRole, run)
            item.setToolTip(f"{objective_of(run)}\n{run}\nDouble-click: show its curve.")
            self.runs.addItem(item)
        self._update_buttons()

    def show_run(self, run: Path) -> None:
        """Show the curve of a finished training, unless one is running."""
        if self.job.is_running:
            self.message.tell("The running training's curve is shown; look at others when it has ended.")
            return
        epochs = curve_of(run)
        if not epochs:
            self.message.tell(f"{run.name}: its curve cannot be read.", is_error=True)
            return
        self.curve.show_epochs(epochs)
        self.terms.hide()
        _say(self.notices, f"{run.name}: {objective_of(run)}")
        _say(self.scores, told_scores(epochs[-1]))
        self.progress.show()

    # -- what happens -------------------------------------------------------------------------------------------------

    def _start(self, config: TrainConfig, resumed: str | None) -> bool:
        project = self.session.require_project()

        def events() -> Iterator[Event]:
            load_torch_for_job()
            return project.train(config, name=resumed, resume=resumed is not None)

        return self.session.start(events, TITLE)

    def _on_start(self, _title: str) -> None:
        if not self.job.is_running:
            self.job.update_buttons()
            return
        self.message.tell("")
        self.curve.show_epochs([])
        for label in (self.terms, self.scores, self.notices):
            label.setText("")
            label.hide()
        self.progress.show()
        self.job.begin()

    def _on_event(self, event: Event) -> None:
        if not self.job.is_running:
            return
        if not isinstance(event, EpochDone):
            self.job.show_event(event, overall=isinstance(event, BatchDone))
        if isinstance(event, Notice):
            _say(self.notices, "\n".join(filter(None, [self.notices.text(), event.message])))
        elif isinstance(event, BatchDone):
            _say(self.terms, told_terms(event))
        elif isinstance(event, EpochDone):
            self.curve.add(event)
            _say(self.scores, told_scores(event))

    def _on_end(self, _end: JobEnd) -> None:
        self.job.rest()
        self._update_buttons()

    def _show_run(self, item: QListWidgetItem) -> None:
        self.show_run(item.data(Qt.ItemDataRole.UserRole))

    def _on_project(self) -> None:
        self._table = None
        self.counts.tell("" if self.session.project is not None else "Open a project in the Slides dock.")
        self._soon.start()
        self.list_runs()

    def _recount(self, _slide_id: str = "") -> None:
        self._soon.start()

    def _on_form(self) -> None:
        self._soon.start()
        self._warn()

    def _on_counted(self, table: PatchTable) -> None:
        self._table = table
        self.counts.show_table(table)
        self._warn()

    def _on_not_counted(self, error: BaseException) -> None:
        self._table = None
        self.counts.tell(sentence(error))

    def _warn(self) -> None:
        project = self.session.project
        if project is None or self._table is None or not len(self._table):
            return
        try:
            config: TrainConfig = self.form.read()
        except ConfigError:
            return  # the field is marked; doubts are told when it is mended
        groups = {slide.id: slide.group for slide in project.cohort}
        if set(self._table.slides) <= set(groups):
            self.counts.warn(doubts(self._table, config, groups))

    def _update_buttons(self) -> None:
        self.job.update_buttons()
        project = self.session.project
        if project is None or stopped_run(project) is None:
            self.resume_button.setEnabled(False)


def stopped_run(project: Project) -> Path | None:
    """Give the newest run that has a checkpoint and no model; None when there is none."""
    stopped = [path.parent for path in (project.folder / "runs").glob("*/checkpoint.safetensors")]
    stopped = [run for run in stopped if not (run / "model.json").exists()]
    return max(stopped, key=lambda run: run.stat().st_mtime_ns, default=None)


def objective_of(run: Path) -> str:
    """Name the objective, its settings, and the backbone of a run; empty when they cannot be read."""
    try:
        config = settings_of(run)
    except ConfigError:
        return ""
    values = ", ".join(
        f"{field.setting.label.lower()} {getattr(config.objective, field.name)}"
        for field in fields_of(config.objective)
    )
    return ", ".join(filter(None, [config.objective.title, values, config.backbone]))


def held_out_auc(run: Path) -> float | None:
    """Give the held-out AUC of a run's last epoch; None when nothing was held out or its curve cannot be read."""
    try:
        rows = list(csv.DictReader((run / "curve.csv").read_text("utf-8").splitlines()))
        auc = float(rows[-1]["validation_auc"])
    except (OSError, KeyError, IndexError, ValueError):
        return None
    return auc if math.isfinite(auc) else None


def told_terms(event: BatchDone) -> str:
    """Say the loss of a batch, its terms and its same-slide pairs."""
    terms = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in event.terms.items())
    return f"Loss {event.loss:.4g} ({terms}), {event.pairs} same-slide pairs"


def told_scores(event: EpochDone) -> str:
    """Say the scores of an epoch; those that are not defined, such as of held-out slides without any, are left out."""
    scores = {
        "AUC training": event.train_auc,
        "held out": event.validation_auc,
        "accuracy held out": event.validation_accuracy,
    }
    told = [f"{name} {score:.3f}" for name, score in scores.items() if math.isfinite(score)]
    speed = f"{event.patches_per_second:.0f} patches/s, {_share_waited(event):.0%} of the time waiting for patches"
    left = (event.total - event.done) * event.seconds
    ends = [f"about {_told_seconds(left)} left"] if left else []
    return f"Epoch {event.epoch + 1}: {', '.join([*told, speed, *ends])}"


def _share_waited(event: EpochDone) -> float:
    return min(1.0, event.data_wait_s / event.seconds) if event.seconds else 0.0


def _told_seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def curve_of(run: Path) -> list[EpochDone]:
    """Read the curve of a run, as far as a chart shows it; empty when it cannot be read."""
    try:
        rows = list(csv.DictReader((run / "curve.csv").read_text("utf-8").splitlines()))
        return [_epoch_of(row) for row in rows]
    except (OSError, KeyError, TypeError, ValueError):
        return []


def _epoch_of(row: dict[str, str]) -> EpochDone:
    names = ("loss", "pairs", "train_auc", "validation_auc", "validation_accuracy", "patches_per_second", "seconds")
    values: dict[str, Any] = {name: float(row[name]) for name in names}
    return EpochDone(phase="", epoch=int(row["epoch"]), terms={}, **values)


def _say(label: QLabel, text: str) -> None:
    label.setText(text)
    label.show()


def _line() -> QLabel:
    label = QLabel()
    label.setWordWrap(True)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    label.hide()
    return label
