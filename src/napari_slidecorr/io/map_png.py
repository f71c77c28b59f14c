"""A map as a figure: classes in their colours, scale bar and legend; see `figure`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from napari_slidecorr.decision import Threshold
from napari_slidecorr.figure import Color, draw_map
from napari_slidecorr.io.atomic import atomic_file
from napari_slidecorr.prediction_map import PredictionMap
from napari_slidecorr.slide import Slide


def write(
    path: Path,
    prediction: PredictionMap,
    *,
    threshold: Threshold = None,
    colors: Mapping[str, Color] | None = None,
    slide: Slide | None = None,
) -> None:
    """Write a PNG, whole or not at all.

    Parameters
    ----------
    threshold : float or None
        Cells whose best class has a lower probability are drawn grey; None: the model's own bounds.
    slide : Slide, optional
        What the map lies on; white without one.

    Raises
    ------
    SlideError
        If the slide cannot be read.
    ProjectError
        If the file cannot be written.
    """
    picture = draw_map(prediction, colors or {}, threshold=threshold, slide=slide)
    with atomic_file(path) as file:
        picture.save(file, "PNG")
