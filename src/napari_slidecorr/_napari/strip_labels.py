"""Regions made of single patches, also on slides that are not in view: saved through the project in any case."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import shapely
from qtpy.QtCore import QObject

from napari_slidecorr._napari import class_job
from napari_slidecorr._napari.desk import Desk
from napari_slidecorr._napari.parts import timer
from napari_slidecorr._napari.region_editor import TRY_AGAIN_MS
from napari_slidecorr._napari.region_saver import RegionSaver
from napari_slidecorr.errors import ProjectError
from napari_slidecorr.geometry import Box
from napari_slidecorr.regions import Region, RegionSet
from napari_slidecorr.session import sentence

if TYPE_CHECKING:
    from napari_slidecorr.project import Project


class StripLabels(QObject):
    """Adds regions to slides.

    Parameters
    ----------
    desk : Desk
        Where the regions of a slide are open, they are changed there, and the change can be undone.
    changed
        Called with a slide's id and its regions when they were changed elsewhere, before they are saved.
    parent : QObject
    """

    def __init__(self, desk: Desk, changed: Callable[[str, RegionSet], object], parent: QObject) -> None:
        super().__init__(parent)
        self._desk, self._changed = desk, changed
        self._drafts: dict[str, RegionSet] = {}
        self._savers: dict[str, RegionSaver] = {}
        self._again_timer = timer(TRY_AGAIN_MS, self._try_again, self)
        self.telling = False
        for signal, slot in ((desk.opened, self._hand_over), (desk.session.job_started, self._on_job)):
            signal.connect(slot)
            parent.destroyed.connect(partial(signal.disconnect, slot, missing_ok=True))

    def add(self, slide_id: str, box: Box, class_name: str) -> None:
        """Make a patch a region of a class.

        Raises
        ------
        ProjectError
            If no project is open, it is read-only here, or a class is being changed on all slides.
        """
        project = self._desk.session.require_project()
        if project.read_only:
            raise ProjectError(project.read_only)
        if self._desk.session.job_title == class_job.TITLE:
            raise ProjectError("A class is being changed on all slides; label the patch when that is done.")
        height, width = project.slide(slide_id).shape
        polygon = shapely.box(max(box.y0, 0), max(box.x0, 0), min(box.y1, height), min(box.x1, width))
        region = Region(class_name, polygon)
        editor = self._desk.editor_of(slide_id)
        if editor is not None:
            editor.set_regions(RegionSet((*editor.regions, region)))
            return
        before = self._drafts.get(slide_id) or project.regions(slide_id)
        self._drafts[slide_id] = regions = RegionSet((*before, region))
        self._saver(slide_id).put(regions)
        self._changed(slide_id, regions)

    def flush(self, slide_id: str) -> None:
        """Wait until the regions of a slide are saved: they are about to be opened."""
        if self._again_timer.isActive():
            self._try_again()
        if (saver := self._savers.get(slide_id)) is not None:
            saver.flush()

    def flush_all(self) -> None:
        """Wait until everything is saved: another project is about to be opened, or a job reads the regions."""
        for slide_id in list(self._savers):
            self.flush(slide_id)

    def _saver(self, slide_id: str) -> RegionSaver:
        if slide_id not in self._savers:
            project = self._desk.session.require_project()
            self._savers[slide_id] = RegionSaver(
                lambda regions: project.save_regions(slide_id, regions), partial(self._on_written, project, slide_id)
            )
        return self._savers[slide_id]

    def _on_written(self, project: Project, slide_id: str, regions: RegionSet, error: Exception | None) -> None:
        """What cannot be written stays a draft, is told, and tried again."""
        session = self._desk.session
        if error is not None:
            session.message.emit(sentence(error), True)
            if not project.read_only:
                self._again_timer.start()
            return
        if self._drafts.get(slide_id) is regions:
            del self._drafts[slide_id]
        self.telling = True
        try:
            session.regions_changed.emit(slide_id)
        finally:
            self.telling = False

    def _on_job(self, _title: str) -> None:
        self.flush_all()

    def _try_again(self) -> None:
        self._again_timer.stop()
        for slide_id, regions in self._drafts.items():
            self._savers[slide_id].put(regions)

    def _hand_over(self, slide_id: str) -> None:
        """Regions were opened though they could not be saved: their editor goes on trying."""
        draft, editor = self._drafts.pop(slide_id, None), self._desk.editor_of(slide_id)
        if draft is not None and editor is not None:
            known = {region.uid for region in editor.regions}
            editor.set_regions(RegionSet((*editor.regions, *(each for each in draft if each.uid not in known))))

    def forget(self) -> None:
        """Another project is open; what was not saved yet still is."""
        self.flush_all()
        self._again_timer.stop()
        self._drafts.clear()
        self._savers.clear()
