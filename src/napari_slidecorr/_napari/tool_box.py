"""The buttons of the tools, their sizes, and what is done to selected regions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QDoubleSpinBox, QGroupBox, QPushButton, QSizePolicy, QVBoxLayout

from napari_slidecorr._napari import layers
from napari_slidecorr._napari.desk import Desk
from napari_slidecorr._napari.parts import button, row
from napari_slidecorr._napari.region_tools import RADII, TOOLS, RegionTools
from napari_slidecorr._napari.wand import TOLERANCES

if TYPE_CHECKING:
    from napari_slidecorr._napari.region_editor import RegionEditor

ROWS = (
    ("add_polygon", "add_polygon_lasso", "add_rectangle", "add_ellipse"),
    ("brush", "wand", "split"),
    ("select", "direct", "pan_zoom"),
)
SIMPLIFY = 2.0


class ToolBox(QGroupBox):
    """Takes tools into the hand and works on what is selected.

    Parameters
    ----------
    desk : Desk
    attempt
        Calls an action and shows its error; False when there was one.
    tell
        Shows a sentence.
    """

    def __init__(self, desk: Desk, attempt: Callable[[Callable[[], Any]], bool], tell: Callable[[str], None]) -> None:
        super().__init__("Draw and change")
        self.desk, self.tools = desk, desk.tools
        self._attempt, self._tell = attempt, tell
        self.buttons = {name: self._tool(name) for name in TOOLS}
        self.radius = self._size(
            "Brush ", " px", RADII, "radius", "Radius of the brush, in pixels of the screen: [ and ]."
        )
        self.tolerance = self._size(
            "Wand ",
            "",
            TOLERANCES,
            "tolerance",
            "How far colour and grain may differ (CIELAB): [ and ], or drag up and down.",
        )
        self._make_changes()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 4, 6, 6)
        layout.setSpacing(4)
        for names in ROWS:
            layout.addWidget(row(*(self.buttons[name] for name in names)))
        layout.addWidget(row(self.radius, self.tolerance))
        layout.addWidget(row(self.merge_button, self.fill_button, self.hole_button))
        layout.addWidget(row(self.simplify_button, self.detail))
        layout.addWidget(row(self.delete_button, self.undo_button, self.redo_button))

    def draw(self, tool: str) -> bool:
        """Take a tool, one of `TOOLS`; False when there is no slide or class for it."""
        self.show_tool()  # a click has toggled the button; what it shows is the hand's business
        return self._attempt(lambda: self.tools.take(tool))

    def show_slide(self, editor: RegionEditor | None) -> None:
        """Serve a slide, or none."""
        for each in (*self.buttons.values(), self.radius, self.tolerance, *self._changes()):
            each.setEnabled(editor is not None)
        known = editor is not None and layers.identity(editor.layer)["mpp"] is not None
        self.detail.setSuffix(" µm" if known else " px")
        self.show_tool()
        self.show_steps()

    def show_tool(self, _tool: str = "") -> None:
        """Press the button of the tool in the hand."""
        for name, made in self.buttons.items():
            made.setChecked(name == self.tools.tool)

    def show_sizes(self) -> None:
        """Show what keys and the mouse have set."""
        for name, edit in (("radius", self.radius), ("tolerance", self.tolerance)):
            edit.blockSignals(True)
            edit.setValue(getattr(self.tools, name))
            edit.blockSignals(False)

    def show_steps(self) -> None:
        """Tell whether there is something to undo or redo."""
        editor = self.desk.editor
        self.undo_button.setEnabled(editor is not None and editor.history.can_undo)
        self.redo_button.setEnabled(editor is not None and editor.history.can_redo)

    def simplify(self) -> bool:
        """Leave out corners of the selected regions, by the tolerance that is shown."""

        def change() -> None:
            mpp = layers.identity(self.tools.editor.layer)["mpp"]
            size_px = self.detail.value() / (sum(mpp) / 2 if mpp else 1.0)
            self._tell(self.tools.simplify(size_px))

        return self._attempt(change)

    def _tool(self, name: str) -> QPushButton:
        tool = TOOLS[name]
        made = _narrow(button(tool.text, f"{tool.tip}  Key: {tool.key}", partial(self.draw, name)))
        made.setCheckable(True)
        return made

    def _size(self, prefix: str, suffix: str, limits: tuple[int, int], name: str, tip: str) -> QDoubleSpinBox:
        made = QDoubleSpinBox()
        made.setDecimals(0)
        made.setRange(*limits)
        made.setPrefix(prefix)
        made.setSuffix(suffix)
        made.setToolTip(tip)
        made.setValue(getattr(self.tools, name))
        made.valueChanged.connect(partial(setattr, self.tools, name))
        return made

    def _make_changes(self) -> None:
        do = self._do
        self.merge_button = do("Merge", "Join the selected regions of one class.  Key: J", lambda tools: tools.merge())
        self.fill_button = do(
            "Fill holes", "Fill the holes of the selected regions.  Key: F", lambda tools: tools.fill()
        )
        self.hole_button = do(
            "Cut hole",
            "Draw a region inside another one, select it, press this: it becomes a hole of the outer one.  Key: H",
            lambda tools: tools.editor.cut_hole(),
        )
        self.simplify_button = _narrow(
            button("Simplify", "Leave out corners of the selected regions that hardly count.", self.simplify)
        )
        self.detail = QDoubleSpinBox()
        self.detail.setRange(0.1, 1000)
        self.detail.setDecimals(1)
        self.detail.setValue(SIMPLIFY)
        self.detail.setPrefix("within ")
        self.detail.setToolTip("How far the simpler outline may lie off the drawn one.")
        self.delete_button = do(
            "Delete", "Delete the selected regions.  Key: Delete", lambda tools: tools.editor.delete_selected()
        )
        self.undo_button = do(
            "Undo", "Take the last change of this slide's regions back.  Key: Ctrl+Z", lambda tools: tools.editor.undo()
        )
        self.redo_button = do(
            "Redo", "Do an undone change again.  Key: Ctrl+Shift+Z", lambda tools: tools.editor.redo()
        )

    def _changes(self) -> tuple[Any, ...]:
        own = (self.merge_button, self.fill_button, self.hole_button, self.simplify_button, self.detail)
        return (*own, self.delete_button)

    def _do(self, text: str, tip: str, action: Callable[[RegionTools], None]) -> QPushButton:
        def clicked() -> None:
            self._tell("")
            self._attempt(lambda: action(self.tools))

        return _narrow(button(text, tip, clicked))


def _narrow(made: QPushButton) -> QPushButton:
    """Let buttons of a row share its width, and be low."""
    made.setMinimumWidth(40)
    made.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return made
