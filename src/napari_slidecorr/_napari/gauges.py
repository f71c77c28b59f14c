"""Measures as gauges: value, interval, chance, each on its own scale; several runs below each other."""

from __future__ import annotations

from collections.abc import Mapping

from qtpy.QtCore import QPointF, QRectF, QSize
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QLabel, QSizePolicy, QVBoxLayout, QWidget

from napari_slidecorr.diagnosis_report import TITLES, told
from napari_slidecorr.diagnostics.feature_table import Measure

COLORS = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7")
RANGES = {
    "generalization_gap": (-0.2, 0.5),
    "leakage_gap": (-0.2, 0.5),
    "leakage_by_training": (-0.2, 0.5),
    "same_slide_correlation": (-0.1, 0.6),
    "average_performance_drop": (-0.5, 0.1),
    "clustering_score": (-1.0, 1.0),
    "calibration_error": (0.0, 0.5),
}
"""Ends of the scales that are not from 0 to 1."""
TIPS = {
    "training_auc": "How well it tells the classes on slides it was trained on.",
    "held_out_auc": "How well it does on slides it has not seen. This is the number to trust.",
    "generalization_gap": "AUC lost on slides it has not seen: 0 is best.",
    "leakage_gap": "How much better a careless split, which lets patches of one slide stand on both sides, would have looked.",
    "leakage_by_training": "The same by training the whole model twice: once with patches held out at random.",
    "calibration_error": "How far its probabilities are from how often it is right: 0 is best.",
    "slide_probe": "How often the slide can be told from its features. Above chance, the features know the slide.",
    "within_class_probe": "The same among patches of one class, where the class cannot help.",
    "same_slide_correlation": "How much more alike features of one slide are than features of others, inside a class: what SCR lowers.",
    "robustness_index": "Of the nearest neighbours that tell: 1, they share the tissue; 0, they share the slide.",
    "robustness_index_group": "The same with the patient or centre instead of the slide.",
    "average_performance_drop": "What a head loses when class and slide go together while it learns: 0, nothing.",
    "clustering_score": "Above 0, features fall into tissues; below, into slides.",
}
ROW_PX, BAR_PX = 16, 6


class Gauge(QWidget):
    """One measure of one or more runs."""

    def __init__(self, name: str, measures: list[Measure]) -> None:
        super().__init__()
        self.name, self.measures = name, measures
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setToolTip("\n".join([TIPS[name], *map(told, measures)]))

    def sizeHint(self) -> QSize:
        """A line for each run."""
        return QSize(200, ROW_PX * len(self.measures) + 4)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Paint a bar for each run: the interval broad, the value a stroke, chance a dotted line."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        text = self.palette().text().color()
        low, high = RANGES.get(self.name, (0.0, 1.0))
        area = QRectF(2, 0, self.width() - 62, self.height())

        def x(value: float) -> float:
            return area.left() + area.width() * min(1.0, max(0.0, (value - low) / (high - low)))

        faint = QColor(text)
        faint.setAlphaF(0.15)
        for number, measure in enumerate(self.measures):
            y = 2 + ROW_PX * number + ROW_PX / 2
            painter.fillRect(QRectF(area.left(), y - 1, area.width(), 2), faint)
            _paint_chance(painter, measure, x, y, text)
            if measure.value is None:
                continue
            color = QColor(COLORS[number % len(COLORS)])
            if measure.low is not None and measure.high is not None:
                wide = QColor(color)
                wide.setAlphaF(0.45)
                left, right = x(measure.low), x(measure.high)
                painter.fillRect(QRectF(left, y - BAR_PX / 2, max(2.0, right - left), BAR_PX), wide)
            painter.setPen(QPen(color, 3))
            painter.drawLine(QPointF(x(measure.value), y - BAR_PX), QPointF(x(measure.value), y + BAR_PX))
            painter.setPen(text)
            painter.drawText(QPointF(area.right() + 8, y + 4), f"{measure.value:.3f}")


def _paint_chance(painter: QPainter, measure: Measure, x: object, y: float, text: QColor) -> None:
    if measure.chance is None:
        return
    pen = QPen(text, 1)
    pen.setDashPattern([2, 2])
    painter.setPen(pen)
    at = x(measure.chance)  # type: ignore[operator]
    painter.drawLine(QPointF(at, y - BAR_PX - 1), QPointF(at, y + BAR_PX + 1))


class Gauges(QWidget):
    """All measures of one or more runs; those that are undefined say why."""

    def __init__(self) -> None:
        super().__init__()
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setSpacing(2)

    def show_measures(self, runs: Mapping[str, Mapping[str, Measure]]) -> None:
        """Replace what is shown.

        Parameters
        ----------
        runs : mapping of run to its measures by name
        """
        while (item := self._layout.takeAt(0)) is not None:
            item.widget().deleteLater()
        if len(runs) > 1:
            key = "  ".join(
                f"<span style='color:{COLORS[i % len(COLORS)]}'>&#9632;</span> {name}" for i, name in enumerate(runs)
            )
            self._add_label(key)
        for name, title in TITLES.items():
            found = [measures[name] for measures in runs.values() if name in measures]
            if found:
                self._add_measure(name, title, found)

    def _add_measure(self, name: str, title: str, found: list[Measure]) -> None:
        label = self._add_label(title)
        label.setToolTip(TIPS[name])
        if any(measure.value is not None for measure in found):
            self._layout.addWidget(Gauge(name, found))
        else:
            reason = self._add_label(found[0].reason)
            reason.setEnabled(False)

    def _add_label(self, text: str) -> QLabel:
        label = QLabel(text)
        label.setWordWrap(True)
        self._layout.addWidget(label)
        return label
