"""Whether a training is over."""

from __future__ import annotations

from collections.abc import Sequence

from napari_slidecorr.config import TrainConfig
from napari_slidecorr.events import EpochDone
from napari_slidecorr.runs import best_epoch


def is_over(curve: Sequence[EpochDone], config: TrainConfig) -> bool:
    """Whether a training ends here: all epochs done, or the patience for a better one at its end."""
    best = best_epoch(curve)
    waited = 0 if best is None else len(curve) - 1 - best
    return len(curve) >= config.epochs or bool(config.patience and waited >= config.patience)
