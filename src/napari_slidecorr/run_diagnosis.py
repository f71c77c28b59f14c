"""Diagnose runs of a project: which patches each is judged on, and where the finding is kept."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_slidecorr.config import PatchConfig
from napari_slidecorr.errors import CohortError, ModelError, ProjectError
from napari_slidecorr.events import Event, Notice
from napari_slidecorr.held_out_file import NAME as HELD_OUT_NAME
from napari_slidecorr.held_out_file import read_own_patches
from napari_slidecorr.model_spec import FOLDS, ModelSpec
from napari_slidecorr.patches import patches_sha256
from napari_slidecorr.project import MODEL_FILE, Project
from napari_slidecorr.settings import from_json
from napari_slidecorr.trained_leakage import leakage_by_training

if TYPE_CHECKING:
    from napari_slidecorr.learning.diagnosing import Subject
    from napari_slidecorr.learning.models import PatchClassifier
    from napari_slidecorr.patches import PatchTable

LEAKY_RUN = (
    "patches of every slide took part in its training (a leaky split), so nothing is held out to judge it by; its slides are "
    "all looked at as training slides."
)
CHANGED = "regions have changed since it was trained; it is judged on the patches as they are now."


def diagnose_run(
    project: Project,
    run: str | Path | None = None,
    *,
    device: str = "auto",
    per_slide: int | None = None,
    seed: int = 0,
) -> Iterator[Event]:
    """Find out whether the model of a run learnt the tissue or the slide, and keep the finding in the run's folder.

    Parameters
    ----------
    run : str or Path, optional
        A run's name, folder or ``model.json``; the newest run when left out.
    per_slide : int, optional
        At most so many patches of each slide.

    Returns
    -------
    iterator of Event
        The last is `learning.diagnosing.Diagnosed`.

    Raises
    ------
    ProjectError
        If there is no such run.
    ModelError
        If the model cannot be read.
    CohortError
        If the run is of another project: none of its slides is here.
    """
    folder = run_named(project, run)
    spec = ModelSpec.load(folder / MODEL_FILE)
    known = {slide.id for slide in project.cohort}
    if not known & set(spec.train_slides):
        raise CohortError(
            f"{folder.name}: none of the slides it was trained on is in {project.folder.name}; open the project of the run."
        )
    return _diagnose(project, folder, spec, device, per_slide, seed)


def run_named(project: Project, run: str | Path | None) -> Path:
    """Give the folder of a finished run by its name, folder or ``model.json``; the newest when left out.

    Raises
    ------
    ProjectError
        If there is none.
    """
    if run is not None and (project.folder / "runs" / str(run) / MODEL_FILE).is_file():
        return project.folder / "runs" / str(run)
    folder = project.run_folder(run)
    if not (folder / MODEL_FILE).is_file():
        names = ", ".join(one.name for one in project.runs()) or "none yet"
        raise ProjectError(f"{run}: there is no finished run of that name; there are {names}.")
    return folder


def _diagnose(
    project: Project, run: Path, spec: ModelSpec, device: str, per_slide: int | None, seed: int
) -> Generator[Event, None, None]:
    from napari_slidecorr.learning import diagnosing
    from napari_slidecorr.learning.feature_store import FeatureCache

    yield Event(phase="Reading the model")
    told = _told_of(run)
    subject, gone = _subject(project, run, spec, told["settings"])
    for message in _doubts(subject, spec, gone, told.get("patches_sha256")):
        yield Notice(phase="Preparing", message=message, warning=True)
    limit = per_slide or diagnosing.PER_SLIDE
    events: Any = diagnosing.diagnose(subject, cache=FeatureCache(), device=device, per_slide=limit, seed=seed)
    with closing(events):
        for event in events:
            if isinstance(event, diagnosing.Diagnosed):
                event.result.save(run)
            yield event


def _doubts(subject: Subject, spec: ModelSpec, gone: list[str], trained_on: str | None) -> Iterator[str]:
    """Say in what the patches are not those of the training."""
    if gone:
        yield f"{', '.join(gone)}: no longer in the project or without regions, so not looked at."
    elif spec.split == "patches":
        yield f"{subject.run}: {LEAKY_RUN}"
    elif (
        subject.out_of_fold is None
        and trained_on is not None
        and patches_sha256(subject.seen, subject.unseen) != trained_on
    ):
        yield f"{subject.run}: {CHANGED}"


def _subject(project: Project, run: Path, spec: ModelSpec, settings: dict[str, Any]) -> tuple[Subject, list[str]]:
    from napari_slidecorr.learning.diagnosing import Subject

    if spec.kept == FOLDS and (run / HELD_OUT_NAME).exists():
        return _of_folds(project, run, spec, settings)
    table = _table(project, spec, settings)
    leaky = spec.split == "patches"
    sides = spec.train_slides, () if leaky else spec.validation_slides
    gone = [slide for side in sides for slide in side if slide not in table.slides]
    seen, unseen = (table.of_slides([slide for slide in side if slide in table.slides]) for side in sides)
    start, why = _start(spec, settings)
    slides = {slide: project.slide(slide) for slide in (*seen.slides, *unseen.slides)}
    groups = {slide.id: slide.group for slide in project.cohort}
    model, spec = project.load_model(run)
    known = () if leaky or (twice := leakage_by_training(run)) is None else (twice,)
    return Subject(run.name, model, spec, seen, unseen, slides, groups, start, why, known), gone


def _of_folds(project: Project, run: Path, spec: ModelSpec, settings: dict[str, Any]) -> tuple[Subject, list[str]]:
    """A head on frozen features has seen all slides, and is judged by siblings, each of which had not seen some."""
    from napari_slidecorr.learning.diagnosing import Subject

    known = {slide.id for slide in project.cohort}
    slides = {slide: project.slide(slide) for slide in spec.train_slides if slide in known}
    gone = [slide for slide in spec.train_slides if slide not in slides]
    footprints = {name: spec.geometry.footprint_px(slide.mpp, name) for name, slide in slides.items()}
    table, out_of_fold = read_own_patches(run, spec.classes, spec.geometry, footprints)
    start, why = _start(spec, settings)
    groups = {slide.id: slide.group for slide in project.cohort}
    model, spec = project.load_model(run)
    nobody = table.of_slides([])
    return Subject(run.name, model, spec, table, nobody, slides, groups, start, why, out_of_fold=out_of_fold), gone


def _table(project: Project, spec: ModelSpec, settings: dict[str, Any]) -> PatchTable:
    """The patches as the project's regions give them now, labelled in the order of the model's classes."""
    import numpy as np

    config = from_json(PatchConfig, settings["patches"])
    table = project.patch_table(config)
    missing = [name for name in spec.classes if name not in table.classes]
    if missing:
        raise CohortError(f"The project has no class {missing[0]!r} any more, which the model tells; add it again.")
    new = np.full(len(table.classes), -1, np.int16)
    for label, name in enumerate(spec.classes):
        new[table.classes.index(name)] = label
    kept = table.of_rows(new[table.label] >= 0)
    return replace(kept, label=new[kept.label], classes=spec.classes)


def _start(spec: ModelSpec, settings: dict[str, Any]) -> tuple[PatchClassifier | None, str]:
    from napari_slidecorr.learning.diagnosing import start_of

    weights = str(settings.get("weights", "imagenet"))
    if weights == "random":
        return None, "The model started from random weights, which have no features to judge a split by."
    try:
        return start_of(spec, weights, seed=int(settings.get("seed", 0))), ""
    except ModelError as error:
        return None, str(error)


def _told_of(run: Path) -> dict[str, Any]:
    """What ``config.json`` says of a run."""
    path = run / "config.json"
    try:
        told = dict(json.loads(path.read_text("utf-8")))
        told["settings"]["patches"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); train the model again.") from error
    return told
