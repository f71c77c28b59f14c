"""What a random split of patches promised, by training: a run beside its twin of the same comparison that was split so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.comparison_table import LEAKY
from napari_slidecorr.diagnostics.drawn_auc import drawn_auc
from napari_slidecorr.diagnostics.feature_table import Measure, bootstrap_interval, slide_weights
from napari_slidecorr.held_out_file import NAME as HELD_OUT_NAME
from napari_slidecorr.held_out_file import read_told
from napari_slidecorr.metrics import patch_auc

NAME = "leakage_by_training"


def leaky_twin(run: Path) -> Path | None:
    """Give the run of the same variant, seed and budget whose patches were split at random; None without a finished one."""
    variant, _, seed = run.name.rpartition("-seed")
    twin = run.with_name(f"{variant}+{LEAKY}-seed{seed}")
    finished = all((one / HELD_OUT_NAME).is_file() for one in (run, twin))
    return twin if variant and finished else None


def leakage_by_training(run: Path, *, draws: int = 1000, seed: int = 0) -> Measure | None:
    """Held-out AUC of a run's leaky twin minus its own; None without a twin.

    Parameters
    ----------
    run : Path
        Folder of a run of a comparison, ``<variant>-seed<k>``; its twin is ``<variant>+leaky-seed<k>``.

    Returns
    -------
    Measure or None
        Both were trained alike, on as many patches; only what was held out differs. The interval is over the slides of
        each.

    Raises
    ------
    ProjectError
        If what one of them said of its held-out patches cannot be read.
    """
    twin = leaky_twin(run)
    if twin is None:
        return None
    careful, careless = read_told(run), read_told(twin)
    own, promised = (patch_auc(label, said) for _, label, said in (careful, careless))
    if not np.isfinite([own, promised]).all():
        return Measure(NAME, None, reason="One of the two held out patches of one class only.")
    low, high = bootstrap_interval(_drawn(*careless, draws, seed) - _drawn(*careful, draws, seed + 1))
    note = f"Trained twice alike: {promised:.3f} with patches held out at random, {own:.3f} with whole patients."
    slides, patches = len(np.unique(careless[0])), len(careful[0])
    return Measure(NAME, promised - own, low, high, 0.0, n_slides=slides, n_patches=patches, note=note)


def _drawn(
    slide: NDArray[np.str_], label: NDArray[np.int64], said: NDArray[np.float32], draws: int, seed: int
) -> NDArray[np.float64]:
    names, index = np.unique(slide, return_inverse=True)
    return drawn_auc(label, index, said, slide_weights(len(names), draws, seed))
