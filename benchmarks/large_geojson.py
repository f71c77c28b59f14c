"""A large GeoJSON file of polygons: how long reading takes and how much memory, in a process of its own.

python benchmarks/large_geojson.py [--megabytes 300] [--quick] [--json FILE]
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

CORNERS = 200


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


def read(path: Path) -> dict[str, float]:
    """Read a file and tell seconds, regions and the peak of memory, above what was used before, in MB."""
    from napari_slidecorr import read_regions
    from napari_slidecorr.io import regions_geojson  # noqa: F401 - what it imports is not to be counted

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin, cpu = time.perf_counter(), time.process_time()
    found = read_regions(path)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "regions": len(found.regions),
        "peak_mb": round(peak / 1024),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="10 MB.")
    parser.add_argument("--json", type=Path, help="Write the figures there.")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        print(json.dumps(read(arguments.read)))
        return
    megabytes = 10 if arguments.quick else arguments.megabytes
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.geojson"
        written = make(path, megabytes)
        outcome = subprocess.run(
            [sys.executable, __file__, "--read", str(path)], capture_output=True, text=True, check=True
        )
    facts = {"megabytes": megabytes, "written": written, **json.loads(outcome.stdout)}
    print(facts)
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
