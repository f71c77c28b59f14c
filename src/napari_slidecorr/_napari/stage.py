"""Which slide of the project stands in the viewer: opened in a thread, laid in with its regions, one at a time."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_slidecorr._napari import class_job, layers
from napari_slidecorr._napari.desk import Desk
from napari_slidecorr._napari.errands import Errands
from napari_slidecorr._napari.parts import timer
from napari_slidecorr._napari.slide_layers import LayerArguments, slide_layers
from napari_slidecorr.errors import SlideCorrError
from napari_slidecorr.regions import RegionSet
from napari_slidecorr.slide import Slide

if TYPE_CHECKING:
    from napari_slidecorr.project import Project

MARK = "in_project"
PAINT_MS = 50
"""An empty viewer must be painted once before it is filled again, or a software GL driver ends the process."""

SLOW_MS = 8000
"""A slide that is still being opened then lies on a drive that hardly answers, and the user is told."""


@dataclass(frozen=True)
class Loose:
    """A slide that was dropped into the viewer or opened as a sample, and belongs to no project.

    Attributes
    ----------
    path : Path
    mpp : (float, float) or None
        As shown, micrometres per pixel (y, x).
    regions : RegionSet
        What was drawn on it, or came with it.
    """

    path: Path
    mpp: tuple[float, float] | None
    regions: RegionSet


@dataclass(frozen=True)
class _Opened:
    """A slide that was opened in a thread, its coarsest level read."""

    project: Project
    slide: Slide
    images: list[LayerArguments]
    srgb: bool


class Stage(QObject):
    """Shows one slide after the other; of what all stages of a desk are asked for, only the last.

    Attributes
    ----------
    opening, shown
        Signals with a slide's id: it is being opened; it stands in the viewer, with its regions.
    ended
        Signal: nothing is being opened any more, whatever came of it.
    damaged
        Signal with a slide's id and a sentence, for each place that cannot be read.
    """

    opening = Signal(str)
    shown = Signal(str)
    ended = Signal()
    damaged = Signal(str, str)

    def __init__(self, desk: Desk, parent: QObject) -> None:
        super().__init__(parent)
        self.desk, self.session, self.viewer = desk, desk.session, desk.viewer
        self._asked: str | None = None
        self._errands = Errands(self)
        self._slow = timer(SLOW_MS, self._tell_slow, self)
        self.ended.connect(self._slow.stop)

    def show(self, slide_id: str) -> None:
        """Open a slide in a thread, then lay it and its regions in, in place of the slide before.

        Zoom, tool and class stay. When another slide is asked for meanwhile, only that one is shown.
        """
        if self._shows(slide_id) and self.session.current_slide == slide_id:
            self.desk.wanted = None
            self.ended.emit()
            return
        project, srgb = self.session.require_project(), self.desk.srgb
        self.desk.wanted = self._asked = slide_id
        self.opening.emit(slide_id)
        self._slow.start()
        self._errands.run(
            lambda: self._open(project, slide_id, srgb=srgb), self._place, partial(self._on_failed, slide_id)
        )

    def _tell_slow(self) -> None:
        """The thread cannot be stopped while the system waits for the drive; the window goes on without it."""
        if self._asked == self.desk.wanted and self.session.job_title != class_job.TITLE:
            self.session.message.emit(
                f"{self._asked} is still being opened; its drive or network share hardly answers. Choose another slide "
                "meanwhile, or check the connection.",
                True,
            )

    def reopen(self, slide_id: str) -> None:
        """Show the slide anew: its pixel size changed, and with it scale and units of all its layers."""
        self.clear()
        self.show(slide_id)

    def recolour(self) -> None:
        """Let the slide in view have the colours of the desk's ``srgb``; zoom, tool, map and undo stay."""
        slide_id, srgb = self.session.current_slide, self.desk.srgb
        if slide_id is not None:
            project = self.session.require_project()
            self._errands.run(lambda: self._open(project, slide_id, srgb=srgb), self._exchange, self.session.report)

    def _exchange(self, opened: _Opened) -> None:
        """Put other pixels into the layer of a slide; channels have no profile."""
        shown = [layer for layer in self.viewer.layers if self._is_of(layer, opened.slide.id)]
        if opened.project is self.session.project and opened.srgb == self.desk.srgb and len(shown) == 1:
            ((levels, _),) = opened.images
            shown[0].data = levels

    def clear(self) -> None:
        """Take all layers of the project's slides away; what was drawn is saved."""
        self.desk.wanted = None
        self.ended.emit()
        self.session.current_slide = None
        self._remove_others("")

    def _open(self, project: Project, slide_id: str, *, srgb: bool) -> _Opened:
        """In a thread: open the file and read the coarsest level, which napari needs at once, and the regions."""
        slide = project.slide(slide_id)
        images = slide_layers(slide, lambda message: self._report_damage(slide_id, message), srgb=srgb)
        for levels, _ in images:
            np.asarray(levels[-1])
        with suppress(SlideCorrError):  # told when they are laid in
            project.regions(slide_id)
        return _Opened(project, slide, images, srgb)

    def _place(self, opened: _Opened) -> None:
        """Add the new layers before the old ones go, so that zoom and tool stay and the viewer is never empty.

        Between pixels and micrometres no zoom can stay, and layers of both cannot be shown together.
        """
        if self.session.job_title == class_job.TITLE:
            timer(PAINT_MS, lambda: self._place(opened), self).start()
            return
        if not self._is_wanted(opened):
            self._pass_over(opened.slide.id)
            return
        tool = self._tool()
        if self._stands_in_other_units(opened.slide):
            self._remove_others(opened.slide.id)
        if len(self.viewer.layers):
            self._add(opened, tool)
        else:
            timer(PAINT_MS, lambda: self._add(opened, tool), self).start()

    def _stands_in_other_units(self, slide: Slide) -> bool:
        told = [layers.identity(layer) for layer in self.viewer.layers]
        return any(MARK in t and (t["mpp"] is None) != (slide.mpp is None) for t in told)

    def _add(self, opened: _Opened, tool: str) -> None:
        slide = opened.slide
        if not self._is_wanted(opened):
            self._pass_over(slide.id)
            return
        self.desk.wanted = None
        if not self._shows(slide.id):
            for levels, arguments in opened.images:
                self._mark(self.viewer.add_image(levels, **arguments))
        self._remove_others(slide.id)
        self._remove_loose([slide.path], ("slide",))
        self.session.current_slide = slide.id
        try:
            layer = self.desk.open_regions(slide)
        except SlideCorrError as error:
            self.session.report(error)
        else:
            self._mark(layer)
            self.viewer.layers.selection.active = layer
            layer.mode = tool
        self._centre(slide)
        if opened.srgb != self.desk.srgb:
            self.recolour()
        self.ended.emit()
        self.shown.emit(slide.id)

    def _is_wanted(self, opened: _Opened) -> bool:
        return self.desk.wanted == opened.slide.id and opened.project is self.session.project

    def _pass_over(self, slide_id: str) -> None:
        """Another slide was asked for meanwhile, or another dock has laid this one in."""
        if self._asked == slide_id:
            self.ended.emit()
            if self.session.current_slide == slide_id:
                self.shown.emit(slide_id)

    def _tool(self) -> str:
        editor = self.desk.editor
        return str(editor.layer.mode) if editor is not None else "pan_zoom"

    def loose(self) -> list[Loose]:
        """Give the slides in the viewer that are not the project's, with their regions."""
        shown = [layers.identity(layer) for layer in self.viewer.layers if _is_loose(layer, ("slide",))]
        return [Loose(Path(told["path"]), told["mpp"], self._loose_regions(told["path"])) for told in shown]

    def remove_loose(self, paths: Iterable[Path]) -> None:
        """Take away the layers of loose slides, which have become the project's."""
        self._remove_loose(paths, ("slide", "regions"))

    def _loose_regions(self, path: str) -> RegionSet:
        found = [layer for layer in self.viewer.layers if _is_loose(layer, ("regions",))]
        own = [layer for layer in found if layers.identity(layer)["path"] == path]
        return RegionSet().added(region for layer in own for region in layers.regions_of(layer))

    def _remove_loose(self, paths: Iterable[Path], kinds: tuple[str, ...]) -> None:
        wanted = {str(path) for path in paths}
        for layer in list(self.viewer.layers):
            if _is_loose(layer, kinds) and layers.identity(layer)["path"] in wanted:
                self.viewer.layers.remove(layer)

    def _shows(self, slide_id: str) -> bool:
        return any(self._is_of(layer, slide_id) for layer in self.viewer.layers)

    def _is_of(self, layer: Any, slide_id: str) -> bool:
        """Whether a layer shows a slide of the project."""
        told = layers.identity(layer)
        return (told.get("kind"), told.get("slide_id"), MARK in told) == ("slide", slide_id, True)

    def _mark(self, layer: Any) -> None:
        """Tell layers of the project's slides from those of slides that were dropped into the viewer."""
        layers.identity(layer)[MARK] = True

    def _remove_others(self, slide_id: str) -> None:
        """Take the layers of the project's other slides away; layers that are not ours, and loose slides, stay."""
        for layer in list(self.viewer.layers):
            told = layers.identity(layer)
            if told and told["slide_id"] != slide_id and not _is_loose(layer, ("slide", "regions")):
                self.viewer.layers.remove(layer)

    def _centre(self, slide: Slide) -> None:
        """Where the view would lie beside the new slide, look at its centre."""
        camera = getattr(self.viewer, "scene", self.viewer).camera
        size = [n * m for n, m in zip(slide.shape, slide.mpp or (1.0, 1.0), strict=True)]
        if not all(0 <= at <= length for at, length in zip(camera.center[-2:], size, strict=True)):
            camera.center = (*camera.center[:-2], size[0] / 2, size[1] / 2)

    def _report_damage(self, slide_id: str, message: str) -> None:
        """Called in whatever thread reads a tile."""
        try:
            self.damaged.emit(slide_id, message)
        except RuntimeError:
            return  # the dock is closed and Qt has deleted the signal; the slide has logged it

    def _on_failed(self, slide_id: str, error: BaseException) -> None:
        if self._asked == slide_id:
            self.ended.emit()
        if self.desk.wanted == slide_id:
            self.desk.wanted = None
        self.session.report(error)


def _is_loose(layer: Any, kinds: tuple[str, ...]) -> bool:
    told = layers.identity(layer)
    return told.get("kind") in kinds and MARK not in told
