"""A map as a picture: class colours over a grey slide, with a scale bar and a legend; Pillow alone.

`lay_over` and `class_index` serve whoever shows maps; `draw_map` is the whole figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.decision import Threshold
from napari_slidecorr.geometry import YX
from napari_slidecorr.prediction_map import PredictionMap
from napari_slidecorr.slide import Slide

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

Color = tuple[int, int, int]
Pixels = NDArray[np.uint8]

OPACITY = 0.55
PICTURE_PX = 1600
"""Longer side of the picture in a figure."""

UNSURE = "below the threshold"
UNSURE_COLOR: Color = (90, 90, 90)
FALLBACK: tuple[Color, ...] = (
    (213, 94, 0),
    (0, 114, 178),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
)
"""For classes without a colour of their own (Okabe and Ito's, readable by the colour-blind)."""

_MARGIN = 24
_LINE = 34
_FONT_PX = 20
_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "arial.ttf")


def class_index(prediction: PredictionMap, shape: YX, pixel_px: float, threshold: Threshold = None) -> Pixels:
    """Give the class map as seen by a picture of the slide.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of the picture.
    pixel_px : float
        Level-0 pixels per pixel of the picture.

    Returns
    -------
    ndarray, shape `shape`, uint8
        As `PredictionMap.class_map`; 0 where nothing is predicted, the number of classes plus one where no class reaches
        the threshold.
    """
    shown = prediction.class_map(threshold)
    shown[prediction.unsure(threshold)] = len(prediction.classes) + 1
    y, x = (prediction.grid.cells_at(axis, (np.arange(shape[axis]) + 0.5) * pixel_px) for axis in (0, 1))
    return np.where(np.outer(y >= 0, x >= 0), shown[np.ix_(y, x)], 0).astype(np.uint8)


def lay_over(picture: Pixels, index: Pixels, colors: Sequence[Color]) -> Pixels:
    """Lay colour ``k`` where the index is ``k + 1``, as strong as `OPACITY`, over a grey picture, shape (h, w, 3)."""
    grey = np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2)
    palette = np.asarray([(255, 255, 255), *colors], float)
    strength = np.where(index[..., None] > 0, OPACITY, 0)
    return np.asarray(grey * (1 - strength) + palette[index] * strength, np.uint8)


def class_colors(classes: Sequence[str], colors: Mapping[str, Color]) -> dict[str, Color]:
    """Give every class a colour: its own, or one of `FALLBACK`."""
    return {name: colors.get(name, FALLBACK[i % len(FALLBACK)]) for i, name in enumerate(classes)}


@dataclass(frozen=True)
class ScaleBar:
    """A bar of a round length.

    Attributes
    ----------
    length : float
        In pixels of the picture.
    text : str
        How long that is.
    """

    length: float
    text: str

    @classmethod
    def fitting(cls, longest: float, pixel: float, unit: str) -> ScaleBar:
        """Give the longest bar of 1, 2 or 5 times a power of ten, in units, that is at most so many pixels long."""
        most = longest * pixel
        power = 10.0 ** math.floor(math.log10(most))
        value = max(step * power for step in (1, 2, 5) if step * power <= most * (1 + 1e-9))
        text = f"{value / 1000:g} mm" if unit == "um" and value >= 1000 else f"{value:g} {unit}"
        return cls(value / pixel, text)


def draw_map(
    prediction: PredictionMap, colors: Mapping[str, Color], *, threshold: Threshold = None, slide: Slide | None = None
) -> Image:
    """Draw a map with scale bar and legend; over the slide when there is one, else on white.

    Parameters
    ----------
    colors : mapping of class to (r, g, b)
        A class without gets one of `FALLBACK`.
    threshold : float or None
        Cells whose best class has a lower probability are drawn grey; None: the model's own bounds.
    """
    from PIL import Image

    extent = prediction.grid.extent_px
    pixel_px = max(extent) / PICTURE_PX
    shape = max(1, round(extent[0] / pixel_px)), max(1, round(extent[1] / pixel_px))
    shown = class_colors(prediction.classes, colors)
    picture = slide.read(slide.box, shape) if slide is not None else np.full((*shape, 3), 255, np.uint8)
    index = class_index(prediction, shape, pixel_px, threshold)
    pixels = lay_over(picture, index, [*shown.values(), UNSURE_COLOR])
    entries = _entries(prediction, shown, threshold)
    width = max(shape[1] + 2 * _MARGIN, 480)
    out = Image.new("RGB", (width, shape[0] + 3 * _MARGIN + _LINE * (len(entries) + 2)), "white")
    out.paste(Image.fromarray(pixels), (_MARGIN, _MARGIN))
    _annotate(out, prediction, entries, pixel_px, shape)
    return out


def _annotate(
    out: Image, prediction: PredictionMap, entries: Sequence[tuple[str, Color]], pixel_px: float, shape: YX
) -> None:
    from PIL import ImageDraw

    draw, font = ImageDraw.Draw(out), _font()
    top = shape[0] + 2 * _MARGIN
    mpp = prediction.grid.mpp
    bar = ScaleBar.fitting(shape[1] / 4, pixel_px * (mpp[1] if mpp else 1), "um" if mpp else "px")
    _draw_bar(draw, font, bar, top)
    draw.text((_MARGIN, top + _LINE), f"{prediction.slide_id}, model {prediction.model_id}", "black", font)
    for number, (text, color) in enumerate(entries, 2):
        y = top + number * _LINE
        tint = tuple(round(255 * (1 - OPACITY) + channel * OPACITY) for channel in color)
        draw.rectangle((_MARGIN, y, _MARGIN + 24, y + 24), fill=tint, outline="black")
        draw.text((_MARGIN + 36, y), text, "black", font)


def _font() -> Any:
    """A font of the system, since a class can have any name; Pillow's own knows English letters only."""
    from PIL import ImageFont

    for name in _FONTS:
        with suppress(OSError):
            return ImageFont.truetype(name, _FONT_PX)
    return ImageFont.load_default(_FONT_PX)


def _draw_bar(draw: ImageDraw, font: Any, bar: ScaleBar, top: int) -> None:
    draw.rectangle((_MARGIN, top + 8, _MARGIN + round(bar.length) - 1, top + 15), fill="black")
    draw.text((_MARGIN + round(bar.length) + 12, top), bar.text, "black", font)


def _entries(prediction: PredictionMap, colors: Mapping[str, Color], threshold: Threshold) -> list[tuple[str, Color]]:
    """The legend: classes with their share and area, and what no class reaches."""
    areas = prediction.area_mm2(threshold)
    class_map, predicted = prediction.class_map(threshold), max(1, int(prediction.predicted.sum()))
    entries = []
    for number, (name, color) in enumerate(colors.items(), 1):
        share = f"{np.count_nonzero(class_map == number) / predicted:.1%}"
        area = f", {areas[name]:.3g} mm2" if areas else ""
        entries.append((f"{name}: {share} of the tissue{area}", color))
    unsure = np.count_nonzero(prediction.unsure(threshold))
    what = "the model is unsure" if threshold is None else f"{UNSURE} of {threshold:g}"
    return entries + [(f"{what}: {unsure / predicted:.1%} of the tissue", UNSURE_COLOR)] * bool(unsure)
