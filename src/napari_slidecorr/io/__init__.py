"""Files in and out: one table a kind, from suffix to the module that knows the format, imported when chosen.

Slides are opened by `open_slide`, regions by `read_regions`; `write_regions` and `write_map` write beside the target and
rename, so that no file is ever half-written.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from napari_slidecorr.decision import Threshold
from napari_slidecorr.errors import MapError, RegionsError, SlideError
from napari_slidecorr.io.regions_file import RegionsFile as RegionsFile
from napari_slidecorr.levels import PixelSource
from napari_slidecorr.regions import RegionSet
from napari_slidecorr.slide import Slide

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
_PICTURES = {".png": "slide_picture", ".jpg": "slide_picture", ".jpeg": "slide_picture"}
_REGIONS = {".geojson": "regions_geojson", ".json": "regions_geojson", ".xml": "regions_asap"}
_REGION_WRITERS = {"geojson": "regions_geojson", "asap": "regions_asap", "aperio": "regions_aperio"}
_MAPS = {
    ".ome.zarr": "map_zarr",
    ".zarr": "map_zarr",
    ".tiles.geojson": "map_tiles",
    ".geojson": "map_geojson",
    ".ome.tif": "map_tiff",
    ".ome.tiff": "map_tiff",
    ".csv": "map_csv",
    ".parquet": "map_parquet",
    ".png": "map_png",
}
_SHOWS_SLIDE = ".png"
_HAS_OUTLINES = ".geojson"

SLIDE_SUFFIXES = tuple(_SLIDES)
MAP_SUFFIXES = tuple(_MAPS)
"""What is always a slide."""

PICTURE_SUFFIXES = tuple(_PICTURES)
"""What `open_slide` opens as a small slide, but may as well be any photograph."""

_MOST_DICOM_FILES = 200
Colors = Mapping[str, tuple[int, int, int]]
RegionFormat = Literal["geojson", "asap", "aperio"]


def open_slide(path: str | Path, *, mpp: float | tuple[float, float] | None = None, id: str | None = None) -> Slide:
    """Open a slide lazily; nothing but its directory is read.

    Parameters
    ----------
    path : str or Path
        A TIFF-family file (SVS, NDPI, SCN, Philips, QPTIFF, OME-TIFF, generic pyramids), an OME-Zarr folder, or a PNG
        or JPEG as a small slide; with openslide installed also MIRAX, Ventana BIF, DICOM files and folders of one DICOM
        series, and others.
    mpp : float or (float, float), optional
        Micrometres per level-0 pixel, (y, x), where the file has none or a wrong one.
    id : str, optional
        Its name; the file's stem when left out.

    Raises
    ------
    SlideError
        If the file is missing, empty, cut short or not a slide; one sentence that names it.

    Notes
    -----
    Fluorescence, grey and 16 bits open for viewing only: `Slide.channels` names their channels, and `Slide.read` refuses.
    """
    path = Path(path)
    source = _open_source(path)
    return Slide(id or stem(path), source, source.mpp, source.mpp_source).with_mpp(mpp)


def is_slide(path: str | Path) -> bool:
    """Whether the name is one of a slide format, or a folder holds DICOM files; no file is opened."""
    path = Path(path)
    return _suffix_of(path, _SLIDES) is not None or (path.is_dir() and bool(_dicom_files(path, 1)))


def stem(path: Path) -> str:
    """The file's name without the suffixes that name its format (``a.ome.tif`` -> ``a``)."""
    name = path.name
    for suffix in (*_SLIDES, *_PICTURES, ".ome"):
        name = name[: -len(suffix)] if name.lower().endswith(suffix) else name
    return name or path.name


def read_regions(path: str | Path, *, slide: Slide | None = None) -> RegionsFile:
    """Read regions from an annotation file; coordinates become (y, x) level-0 pixels.

    Parameters
    ----------
    path : str or Path
        GeoJSON in the dialects of QuPath and others, HistomicsUI's JSON, XML of ASAP, ImageScope, Halo or NDPA. What is
        in it decides, not its name.
    slide : Slide, optional
        The slide they were drawn on, for formats whose coordinates mean nothing without it (NDPA).

    Raises
    ------
    RegionsError
        If the file is missing, of an unknown kind or not readable.
    """
    from napari_slidecorr.io.regions_sniff import format_of

    path = Path(path)
    found: RegionsFile = import_module(f"{__name__}.{format_of(path)}").read(path, slide=slide)
    return found


def write_regions(
    path: str | Path, regions: RegionSet, *, colors: Colors | None = None, format: RegionFormat | None = None
) -> None:
    """Write regions, whole or not at all.

    Parameters
    ----------
    format : {"geojson", "asap", "aperio"}, optional
        QuPath's GeoJSON, or the XML of ASAP or of Aperio ImageScope. By the name when left out: ``.geojson`` and ``.json``
        or ``.xml`` (ASAP).

    Raises
    ------
    RegionsError
        If the name is of no known kind.
    ProjectError
        If it cannot be written.
    """
    path = Path(path)
    if format is None:
        _module(path, _REGIONS, RegionsError).write(path, regions, colors=colors)
    else:
        import_module(f"{__name__}.{_REGION_WRITERS[format]}").write(path, regions, colors=colors)


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
    path: str | Path,
    prediction: PredictionMap,
    *,
    threshold: Threshold = None,
    colors: Colors | None = None,
    slide: Slide | None = None,
    smooth_um: float = 0.0,
) -> None:
    """Write a prediction map, whole or not at all, as the name says.

    ``.ome.zarr`` and ``.ome.tif`` (8 bits; ``.float32.ome.tif``) keep all probabilities, ``.csv`` and ``.parquet`` have a
    line a patch, ``.geojson`` polygons of the classes and ``.tiles.geojson`` squares with probabilities for QuPath, ``.png`` is a
    figure with scale bar and legend.

    Parameters
    ----------
    threshold : float or None
        Cells whose best class has a lower probability have no class; None: the model's own bounds. The first two
        kinds do not heed it.
    slide : Slide, optional
        What a figure shows below the map.
    smooth_um : float
        How far outlines of polygons may be moved to be smooth, in micrometres; other kinds have no outlines.

    Raises
    ------
    MapError
        If the name is of no known kind, or outlines are to be smoothed and the slide has no pixel size.
    ProjectError
        If it cannot be written.
    """
    path = Path(path)
    more: dict[str, Any] = {"slide": slide} if path.name.lower().endswith(_SHOWS_SLIDE) else {}
    if _suffix_of(path, _MAPS) == _HAS_OUTLINES:
        more["smooth_um"] = smooth_um
    _module(path, _MAPS, MapError).write(path, prediction, threshold=threshold, colors=colors, **more)


def _open_source(path: Path) -> PixelSource:
    from napari_slidecorr.io.channel_pyramid import with_coarse_channels
    from napari_slidecorr.io.pyramid import with_coarse_levels
    from napari_slidecorr.io.tiles import StitchedError

    if path.is_dir() and _suffix_of(path, _SLIDES) is None:
        path = _one_of_series(path)
    try:
        source: Any = _module(path, {**_SLIDES, **_PICTURES}, SlideError).open_source(path)
    except StitchedError:
        source = import_module(f"{__name__}.slide_openslide").open_source(path)
    return with_coarse_channels(source) if getattr(source, "channels", ()) else with_coarse_levels(source)


def _dicom_files(folder: Path, most: int) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".dcm" and path.is_file())
    return found[:most]


def _one_of_series(folder: Path) -> Path:
    """Give a file of the one DICOM slide in a folder; openslide finds the others of its series."""
    from napari_slidecorr.io.slide_openslide import series_of

    files = _dicom_files(folder, _MOST_DICOM_FILES)
    if not files:
        raise SlideError(f"{folder.name}: this folder is no slide; it is no OME-Zarr and holds no .dcm files.")
    series: dict[str, Path] = {}
    refused: list[SlideError] = []
    for path in files:
        try:
            series.setdefault(series_of(path), path)
        except SlideError as error:
            refused.append(error)
    if not series:
        raise refused[0]
    if len(series) > 1:
        names = ", ".join(path.name for path in series.values())
        raise SlideError(f"{folder.name}: this folder holds {len(series)} DICOM slides; choose one file ({names}).")
    return next(iter(series.values()))


def _module(path: Path, table: Mapping[str, str], error: type[Exception]) -> Any:
    suffix = _suffix_of(path, table)
    if suffix is None:
        raise error(f"{path.name}: this kind of file is not known here; it can be {', '.join(table)}.")
    return import_module(f"{__name__}.{table[suffix]}")


def _suffix_of(path: Path, table: Mapping[str, str]) -> str | None:
    return next((suffix for suffix in table if path.name.lower().endswith(suffix)), None)
