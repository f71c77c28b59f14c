"""Which remedy against slide-wise shift helps on the project's slides: a job, its table, and a button to use the winner."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QLabel, QSizePolicy, QVBoxLayout, QWidget

from napari_slidecorr._napari.job_bar import JobBar
from napari_slidecorr._napari.live_facts import cell, plain_table
from napari_slidecorr._napari.parts import button, while_alive
from napari_slidecorr._napari.torch_door import load_torch_for_job
from napari_slidecorr.events import Event, JobEnd
from napari_slidecorr.fast_config import FastConfig
from napari_slidecorr.session import Session

if TYPE_CHECKING:
    from napari_slidecorr.learning.remedy_table import Remedy, RemedyReport, RemedyRow
    from napari_slidecorr.project import Project

TITLE = "What helps"
HEIGHT_PX = 300
COLUMNS = ("Remedy", "AUC", "gain", "in slide", "gain")


@dataclass(frozen=True, kw_only=True)
class RemedyFound(Event):
    """One more row."""

    row: RemedyRow


class RemedyBox(QWidget):
    """*What helps on my slides*, its table, and *Use it*.

    Parameters
    ----------
    session : Session
    config
        Gives the settings of the plain head.
    attempt
        Calls an action and shows its error.

    Attributes
    ----------
    used
        Signal with the `Remedy` that somebody wants to use.
    """

    used = Signal(object)

    def __init__(
        self, session: Session, config: Callable[[], FastConfig], attempt: Callable[[Callable[[], Any]], bool]
    ) -> None:
        super().__init__()
        self._session, self._config, self._attempt = session, config, attempt
        self.report: RemedyReport | None = None
        self.start_button = button(
            "What helps on my slides",
            "Judge remedies against slide-wise shift on held-out slides of this project, beside the plain head.",
            lambda: self._attempt(self.compare),
        )
        self.with_adapters = QCheckBox("also adapters with SCR and SDA")
        self.with_adapters.setToolTip("Also SCR, batch-centred SCR and SDA on a bottleneck adapter: a minute or more.")
        self.job = JobBar(session, TITLE, self.start_button)
        self.table = plain_table(COLUMNS, HEIGHT_PX)
        font = self.table.font()
        font.setPointSizeF(0.9 * font.pointSizeF())
        self.table.setFont(font)
        self.table.setToolTip(
            "AUC of patches on held-out slides, all together and inside single slides; gain: difference to the plain head, "
            "± its error; bold where that is more than chance may give."
        )
        self.table.hide()
        self.sentence = QLabel()
        self.sentence.setWordWrap(True)
        self.sentence.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.sentence.hide()
        self.use_button = button("Use it", "Put this remedy into the model that is kept.", self._use)
        self.use_button.hide()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for part in (self.with_adapters, self.job, self.table, self.sentence, self.use_button):
            layout.addWidget(part)

    def compare(self) -> bool:
        """Start the job; False, with a message, when another runs.

        Raises
        ------
        ProjectError
            If no project is open.
        ConfigError
            If a setting is not allowed.
        """
        project, config, nets = self._session.require_project(), self._config(), self.with_adapters.isChecked()
        started = self._session.start(
            lambda: _events(project, config, nets=nets),
            TITLE,
            while_alive(self, self._on_event),
            while_alive(self, self._on_end),
            writes=False,
        )
        if started:
            self.report = None
            self.table.setRowCount(0)
            self.table.show()
            self.sentence.hide()
            self.use_button.hide()
        return started

    def forget(self) -> None:
        """Show nothing: it was of another project."""
        self.report = None
        for part in (self.table, self.sentence, self.use_button):
            part.hide()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, RemedyFound):
            self._add(event.row)

    def _on_end(self, end: JobEnd) -> None:
        report: RemedyReport | None = end.result
        if report is None:
            return
        self.report = report
        self.table.scrollToTop()
        self.sentence.setText(f"{report.sentence} {report.warning}".strip())
        self.sentence.show()
        if report.proposal is not None:
            self.use_button.setText(f"Use it: {report.proposal.remedy.name}")
            self.use_button.show()

    def _add(self, found: RemedyRow) -> None:
        line = self.table.rowCount()
        self.table.insertRow(line)
        self.table.setItem(line, 0, cell(found.remedy.name, tip=found.refused))
        if found.refused:
            self.table.setItem(line, 1, cell("refused", tip=found.refused))
            return
        texts = (
            _number(found.auc),
            _signed(found.gain, found.gain_error) if line else "to beat",
            _number(found.inside_auc),
            _signed(found.inside_gain, found.inside_error) if line else "",
        )
        for column, text in enumerate(texts, 1):
            self.table.setItem(line, column, cell(text, right=True))
        if found.helps:
            font = self.table.item(line, 0).font()
            font.setBold(True)
            for column in range(len(COLUMNS)):
                self.table.item(line, column).setFont(font)
        self.table.resizeRowToContents(line)  # a long name takes two lines
        self.table.scrollToBottom()

    def _use(self) -> None:
        if self.report is not None and self.report.proposal is not None:
            remedy: Remedy = self.report.proposal.remedy
            self.used.emit(remedy)


def _events(project: Project, config: FastConfig, *, nets: bool) -> Iterator[Event]:
    load_torch_for_job()
    from napari_slidecorr.fast_project import compare_remedies
    from napari_slidecorr.learning.remedies import RemedyTried

    for event in compare_remedies(project, config, nets=nets):
        if isinstance(event, RemedyTried):
            yield RemedyFound(phase=event.phase, done=event.done, total=event.total, row=event.row)
        else:
            yield event


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "-"


def _signed(value: float, error: float) -> str:
    """A gain and its error, short: the names of remedies need the room."""
    if not (np.isfinite(value) and np.isfinite(error)):
        return "-"
    return f"{value:+.3f} ±{error:.3f}".replace("0.", ".")
