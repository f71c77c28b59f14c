"""The measures of one model that take a moment each, in the order in which they are told."""

from __future__ import annotations

from collections.abc import Iterator

from napari_slidecorr.diagnostics.clusters import clustering_score
from napari_slidecorr.diagnostics.feature_table import FeatureTable, Measure
from napari_slidecorr.diagnostics.robustness import robustness_index
from napari_slidecorr.diagnostics.same_slide import same_slide_correlation
from napari_slidecorr.diagnostics.scores import auc_over_slides, calibration_error, temperature, tempered
from napari_slidecorr.diagnostics.slide_probe import slide_probe, within_class_probe

COUNT = 10


def measure(
    seen: FeatureTable, unseen: FeatureTable, *, judged: FeatureTable | None = None, seed: int = 0
) -> Iterator[Measure]:
    """Take every measure of a model.

    Parameters
    ----------
    seen, unseen : FeatureTable
        Patches of the slides that it was trained on, and of those it has not seen; ``unseen`` may be empty.
    judged : FeatureTable, optional
        Patches with what is said of them by a model that has not seen their slide, where that is not ``unseen``.

    Yields
    ------
    Measure
        Each as soon as it is known; `COUNT` in all. Those of features are taken on both kinds of slides together.
    """
    training = auc_over_slides(seen, "training_auc", seed=seed)
    judged = unseen if judged is None else judged
    held_out = _held_out(judged, seed)
    yield training
    yield held_out
    yield generalization_gap(training, held_out)
    yield _calibration(judged)
    together = _together(seen, unseen)
    yield slide_probe(together, seed=seed)
    yield within_class_probe(together, seed=seed)
    yield same_slide_correlation(together, seed=seed)
    yield robustness_index(together, seed=seed)
    yield robustness_index(together, by_group=True, seed=seed)
    yield clustering_score(together, seed=seed)


def _held_out(unseen: FeatureTable, seed: int) -> Measure:
    if not len(unseen):
        return Measure.undefined("held_out_auc", "No slide was held out.")
    return auc_over_slides(unseen, "held_out_auc", seed=seed)


def generalization_gap(training: Measure, held_out: Measure) -> Measure:
    """AUC on the training slides minus that on held-out slides; the interval is over the held-out slides."""
    name = "generalization_gap"
    if training.value is None or held_out.value is None:
        return Measure(name, None, reason=held_out.reason or training.reason, n_slides=held_out.n_slides)
    low, high = held_out.low, held_out.high
    return Measure(
        name,
        training.value - held_out.value,
        None if high is None else training.value - high,
        None if low is None else training.value - low,
        0.0,
        n_slides=held_out.n_slides,
        n_patches=held_out.n_patches,
        note="The interval is over the held-out slides; the training side is taken as it is.",
    )


def _calibration(unseen: FeatureTable) -> Measure:
    name = "calibration_error"
    if not len(unseen) or unseen.probabilities is None:
        return Measure.undefined(name, "No slide was held out.", unseen)
    by = temperature(unseen.label, unseen.probabilities)
    after = calibration_error(unseen.label, tempered(unseen.probabilities, by))
    note = f"On held-out slides; {after:.3f} with their own best temperature, {by:.2f}. No interval."
    slides = len(set(unseen.slide_index.tolist()))
    value = calibration_error(unseen.label, unseen.probabilities)
    return Measure(name, value, n_slides=slides, n_patches=len(unseen), note=note)


def _together(seen: FeatureTable, unseen: FeatureTable) -> FeatureTable:
    """Both tables as one; slides of the second are numbered behind those of the first."""
    if not len(unseen):
        return seen
    return seen.joined(unseen)
