"""One way to train, fitted on some patients and judged on others."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from patient_sets import PatientSet, Rows

from napari_slidecorr import CrossEntropyConfig, ScrConfig, TrainConfig, drain
from napari_slidecorr.diagnostics.feature_table import FeatureTable
from napari_slidecorr.diagnostics.slide_probe import slide_probe
from napari_slidecorr.fast_config import FastConfig, HeadConfig
from napari_slidecorr.learning import training
from napari_slidecorr.learning.extractor import Extractor
from napari_slidecorr.learning.feature_store import FeatureCache
from napari_slidecorr.learning.features import table_features
from napari_slidecorr.learning.heads import LinearHead, NetHead, fit_head
from napari_slidecorr.learning.held_out import choose_penalty
from napari_slidecorr.learning.models import load_model
from napari_slidecorr.learning.nuisance import check_several_classes, nuisance_directions, without_directions
from napari_slidecorr.learning.remedy_table import Remedy, mean_of
from napari_slidecorr.metrics import patch_auc

PLAIN = "linear, cross-entropy"
TUNED = "last stage of the network, cross-entropy"
_OBJECTIVES = {
    "cross-entropy": CrossEntropyConfig(),
    "SCR 0.2": ScrConfig(),
    "SCR mean 30, batch-centred": ScrConfig(beta=30.0, reduction="mean", normalizer="centred"),
}
ARMS = (
    Remedy(PLAIN, HeadConfig()),
    Remedy("linear, centring 0.5", HeadConfig(), centring=0.5),
    Remedy("linear, projection 4", HeadConfig(), projection=4),
    *(
        Remedy(f"{net}, {name}", HeadConfig(net=net, objective=objective))  # type: ignore[arg-type]
        for net in ("mlp", "adapter")
        for name, objective in _OBJECTIVES.items()
    ),
)
"""Everything on cached features; the first is the row to beat."""


@dataclass(frozen=True)
class Score:
    """How an arm did on patients that it has not seen.

    Attributes
    ----------
    pooled, inside : float
        Patch AUC over all held-out patches, and its mean inside a slide (NaN where slides have one class).
    probe : float
        Balanced accuracy of naming the held-out slide of a patch from what the last layer sees.
    probe_chance : float
    seconds : float
        Of a processor, for the fit, the choice of the penalty included.
    """

    pooled: float
    inside: float
    probe: float
    probe_chance: float
    seconds: float


def judge_arm(data: PatientSet, arm: Remedy, split: tuple[Rows, Rows], seed: int) -> Score:
    """Fit an arm on the training rows of a split and judge it on the others.

    Raises
    ------
    CohortError
        If the labels rule the arm out.
    """
    train, test = (data.part(rows) for rows in split)
    label, slide_index = train.table.label.astype(np.int64), train.table.slide_index
    begun = time.process_time()
    if arm.centring:
        check_several_classes(label, slide_index, "Centring")
    seen, new = train.centred(arm.centring), test.centred(arm.centring)
    if arm.projection:
        directions = nuisance_directions(seen, label, slide_index, arm.projection)
        seen, new = without_directions(seen, directions), without_directions(new, directions)
    head, classes = replace(arm.head, seed=seed), len(train.table.classes)
    if head.net == "linear" and head.penalty is None:
        penalty, _ = choose_penalty(seen, label, slide_index, groups=data.of_slide, classes=classes, seed=seed)
        head = replace(head, penalty=penalty)
    fitted = fit_head(seen, label, slide_index, head, classes=classes)
    seconds = time.process_time() - begun
    shown = new
    if isinstance(fitted, NetHead):
        with torch.inference_mode():
            shown = fitted.neck(torch.from_numpy(np.asarray(new, np.float32))).numpy()
    return judged(data, split[1], fitted.predict(new), shown, seconds)


def judge_tuned(data: PatientSet, split: tuple[Rows, Rows], seed: int, config: FastConfig, epochs: int) -> Score:
    """Train the last stage of the network through pixels, as the plugin does, and judge it like the heads."""
    table = data.labelled.table
    train, test = (table.of_rows(rows) for rows in split)
    settings = TrainConfig(
        objective=CrossEntropyConfig(),
        backbone=config.backbone,
        weights=config.weights,
        train_layers="last_block",
        epochs=epochs,
        patches=config.patches,
        validation_fraction=0,
        optimizer="adamw",
        learning_rate=3e-4,
        schedule="one_cycle",
        seed=seed,
        device="cpu",
    )
    with tempfile.TemporaryDirectory() as folder:
        begun = time.process_time()
        nobody = table.of_slides([])
        drain(training.train(train, nobody, data.slides, settings, run=Path(folder) / "run"))
        seconds = time.process_time() - begun
        model, spec = load_model(Path(folder) / "run")
        extractor = Extractor.of(model, spec.geometry, device="cpu")
        found = drain(table_features(test, data.slides, extractor, cache=FeatureCache(Path(folder) / "features")))
    weight, bias = model.head.weight.detach().numpy(), model.head.bias.detach().numpy()
    return judged(data, split[1], LinearHead(weight, bias).predict(found), found, seconds)


def judged(
    data: PatientSet, rows: Rows, probabilities: NDArray[np.floating], shown: NDArray[np.floating], seconds: float
) -> Score:
    """Give the scores of predictions for held-out rows, and of the features behind them."""
    table = data.labelled.table.of_rows(rows)
    label, slide = table.label.astype(np.int64), table.slide_index
    inside = [patch_auc(label[slide == s], probabilities[slide == s]) for s in np.unique(slide)]
    there, numbered = np.unique(slide, return_inverse=True)
    names = tuple(table.slides[i] for i in there)
    sides = np.asarray([table.footprints[i] for i in there], np.float64)[numbered]
    features = FeatureTable(
        np.asarray(shown, np.float32),
        table.label,
        numbered.astype(np.int32),
        np.stack([table.y, table.x], axis=1) / sides,
        names,
        table.classes,
        tuple(data.groups[name] for name in names),
    )
    probe = slide_probe(features, permutations=0, draws=0)
    value, chance = (float("nan") if number is None else number for number in (probe.value, probe.chance))
    return Score(patch_auc(label, probabilities), mean_of(np.asarray(inside)), value, chance, seconds)
