"""Files in and out: one table a kind, from suffix to the module that knows the format, imported when chosen.

Slides are opened by `open_slide`, regions by `read_regions`; `write_regions` and `write_map` write beside the target and
rename, so that no file is ever half-written.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from napari_slidecorr.errors import MapError, RegionsError, SlideError
from napari_slidecorr.regions import RegionSet
from napari_slidecorr.slide import PixelSource, Slide

if TYPE_CHECKING:
    from napari_slidecorr.prediction_map import PredictionMap

_SLIDES = {
    ".svs": "slide_tiff",
    ".tif": "slide_tiff",
    ".tiff": "slide_tiff",
    ".ndpi": "slide_tiff",
    ".scn": "slide_tiff",
    ".qptiff": "slide_tiff",
    ".zarr": "slide_zarr",
    ".mrxs": "slide_openslide",
    ".dcm": "slide_openslide",
    ".vms": "slide_openslide",
    ".bif": "slide_openslide",
    ".svslide": "slide_openslide",
}
_REGIONS = {".geojson": "regions_geojson", ".json": "regions_geojson"}
_MAPS = {".ome.zarr": "map_zarr", ".zarr": "map_zarr", ".geojson": "map_geojson"}

SLIDE_SUFFIXES = tuple(_SLIDES)
Colors = Mapping[str, tuple[int, int, int]]


class RegionsFile(NamedTuple):
    """What a file of regions held: the regions, and how many of what else was left out (reason -> count)."""

    regions: RegionSet
    skipped: dict[str, int]


def open_slide(path: str | Path, *, mpp: float | tuple[float, float] | None = None, id: str | None = None) -> Slide:
    """Open a slide lazily; nothing but its directory is read.

    Parameters
    ----------
    path : str or Path
        A TIFF-family file (SVS, NDPI, SCN, OME-TIFF, generic pyramids) or an OME-Zarr folder; with openslide installed
        also MIRAX, DICOM and others.
    mpp : float or (float, float), optional
        Micrometres per level-0 pixel, (y, x), where the file has none or a wrong one.
    id : str, optional
        Its name; the file's stem when left out.

    Raises
    ------
    SlideError
        If the file is missing, empty, cut short or not a slide; one sentence that names it.
    """
    path = Path(path)
    source = _open_source(path)
    return Slide(id or stem(path), source, source.mpp, source.mpp_source).with_mpp(mpp)


def is_slide(path: str | Path) -> bool:
    """Whether the name is one of a slide format; the file is not opened."""
    return _suffix_of(Path(path), _SLIDES) is not None


def stem(path: Path) -> str:
    """The file's name without the suffixes that name its format (``a.ome.tif`` -> ``a``)."""
    name = path.name
    for suffix in (*_SLIDES, ".ome"):
        name = name[: -len(suffix)] if name.lower().endswith(suffix) else name
    return name or path.name


def read_regions(path: str | Path) -> RegionsFile:
    """Read regions from an annotation file; coordinates become (y, x) level-0 pixels.

    Raises
    ------
    RegionsError
        If the file is missing, of an unknown kind or not readable.
    """
    path = Path(path)
    result = _module(path, _REGIONS, RegionsError).read(path)
    return RegionsFile(*result)


def write_regions(path: str | Path, regions: RegionSet, *, colors: Colors | None = None) -> None:
    """Write regions for QuPath (GeoJSON), whole or not at all."""
    path = Path(path)
    _module(path, _REGIONS, RegionsError).write(path, regions, colors=colors)


def read_map(path: str | Path) -> PredictionMap:
    """Read a prediction map from OME-Zarr.

    Raises
    ------
    MapError
        If it is not one of ours or not complete.
    """
    path = Path(path)
    return _module(path, {".zarr": "map_zarr"}, MapError).read(path)  # type: ignore[no-any-return]


def write_map(
    path: str | Path, prediction: PredictionMap, *, threshold: float = 0.0, colors: Colors | None = None
) -> None:
    """Write a prediction map, as OME-Zarr (``.ome.zarr``) or as QuPath polygons of its classes (``.geojson``).

    Parameters
    ----------
    threshold : float
        GeoJSON only: cells whose best class has a lower probability are left out.
    """
    path = Path(path)
    _module(path, _MAPS, MapError).write(path, prediction, threshold=threshold, colors=colors)


def _open_source(path: Path) -> PixelSource:
    from napari_slidecorr.io.pyramid import with_coarse_levels

    if path.is_dir() and not is_slide(path):
        raise SlideError(
            f"{path.name}: this folder is no OME-Zarr; of a DICOM series choose any one of its .dcm files."
        )
    return with_coarse_levels(_module(path, _SLIDES, SlideError).open_source(path))


def _module(path: Path, table: Mapping[str, str], error: type[Exception]) -> Any:
    suffix = _suffix_of(path, table)
    if suffix is None:
        raise error(f"{path.name}: this kind of file is not known here; it can be {', '.join(table)}.")
    return import_module(f"{__name__}.{table[suffix]}")


def _suffix_of(path: Path, table: Mapping[str, str]) -> str | None:
    return next((suffix for suffix in table if path.name.lower().endswith(suffix)), None)
