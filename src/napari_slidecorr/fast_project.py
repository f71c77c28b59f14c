"""The fast way with a project's slides: features ahead of time, a head in seconds, and which remedy helps."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_slidecorr.errors import CohortError, ProjectError
from napari_slidecorr.events import Event
from napari_slidecorr.fast_config import FastConfig
from napari_slidecorr.project_file import safe_name
from napari_slidecorr.regions import IGNORE, RegionSet, simple_regions
from napari_slidecorr.runs import free_runs, in_free_run
from napari_slidecorr.slide import Slide
from napari_slidecorr.tissue import find_tissue
from napari_slidecorr.torch_trouble import torch_trouble_told

if TYPE_CHECKING:
    from napari_slidecorr.learning.feature_store import FeatureCache
    from napari_slidecorr.project import Project


@dataclass(frozen=True)
class LabelledSlides:
    """The slides of a project that have regions of its classes.

    Attributes
    ----------
    slides : dict of slide id to Slide
    regions : dict of slide id to RegionSet
        Simple polygons.
    groups : dict of slide id to str
    """

    slides: Mapping[str, Slide]
    regions: Mapping[str, RegionSet]
    groups: Mapping[str, str]


def labelled_slides(project: Project) -> LabelledSlides:
    """Open the slides that have regions.

    Raises
    ------
    CohortError
        If none has.
    SlideError
        If one cannot be opened.
    """
    slides, regions, groups = {}, {}, {}
    for known in project.cohort:
        found = simple_regions(project.regions(known.id))
        if any(region.class_name not in ("", IGNORE) for region in found):
            slides[known.id] = project.slide(known.id)
            regions[known.id], groups[known.id] = found, known.group
    if not slides:
        raise CohortError("There are no regions yet. Draw or import regions of at least two classes on two slides.")
    return LabelledSlides(slides, regions, groups)


def fast_train(
    project: Project, config: FastConfig, *, name: str | None = None, cache: FeatureCache | None = None
) -> Iterator[Event]:
    """Train a head on the labelled regions of a project; see `learning.fast_training.fast_train`.

    Parameters
    ----------
    name : str, optional
        Of the run's folder; ``fast-<backbone>-<number>`` when left out.

    Raises
    ------
    CohortError
        Now, if there are no regions.
    ProjectError
        Now, if there is a run of that name, or it cannot be a name.
    """
    with torch_trouble_told():
        from napari_slidecorr.learning.fast_training import fast_train as train

    known = labelled_slides(project)
    runs = project.folder / "runs"

    def begin(run: Path) -> Iterator[Event]:
        return train(known.slides, known.regions, project.classes, config, run=run, groups=known.groups, cache=cache)

    if name is not None:
        return begin(_run_folder(runs, name))
    return in_free_run(free_runs(runs, safe_name(f"fast-{config.backbone}")), begin)


def compare_remedies(
    project: Project, config: FastConfig, *, nets: bool = True, cache: FeatureCache | None = None
) -> Iterator[Event]:
    """Try remedies on held-out slides of a project; see `learning.remedies.compare`.

    Raises
    ------
    CohortError
        Now, if there are no regions; later, if no slide can be held out.
    """
    return _compare(labelled_slides(project), project.classes, config, nets=nets, cache=cache)


def fill_features(
    project: Project, config: FastConfig, slide_ids: Sequence[str] = (), *, cache: FeatureCache | None = None
) -> Iterator[Event]:
    """Compute and keep the features of the tissue of slides, so that training and maps need no pixel any more.

    Parameters
    ----------
    slide_ids : sequence of str, optional
        All slides when empty.

    Returns
    -------
    iterator of Event
        For each slide a `FeaturesDone`. Closing it keeps what was computed; the same call goes on.

    Raises
    ------
    ProjectError
        Now, if there is no such slide.
    SlideError
        Now, if a slide cannot be opened.
    """
    slides = [project.slide(slide_id) for slide_id in slide_ids or [known.id for known in project.cohort]]
    return _fill(slides, config, cache)


def _compare(
    known: LabelledSlides, classes: Sequence[str], config: FastConfig, *, nets: bool, cache: FeatureCache | None
) -> Generator[Event, None, None]:
    from napari_slidecorr.learning.fast_training import make_extractor
    from napari_slidecorr.learning.feature_store import FeatureCache
    from napari_slidecorr.learning.labelled import read_labelled
    from napari_slidecorr.learning.remedies import compare

    yield Event(phase=f"Making {config.backbone}, with weights {config.weights}")
    labelled = yield from read_labelled(
        known.slides,
        known.regions,
        classes,
        make_extractor(config),
        cache=cache or FeatureCache(),
        overlap=config.patches.overlap,
        min_coverage=config.patches.min_coverage,
        with_centres=True,
        batch_size=config.batch_size,
    )
    yield from compare(labelled, config, groups=known.groups, nets=nets, seed=config.head.seed)


def _fill(slides: Sequence[Slide], config: FastConfig, cache: FeatureCache | None) -> Generator[Event, None, None]:
    from napari_slidecorr.learning.extractor import slide_grid
    from napari_slidecorr.learning.fast_training import make_extractor
    from napari_slidecorr.learning.feature_store import FeatureCache
    from napari_slidecorr.learning.features import extract

    yield Event(phase=f"Making {config.backbone}, with weights {config.weights}")
    extractor, kept = make_extractor(config), cache or FeatureCache()
    for slide in slides:
        grid = slide_grid(slide, extractor.geometry, config.patches.overlap)
        wanted = find_tissue(slide).cells(grid)
        yield from extract(slide, extractor, grid, cache=kept, wanted=wanted, batch_size=config.batch_size)


def _run_folder(runs: Path, name: str) -> Path:
    if name != safe_name(name):
        raise ProjectError(f"A run cannot be named {name!r}; {safe_name(name)!r} would do.")
    if (runs / name).exists():
        raise ProjectError(f"{name}: there is a run of that name already; choose another name.")
    return runs / name
