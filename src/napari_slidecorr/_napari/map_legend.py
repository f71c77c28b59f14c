"""What the Prediction dock says of a map: its legend, and the slide's score."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import QGridLayout, QLabel, QSlider, QVBoxLayout, QWidget

from napari_slidecorr._napari.layers import UNCLASSED, Colors
from napari_slidecorr._napari.map_layers import UNSURE, UNSURE_COLOR, UNSURE_NAME, shown_classes
from napari_slidecorr._napari.parts import row
from napari_slidecorr.decision import Threshold
from napari_slidecorr.prediction_map import PredictionMap

FULL = 100
SWATCH_PX = (22, 14)
RAMP_PX = (160, 12)
CLEAR, NOT_WHOLE = "Clear: not predicted.", "This map is not complete; Predict makes the rest."


def told_score(prediction: PredictionMap, top_k: int) -> str:
    """Say the slide's score for each class, as a mean over all patches and over the highest ones."""
    if not prediction.predicted.any():
        return "No tissue was found, so nothing was predicted."
    means, highest = prediction.slide_score(), prediction.slide_score(top_k)
    return (
        f"Slide score (mean of the patch probabilities): {_told(means)}\n"
        f"Mean of the {top_k} highest of each class: {_told(highest)}"
    )


def _told(scores: dict[str, float]) -> str:
    return ", ".join(f"{name} {score:.3f}" for name, score in scores.items())


class MapLegend(QWidget):
    """Colour, name, share of the predicted cells, area and opacity of each class and of unsure cells; or a ramp of colours.

    Attributes
    ----------
    alpha_changed
        Carries a class's name, or `UNSURE_NAME`, and its opacity from 0 to 1.
    """

    alpha_changed = Signal(str, float)

    def __init__(self) -> None:
        super().__init__()
        self._table = QWidget()
        self._grid = QGridLayout(self._table)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setColumnStretch(1, 1)
        self._low, self._ramp, self._high = QLabel(), QLabel(), QLabel()
        self._ramp_row = row(self._low, self._ramp, self._high)
        self._clear = QLabel()
        self._clear.setWordWrap(True)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self._table, self._ramp_row, self._clear):
            layout.addWidget(widget)
        self._ramp_row.hide()
        self._names: tuple[str, ...] = ()
        self._facts: dict[str, tuple[QLabel, QLabel, QLabel]] = {}
        self.alphas: dict[str, QSlider] = {}

    def show_classes(
        self, prediction: PredictionMap, colors: Colors, threshold: Threshold, *, with_areas: bool
    ) -> None:
        """Tell of the classes of a map; shares and areas only when asked, as for a map that is whole."""
        self._build((*prediction.classes, UNSURE_NAME))
        class_map, areas = shown_classes(prediction, threshold), prediction.area_mm2(threshold)
        total = max(1, int(prediction.predicted.sum()))
        for number, name in [*enumerate(prediction.classes, 1), (UNSURE, UNSURE_NAME)]:
            swatch, share, area = self._facts[name]
            cells = int(np.count_nonzero(class_map == number))
            swatch.setPixmap(_swatch(UNSURE_COLOR if number == UNSURE else colors.get(name, UNCLASSED)))
            share.setText(f"{cells / total:.1%}" if with_areas else "")
            area.setText(f"{areas[name]:.3g} mm²" if with_areas and areas and name in areas else "")
            if number == UNSURE:
                self._show_line(name, shown=cells > 0)
        self._clear.setText(CLEAR if with_areas else f"{CLEAR} {NOT_WHOLE}")
        self._table.show()
        self._ramp_row.hide()

    def show_ramp(self, colormap: Any, low: str, high: str) -> None:
        """Show which colours stand for which numbers."""
        self._clear.setText(CLEAR)
        self._ramp.setPixmap(_ramp(colormap))
        self._low.setText(low)
        self._high.setText(high)
        self._table.hide()
        self._ramp_row.show()

    @property
    def opacities(self) -> dict[str, float]:
        """What the sliders say, 0 to 1, by class name; they stay where they are when another map has the class too."""
        return {name: slider.value() / FULL for name, slider in self.alphas.items()}

    def text(self) -> str:
        """Give what it says, a line for each class that is shown."""
        if self._table.isHidden():
            return f"{self._low.text()} to {self._high.text()}"
        lines = [
            " ".join(filter(None, (name, *(label.text() for label in self._facts[name][1:]))))
            for name in self._names
            if not self.alphas[name].isHidden()
        ]
        return "\n".join(lines)

    def _build(self, names: Sequence[str]) -> None:
        """Make the lines anew when the classes are others."""
        if self._names == tuple(names):
            return
        while (item := self._grid.takeAt(0)) is not None:
            item.widget().deleteLater()
        before, self._names, self._facts, self.alphas = self.opacities, tuple(names), {}, {}
        for line, name in enumerate(names):
            label, (swatch, share, area) = QLabel(name), (QLabel() for _ in range(3))
            slider = self.alphas[name] = QSlider(Qt.Orientation.Horizontal)
            slider.setRange(0, FULL)
            slider.setValue(round(before.get(name, 1.0) * FULL))
            slider.setFixedWidth(60)
            slider.setToolTip(f"How opaque {name} is; 0 leaves the slide bare.")
            slider.valueChanged.connect(partial(self._on_alpha, name))
            for column, widget in enumerate((swatch, label, share, area, slider)):
                self._grid.addWidget(widget, line, column)
            for figure in (share, area):
                figure.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            self._facts[name] = swatch, share, area

    def _show_line(self, name: str, *, shown: bool) -> None:
        line = self._names.index(name)
        for column in range(self._grid.columnCount()):
            self._grid.itemAtPosition(line, column).widget().setVisible(shown)

    def _on_alpha(self, name: str, value: int) -> None:
        self.alpha_changed.emit(name, value / FULL)


def _swatch(color: tuple[int, int, int]) -> QPixmap:
    width, height = SWATCH_PX
    return _pixmap(np.full((height, width, 3), color, np.uint8))


def _ramp(colormap: Any) -> QPixmap:
    """The colours of a colormap from its lowest to its highest value; clear ones over white."""
    width, height = RAMP_PX
    rgba = np.asarray(colormap.map(np.linspace(0, 1, width, dtype=np.float32)))
    rgb = rgba[:, :3] * rgba[:, 3:] + (1 - rgba[:, 3:])
    return _pixmap(np.repeat((rgb[None] * 255).round().astype(np.uint8), height, axis=0))


def _pixmap(pixels: np.ndarray) -> QPixmap:
    pixels = np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    return QPixmap.fromImage(QImage(pixels.data, width, height, 3 * width, QImage.Format.Format_RGB888).copy())
