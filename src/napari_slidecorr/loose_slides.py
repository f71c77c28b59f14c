"""Slides that belong to no project, predicted with a model at hand: the folder for their maps becomes a project."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path

from napari_slidecorr.cohort_prediction import SlideOutcome
from napari_slidecorr.errors import CohortError, SlideError
from napari_slidecorr.io import is_slide, stem
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.project import Project
from napari_slidecorr.project_file import FILE


def find_slides(patterns: Iterable[str | Path]) -> list[Path]:
    """Give the files that names and patterns such as ``slides/*.svs`` mean, each once, patterns in order of name.

    Raises
    ------
    CohortError
        If one of them means no file.
    """
    found: dict[Path, None] = {}
    for pattern in map(str, patterns):
        named = Path(pattern)
        paths = [named] if named.exists() else sorted(filter(is_slide, map(Path, glob.glob(pattern, recursive=True))))  # noqa: PTH207 - patterns may be absolute
        if not paths:
            raise CohortError(f"{pattern}: no slide is called so; give files, or a pattern in quotes ('slides/*.svs').")
        found.update(dict.fromkeys(path.absolute() for path in paths))
    return list(found)


def project_of(slides: Iterable[Path], out: Path, spec: ModelSpec) -> tuple[Project, list[str], list[SlideOutcome]]:
    """Make a project of loose slides, or go on with the one that an earlier call has made.

    Parameters
    ----------
    out : Path
        Its folder: ``maps`` and ``project.json`` are in it, and it opens in the viewer.

    Returns
    -------
    project : Project
    ids : list of str
        Of the slides that can be opened.
    refused : list of SlideOutcome
        Of the others, each with its cause.

    Raises
    ------
    ProjectError
        If the folder cannot be written.
    """
    project = Project.open(out) if (out / FILE).exists() else Project.create(out, spec.classes)
    known = {project.slide_path(slide.id).resolve(): slide.id for slide in project.cohort}
    ids, refused = [], []
    for path in slides:
        try:
            ids.append(known.get(path.resolve()) or project.add_slides([path])[0].id)
        except SlideError as error:
            refused.append(SlideOutcome(stem(path), "failed", error=str(error)))
    return project, ids, refused
