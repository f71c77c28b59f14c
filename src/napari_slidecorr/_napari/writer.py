"""Regions to GeoJSON from napari's *Save*."""

from __future__ import annotations

from typing import Any

from napari_slidecorr import io


def write_regions_layer(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write a Shapes layer as QuPath GeoJSON; a layer that is not ours gives regions without a class.

    Raises
    ------
    RegionsError
        If a shape is not a valid region.
    ProjectError
        If the file cannot be written.
    """
    from napari.layers import Layer

    from napari_slidecorr._napari.layers import adopt, all_regions_of

    layer = Layer.create(data, attributes, "shapes")
    adopt(layer)
    io.write_regions(path, all_regions_of(layer))
    return [path]
