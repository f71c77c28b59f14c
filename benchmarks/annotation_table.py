"""Every file of a folder of annotations: what was read from it, or the sentence of refusal; and areas against shapely's.

python benchmarks/annotation_table.py --folder FOLDER [--json FILE]

The areas of five files are taken by `xml.etree` and `json` from the raw numbers, without any reader of this package.
"""

from __future__ import annotations

import argparse
import json
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from math import pi, sin
from pathlib import Path
from typing import Any

from shapely import Polygon, node, polygonize, union_all
from shapely.geometry import shape

from napari_slidecorr import read_regions
from napari_slidecorr.errors import RegionsError


def read_facts(path: Path) -> dict[str, Any]:
    """What `read_regions` makes of a file."""
    try:
        found = read_regions(path)
    except RegionsError as error:
        return {"file": path.name, "refused": str(error)}
    return {
        "file": path.name,
        "format": found.format,
        "regions": len(found.regions),
        "classes": dict(Counter(region.class_name for region in found.regions)),
        "holes": sum(len(region.polygon.interiors) for region in found.regions),
        "skipped": found.skipped,
        "repaired": found.repaired,
        "notes": found.notes,
        "area_px": sum(region.area_px for region in found.regions),
    }


def _points(element: ET.Element, name: str) -> list[tuple[float, float]]:
    return [(float(one.attrib["X"]), float(one.attrib["Y"])) for one in element.iter(name)]


def _asap(path: Path) -> float:
    root = ET.parse(path).getroot()  # noqa: S314 - files at hand
    areas = [Polygon(_points(one, "Coordinate")).area for one in root.iter("Annotation") if one.get("Type") != "Dot"]
    return float(sum(areas))


def _halo(path: Path) -> float:
    regions = list(ET.parse(path).getroot().iter("Region"))  # noqa: S314 - files at hand
    signs = [(Polygon(_points(one, "V")), one.get("NegativeROA") == "1") for one in regions]
    return float(sum(-polygon.area if hole else polygon.area for polygon, hole in signs))


def _aperio(path: Path) -> float:
    """ImageScope's outlines; one that crosses itself counts once wherever it goes around."""
    total = 0.0
    for one in ET.parse(path).getroot().iter("Region"):  # noqa: S314 - files at hand
        polygon = Polygon(_points(one, "Vertex"))
        if not polygon.is_valid:
            polygon = _wound(polygon)
        total += polygon.area
    return total


def _wound(polygon: Polygon) -> Any:
    """All that a ring goes around: the faces between its noded lines with a winding number that is not 0."""
    faces = polygonize([node(polygon.exterior)])
    inside = [face for face in faces.geoms if _winding(polygon, face.representative_point())]
    return union_all(inside)


def _winding(polygon: Polygon, point: Any) -> int:
    turns = 0
    ring = list(polygon.exterior.coords)
    for (x0, y0), (x1, y1) in pairwise(ring):
        side = (x1 - x0) * (point.y - y0) - (y1 - y0) * (point.x - x0)
        if y0 <= point.y < y1 and side > 0:
            turns += 1
        elif y1 <= point.y < y0 and side < 0:
            turns -= 1
    return turns


def _geojson(path: Path) -> float:
    data = json.loads(path.read_text("utf-8"))
    data = data if isinstance(data, list) else data.get("features", [data])
    shapes = [shape(one.get("geometry", one)) for one in data]
    return float(sum(one.area for one in shapes))


def _histomics(path: Path) -> float:
    """Rectangles exactly, circles as the polygon of 128 corners that they become."""
    total = 0.0
    for one in json.loads(path.read_text("utf-8"))["annotation"]["elements"]:
        if one["type"] == "rectangle":
            total += one["width"] * one["height"]
        else:
            total += 128 / 2 * one["radius"] ** 2 * sin(2 * pi / 128)
    return total


RAW: dict[str, Callable[[Path], float]] = {
    "wsiprocess-CMU-1_segmentation.xml": _asap,
    "halo-multiple_holes.annotations": _halo,
    "histoqc-TCGA-EJ-5518-01Z-00-DX1.xml": _aperio,
    "histoqc-geojson_example.json": _geojson,
    "luna-Annotation.json": _histomics,
}


def line(facts: dict[str, Any]) -> str:
    """One row of the table, in Markdown."""
    if "refused" in facts:
        return f"| {facts['file']} | refused | | | {facts['refused']} |"
    classes = ", ".join(f"{name or '(none)'} {count}" for name, count in facts["classes"].items())
    told = {**facts["skipped"], **facts["repaired"], **facts["notes"]}
    words = " ".join(f"{reason} ({count}x)" for reason, count in told.items())
    return (
        f"| {facts['file']} | {facts['format']} | {facts['regions']}: {classes or '-'} | {facts['holes']} | {words} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="annotation files of other programs")
    parser.add_argument("--json", type=Path, help="Write all figures there.")
    arguments = parser.parse_args()
    rows = [read_facts(path) for path in sorted(arguments.folder.iterdir()) if path.is_file()]
    print("| file | read as | regions | holes | skipped, repaired, decided |\n| --- | --- | --- | --- | --- |")
    for facts in rows:
        print(line(facts))
    areas = []
    print("\n| file | area read, px | area of the raw numbers, px | difference |\n| --- | --- | --- | --- |")
    for facts in rows:
        if facts["file"] in RAW and "area_px" in facts:
            raw = RAW[facts["file"]](arguments.folder / facts["file"])
            apart = abs(facts["area_px"] - raw) / raw
            areas.append({"file": facts["file"], "area_px": facts["area_px"], "raw_px": raw, "relative": apart})
            print(f"| {facts['file']} | {facts['area_px']:,.3f} | {raw:,.3f} | {apart:.1e} |")
    if arguments.json:
        result = {"files": rows, "areas": areas, "read": sum("refused" not in one for one in rows)}
        arguments.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
