"""Are a patch's nearest neighbours of its class, or of its slide? The robustness index, by the library `croma`."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.diagnostics.feature_table import FeatureTable, Measure, bootstrap_interval, slide_weights

BLOCK = 4.0
"""Side, in patches, of the squares whose patches count as neighbours in space and not as evidence."""
NEIGHBOURS = (5, 11, 21, 31)
PER_SLIDE = 100


def robustness_index(table: FeatureTable, *, by_group: bool = False, draws: int = 1000, seed: int = 0) -> Measure:
    """Robustness index (RI) of PathoROB with the slide, or the slides' group, as what confounds.

    Parameters
    ----------
    by_group : bool
        Confounder is the group (patient, centre), and neighbours on the patch's own slide do not count. Else the slide
        is, and those of its own square of `BLOCK` patches do not count.

    Returns
    -------
    Measure
        1: neighbours are of one class, 0: of one slide. Undefined when no slide (group) has two classes or no class two
        slides (groups), since then one kind of neighbour cannot occur.

    References
    ----------
    Kömen, de Jong et al., Nature Communications 2026 (arXiv:2507.17845); computed by croma 1.0
    (https://github.com/clemsgrs/croma).
    """
    name = "robustness_index_group" if by_group else "robustness_index"
    table = table.at_most(PER_SLIDE, seed)
    confounder = table.group_index if by_group else table.slide_index.astype(np.int64)
    if reason := _why_not(table, confounder, "group" if by_group else "slide", by_group=by_group):
        return Measure.undefined(name, reason, table)
    apart = table.slide_index.astype(np.int64) if by_group else _squares(table)
    result = _by_croma(table, confounder, apart)
    same, other = _evidence(table.features, table.label, confounder, apart, int(result.k))
    weights = slide_weights(len(table.slides), draws, seed)[:, table.slide_index]
    low, high = bootstrap_interval(_share(weights @ same, weights @ other))
    chance = _chance(table.label, confounder)
    note = f"{result.k} neighbours; {result.support:.0%} of patches have neighbours that tell."
    slides = len(np.unique(table.slide_index))
    return Measure(name, float(result.value), low, high, chance, n_slides=slides, n_patches=len(table), note=note)


def _why_not(table: FeatureTable, confounder: NDArray[np.int64], what: str, *, by_group: bool) -> str:
    pairs = np.unique(np.stack([confounder, table.label.astype(np.int64)]), axis=1)
    if by_group and len(np.unique(confounder)) == len(np.unique(table.slide_index)):
        return "Every slide is a group of its own; give slides of one patient or centre the same group."
    if len(np.unique(pairs[0])) == pairs.shape[1]:
        return f"Every {what} has patches of one class only, so that no neighbour can speak for the {what} alone."
    if len(np.unique(pairs[1])) == pairs.shape[1]:
        return f"Every class lies on one {what} only, so that no neighbour can speak for the class alone."
    return ""


def _squares(table: FeatureTable) -> NDArray[np.int64]:
    square = np.floor(table.place / BLOCK).astype(np.int64)
    keys = np.stack([table.slide_index.astype(np.int64), square[:, 0], square[:, 1]])
    return np.asarray(np.unique(keys, axis=1, return_inverse=True)[1]).reshape(-1)


def _by_croma(table: FeatureTable, confounder: NDArray[np.int64], apart: NDArray[np.int64]) -> Any:
    import pandas as pd
    from croma import RI

    names = [str(i) for i in range(len(table))]
    manifest = pd.DataFrame(
        {
            "sample_id": names,
            "image_path": names,
            "label": table.label.astype(str),
            "group_id": apart.astype(str),
            "confounder": confounder.astype(str),
        }
    )
    most = max(1, len(table) - int(np.bincount(apart).max()))
    candidates = [k for k in NEIGHBOURS if k <= most] or [1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of low support, which the measure's note tells
        return RI.compute(table.features, manifest, k_candidates=candidates, confounder_column="confounder")


def _evidence(
    features: NDArray[np.float32],
    label: NDArray[np.int16],
    confounder: NDArray[np.int64],
    apart: NDArray[np.int64],
    k: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many of each patch's k neighbours are (same class, other confounder) and (other class, same confounder)."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    likeness = unit @ unit.T
    likeness[apart[:, None] == apart] = -np.inf
    nearest = np.argsort(-likeness, axis=1, kind="stable")[:, :k]
    counts = np.isfinite(np.take_along_axis(likeness, nearest, axis=1))
    same_class = label[nearest] == label[:, None]
    same_confounder = confounder[nearest] == confounder[:, None]
    return (counts & same_class & ~same_confounder).sum(axis=1), (counts & ~same_class & same_confounder).sum(axis=1)


def _share(same: NDArray[np.integer], other: NDArray[np.integer]) -> NDArray[np.float64]:
    total = same + other
    share: NDArray[np.float64] = np.divide(same, total, out=np.full(total.shape, np.nan), where=total > 0)
    return share


def _chance(label: NDArray[np.int16], confounder: NDArray[np.int64]) -> float:
    """What neighbours drawn at random would give."""
    table = np.zeros((int(label.max()) + 1, int(confounder.max()) + 1))
    np.add.at(table, (label, confounder), 1)
    squared = (table**2).sum()
    same = (table.sum(axis=1) ** 2).sum() - squared
    other = (table.sum(axis=0) ** 2).sum() - squared
    return float(same / (same + other))
