"""A project of made-up slides with regions drawn on most of them: something to train on at once."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from napari_slidecorr.errors import ProjectError
from napari_slidecorr.events import Event
from napari_slidecorr.project import Project
from napari_slidecorr.project_file import FILE
from napari_slidecorr.sample_data import CLASS_COLORS, CohortMade, SampleSlide, make_cohort


@dataclass(frozen=True, kw_only=True)
class SampleProjectMade(Event):
    """The last event of `make_sample_project`: where the project is."""

    result: Path


def make_sample_project(
    folder: Path, kind: str = "default", *, seed: int = 0, slides: int | None = None, size_px: int | None = None
) -> Iterator[Event]:
    """Make slides in the folder ``slides`` of a new project, and add them with the regions of those meant for training.

    Parameters
    ----------
    folder : Path
        Of the project; made if missing. What a stopped call has left there is made again.
    kind, seed, slides, size_px
        As `sample_data.make_cohort`.

    Returns
    -------
    iterator of Event
        One for each slide; the last is a `SampleProjectMade`.

    Raises
    ------
    ConfigError
        Now, if the cohort cannot be made.
    ProjectError
        Now, if there is a project already; later, if the folder cannot be written.
    """
    folder = Path(folder).absolute()
    if (folder / FILE).exists():
        raise ProjectError(f"{folder}: there is a project already; open it, or choose another folder.")
    return _make(folder, make_cohort(folder / "slides", kind, seed=seed, slides=slides, size_px=size_px))


def _make(folder: Path, cohort: Iterator[Event]) -> Generator[Event, None, None]:
    samples: tuple[SampleSlide, ...] = ()
    with closing(cohort) as events:  # type: ignore[type-var]
        for event in events:
            if isinstance(event, CohortMade):
                samples = event.result
            yield event
    yield Event(phase="Adding the slides to the project")
    add_samples(Project.create(folder), samples)
    yield SampleProjectMade(phase="Made the sample project", done=1, total=1, result=folder)


def add_samples(project: Project, samples: Sequence[SampleSlide]) -> None:
    """Give a project the classes, slides and patients of made-up slides, and regions but for those that are held out.

    Raises
    ------
    ProjectError, SlideError
        As `Project.add_slides` and `Project.save_regions`.
    """
    project.set_classes(
        [name for name in CLASS_COLORS if any(name in sample.regions.classes for sample in samples)], CLASS_COLORS
    )
    for sample in samples:
        project.add_slides([sample.path], group=sample.group)
        if not sample.held_out:
            project.save_regions(sample.id, sample.regions)
