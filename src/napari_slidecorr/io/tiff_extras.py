"""What lies beside the slide in a TIFF: label, macro and thumbnail, read only when somebody asks, and the ICC profile."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_slidecorr.errors import SlideError
from napari_slidecorr.io.tiff_directory import NOT_THE_SLIDE, parsed

if TYPE_CHECKING:
    import tifffile

MAX_PIXELS = 50_000_000
"""A label or macro image above this is refused: it is read whole."""

_ICC = 34675
_PHILIPS = {"macro": "MACROIMAGE", "label": "LABELIMAGE"}


def associated_names(tif: tifffile.TiffFile, slide: tifffile.TiffPageSeries) -> tuple[str, ...]:
    """Give the names, in small letters, of the images that show the glass around the slide."""
    names = [s.name.lower() for s in tif.series if s is not slide and s.name.lower() in NOT_THE_SLIDE]
    if tif.is_scn:
        names += ["macro"] if _scn_macro(tif) is not None else []
    names += [name for name in _PHILIPS if name not in names and _philips_jpeg(tif, name)]
    return tuple(dict.fromkeys(names))


def read_associated(path: Path, name: str) -> NDArray[np.uint8]:
    """Read one of them, shape (h, w, 3), uint8.

    Raises
    ------
    SlideError
        If there is none of that name, or it cannot be shown.
    """
    with parsed(path) as tif:
        found = next((s for s in tif.series if s.name.lower() == name), None)
        if found is None and name == "macro" and tif.is_scn:
            found = _scn_macro(tif)
        if found is not None:
            return _as_rgb(path, name, found)
        data = _philips_jpeg(tif, name)
        if data is not None:
            with Image.open(io.BytesIO(data)) as picture:
                return np.asarray(picture.convert("RGB"))
    raise SlideError(f"{path.name}: it holds no image named {name!r}.")


def icc_place(page: Any) -> tuple[int, int] | None:
    """Offset and count of the ICC profile's bytes, some of 1.7 MB and thus not kept; None without one."""
    tag = page.tags.get(_ICC)
    return None if tag is None or not tag.count else (int(tag.valueoffset), int(tag.count))


def _as_rgb(path: Path, name: str, series: tifffile.TiffPageSeries) -> NDArray[np.uint8]:
    level = series.levels[0]
    if np.prod(level.shape) > 3 * MAX_PIXELS:
        raise SlideError(
            f"{path.name}: its {name} image is larger than {MAX_PIXELS:,} pixels and not read; open it elsewhere."
        )
    pixels: NDArray[Any] = level.asarray()
    if pixels.dtype == np.uint8 and level.axes in ("YXS", "SYX", "YX"):
        pixels = pixels.transpose(1, 2, 0) if level.axes == "SYX" else pixels
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if pixels.shape[2] in (1, 3, 4):
            return np.ascontiguousarray(np.broadcast_to(pixels[..., :3], (*pixels.shape[:2], 3)))
    raise SlideError(
        f"{path.name}: its {name} image is {level.axes} of {level.dtype} and not shown; open it elsewhere."
    )


def _scn_macro(tif: tifffile.TiffFile) -> tifffile.TiffPageSeries | None:
    """Leica's overview is an image among the others; the one that covers the whole collection."""
    tree = re.search(r'<collection[^>]*sizeX="(\d+)"[^>]*sizeY="(\d+)"', tif.pages.first.description)
    if tree is None:
        return None
    views = re.findall(r'<view[^>]*sizeX="(\d+)"[^>]*sizeY="(\d+)"', tif.pages.first.description)
    whole = [at for at, size in enumerate(views) if size == tree.groups()]
    return tif.series[whole[0]] if whole and len(views) == len(tif.series) > 1 else None


def _philips_jpeg(tif: tifffile.TiffFile, name: str) -> bytes | None:
    """Philips keeps label and macro as base64 JPEG inside its XML, when they are not pages."""
    if not tif.is_philips or name not in _PHILIPS:
        return None
    parts = str(tif.philips_metadata).split('ObjectType="DPScannedImage"')
    for part in parts[1:]:
        data = re.search(r'Name="PIM_DP_IMAGE_DATA"[^>]*>([^<]+)<', part)
        if f">{_PHILIPS[name]}<" in part and data:
            return base64.b64decode(data[1])
    return None
