"""``slidecorr export``: a map, or all that a project has for QuPath, to files for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_slidecorr.cli_output import print_result, told_in_one_sentence
from napari_slidecorr.errors import ConfigError, MapError
from napari_slidecorr.wording import counted

if TYPE_CHECKING:
    from napari_slidecorr.decision import Threshold
    from napari_slidecorr.project import Project


@told_in_one_sentence
def export(
    source: Annotated[Path, typer.Argument(metavar="PROJECT|MAP", help="A project, or a map's .ome.zarr folder.")],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="NAME.ome.zarr, .ome.tif or .float32.ome.tif (probabilities), .geojson or .tiles.geojson (QuPath), "
            ".csv or .parquet (a line a patch) or .png (a figure); with --qupath a folder.",
        ),
    ],
    *,
    slide: Annotated[
        str | None, typer.Option("--slide", help="A slide's id, as `slidecorr info PROJECT` lists them.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Patches whose best class has a lower probability get no class; left out: the model's own bounds, where it "
            "has them.",
        ),
    ] = None,
    smooth_um: Annotated[
        float, typer.Option(min=0, help="How far outlines (.geojson) may be moved to be smooth, in micrometres.")
    ] = 0.0,
    qupath: Annotated[
        bool, typer.Option("--qupath", help="Write a folder for QuPath: classes, tiles and regions of all slides.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Write a prediction map to a file for other programs; of a project, the newest map of a slide."""
    from napari_slidecorr.cli_info import is_project
    from napari_slidecorr.io import read_map, write_map
    from napari_slidecorr.project import Project

    if not qupath:
        _check_options(out, threshold, smooth_um)
    project = Project.open(source) if is_project(source) else None
    if qupath:
        if slide:
            raise ConfigError(f"--slide {slide}: --qupath writes all slides of a project; leave one of the two out.")
        _qupath(project or source, out, threshold, smooth_um, json=json)
        return
    if project is not None:
        path = _newest_map(project, slide)
        project.export(path, out, threshold=threshold, smooth_um=smooth_um)
    else:
        path = source
        write_map(out, read_map(source), threshold=threshold, smooth_um=smooth_um)
    print_result({"map": path, "out": out}, f"{path} -> {out}", json=json)


def _check_options(out: Path, threshold: Threshold, smooth_um: float) -> None:
    """Refuse what a file of that kind could not heed."""
    name = out.name.lower()
    if threshold is not None and name.endswith((".ome.tif", ".ome.zarr")):
        raise ConfigError(f"--threshold {threshold:g}: {out.name} keeps all probabilities; leave it out.")
    if smooth_um and (not name.endswith(".geojson") or name.endswith(".tiles.geojson")):
        raise ConfigError(f"--smooth-um {smooth_um:g}: {out.name} has no outlines of classes; leave it out.")


def _qupath(source: Project | Path, out: Path, threshold: Threshold, smooth_um: float, *, json: bool) -> None:
    from napari_slidecorr.cli_progress import shown
    from napari_slidecorr.events import drain
    from napari_slidecorr.qupath_folder import README, export_qupath

    with shown(export_qupath(source, out, threshold=threshold, smooth_um=smooth_um), quiet=json) as events:
        slides = drain(events)
    print_result(
        {"slides": slides, "out": out}, f"{counted(len(slides), 'slide')} -> {out}; see {out / README}", json=json
    )


def _newest_map(project: Project, slide: str | None) -> Path:
    slide_ids = [slide] if slide else [one.id for one in project.cohort if project.maps(one.id)]
    if len(slide_ids) > 1:
        raise MapError(f"{len(slide_ids)} slides have maps; say which with --slide ({', '.join(slide_ids)}).")
    maps = project.maps(slide_ids[0]) if slide_ids else []
    if not maps:
        raise MapError(f"{project.folder}: there is no map to export yet; make one with slidecorr predict.")
    return maps[-1]
