"""Which program wrote a file of regions, by what is in it: names are no proof, ``.xml`` and ``.json`` least of all."""

from __future__ import annotations

import re
from pathlib import Path

from napari_slidecorr.errors import RegionsError
from napari_slidecorr.io.regions_text import encoding_of, read_bytes

READ = ".geojson, .json, .xml, .annotations, .ndpa"
"""Suffixes of the files that can be read."""

_HEAD_BYTES = 1 << 16
_GEOJSON = re.compile(
    r'"type"\s*:\s*"(Feature|FeatureCollection|(Multi)?(Polygon|Point|LineString)|GeometryCollection)"'
)
_ELEMENTS = re.compile(r'"elements"\s*:\s*\[')
_CYTOMINE = re.compile(r'cytomine|"location"\s*:\s*"(MULTI)?(POLYGON|POINT|LINESTRING)\b', re.IGNORECASE)
_ROOT = re.compile(r"<([A-Za-z_][\w.-]*:)?([A-Za-z_][\w.-]*)")
_NO_ELEMENT = re.compile(r"<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^\[>]*(\[.*?\]\s*)?>", re.DOTALL)

_DICOM_ANNOTATIONS = b"1.2.840.10008.5.1.4.1.1.91.1"
"""The kind (SOP class) of microscopy annotations."""

_BINARY = (
    (b"PK\x03\x04", "a zip archive; unpack it and choose the file inside"),
    (b"\x1f\x8b", "a compressed file (gzip); unpack it first"),
    (b"\xac\xed\x00\x05", "QuPath's own data file; export the annotations as GeoJSON from QuPath"),
    (b"SQLite format 3", "a database; export its annotations as GeoJSON"),
    (b"II*\x00", "a picture (TIFF), not a file of regions"),
    (b"MM\x00*", "a picture (TIFF), not a file of regions"),
    (b"\x89PNG", "a picture (PNG), not a file of regions"),
    (b"\xff\xd8\xff", "a picture (JPEG), not a file of regions"),
)
_FOREIGN_ROOTS = {
    "ImageData": "Leica LMD's XML, which counts from its own calibration points on the glass; export GeoJSON instead",
    "OME": "OME-XML; its regions are not read; export GeoJSON instead",
    "GraphicsDocument": "Zeiss ZEN's graphics; export GeoJSON instead",
    "svg": "a drawing (SVG), whose scale is not known; export GeoJSON instead",
    "html": "a web page; download the file itself",
}
_INSTEAD = "export the annotations as GeoJSON, ASAP or ImageScope XML"


def format_of(path: Path) -> str:
    """Give the name of the module that reads a file.

    Raises
    ------
    RegionsError
        If the file is missing, empty, or of a kind that is not read here: says of which.
    """
    head = read_bytes(path, _HEAD_BYTES)
    if head[128:132] == b"DICM":
        what = "these are DICOM annotations" if _DICOM_ANNOTATIONS in head else "this is a DICOM file"
        raise RegionsError(f"{path.name}: {what}, from which no regions are read; {_INSTEAD}.")
    for mark, what in _BINARY:
        if head.startswith(mark):
            raise RegionsError(f"{path.name}: this is {what}.")
    text = head.decode(encoding_of(head), "replace").lstrip("\ufeff \t\r\n")
    if text.startswith("<"):
        return _of_xml(path, text)
    if text.startswith(("{", "[")):
        return _of_json(path, text)
    raise RegionsError(
        f"{path.name}: this is not a file of regions; it must be GeoJSON, HistomicsUI's JSON, or the XML of ASAP, "
        f"ImageScope, Halo or NDPA ({READ})."
    )


def _of_xml(path: Path, text: str) -> str:
    root = _ROOT.match(_NO_ELEMENT.sub("", text).lstrip())
    name = root[2] if root else ""
    if name == "ASAP_Annotations":
        return "regions_asap"
    if name == "annotations":
        return "regions_ndpa"
    if name == "Annotations":
        is_halo = re.search(r"<V\s", text) or re.search(r'<Region\b[^>]*\bType="[A-Z]', text)
        return "regions_halo" if is_halo or path.suffix.lower() == ".annotations" else "regions_aperio"
    if not name:
        raise RegionsError(f"{path.name}: not XML, or cut short (no element in it); export it again.")
    what = _FOREIGN_ROOTS.get(name, f"XML of a program that is not known here (it begins with <{name}>); {_INSTEAD}")
    raise RegionsError(f"{path.name}: this is {what}.")


def _of_json(path: Path, text: str) -> str:
    found = _GEOJSON.search(text), _ELEMENTS.search(text)
    if found[1] and not (found[0] and found[0].start() < found[1].start()):
        return "regions_histomics"
    if not found[0] and _CYTOMINE.search(text):
        raise RegionsError(f"{path.name}: this is an annotation of Cytomine, which is not read; {_INSTEAD}.")
    return "regions_geojson"
