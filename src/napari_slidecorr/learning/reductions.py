"""Smaller batches after memory ran out: half as many patches of each slide, as many slides.

Which epoch began with how many is part of the run, so that a training that goes on does so with the same batches.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from napari_slidecorr.config import TrainConfig
from napari_slidecorr.errors import TrainingError
from napari_slidecorr.runs import CONFIG_NAME

_COMPARE_PATCHES = ("scr", "sce", "coral")


def patches_per_slide(config: TrainConfig, reductions: Mapping[int, int], epoch: int) -> int:
    """Give n of an epoch: that of the last reduction at or before it, else the setting."""
    earlier = [begun for begun in reductions if begun <= epoch]
    return reductions[max(earlier)] if earlier else config.patches_per_slide


def halved(n: int, config: TrainConfig, ranks: int, error: BaseException) -> int:
    """Give half as many patches of each slide.

    Raises
    ------
    TrainingError
        If that is too few for the objective, or several processes train: they would have to fail at the same moment.
    """
    least = 2 if config.objective.kind in _COMPARE_PATCHES else 1
    batch = f"{config.slides_per_batch} slides x {n} patches"
    if ranks > 1:
        raise TrainingError(
            f"Memory ran out with {batch} in {ranks} processes; lower patches_per_slide, or switch gradient_checkpointing on."
        ) from error
    if n // 2 < least:
        raise TrainingError(
            f"Memory ran out even with {batch}; lower slides_per_batch or the patch size, or switch gradient_checkpointing "
            "on."
        ) from error
    return n // 2


def read_reductions(run: Path) -> dict[int, int]:
    """Read which epochs of a run began with fewer patches; none if its ``config.json`` does not say.

    Raises
    ------
    TrainingError
        If what it says is no list of reductions.
    """
    path = run / CONFIG_NAME
    if not path.is_file():
        return {}
    try:
        told = json.loads(path.read_text("utf-8")).get("reductions", [])
        return {int(one["epoch"]): int(one["patches_per_slide"]) for one in told}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"{path}: cannot be read ({error}); start a new run.") from error
