"""What a TIFF slide says about itself: the physical pixel size, in its several dialects, and facts to show."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from napari_slidecorr.errors import SlideError
from napari_slidecorr.geometry import YX
from napari_slidecorr.levels import Level, level_downsample

if TYPE_CHECKING:
    import tifffile

MAX_TAG_UM = 25.0
"""A resolution tag above this many micrometres per pixel is a printing resolution (72 dpi are 353), not a slide's."""

_MIN_TAG_UM = 0.005
_UM_PER_UNIT = {2: 25400.0, 3: 10000.0, 4: 1000.0, 5: 1.0}
"""TIFF resolution unit: inch, centimetre, and tifffile's millimetre and micrometre."""

OME_UM = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6, "Å": 1e-4, "pm": 1e-6}
_COLOURS = ("red", "green", "blue")
_VENDORS = {
    "svs": "Aperio",
    "ndpi": "Hamamatsu",
    "scn": "Leica",
    "qpi": "Akoya",
    "philips": "Philips",
    "bif": "Ventana",
}


_OBJECTIVE = {
    "scn": r"<objective>\s*([\d.,]+)\s*</objective>",
    "qpi": r"<ObjectiveName>\s*([\d.,]+\s*[xX]?)\s*</ObjectiveName>",
    "philips": r'Name="DICOM_OBJECTIVE_LENS_POWER"[^>]*>\s*(?:"|&quot;)?([\d.,]+)(?:"|&quot;)?\s*<',
}


def levels(tif: tifffile.TiffFile, shapes: Sequence[tuple[YX, YX]]) -> tuple[Level, ...]:
    """Give the levels from their shapes and tiles, fine to coarse.

    Philips pads every level to whole tiles, so that only its XML tells how the levels stand to each other.
    """
    full = shapes[0][0]
    if min(n for shape, tile in shapes for n in (*shape, *tile)) < 1:
        raise SlideError(
            f"{tif.filehandle.name}: a level of this TIFF has no pixels; the file is damaged, copy it again."
        )
    spacing = _philips_spacing(tif) if tif.is_philips else []
    if len(spacing) != len(shapes):
        return tuple(Level(shape, level_downsample(full, shape), tile) for shape, tile in shapes)
    made = []
    for (shape, tile), (y, x) in zip(shapes, spacing, strict=True):
        fy, fx = max(1, round(y / spacing[0][0])), max(1, round(x / spacing[0][1]))
        made.append(Level((min(shape[0], -(-full[0] // fy)), min(shape[1], -(-full[1] // fx))), (fy, fx), tile))
    return tuple(made)


def channels(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries, count: int) -> tuple[str, ...]:
    """Give the names of the channels: those in the OME-XML or of the QPTIFF pages, else numbers."""
    names: list[str] = []
    if series.kind == "ome":
        told = _ome_pixels(tif, series).get("Channel", [])
        names = [str(one.get("Name", "")) for one in (told if isinstance(told, list) else [told])]
    elif series.kind == "qpi":
        found = [re.search(r"<Name>([^<]+)</Name>", str(page.aspage().description)) for page in series.pages]
        names = [one[1] if one else "" for one in found]
    elif count == len(_COLOURS) and int(series.levels[0].keyframe.photometric) == 2:  # RGB of more than 8 bits
        names = list(_COLOURS)
    names = names if len(names) == count else [""] * count
    return tuple(name or f"channel {number}" for number, name in enumerate(names, 1))


def pixel_size(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> tuple[tuple[float, float] | None, str]:
    """Give micrometres per level-0 pixel, (y, x), and where they come from in words; None and "" when not told."""
    for told in (_from_svs(series), _from_ome(tif, series), _from_philips(tif), _from_tags(series)):
        if told is not None:
            return told
    return None, ""


def offset_from_center_nm(series: tifffile.TiffPageSeries) -> tuple[float, float] | None:
    """Give nanometres from the centre of the glass slide to that of the picture, (y, x); None but for Hamamatsu."""
    tags = series.levels[0].keyframe.tags
    offset = [tags.valueof(code, None) for code in (65423, 65422)] if series.kind == "ndpi" else []
    return (float(offset[0]), float(offset[1])) if offset and None not in offset else None


def properties(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> dict[str, str]:
    """Give facts to show: format, vendor, compression, objective, and a resolution tag that was not believed."""
    page = series.levels[0].keyframe
    facts = {"format": _format(tif, series), "compression": str(getattr(page.compression, "name", page.compression))}
    if vendor := _VENDORS.get(series.kind):
        facts["vendor"] = vendor
    if objective := _objective(series):
        facts["objective"] = objective
    tag = _tag_um(page)
    if tag is not None and _from_tags(series) is None:
        facts["resolution tag"] = f"{tag[0]:.4g} um per pixel, not believed"
    if icc := page.tags.get(34675):
        facts["ICC profile"] = f"{icc.count:,} bytes"
    others = [s.name or "unnamed" for s in tif.series if s is not series]
    if others:
        facts["other images"] = ", ".join(others)
    return facts


def _format(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> str:
    names = {"svs": "SVS", "ndpi": "NDPI", "scn": "SCN", "ome": "OME-TIFF", "qpi": "QPTIFF"}
    names["philips"] = "Philips TIFF"
    return names.get(series.kind, "BigTIFF" if tif.is_bigtiff else "TIFF")


def _aperio_fields(series: tifffile.TiffPageSeries) -> dict[str, str]:
    if series.kind != "svs":
        return {}
    parts = str(series.levels[0].keyframe.description).split("|")[1:]
    pairs = (part.partition("=") for part in parts)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _from_svs(series: tifffile.TiffPageSeries) -> tuple[tuple[float, float], str] | None:
    value = _number(_aperio_fields(series).get("MPP", ""))
    return None if value is None else ((value, value), "MPP in the Aperio description")


def _objective(series: tifffile.TiffPageSeries) -> str | None:
    if series.kind == "svs":
        value = _number(_aperio_fields(series).get("AppMag", ""))
    elif series.kind == "ndpi":
        value = _number(str(series.levels[0].keyframe.tags.valueof(65421, "")))  # SourceLens
    elif series.kind in _OBJECTIVE:
        found = re.search(_OBJECTIVE[series.kind], str(series.levels[0].keyframe.parent.pages.first.description))
        value = _number(found[1]) if found else None
    else:
        return None
    return None if value is None else f"{value:g}x"


def _from_ome(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> tuple[tuple[float, float], str] | None:
    if series.kind != "ome":
        return None
    pixels = _ome_pixels(tif, series)
    sizes = [_ome_um(pixels, axis) for axis in ("Y", "X")]
    if None in sizes:
        return None
    return (sizes[0], sizes[1]), "PhysicalSize in the OME-XML"  # type: ignore[return-value]


def _ome_pixels(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> dict[str, Any]:
    import tifffile

    images = tifffile.xml2dict(tif.ome_metadata or "<OME/>").get("OME", {})
    images = images.get("Image", []) if isinstance(images, dict) else []
    images = images if isinstance(images, list) else [images]
    named = [image for image in images if str(image.get("Name", "")) == series.name]
    found = (named if len(named) == 1 else images) or [{}]
    pixels: dict[str, Any] = found[0].get("Pixels", {})
    return pixels


def _ome_um(pixels: dict[str, Any], axis: str) -> float | None:
    value = _number(str(pixels.get(f"PhysicalSize{axis}", "")))
    factor = OME_UM.get(str(pixels.get(f"PhysicalSize{axis}Unit", "µm")))
    return None if value is None or factor is None else value * factor


def _from_philips(tif: tifffile.TiffFile) -> tuple[tuple[float, float], str] | None:
    spacing = _philips_spacing(tif) if tif.is_philips else []
    if not spacing or min(spacing[0]) <= 0:
        return None
    return (spacing[0][0] * 1e3, spacing[0][1] * 1e3), "DICOM_PIXEL_SPACING in the Philips XML"


def _philips_spacing(tif: tifffile.TiffFile) -> list[tuple[float, float]]:
    """Millimetres per pixel of each level, (y, x)."""
    pattern = r'Name="DICOM_PIXEL_SPACING"[^>]*>\s*"([\d.eE+-]+)"\s+"([\d.eE+-]+)"\s*<'
    text = str(tif.philips_metadata).replace("&quot;", '"')
    representations = text.split('ObjectType="PixelDataRepresentation"')[1:]
    found = (re.search(pattern, one) for one in representations)
    return [(float(one[1]), float(one[2])) for one in found if one]


def _from_tags(series: tifffile.TiffPageSeries) -> tuple[tuple[float, float], str] | None:
    um = _tag_um(series.levels[0].keyframe)
    if um is None or not all(_MIN_TAG_UM < value <= MAX_TAG_UM for value in um):
        return None
    return um, "resolution tags of the TIFF"


def _tag_um(page: Any) -> tuple[float, float] | None:
    """Micrometres per pixel by XResolution, YResolution and ResolutionUnit, whether believable or not; (y, x)."""
    factor = _UM_PER_UNIT.get(int(page.tags.valueof(296, 2)))
    fractions = [page.tags.valueof(code, None) for code in (283, 282)]
    if factor is None or not all(isinstance(f, tuple) and len(f) == 2 and min(f) > 0 for f in fractions):
        return None
    y, x = (factor * denominator / numerator for numerator, denominator in fractions)
    return y, x


def _number(text: str) -> float | None:
    """The number a field holds, also with a decimal comma; None unless it is above 0."""
    match = re.fullmatch(r"\s*(\d+(?:[.,]\d+)?(?:[eE][-+]?\d+)?)\s*[xX]?\s*", text)
    value = float(match[1].replace(",", ".")) if match else 0.0
    return value if value > 0 else None
