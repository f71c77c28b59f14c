"""``slidecorr predict``: slides of a project, or files with a model at hand, here or on the workers of a cluster."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_slidecorr.cli_options import options_from
from napari_slidecorr.cli_output import MISTAKE, print_result, told_in_one_sentence
from napari_slidecorr.config import PredictConfig
from napari_slidecorr.errors import ConfigError, ProjectError

if TYPE_CHECKING:
    from napari_slidecorr.cohort_prediction import SlideOutcome
    from napari_slidecorr.project import Project

REPORT = "report.csv"


@told_in_one_sentence
@options_from(PredictConfig)
def predict(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="PROJECT|SLIDES...", help="A project's folder; or slides, with --run and --out."),
    ],
    config: PredictConfig,
    *,
    slide: Annotated[list[str] | None, typer.Option(help="A slide's id; repeat. All slides when left out.")] = None,
    run: Annotated[
        str | None,
        typer.Option(help="Name of the run to use, the latest when left out; for slides without a project its folder."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the maps of slides without a project; it becomes a project.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Predict in so many processes; needs dask.distributed.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Predict on the workers of this dask scheduler.")
    ] = None,
    report: Annotated[Path | None, typer.Option(metavar="CSV", help="Also write what became of each slide.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Predict slides; a prediction that was stopped goes on where it was, and maps that are complete are left.

    A slide that fails is told, and the others go on; the exit code is 2 then. Slides named with --slide must all be fit,
    or nothing begins (unless there are --workers or a --scheduler).
    """
    from napari_slidecorr.cli_info import is_project

    if workers and scheduler:
        raise ConfigError("--workers starts processes here and --scheduler uses those that run elsewhere; choose one.")
    if out is not None and is_project(sources[0]):
        raise ConfigError(f"--out {out} is for slides without a project; {sources[0]} keeps its maps in itself.")
    cluster = workers or scheduler
    refused: list[SlideOutcome] = []
    if out is None and len(sources) == 1 and (is_project(sources[0]) or sources[0].is_dir() or run is None):
        project = _open(sources[0])
        chosen, ids = _run_named(project, run), slide
    else:
        project, chosen, ids, refused = _loose(sources, run, out, slide)
        report = report or project.folder / REPORT
    if slide and cluster is None:
        _predict_strictly(project, slide, chosen, config, report, json=json)
        return
    _predict_all(cluster, project, ids, chosen, config, refused, report, json=json)


def _predict_all(
    cluster: Any,
    project: Project,
    ids: Sequence[str] | None,
    run: Path | None,
    config: PredictConfig,
    refused: Sequence[SlideOutcome],
    report: Path | None,
    *,
    json: bool,
) -> None:
    """Predict, print what became of each slide, and end with an exit code."""
    from napari_slidecorr.cli_progress import shown
    from napari_slidecorr.cluster import predict_cohort_on
    from napari_slidecorr.cohort_prediction import predict_cohort
    from napari_slidecorr.cohort_report import as_table, in_total
    from napari_slidecorr.events import drain

    start = time.monotonic()
    if cluster is None:
        work = predict_cohort(project, ids, run, config)
    else:
        work = predict_cohort_on(cluster, project, ids, run, config)
    with shown(work, quiet=json, mixed=cluster is not None) as events:
        outcomes = [*drain(events), *refused]
    _tell(outcomes, report, [as_table(outcomes), in_total(outcomes, time.monotonic() - start)], json=json)
    if any(one.state == "failed" for one in outcomes):
        raise typer.Exit(MISTAKE)


def _predict_strictly(
    project: Project, slides: Sequence[str], run: Path | None, config: PredictConfig, report: Path | None, *, json: bool
) -> None:
    """Predict the slides that were named, all or, if one is unfit, none."""
    from napari_slidecorr.cli_progress import shown
    from napari_slidecorr.cohort_prediction import outcomes_of
    from napari_slidecorr.cohort_report import percentages

    with shown(project.predict(slides, run, config), quiet=json) as events:
        outcomes = outcomes_of(events)
    _tell(outcomes, report, [f"{one.slide}  {percentages(one.score)}  {one.map}" for one in outcomes], json=json)


def _tell(outcomes: Sequence[SlideOutcome], report: Path | None, text: list[str], *, json: bool) -> None:
    """Write the report, if one is wanted, and print."""
    from napari_slidecorr.cohort_report import facts, write_csv

    if report:
        write_csv(report, outcomes)
        text = [*text, str(report)]
    maps = [_map_of(one) for one in outcomes if one.state != "failed"]
    print_result({"maps": maps, "slides": list(map(facts, outcomes)), "report": report}, "\n".join(text), json=json)


def _loose(
    sources: Sequence[Path], run: str | None, out: Path | None, slide: Sequence[str] | None
) -> tuple[Project, Path, list[str], list[SlideOutcome]]:
    """Make a project of slides that belong to none."""
    from napari_slidecorr.loose_slides import find_slides, project_of
    from napari_slidecorr.model_spec import ModelSpec
    from napari_slidecorr.project import MODEL_FILE

    if run is None or out is None:
        raise ConfigError(f"{sources[0]}: slides without a project need --run (a run's folder) and --out (a folder).")
    if slide:
        raise ConfigError("--slide chooses among the slides of a project; here the files themselves say which.")
    folder = Path(run).parent if Path(run).name == MODEL_FILE else Path(run)
    spec = ModelSpec.load(folder / MODEL_FILE)
    project, ids, refused = project_of(find_slides(sources), out, spec)
    return project, folder.absolute(), ids, refused


def _open(folder: Path) -> Project:
    from napari_slidecorr.project import Project

    return Project.open(folder)


def _run_named(project: Project, name: str | None) -> Path | None:
    """Give the folder of a finished run; None stands for the latest."""
    runs = {run.name: run for run in project.runs()}
    if name is None or name in runs:
        return runs.get(name) if name else None
    raise ProjectError(
        f"{project.folder}: there is no finished run {name!r}; there are {', '.join(runs) or 'none yet'}."
    )


def _map_of(outcome: SlideOutcome) -> dict[str, Any]:
    return {name: getattr(outcome, name) for name in ("slide", "map", "model", "score", "area_mm2", "cells")}
