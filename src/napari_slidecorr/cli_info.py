"""What `slidecorr info` says of a path: first which of our kinds of file it is, then the facts of that kind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from napari_slidecorr.errors import SlideError


def is_project(path: Path) -> bool:
    """Whether a path is a project's folder."""
    return (path / "project.json").is_file()


def describe(path: Path) -> dict[str, Any]:
    """Give the facts of a slide, a file of regions, a map, a model or a project; ``kind`` says which it is.

    Raises
    ------
    SlideCorrError
        If it is none of these, or is damaged.
    """
    if not path.exists():
        raise SlideError(f"{path}: there is no such file or folder.")
    if is_project(path):
        return _project(path)
    if path.name == "model.json" or (path / "model.json").is_file():
        return _model(path)
    if path.suffix.lower() in (".geojson", ".json", ".xml", ".annotations"):
        return _regions(path)
    return _map(path) if _is_map(path) else _slide(path)


def as_text(facts: Mapping[str, Any], indent: str = "") -> str:
    """Lay facts out for a person, one a line, those of a part below it and moved in."""
    lines = []
    for name, value in facts.items():
        label = f"{indent}{name.replace('_', ' ')}:"
        if isinstance(value, Mapping) and value:
            lines += [label, as_text(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            lines += [label, *(f"{indent}- {as_text(part, indent + '  ').lstrip()}" for part in value)]
        else:
            lines.append(f"{label} {_plain(value)}")
    return "\n".join(lines)


def _plain(value: Any) -> str:
    if value is None or value in ("", [], (), {}):
        return "-"
    if isinstance(value, list | tuple):
        return (" x " if all(isinstance(part, int) for part in value) else ", ").join(map(_plain, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _slide(path: Path) -> dict[str, Any]:
    from napari_slidecorr.io import open_slide

    slide = open_slide(path)
    try:
        return {
            "kind": "slide",
            "path": path,
            "id": slide.id,
            "shape": list(slide.shape),
            "mpp": list(slide.mpp) if slide.mpp else None,
            "mpp_source": slide.mpp_source,
            "levels": [
                {"shape": list(one.shape), "downsample": list(one.downsample), "tile": list(one.tile)}
                for one in slide.levels
            ],
            "channels": list(slide.channels),
            "associated": list(slide.associated_names),
            "properties": slide.properties,
        }
    finally:
        slide.close()


def _regions(path: Path) -> dict[str, Any]:
    from napari_slidecorr.io import read_regions

    found = read_regions(path)
    return {
        "kind": "regions",
        "path": path,
        "regions": len(found.regions),
        "classes": _class_facts(found.regions),
        "skipped": found.skipped,
    }


def _class_facts(regions: Any) -> dict[str, Any]:
    names = [*regions.classes, *[""] * bool(regions.of_class(""))]
    return {
        name or "(no class)": {"regions": len(regions.of_class(name)), "area_px": regions.area_px(name)}
        for name in names
    }


def _is_map(path: Path) -> bool:
    """Whether an OME-Zarr folder is one of our maps rather than a slide; only its attributes are looked at."""
    try:
        attributes = json.loads((path / "zarr.json").read_text("utf-8"))["attributes"]
    except (OSError, ValueError, KeyError):
        return False
    return "napari_slidecorr" in attributes


def _map(path: Path) -> dict[str, Any]:
    from napari_slidecorr.io import read_map

    prediction = read_map(path)
    return {
        "kind": "map",
        "path": path,
        "slide": prediction.slide_id,
        "model": prediction.model_id,
        "classes": list(prediction.classes),
        "cells": {"shape": list(prediction.grid.shape), "predicted": int(prediction.predicted.sum())},
        "cell_px": list(prediction.grid.cell_px),
        "stride_px": list(prediction.grid.stride_px),
        "mpp": list(prediction.grid.mpp) if prediction.grid.mpp else None,
        "score": prediction.slide_score() if prediction.predicted.any() else None,
        "area_mm2": prediction.area_mm2(),
    }


def _model(path: Path) -> dict[str, Any]:
    from napari_slidecorr.model_spec import ModelSpec

    spec = ModelSpec.load(path if path.is_file() else path / "model.json")
    return {"kind": "model", "path": path, "id": spec.id, **asdict(spec)}


def _pixel_size(project: Any, slide_id: str) -> dict[str, Any]:
    """The size that is used and where it is from; a slide that cannot be opened says why, and the others go on."""
    try:
        slide = project.slide(slide_id)
    except SlideError as error:
        return {"mpp": None, "mpp_source": "", "problem": str(error)}
    return {"mpp": list(slide.mpp) if slide.mpp else None, "mpp_source": slide.mpp_source}


def _project(path: Path) -> dict[str, Any]:
    from napari_slidecorr.project import Project

    project = Project.open(path)
    return {
        "kind": "project",
        "path": path,
        "classes": list(project.classes),
        "slides": [
            {
                "id": slide.id,
                "path": slide.path,
                "group": slide.group,
                **_pixel_size(project, slide.id),
                "regions": _class_facts(project.regions(slide.id)),
                "maps": [one.name for one in project.maps(slide.id)],
            }
            for slide in project.cohort
        ],
        "runs": [run.name for run in project.runs()],
    }
