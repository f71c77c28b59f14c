"""The command line: parse, call, print. What it does is in `project`, `sample_data` and `io`; nothing is done here alone.

Results go to standard output, progress to standard error. Exit code 0 is success, 2 a mistake in the input (told in one
sentence), 130 Ctrl-C; anything else is a bug and keeps its traceback. Whatever is heavy is imported when a command runs,
so that ``--help`` is quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from napari_slidecorr import cli_compare, cli_diagnose, cli_explain, cli_export, cli_fast, cli_predict, cli_training
from napari_slidecorr.cli_output import print_result, told_in_one_sentence
from napari_slidecorr.cli_regions import regions_app
from napari_slidecorr.errors import ProjectError
from napari_slidecorr.wording import counted

if TYPE_CHECKING:
    from napari_slidecorr.project import Project

app = typer.Typer(
    name="slidecorr",
    help="Label a few regions of whole-slide images, train on them, and predict the next slide.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(regions_app, name="regions")

Folder = Annotated[Path, typer.Argument(metavar="PROJECT", help="A project's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
OneSlide = Annotated[str | None, typer.Option("--slide", help="A slide's id, as `slidecorr info PROJECT` lists them.")]


def main() -> None:
    """Run the command line; the entry point of ``slidecorr``."""
    app()


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it
    if wanted:
        from napari_slidecorr import __version__

        typer.echo(f"slidecorr {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


@app.command()
@told_in_one_sentence
def demo(
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder for slides, models, maps and the summary.")],
    kind: Annotated[
        Literal["default", "tied", "many"],
        typer.Option(help="default: a few slides; tied: stain tied to class in training; many: 56 small slides."),
    ] = "default",
    json: Json = False,
) -> None:
    """Make sample slides, train with and without slide correlation reduction, predict a held-out slide."""
    from napari_slidecorr.cli_progress import shown
    from napari_slidecorr.demo import run_demo
    from napari_slidecorr.events import drain

    with shown(run_demo(out, kind), quiet=json) as events:
        result = drain(events)
    print_result(result.to_json(), result.table(), json=json)


@app.command()
@told_in_one_sentence
def new(
    folder: Folder,
    *,
    class_names: Annotated[list[str] | None, typer.Option("--class", help="A class to label; repeat.")] = None,
    json: Json = False,
) -> None:
    """Make an empty project."""
    from napari_slidecorr.project import Project

    project = Project.create(folder, classes=tuple(class_names or ()))
    text = f"Made {project.folder}. Add slides: slidecorr add {folder} SLIDE..."
    print_result({"project": project.folder, "classes": project.classes}, text, json=json)


@app.command()
@told_in_one_sentence
def add(
    folder: Folder,
    slides: Annotated[list[Path], typer.Argument(metavar="SLIDES...", help="Files or OME-Zarr folders.")],
    *,
    mpp: Annotated[
        float | None, typer.Option(help="Micrometres per level-0 pixel, where the file has none or a wrong one.")
    ] = None,
    group: Annotated[str | None, typer.Option(help="Whose slides they are, usually a patient: kept together.")] = None,
    json: Json = False,
) -> None:
    """Add slides to a project; the files stay where they are."""
    added = _open(folder).add_slides(slides, mpp=mpp, group=group)
    text = "\n".join(f"{slide.id}  group {slide.group}  {slide.path}" for slide in added)
    print_result({"slides": added}, text, json=json)


@app.command("set")
@told_in_one_sentence
def set_slide(
    folder: Folder,
    slide_id: Annotated[
        str, typer.Argument(metavar="SLIDE", help="A slide's id, as `slidecorr info PROJECT` lists it.")
    ],
    *,
    mpp: Annotated[float | None, typer.Option(help="Micrometres per level-0 pixel.")] = None,
    group: Annotated[str | None, typer.Option(help="Whose slide it is, usually a patient.")] = None,
    json: Json = False,
) -> None:
    """Change what a project knows of a slide: its pixel size, or the patient it is kept together with."""
    project = _open(folder)
    if mpp is None and group is None:
        raise ProjectError("Nothing to set; give --mpp, --group or both.")
    if mpp is not None:
        project.set_mpp(slide_id, mpp)
    if group is not None:
        project.set_group(slide_id, group)
    slide = next(slide for slide in project.cohort if slide.id == slide_id)
    size = f"{slide.mpp[0]:g} um/px" if slide.mpp else "pixel size as in the file"
    print_result({"slide": slide}, f"{slide.id}  group {slide.group}  {size}", json=json)


app.command()(cli_training.train)
app.command()(cli_training.runs)
cli_fast.register(app)
app.command()(cli_diagnose.diagnose)
app.command()(cli_explain.explain)
app.command()(cli_compare.compare)


app.command()(cli_predict.predict)
app.command()(cli_export.export)


app.command("export-model")(cli_training.export_model)


@app.command()
@told_in_one_sentence
def info(
    file: Annotated[Path, typer.Argument(metavar="FILE|PROJECT", help="A slide, regions, map, model or project.")],
    *,
    json: Json = False,
) -> None:
    """Say what is in a file or a project."""
    from napari_slidecorr.cli_info import as_text, describe

    facts = describe(file)
    print_result(facts, as_text(facts), json=json)


@app.command()
@told_in_one_sentence
def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A slide.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="NAME.ome.zarr or NAME.ome.tif.")],
    *,
    quality: Annotated[
        int | None, typer.Option(help="1 to 100, .ome.tif only: JPEG of this quality instead of the very pixels.")
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(help="Micrometres per level-0 pixel, where the file has none or a wrong one.")
    ] = None,
    json: Json = False,
) -> None:
    """Write a slide as a pyramid that every viewer pans quickly; the same call goes on where it was stopped."""
    from napari_slidecorr.cli_progress import shown
    from napari_slidecorr.events import drain
    from napari_slidecorr.io import open_slide
    from napari_slidecorr.io.convert import convert as convert_slide
    from napari_slidecorr.io.convert import level_shapes
    from napari_slidecorr.io.tiles import segments_for_conversion

    with segments_for_conversion():
        slide = open_slide(file, mpp=mpp)
    with shown(convert_slide(slide, out, quality=quality), quiet=json) as events:
        drain(events)
    levels = level_shapes(slide.shape)
    result = {"slide": file, "out": out, "levels": levels, "mpp": slide.mpp}
    print_result(result, f"{file} -> {out} ({counted(len(levels), 'level')})", json=json)


def _open(folder: Path) -> Project:
    from napari_slidecorr.project import Project

    return Project.open(folder)
