"""Synthetic slides for *File > Open Sample*, made when first asked for and kept in the user's cache folder."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from qtpy.QtCore import QStandardPaths

from napari_slidecorr import __version__, io, sample_data
from napari_slidecorr._napari.layers import regions_layer, slide_layer
from napari_slidecorr._napari.reader import LayerData

SLIDES = 2
"""How many slides of a cohort are opened: enough to see how two of one class differ, or two classes."""


def open_default() -> list[LayerData]:
    """Two slides that hold three classes each, stained differently."""
    return open_cohort("default")


def open_tied() -> list[LayerData]:
    """Two slides whose stain gives the class away."""
    return open_cohort("tied")


def open_many() -> list[LayerData]:
    """Two of many small slides that hold one class each."""
    return open_cohort("many")


def open_cohort(kind: str) -> list[LayerData]:
    """Make the first slides of a cohort unless they are there, and give them with their regions as layers."""
    layers: list[LayerData] = []
    for slide_id, plan in islice(sample_data.plan_cohort(kind).items(), SLIDES):
        path = cache_folder() / f"{slide_id}.tif"
        regions_path = path.with_suffix(".geojson")
        if not (path.exists() and regions_path.exists()):
            made = sample_data.make_slide(path, plan)
            io.write_regions(regions_path, made.regions, colors=sample_data.CLASS_COLORS)
        slide = io.open_slide(path)
        regions = io.read_regions(regions_path).regions
        shown = regions_layer(slide, regions, regions.classes, sample_data.CLASS_COLORS)
        layers += [(*slide_layer(slide), "image"), (*shown, "shapes")]
    return layers


def cache_folder() -> Path:
    """Where the sample slides are kept; slides of another version are not mixed in."""
    place = QStandardPaths.writableLocation(QStandardPaths.StandardLocation.GenericCacheLocation)
    return Path(place) / "napari-slidecorr" / __version__
