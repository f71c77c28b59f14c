"""A prediction map as two napari layers which can grow live: the most probable class, and one number a cell.

The number is the probability of one class, or how uncertain the model is. In the class layer `UNSURE` marks cells that are
predicted while the model is unsure: no class reaches the threshold, or not exactly one its own bound; what is not predicted is clear.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr._napari.layers import KEY, UNCLASSED, Colors, Kind, find_layer
from napari_slidecorr.decision import Threshold
from napari_slidecorr.events import CellsDone
from napari_slidecorr.prediction_map import PredictionMap
from napari_slidecorr.project_file import with_colors

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels

OPACITY = 0.5
MAX_SPREAD = 0.5
"""No standard deviation of numbers from 0 to 1 is larger."""

Uncertainty = Literal["entropy", "spread"]
Numbers = Callable[[PredictionMap], NDArray[np.float32]]
Index = slice | NDArray[np.int64]
UNSURE = 255
UNSURE_COLOR = (110, 110, 110)
UNSURE_NAME = "unsure"


def map_frame(prediction: PredictionMap, kind: Kind) -> dict[str, Any]:
    """Give what a map's layers must carry so that they lie on the slide; `Grid` alone knows the half pixels."""
    unit = "um" if prediction.grid.mpp else "pixel"
    return {
        "scale": prediction.grid.scale,
        "translate": prediction.grid.translate,
        "units": (unit, unit),
        "axis_labels": ("y", "x"),
        "metadata": {KEY: {"kind": kind, "slide_id": prediction.slide_id, "model_id": prediction.model_id}},
    }


def map_colors(classes: Sequence[str], known: Colors) -> Colors:
    """Give the project's colours, and a free one for each class that only the map has: it was renamed or merged since."""
    return with_colors((*known, *(name for name in classes if name not in known)), known)


def class_layer(
    prediction: PredictionMap,
    colors: Colors,
    threshold: Threshold = None,
    alphas: Mapping[str, float] | None = None,
) -> tuple[NDArray[np.uint8], Any]:
    """Give the class map, shape (rows, columns), 0 where there is none, and the arguments of ``viewer.add_labels``."""
    return shown_classes(prediction, threshold), {
        **map_frame(prediction, "class_map"),
        "name": f"{prediction.slide_id} classes",
        "colormap": class_colormap(prediction, colors, alphas),
        "opacity": OPACITY,
    }


def shown_classes(prediction: PredictionMap, threshold: Threshold) -> NDArray[np.uint8]:
    """Give the class map with `UNSURE` where the model is unsure, shape (rows, columns)."""
    class_map = prediction.class_map(threshold)
    class_map[prediction.predicted & (class_map == 0)] = UNSURE
    return class_map


def class_colormap(prediction: PredictionMap, colors: Colors, alphas: Mapping[str, float] | None = None) -> Any:
    """Give the colours of a class map: each class its own, unsure cells grey, everything else clear.

    Parameters
    ----------
    alphas : mapping of class name, or `UNSURE_NAME`, to opacity, 0 to 1; optional
        1 for those that are not named.
    """
    from napari.utils.colormaps import DirectLabelColormap

    clear = (0.0, 0.0, 0.0, 0.0)
    table: dict[int | None, tuple[float, ...]] = {None: clear, 0: clear}
    shown = {number: colors.get(name, UNCLASSED) for number, name in enumerate(prediction.classes, 1)}
    names = dict(enumerate(prediction.classes, 1)) | {UNSURE: UNSURE_NAME}
    for number, color in (shown | {UNSURE: UNSURE_COLOR}).items():
        table[number] = (*(channel / 255 for channel in color), (alphas or {}).get(names[number], 1.0))
    return DirectLabelColormap(color_dict=table)


def probability_layer(prediction: PredictionMap, class_name: str) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Give one class's probabilities, shape (rows, columns), NaN is clear, and the arguments of ``viewer.add_image``."""
    index = prediction.classes.index(class_name)
    return prediction.probabilities[index].copy(), {
        **map_frame(prediction, "probability"),
        "name": f"{prediction.slide_id} probability",
        "colormap": "inferno",
        "contrast_limits": (0.0, 1.0),
        "blending": "translucent",
        "opacity": OPACITY,
    }


class MapView:
    """The two layers of a map, kept up to date; touch it in the GUI thread only.

    `write` changes arrays in place and is cheap; `refresh` shows what changed and belongs on a timer.

    Parameters
    ----------
    viewer
    prediction : PredictionMap
        What there is so far; copied.
    colors : mapping of class name to (r, g, b), 0 to 255
    alphas : mapping of class name, or `UNSURE_NAME`, to opacity, 0 to 1; optional
        1 for those that are not named.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        prediction: PredictionMap,
        colors: Colors,
        alphas: Mapping[str, float] | None = None,
    ) -> None:
        self.prediction = _copied(prediction)
        self._viewer, self._colors = viewer, colors
        self._threshold: Threshold = None
        self._alphas = dict(alphas or {})
        self._numbers: Numbers = partial(_probability_of, prediction.classes[0])
        self._columns = slice(None)
        self._changed = False
        self._whole, arguments = class_layer(self.prediction, colors, alphas=self._alphas)
        self._classes = self._show("class_map", self._whole.copy(), arguments)
        self._probability = self._show("probability", *probability_layer(self.prediction, prediction.classes[0]))
        self._classes.editable = False
        self.show_class(None)

    @property
    def class_map(self) -> Labels:
        """The layer of the most probable classes."""
        return self._classes

    @property
    def probability(self) -> Image:
        """The layer of one class's probability."""
        return self._probability

    @property
    def is_in_viewer(self) -> bool:
        """Whether nobody has removed a layer of it."""
        return all(layer in self._viewer.layers for layer in (self._classes, self._probability))

    def takes(self, prediction: PredictionMap) -> bool:
        """Whether `replace` can show this map in the layers that there are."""
        mine = self.prediction
        same = mine.classes == prediction.classes and mine.grid == prediction.grid
        return same and self.is_in_viewer and (mine.spread is None) == (prediction.spread is None)

    def remove(self) -> None:
        """Take the layers out of the viewer."""
        for layer in (self._classes, self._probability):
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)

    def write(
        self,
        rows: slice,
        columns: slice,
        probabilities: NDArray[np.float32],
        spread: NDArray[np.float32] | None = None,
    ) -> None:
        """Put a block into the map, shape (K, rows, columns); shown at the next `refresh`."""
        self.prediction.probabilities[:, rows, columns] = probabilities
        if spread is not None and self.prediction.spread is not None:
            self.prediction.spread[rows, columns] = spread
        self._update(rows, columns)

    def write_cells(self, cells: CellsDone) -> None:
        """Put single cells into the map; shown at the next `refresh`."""
        self.prediction.probabilities[:, cells.rows, cells.columns] = cells.probabilities
        if cells.spread is not None and self.prediction.spread is not None:
            self.prediction.spread[cells.rows, cells.columns] = cells.spread
        self._update(cells.rows, cells.columns)

    def replace(self, prediction: PredictionMap) -> None:
        """Put the whole map in, as it was stored, and show it, in the layer list too."""
        rows, columns = self.prediction.grid.shape
        self.write(slice(0, rows), slice(0, columns), prediction.probabilities, prediction.spread)
        for layer in (self._classes, self._probability):
            layer.refresh()

    def refresh(self) -> None:
        """Show what was written since the last time."""
        if self._changed:
            self._changed = False
            for layer in (self._classes, self._probability):
                layer.refresh(extent=False, thumbnail=False)

    def set_threshold(self, threshold: Threshold) -> None:
        """Leave cells out of the class map whose best probability is lower; None: by the model's own bounds."""
        self._threshold = threshold
        self._update(slice(None), slice(None))
        self.refresh()

    def set_alpha(self, name: str, alpha: float) -> None:
        """Make a class, or unsure cells, more or less opaque."""
        self._alphas[name] = alpha
        self.set_colors(self._colors)

    def set_colors(self, colors: Colors) -> None:
        """Colour the classes anew."""
        self._colors = colors
        self._classes.colormap = class_colormap(self.prediction, colors, self._alphas)

    def show_class(self, class_name: str | None) -> None:
        """Show one class's probability, or with None the most probable class of each cell."""
        if class_name is not None:
            self._show_numbers(partial(_probability_of, class_name), "probability", "inferno")
        self._classes.visible = class_name is None
        self._probability.visible = class_name is not None
        self.refresh()

    def show_uncertainty(self, number: Uncertainty = "entropy") -> None:
        """Show how uncertain the model is: the entropy of the probabilities, or their spread over eight orientations."""
        if number == "entropy":
            self._show_numbers(PredictionMap.uncertainty, "uncertainty", "viridis")
        else:
            self._show_numbers(_spread_of, "spread", "viridis", (0.0, MAX_SPREAD))
        self._classes.visible, self._probability.visible = False, True
        self.refresh()

    def clip(self, columns: slice) -> None:
        """Show only so many columns of the class map, to lay another beside it."""
        if columns != self._columns:
            self._columns = columns
            show_columns(self._classes.data, self._whole, columns)
            self._changed = True
            self.refresh()

    @property
    def threshold(self) -> Threshold:
        """Below this probability a cell is unsure; None: by the model's own bounds."""
        return self._threshold

    def place_px(self, world: tuple[float, float]) -> tuple[float, float]:
        """Turn a place in the viewer's coordinates, where pixel centres lie on integers, into level-0 pixels."""
        mpp = self.prediction.grid.mpp or (1.0, 1.0)
        return world[0] / mpp[0] + 0.5, world[1] / mpp[1] + 0.5

    def told_at(self, world: tuple[float, float]) -> str:
        """Say class and probabilities at a place in the viewer's coordinates; empty beside the map."""
        grid = self.prediction.grid
        row, column = (int(grid.cells_at(a, np.asarray([place]))[0]) for a, place in enumerate(self.place_px(world)))
        if min(row, column) < 0:
            return ""
        values = self.prediction.probabilities[:, row, column]
        if not np.isfinite(values[0]):
            return "Not predicted here."
        order = np.argsort(-values, kind="stable")
        told = ", ".join(f"{self.prediction.classes[i]} {values[i]:.2f}" for i in order)
        return f"Unsure: {told}" if self._whole[row, column] == UNSURE else told

    def _show_numbers(
        self, numbers: Numbers, what: str, colormap: str, limits: tuple[float, float] = (0.0, 1.0)
    ) -> None:
        self._numbers = numbers
        self._probability.name = f"{self.prediction.slide_id} {what}"
        self._probability.colormap = colormap
        self._probability.contrast_limits = limits
        self._update(slice(None), slice(None))

    def _update(self, rows: Index, columns: Index) -> None:
        """Compute anew what is shown of a block, or of single cells."""
        part = self.prediction.probabilities[:, rows, columns]
        spread = None if self.prediction.spread is None else self.prediction.spread[rows, columns]
        if part.ndim == 2:
            part, spread = part[:, np.newaxis], None if spread is None else spread[np.newaxis]
        grid = replace(self.prediction.grid, shape=part.shape[1:])
        block = replace(self.prediction, probabilities=part, grid=grid, spread=spread)
        shape = self._whole[rows, columns].shape
        self._whole[rows, columns] = shown_classes(block, self._threshold).reshape(shape)
        if self._columns == slice(None):
            self._classes.data[rows, columns] = self._whole[rows, columns]
        else:
            show_columns(self._classes.data, self._whole, self._columns)
        self._probability.data[rows, columns] = self._numbers(block).reshape(shape)
        self._changed = True

    def _show(self, kind: Kind, data: NDArray[Any], arguments: dict[str, Any]) -> Any:
        """Put data into the slide's layer of that kind; a new one lies right above the slide and is not selected."""
        layer = find_layer(self._viewer, kind, self.prediction.slide_id)
        if layer is None:
            return self._insert(kind, data, arguments)
        for name in ("data", "scale", "translate", "metadata"):
            setattr(layer, name, data if name == "data" else arguments[name])
        if kind == "class_map":
            layer.colormap = arguments["colormap"]
        return layer

    def _insert(self, kind: Kind, data: NDArray[Any], arguments: dict[str, Any]) -> Any:
        from napari.layers import Image, Labels

        layers = self._viewer.layers
        chosen = list(layers.selection)
        slide = find_layer(self._viewer, "slide", self.prediction.slide_id)
        layer = (Labels if kind == "class_map" else Image)(data, **arguments)
        layers.insert(layers.index(slide) + 1 if slide is not None else len(layers), layer)
        if chosen:
            layers.selection = chosen
        return layer


def show_columns(shown: NDArray[np.uint8], whole: NDArray[np.uint8], columns: slice) -> None:
    """Fill an array in place with some columns of a class map; the others are clear."""
    shown[:] = 0
    shown[:, columns] = whole[:, columns]


def _copied(prediction: PredictionMap) -> PredictionMap:
    spread = None if prediction.spread is None else prediction.spread.copy()
    return replace(prediction, probabilities=prediction.probabilities.copy(), spread=spread)


def _probability_of(class_name: str, prediction: PredictionMap) -> NDArray[np.float32]:
    return prediction.probabilities[prediction.classes.index(class_name)]


def _spread_of(prediction: PredictionMap) -> NDArray[np.float32]:
    """The spread, NaN everywhere in a map that has none."""
    if prediction.spread is None:
        return np.full(prediction.grid.shape, np.nan, np.float32)
    return prediction.spread
