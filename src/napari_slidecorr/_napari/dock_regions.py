"""The Regions dock: classes, tools to draw with, what is drawn, and regions in and out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtGui import QKeyEvent, QKeySequence
from qtpy.QtWidgets import QFileDialog, QLabel, QSizePolicy
from superqt import QCollapsible

from napari_slidecorr import io
from napari_slidecorr._napari.class_box import ClassBox
from napari_slidecorr._napari.desk import desk_of
from napari_slidecorr._napari.dock import Dock
from napari_slidecorr._napari.keys import bound, html_table
from napari_slidecorr._napari.parts import button, row
from napari_slidecorr._napari.restore_dialog import RestoreButton
from napari_slidecorr._napari.tool_box import ToolBox

if TYPE_CHECKING:
    import napari.viewer

    from napari_slidecorr._napari.region_editor import RegionEditor

MANY_REGIONS = 2000
"""Above this drawing and moving become slow: 0.9 s for each added shape at 10,000."""


class RegionsDock(Dock):
    """Draw regions on the slide in view, give them classes, see what the cohort has.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        self.desk = desk_of(napari_viewer)
        self.setMinimumWidth(360)
        self.slide_label = QLabel()
        self.slide_label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.body.addWidget(self.slide_label)
        self.classes = ClassBox(self.desk, self.attempt, self.message.tell)
        self.body.addWidget(self.classes)
        self.tool_box = ToolBox(self.desk, self.attempt, self.message.tell)
        self.body.addWidget(self.tool_box)
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
        self.listen(self.session.current_slide_changed, self._on_slide)
        self.listen(self.desk.edited, self._on_edited)
        self.listen(self.desk.class_changed, self.classes.table.choose)
        self.listen(self.desk.opened, self._on_slide)
        self.listen(self.desk.tools.changed, self.tool_box.show_tool)
        self.listen(self.desk.tools.sized, self.tool_box.show_sizes)

    # -- what a script may call too -----------------------------------------------------------------------------------

    def draw(self, tool: str) -> bool:
        """Take a tool, one of `TOOLS`, to the regions of the slide in view; False when there is none."""
        return self.tool_box.draw(tool)

    def import_regions(self, path: str | Path) -> bool:
        """Add the regions of a GeoJSON file to the slide in view; says what was left out."""
        return self.attempt(lambda: self._import(Path(path)))

    def export_regions(self, path: str | Path) -> bool:
        """Write the regions of the slide in view as QuPath GeoJSON."""
        return self.attempt(lambda: self._export(Path(path)))

    # -- parts --------------------------------------------------------------------------------------------------------

    def _files_box(self) -> None:
        self.import_button = button("Import GeoJSON ...", "Add regions drawn in QuPath or elsewhere.", self._ask_import)
        self.export_button = button("Export GeoJSON ...", "Write this slide's regions for QuPath.", self._ask_export)
        self.restore_button = RestoreButton(self.desk, self.attempt)
        self.body.addWidget(row(self.import_button, self.export_button, self.restore_button))

    def _shortcuts(self) -> None:
        label = QLabel(f"<b>In the picture, while the regions layer is selected:</b>{html_table()}")
        label.setWordWrap(True)
        folded = QCollapsible("Keys")
        folded.addWidget(label)
        self.body.addWidget(folded)

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
        path, _ = QFileDialog.getOpenFileName(self, "Regions", "", "GeoJSON (*.geojson *.json);;All files (*)")
        if path:
            self.import_regions(path)

    def _ask_export(self) -> None:
        name = f"{self.session.current_slide or 'regions'}.geojson"
        path, _ = QFileDialog.getSaveFileName(self, "Regions for QuPath", name, "GeoJSON (*.geojson)")
        if path:
            self.export_regions(path if path.lower().endswith((".geojson", ".json")) else f"{path}.geojson")

    # -- doing --------------------------------------------------------------------------------------------------------

    def _editor(self) -> RegionEditor:
        return self.desk.tools.editor

    def _import(self, path: Path) -> None:
        editor, project = self._editor(), self.session.require_project()
        editor.flush()
        added, skipped, *_ = project.import_regions(editor.slide_id, path)
        editor.set_regions(project.regions(editor.slide_id))
        self.desk.refresh_classes()
        self.classes.count(editor.slide_id)
        classes = Counter(region.class_name or "no class" for region in added)
        parts = [f"{len(added)} regions added from {path.name}"]
        parts[0] += f" ({', '.join(f'{name}: {count}' for name, count in classes.items())})." if classes else "."
        parts += [f"{reason} ({count}x)" for reason, count in skipped.items()]
        if len(editor.regions) > MANY_REGIONS:
            parts.append(f"There are {len(editor.regions):,} regions on this slide; drawing will be slow.")
        self.message.tell(" ".join(parts))

    def _export(self, path: Path) -> None:
        editor = self._editor()
        editor.flush()
        io.write_regions(path, editor.regions, colors=self.session.require_project().colors)
        self.message.tell(f"{len(editor.regions)} regions written to {path}.")

    # -- what happened ------------------------------------------------------------------------------------------------

    def _on_edited(self, slide_id: str) -> None:
        self.classes.count(slide_id)
        self.tool_box.show_steps()

    def _on_slide(self, _slide_id: str = "") -> None:
        slide_id, editor = self.session.current_slide, self.desk.editor
        self.slide_label.setText(f"Slide: {slide_id}" if slide_id else "No slide is in view.")
        self.slide_label.setToolTip(slide_id or "")
        for each in (self.import_button, self.export_button):
            each.setEnabled(editor is not None)
        self.tool_box.show_slide(editor)
        self.classes.fill()
