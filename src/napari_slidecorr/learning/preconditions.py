"""What a training needs before it begins, and whether a folder holds the one that is to go on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from napari_slidecorr.config import TrainConfig
from napari_slidecorr.errors import CohortError, TrainingError
from napari_slidecorr.patches import PatchTable, patches_sha256
from napari_slidecorr.runs import CONFIG_NAME
from napari_slidecorr.settings import from_json, to_json
from napari_slidecorr.slide import Slide


def check_tables(
    train_table: PatchTable,
    validation_table: PatchTable,
    slides: Mapping[str, Slide],
    config: TrainConfig,
    *,
    any_classes: bool = False,
) -> None:
    """Make sure that the patches allow a training.

    Raises
    ------
    CohortError
        If a slide stands on both sides or is missing, a class has no patch on one side, or batches would be useless.
    SlideError
        If a slide can only be viewed.
    """
    if train_table.classes != validation_table.classes or train_table.geometry != validation_table.geometry:
        raise CohortError("Training and validation patches differ in classes or geometry; cut both in one go.")
    shared = sorted(set(train_table.slides) & set(validation_table.slides))
    if shared and config.split == "slides":
        raise CohortError(f"Slide {shared[0]} stands on both sides of the split; hold out whole slides.")
    absent = [slide for table in (train_table, validation_table) for slide in table.slides if slide not in slides]
    if absent:
        raise CohortError(f"Slide {absent[0]} has patches, and was not handed in.")
    for name in (*train_table.slides, *validation_table.slides):
        slides[name].check_brightfield()
    _check_classes(train_table, "training")
    if config.validation_fraction > 0 and not any_classes:
        _check_classes(validation_table, "held-out")
    _check_batches(train_table, config)


def _check_classes(table: PatchTable, side: str) -> None:
    counts = table.counts().sum(axis=0)
    for name, count in zip(table.classes, counts, strict=True):
        if not count:
            raise CohortError(
                f"Class {name!r} has no patch on the {side} slides ({', '.join(table.slides) or 'none'}). Label it on "
                "more slides, draw its regions larger, or choose another seed for the split."
            )
    if len(table.classes) < 2:
        raise CohortError("There is one class only and a classifier needs two; label another.")


def _check_batches(table: PatchTable, config: TrainConfig) -> None:
    per_slide = table.counts().sum(axis=1)
    if config.objective.kind in ("scr", "sce") and per_slide.max() < 2:
        raise CohortError(
            f"No training slide has two patches, and {config.objective.kind.upper()} compares patches of one slide. "
            "Draw larger regions, or choose cross-entropy."
        )
    if min(config.slides_per_batch, int(np.count_nonzero(per_slide))) * config.patches_per_slide < 2:
        raise CohortError("One training slide and one patch a slide make batches of 1; raise patches_per_slide.")


def check_run(
    run: Path, train_table: PatchTable, validation_table: PatchTable, config: TrainConfig, *, resume: bool
) -> None:
    """Make sure that a folder holds no training, or with ``resume`` that it holds this very one.

    Raises
    ------
    TrainingError
        If not; names what differs.
    """
    path = run / CONFIG_NAME
    if not path.is_file():
        return
    if not resume:
        raise TrainingError(f"{run}: holds a training already; resume it or choose another name.")
    try:
        found = json.loads(path.read_text("utf-8"))
        found["settings"] = to_json(from_json(TrainConfig, found["settings"]))  # with those that are newer than the run
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path}: cannot be read ({error}); start a new run.") from error
    told = describe_run(train_table, validation_table, config)
    for key, value in told.items():
        if found.get(key) != value:
            raise TrainingError(
                f"{run}: was begun with other {key.replace('_', ' ')}{_difference(found.get(key), value)}; resume it "
                "with the same, or start a new run."
            )


def _difference(found: Any, wanted: Any) -> str:
    if not isinstance(found, dict) or not isinstance(wanted, dict):
        return ""
    key = next(key for key in (*wanted, *found) if found.get(key) != wanted.get(key))
    return f" ({key}: {found.get(key)} then, {wanted.get(key)} now)"


def describe_run(train_table: PatchTable, validation_table: PatchTable, config: TrainConfig) -> dict[str, Any]:
    """Say what a run is of, ready for JSON: settings, split, classes, and a hash of the patches."""
    return {
        "settings": to_json(config),
        "split": {"train": list(train_table.slides), "validation": list(validation_table.slides)},
        "classes": list(train_table.classes),
        "patches_sha256": patches_sha256(train_table, validation_table),
    }
