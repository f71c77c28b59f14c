"""What comes next on the way to a map, as far as the open project has come."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from napari_slidecorr._napari.open_dock import DockName, Offer
from napari_slidecorr.errors import SlideCorrError
from napari_slidecorr.regions import IGNORE

if TYPE_CHECKING:
    from napari_slidecorr._napari.dock import Dock
    from napari_slidecorr._napari.errands import Errands
    from napari_slidecorr.project import Project

ENOUGH = 2
"""Slides, and classes, that a training needs at least."""


class Step(NamedTuple):
    """A sentence, and the dock in which it is done; None for this one."""

    text: str
    dock: DockName | None = None


def next_step(project: Project) -> Step:
    """Say what comes next; reads the project's folder."""
    if not project.cohort:
        return Step("Next: add slides, at least two, better from several patients.")
    slides, classes = _labelled(project)
    if project.runs():
        if not any(project.maps(slide.id) for slide in project.cohort):
            return Step("Next: predict a slide, and see its map.", "Prediction")
        return Step("Next: see whether the model learnt the tissue or the slide.", "Diagnostics")
    if len(project.cohort) < ENOUGH:
        return Step("Next: draw regions of each class; add a second slide too, training needs two.", "Regions")
    if slides < ENOUGH or classes < ENOUGH:
        return Step("Next: draw a few regions of each class, on at least two slides.", "Regions")
    return Step("Regions are drawn. Next: train a model on them.", "Training")


def _labelled(project: Project) -> tuple[int, int]:
    """On how many slides, and of how many classes, there are regions; stops to count when there are enough."""
    slides, classes = 0, set[str]()
    for slide in project.cohort:
        try:
            found = {name for name in project.regions(slide.id).classes if name not in ("", IGNORE)}
        except SlideCorrError:
            continue  # the table tells of regions that cannot be read
        slides += bool(found)
        classes |= found
        if slides >= ENOUGH and len(classes) >= ENOUGH:
            break
    return slides, len(classes)


class NextStep(Offer):
    """The next step, kept up to date.

    Parameters
    ----------
    dock : Dock
        Whose viewer and session are used.
    errands : Errands
    """

    def __init__(self, dock: Dock, errands: Errands) -> None:
        super().__init__(dock.viewer)
        self._session, self._errands = dock.session, errands
        for signal in (
            self._session.slides_changed,
            self._session.regions_changed,
            self._session.runs_changed,
            self._session.maps_changed,
        ):
            dock.listen(signal, self.refresh)
        self.refresh()

    def refresh(self, *_: object) -> None:
        """Find out, in a thread, what comes next."""
        project = self._session.project
        if project is None:
            self.offer("")
            return
        self._errands.run(
            lambda: next_step(project),
            lambda step: self.offer(*step) if project is self._session.project else None,
            self._session.report,
        )
