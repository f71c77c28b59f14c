"""What a person should know before a training of either way, however slides are held out."""

from __future__ import annotations

import numpy as np

from napari_slidecorr._napari.patch_counts import doubts
from napari_slidecorr._napari.training_form import Rounds
from napari_slidecorr.config import CrossEntropyConfig, TrainConfig
from napari_slidecorr.cross_validation import FEW_SLIDES
from napari_slidecorr.fast_config import FastConfig
from napari_slidecorr.patches import PatchTable
from napari_slidecorr.training_plan import LEAKY

FEW_GROUPS = 8
"""Below this many slides or patients the score of a fast training means little."""

MANY_TRAININGS = 20


def all_doubts(
    table: PatchTable,
    config: TrainConfig | FastConfig,
    groups: dict[str, str],
    *,
    rounds: Rounds = "once",
    folds: int = 5,
) -> list[str]:
    """Say what is doubtful, a sentence each.

    Parameters
    ----------
    table : PatchTable
        What would be trained on.
    groups : dict of slide id to group
        Held-out slides are taken by group.
    """
    labelled = len({groups[table.slides[index]] for index in np.unique(table.slide_index)})
    if isinstance(config, FastConfig):
        return [*doubts(table, TrainConfig(objective=CrossEntropyConfig()), groups), *_few_for_fast(labelled)]
    told = doubts(table, config, groups)
    if config.split == "patches":
        told.append(LEAKY)
    return told + _about_rounds(labelled, config, rounds, folds)


def _few_for_fast(labelled: int) -> list[str]:
    if not 0 < labelled < FEW_GROUPS:
        return []
    return [
        f"{labelled} labelled slides or patients: the held-out score can be far off, also below chance; label {FEW_GROUPS} or more."
    ]


def _about_rounds(labelled: int, config: TrainConfig, rounds: Rounds, folds: int) -> list[str]:
    if rounds == "once":
        return []
    told = []
    if config.split == "patches" or config.validation_fraction == 0 or config.continue_from:
        told.append(
            "Folds hold out whole slides themselves: leave Split at slides, Held out above 0 and Continue from empty."
        )
    trainings = labelled if rounds == "each" else folds
    if labelled < FEW_SLIDES:
        one = (
            "left out one at a time, their AUC says next to nothing"
            if rounds == "each"
            else "how folds fall moves the AUC"
        )
        told.append(f"{labelled} slides or patients are few: {one}; {FEW_SLIDES} or more are wanted.")
    if trainings > MANY_TRAININGS:
        told.append(f"This is {trainings} trainings one after another.")
    return told
