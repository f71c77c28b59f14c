"""The Diagnostics dock: has a model learnt the tissue or the slide, which slide does it fail on, and where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QComboBox, QLabel, QListWidget, QListWidgetItem, QSizePolicy

from napari_slidecorr._napari.desk import desk_of
from napari_slidecorr._napari.dock import Dock
from napari_slidecorr._napari.errands import Errands
from napari_slidecorr._napari.explain_box import ExplainBox
from napari_slidecorr._napari.feature_map import BY, FeatureMap
from napari_slidecorr._napari.gauges import Gauges
from napari_slidecorr._napari.job_bar import JobBar
from napari_slidecorr._napari.likeness import Likeness, key_text
from napari_slidecorr._napari.parts import box, button, row
from napari_slidecorr._napari.patch_strip import PatchStrip
from napari_slidecorr._napari.slide_findings import SlideFindings
from napari_slidecorr._napari.torch_door import load_torch_for_job
from napari_slidecorr._napari.travel import Traveller
from napari_slidecorr.diagnosis_report import taken_on
from napari_slidecorr.diagnostics.diagnosis import Diagnosis, ShownPatch, SlideFinding
from napari_slidecorr.errors import ModelError
from napari_slidecorr.events import Event, JobEnd, Notice
from napari_slidecorr.geometry import Box
from napari_slidecorr.run_diagnosis import diagnose_run
from napari_slidecorr.runs import read_run

if TYPE_CHECKING:
    import napari.viewer

TITLE = "Diagnosis"
FINDING_COLORS = {"slide": "#d55e00", "tissue": "#009e73", "unclear": "#e69f00", "none": "#888888"}
NAME_PX = 280
"""Longer names in the legend are shortened in their middle."""
MANY_NAMES = 12
"""More names than this get no legend."""


class DiagnosticsDock(Dock):
    """Diagnose finished runs, read the verdict, go to the patches that a model gets wrong.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        self.errands = Errands(self)
        self.setMinimumWidth(360)
        self.traveller = Traveller(desk_of(napari_viewer), self)
        self.runs = QListWidget()
        self.runs.setSelectionMode(QListWidget.SelectionMode.ExtendedSelection)
        self.runs.setFixedHeight(96)
        self.runs.setToolTip("Finished trainings, the newest first. Choose several to see them side by side.")
        self.diagnose_button = button(
            "Diagnose", "Look at what the chosen model learnt: tissue or slide. Seconds to minutes.", self.diagnose
        )
        self.report_button = button("Report ...", "Write the chosen diagnoses as one page and open it.", self.report)
        self.job = JobBar(self.session, TITLE, self.diagnose_button)
        self.verdict = _text()
        self.gauges, self.table, self.map, self.likeness = Gauges(), SlideFindings(), FeatureMap(), Likeness()
        self.by = QComboBox()
        self.by.addItems([f"colour by {name}" for name in BY])
        self.by.setToolTip(
            "What the colour of a patch tells. Where slides stand apart from each other, the model sees them."
        )
        self.key = _text()
        self.strip = PatchStrip(self.errands)
        self.explain = ExplainBox(self, self.chosen)
        self.shown: list[Diagnosis] = []
        self._waiting: list[Path] = []
        self._lay_out()
        self._connect()
        self.list_runs()

    def _lay_out(self) -> None:
        self.body.addWidget(box("Trained models", self.runs, row(self.report_button)))
        self.body.addWidget(self.job)
        self.body.addWidget(self.message)
        self.verdict_box = box("Verdict", self.verdict)
        self.measures_box = box("Measures", self.gauges)
        self.slides_box = box("Slides, the worst first", self.table)
        self.map_box = box("Map of features", self.by, self.map, self.key, self.strip)
        self.likeness_key = _text()
        self.likeness_key.setText(key_text())
        self.likeness_box = box("How alike slides are to the model", self.likeness, self.likeness_key)
        for part in self._results:
            self.body.addWidget(part)
        self.body.insertWidget(self.body.indexOf(self.slides_box) + 1, self.explain)
        self.body.addStretch(1)

    @property
    def _results(self) -> tuple[Any, ...]:
        return self.verdict_box, self.slides_box, self.measures_box, self.map_box, self.likeness_box

    def _connect(self) -> None:
        self.runs.itemSelectionChanged.connect(self._on_choice)
        self.by.currentIndexChanged.connect(self._on_by)
        self.table.asked.connect(self.go_to_worst)
        self.map.clicked.connect(lambda index: self.go_to(self.map.patches[index]))
        self.map.chosen.connect(lambda indices: self._show_strip([self.map.patches[i] for i in indices]))
        self.strip.asked.connect(self.go_to)
        self.listen(self.session.message, self.message.tell)
        self.listen(self.session.project_changed, self.list_runs)
        self.listen(self.session.runs_changed, self.list_runs)
        self.listen(self.session.job_started, self._on_start)
        self.listen(self.session.job_event, self._on_event)
        self.listen(self.session.job_ended, self._on_end)

    # -- what a script may call too -----------------------------------------------------------------------------------

    def choose(self, *names: str) -> None:
        """Choose runs by name."""
        self.runs.blockSignals(True)
        for index in range(self.runs.count()):
            item = self.runs.item(index)
            item.setSelected(item.data(Qt.ItemDataRole.UserRole).name in names)
        self.runs.blockSignals(False)
        self.show_chosen()

    def chosen(self) -> list[Path]:
        """The folders of the chosen runs."""
        return [item.data(Qt.ItemDataRole.UserRole) for item in self.runs.selectedItems()]

    def diagnose(self) -> bool:
        """Diagnose the chosen runs, one after the other; the newest when none is chosen."""
        project = self.session.require_project()
        folders = self.chosen() or project.runs()[-1:]
        if not folders:
            self.message.tell("There is no trained model yet; train one in the Training dock.", is_error=True)
            return False

        def events() -> Iterator[Event]:
            load_torch_for_job()
            for folder in folders:
                yield from diagnose_run(project, folder)

        self._waiting = folders
        return self.session.start(events, TITLE)

    def report(self) -> bool:
        """Write the shown diagnoses as one page into the first run's folder, and open it."""
        return self.attempt(self._report)

    def go_to(self, patch: ShownPatch) -> None:
        """Show a patch on its slide."""
        place = Box(patch.y, patch.x, patch.y + patch.height, patch.x + patch.width)
        self.attempt(lambda: self.traveller.go(patch.slide, place))
        self.explain.aim(patch.slide, place)
        said = "rightly" if patch.right else "wrongly"
        self.message.tell(
            f"{patch.slide}: a patch of {patch.label}, {said} classified; the model gives its class {patch.probability:.2f}."
        )

    def go_to_worst(self, finding: SlideFinding) -> None:
        """Show the patch of a slide whose own class got the lowest probability."""
        self.go_to(finding.worst)

    def list_runs(self) -> None:
        """List the finished trainings; those chosen stay chosen, else the newest is."""
        before = {run.name for run in self.chosen()}
        project = self.session.project
        runs = list(reversed(project.runs())) if project is not None else []
        self.runs.blockSignals(True)
        self.runs.clear()
        for run in runs:
            item = QListWidgetItem(run.name if not (run / "diagnosis.json").exists() else f"{run.name}   (diagnosed)")
            item.setData(Qt.ItemDataRole.UserRole, run)
            item.setToolTip(str(run))
            self.runs.addItem(item)
            item.setSelected(run.name in before)
        if runs and not self.chosen():
            self.runs.item(0).setSelected(True)
        self.runs.blockSignals(False)
        self.show_chosen()

    def show_chosen(self) -> None:
        """Read and show the kept diagnoses of the chosen runs, in a thread."""
        folders = self.chosen()
        self.job.update_buttons()
        self.explain.refresh()
        self.errands.run(
            lambda: [Diagnosis.load(folder) for folder in folders],
            lambda found: self._show([one for one in found if one]) if folders == self.chosen() else None,
            self.session.report,
        )

    # -- showing ------------------------------------------------------------------------------------------------------

    def _show(self, found: Sequence[Diagnosis]) -> None:
        self.shown = list(found)
        self.report_button.setEnabled(bool(found))
        for part in self._results:
            part.setVisible(bool(found))
        if not found:
            self._tell_what_is_missing()
            return
        self.verdict.setText(_verdicts_html(found))
        self.gauges.show_measures({one.run: one.measures for one in found})
        first = found[0]
        self.table.show_findings(first.slides)
        self.map.show_patches(first.patches)
        self.likeness.show_likeness(first.similarity_slides, first.similarity)
        self.strip.show_patches([], None)
        several = f": {first.run}" if len(found) > 1 else ""
        self.slides_box.setTitle(f"Slides, the worst first{several}")
        self.map_box.setTitle(f"Map of features{several}")
        self.likeness_box.setTitle(f"How alike slides are to the model{several}")
        self._show_key()

    def _tell_what_is_missing(self) -> None:
        if self.session.project is None:
            self.message.tell("")  # the dock offers the way to one
        elif not self.runs.count():
            self.message.tell("There is no trained model yet; train one in the Training dock.")
        elif not self.job.is_running and not self.message.property("error"):  # which says why it was not
            self.message.tell("This model was not diagnosed yet: press Diagnose.")

    def _on_choice(self) -> None:
        self.message.tell("")
        self.show_chosen()

    def _on_by(self, index: int) -> None:
        self.map.colour_by(BY[index])
        self._show_key()

    def _show_key(self) -> None:
        names = self.map.names()
        if len(names) > MANY_NAMES:
            self.key.setText(f"{len(names)} of them; point at a patch to read its name.")
            return
        parts = (f"<span style='color:{self.map.color_of(name)}'>&#9679;</span> {self._short(name)}" for name in names)
        self.key.setText("&nbsp; ".join(parts) + "<br>Click a patch, or draw around several.")

    def _short(self, name: str) -> str:
        return str(self.key.fontMetrics().elidedText(name, Qt.TextElideMode.ElideMiddle, NAME_PX))

    def _show_strip(self, patches: list[ShownPatch]) -> None:
        self.strip.show_patches(patches, self.session.project)

    def _report(self) -> None:
        from napari_slidecorr.diagnosis_report import write_report

        if not self.shown:
            raise ModelError("Nothing is diagnosed yet: press Diagnose.")
        folder = next(run for run in self.chosen() if run.name == self.shown[0].run)
        curves = {run.name: read_run(run).curve for run in self.chosen()}
        shown = list(self.shown)
        self.message.tell("Writing the report ...")
        self.errands.run(
            lambda: write_report(folder / "diagnosis", shown, curves), self._on_report, self.session.report
        )

    def _on_report(self, page: Path) -> None:
        self.message.tell(f"Written to {page}.")
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(page)))

    # -- what happens -------------------------------------------------------------------------------------------------

    def _on_start(self, _title: str) -> None:
        if self.job.is_running:
            self.message.tell("")
            self.job.begin()
        else:
            self.job.update_buttons()

    def _on_event(self, event: Event) -> None:
        if not self.job.is_running:
            return
        self.job.show_event(event)
        if isinstance(event, Notice) and event.warning:
            self.message.tell(event.message)

    def _on_end(self, _end: JobEnd) -> None:
        self.job.rest()
        if self._waiting:
            self._waiting = []
            self.list_runs()


def _verdicts_html(found: Sequence[Diagnosis]) -> str:
    """All verdicts; advice that is the same for all comes once, at the end."""
    advice = {one.verdict.advice for one in found}
    if len(advice) > 1:
        return "<br><br>".join(_verdict_html(one, one.verdict.advice) for one in found)
    return "<br><br>".join([*(_verdict_html(one, "") for one in found), *(said for said in advice if said)])


def _verdict_html(diagnosis: Diagnosis, advice: str) -> str:
    found = diagnosis.verdict
    color = FINDING_COLORS[found.finding]
    first, *others = found.sentences
    rest = " ".join((*others, advice)).strip()
    opening = f"<b>{diagnosis.run}</b><br><span style='color:{color}; font-size: large'><b>{first}</b></span><br>"
    return f"{opening}{rest}<br><i>{taken_on(diagnosis)}</i>"


def _text() -> QLabel:
    label = QLabel()
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    return label
