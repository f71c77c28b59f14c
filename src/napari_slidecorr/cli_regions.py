"""Commands about regions: look into a file, bring it into a project, take a slide's regions out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from napari_slidecorr.cli_output import print_result, told_in_one_sentence
from napari_slidecorr.cli_region_states import add_state_commands
from napari_slidecorr.errors import CohortError, RegionsError
from napari_slidecorr.wording import counted

if TYPE_CHECKING:
    from napari_slidecorr.project import Project
    from napari_slidecorr.region_import import ImportPlan
    from napari_slidecorr.region_transform import Transform

regions_app = typer.Typer(no_args_is_help=True, help="Labelled regions of a project's slides.", rich_markup_mode=None)
add_state_commands(regions_app)

Folder = Annotated[Path, typer.Argument(metavar="PROJECT", help="A project's folder.")]
File = Annotated[
    Path, typer.Argument(metavar="FILE", help="GeoJSON, HistomicsUI JSON, or XML of ASAP, ImageScope, Halo or NDPA.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
OneSlide = Annotated[str | None, typer.Option("--slide", help="A slide's id, as `slidecorr info PROJECT` lists them.")]


@regions_app.command("read")
@told_in_one_sentence
def read(
    file: File,
    *,
    slide: Annotated[
        Path | None, typer.Option("--slide", help="The slide's file: says where the regions lie on it; NDPA needs it.")
    ] = None,
    json: Json = False,
) -> None:
    """Say what a file of regions holds, and what is left out and why; nothing is changed."""
    from napari_slidecorr.io import open_slide
    from napari_slidecorr.region_import import plan_import

    plan = plan_import(file, open_slide(slide) if slide else None)
    facts = plan_facts(plan) | {"holes": sum(len(region.polygon.interiors) for region in plan.regions)}
    print_result(facts, "\n".join(plan_lines(plan)), json=json)


@regions_app.command("import")
@told_in_one_sentence
def import_regions(  # noqa: PLR0913 - each is an option of the command
    folder: Folder,
    file: File,
    *,
    slide: OneSlide = None,
    class_map: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="A=B", help="Class A of the file becomes B; `A=` leaves A out; repeat."),
    ] = None,
    swap: Annotated[bool, typer.Option("--swap", help="Swap x and y.")] = False,
    flip_x: Annotated[bool, typer.Option("--flip-x", help="Mirror left and right within the slide.")] = False,
    flip_y: Annotated[bool, typer.Option("--flip-y", help="Mirror top and bottom within the slide.")] = False,
    scale: Annotated[str | None, typer.Option(metavar="N|X,Y", help="Multiply the coordinates.")] = None,
    offset: Annotated[str | None, typer.Option(metavar="X,Y", help="Add level-0 pixels, after scaling.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    json: Json = False,
) -> None:
    """Add the regions of a file to a slide: the one of the same name, unless --slide says which."""
    from napari_slidecorr.project import Project

    project = Project.open(folder)
    slide_id = slide or _slide_named_like(project, file)
    plan = project.plan_import(slide_id, file)
    changed = _transform(swap=swap, flip_x=flip_x, flip_y=flip_y, scale=scale, offset=offset)
    plan = plan.with_transform(changed).with_mapping(_mapping(class_map or []))
    if dry_run:
        plan.apply()
    else:
        project.import_planned(slide_id, plan)
    facts = {"slide": slide_id, "imported": not dry_run, **plan_facts(plan), **_counts(plan)}
    if warning := _warning(plan):
        typer.echo(f"slidecorr: {warning}", err=True)
    print_result(facts, "\n".join([f"{slide_id}: {len(plan.regions)} added", *plan_lines(plan)]), json=json)


@regions_app.command("export")
@told_in_one_sentence
def export(
    folder: Folder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="NAME.geojson (QuPath), or NAME.xml with --format.")],
    *,
    slide: OneSlide = None,
    format: Annotated[
        Literal["geojson", "asap", "aperio"] | None, typer.Option("--format", help="Needed for .xml.")
    ] = None,
    whole_picture: Annotated[
        bool,
        typer.Option(
            "--whole-picture",
            help="Count from the whole picture, as ASAP does, where the slide's file shows only what was scanned.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Write the regions of a slide for QuPath, ASAP or ImageScope."""
    from napari_slidecorr.io import write_regions
    from napari_slidecorr.project import Project
    from napari_slidecorr.region_import import in_whole_picture

    project = Project.open(folder)
    slide_id = slide or _slide_named_like(project, out)
    if format is None and out.suffix.lower() == ".xml":
        raise RegionsError(f"{out.name}: there are two kinds of .xml; add --format asap or --format aperio.")
    regions = project.regions(slide_id)
    if whole_picture:
        regions = in_whole_picture(regions, project.slide(slide_id))
    write_regions(out, regions, colors=project.colors, format=format)
    facts = {"slide": slide_id, "out": out, "regions": len(regions)}
    print_result(facts, f"{slide_id}: {counted(len(regions), 'region')} -> {out}", json=json)


def plan_facts(plan: ImportPlan) -> dict[str, Any]:
    """Give a plan as a script wants it."""
    return {
        "file": plan.path,
        "format": plan.format,
        "regions": len(plan.regions),
        "classes": {
            one.name: {"regions": one.regions, "area_px": one.area_px, "becomes": one.project_class, "new": one.is_new}
            for one in plan.classes
        },
        "skipped": plan.skipped,
        "repaired": plan.repaired,
        "notes": plan.notes,
        "on_tissue": plan.on_tissue,
        "outside": plan.outside,
        "transform": plan.transform.text,
        "suggestions": [
            {"options": options_of(one.transform), "why": one.why, "on_tissue": one.on_tissue, "outside": one.outside}
            for one in plan.suggestions
        ],
    }


def plan_lines(plan: ImportPlan) -> list[str]:
    """Give a plan as a person wants it."""
    lines = [f"{plan.path.name}: {plan.format}, {counted(len(plan.regions), 'region')}"]
    for one in plan.classes:
        becomes = "left out" if one.project_class is None else one.project_class or "(no class)"
        arrow = "" if one.project_class == one.name else f" -> {becomes}"
        lines.append(f"  {one.name or '(no class)'}{arrow}: {counted(one.regions, 'region')}, {one.area_px:,.0f} px")
    told = {**plan.skipped, **plan.repaired, **plan.notes}
    lines += [f"  {reason} ({count}x)" for reason, count in told.items()]
    if plan.outside is not None:
        tissue = "" if plan.on_tissue is None else f"{plan.on_tissue:.0%} of the area on tissue, "
        lines.append(f"  {tissue}{plan.outside:.0%} outside of the slide")
    return lines


def options_of(transform: Transform) -> str:
    """The options of `slidecorr regions import` that stand for a transform."""
    (scale_y, scale_x), (shift_y, shift_x) = transform.scale, transform.offset
    words = [
        "--swap" * transform.swap,
        f"--scale {scale_x:g},{scale_y:g}" if scale_x != scale_y else f"--scale {scale_x:g}" * (scale_x != 1),
        f"--offset {shift_x:g},{shift_y:g}" * (transform.offset != (0, 0)),
        "--flip-x" * transform.flip_x,
        "--flip-y" * transform.flip_y,
    ]
    return " ".join(filter(None, words))


def _counts(plan: ImportPlan) -> dict[str, Any]:
    counts = Counter(region.class_name for region in plan.regions)
    return {"by_class": {name: n for name, n in counts.items() if name}, "unclassed": counts[""]}


def _warning(plan: ImportPlan) -> str:
    if not plan.poor or not (plan.regions or plan.skipped):
        return ""
    better = [f"{options_of(one.transform)} ({one.on_tissue:.0%})" for one in plan.suggestions]
    advice = f"on tissue would be more with: {'; '.join(better)}" if better else "is it another slide's file?"
    share = "" if plan.on_tissue is None else f"{plan.on_tissue:.0%} of the regions' area is on tissue, "
    return f"{plan.path.name}: only {share}{plan.outside or 0:.0%} outside of the slide; {advice.rstrip('.')}"


def _transform(*, swap: bool, flip_x: bool, flip_y: bool, scale: str | None, offset: str | None) -> Transform:
    from napari_slidecorr.region_transform import Transform

    scale_x, scale_y = _pair("--scale", scale, (1.0, 1.0))
    shift_x, shift_y = _pair("--offset", offset, (0.0, 0.0))
    return Transform(swap, flip_x, flip_y, (scale_y, scale_x), (shift_y, shift_x))


def _pair(option: str, text: str | None, default: tuple[float, float]) -> tuple[float, float]:
    if text is None:
        return default
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and option == "--scale":
        numbers *= 2
    if len(numbers) != 2:
        raise RegionsError(f"{option} is {text!r}; give two numbers with a comma, x first.")
    return numbers[0], numbers[1]


def _mapping(pairs: list[str]) -> dict[str, str | None]:
    mapping: dict[str, str | None] = {}
    for pair in pairs:
        old, equals, new = pair.rpartition("=")
        if not equals:
            raise RegionsError(f"--map is {pair!r}; give the file's class, =, and the project's class.")
        mapping[old] = new or None
    return mapping


_ADDED = {f".{word}" for word in ("regions", "annotations", "annotation", "asap", "aperio", "halo", "qupath")}
"""What people put between a slide's name and the suffix of a file of its regions."""


def _slide_named_like(project: Project, file: Path) -> str:
    """Give the id of the one slide whose file has the same name, suffixes left out (``a.svs``, ``a.geojson``)."""
    from napari_slidecorr.io import stem

    whole = file.with_suffix("")
    names = [stem(whole), *([stem(Path(whole.stem))] if whole.suffix.lower() in _ADDED else [])]
    called = [[slide.id for slide in project.cohort if name in (slide.id, stem(Path(slide.path)))] for name in names]
    found = next(filter(None, called), [])
    if len(found) != 1:
        ids = ", ".join(slide.id for slide in project.cohort) or "none yet"
        name = stem(file.with_suffix(""))
        raise CohortError(f"{file.name}: {len(found)} slides are called {name!r}; say which with --slide ({ids}).")
    return found[0]
