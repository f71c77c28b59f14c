"""What in a patch spoke for a class: the buttons in the Diagnostics dock, the key, and the layer that shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtWidgets import QComboBox, QLabel, QVBoxLayout, QWidget

from napari_slidecorr._napari.desk import desk_of
from napari_slidecorr._napari.dock import Dock, MessageLine, narrow, refill
from napari_slidecorr._napari.errands import Errands
from napari_slidecorr._napari.job_bar import JobBar
from napari_slidecorr._napari.layers import KEY, find_layer, identity
from napari_slidecorr._napari.parts import box, button, row, while_alive
from napari_slidecorr._napari.torch_door import load_torch_for_job
from napari_slidecorr.errors import ModelError, ProjectError, RegionsError
from napari_slidecorr.events import Event
from napari_slidecorr.explanation import COLORMAP, STRENGTH, Explanation
from napari_slidecorr.geometry import Box
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.project import MODEL_FILE

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

TITLE = "Explanation"
KIND = "explanation"
SHORTCUT = "Shift-E"
PREDICTED = "the most probable class"


def explanation_layer(found: Explanation) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Give the values, shape (rows, columns), NaN is clear, and the arguments of ``viewer.add_image``."""
    unit = "um" if found.mpp else "pixel"
    return found.values, {
        "name": f"{found.slide_id} what spoke for {found.class_name}",
        "scale": found.scale,
        "translate": found.translate,
        "units": (unit, unit),
        "axis_labels": ("y", "x"),
        "metadata": {KEY: {"kind": KIND, "slide_id": found.slide_id, "model_id": found.model_id}},
        "colormap": _clear_to_bright(),
        "contrast_limits": (0.0, 1.0),
        "blending": "translucent",
    }


def _clear_to_bright() -> Any:
    """Colours that let the tissue through where little speaks for the class, as in `Explanation.overlay`."""
    import matplotlib as mpl
    from napari.utils import Colormap

    steps = np.linspace(0, 1, 256)
    colors = mpl.colormaps[COLORMAP](steps)
    colors[:, 3] = STRENGTH * steps
    return Colormap(colors, name="slidecorr explanation")


class ExplainBox(QWidget):
    """Explain a patch, the selected regions, or the patch under the mouse, by the model that is chosen in the dock.

    Parameters
    ----------
    dock : Dock
        Whose viewer and session are used.
    runs
        Gives the folders of the chosen runs; the first one's model is asked.
    """

    def __init__(self, dock: Dock, runs: Callable[[], list[Path]]) -> None:
        super().__init__()
        self._dock, self._runs = dock, runs
        self._session, self._viewer = dock.session, dock.viewer
        self._desk = desk_of(dock.viewer)
        self._errands = Errands(self)
        self._aim: tuple[str, Box] | None = None
        self.classes = narrow(QComboBox())
        self.classes.setToolTip("For which class to ask. Ask for another one to see what the model took for it.")
        self.patch_button = button(
            "This patch",
            "Show what in the marked patch, or in the one in the middle of the view, spoke for the class. "
            f"In the picture, {SHORTCUT.replace('-', '+')} asks for the patch under the mouse.",
            self.explain_patch,
        )
        self.region_button = button(
            "Selected region", "Show it for all patches of the selected regions, on one scale.", self.explain_regions
        )
        self.hide_button = button("Hide", "Take the explanation out of the picture.", self.clear)
        self.job = JobBar(self._session, TITLE, self.patch_button, self.region_button)
        self.told = MessageLine()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        head = row(QLabel("Look for"), self.classes, self.hide_button)
        layout.addWidget(box("What spoke for a class", head, self.job, self.told))
        self._connect()
        self.refresh()

    def _connect(self) -> None:
        self._dock.listen(self._session.job_started, self._on_start)
        self._dock.listen(self._session.job_ended, self._on_end)
        inner = getattr(self._viewer, "__wrapped__", self._viewer)
        inner.bind_key(SHORTCUT, self._on_key, overwrite=True)
        self._dock.destroyed.connect(partial(_unbind, inner, self._on_key))

    # -- what a script may call too -----------------------------------------------------------------------------------

    def aim(self, slide_id: str, place: Box) -> None:
        """Tell which patch was jumped to, level-0 pixels; it is the one that the button explains."""
        self._aim = slide_id, place

    def refresh(self) -> None:
        """Offer the classes of the chosen model; there is nothing to ask without one."""
        runs = self._runs()
        self.setVisible(bool(runs))
        self.job.update_buttons()
        if runs:
            self._errands.run(
                lambda: ModelSpec.load(runs[0] / MODEL_FILE).classes, self._show_classes, self._session.report
            )

    def explain_patch(self) -> bool:
        """Explain the patch that was jumped to, if its slide is in view, else the one in the middle of the view."""
        slide_id = self._session.current_slide
        if self._aim is not None and self._aim[0] == slide_id:
            place = self._aim[1]
            return self._dock.attempt(lambda: self._start(place))
        centre = getattr(self._viewer, "scene", self._viewer).camera.center[-2:]
        return self._dock.attempt(lambda: self._start(self._pixel_at(centre)))

    def explain_at_mouse(self) -> bool:
        """Explain the patch whose middle is under the mouse."""
        at = self._viewer.cursor.position[-2:]
        return self._dock.attempt(lambda: self._start(self._pixel_at(at)))

    def explain_regions(self) -> bool:
        """Explain all patches of the regions that are selected in the picture."""
        return self._dock.attempt(self._start_regions)

    def clear(self) -> None:
        """Take the explanation out of the viewer."""
        for layer in list(self._viewer.layers):
            if identity(layer).get("kind") == KIND:
                self._viewer.layers.remove(layer)
        self.told.tell("")

    # -- the way there ------------------------------------------------------------------------------------------------

    def _start_regions(self) -> None:
        import shapely

        editor = self._desk.editor
        chosen = editor.selected_regions if editor is not None else ()
        if not chosen:
            raise RegionsError("No region is selected; take the tool Select in the Regions dock and click one.")
        area = shapely.union_all([region.polygon for region in chosen])
        y0, x0, y1, x1 = area.bounds
        self._start(Box(int(np.floor(y0)), int(np.floor(x0)), int(np.ceil(y1)), int(np.ceil(x1))), area)

    def _start(self, place: Box, area: BaseGeometry | None = None) -> None:
        project, slide_id, runs = self._session.require_project(), self._session.current_slide, self._runs()
        if slide_id is None:
            raise ProjectError("No slide is in view; show one from the Slides dock.")
        if not runs:
            raise ModelError("There is no trained model yet; train one in the Training dock.")
        class_name = self.classes.currentData()

        def events() -> Iterator[Event]:
            load_torch_for_job()
            from napari_slidecorr.learning.attribution import explain

            yield from explain(project.slide(slide_id), runs[0], place, class_name=class_name, area=area)

        self.told.tell("")
        self._session.start(events, TITLE, on_event=while_alive(self, self._on_event), writes=False)

    def _pixel_at(self, world: Any) -> Box:
        """The level-0 pixel at a place of the viewer, where pixel centres lie on integers."""
        slide = find_layer(self._viewer, "slide", self._session.current_slide or "")
        if slide is None:
            raise ProjectError("No slide is in view; show one from the Slides dock.")
        y, x = (int(np.floor(at / scale + 0.5)) for at, scale in zip(world, slide.scale[-2:], strict=True))
        return Box(y, x, y + 1, x + 1)

    def _on_key(self, _viewer: Any) -> None:
        self.explain_at_mouse()

    # -- what happens -------------------------------------------------------------------------------------------------

    def _show_classes(self, names: tuple[str, ...]) -> None:
        refill(self.classes, [(PREDICTED, None), *((name, name) for name in names)])

    def _on_start(self, _title: str) -> None:
        if self.job.is_running:
            self.job.begin()
        else:
            self.job.update_buttons()

    def _on_event(self, event: Event) -> None:
        self.job.show_event(event)
        result = getattr(event, "result", None)
        if isinstance(result, Explanation):
            self.show_explanation(result)

    def _on_end(self, _end: Any) -> None:
        self.job.rest()

    def show_explanation(self, found: Explanation) -> None:
        """Lay an explanation over its slide, below the regions, unless another slide is in view by now."""
        if found.slide_id != self._session.current_slide:
            return
        from napari.layers import Image

        self.clear()
        data, arguments = explanation_layer(found)
        layers = self._viewer.layers
        active = layers.selection.active
        slide = find_layer(self._viewer, "slide", found.slide_id)
        layers.insert(layers.index(slide) + 1 if slide is not None else len(layers), Image(data, **arguments))
        if active is not None and active in layers:
            layers.selection.active = active
        self.told.tell(found.sentence())


def _unbind(viewer: Any, action: Callable[[Any], None], *_: Any) -> None:
    """Give the key back, unless another dock has taken it since."""
    for key, bound in list(viewer.keymap.items()):
        if bound == action:
            with suppress(KeyError):
                del viewer.keymap[key]
