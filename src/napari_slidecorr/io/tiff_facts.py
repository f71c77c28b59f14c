"""What a TIFF slide says about itself: the physical pixel size, in its several dialects, and facts to show."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tifffile

MAX_TAG_UM = 25.0
"""A resolution tag above this many micrometres per pixel is a printing resolution (72 dpi are 353), not a slide's."""

_MIN_TAG_UM = 0.005
_UM_PER_UNIT = {2: 25400.0, 3: 10000.0, 4: 1000.0, 5: 1.0}
"""TIFF resolution unit: inch, centimetre, and tifffile's millimetre and micrometre."""

OME_UM = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6, "Å": 1e-4, "pm": 1e-6}
_VENDORS = {
    "svs": "Aperio",
    "ndpi": "Hamamatsu",
    "scn": "Leica",
    "qpi": "Akoya",
    "philips": "Philips",
    "bif": "Ventana",
}


def pixel_size(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> tuple[tuple[float, float] | None, str]:
    """Give micrometres per level-0 pixel, (y, x), and where they come from in words; None and "" when not told."""
    for told in (_from_svs(series), _from_ome(tif, series), _from_tags(series)):
        if told is not None:
            return told
    return None, ""


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
    others = [s.name or "unnamed" for s in tif.series if s is not series]
    if others:
        facts["other images"] = ", ".join(others)
    return facts


def _format(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> str:
    names = {"svs": "SVS", "ndpi": "NDPI", "scn": "SCN", "ome": "OME-TIFF", "qpi": "QPTIFF"}
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
