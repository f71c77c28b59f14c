"""Which slides open, and are their pixels right: one row for every file of a folder of slides. See ``--help``.

The largest difference is that of level 0 to openslide, or, where openslide cannot read the file or reads less of it, to the
file's own writer (tifffile's or zarr's whole array).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import tifffile
import zarr

from napari_slidecorr.errors import SlideError
from napari_slidecorr.io import open_slide
from napari_slidecorr.slide import Slide

HEAD = ("file", "format", "levels", "µm/px (x, y) and where from", "first view", "largest difference at level 0")
PLACES, SIDE = 8, 400
Pixels = Callable[[int, int, int, int], np.ndarray]


def row(path: Path) -> dict[str, Any]:
    """Facts of one file: opened, its coarsest level and one view of level 0 read, compared."""
    start = time.perf_counter()
    try:
        slide = open_slide(path)
        first_view(slide)
        seconds = time.perf_counter() - start
        worst, other = difference(slide)
    except SlideError as error:
        return {"file": path.name, "refused": str(error)}
    return {
        "file": path.name,
        "format": slide.properties["format"] + (", for viewing only" if slide.channels else ""),
        "levels": [list(level.shape) for level in slide.levels],
        "mpp": list(slide.mpp) if slide.mpp else None,
        "mpp_source": slide.mpp_source,
        "first_view_s": round(seconds, 3),
        "max_difference": worst,
        "compared_to": other,
    }


def first_view(slide: Slide) -> None:
    """What napari reads until something is seen: the coarsest level, then a screenful of level 0 at its centre."""
    for levels in views(slide):
        np.asarray(levels[-1])
        y, x = (max(0, n // 2 - SIDE) for n in slide.shape)
        levels[0][y : y + 2 * SIDE, x : x + 2 * SIDE]


def views(slide: Slide) -> list[list[Any]]:
    if slide.channels:
        return [slide.channel_levels(channel) for channel in range(len(slide.channels))]
    return [slide.view_levels()]


def difference(slide: Slide) -> tuple[int | float, str]:
    """The largest difference over some places of level 0, and to whom."""
    read, other = reference(slide)
    height, width = (min(SIDE, n) for n in slide.shape)
    rng = np.random.default_rng(0)
    worst: int | float = 0
    for place in range(PLACES):
        y, x = (int(rng.integers(0, n - m + 1)) for n, m in zip(slide.shape, (height, width), strict=True))
        y, x = (y, x) if place else (slide.shape[0] - height, slide.shape[1] - width)
        ours = np.dstack([levels[0][y : y + height, x : x + width] for levels in views(slide)])
        theirs = read(y, x, height, width).reshape(ours.shape)
        worst = max(worst, np.abs(ours.astype(float) - theirs).max().item())
    return (int(worst) if worst == int(worst) else worst), other


def reference(slide: Slide) -> tuple[Pixels, str]:
    """Another reader of the same pixels."""
    if slide.path.suffix == ".zarr":
        return zarr_reader(slide.path), "zarr"
    name = slide.path.name.lower()
    if not slide.channels and not name.endswith((".ome.tif", ".ome.tiff", "sparse-tiles.tif")):
        handle = openslide.OpenSlide(slide.path)

        def read(y: int, x: int, height: int, width: int) -> np.ndarray:
            return np.asarray(handle.read_region((x, y), 0, (width, height)).convert("RGB"))

        return read, "openslide"
    with tifffile.TiffFile(slide.path) as tif:
        series = tif.series[0].levels[0]
        whole = np.moveaxis(series.asarray(), 0, -1) if series.axes in ("CYX", "SYX") else series.asarray()
        if "sparse" in name:  # tifffile gives 0 where the scanner left tiles out; ours is background
            counts = np.asarray(series.pages[0].databytecounts).reshape(-(-whole.shape[0] // 256), -1)
            whole[np.kron(counts == 0, np.ones((256, 256), bool))[: whole.shape[0], : whole.shape[1]]] = 255
    return (lambda y, x, height, width: whole[y : y + height, x : x + width]), "tifffile, whole array"


def zarr_reader(path: Path) -> Pixels:
    """Level 0 of an OME-Zarr by zarr alone, channels last."""
    group = zarr.open_group(str(path), mode="r")
    attributes = dict(group.attrs)
    multiscale = attributes.get("ome", attributes)["multiscales"][0]
    array = group[multiscale["datasets"][0]["path"]]
    return lambda y, x, height, width: np.moveaxis(array[:, y : y + height, x : x + width], 0, -1)


def cells(facts: dict[str, Any]) -> tuple[str, ...]:
    """A row as words."""
    if "refused" in facts:
        return facts["file"], "refused", "", "", "", facts["refused"]
    shapes = facts["levels"]
    levels = f"{len(shapes)}: {shapes[0][1]:,} x {shapes[0][0]:,} to {shapes[-1][1]:,} x {shapes[-1][0]:,}"
    mpp = facts["mpp"]
    size = f"{mpp[1]:.6g}, {mpp[0]:.6g}: {facts['mpp_source']}" if mpp else "not told"
    compared = f"{facts['max_difference']} ({facts['compared_to']})"
    return facts["file"], facts["format"], levels, size, f"{1e3 * facts['first_view_s']:.0f} ms", compared


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [HEAD, ("---",) * len(HEAD), *(cells(one) for one in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with the folders slides and derived")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    found = [path for name in ("slides", "derived") for path in sorted((options.data / name).iterdir())]
    with tempfile.TemporaryDirectory() as empty:  # levels that were made before would make the first view look too good
        os.environ["XDG_CACHE_HOME"] = empty
        rows = [row(path) for path in found]
    print(table(rows))
    if options.json:
        figures = {
            "files": len(rows),
            "opened": sum("refused" not in one for one in rows),
            "slowest_first_view_s": max(one.get("first_view_s", 0) for one in rows),
            "largest_difference": max(one.get("max_difference", 0) for one in rows),
            "rows": rows,
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
