"""A strip of small pictures of patches, read in a thread; a click goes to one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSize, Signal
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import QHBoxLayout, QScrollArea, QToolButton, QWidget

from napari_slidecorr._napari.associated import pixmap
from napari_slidecorr._napari.errands import Errands
from napari_slidecorr.diagnostics.diagnosis import ShownPatch
from napari_slidecorr.errors import sentence
from napari_slidecorr.geometry import Box

if TYPE_CHECKING:
    from napari_slidecorr.project import Project

SIDE_PX, MOST = 72, 24
"""Side of a picture, and how many are shown."""


class PatchStrip(QScrollArea):
    """Pictures of patches beside each other.

    Attributes
    ----------
    asked
        Carries the `ShownPatch` of a clicked picture.
    """

    asked = Signal(object)

    def __init__(self, errands: Errands) -> None:
        super().__init__()
        self._errands = errands
        self.patches: list[ShownPatch] = []
        self.setWidgetResizable(True)
        self.setFixedHeight(SIDE_PX + 28)
        self.hide()

    def show_patches(self, patches: Sequence[ShownPatch], project: Project | None) -> None:
        """Show the first `MOST` patches, wrong ones first; an empty strip is hidden."""
        self.patches = sorted(patches, key=lambda patch: (patch.right, patch.probability))[:MOST]
        self.setVisible(bool(self.patches))
        content = QWidget()
        layout = QHBoxLayout(content)
        layout.setContentsMargins(2, 2, 2, 2)
        buttons = [self._button(patch) for patch in self.patches]
        for one in buttons:
            layout.addWidget(one)
        layout.addStretch(1)
        self.setWidget(content)
        if project is not None:
            for one, patch in zip(buttons, self.patches, strict=True):
                self._errands.run(
                    partial(_picture, project, patch), partial(_put, self, one), partial(_tell, self, one)
                )

    def _button(self, patch: ShownPatch) -> QToolButton:
        made = QToolButton()
        made.setFixedSize(SIDE_PX + 6, SIDE_PX + 6)
        made.setIconSize(QSize(SIDE_PX, SIDE_PX))
        verdict = "right" if patch.right else "wrong"
        made.setToolTip(f"{patch.slide}\n{patch.label}: {patch.probability:.2f}, {verdict}\nClick to go there.")
        made.clicked.connect(lambda _checked: self.asked.emit(patch))
        return made


def _picture(project: Project, patch: ShownPatch) -> Any:
    place = Box(patch.y, patch.x, patch.y + patch.height, patch.x + patch.width)
    return project.slide(patch.slide).read(place, SIDE_PX)


def _put(strip: PatchStrip, made: QToolButton, pixels: Any) -> None:
    if _is_shown(strip, made):
        made.setIcon(QIcon(pixmap(pixels, SIDE_PX)))


def _tell(strip: PatchStrip, made: QToolButton, error: BaseException) -> None:
    """Say on the button itself why it has no picture."""
    if _is_shown(strip, made):
        made.setText("?")
        made.setToolTip(f"{made.toolTip()}\n{sentence(error)}")


def _is_shown(strip: PatchStrip, made: QToolButton) -> bool:
    content = strip.widget()
    return content is not None and made in content.findChildren(QToolButton)
