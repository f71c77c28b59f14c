"""The maps that a project keeps of a slide: by which model, from when, and whether they are whole."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from napari_slidecorr.errors import MapError, ModelError, ProjectError
from napari_slidecorr.model_spec import ModelSpec

if TYPE_CHECKING:
    from napari_slidecorr.project import Project

SUFFIX = ".ome.zarr"


@dataclass(frozen=True)
class StoredMap:
    """One map on the disk.

    Attributes
    ----------
    path : Path
    slide_id, model_id : str
    run : str
        Name of the run that trained the model; empty when the project does not have it any more.
    objective : str
        Its kind, ``scr`` for example; empty without the run.
    settings : str
        What differs from a plain map, such as ``overlap0.5``; empty for a plain one.
    written : datetime
        When it was completed or, if it was not, begun; local time.
    complete : bool
    """

    path: Path
    slide_id: str
    model_id: str
    run: str
    objective: str
    settings: str
    written: datetime
    complete: bool

    @property
    def title(self) -> str:
        """Say it in a line."""
        name = f"{self.run} ({self.objective.upper()})" if self.run else f"model {self.model_id}"
        parts = [name, self.settings, f"{self.written:%Y-%m-%d %H:%M}", "" if self.complete else "not complete"]
        return ", ".join(filter(None, parts))


def stored_maps(project: Project, slide_id: str) -> list[StoredMap]:
    """List the maps of a slide, from the oldest to the newest; those of other programs are left out.

    Raises
    ------
    ProjectError
        If there is no such slide.
    """
    from napari_slidecorr.io import map_zarr

    project.maps(slide_id)  # says if there is no such slide
    runs = _runs_by_model(project)
    found = []
    for path in (project.folder / "maps" / slide_id).glob(f"*{SUFFIX}"):
        try:
            facts = map_zarr.facts(path)
            written = datetime.fromtimestamp((path / "zarr.json").stat().st_mtime)  # noqa: DTZ006 - local time is meant
        except (MapError, OSError):
            continue
        model_id = str(facts["model_id"])
        run, objective = runs.get(model_id, ("", ""))
        settings = path.name.removesuffix(SUFFIX).removeprefix(model_id).strip("-").replace("-", ", ")
        found.append(
            StoredMap(path, slide_id, model_id, run, objective, settings, written, complete=bool(facts["complete"]))
        )
    return sorted(found, key=lambda one: (one.written, one.path.name))


def remove_map(project: Project, stored: StoredMap) -> Path:
    """Take a map out of the project: it is moved to the folder ``removed``, from where it can be put back.

    Returns
    -------
    Path
        Where it is now.

    Raises
    ------
    ProjectError
        If it is not a map of this project, is gone, or cannot be moved, or the project is read-only here.
    """
    project.check_writable()
    if stored.path.parent != project.folder / "maps" / stored.slide_id or not stored.path.exists():
        raise ProjectError(f"{stored.path}: there is no such map in the project; list the maps again.")
    folder = project.folder / "removed" / stored.slide_id
    number = next(n for n in range(1, 100_000) if not (folder / f"{n:03d}-{stored.path.name}").exists())
    target = folder / f"{number:03d}-{stored.path.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.move(stored.path, target)
    except OSError as error:
        raise ProjectError(
            f"{stored.path.name}: cannot be moved to {folder} ({error.strerror}); free space there, or see that you may write to it."
        ) from error
    return target


def _runs_by_model(project: Project) -> dict[str, tuple[str, str]]:
    """Name and objective of each run, by its model's id."""
    runs = {}
    for run in project.runs():
        try:
            spec = ModelSpec.load(run / "model.json")
        except ModelError:
            continue
        runs[spec.id] = run.name, str(spec.objective.get("kind", ""))
    return runs
