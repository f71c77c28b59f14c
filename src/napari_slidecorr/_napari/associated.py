"""Label, macro and thumbnail images of a slide in a window of their own, read because somebody asked."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import QDialog, QLabel, QScrollArea, QVBoxLayout, QWidget

from napari_slidecorr.slide import Slide

WARNING = (
    "A label may show a patient's name or number. These images were read for this window alone; they are not kept, not "
    "put into the project and never exported."
)
LONGEST_PX = 480


def read_associated(slide: Slide) -> dict[str, NDArray[np.uint8]]:
    """Read all of them; for a thread."""
    return {name: slide.associated(name) for name in slide.associated_names}


def pixmap(pixels: NDArray[np.uint8], longest_px: int) -> QPixmap:
    """Turn pixels, shape (h, w, 3), uint8, into a picture that fits; for the GUI thread."""
    data = np.ascontiguousarray(pixels)
    height, width = data.shape[:2]
    image = QPixmap.fromImage(QImage(data.data, width, height, 3 * width, QImage.Format.Format_RGB888).copy())
    if max(height, width) <= longest_px:
        return image
    return image.scaled(
        longest_px, longest_px, Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
    )


class AssociatedWindow(QDialog):
    """Shows the images below each other, each under its name.

    Parameters
    ----------
    slide_id : str
    images : mapping of str to ndarray, shape (h, w, 3), uint8
    """

    def __init__(self, slide_id: str, images: Mapping[str, NDArray[np.uint8]], parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle(f"{slide_id}: label and macro images")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        warning = QLabel(WARNING)
        warning.setWordWrap(True)
        inside = QWidget()
        shown = QVBoxLayout(inside)
        self.pictures: dict[str, QLabel] = {}
        for name, pixels in images.items():
            shown.addWidget(QLabel(f"{name} ({pixels.shape[1]} x {pixels.shape[0]} px)"))
            self.pictures[name] = QLabel()
            self.pictures[name].setPixmap(pixmap(pixels, LONGEST_PX))
            shown.addWidget(self.pictures[name])
        area = QScrollArea()
        area.setWidget(inside)
        layout = QVBoxLayout(self)
        layout.addWidget(warning)
        layout.addWidget(area)
        self.resize(LONGEST_PX + 60, LONGEST_PX + 120)
