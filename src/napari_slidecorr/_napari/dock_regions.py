"""The Regions dock: classes, tools to draw with, what is drawn, and regions in and out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QColor, QKeyEvent, QKeySequence
from qtpy.QtWidgets import QColorDialog, QFileDialog, QInputDialog, QLabel, QMessageBox, QPushButton, QSizePolicy
from superqt import QCollapsible

from napari_slidecorr import io
from napari_slidecorr._napari.class_table import ClassTable, Tally, tally, warnings_about
from napari_slidecorr._napari.desk import CLASS_KEYS, desk_of
from napari_slidecorr._napari.dock import Dock
from napari_slidecorr._napari.errands import Errands
from napari_slidecorr._napari.parts import box, button, row
from napari_slidecorr._napari.region_editor import RegionEditor, renamed
from napari_slidecorr.errors import ProjectError, RegionsError, SlideCorrError
from napari_slidecorr.regions import IGNORE

if TYPE_CHECKING:
    import napari.viewer

    from napari_slidecorr.project import Project

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
        self.errands = Errands(self)
        self._tallies: dict[str, Tally] = {}
        self._tools: dict[str, QPushButton] = {}
        self._watched: Any = None
        self.slide_label = QLabel()
        self.slide_label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.body.addWidget(self.slide_label)
        self._classes_box()
        self._draw_box()
        self._files_box()
        self.body.addWidget(self.message)
        self._shortcuts()
        self._connect()
        self._on_slides()
        self._on_slide()

    def _connect(self) -> None:
        self.listen(self.session.message, self.message.tell)
        self.listen(self.session.slides_changed, self._on_slides)
        self.listen(self.session.regions_changed, self._on_edited)
        self.listen(self.session.current_slide_changed, self._on_slide)
        self.listen(self.desk.edited, self._on_edited)
        self.listen(self.desk.class_changed, self.class_table.choose)
        self.listen(self.desk.opened, self._on_slide)

    # -- what a script may call too -----------------------------------------------------------------------------------

    def draw(self, tool: str) -> bool:
        """Take a tool, one of `TOOLS`, to the regions of the slide in view; False when there is none."""
        return self.attempt(lambda: self._take(tool))

    def add_class(self, name: str) -> bool:
        """Add a class and make it the current one."""
        name = name.strip()
        project = self.session.project
        if project is not None and name in (*project.classes, IGNORE):
            self.message.tell(f"There is a class {name!r} already.", is_error=True)
            return False
        done = self.attempt(lambda: _set_classes(self.session.require_project(), {"": name}))
        if done:
            self._classes_changed()
            self.desk.current_class = name
        return done

    def rename_class(self, old: str, new: str) -> bool:
        """Give a class another name, on all slides."""
        new = new.strip()
        project = self.session.project
        if project is not None and new != old and new in (*project.classes, IGNORE):
            self.message.tell(f"There is a class {new!r} already; give the regions that one instead.", is_error=True)
            return False
        return self.attempt(lambda: self._replace_class(old, new))

    def delete_class(self, name: str) -> bool:
        """Delete a class; its regions on all slides stay, without a class."""
        return self.attempt(lambda: self._replace_class(name, ""))

    def recolour_class(self, name: str, color: tuple[int, int, int]) -> bool:
        """Give a class another colour."""

        def change() -> None:
            project = self.session.require_project()
            project.set_classes(project.classes, {name: color})

        done = self.attempt(change)
        self._classes_changed()
        return done

    def import_regions(self, path: str | Path) -> bool:
        """Add the regions of a GeoJSON file to the slide in view; says what was left out."""
        return self.attempt(lambda: self._import(Path(path)))

    def export_regions(self, path: str | Path) -> bool:
        """Write the regions of the slide in view as QuPath GeoJSON."""
        return self.attempt(lambda: self._export(Path(path)))

    # -- parts --------------------------------------------------------------------------------------------------------

    def _classes_box(self) -> None:
        self.class_table = ClassTable()
        self.class_table.chosen.connect(partial(setattr, self.desk, "current_class"))
        self.add_button = button("Add ...", "Add a class.", self._ask_add)
        self.rename_button = button("Rename ...", "Rename the chosen class on all slides.", self._ask_rename)
        self.color_button = button("Colour ...", "Give the chosen class another colour.", self._ask_color)
        self.delete_class_button = button("Delete ...", "Delete the chosen class; its regions stay.", self._ask_delete)
        self.warning = QLabel()
        self.warning.setWordWrap(True)
        self.warning.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        buttons = row(self.add_button, self.rename_button, self.color_button, self.delete_class_button)
        self.body.addWidget(box("Classes", self.class_table, buttons, self.warning))

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

    def _ask_add(self) -> None:
        name, accepted = QInputDialog.getText(self, "New class", "Name of the new class, tumour for example:")
        if accepted and name.strip():
            self.add_class(name)

    def _ask_rename(self) -> None:
        if (old := self._chosen_class()) is None:
            return
        new, accepted = QInputDialog.getText(self, "Rename class", f"New name of {old}, on all slides:", text=old)
        if accepted and new.strip() and new.strip() != old:
            self.rename_class(old, new)

    def _ask_color(self) -> None:
        if (name := self._chosen_class()) is None:
            return
        color = QColorDialog.getColor(QColor(*self.session.require_project().colors[name]), self, f"Colour of {name}")
        if color.isValid():
            self.recolour_class(name, (color.red(), color.green(), color.blue()))

    def _ask_delete(self) -> None:
        if (name := self._chosen_class()) is None:
            return
        slides = [each for each in self._tallies.values() if name in each.amounts]
        count = sum(each.amounts[name].regions for each in slides)
        kept = f"\n\nIts {count} regions on {len(slides)} slides stay, without a class." if count else ""
        answer = QMessageBox.question(self, "Delete class", f"Delete the class {name}?{kept}")
        if answer == QMessageBox.StandardButton.Yes:
            self.delete_class(name)

    def _ask_import(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Regions", "", "GeoJSON (*.geojson *.json);;All files (*)")
        if path:
            self.import_regions(path)

    def _ask_export(self) -> None:
        name = f"{self.session.current_slide or 'regions'}.geojson"
        path, _ = QFileDialog.getSaveFileName(self, "Regions for QuPath", name, "GeoJSON (*.geojson)")
        if path:
            self.export_regions(path if path.lower().endswith((".geojson", ".json")) else f"{path}.geojson")

    def _chosen_class(self) -> str | None:
        name = self.class_table.current
        if name in (None, "", IGNORE):
            self.message.tell("Choose one of your own classes in the table first.")
            return None
        return name

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

    def _replace_class(self, old: str, new: str) -> None:
        project = self.session.require_project()
        if self.session.busy:
            raise ProjectError(f"{self.session.job_title} still runs and uses the classes; wait for it, or cancel it.")
        self.desk.flush()
        _set_classes(project, {old: new})
        for slide in project.cohort:
            editor, regions = self.desk.editor_of(slide.id), project.regions(slide.id)
            if editor is not None:
                editor.rename_class(old, new)
            elif regions.of_class(old):
                project.save_regions(slide.id, renamed(regions, old, new))
        self.desk.flush()
        if self.desk.current_class == old:
            self.desk.current_class = new
        self._classes_changed()
        self._on_slides()

    def _import(self, path: Path) -> None:
        editor, project = self._editor(), self.session.require_project()
        editor.flush()
        added, skipped = project.import_regions(editor.slide_id, path)
        editor.set_regions(project.regions(editor.slide_id))
        self._classes_changed()
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

    def _classes_changed(self) -> None:
        self.desk.refresh_classes()
        self._fill()

    def _on_slides(self) -> None:
        """Count anew, in a thread: the regions of all slides are read for it."""
        project = self.session.project
        ids = [slide.id for slide in project.cohort] if project else []
        self._tallies = {slide_id: each for slide_id, each in self._tallies.items() if slide_id in ids}
        self._fill()
        if project is not None:
            self.errands.run(lambda: _count_all(project), partial(self._on_counted, project), self.session.report)

    def _on_counted(self, project: Project, tallies: dict[str, Tally]) -> None:
        if project is self.session.project:
            self._tallies = tallies
            for editor in self.desk.editors():
                self._count(editor)
            self._fill()

    def _on_edited(self, slide_id: str) -> None:
        editor = self.desk.editor_of(slide_id)
        if editor is None:
            self._on_slides()
        else:
            self._count(editor)
            self._fill()

    def _count(self, editor: RegionEditor) -> None:
        mpp = layers_mpp(editor)
        groups = {slide.id: slide.group for slide in editor.project.cohort}
        if editor.slide_id in groups:
            self._tallies[editor.slide_id] = tally(editor.regions, mpp, groups[editor.slide_id])

    def _fill(self) -> None:
        project = self.session.project
        classes, colors = (project.classes, project.colors) if project else ((), {})
        here = self._tallies.get(self.session.current_slide or "")
        self.class_table.fill(classes, colors, here, self._tallies.values())
        self.class_table.choose(self.desk.current_class)
        self.warning.setText(warnings_about(classes, self._tallies.values()) if project else "")
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
        self._fill()

    def _show_tool(self, _event: Any = None) -> None:
        mode = str(self._watched.mode) if self._watched is not None else ""
        for tool, made in self._tools.items():
            made.setChecked(tool == mode)


def layers_mpp(editor: RegionEditor) -> tuple[float, float] | None:
    """Micrometres per pixel of the slide that an editor's layer lies on."""
    mpp: tuple[float, float] | None = editor.layer.metadata["napari_slidecorr"]["mpp"]
    return mpp


def _count_all(project: Project) -> dict[str, Tally]:
    """In a thread: tally all slides; one that cannot be opened is tallied in pixels, the Slides dock tells why."""
    tallies = {}
    for known in project.cohort:
        try:
            mpp = project.slide(known.id).mpp
        except SlideCorrError:
            mpp = known.mpp
        try:
            tallies[known.id] = tally(project.regions(known.id), mpp, known.group)
        except SlideCorrError:
            tallies[known.id] = Tally(known.group)
    return tallies


def _set_classes(project: Project, changes: dict[str, str]) -> None:
    """Rename (old -> new), delete (old -> "") or add ("" -> new) classes; a renamed one keeps place and colour."""
    old_colors = project.colors
    names = [new for name in project.classes if (new := changes.get(name, name))]
    colors = {changes.get(name, name): color for name, color in old_colors.items()}
    colors.pop("", None)
    added = [changes[""]] if "" in changes else []
    project.set_classes([*names, *added], {name: colors[name] for name in names})
