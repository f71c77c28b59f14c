"""The Regions dock: classes, tools to draw with, what is drawn, and regions in and out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QKeyEvent, QKeySequence
from qtpy.QtWidgets import QFileDialog, QLabel, QPushButton, QSizePolicy
from superqt import QCollapsible

from napari_slidecorr import io
from napari_slidecorr._napari.class_box import ClassBox
from napari_slidecorr._napari.desk import CLASS_KEYS, desk_of
from napari_slidecorr._napari.dock import Dock
from napari_slidecorr._napari.parts import box, button, row
from napari_slidecorr._napari.region_editor import RegionEditor
from napari_slidecorr.errors import RegionsError

if TYPE_CHECKING:
    import napari.viewer

MANY_REGIONS = 2000
"""Above this drawing and moving become slow: 0.9 s for each added shape at 10,000."""

TOOLS = {
    "add_polygon": ("Polygon", "Click corner after corner; a double click or Esc ends the outline."),
    "add_polygon_lasso": ("Lasso", "Press, go around the region, let go."),
    "add_rectangle": ("Rectangle", "Press at a corner, let go at the other."),
    "select": ("Select", "Click a region, or drag a box around several; drag to move them."),
    "direct": ("Corners", "Drag the corners of a selected region."),
    "pan_zoom": ("Move view", "Drag and scroll the slide."),
}
SHORTCUTS = """
<b>In the picture, while the regions layer is selected:</b>
<table cellspacing="4">
<tr><td><b>1 ... 9</b></td><td>choose a class; selected regions get it too</td></tr>
<tr><td><b>0</b></td><td>choose <i>ignore</i>, for artefacts</td></tr>
<tr><td><b>P</b>, <b>Shift+P</b>, <b>R</b></td><td>draw a polygon, with the lasso, a rectangle</td></tr>
<tr><td><b>Esc</b></td><td>end an outline</td></tr>
<tr><td><b>Space</b> (hold)</td><td>move the view</td></tr>
<tr><td><b>Delete</b></td><td>delete selected regions</td></tr>
<tr><td><b>Ctrl+Z</b>, <b>Ctrl+Shift+Z</b></td><td>undo, redo</td></tr>
</table>
Numbers choose classes here, and not napari's tools; those have their buttons above.
"""


class RegionsDock(Dock):
    """Draw regions on the slide in view, give them classes, see what the cohort has.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        self.desk = desk_of(napari_viewer)
        self._tools: dict[str, QPushButton] = {}
        self._watched: Any = None
        self.setMinimumWidth(360)
        self.slide_label = QLabel()
        self.slide_label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.body.addWidget(self.slide_label)
        self.classes = ClassBox(self.desk, self.attempt, self.message.tell)
        self.body.addWidget(self.classes)
        self._draw_box()
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

    # -- what a script may call too -----------------------------------------------------------------------------------

    def draw(self, tool: str) -> bool:
        """Take a tool, one of `TOOLS`, to the regions of the slide in view; False when there is none."""
        return self.attempt(lambda: self._take(tool))

    def import_regions(self, path: str | Path) -> bool:
        """Add the regions of a GeoJSON file to the slide in view; says what was left out."""
        return self.attempt(lambda: self._import(Path(path)))

    def export_regions(self, path: str | Path) -> bool:
        """Write the regions of the slide in view as QuPath GeoJSON."""
        return self.attempt(lambda: self._export(Path(path)))

    # -- parts --------------------------------------------------------------------------------------------------------

    def _draw_box(self) -> None:
        for tool, (text, tip) in TOOLS.items():
            made = self._tools[tool] = button(text, tip, partial(self.draw, tool))
            made.setCheckable(True)
        names = list(TOOLS)
        self.delete_button = button("Delete", "Delete the selected regions.", self._delete)
        self.hole_button = button(
            "Cut hole",
            "Draw a region inside another one, select it, press this: it becomes a hole of the outer one.",
            lambda: self._with_editor(RegionEditor.cut_hole),
        )
        self.undo_button = button("Undo", "Take the last change of this slide's regions back.", self._undo)
        self.redo_button = button("Redo", "Do an undone change again.", self._redo)
        self.body.addWidget(
            box(
                "Draw and change",
                row(*(self._tools[name] for name in names[:3])),
                row(*(self._tools[name] for name in names[3:])),
                row(self.delete_button, self.hole_button, self.undo_button, self.redo_button),
            )
        )

    def _files_box(self) -> None:
        self.import_button = button("Import GeoJSON ...", "Add regions drawn in QuPath or elsewhere.", self._ask_import)
        self.export_button = button("Export GeoJSON ...", "Write this slide's regions for QuPath.", self._ask_export)
        self.body.addWidget(row(self.import_button, self.export_button))

    def _shortcuts(self) -> None:
        label = QLabel(SHORTCUTS)
        label.setWordWrap(True)
        folded = QCollapsible("Keys")
        folded.addWidget(label)
        self.body.addWidget(folded)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Let the keys of the picture work while the dock has the focus."""
        key = event.key() - Qt.Key.Key_0
        if event.matches(QKeySequence.StandardKey.Undo):
            self._undo()
        elif event.matches(QKeySequence.StandardKey.Redo):
            self._redo()
        elif event.modifiers() == Qt.KeyboardModifier.NoModifier and 0 <= key <= CLASS_KEYS:
            self.desk.choose(key)
        else:
            super().keyPressEvent(event)

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
        if self.desk.editor is None:
            raise RegionsError("No slide of the project is in view; show one from the Slides dock.")
        return self.desk.editor

    def _with_editor(self, action: Callable[[RegionEditor], None]) -> None:
        self.message.tell("")
        self.attempt(lambda: action(self._editor()))

    def _delete(self) -> None:
        self._with_editor(RegionEditor.delete_selected)

    def _undo(self) -> None:
        self._with_editor(RegionEditor.undo)

    def _redo(self) -> None:
        self._with_editor(RegionEditor.redo)

    def _take(self, tool: str) -> None:
        self._show_tool()  # a click has toggled the button; what it shows is the layer's business
        layer = self._editor().layer
        if tool.startswith("add_") and not self.desk.current_class:
            raise RegionsError("Add a class first, so that what you draw has one.")
        layer.visible = True
        self.viewer.layers.selection.active = layer
        layer.mode = tool

    def _import(self, path: Path) -> None:
        editor, project = self._editor(), self.session.require_project()
        editor.flush()
        added, skipped = project.import_regions(editor.slide_id, path)
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
        self._show_steps()

    def _show_steps(self) -> None:
        editor = self.desk.editor
        self.undo_button.setEnabled(editor is not None and editor.history.can_undo)
        self.redo_button.setEnabled(editor is not None and editor.history.can_redo)

    def _on_slide(self, _slide_id: str = "") -> None:
        slide_id, editor = self.session.current_slide, self.desk.editor
        self.slide_label.setText(f"Slide: {slide_id}" if slide_id else "No slide is in view.")
        self.slide_label.setToolTip(slide_id or "")
        if self._watched is not None:
            self._watched.events.mode.disconnect(self._show_tool)
        self._watched = editor.layer if editor else None
        if self._watched is not None:
            self._watched.events.mode.connect(self._show_tool)
        for each in (
            *self._tools.values(),
            self.delete_button,
            self.hole_button,
            self.import_button,
            self.export_button,
        ):
            each.setEnabled(editor is not None)
        self._show_tool()
        self._show_steps()
        self.classes.fill()

    def _show_tool(self, _event: Any = None) -> None:
        mode = str(self._watched.mode) if self._watched is not None else ""
        for tool, made in self._tools.items():
            made.setChecked(tool == mode)
