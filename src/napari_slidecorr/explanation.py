"""Which pixels spoke for a class, as a picture that lies on the slide."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.geometry import Box

if TYPE_CHECKING:
    from napari_slidecorr.slide import Slide

COLORMAP = "inferno"
STRENGTH = 0.65
"""How strongly the colours cover the tissue where a class is spoken for most."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """A map over some patches of a slide of what spoke for one class.

    Attributes
    ----------
    slide_id, model_id : str
    box : Box
        What the map covers, level-0 pixels: whole patches.
    values : ndarray, shape (rows, columns), float32
        0 to 1, on one scale for all patches of the map; NaN where no patch was asked for. All 0 where nothing speaks for
        the class.
    class_name : str
        For which class.
    classes : tuple of str
    probabilities : tuple of float
        Of each class, the mean over the patches.
    patches : int
        How many were looked at.
    cells : (int, int)
        The model's own map of one patch, rows and columns: nothing finer was measured.
    mpp : (float, float) or None
        Micrometres per level-0 pixel of the slide.
    """

    slide_id: str
    model_id: str
    box: Box
    values: NDArray[np.float32]
    class_name: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    patches: int
    cells: tuple[int, int]
    mpp: tuple[float, float] | None = None

    @property
    def probability(self) -> float:
        """What the model gives the class, the mean over the patches."""
        return self.probabilities[self.classes.index(self.class_name)]

    @property
    def pixel_px(self) -> tuple[float, float]:
        """Level-0 pixels per pixel of the map, (y, x)."""
        return self.box.height / self.values.shape[0], self.box.width / self.values.shape[1]

    @property
    def scale(self) -> tuple[float, float]:
        """Micrometres per pixel of the map, or level-0 pixels without mpp."""
        return self._in_units(self.pixel_px)

    @property
    def translate(self) -> tuple[float, float]:
        """Centre of the first pixel where pixel *centres* lie on integers, in the units of `scale`."""
        (y, x), box = self.pixel_px, self.box
        return self._in_units((box.y0 + (y - 1) / 2, box.x0 + (x - 1) / 2))

    def _in_units(self, pair: tuple[float, float]) -> tuple[float, float]:
        factor = self.mpp or (1.0, 1.0)
        return pair[0] * factor[0], pair[1] * factor[1]

    def peak_px(self) -> tuple[float, float] | None:
        """Where the class is spoken for most, level-0 pixels (y, x), corner-based; None where nothing speaks for it."""
        if not np.nanmax(self.values) > 0:
            return None
        row, column = np.unravel_index(int(np.nanargmax(self.values)), self.values.shape)
        y, x = self.pixel_px
        return self.box.y0 + (float(row) + 0.5) * y, self.box.x0 + (float(column) + 0.5) * x

    def overlay(self, slide: Slide) -> NDArray[np.uint8]:
        """Give the slide with the map on it, shape (rows, columns, 3): the stronger, the more of the colour.

        Raises
        ------
        SlideError
            If the slide cannot be read there.
        """
        import matplotlib as mpl

        tissue = slide.read(self.box, self.values.shape)
        values = np.nan_to_num(self.values)
        colors = mpl.colormaps[COLORMAP](values)[..., :3] * 255
        strength = STRENGTH * values[..., None]
        return np.asarray(np.rint(tissue * (1 - strength) + colors * strength), np.uint8)

    def picture(self, slide: Slide) -> bytes:
        """Give `overlay` as the bytes of a PNG."""
        from PIL import Image

        file = BytesIO()
        Image.fromarray(self.overlay(slide)).save(file, "PNG")
        return file.getvalue()

    def sentence(self) -> str:
        """What the map says, for a person."""
        what = "The patch" if self.patches == 1 else f"{self.patches} patches"
        told = f"{what} on {self.slide_id}: {self.class_name}, probability {self.probability:.2f}"
        if self.patches > 1:
            told += " on average"
        if self.peak_px() is None:
            return f"{told}. Nothing in view speaks for {self.class_name}."
        return f"{told}. Bright is what spoke for it; nothing finer than 1/{self.cells[0]} of a patch was measured."

    def to_json(self) -> dict[str, Any]:
        """All but the picture, ready for JSON."""
        peak = self.peak_px()
        return {
            "slide": self.slide_id,
            "model": self.model_id,
            "class": self.class_name,
            "probabilities": dict(zip(self.classes, self.probabilities, strict=True)),
            "box": [self.box.y0, self.box.x0, self.box.y1, self.box.x1],
            "shape": list(self.values.shape),
            "cells": list(self.cells),
            "patches": self.patches,
            "peak_px": None if peak is None else list(peak),
        }
