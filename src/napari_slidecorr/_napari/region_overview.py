"""The regions that are too many to be shapes, as one picture below them; as quick for ten thousand as for ten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr._napari import layers
from napari_slidecorr._napari.errands import Errands
from napari_slidecorr._napari.parts import timer
from napari_slidecorr.region_index import RegionIndex
from napari_slidecorr.region_raster import Cells, RasterFrame, codes_of, fill_value, paint_regions
from napari_slidecorr.regions import Region

if TYPE_CHECKING:
    from napari.layers import Labels, Shapes

AT_ONCE = 1500
"""So many regions are painted in the window's own thread, some 50 ms; more are painted beside it."""


class RegionOverview:
    """A Labels layer below a layer of regions; it comes when it is first needed, and is hidden when it is not.

    Parameters
    ----------
    viewer
        Where the layer of regions is.
    regions_layer : Shapes
        Gives scale, units and the slide's shape; when it is hidden, so is the overview.
    """

    def __init__(self, viewer: Any, regions_layer: Shapes) -> None:
        self._viewer, self._regions_layer = viewer, regions_layer
        self.frame = RasterFrame.of_slide(layers.identity(regions_layer)["shape"][:2])
        self.layer: Labels | None = None
        self._painted: dict[str, Region] = {}
        self._index = RegionIndex(())
        self._colors: layers.Colors = {}
        self._codes: dict[str, int] = {}
        self._errands = Errands(None)
        self._stale: list[Cells] | None = None
        regions_layer.events.visible.connect(self._on_visible)

    @property
    def is_painting(self) -> bool:
        """Whether a picture is being painted in a thread."""
        return self._stale is not None

    def show(self, regions: Sequence[Region], colors: layers.Colors) -> None:
        """Show these regions and no others; only where something changed is painted again."""
        before, self._painted = self._painted, {region.uid: region for region in regions}
        if not regions and self.layer is None:
            return
        windows = [self.frame.cells_of(box) for box in _changed_boxes(before, self._painted)]
        self._ensure_layer()
        if windows:
            self._index = RegionIndex(regions)
            self._colour(colors)
            for window in windows:
                self._paint(window)
            self._refresh()
        self._on_visible()

    def recolour(self, colors: layers.Colors) -> None:
        """Take over colours of classes that have changed."""
        if self.layer is not None:
            self._colour(colors)

    def close(self) -> None:
        """Go with the layer of regions, as soon as whoever removes layers has finished."""
        self._regions_layer.events.visible.disconnect(self._on_visible)
        self._stale = []
        timer(0, self._remove).start()

    def _remove(self) -> None:
        if self.layer is not None and self.layer in self._viewer.layers:
            self._viewer.layers.remove(self.layer)

    def _ensure_layer(self) -> None:
        from napari.layers import Labels

        if self.layer is not None and self.layer in self._viewer.layers:
            return
        told = layers.identity(self._regions_layer)
        scale = np.asarray(self._regions_layer.scale)
        self.layer = Labels(
            np.zeros(self.frame.shape, np.uint8) if self.layer is None else self.layer.data,
            name=f"{told['slide_id']} regions from afar",
            scale=scale * self.frame.stride_px,
            translate=scale * (self.frame.stride_px - 1) / 2,
            units=self._regions_layer.units,
            axis_labels=("y", "x"),
            opacity=1,
            metadata={layers.KEY: {name: told[name] for name in ("slide_id", "path", "shape", "mpp")}},
        )
        layers.identity(self.layer)["kind"] = "regions_overview"
        self.layer.editable = False
        self._colors = {}
        chosen = list(self._viewer.layers.selection)
        self._viewer.layers.insert(self._viewer.layers.index(self._regions_layer), self.layer)
        self._viewer.layers.selection = chosen

    def _colour(self, colors: layers.Colors) -> None:
        """Give each class its values; a class keeps those that it has."""
        from napari.utils.colormaps import DirectLabelColormap

        names = dict.fromkeys(region.class_name for region in self._painted.values())
        self._codes = codes_of([*self._codes, *names])
        wanted = {name: colors.get(name, layers.UNCLASSED) for name in self._codes}
        if self.layer is None or wanted == self._colors:
            return
        self._colors = wanted
        table: dict[int | None, Any] = {None: (0, 0, 0, 0), 0: (0, 0, 0, 0)}
        for name, code in self._codes.items():
            rgb = tuple(channel / 255 for channel in wanted[name])
            table |= {fill_value(code): (*rgb, layers.FILL), fill_value(code) + 1: (*rgb, 1.0)}
        self.layer.colormap = DirectLabelColormap(color_dict=table)

    def _paint(self, window: Cells) -> None:
        """Paint a window now, or in a thread if that takes long; meanwhile the old picture stays."""
        if self._stale is not None:
            self._stale.append(window)
            return
        met = self._meeting(window)
        if len(met) <= AT_ONCE:
            self._put(window, paint_regions(met, self._codes, self.frame, window))
            return
        self._stale = []
        codes = dict(self._codes)
        self._errands.run(
            lambda: paint_regions(met, codes, self.frame, window),
            lambda picture: self._on_painted(window, picture),
            self._on_failed,
        )

    def _meeting(self, window: Cells) -> list[Region]:
        box = np.asarray(window, float) * self.frame.stride_px
        return [self._index.regions[index] for index in self._index.within((box[0], box[1], box[2], box[3]))]

    def _put(self, window: Cells, picture: NDArray[np.uint8]) -> None:
        if self.layer is not None:
            r0, c0, r1, c1 = window
            np.asarray(self.layer.data)[r0:r1, c0:c1] = picture

    def _on_painted(self, window: Cells, picture: NDArray[np.uint8]) -> None:
        """Paint over again what has changed since."""
        stale, self._stale = self._stale or [], None
        self._put(window, picture)
        for changed in stale:
            self._paint(changed)
        self._refresh()

    def _on_failed(self, error: BaseException) -> None:
        self._stale = None
        raise error

    def _refresh(self) -> None:
        if self.layer is not None:
            self.layer.refresh(extent=False, thumbnail=False)

    def _on_visible(self, _event: Any = None) -> None:
        visible = bool(self._painted) and self._regions_layer.visible
        if self.layer is not None and self.layer.visible != visible:  # set anew it would be sliced anew
            self.layer.visible = visible


def _changed_boxes(
    before: Mapping[str, Region], after: Mapping[str, Region]
) -> list[tuple[float, float, float, float]]:
    """Where regions went, and where they came: a box (y0, x0, y1, x1) for each, in level-0 pixels."""
    gone = [region for uid, region in before.items() if after.get(uid) is not region]
    come = [region for uid, region in after.items() if before.get(uid) is not region]
    boxes = []
    for regions in (gone, come):
        if regions:
            bounds = RegionIndex(regions).bounds
            low, high = bounds[:, :2].min(axis=0), bounds[:, 2:].max(axis=0)
            boxes.append((float(low[0]), float(low[1]), float(high[0]), float(high[1])))
    return boxes
