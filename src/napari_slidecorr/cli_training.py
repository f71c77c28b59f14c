"""Commands about trainings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from napari_slidecorr.cli_output import print_result, told_in_one_sentence
from napari_slidecorr.runs import RunRecord

Folder = Annotated[Path, typer.Argument(metavar="PROJECT", help="A project's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


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
    score = "-" if math.isnan(auc) else f"{auc:.3f}"
    return record.name, record.state, f"{len(record.curve)}/{planned}", score, f"{record.seconds:.0f} s", record.begun
