"""Says where the camera rests to live training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject

from napari_slidecorr._napari.gaze import Gaze
from napari_slidecorr.geometry import Box
from napari_slidecorr.session import Session


class LiveGaze(Gaze):
    """A gaze that tells each look.

    Parameters
    ----------
    said
        Called with the id of the slide in view, empty for none, and the box that the window shows of it, or None.
    """

    def __init__(
        self, viewer: Any, session: Session, parent: QObject, said: Callable[[str, Box | None], object]
    ) -> None:
        super().__init__(viewer, session, parent)
        self._said = said

    def look(self) -> None:
        """Say now what is in view."""
        super().look()
        slide_id = self._session.current_slide or ""
        self._said(slide_id, self.wanted.box_on(slide_id))
