"""The table of slides of a diagnosis, the worst first."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

from napari_slidecorr.diagnostics.diagnosis import SlideFinding

COLUMNS = ("Slide", "", "Accuracy", "AUC", "n")
ROW_PX, SHORTEST, TALLEST = 24, 80, 260


class SlideFindings(QTableWidget):
    """One row a slide; a click asks for its worst patch.

    Attributes
    ----------
    asked
        Carries the `SlideFinding` of a clicked row.
    """

    asked = Signal(object)

    def __init__(self) -> None:
        super().__init__(0, len(COLUMNS))
        self.findings: tuple[SlideFinding, ...] = ()
        self.setHorizontalHeaderLabels(COLUMNS)
        self.horizontalHeaderItem(COLUMNS.index("n")).setToolTip("Patches that were looked at.")
        self.verticalHeader().hide()
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.horizontalHeader().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        for column in range(1, len(COLUMNS)):
            self.horizontalHeader().setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)  # names of slides differ at their ends
        self.setToolTip("Click a slide to go to the patch that the model got most wrong there.")
        self.cellClicked.connect(lambda row, _column: self.asked.emit(self.findings[row]))

    def show_findings(self, findings: Sequence[SlideFinding]) -> None:
        """Replace what is shown."""
        self.findings = tuple(findings)
        self.setRowCount(len(findings))
        self.setColumnHidden(COLUMNS.index("AUC"), all(one.score.auc is None for one in findings))
        for row, one in enumerate(findings):
            score = one.score
            auc = "-" if score.auc is None else f"{score.auc:.3f}"
            where = "trained" if one.seen else "held out"
            for column, text in enumerate((score.slide, where, f"{score.accuracy:.3f}", auc, str(score.n_patches))):
                item = QTableWidgetItem(text)
                item.setToolTip(f"{score.slide}\nGroup {score.group}\nCalibration error {score.calibration_error:.3f}")
                if column > 1:
                    item.setTextAlignment(int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter))
                self.setItem(row, column, item)
        wanted = self.horizontalHeader().height() + ROW_PX * len(findings) + 6
        self.setFixedHeight(max(SHORTEST, min(TALLEST, wanted)))
