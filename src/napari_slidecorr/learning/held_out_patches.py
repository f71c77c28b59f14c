"""Labelled patches through a finished model."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.config import TrainConfig
from napari_slidecorr.events import Event
from napari_slidecorr.learning.epochs import Data, validate
from napari_slidecorr.learning.models import choose_device, load_model
from napari_slidecorr.learning.staining import make_stain_step
from napari_slidecorr.patches import PatchTable
from napari_slidecorr.slide import Slide


def predict_patches(
    run: Path, table: PatchTable, slides: Mapping[str, Slide], config: TrainConfig
) -> Generator[Event, None, NDArray[np.float32]]:
    """Give the probabilities of patches, shape (P, K), by the model of a run.

    Parameters
    ----------
    table : PatchTable
        Of the model's classes.
    config : TrainConfig
        For the size of batches and the device.
    """
    model, spec = load_model(run)
    model.to(choose_device(config.device))
    stain = yield from make_stain_step([slides[slide] for slide in table.slides], spec.stain)
    data = Data(table, table, slides, stain)
    return (yield from validate(model, data, config, "Predicting held-out patches"))
