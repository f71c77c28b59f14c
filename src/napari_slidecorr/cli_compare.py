"""The command that trains objectives side by side."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from napari_slidecorr.cli_options import options_from
from napari_slidecorr.cli_output import print_result, told_in_one_sentence
from napari_slidecorr.config import DEFAULT_VARIANTS, TrainConfig


@told_in_one_sentence
@options_from(TrainConfig)
def compare(
    folder: Annotated[Path, typer.Argument(metavar="PROJECT", help="A project's folder.")],
    config: TrainConfig,
    *,
    variants: Annotated[
        str,
        typer.Option(
            help="What to compare, with commas: baseline, scr, sce, sda, coral, groupdro, each also with +cj (colour jitter), "
            "+sn (stain normalization) or +leaky (random patches held out, to see what that promises)."
        ),
    ] = ",".join(DEFAULT_VARIANTS),
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each; every seed draws its own split and start.")] = 3,
    same_split: Annotated[bool, typer.Option("--same-split", help="Hold the same slides out for every seed.")] = False,
    name: Annotated[str | None, typer.Option(help="Name of the comparison; a new one when left out.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a comparison where it stopped, with its own settings.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Train objectives side by side: the same slides held out, the same budget, paired differences with their error."""
    from napari_slidecorr.cli_progress import shown
    from napari_slidecorr.comparison import compare as run_comparison
    from napari_slidecorr.comparison import comparison_settings, newest_comparison
    from napari_slidecorr.comparison_table import table_text
    from napari_slidecorr.events import drain
    from napari_slidecorr.project import Project

    project = Project.open(folder)
    chosen = tuple(part.strip() for part in variants.split(",") if part.strip())
    if resume and (begun := project.folder / "runs" / name if name else newest_comparison(project.folder / "runs")):
        config, chosen, seeds, same_split = comparison_settings(begun)
        name = begun.name
    events = run_comparison(project, config, chosen, seeds=seeds, same_split=same_split, name=name, resume=resume)
    with shown(events, quiet=json) as opened:
        result = drain(opened)
    print_result(asdict(result), f"{table_text(result)}\n{result.folder}", json=json)
