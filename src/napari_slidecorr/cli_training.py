"""Commands about trainings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from napari_slidecorr.cli_options import check_same, options_from
from napari_slidecorr.cli_output import print_result, told_in_one_sentence
from napari_slidecorr.config import TrainConfig
from napari_slidecorr.errors import ConfigError, ProjectError
from napari_slidecorr.wording import counted

if TYPE_CHECKING:
    from napari_slidecorr.cross_validation import CrossValidation
    from napari_slidecorr.events import EpochDone
    from napari_slidecorr.project import Project
    from napari_slidecorr.runs import RunRecord

Folder = Annotated[Path, typer.Argument(metavar="PROJECT", help="A project's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@told_in_one_sentence
@options_from(TrainConfig)
def train(
    folder: Folder,
    config: TrainConfig,
    *,
    given: frozenset[str],
    name: Annotated[str | None, typer.Option(help="Name of the run; a new one when left out.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run where it stopped, with its own settings.")
    ] = False,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Train so many times, each slide held out once; a summary over all.")
    ] = None,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="Train once for each slide or patient, without it.")
    ] = False,
    json: Json = False,
) -> None:
    """Train a classifier on the labelled regions of a project.

    ``torchrun --nproc-per-node 2 -m napari_slidecorr train PROJECT`` does the same in two processes.
    """
    from napari_slidecorr.learning.processes import is_started_together, joined
    from napari_slidecorr.project import Project

    if folds is not None or leave_one_out:
        if is_started_together():
            raise ConfigError("Folds are trained one after another by one process; start them without torchrun.")
        if folds is not None and leave_one_out:
            raise ConfigError(f"--folds {folds} and --leave-one-out were both given; choose one.")
        project = Project.open(folder)
        if resume:
            own, name = _stopped_folds(project, name)
            check_same(given, config, own)
            config = own
        _train_folds(project, config, name, folds, resume=resume, json=json)
        return
    with joined(config.device) as rank:
        project = Project.open(folder)
        if resume:
            own = project.stopped_settings(name)
            check_same(given, config, own)
            config = own
        _train_once(project, config, name, resume=resume, json=json, rank=rank)


def _stopped_folds(project: Project, name: str | None) -> tuple[TrainConfig, str]:
    """Give the settings and the name of the folds to go on with."""
    from napari_slidecorr.cross_validation import folds_settings, newest_folds

    runs = project.folder / "runs"
    folder = runs / name if name is not None else newest_folds(runs)
    if folder is None:
        raise ProjectError(f"No folds: nothing to go on with in {runs}; start new folds.")
    return folds_settings(folder)[0], folder.name


def _train_once(
    project: Project, config: TrainConfig, name: str | None, *, resume: bool, json: bool, rank: int
) -> None:
    from napari_slidecorr.cli_progress import shown
    from napari_slidecorr.events import drain

    events = project.train(config, name=name, resume=resume)
    if rank:
        drain(events)  # the first process speaks for all
        return
    with shown(events, quiet=json) as told:
        result = drain(told)
    last, run = result.epochs[-1], result.spec_path.parent
    text = f"Trained {run.name}: {last.scores} after {counted(len(result.epochs), 'epoch')}\n{result.spec_path}"
    facts = {"run": run, "model": result.spec_path, "weights": result.weights_path}
    print_result({**facts, "epochs": [_curve_point(epoch) for epoch in result.epochs]}, text, json=json)


def _train_folds(
    project: Project, config: TrainConfig, name: str | None, folds: int | None, *, resume: bool, json: bool
) -> None:
    from napari_slidecorr.cli_progress import shown
    from napari_slidecorr.cross_validation import cross_validate
    from napari_slidecorr.events import drain

    with shown(cross_validate(project, config, folds=folds, name=name, resume=resume), quiet=json) as events:
        result = drain(events)
    print_result(result, folds_table(result), json=json)


def folds_table(result: CrossValidation) -> str:
    """Give folds and slides as text."""
    lines = ["fold     held-out AUC"]
    lines += [f"{fold}  {_number(auc)}" for fold, auc in result.fold_auc.items()]
    lines += [f"mean {_number(result.mean_auc)}, sd {_number(result.sd_auc)}, pooled {_number(result.pooled_auc)}", ""]
    lines += ["slide, fold, patches, accuracy, mean probability (part labelled) of each class"]
    for one in result.slides:
        classes = ", ".join(f"{name} {p:.2f} ({one.shares[name]:.2f})" for name, p in one.probabilities.items())
        lines.append(f"{one.slide}  {one.fold}  {one.patches}  {_number(one.accuracy)}  {classes}")
    return "\n".join([*lines, str(result.folder)])


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"


def _curve_point(epoch: EpochDone) -> dict[str, Any]:
    names = ("epoch", "loss", "terms", "pairs", "train_auc", "validation_auc", "validation_accuracy", "seconds")
    return {name: getattr(epoch, name) for name in names}


@told_in_one_sentence
def runs(folder: Folder, *, json: Json = False) -> None:
    """List the trainings of a project: finished, stopped, failed and running ones, with their score."""
    from napari_slidecorr.project import Project

    records = Project.open(folder).run_records()
    print_result({"runs": [record.to_json() for record in records]}, as_table(records), json=json)


def as_table(records: list[RunRecord]) -> str:
    """Give runs as text, a line each."""
    if not records:
        return "No training yet."
    rows = [("run", "state", "epochs", "held-out AUC", "duration", "begun"), *map(_row, records)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for number, record in enumerate(records, 1):
        lines[number] += f"\n    {record.sentence}" if record.sentence else ""
    return "\n".join(lines)


def _row(record: RunRecord) -> tuple[str, ...]:
    auc = math.nan if record.held_out_auc is None else record.held_out_auc
    planned = record.config.epochs if record.config else "?"
    score = _number(auc) + (" (leaky)" if record.config and record.config.split == "patches" else "")
    return record.name, record.state, f"{len(record.curve)}/{planned}", score, f"{record.seconds:.0f} s", record.begun


@told_in_one_sentence
def export_model(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or its model.json.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder (wsinfer) or the .onnx file to write.")],
    *,
    kind: Annotated[
        Literal["wsinfer", "onnx"],
        typer.Option(
            "--format", help="wsinfer: a folder that QuPath and WSInfer run; onnx: from pixels to probabilities."
        ),
    ] = "wsinfer",
    json: Json = False,
) -> None:
    """Write a model for other programs."""
    if kind == "onnx":
        from napari_slidecorr.learning.export_onnx import export_onnx

        export_onnx(run, out)
    else:
        from napari_slidecorr.learning.export_wsinfer import export_wsinfer

        export_wsinfer(run, out)
    print_result({"run": run, "out": out}, f"{run} -> {out}", json=json)
