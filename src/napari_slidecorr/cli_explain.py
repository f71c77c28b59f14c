"""The command that shows what on a slide spoke for a class."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from napari_slidecorr.cli_diagnose import project_of
from napari_slidecorr.cli_output import print_result, told_in_one_sentence
from napari_slidecorr.errors import ConfigError, ProjectError
from napari_slidecorr.geometry import Box

if TYPE_CHECKING:
    from napari_slidecorr.slide import Slide


@told_in_one_sentence
def explain(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    slide: Annotated[str, typer.Argument(metavar="SLIDE", help="Id of a slide of the run's project, or a slide file.")],
    *,
    box: Annotated[str, typer.Option("--box", metavar="Y0,X0,Y1,X1", help="The place, in level-0 pixels.")],
    out: Annotated[Path, typer.Option("--out", help="The picture to write, a .png.")],
    class_name: Annotated[
        str | None, typer.Option("--class", help="For which class; the most probable one by default.")
    ] = None,
    device: Annotated[Literal["auto", "cuda", "mps", "cpu"], typer.Option(help="Where the network runs.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Show which pixels of a patch, or of all patches of a box, spoke for a class (Grad-CAM)."""
    from napari_slidecorr.cli_progress import shown
    from napari_slidecorr.events import drain
    from napari_slidecorr.io.atomic import atomic_write_bytes
    from napari_slidecorr.learning.attribution import explain as explain_place

    place = parse_box(box)
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out is {out}; the picture is a PNG, so let its name end in .png.")
    opened = _slide(run, slide)
    with shown(explain_place(opened, run, place, class_name=class_name, device=device), quiet=json) as events:
        found = drain(events)
    atomic_write_bytes(out, found.picture(opened))
    print_result({**found.to_json(), "out": out}, f"{found.sentence()}\n{out}", json=json)


def parse_box(text: str) -> Box:
    """Read ``y0,x0,y1,x1``.

    Raises
    ------
    ConfigError
        If it is not four whole numbers, or a box without an area.
    """
    try:
        y0, x0, y1, x1 = (int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(
            f"--box is {text!r}; give four whole numbers of level-0 pixels, Y0,X0,Y1,X1: 0,0,512,512."
        ) from error
    if y1 <= y0 or x1 <= x0:
        raise ConfigError(f"--box is {text!r}; Y1 must be larger than Y0, and X1 than X0.")
    return Box(y0, x0, y1, x1)


def _slide(run: Path, name: str) -> Slide:
    """Give a slide of the run's project by its id, else open a file."""
    from napari_slidecorr.io import open_slide
    from napari_slidecorr.project import Project

    try:
        project = Project.open(project_of(run))
    except ProjectError:
        if not Path(name).exists():
            raise
        return open_slide(Path(name))
    known = name in {slide.id for slide in project.cohort}
    return project.slide(name) if known or not Path(name).exists() else open_slide(Path(name))
