"""How fast to learn when."""

from __future__ import annotations

import math

from napari_slidecorr.config import TrainConfig

_WARM_UP = 0.3
_START, _END = 1 / 25, 1e-4


def learning_rate(config: TrainConfig, epoch: int, part: float = 0.0) -> float:
    """Give the learning rate at a moment of a training.

    Parameters
    ----------
    epoch : int
        Counted from 0.
    part : float in [0, 1)
        How much of the epoch is over.

    Notes
    -----
    ``step``: a fifth after half of the epochs, as in Zhang et al., MIDL 2021. ``cosine``: from the whole down to 0.
    ``one_cycle``: up from a 25th to the whole over the first 30 %, then down to a ten-thousandth, both along a cosine
    (Smith and Topin, 2018). It depends on nothing but the moment, so a resumed training goes on as it would have.
    """
    if config.schedule == "step":
        return config.learning_rate if epoch < config.epochs / 2 else config.learning_rate / 5
    over = (epoch + part) / config.epochs
    if config.schedule == "cosine":
        return config.learning_rate * _between(1, 0, over)
    if over < _WARM_UP:
        return config.learning_rate * _between(_START, 1, over / _WARM_UP)
    return config.learning_rate * _between(1, _END, (over - _WARM_UP) / (1 - _WARM_UP))


def _between(start: float, end: float, part: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2
