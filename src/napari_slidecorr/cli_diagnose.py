"""The command that asks whether a model learnt the tissue or the slide."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from napari_slidecorr.cli_output import print_result, told_in_one_sentence
from napari_slidecorr.errors import ProjectError


@told_in_one_sentence
def diagnose(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Folders of finished runs of one project, or a project for its newest run."),
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the report; `diagnosis` in the first run's folder by default."),
    ] = None,
    device: Annotated[
        Literal["auto", "cuda", "mps", "cpu"], typer.Option(help="Where features are computed.")
    ] = "auto",
    per_slide: Annotated[int, typer.Option(min=20, help="At most so many patches of each slide.")] = 200,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Say whether a model learnt the tissue or the slide, and write a report: one page, pictures and JSON."""
    from napari_slidecorr.cli_progress import shown
    from napari_slidecorr.diagnosis_report import as_text, check_folder, write_report
    from napari_slidecorr.diagnostics.diagnosis import summary
    from napari_slidecorr.events import drain
    from napari_slidecorr.project import Project
    from napari_slidecorr.run_diagnosis import diagnose_run, run_named
    from napari_slidecorr.runs import read_run

    home = project_of(runs[0])
    project = Project.open(home)
    folders = [run_named(project, None if run.resolve() == home.resolve() else run) for run in runs]
    for folder in folders:
        if project_of(folder).resolve() != home.resolve():
            raise ProjectError(f"{folder}: it is a run of another project than {runs[0]}; diagnose them one by one.")
    target = out or folders[0] / "diagnosis"
    check_folder(target)
    found = []
    for folder in folders:
        with shown(diagnose_run(project, folder, device=device, per_slide=per_slide), quiet=json) as events:
            found.append(drain(events))
    curves = {folder.name: read_run(folder).curve for folder in folders}
    page = write_report(target, found, curves)
    told = [summary(one) for one in found]
    result = {**told[0], "report": page} if len(told) == 1 else {"runs": told, "report": page}
    print_result(result, "\n\n".join([*(as_text(one) for one in found), str(page)]), json=json)


def project_of(run: Path) -> Path:
    """Give the project's folder that a run, or anything else, lies in.

    Raises
    ------
    ProjectError
        If it lies in none.
    """
    for folder in (run.absolute(), *run.absolute().parents):
        if (folder / "project.json").is_file():
            return folder
    raise ProjectError(f"{run}: it lies in no project; give the folder of a run, PROJECT/runs/NAME.")
