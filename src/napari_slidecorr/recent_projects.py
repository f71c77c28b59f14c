"""Which projects were open last, kept in the user's folder of settings.

``SLIDECORR_CONFIG_DIR`` names another folder, or keeps nothing when it is empty. The list is a convenience: where it cannot
be read or written that is logged, and nothing else depends on it.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import NamedTuple

from napari_slidecorr.errors import ProjectError
from napari_slidecorr.io.atomic import atomic_write_text, make_folder
from napari_slidecorr.project_file import FILE as PROJECT_FILE

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "SLIDECORR_CONFIG_DIR"
FILE = "recent.json"
MOST = 6


class RecentProject(NamedTuple):
    """A project's folder, and whether the project is there now."""

    folder: Path
    there: bool


def recent_projects() -> list[RecentProject]:
    """Give the projects that were open, the last one first; asks the disk, which may take a while for a network share."""
    return [RecentProject(folder, (folder / PROJECT_FILE).is_file()) for folder in _read()]


def remember_project(folder: Path) -> None:
    """Put a project at the top of the list."""
    place = _place()
    if place is None:
        return
    folder = folder.absolute()
    folders = [folder, *(one for one in _read() if one != folder)][:MOST]
    try:
        make_folder(place.parent)
        atomic_write_text(place, json.dumps({"format": 1, "projects": [str(one) for one in folders]}, indent=1))
    except (ProjectError, OSError) as error:
        logger.warning("The list of recent projects cannot be kept: %s", error)


def _read() -> list[Path]:
    place = _place()
    if place is None or not place.exists():
        return []
    try:
        return [Path(str(one)) for one in json.loads(place.read_text("utf-8"))["projects"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s: the list of recent projects cannot be read (%s); it starts anew.", place, error)
        return []


def _place() -> Path | None:
    import typer

    told = os.environ.get(FOLDER_VARIABLE)
    if told is None:
        return Path(typer.get_app_dir("napari-slidecorr")) / FILE
    return Path(told) / FILE if told else None
