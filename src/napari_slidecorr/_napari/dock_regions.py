"""The Regions dock: classes, tools to draw with, what is drawn, and regions in and out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from qtpy.QtGui import QKeyEvent, QKeySequence
from qtpy.QtWidgets import QFileDialog, QLabel, QSizePolicy

from napari_slidecorr import io
from napari_slidecorr._napari import layers
from napari_slidecorr._napari.class_box import ClassBox
from napari_slidecorr._napari.desk import desk_of
from napari_slidecorr._napari.dock import Dock
from napari_slidecorr._napari.errands import Errands
from napari_slidecorr._napari.fold import Fold
from napari_slidecorr._napari.import_preview import ImportPreview
from napari_slidecorr._napari.keys import bound, html_table
from napari_slidecorr._napari.parts import button, row
from napari_slidecorr._napari.patch_preview import PatchBox
from napari_slidecorr._napari.restore_dialog import RestoreButton
from napari_slidecorr._napari.tool_box import ToolBox
from napari_slidecorr.errors import RegionsError, SlideError
from napari_slidecorr.io import RegionFormat, RegionsFile

if TYPE_CHECKING:
    import napari.viewer

    from napari_slidecorr._napari.region_editor import RegionEditor
    from napari_slidecorr.project import Project
    from napari_slidecorr.region_import import ImportPlan

READABLE = "*.geojson *.json *.xml *.annotations *.ndpa"
WRITABLE: dict[str, tuple[RegionFormat, str]] = {
    "QuPath GeoJSON (*.geojson *.json)": ("geojson", ".geojson"),
    "ASAP XML (*.xml)": ("asap", ".xml"),
    "Aperio ImageScope XML (*.xml)": ("aperio", ".xml"),
}
THUMBNAIL_PX = 800
NARROWEST_PX = 375
Picture = NDArray[np.uint8] | None


class RegionsDock(Dock):
    """Draw regions on the slide in view, give them classes, see what the cohort has.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        self.desk = desk_of(napari_viewer)
        self.preview: ImportPreview | None = None
        self._errands = Errands(self)
        self.setMinimumWidth(NARROWEST_PX)
        self.slide_label = QLabel()
        self.slide_label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.body.addWidget(self.slide_label)
        self.classes = ClassBox(self.desk, self.attempt, self.message.tell)
        self.body.addWidget(self.classes)
        self.tool_box = ToolBox(self.desk, self.attempt, self.message.tell)
        self.body.addWidget(self.tool_box)
        self.patch_box = PatchBox(self.desk.patches)
        self.body.addWidget(self.patch_box)
        self._files_box()
        self.body.addWidget(self.message)
        self._shortcuts()
        self.body.addStretch(1)
        self._connect()
        self.classes.count_all()
        self._on_slide()

    def _connect(self) -> None:
        self.listen(self.session.message, self.message.tell)
        self.listen(self.session.slides_changed, self.classes.count_all)
        self.listen(self.session.regions_changed, self._on_edited)
        self.listen(self.session.job_started, self.classes.on_job)
        self.listen(self.session.job_event, self.classes.show_event)
        self.listen(self.session.job_ended, self.classes.on_job)
        self.listen(self.session.current_slide_changed, self._on_slide)
        self.listen(self.desk.edited, self._on_edited)
        self.listen(self.desk.class_changed, self.classes.table.choose)
        self.listen(self.desk.opened, self._on_slide)
        self.listen(self.desk.patches.switched, self.patch_box.switched)
        self.listen(self.desk.patches.counted, self.patch_box.show_counts)
        self.listen(self.desk.tools.changed, self.tool_box.show_tool)
        self.listen(self.desk.tools.sized, self.tool_box.show_sizes)

    # -- what a script may call too -----------------------------------------------------------------------------------

    def draw(self, tool: str) -> bool:
        """Take a tool, one of `TOOLS`, to the regions of the slide in view; False when there is none."""
        return self.tool_box.draw(tool)

    def import_regions(self, path: str | Path) -> bool:
        """Add the regions of a file to the slide in view without a preview; says what was left out."""
        return self.attempt(lambda: self._carry_out(self._editor(), self._plan(Path(path))()[0]))

    def preview_import(self, path: str | Path) -> bool:
        """Read a file of regions in a thread and show what importing it would do; `preview` is the window then."""
        return self.attempt(lambda: self._ask_about(Path(path)))

    def export_regions(self, path: str | Path, kind: RegionFormat | None = None) -> bool:
        """Write the regions of the slide in view: QuPath GeoJSON, or the XML of ASAP or Aperio ImageScope."""
        return self.attempt(lambda: self._export(Path(path), kind))

    # -- parts --------------------------------------------------------------------------------------------------------

    def _files_box(self) -> None:
        self.import_button = button(
            "Import ...",
            "Look at regions drawn in QuPath, ASAP, ImageScope or elsewhere, and add them.",
            self._ask_import,
        )
        self.export_button = button(
            "Export ...", "Write this slide's regions for QuPath, ASAP or ImageScope.", self._ask_export
        )
        self.restore_button = RestoreButton(self.desk, self.attempt)
        self.body.addWidget(row(self.import_button, self.export_button, self.restore_button))

    def _shortcuts(self) -> None:
        label = QLabel(f"<b>In the picture, while the regions layer is selected:</b>{html_table()}")
        label.setWordWrap(True)
        label.setMinimumHeight(label.heightForWidth(NARROWEST_PX - 70))  # unfolding would cut what is wrapped
        self.body.addWidget(Fold("Keys", label))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Let the keys of the picture work while the dock has the focus."""
        pressed = QKeySequence(event.keyCombination()).toString(QKeySequence.SequenceFormat.PortableText)
        action = dict(bound()).get(pressed)
        if action is None:
            super().keyPressEvent(event)
        else:
            self.attempt(lambda: action(self.desk))

    # -- asking -------------------------------------------------------------------------------------------------------

    def _ask_import(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Regions", "", f"Regions ({READABLE});;All files (*)")
        if path:
            self.preview_import(path)

    def _ask_export(self) -> None:
        name = f"{self.session.current_slide or 'regions'}.geojson"
        path, chosen = QFileDialog.getSaveFileName(self, "Export regions", name, ";;".join(WRITABLE))
        if path:
            kind, ending = WRITABLE.get(chosen, (None, ".geojson"))
            self.export_regions(path if Path(path).suffix else f"{path}{ending}", kind)

    # -- doing --------------------------------------------------------------------------------------------------------

    def _editor(self) -> RegionEditor:
        return self.desk.tools.editor

    def _plan(self, path: Path) -> Callable[[], tuple[ImportPlan, Picture]]:
        """Give what reads a file and the slide's thumbnail; for a thread."""
        editor, project = self._editor(), self.session.require_project()
        editor.flush()
        slide_id = editor.slide_id

        def work() -> tuple[ImportPlan, Picture]:
            plan = project.plan_import(slide_id, path)
            return plan, _thumbnail(project, slide_id)

        return work

    def _ask_about(self, path: Path) -> None:
        work, editor = self._plan(path), self._editor()
        self.message.tell(f"Reading {path.name} ...")
        self.import_button.setEnabled(False)
        self._errands.run(work, lambda read: self._show_preview(editor, *read), self._on_import_failed)

    def _on_import_failed(self, error: BaseException) -> None:
        self._on_slide()
        self.session.report(error)

    def _show_preview(self, editor: RegionEditor, plan: ImportPlan, picture: Picture) -> None:
        self._on_slide()
        self.message.tell("")
        if editor is not self.desk.editor:
            self.message.tell(_elsewhere(editor.slide_id), is_error=True)
            return
        project, shape = editor.project, layers.identity(editor.layer)["shape"]
        preview = ImportPreview(plan, picture, shape, project.classes, project.colors, self)
        preview.accepted.connect(lambda: self.attempt(lambda: self._carry_out(editor, preview.plan)))
        self.preview = preview
        preview.open()

    def _carry_out(self, editor: RegionEditor, plan: ImportPlan) -> None:
        """Add what a plan holds to the slide that it was made for: one step that can be undone."""
        if editor is not self.desk.editor:
            raise RegionsError(_elsewhere(editor.slide_id))
        editor.flush()
        added = editor.project.import_planned(editor.slide_id, plan)
        editor.set_regions(editor.project.regions(editor.slide_id))
        self.desk.refresh_classes()
        self.classes.count(editor.slide_id)
        self.message.tell(told(plan.path.name, added))

    def _export(self, path: Path, kind: RegionFormat | None) -> None:
        editor = self._editor()
        editor.settle()
        io.write_regions(path, editor.regions, colors=self.session.require_project().colors, format=kind)
        self.message.tell(f"{len(editor.regions)} regions written to {path}.")

    # -- what happened ------------------------------------------------------------------------------------------------

    def _on_edited(self, slide_id: str) -> None:
        self.classes.count(slide_id)
        self.tool_box.show_steps()

    def _on_slide(self, _slide_id: str = "") -> None:
        slide_id, editor = self.session.current_slide, self.desk.editor
        told = f"Slide: {slide_id}" if slide_id else "No slide is in view."
        shown = self.slide_label.fontMetrics().elidedText(told, Qt.TextElideMode.ElideMiddle, NARROWEST_PX - 30)
        self.slide_label.setText(shown)
        self.slide_label.setToolTip(slide_id or "")
        for each in (self.import_button, self.export_button):
            each.setEnabled(editor is not None)
        self.tool_box.show_slide(editor)
        self.classes.fill()


def _elsewhere(slide_id: str) -> str:
    return f"Another slide came into view; nothing was imported. Show {slide_id} and import again."


def _thumbnail(project: Project, slide_id: str) -> Picture:
    """A picture to draw regions on; None for a slide that cannot be read, or has channels instead of colours."""
    try:
        slide = project.slide(slide_id)
        return None if slide.channels else slide.thumbnail(THUMBNAIL_PX)
    except SlideError:
        return None


def told(name: str, added: RegionsFile) -> str:
    """Say what an import did."""
    classes = Counter(region.class_name or "no class" for region in added.regions)
    listed = ", ".join(f"{each}: {count}" for each, count in classes.items())
    first = f"{len(added.regions)} regions added from {name}{f' ({listed})' if listed else ''}."
    kinds = (added.skipped, added.repaired, added.notes)
    return " ".join([first, *(f"{text} ({count}x)" for kind in kinds for text, count in kind.items())])
