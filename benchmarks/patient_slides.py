"""Make slides of published patches, one for each slide that they come from, and a project of them.

The folder holds pictures and ``fields.csv`` (file, label, patient, slide). The pictures of a slide are laid side by side, so
that everything a user does with slides can be tried on real patients: splits by patient, training, feature caches, maps and
diagnostics. Neighbours in such a slide were not neighbours in the tissue::

    python benchmarks/patient_slides.py PATCHES OUT --mpp 0.5 --shown-px 512
"""

from __future__ import annotations

import argparse
import csv
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from shapely import box

from napari_slidecorr import Project
from napari_slidecorr.regions import Region, RegionSet

GLASS = 255

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Field:
    """One picture of the set."""

    path: Path
    label: str
    patient: str
    slide: str


@dataclass(frozen=True)
class Layout:
    """How pictures are laid into a slide.

    Attributes
    ----------
    mpp : float
        Micrometres per pixel of the pictures as they are shown.
    shown_px : int
        Side that each picture is brought to.
    margin_px : int
        Glass around all pictures. Cells of a map begin half a cell outside of the slide: with one and a half cells of glass
        none of them shows two pictures.
    """

    mpp: float
    shown_px: int
    margin_px: int = 0


def read_fields(folder: Path) -> list[Field]:
    """Read ``fields.csv``, in its order."""
    with (folder / "fields.csv").open(newline="", encoding="utf-8") as file:
        return [Field(folder / r["file"], r["label"], r["patient"], r["slide"]) for r in csv.DictReader(file)]


def make_project(
    patches: Path,
    out: Path,
    layout: Layout,
    *,
    least: int = 0,
    most: int | None = None,
    classes: tuple[str, ...] | None = None,
    slides: int | None = None,
    recolour: Callable[[str], Callable[[Picture], Picture]] | None = None,
    seed: int = 0,
) -> Project:
    """Lay the pictures of each slide into one file and label each with its class.

    Parameters
    ----------
    least, most : int
        Slides with fewer pictures of a class are left out; at most so many of each class are taken, drawn at random.
    classes : tuple of str, optional
        All when left out.
    slides : int, optional
        How many slides, drawn at random; all when left out.
    recolour : callable, optional
        Gives for the name of a slide what changes its pictures, for example `recolouring.Recolouring.of`.

    Notes
    -----
    Pictures of several classes are laid in random order, so that no part of a slide is of one class.
    """
    rng = np.random.default_rng(seed)
    wanted = classes or tuple(dict.fromkeys(field.label for field in read_fields(patches)))
    by_slide: dict[str, dict[str, list[Field]]] = defaultdict(lambda: {name: [] for name in wanted})
    for field in read_fields(patches):
        if field.label in wanted:
            by_slide[field.slide][field.label].append(field)
    full = [name for name, found in by_slide.items() if any(found.values())]
    full = [name for name in full if min(map(len, by_slide[name].values())) >= least]
    if slides is not None:
        full = sorted(full[i] for i in rng.choice(len(full), slides, replace=False))
    project = Project.create(out, wanted)
    (out / "slides").mkdir()
    for name in full:
        fields = [field for found in by_slide[name].values() for field in _some(found, most, rng)]
        if len({field.label for field in fields}) > 1:
            fields = [fields[i] for i in rng.permutation(len(fields))]
        change = recolour(name) if recolour is not None else None
        _add(project, name, fields, _mosaic(fields, layout, change), layout)
    return project


def _some(fields: list[Field], most: int | None, rng: np.random.Generator) -> list[Field]:
    if most is None or len(fields) <= most:
        return fields
    return [fields[i] for i in sorted(rng.choice(len(fields), most, replace=False))]


def _add(
    project: Project,
    name: str,
    fields: list[Field],
    mosaic: tuple[Picture, list[tuple[int, int]]],
    layout: Layout,
) -> None:
    path = project.folder / "slides" / f"{name}.tif"
    pixels, corners = mosaic
    centimetre, shown_px = 1e4 / layout.mpp, layout.shown_px
    tifffile.imwrite(
        path,
        pixels,
        tile=(256, 256),
        photometric="rgb",
        compression="deflate",
        resolution=(centimetre, centimetre),
        resolutionunit="CENTIMETER",
    )
    (known,) = project.add_slides([path], mpp=layout.mpp, group=fields[0].patient)
    regions = [
        Region(field.label, box(y, x, y + shown_px, x + shown_px), f"{name}/{field.path.stem}")
        for field, (y, x) in zip(fields, corners, strict=True)
    ]
    project.save_regions(known.id, RegionSet(tuple(regions)))


def _mosaic(
    fields: list[Field], layout: Layout, change: Callable[[Picture], Picture] | None
) -> tuple[Picture, list[tuple[int, int]]]:
    side, margin = layout.shown_px, layout.margin_px
    columns = math.ceil(math.sqrt(len(fields)))
    rows = math.ceil(len(fields) / columns)
    pixels = np.full((rows * side + 2 * margin, columns * side + 2 * margin, 3), GLASS, np.uint8)
    corners = [(margin + i // columns * side, margin + i % columns * side) for i in range(len(fields))]
    for field, (y, x) in zip(fields, corners, strict=True):
        with Image.open(field.path) as picture:
            rgb = picture.convert("RGB")
            shown = rgb if rgb.size == (side, side) else rgb.resize((side, side), Image.Resampling.BICUBIC)
            seen = np.asarray(shown, np.uint8)
            pixels[y : y + side, x : x + side] = seen if change is None else change(seen)
    return pixels, corners


def main() -> None:
    """Make one project from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("patches", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--mpp", type=float, required=True)
    parser.add_argument("--shown-px", type=int, required=True)
    parser.add_argument("--margin-px", type=int, default=0)
    parser.add_argument("--least", type=int, default=0)
    parser.add_argument("--most", type=int)
    parser.add_argument("--class", dest="classes", action="append")
    parser.add_argument("--slides", type=int)
    arguments = vars(parser.parse_args())
    classes = tuple(arguments.pop("classes") or ()) or None
    layout = Layout(*(arguments.pop(name) for name in ("mpp", "shown_px", "margin_px")))
    project = make_project(arguments.pop("patches"), arguments.pop("out"), layout, classes=classes, **arguments)
    print(f"{project.folder}: {len(project.cohort)} slides")


if __name__ == "__main__":
    main()
