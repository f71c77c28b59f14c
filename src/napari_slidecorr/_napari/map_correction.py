"""Where a map is wrong, a click or a lasso makes a region of the right class, to train on again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QComboBox, QFormLayout, QPushButton, QWidget

from napari_slidecorr._napari.desk import desk_of
from napari_slidecorr._napari.dock import narrow, refill
from napari_slidecorr._napari.layers import identity
from napari_slidecorr._napari.parts import button, row, timer
from napari_slidecorr.errors import MapError
from napari_slidecorr.io.map_geojson import area_at
from napari_slidecorr.regions import Region, RegionSet

if TYPE_CHECKING:
    from napari_slidecorr._napari.map_layers import MapView
    from napari_slidecorr._napari.region_editor import RegionEditor

LASSO_MODE, REST_MODE = "add_polygon_lasso", "pan_zoom"


class MapCorrection(QWidget):
    """A class to choose, buttons that make clicks and lassos on the map into regions of it, and *Train again*.

    Parameters
    ----------
    viewer
        As a dock has it, perhaps a proxy.
    view
        Gives the map that is shown.
    attempt
        Calls an action and shows its error; False when there was one.
    tell
        Shows a sentence.
    train_again
        Goes on from the model of the map.
    """

    def __init__(
        self,
        viewer: Any,
        view: Callable[[], MapView | None],
        attempt: Callable[[Callable[[], Any]], bool],
        tell: Callable[[str], None],
        train_again: Callable[[], Any],
    ) -> None:
        super().__init__()
        self.desk = desk_of(viewer)
        self._view, self._attempt, self._tell = view, attempt, tell
        self.class_choice = narrow(QComboBox())
        self.class_choice.setToolTip("The right class of what you click or draw around.")
        self.button = _toggle(
            "Click what is wrong",
            "Press this, then click an area of the map: it becomes a region of the class above, to train on again. "
            "Undo it in the Regions dock.",
            self._on_button,
        )
        self.lasso_button = _toggle(
            "Lasso",
            "Press this, then draw around wrong tissue: the outline becomes a region of the class above.",
            self._on_lasso,
        )
        self.train_button = button(
            "Train again from here",
            "Open the Training dock with this map's model as the start, to learn the regions you added.",
            train_again,
        )
        layout = QFormLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addRow("Right class", self.class_choice)
        layout.addRow(row(self.button, self.lasso_button))
        layout.addRow(self.train_button)
        self.class_choice.currentIndexChanged.connect(self._on_class)
        self._at_last = timer(0, self._end_lasso, self)
        callbacks = self.desk.viewer.mouse_drag_callbacks
        callbacks.append(self._on_mouse)
        self.destroyed.connect(lambda: self._on_mouse in callbacks and callbacks.remove(self._on_mouse))

    def fill(self) -> None:
        """List the project's classes."""
        project = self.desk.session.project
        refill(self.class_choice, [(name, name) for name in (project.classes if project else ())])

    def rest(self) -> None:
        """Let the mouse move the picture again, also on the slide that is just being shown: it is given the tool later."""
        if self.lasso_button.isChecked():
            self._at_last.start()
        for toggle in (self.button, self.lasso_button):
            toggle.setChecked(False)

    def correct(self, world: tuple[float, float]) -> bool:
        """Turn the area of the map at a place in the viewer's coordinates into a region of the chosen class."""
        return self._attempt(lambda: self._correct(world))

    def _correct(self, world: tuple[float, float]) -> None:
        view, name = self._shown()
        polygon = area_at(view.prediction, view.place_px(world), view.threshold)
        if polygon is None:
            raise MapError("Nothing is predicted there; click a coloured or grey area of the map.")
        editor = self._editor(view)
        editor.set_regions(RegionSet((*editor.regions, Region(name, polygon))))
        self._tell(f"Made a region of {name}. Take it back in the Regions dock, or train again when you have a few.")

    def _shown(self) -> tuple[MapView, str]:
        view, name = self._view(), self.class_choice.currentData()
        if view is None or name is None:
            raise MapError("There is no map in view, or no class to give; make both first.")
        return view, name

    def _editor(self, view: MapView) -> RegionEditor:
        """Open the regions of the map's slide."""
        slide_id = view.prediction.slide_id
        self.desk.open_regions(self.desk.session.require_project().slide(slide_id))
        editor = self.desk.editor_of(slide_id)
        if editor is None:
            raise MapError(f"The regions of {slide_id} cannot be opened; show the slide first.")
        return editor

    def _on_button(self) -> None:
        view = self._view()
        if self.button.isChecked():
            self.lasso_button.setChecked(False)
            if view is not None:
                self.desk.viewer.layers.selection.active = view.class_map  # so that no drawing tool takes the click

    def _on_lasso(self) -> None:
        if self.lasso_button.isChecked():
            self.button.setChecked(False)
            if not self._attempt(self._begin_lasso):
                self.lasso_button.setChecked(False)
        else:
            self._end_lasso()

    def _begin_lasso(self) -> None:
        view, name = self._shown()
        layer = self._editor(view).layer
        self.desk.take_class(name)
        layer.visible = True
        self.desk.viewer.layers.selection.active = layer
        layer.mode = LASSO_MODE
        self._tell(f"Draw around tissue that is {name}. Press Lasso again when you are done.")

    def _end_lasso(self) -> None:
        editor = self.desk.editor
        if editor is not None and editor.layer.mode == LASSO_MODE:
            editor.layer.mode = REST_MODE

    def _on_class(self) -> None:
        name = self.class_choice.currentData()
        if self.lasso_button.isChecked() and name is not None:
            self.desk.take_class(name)

    def _on_mouse(self, _viewer: Any, event: Any) -> Iterator[None]:
        """A click, not a drag, while the button is down."""
        if not self.button.isChecked():
            return
        if self._draws():
            self.button.setChecked(False)
            return
        y, x = event.position[-2:]
        dragged = False
        yield
        while event.type == "mouse_move":
            dragged = True
            yield
        if not dragged:
            self.correct((float(y), float(x)))

    def _draws(self) -> bool:
        """Whether the hand has taken a tool of the regions since."""
        active = self.desk.viewer.layers.selection.active
        on_regions = active is not None and identity(active).get("kind") == "regions"
        return on_regions and self.desk.tools.tool != REST_MODE


def _toggle(text: str, tip: str, toggled: Callable[[], None]) -> QPushButton:
    """A button that stays down."""
    made = QPushButton(text)
    made.setToolTip(tip)
    made.setCheckable(True)
    made.toggled.connect(lambda _checked: toggled())
    return made
