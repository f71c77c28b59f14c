"""A page that shows what trainings came to: table, curves, slides with truth and maps; one file, nothing to fetch."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image

from napari_slidecorr.events import EpochDone
from napari_slidecorr.figure import class_index, lay_over
from napari_slidecorr.geometry import Grid
from napari_slidecorr.prediction_map import PredictionMap
from napari_slidecorr.regions import RegionSet
from napari_slidecorr.sample_tissue import rasterize
from napari_slidecorr.slide import Slide

Color = tuple[int, int, int]
Pixels = NDArray[np.uint8]

PICTURE_PX = 420
FINE = 8
"""Points along the side of a cell at which the truth is asked for."""

_LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1400px;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.3rem .9rem;border-bottom:1px solid #ccc;"
    "text-align:right}td:first-child,th:first-child{text-align:left}figure{display:inline-block;margin:0 .8rem 1rem 0}"
    "figcaption{font-size:13px}.key span{display:inline-block;width:1em;height:1em;vertical-align:-.15em;"
    "margin:0 .3em 0 1em}"
)


@dataclass(frozen=True)
class Pictures:
    """A slide to show: what it is, what is true of it, and its map from each objective."""

    slide: Slide
    truth: RegionSet
    maps: Mapping[str, PredictionMap]


def truth_cells(truth: RegionSet, grid: Grid, classes: Sequence[str]) -> NDArray[np.int16]:
    """Give the true class of each cell of a map, as drawn, where one class covers at least half of it.

    Returns
    -------
    ndarray, shape (rows, columns), int16
        Into `classes`; -1 where no class has a half.
    """
    rows, columns = grid.shape
    corner, stride = np.asarray(grid.corner_px), np.asarray(grid.stride_px)
    coverage = np.zeros((len(classes), rows, columns))
    for index, name in enumerate(classes):
        area = shapely.transform(_area(truth, name), lambda corners: (corners - corner) / stride * FINE)
        fine = rasterize(area, (rows * FINE, columns * FINE))
        coverage[index] = fine.reshape(rows, FINE, columns, FINE).mean(axis=(1, 3))
    return np.where(coverage.max(axis=0) >= 0.5, coverage.argmax(axis=0), -1).astype(np.int16)


def _area(regions: RegionSet, name: str) -> shapely.Geometry:
    return shapely.union_all([region.polygon for region in regions.of_class(name)])


def summary_html(
    *,
    rows: Sequence[Mapping[str, str]],
    curves: Mapping[str, Sequence[EpochDone]],
    pictures: Sequence[Pictures],
    colors: Mapping[str, Color],
    notes: Sequence[str],
) -> str:
    """Make the page.

    Parameters
    ----------
    rows : sequence of mappings
        The table, headings as keys.
    curves : mapping of objective to its epochs
    pictures : sequence of Pictures
    colors : mapping of class to (r, g, b)
    notes : sequence of str
        What a reader must know, a paragraph each.
    """
    classes = next(iter(pictures[0].maps.values())).classes
    shown = {name: colors[name] for name in classes}
    body = [
        "<h1>Slide correlation reduction: demo</h1>",
        *(f"<p>{html.escape(note)}</p>" for note in notes),
        _table(rows),
        "<h2>Training</h2>",
        _curve_svg(curves),
        "<h2>Held-out slides</h2>",
        _key(shown),
        *(_slide_html(picture, shown) for picture in pictures),
    ]
    head = f"<meta charset='utf-8'><title>slidecorr demo</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(body)}</body></html>\n"


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
    lines = ("".join(f"<td>{html.escape(value)}</td>" for value in row.values()) for row in rows)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _key(colors: Mapping[str, Color]) -> str:
    items = (f"<span style='background:rgb{color}'></span>{html.escape(name)}" for name, color in colors.items())
    return f"<p class='key'>{''.join(items)}</p>"


def _curve_svg(curves: Mapping[str, Sequence[EpochDone]]) -> str:
    """Training AUC dashed, validation AUC drawn through; a colour for each objective."""
    width, height, left, low = 560, 260, 50, 0.4
    epochs = max(len(curve) for curve in curves.values())

    def place(epoch: int, auc: float) -> str:
        x = left + (width - left - 130) * (epoch / max(1, epochs - 1))
        return f"{x:.1f},{10 + (height - 40) * (1 - max(0.0, auc - low) / (1 - low)):.1f}"

    parts = []
    for level in (0.4, 0.6, 0.8, 1.0):
        y = place(0, level).split(",")[1]
        parts.append(
            f"<path d='M{left},{y}H{width - 130}' stroke='#ddd'/><text x='12' y='{y}' dy='4'>{level:.1f}</text>"
        )
    for index, (name, curve) in enumerate(curves.items()):
        color = _LINES[index % len(_LINES)]
        for kind, dash in (("train_auc", "5 4"), ("validation_auc", "")):
            points = [place(i, getattr(e, kind)) for i, e in enumerate(curve) if math.isfinite(getattr(e, kind))]
            line = f"fill='none' stroke='{color}' stroke-width='2' stroke-dasharray='{dash}'"
            parts.append(f"<polyline points='{' '.join(points)}' {line}/>")
        parts.append(f"<text x='{width - 118}' y='{30 + 20 * index}' fill='{color}'>{html.escape(name)}</text>")
    foot = f"<text x='{left}' y='{height - 6}'>epoch 1 to {epochs}; AUC: training dashed, validation solid</text>"
    return f"<svg width='{width}' height='{height}' font-size='13'>{''.join(parts)}{foot}</svg>"


def _slide_html(picture: Pictures, colors: Mapping[str, Color]) -> str:
    thumbnail = picture.slide.thumbnail(PICTURE_PX)
    factor = picture.slide.shape[0] / thumbnail.shape[0]
    figures = {"slide": thumbnail, "truth": _truth_overlay(thumbnail, picture.truth, factor, colors)}
    for name, prediction in picture.maps.items():
        figures[f"map, {name}"] = _map_overlay(thumbnail, prediction, factor, colors)
    drawn = (
        f"<figure>{_img(pixels)}<figcaption>{html.escape(n)}</figcaption></figure>" for n, pixels in figures.items()
    )
    return f"<h3>{html.escape(picture.slide.id)}</h3>{''.join(drawn)}"


def _truth_overlay(thumbnail: Pixels, truth: RegionSet, factor: float, colors: Mapping[str, Color]) -> Pixels:
    shape = thumbnail.shape[0], thumbnail.shape[1]
    index = np.zeros(shape, np.uint8)
    for number, name in enumerate(colors, 1):
        index[rasterize(shapely.transform(_area(truth, name), lambda corners: corners / factor), shape)] = number
    return lay_over(thumbnail, index, [*colors.values()])


def _map_overlay(thumbnail: Pixels, prediction: PredictionMap, factor: float, colors: Mapping[str, Color]) -> Pixels:
    index = class_index(prediction, (thumbnail.shape[0], thumbnail.shape[1]), factor)
    return lay_over(thumbnail, index, [*colors.values()])


def _img(pixels: Pixels) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return f"<img width='{pixels.shape[1]}' height='{pixels.shape[0]}' src='data:image/png;base64,{data}'>"
