"""The head fitted on the frozen network before the network learns, so that a training starts where a fast one ends.

Only training slides are looked at for the fit; held-out ones tell how good the start is.

References
----------
Kumar et al., Fine-tuning can distort pretrained features and underperform out-of-distribution, ICLR 2022.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_slidecorr.config import TrainConfig
from napari_slidecorr.errors import CohortError
from napari_slidecorr.events import Event, Notice
from napari_slidecorr.fast_config import HeadConfig
from napari_slidecorr.learning.epochs import Data
from napari_slidecorr.learning.extractor import Extractor
from napari_slidecorr.learning.feature_store import FeatureCache
from napari_slidecorr.learning.features import TableFeaturesDone, table_features
from napari_slidecorr.learning.heads import DEFAULT_PENALTY, Head, LinearHead, fit_head
from napari_slidecorr.learning.held_out import choose_penalty
from napari_slidecorr.learning.models import PatchClassifier
from napari_slidecorr.metrics import patch_auc
from napari_slidecorr.patches import PatchTable
from napari_slidecorr.stain import Stain


def fit_first_head(
    model: PatchClassifier, data: Data, config: TrainConfig, stain: Stain | None
) -> Generator[Event, None, LinearHead]:
    """Fit a linear head on features of the training patches; the network is not changed.

    Yields
    ------
    Event
        Progress, and a `Notice` with the patch AUC that the start has on held-out slides.

    Raises
    ------
    SlideError, ModelError
        As `features.table_features`.
    """
    extractor = Extractor.of(model, data.train.geometry, stain, device=config.device)
    features = yield from _features(data.train, data, extractor)
    label, slide_index = data.train.label.astype(np.int64), data.train.slide_index
    classes = len(data.train.classes)
    yield Event(phase="Fitting the head")
    try:
        penalty, _ = choose_penalty(features, label, slide_index, classes=classes, seed=config.seed)
    except CohortError:  # no training slide can be left out
        penalty = DEFAULT_PENALTY
    head = fit_head(features, label, slide_index, HeadConfig(penalty=penalty, seed=config.seed), classes=classes)
    if not isinstance(head, LinearHead):
        raise TypeError(type(head))
    told = yield from _told(head, data, extractor)
    yield Notice(phase="Preparing", message=f"The head was fitted on the frozen network{told}; now the network learns.")
    return head


def put_first_head(model: PatchClassifier, head: LinearHead) -> None:
    """Give the head its weights, in place, so that an optimizer goes on with the same tensors."""
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(head.weight))
        model.head.bias.copy_(torch.from_numpy(head.bias))


def _told(head: Head, data: Data, extractor: Extractor) -> Generator[Event, None, str]:
    if not len(data.validation):
        return ""
    features = yield from _features(data.validation, data, extractor)
    auc = patch_auc(data.validation.label.astype(np.int64), head.predict(features))
    return f", with an AUC of {auc:.3f} on held-out slides" if np.isfinite(auc) else ""


def _features(table: PatchTable, data: Data, extractor: Extractor) -> Generator[Event, None, NDArray[np.float16]]:
    events: Any = table_features(table, data.slides, extractor, cache=FeatureCache())
    with closing(events):
        for event in events:
            if isinstance(event, TableFeaturesDone):
                return np.asarray(event.result)
            yield event
    raise CohortError("The features were not computed to the end; start again.")
