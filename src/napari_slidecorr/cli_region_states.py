"""The commands of earlier states of regions: list them, and bring one back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_slidecorr.cli_output import print_result, told_in_one_sentence

Folder = Annotated[Path, typer.Argument(metavar="PROJECT", help="A project's folder.")]
SlideId = Annotated[str, typer.Option("--slide", help="A slide's id, as `slidecorr info PROJECT` lists them.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def add_state_commands(app: typer.Typer) -> None:
    """Let a group of commands have ``states`` and ``restore``."""
    app.command("states")(list_states)
    app.command("restore")(restore_state)


@told_in_one_sentence
def list_states(folder: Folder, *, slide: SlideId, json: Json = False) -> None:
    """List the last 50 saved states of a slide's regions, the newest first."""
    from napari_slidecorr.project import Project

    states = Project.open(folder).region_states(slide)
    told = [
        {
            "number": number,
            "name": state.name,
            "time": state.time.isoformat(),
            "regions": state.regions,
            "counts": state.counts,
            "change": state.change,
            "damaged": state.damaged,
        }
        for number, state in enumerate(states, 1)
    ]
    lines = [
        f"{number:2}  {state.name}  {state.time.astimezone():%Y-%m-%d %H:%M:%S}  {state.summary}"
        for number, state in enumerate(states, 1)
    ]
    print_result({"slide": slide, "states": told}, "\n".join(lines) or f"{slide}: nothing was saved yet", json=json)


@told_in_one_sentence
def restore_state(
    folder: Folder,
    wanted: Annotated[str, typer.Argument(metavar="STATE", help="Its name, or its number: 1 is the newest.")],
    *,
    slide: SlideId,
    json: Json = False,
) -> None:
    """Bring a state of a slide's regions back; what it replaces stays a state, so that this can be undone."""
    from napari_slidecorr.project import Project
    from napari_slidecorr.region_store import find_state

    project = Project.open(folder)
    state = find_state(project.region_states(slide), wanted)
    regions = project.restore_regions(slide, state)
    result = {"slide": slide, "state": state.name, "regions": len(regions)}
    text = f"{slide}: back to {state.time.astimezone():%Y-%m-%d %H:%M:%S}, {state.summary}"
    print_result(result, text, json=json)
