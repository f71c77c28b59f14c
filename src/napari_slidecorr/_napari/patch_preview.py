"""The patches that a training would cut, drawn over the slide in view and counted on all slides, live."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal
from qtpy.QtWidgets import QCheckBox, QVBoxLayout, QWidget

from napari_slidecorr._napari import layers
from napari_slidecorr._napari.errands import Errands
from napari_slidecorr._napari.parts import timer
from napari_slidecorr._napari.patch_counts import PatchCounts
from napari_slidecorr.config import PatchConfig
from napari_slidecorr.errors import SlideCorrError
from napari_slidecorr.patch_outline import joined, patch_outlines, slide_patches
from napari_slidecorr.session import sentence

if TYPE_CHECKING:
    from napari.layers import Vectors

    from napari_slidecorr._napari.desk import Desk
    from napari_slidecorr.patches import PatchTable
    from napari_slidecorr.project import Project
    from napari_slidecorr.regions import RegionSet

SOON_MS = 250
"""Patches are cut when regions and settings have been left alone for so long."""

ZOOM_MS = 80

LINE = 1 / 48
"""Width of the lines, in parts of a patch's side ..."""

LEAST_LINE_PX = 1.6
"""... but at least so many screen pixels, below which some of them would not be drawn at all ..."""

MOST_LINE = 1 / 8
"""... and at most such a part of the side, so that from afar there are patches still and not blots."""


@dataclass(frozen=True)
class Cut:
    """The patches of all slides as they were cut.

    Attributes
    ----------
    table : PatchTable or None
        None when no slide has regions.
    shown : PatchTable or None
        Of the slide in view alone.
    trouble : tuple of str
        A sentence for each slide that could not be counted.
    """

    table: PatchTable | None
    shown: PatchTable | None
    trouble: tuple[str, ...]


class PatchPreview:
    """Shows and counts patches while it is switched on; work is done in a thread, slide by slide as they change.

    Attributes
    ----------
    switched
        Carries whether patches are shown.
    counted
        Carries the `Cut`.
    config : PatchConfig
        How patches are cut: that of the Training dock's form, once that is open.
    """

    switched = Signal(bool)
    counted = Signal(object)

    def __init__(self, desk: Desk) -> None:
        self.desk, self.session, self._viewer = desk, desk.session, desk.viewer
        self.config = PatchConfig()
        self.on = False
        self._errands = Errands(None)
        self._kept: dict[str, tuple[RegionSet, tuple[str, ...], PatchConfig, PatchTable]] = {}
        self._soon = timer(SOON_MS, self.cut)
        self._zoomed = timer(ZOOM_MS, self._set_width)
        self._again = False
        self._side_px = 0
        desk.viewer.scene.camera.events.zoom.connect(self._on_zoom)
        self.layer: Vectors | None = None
        for signal in (desk.edited, desk.opened, self.session.slides_changed, self.session.regions_changed):
            signal.connect(self._changed)
        for signal in (self.session.project_changed, self.session.classes_changed, self.session.current_slide_changed):
            signal.connect(self._changed)

    def switch(self, on: bool) -> None:  # noqa: FBT001 - connected to a check box
        """Show the patches, or hide them."""
        if on == self.on:
            return
        self.on = on
        self.switched.emit(on)
        if on:
            self.cut()
        elif self.layer is not None:
            self.layer.visible = False

    def configure(self, config: PatchConfig) -> None:
        """Cut otherwise from now on."""
        if config != self.config:
            self.config = config
            self._changed()

    def cut(self) -> None:
        """Cut the patches anew, in a thread; if it is at work still, once more when it is done."""
        self._soon.stop()
        project = self.session.project
        if not self.on or project is None:
            return
        if self._errands.running:
            self._again = True
            return
        shown = self.session.current_slide or ""
        live = {editor.slide_id: editor.regions for editor in self.desk.editors() if editor.project is project}
        config, classes = self.config, project.classes
        self._errands.run(
            lambda: self._cut(project, live, shown, classes, config),
            lambda cut: self._on_cut(shown, cut),
            self._on_failed,
        )

    def _cut(
        self,
        project: Project,
        live: dict[str, RegionSet],
        shown: str,
        classes: tuple[str, ...],
        config: PatchConfig,
    ) -> Cut:
        """In a thread: only slides whose regions have changed are cut again."""
        tables, trouble = [], []
        for known in project.cohort:
            try:
                regions = live[known.id] if known.id in live else project.regions(known.id)
                if len(regions):
                    tables.append(self._table(project, known.id, regions, classes, config))
            except SlideCorrError as error:
                trouble.append(sentence(error))
        of_shown = next((table for table in tables if table.slides == (shown,)), None)
        return Cut(joined(tables) if tables else None, of_shown, tuple(trouble))

    def _table(
        self, project: Project, slide_id: str, regions: RegionSet, classes: tuple[str, ...], config: PatchConfig
    ) -> PatchTable:
        kept = self._kept.get(slide_id)
        if kept is not None and kept[0] is regions and kept[1:3] == (classes, config):
            return kept[3]
        slide = project.slide(slide_id)
        footprint = config.geometry.footprint_px(slide.mpp, slide_id)
        table = slide_patches(slide_id, slide.shape, footprint, regions, classes, config)
        self._kept[slide_id] = regions, classes, config, table
        return table

    def _changed(self, *_: Any) -> None:
        if self.on:
            self._soon.start()

    def _on_cut(self, slide_id: str, cut: Cut) -> None:
        if self._again:
            self._again = False
            self._soon.start()
        if self.on and slide_id == (self.session.current_slide or ""):
            self._draw(cut.shown)
            self.counted.emit(cut)

    def _on_failed(self, error: BaseException) -> None:
        self._again = False
        self.session.report(error)

    def _draw(self, table: PatchTable | None) -> None:
        editor, project = self.desk.editor, self.session.project
        if table is None or editor is None or project is None:
            if self.layer is not None:
                self.layer.visible = False
            return
        lines, labels = patch_outlines(table)
        colors = np.asarray([layers.rgba(project.colors, name) for name in table.classes]).reshape(-1, 4)
        layer = self._layer_of(editor)
        layer.data = np.stack([lines[:, 0] - 0.5, lines[:, 1] - lines[:, 0]], 1)
        self._side_px = max(table.footprints[0])
        self._set_width()
        if len(lines):
            layer.edge_color = colors[labels]
        layer.visible = True

    def _on_zoom(self, _event: Any) -> None:
        if self.on:
            self._zoomed.start()

    def _set_width(self) -> None:
        """Keep the lines visible at each zoom."""
        if self.layer is None or not self.on or not self._side_px:
            return
        least = LEAST_LINE_PX / (self._viewer.scene.camera.zoom * float(self.layer.scale[0]))
        width = min(max(LINE * self._side_px, least), MOST_LINE * self._side_px)
        if abs(width - float(self.layer.edge_width)) > 0.02 * width:
            self.layer.edge_width = width

    def _layer_of(self, editor: Any) -> Vectors:
        """Give the layer of the slide in view; it lies on top of the regions and is not selected."""
        from napari.layers import Vectors

        told = layers.identity(editor.layer)
        if self.layer is not None and self.layer in self._viewer.layers:
            if layers.identity(self.layer)["slide_id"] == told["slide_id"]:
                return self.layer
            self._viewer.layers.remove(self.layer)
        self.layer = Vectors(
            np.zeros((0, 2, 2)),
            ndim=2,
            name=f"{told['slide_id']} patches",
            vector_style="line",
            scale=editor.layer.scale,
            units=editor.layer.units,
            axis_labels=("y", "x"),
            opacity=1,
            metadata={layers.KEY: {name: told[name] for name in ("slide_id", "path", "shape", "mpp")}},
        )
        layers.identity(self.layer)["kind"] = "patches"
        chosen = list(self._viewer.layers.selection)
        self._viewer.layers.insert(self._viewer.layers.index(editor.layer) + 1, self.layer)
        self._viewer.layers.selection = chosen
        return self.layer


class PatchCheck(QCheckBox):
    """Switches the preview on and off; all such boxes of a viewer show the same."""

    def __init__(self, preview: PatchPreview) -> None:
        super().__init__("Show patches")
        self.setToolTip("Draw the patches that a training would cut, with the settings of the Training dock.")
        self.preview = preview
        self.setChecked(preview.on)
        self.toggled.connect(preview.switch)

    def follow(self, on: bool) -> None:  # noqa: FBT001 - connected to a signal
        """Show what another box has chosen."""
        self.setChecked(on)


class PatchBox(QWidget):
    """The check box and, while patches are shown, how many there are of each class on each slide."""

    def __init__(self, preview: PatchPreview) -> None:
        super().__init__()
        self.preview = preview
        self.check, self.counts = PatchCheck(preview), PatchCounts()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.check)
        layout.addWidget(self.counts)
        self.counts.hide()

    def switched(self, on: bool) -> None:  # noqa: FBT001 - connected to a signal
        """Show what another box has chosen; without patches there are no counts."""
        self.check.follow(on)
        if not on:
            self.counts.hide()

    def show_counts(self, cut: Cut) -> None:
        """Show how many patches there are."""
        if cut.table is None:
            self.counts.tell("No regions yet, so no patches.")
        else:
            self.counts.show_table(cut.table)
        self.counts.warn([*_about_size(cut), *cut.trouble])
        self.counts.show()


def _about_size(cut: Cut) -> Iterator[str]:
    """A slide with regions and no patch is most often one whose regions are too small."""
    if cut.shown is not None and not len(cut.shown):
        side = max(cut.shown.footprints[0])
        yield f"No region of this slide holds a patch of {side:,} level-0 pixels."
