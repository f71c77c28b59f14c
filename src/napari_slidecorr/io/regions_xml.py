"""XML as the regions' formats need it: walked element by element, entities refused, odd encodings understood; and written."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError
from xml.sax.saxutils import quoteattr

import numpy as np
from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from napari_slidecorr.errors import RegionsError
from napari_slidecorr.io.regions_file import Gathering, Ring
from napari_slidecorr.io.regions_text import RECODED, encoding_of, read_bytes

_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.-]+)["']""")
_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

ELLIPSE_CORNERS = 128
"""An ellipse becomes a polygon of so many corners on it; its area is 0.04 % too small."""

ELLIPSE = f"An ellipse was read as a polygon of {ELLIPSE_CORNERS} corners."


class Step(NamedTuple):
    """An element at its beginning, with nothing but attributes, or at its end, whole."""

    begins: bool
    element: Element


def walk(path: Path, gathering: Gathering, *, begin: Collection[str], end: Collection[str]) -> Iterator[Step]:
    """Walk the elements of some names; what ended is emptied after its step, so that a large file needs little memory.

    Parameters
    ----------
    begin, end : collection of str
        Names of the elements that are given when they begin, and when they end.

    Raises
    ------
    RegionsError
        If the file cannot be read, is not XML, is cut short, or declares entities (which can blow up to any size).
    """
    try:
        for event, element in ElementTree.iterparse(BytesIO(_utf8(path, gathering)), ("start", "end")):
            name = local_name(element)
            if event == "start" and name in begin:
                yield Step(True, element)
            elif event == "end" and name in end:
                yield Step(False, element)
                element.clear()
    except DefusedXmlException as error:
        raise RegionsError(
            f"{path.name}: it declares entities, which no program of annotations writes and which can fill the memory; "
            "remove the DOCTYPE if you trust the file."
        ) from error
    except ParseError as error:
        raise RegionsError(f"{path.name}: not XML, or cut short ({error}); export it again.") from error


def local_name(element: Element) -> str:
    """The name of an element without its namespace."""
    return str(element.tag).rpartition("}")[2]


def vertices(element: Element, names: Collection[str]) -> Ring:
    """Give the (y, x) ring, shape (n, 2), of child elements with the attributes ``X`` and ``Y``.

    Raises
    ------
    ValueError
        If one is missing or no finite number.
    """
    found = [child for child in element.iter() if local_name(child) in names]
    if any("Order" in child.attrib for child in found):
        found.sort(key=lambda child: int(child.attrib.get("Order", 0)))
    array = np.array([(number(child, "Y"), number(child, "X")) for child in found], float).reshape(-1, 2)
    if not np.isfinite(array).all():
        raise ValueError("a coordinate is not a finite number")
    return array


def number(element: Element, name: str) -> float:
    """Give the number in an attribute, also with a decimal comma.

    Raises
    ------
    ValueError
        If it is missing or no number.
    """
    text = element.attrib.get(name)
    if text is None:
        raise ValueError(f"<{local_name(element)}> has no {name}")
    return float(text.replace(",", "."))


def box_ring(corners: Ring) -> Ring:
    """The rectangle around points, shape (4, 2)."""
    (y0, x0), (y1, x1) = corners.min(axis=0), corners.max(axis=0)
    return np.array([(y0, x0), (y0, x1), (y1, x1), (y1, x0)])


def ellipse_ring(corners: Ring) -> Ring:
    """The ellipse that fills the rectangle around points, shape (`ELLIPSE_CORNERS`, 2)."""
    low, high = corners.min(axis=0), corners.max(axis=0)
    return ellipse((low + high) / 2, (high - low) / 2)


def ellipse(center: Ring, radii: Ring) -> Ring:
    """An ellipse of (y, x) centre and radii as a ring, shape (`ELLIPSE_CORNERS`, 2)."""
    angles = np.arange(ELLIPSE_CORNERS) * (2 * np.pi / ELLIPSE_CORNERS)
    return np.asarray(center + radii * np.stack([np.sin(angles), np.cos(angles)], axis=1))


def bgr(text: str | None) -> tuple[int, int, int] | None:
    """The colour in a Windows colour number, red in its lowest byte; None for anything else."""
    if text is None or not re.fullmatch(r"\d{1,10}", text):
        return None
    value = int(text)
    return value & 255, value >> 8 & 255, value >> 16 & 255


def attribute(text: str) -> str:
    """Quote text as an attribute's value; characters that XML cannot hold are left out."""
    return quoteattr(_NOT_XML.sub("", text), {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})


def _utf8(path: Path, gathering: Gathering) -> bytes:
    """Give XML that the parser understands: as it is, or anew in UTF-8 where its encoding is not what it says."""
    data = read_bytes(path)
    declared = _DECLARED.match(data)
    says = declared[1].decode("ascii").lower() if declared else ""
    encoding = encoding_of(data)
    if encoding == "utf-8" and says in ("", "utf-8", "us-ascii", "ascii"):
        return data
    if encoding == "latin-1" and says:
        encoding = says
    try:
        text = data.decode(encoding)
    except (LookupError, UnicodeDecodeError):
        text = data.decode(encoding_of(data), "replace")
    if says.replace("_", "-") != encoding and not encoding.startswith("utf-8"):
        gathering.repaired[RECODED.format(encoding.upper())] += 1
    return _DECLARATION.sub("", text.lstrip("\ufeff"), count=1).lstrip().encode("utf-8")
