"""The map in view beside another of the same slide: a swipe between both, or a layer that shows where they differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QLabel, QSizePolicy, QSlider, QWidget

from napari_slidecorr._napari.dock import narrow, refill
from napari_slidecorr._napari.errands import Errands
from napari_slidecorr._napari.layers import Colors, Kind, find_layer
from napari_slidecorr._napari.map_layers import MapView, class_layer, map_colors, map_frame, show_columns
from napari_slidecorr.geometry import Box
from napari_slidecorr.io import map_zarr
from napari_slidecorr.map_comparison import MapComparison
from napari_slidecorr.prediction_map import PredictionMap
from napari_slidecorr.stored_maps import StoredMap

if TYPE_CHECKING:
    from napari.components import ViewerModel

SWIPE, DISAGREEMENT = object(), object()
"""Entries of the drop-down *Look at* that are no class."""

KINDS: tuple[Kind, ...] = ("compared", "difference", "swipe")
STEPS = 1000
LEAST_FULL = 0.05
LINE_PX = 3
"""Width on the screen of the line that parts the two maps."""

LESS, MORE = (0.15, 0.35, 0.95), (0.95, 0.25, 0.1)


class MapComparisonBox(QWidget):
    """A map to compare with, how, and where the swipe stands.

    Parameters
    ----------
    viewer
        As a dock has it, perhaps a proxy.
    in_view
        Gives what the window shows of the slide, in level-0 pixels.
    attempt
        Calls an action and shows its error; False when there was one.
    failed
        Shows an error.

    Attributes
    ----------
    begun
        Signal: two maps are compared now, by the class map of the one in view.
    """

    begun = Signal()

    def __init__(
        self,
        viewer: Any,
        in_view: Callable[[], Box | None],
        attempt: Callable[[Callable[[], Any]], bool],
        failed: Callable[[BaseException], None],
    ) -> None:
        super().__init__()
        self._viewer: ViewerModel = getattr(viewer, "__wrapped__", viewer)
        self._in_view, self._attempt, self._failed = in_view, attempt, failed
        self._errands = Errands(self)
        self._view: MapView | None = None
        self._colors: Colors = {}
        self._comparison: MapComparison | None = None
        self._whole: Any = None
        self.other, self.how = narrow(QComboBox()), narrow(QComboBox())
        self.other.setToolTip("Another map of this slide.")
        self.how.setToolTip("How the two are shown: side by side along a line, where they differ, or by how much.")
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, STEPS)
        self.slider.setValue(STEPS // 2)
        self.slider.setToolTip("Left of the line lies the map that is shown, right of it the other.")
        self.told = QLabel()
        self.told.setWordWrap(True)
        self.told.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        layout = QFormLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for label, widget in (("Compare with", self.other), ("Look at", self.how), ("Swipe", self.slider)):
            layout.addRow(label, widget)
        layout.addRow(self.told)
        self.other.currentIndexChanged.connect(self._on_other)
        self.how.currentIndexChanged.connect(self._on_how)
        self.slider.valueChanged.connect(lambda _value: self._swipe())
        self._update()

    def offer(self, view: MapView | None, colors: Colors, others: Sequence[StoredMap]) -> None:
        """Say which map is shown, and which there are to compare it with."""
        if view is not self._view:
            self.end()
        self._view, self._colors = view, colors
        chosen = self.other.currentData()
        refill(self.other, [("nothing", None), *((one.title, one.path) for one in others)])
        if self.other.currentData() != chosen:
            self.end()
        self.setVisible(view is not None and bool(others or self._comparison))

    def follow(self) -> None:
        """Take over the threshold of the map in view."""
        if self._comparison is not None:
            self._on_how()

    def end(self) -> None:
        """Show the one map alone again."""
        compared, self._comparison = self._comparison is not None, None
        if compared and self._view is not None and self._view.is_in_viewer:
            self._view.clip(slice(None))
            self._view.class_map.visible = True
            for kind in KINDS:
                layer = find_layer(self._viewer, kind, self._view.prediction.slide_id)
                if layer is not None:
                    self._viewer.layers.remove(layer)
        self.other.blockSignals(True)
        self.other.setCurrentIndex(0)
        self.other.blockSignals(False)
        self._update()

    def _on_other(self) -> None:
        path = self.other.currentData()
        if path is None:
            self.end()
            return
        self._errands.run(
            lambda: map_zarr.read(path, allow_incomplete=True), lambda other: self._on_read(path, other), self._failed
        )

    def _on_read(self, path: Path, other: PredictionMap) -> None:
        if (
            self._view is not None
            and self.other.currentData() == path
            and not self._attempt(lambda: self._begin(other))
        ):
            self.end()

    def _begin(self, other: PredictionMap) -> None:
        if self._view is None:
            return
        self._comparison = comparison = MapComparison(self._view.prediction, other)
        classes = [(f"Difference of {name}", name) for name in comparison.classes]
        refill(self.how, [("Both, with a swipe", SWIPE), ("Where the classes differ", DISAGREEMENT), *classes])
        self._on_how()
        self.begun.emit()

    def _on_how(self) -> None:
        if self._view is None or self._comparison is None:
            return
        view, comparison, how = self._view, self._comparison, self.how.currentData()
        swipes = how is SWIPE
        for kind in ("compared", "swipe"):
            layer = find_layer(self._viewer, kind, view.prediction.slide_id)
            if layer is not None:
                layer.visible = swipes
        if swipes:
            view.show_class(None)
            self._hide(view, "difference")
            self._show_compared(view, comparison)
            self._swipe()
        else:
            view.clip(slice(None))
            view.class_map.visible = view.probability.visible = False
            self._show_difference(view, comparison, how)
        self._update()

    def _show_compared(self, view: MapView, comparison: MapComparison) -> None:
        """Lay the class map of the second map into the viewer."""
        second = comparison.second
        self._whole, arguments = class_layer(second, map_colors(second.classes, self._colors), view.threshold)
        arguments |= map_frame(second, "compared") | {"name": f"{second.slide_id} classes, other map"}
        layer = self._put(view, "compared", "Labels", self._whole.copy(), arguments)
        layer.editable = False
        layer.opacity = view.class_map.opacity
        layer.visible = True

    def _swipe(self) -> None:
        """Part the two maps at a vertical line."""
        if self._view is None or self._comparison is None or self.how.currentData() is not SWIPE:
            return
        view, comparison = self._view, self._comparison
        x = self._place_px(comparison)
        second = find_layer(self._viewer, "compared", view.prediction.slide_id)
        if second is None:
            return
        view.clip(slice(0, _columns_left_of(comparison.first, x)))
        show_columns(second.data, self._whole, slice(_columns_left_of(comparison.second, x), None))
        second.refresh(extent=False, thumbnail=False)
        self._show_line(view, comparison, x)

    def _place_px(self, comparison: MapComparison) -> float:
        """Where the line stands, in level-0 pixels: the slider goes over what is in view."""
        width = comparison.first.grid.extent_px[1]
        box = self._in_view()
        low, high = (0.0, width) if box is None else (max(0.0, box.x0), min(width, float(box.x1)))
        return low + (high - low) * self.slider.value() / STEPS

    def _show_line(self, view: MapView, comparison: MapComparison, x: float) -> None:
        grid = comparison.first.grid
        mpp = grid.mpp or (1.0, 1.0)
        data = np.asarray([[[-0.5, x - 0.5], [grid.extent_px[0], 0]]])  # napari puts pixel centres on integers
        width = LINE_PX / (self._viewer.scene.camera.zoom * mpp[1])
        arguments = map_frame(comparison.first, "swipe") | {
            "name": f"{comparison.first.slide_id} swipe",
            "scale": mpp,
            "translate": (0.0, 0.0),
            "edge_width": width,
            "edge_color": "white",
            "vector_style": "line",
        }
        layer = self._put(view, "swipe", "Vectors", data, arguments)
        layer.edge_width = width
        layer.visible = True

    def _show_difference(self, view: MapView, comparison: MapComparison, how: Any) -> None:
        first = comparison.first
        values = comparison.disagreement() if how is DISAGREEMENT else comparison.difference(how)
        limit = _full_colour(values)
        arguments = map_frame(first, "difference") | {
            "name": f"{first.slide_id} difference",
            "colormap": difference_colormap(),
            "contrast_limits": (-limit, limit),
            "blending": "translucent",
            "opacity": 0.8,
        }
        layer = self._put(view, "difference", "Image", values, arguments)
        layer.contrast_limits_range = -1.0, 1.0
        layer.contrast_limits = -limit, limit
        layer.visible = True

    def _put(self, view: MapView, kind: Kind, layer_type: str, data: Any, arguments: dict[str, Any]) -> Any:
        """Put data into the layer of a kind, made anew right above the class map if there is none."""
        import napari.layers

        layer = find_layer(self._viewer, kind, view.prediction.slide_id)
        if layer is not None:
            for name in ("scale", "translate", "metadata"):
                setattr(layer, name, arguments[name])
            layer.data = data
            return layer
        layers = self._viewer.layers
        chosen = list(layers.selection)
        layer = getattr(napari.layers, layer_type)(data, **arguments)
        layers.insert(max(layers.index(view.class_map), layers.index(view.probability)) + 1, layer)
        layers.selection = chosen
        return layer

    def _hide(self, view: MapView, kind: Kind) -> None:
        layer = find_layer(self._viewer, kind, view.prediction.slide_id)
        if layer is not None:
            layer.visible = False

    def _update(self) -> None:
        """Show what belongs to the choice, and say what the colours mean."""
        comparison, how = self._comparison, self.how.currentData()
        runs = comparison is not None
        for widget, shown in ((self.how, runs), (self.slider, runs and how is SWIPE)):
            widget.setVisible(shown)
            self.layout().labelForField(widget).setVisible(shown)
        self.told.setVisible(runs)
        if comparison is not None:
            self.told.setText(_told(comparison, how))


def difference_colormap() -> Any:
    """Blue below 0, clear at 0, red above."""
    from napari.utils.colormaps import Colormap

    return Colormap([(*LESS, 1.0), (1.0, 1.0, 1.0, 0.0), (*MORE, 1.0)], name="slidecorr difference")


def _columns_left_of(prediction: PredictionMap, x: float) -> int:
    """How many columns of a map have their centre left of a place in level-0 pixels."""
    edges = np.asarray(prediction.grid.cell_edges_px(1))
    return int(np.searchsorted((edges[:-1] + edges[1:]) / 2, x))


def _told(comparison: MapComparison, how: Any) -> str:
    if how is SWIPE:
        return "Left of the line: the map above. Right of it: the other."
    if how is DISAGREEMENT:
        values = comparison.disagreement()
        both = int(np.isfinite(values).sum())
        share = float(np.nansum(values)) / both if both else 0.0
        return f"Red: the most probable classes differ, in {share:.1%} of the {both} cells that both maps have."
    limit = _full_colour(comparison.difference(how))
    return (
        f"Red: {how} is more probable in the map above, by {limit:.2f} or more where it is fullest. Blue: in the other. "
        "Clear: alike, or missing in one."
    )


def _full_colour(values: NDArray[np.float32]) -> float:
    """The difference that gets the full colour: what one cell of a hundred exceeds, 0.05 at least."""
    known = np.abs(values[np.isfinite(values)])
    return max(LEAST_FULL, float(np.percentile(known, 99))) if len(known) else 1.0
