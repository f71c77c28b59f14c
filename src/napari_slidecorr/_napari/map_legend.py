"""What the Prediction dock says of a map: its legend and the slide's score."""

from __future__ import annotations

import html

import numpy as np

from napari_slidecorr._napari.layers import UNCLASSED, Colors
from napari_slidecorr._napari.map_layers import UNSURE, UNSURE_COLOR, shown_classes
from napari_slidecorr.prediction_map import PredictionMap


def told_score(prediction: PredictionMap) -> str:
    """Say the slide's score for each class."""
    if not prediction.predicted.any():
        return "No tissue was found, so nothing was predicted."
    scores = ", ".join(f"{name} {score:.3f}" for name, score in prediction.slide_score().items())
    return f"Slide score (mean of the patch probabilities): {scores}"


def legend(prediction: PredictionMap, colors: Colors, threshold: float, *, with_areas: bool) -> str:
    """Give colour, name, share of the predicted cells and area of each class, and of unsure cells, as a HTML table."""
    class_map, areas = shown_classes(prediction, threshold), prediction.area_mm2(threshold)
    total = max(1, int(prediction.predicted.sum()))
    lines = []
    for number, name in [*enumerate(prediction.classes, 1), (UNSURE, "unsure")]:
        color = UNSURE_COLOR if number == UNSURE else colors.get(name, UNCLASSED)
        cells = int(np.count_nonzero(class_map == number))
        facts = [f"{cells / total:.1%}"] if with_areas else []
        facts += [f"{areas[name]:.3g} mm²"] if with_areas and areas and number != UNSURE else []
        if number != UNSURE or cells:
            told = "".join(f"<td align='right'>&nbsp;&nbsp;{fact}</td>" for fact in facts)
            square = f"<td style='background-color:rgb{color}'>&nbsp;&nbsp;&nbsp;&nbsp;</td>"
            lines.append(f"<tr>{square}<td>&nbsp;{html.escape(name)}</td>{told}</tr>")
    return f"<table cellspacing='2'>{''.join(lines)}</table>"
