"""What ``project.json`` says: slides, classes and their colours; and names that any disk accepts."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from napari_slidecorr.cohort import CohortSlide
from napari_slidecorr.errors import ProjectError
from napari_slidecorr.regions import IGNORE

FORMAT = 1
FILE = "project.json"

Color = tuple[int, int, int]

PALETTE: tuple[Color, ...] = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (0, 114, 178), (213, 94, 0), (204, 121, 167), (240, 228, 66)),
    *((0, 0, 153), (102, 51, 0), (51, 0, 51), (51, 51, 51), (204, 255, 204), (153, 51, 102), (153, 204, 153)),
)
"""Okabe and Ito's colours, then seven that were taken one by one as far as can be from all before them, from grey and from
white, for normal and for colour-blind eyes: any two differ by 10 or more (CIEDE2000). New classes take the first that is free."""

IGNORE_COLOR: Color = (190, 190, 190)


Stamp = tuple[int, int, int]


def stamp_of(path: Path) -> Stamp | None:
    """Give what changes whenever a file is replaced; None without one.

    Raises
    ------
    ProjectError
        If the folder cannot be looked into.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ProjectError(f"{path}: cannot be read ({error.strerror}); check the folder.") from error
    return found.st_mtime_ns, found.st_size, found.st_ino


def project_json(slides: Iterable[CohortSlide], colors: Mapping[str, Color]) -> str:
    """Give the text of ``project.json``."""
    told = {
        "format": FORMAT,
        "classes": [{"name": name, "color": list(color)} for name, color in colors.items()],
        "slides": [{"id": s.id, "path": s.path, "group": s.group, "mpp": s.mpp} for s in slides],
    }
    return json.dumps(told, indent=2, ensure_ascii=False)


def read_project_file(path: Path) -> tuple[list[CohortSlide], dict[str, Color]]:
    """Read slides and classes with their colours.

    Raises
    ------
    ProjectError
        If there is no such file, it is damaged, or a newer version wrote it.
    """
    try:
        told = json.loads(path.read_text("utf-8"))
        version = told["format"]
        if version > FORMAT:
            raise ProjectError(
                f"{path}: this project has format {version}, written by a newer version; update napari-slidecorr."
            )
        colors = with_colors([c["name"] for c in told["classes"]], {c["name"]: c["color"] for c in told["classes"]})
        return [_slide_from_json(values) for values in told["slides"]], colors
    except FileNotFoundError as error:
        raise ProjectError(f"{path.parent}: not a project, it has no {FILE}; create one there first.") from error
    except ProjectError:
        raise
    except OSError as error:
        raise ProjectError(f"{path}: cannot be read ({error.strerror}); check the folder.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProjectError(f"{path}: the project's file is damaged ({error}); take it from a backup.") from error


def _slide_from_json(values: Mapping[str, Any]) -> CohortSlide:
    if values["id"] != safe_name(values["id"]):
        raise ValueError(f"{values['id']!r} cannot be the id of a slide")
    mpp = None if values["mpp"] is None else (float(values["mpp"][0]), float(values["mpp"][1]))
    return CohortSlide(values["id"], str(values["path"]), str(values["group"]), mpp)


def with_colors(names: Iterable[str], colors: Mapping[str, Sequence[int]]) -> dict[str, Color]:
    """Give each class its colour, or a free one of the palette; ``ignore`` is left out.

    Raises
    ------
    ProjectError
        If a name is empty, has spaces at its ends or control characters, or comes twice; or a colour is none.
    """
    out: dict[str, Color] = {}
    names = [*names]
    used = {tuple(colors[name]) for name in names if name in colors}
    for name in names:
        if name == IGNORE:
            continue
        if name != tidy_name(name) or not name:
            raise ProjectError(f"A class cannot be named {name!r}; give it letters, and no space at its ends.")
        if name in out:
            raise ProjectError(f"Class {name!r} comes twice; give each class its own name.")
        free = (color for color in PALETTE if color not in used and color not in out.values())
        out[name] = _checked_color(name, colors.get(name) or next(free, PALETTE[len(out) % len(PALETTE)]))
    return out


def tidy_name(name: str) -> str:
    """Give a class name without control characters, and with single spaces only between words."""
    return " ".join("".join(" " if unicodedata.category(c)[0] == "C" else c for c in name).split())


def _checked_color(name: str, color: Sequence[int]) -> Color:
    if len(color) != 3 or not all(0 <= int(part) <= 255 for part in color):
        raise ProjectError(f"Class {name!r} has the colour {color}; it must be three numbers from 0 to 255.")
    return int(color[0]), int(color[1]), int(color[2])


def unique_id(stem: str, taken: set[str]) -> str:
    """A name for a slide that is unique, also on disks which ignore case, and can be a file's name anywhere."""
    start = safe_name(stem)
    folded = {name.casefold() for name in taken}
    names = (start if n == 1 else f"{start}-{n}" for n in range(1, len(taken) + 2))
    return next(name for name in names if name.casefold() not in folded)


def safe_name(name: str) -> str:
    """Give a name that can be a file's on any disk."""
    safe = re.sub(r"[^\w.\-]+", "_", unicodedata.normalize("NFC", name)).strip("._")[:100]
    reserved = re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", safe)
    return f"_{safe}" if reserved or not safe else safe
