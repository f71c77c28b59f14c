"""A folder that a QuPath project takes in whole: classes, tiles and regions of all slides, with a script that adds them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from napari_slidecorr.decision import Threshold
from napari_slidecorr.errors import MapError
from napari_slidecorr.events import Event, Notice
from napari_slidecorr.io import read_map, write_map, write_regions
from napari_slidecorr.io.atomic import atomic_write_text, make_folder
from napari_slidecorr.project import Project
from napari_slidecorr.regions import RegionSet

SCRIPT = "import_into_qupath.groovy"
README = "README.txt"
Colors = Mapping[str, tuple[int, int, int]]

_SCRIPT = """\
// Adds what napari-slidecorr has found on a slide to the image that is open in QuPath.
// In the script editor, "Run > Run for project" does it for all images of a project. Run it once an image.

def folder = %(folder)s             // change it when the folder has been moved
def kinds = ['regions', 'classes', 'tiles']    // leave out what you do not want
def slides = [                                 // how an image's name begins, and what its files are called here
%(slides)s
]

def image = getCurrentServer().getMetadata().getName()
def known = slides.keySet().findAll { image == it || image.startsWith(it + ' ') || image.startsWith(it + '.') }
if (known.isEmpty()) {
    println 'Nothing here is of the image ' + image
    return
}
def slide = slides[known.max { it.size() }]
for (kind in kinds) {
    def file = new File(new File(folder, kind), slide + '.geojson')
    if (file.exists()) {
        importObjectsFromFile(file.getAbsolutePath())
        println image + ': added ' + kind
    }
}
fireHierarchyUpdate()
"""

_README = """\
How to see this in QuPath (0.4 or later)

1. Make or open a QuPath project that holds the same slides.
2. Automate > Script editor, File > Open: %(script)s
3. Run > Run adds everything to the image that is open, Run > Run for project to all images. Once an image: a second
   run adds the same again.

Without the script: open an image and drag files from these folders onto it.

  classes/  one annotation a connected area of a class, with "Mean probability" and "Area mm2"
  tiles/    one tile a patch, with the probability of every class
  regions/  what was labelled by hand
%(by_hand)s
Settings: %(settings)s.
Coordinates are pixels of the finest level, from its upper left corner, as QuPath counts them.
"""


@dataclass(frozen=True, kw_only=True)
class FolderWritten(Event):
    """The end; ``result`` is the slides' ids."""

    result: tuple[str, ...]


@dataclass(frozen=True)
class _Entry:
    slide: str
    image: str
    map: Path | None
    regions: RegionSet
    file: Path | None = None
    """Of a slide whose name another slide's file has too, so that QuPath's name of it does not tell which it is."""


def export_qupath(
    source: Project | Path, out: Path, *, threshold: Threshold = None, smooth_um: float = 0.0
) -> Iterator[Event]:
    """Write the newest maps and the regions of a project's slides, or one map, for QuPath.

    Parameters
    ----------
    source : Project or Path
        Slides without a map and without regions are left out.
    out : Path
        A folder, made if missing; files of the same names are replaced, others are left.
    threshold : float or None
        Patches whose best class has a lower probability have no class; None: the model's own bounds.
    smooth_um : float
        How far the outlines of classes may be moved to be smooth, in micrometres.

    Returns
    -------
    iterator of Event
        One a slide, and a `Notice` of slides whose files are called alike; these are in the folder but not in its script.
        The last is `FolderWritten`. A slide at a time is held.

    Raises
    ------
    MapError
        Now, if there is nothing to write; later, if a map is damaged, or has no pixel size and is to be smoothed.
    ProjectError
        If the folder cannot be written.
    """
    entries = _of_project(source) if isinstance(source, Project) else [_of_map(source)]
    if not entries:
        raise MapError("No slide has a map or regions yet; label some, or make maps with slidecorr predict.")
    colors = source.colors if isinstance(source, Project) else {}
    return _export(entries, out.absolute(), colors, threshold, smooth_um)


def _of_project(project: Project) -> list[_Entry]:
    entries = []
    files = {slide.id: project.slide_path(slide.id) for slide in project.cohort}
    names = Counter(file.name for file in files.values())
    for slide, file in files.items():
        maps, regions = project.maps(slide), project.regions(slide)
        if maps or len(regions):
            alike = file if names[file.name] > 1 else None
            entries.append(_Entry(slide, file.name, maps[-1] if maps else None, regions, alike))
    return entries


def _of_map(path: Path) -> _Entry:
    slide = read_map(path).slide_id
    return _Entry(slide, slide, path, RegionSet())


def _export(
    entries: list[_Entry], out: Path, colors: Colors, threshold: Threshold, smooth_um: float
) -> Generator[Event, None, None]:
    for kind in ("classes", "tiles", "regions"):
        make_folder(out / kind)
    for number, entry in enumerate(entries):
        yield Event(phase=f"Writing {entry.slide}", done=number, total=len(entries))
        name = f"{entry.slide}.geojson"
        if entry.map is not None:
            prediction = read_map(entry.map)
            write_map(out / "classes" / name, prediction, threshold=threshold, colors=colors, smooth_um=smooth_um)
            tiles = out / "tiles" / f"{entry.slide}.tiles.geojson"
            write_map(tiles, prediction, threshold=threshold, colors=colors)
            tiles.replace(out / "tiles" / name)
        if len(entry.regions):
            write_regions(out / "regions" / name, entry.regions, colors=colors)
    needed = (
        "the model's own bounds, where it has them" if threshold is None else f"probability of at least {threshold:g}"
    )
    settings = f"{needed}, outlines moved by at most {smooth_um:g} um"
    atomic_write_text(out / SCRIPT, _script(entries, out))
    by_hand = _by_hand(entries)
    atomic_write_text(out / README, _README % {"script": SCRIPT, "settings": settings, "by_hand": by_hand})
    if by_hand:
        yield Notice(phase="Written", message=" ".join(by_hand.split()), warning=True)
    ids = tuple(entry.slide for entry in entries)
    yield FolderWritten(phase="Written", done=len(ids), total=len(ids), result=ids)


def _script(entries: list[_Entry], out: Path) -> str:
    lines = [f"    {_text(entry.image)}: {_text(entry.slide)}," for entry in entries if entry.file is None]
    return _SCRIPT % {"folder": _text(str(out)), "slides": "\n".join(lines)}


def _by_hand(entries: list[_Entry]) -> str:
    alike = [f"  {entry.slide}.geojson belongs to {entry.file}" for entry in entries if entry.file is not None]
    if not alike:
        return ""
    return "\n".join(
        ["", "The script leaves out slides whose files are called alike; drag theirs by hand:", *alike, ""]
    )


def _text(value: str) -> str:
    """Quote for Groovy: as JSON does, in single quotes, in which ``$`` is a letter like any other."""
    return "'" + json.dumps(value)[1:-1].replace('\\"', '"').replace("'", "\\'") + "'"
