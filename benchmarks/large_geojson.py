"""Large GeoJSON files: how long reading and writing take and how much memory, each in a process of its own.

python benchmarks/large_geojson.py [--megabytes 300] [--cells 1000] [--quick] [--json FILE]

- ``read``: a file of polygons as QuPath writes them.
- ``write``: a map of so many cells a side, two classes in patches with noise, as tiles with probabilities and as contours,
  and as CSV. ``us_each`` is the time for one tile, area or line; ``peak_mb`` what memory grew by while the file was
  written, and ``quarter_peak_mb`` the same for a map of half the side, a quarter of the cells.
- ``tiles_read_back``: the tiles read by whoever looks for regions: all of them are left out and counted, none is held.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CORNERS = 200
CELL_PX = 112


def make(path: Path, megabytes: int) -> int:
    """Write polygons of 200 corners with two decimals, as QuPath does, until the file is as large; give their number."""
    count, size = 0, 0
    rings = [json.dumps(_feature(number)) for number in range(600)]  # their places repeat, their ids do not
    with path.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [\n')
        while size < megabytes * 1_000_000:
            own = rings[count % len(rings)].replace("ffffffff", f"{count:08x}", 1)
            size += file.write(("," if count else "") + own + "\n")
            count += 1
        file.write("]}\n")
    return count


def _feature(number: int) -> dict[str, object]:
    y, x = divmod(number, 300)
    angles = [2 * math.pi * corner / CORNERS for corner in range(CORNERS)]
    ring = [[round(x * 300 + 120 * math.cos(a), 2), round(y * 300 + 120 * math.sin(a), 2)] for a in angles]
    return {
        "type": "Feature",
        "id": "ffffffff-0000-4000-8000-000000000000",
        "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
        "properties": {"objectType": "annotation", "classification": {"name": f"class {number % 3}"}},
    }


class Effort:
    """Time and growth of the largest memory between `begin` and `end`."""

    def __init__(self) -> None:
        self.before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.begun, self.cpu = time.perf_counter(), time.process_time()

    def end(self) -> dict[str, float]:
        """Seconds, seconds of the processor, and MB."""
        return {
            "seconds": round(time.perf_counter() - self.begun, 2),
            "cpu_seconds": round(time.process_time() - self.cpu, 2),
            "peak_mb": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self.before) / 1024),
        }


def read(path: Path) -> dict[str, float]:
    """Read a file and tell seconds, regions and the peak of memory, above what was used before, in MB."""
    from napari_slidecorr import read_regions
    from napari_slidecorr.io import regions_geojson  # noqa: F401 - what it imports is not to be counted

    effort = Effort()
    found = read_regions(path)
    return {**effort.end(), "regions": len(found.regions), "left_out": sum(found.skipped.values())}


def write(path: Path, side: int) -> dict[str, float]:
    """Write a made map under that name, and tell seconds, pieces, MB of the file and the growth of memory."""
    import numpy as np
    from scipy import ndimage

    from napari_slidecorr.geometry import Grid
    from napari_slidecorr.io import map_csv, map_geojson, map_tiles, write_map  # noqa: F401 - not to be counted
    from napari_slidecorr.prediction_map import PredictionMap

    rng = np.random.default_rng(0)
    grid = Grid.over((side * CELL_PX, side * CELL_PX), (CELL_PX, CELL_PX), (CELL_PX, CELL_PX), (0.5, 0.5))
    field = ndimage.gaussian_filter(rng.normal(size=grid.shape).astype(np.float32), 8)
    first = 1 / (1 + np.exp(-40 * field - rng.normal(size=grid.shape))).astype(np.float32)
    first[field < np.quantile(field, 0.2)] = np.nan  # glass
    prediction = PredictionMap(np.stack([first, 1 - first]), ("Tumor", "Stroma"), grid, "slide", "model")
    del field, first
    effort = Effort()
    write_map(path, prediction, colors={"Tumor": (200, 0, 0)})
    told = effort.end()
    with path.open("rb") as file:
        pieces = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    pieces -= 1 if path.suffix == ".csv" else 2  # its head, and of a collection its end
    return {
        **told,
        "pieces": pieces,
        "us_each": round(told["cpu_seconds"] / pieces * 1e6, 1),
        "file_mb": round(path.stat().st_size / 1e6),
    }


def in_child(*arguments: str) -> Any:
    command = [sys.executable, __file__, *arguments]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure(megabytes: int, side: int) -> dict[str, Any]:
    """Everything, a file at a time on the disk."""
    facts: dict[str, Any] = {"cells": side}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.geojson"
        written = make(path, megabytes)
        facts["read"] = {"megabytes": megabytes, "written": written, **in_child("--read", str(path))}
        path.unlink()
        for name in ("map.geojson", "map.csv", "map.tiles.geojson"):
            path = Path(folder) / name
            quarter = in_child("--write", str(path), "--cells", str(side // 2))["peak_mb"]
            told = in_child("--write", str(path), "--cells", str(side))
            facts[f"write {name.partition('.')[2]}"] = told | {"quarter_peak_mb": quarter}
        facts["tiles_read_back"] = in_child("--read", str(path))
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--cells", type=int, default=1000, help="of the map that is written, a side")
    parser.add_argument("--quick", action="store_true", help="10 MB, 200 cells")
    parser.add_argument("--json", type=Path, help="Write the figures there.")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read or arguments.write:
        print(json.dumps(read(arguments.read) if arguments.read else write(arguments.write, arguments.cells)))
        return
    facts = measure(*((10, 200) if arguments.quick else (arguments.megabytes, arguments.cells)))
    for name, told in facts.items():
        print(name, told)
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
