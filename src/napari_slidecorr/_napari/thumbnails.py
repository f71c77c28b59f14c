"""Thumbnails for the table of slides, made one after the other off the GUI thread."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject

from napari_slidecorr._napari.errands import Errands
from napari_slidecorr._napari.slide_table import PICTURE_PX, SlideTable
from napari_slidecorr.slide import Slide


class Thumbnails(QObject):
    """Fills a table's pictures.

    Parameters
    ----------
    table : SlideTable
    parent : QObject
    """

    def __init__(self, table: SlideTable, parent: QObject) -> None:
        super().__init__(parent)
        self._table, self._errands = table, Errands(self)
        self._waiting: list[Slide] = []

    def make(self, slides: Sequence[Slide]) -> None:
        """Make those of these slides instead of what still waits; slides of channels have none."""
        self._waiting = [slide for slide in slides if not slide.channels]
        if not self._errands.running:
            self._next()

    def _next(self) -> None:
        if self._waiting:
            slide = self._waiting.pop(0)
            self._errands.run(lambda: slide.thumbnail(PICTURE_PX), lambda made: self._show(slide, made), self._skip)

    def _show(self, slide: Slide, pixels: NDArray[np.uint8]) -> None:
        self._table.show_picture(slide.id, pixels)
        self._next()

    def _skip(self, _error: BaseException) -> None:
        """What cannot be read is told when the slide is shown."""
        self._next()
