"""Where a map is wrong, a click turns the area into a region of the right class, to train on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QComboBox, QFormLayout, QWidget

from napari_slidecorr._napari.desk import desk_of
from napari_slidecorr._napari.dock import narrow, refill
from napari_slidecorr._napari.parts import button
from napari_slidecorr.errors import MapError
from napari_slidecorr.io.map_geojson import area_at
from napari_slidecorr.regions import Region, RegionSet

if TYPE_CHECKING:
    from napari_slidecorr._napari.map_layers import MapView


class MapCorrection(QWidget):
    """A class to choose, and a button that makes clicks on the map into regions of it.

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
    """

    def __init__(
        self,
        viewer: Any,
        view: Callable[[], MapView | None],
        attempt: Callable[[Callable[[], Any]], bool],
        tell: Callable[[str], None],
    ) -> None:
        super().__init__()
        self.desk = desk_of(viewer)
        self._view, self._attempt, self._tell = view, attempt, tell
        self.class_choice = narrow(QComboBox())
        self.class_choice.setToolTip("The right class of what you click.")
        self.button = button(
            "Click what is wrong",
            "Press this, then click an area of the map: it becomes a region of the class above, to train on again. "
            "Undo it in the Regions dock.",
            self._on_button,
        )
        self.button.setCheckable(True)
        layout = QFormLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addRow("Right class", self.class_choice)
        layout.addRow(self.button)
        callbacks = self.desk.viewer.mouse_drag_callbacks
        callbacks.append(self._on_mouse)
        self.destroyed.connect(lambda: self._on_mouse in callbacks and callbacks.remove(self._on_mouse))

    def fill(self) -> None:
        """List the project's classes."""
        project = self.desk.session.project
        refill(self.class_choice, [(name, name) for name in (project.classes if project else ())])

    def correct(self, world: tuple[float, float]) -> bool:
        """Turn the area of the map at a place in the viewer's coordinates into a region of the chosen class."""
        return self._attempt(lambda: self._correct(world))

    def _correct(self, world: tuple[float, float]) -> None:
        view, name = self._view(), self.class_choice.currentData()
        if view is None or name is None:
            raise MapError("There is no map in view, or no class to give; make both first.")
        prediction = view.prediction
        polygon = area_at(prediction, view.place_px(world), view.threshold)
        if polygon is None:
            raise MapError("Nothing is predicted there; click a coloured or grey area of the map.")
        self.desk.open_regions(self.desk.session.require_project().slide(prediction.slide_id))
        editor = self.desk.editor_of(prediction.slide_id)
        if editor is None:
            raise MapError(f"The regions of {prediction.slide_id} cannot be opened; show the slide first.")
        editor.set_regions(RegionSet((*editor.regions, Region(name, polygon))))
        self._tell(f"Made a region of {name}. Take it back in the Regions dock, or train again when you have a few.")

    def _on_button(self) -> None:
        view = self._view()
        if self.button.isChecked() and view is not None:
            self.desk.viewer.layers.selection.active = view.class_map  # so that no drawing tool takes the click

    def _on_mouse(self, _viewer: Any, event: Any) -> Iterator[None]:
        """A click, not a drag, while the button is down."""
        if not self.button.isChecked():
            return
        y, x = event.position[-2:]
        dragged = False
        yield
        while event.type == "mouse_move":
            dragged = True
            yield
        if not dragged:
            self.correct((float(y), float(x)))
