"""What a training writes of itself for people: the curve, and which epochs were the last and the best."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from napari_slidecorr.config import TrainConfig
from napari_slidecorr.events import EpochDone

CURVE_NAME = "curve.csv"


def best_epoch(curve: Sequence[EpochDone]) -> int | None:
    """Give the index of the first epoch with the highest held-out AUC; None when no epoch has one."""
    known = [epoch.epoch for epoch in curve if math.isfinite(epoch.validation_auc)]
    return max(known, key=lambda index: (curve[index].validation_auc, -index), default=None)


def is_over(curve: Sequence[EpochDone], config: TrainConfig) -> bool:
    """Whether a training ends here: all epochs done, or the patience for a better one at its end."""
    best = best_epoch(curve)
    waited = 0 if best is None else len(curve) - 1 - best
    return len(curve) >= config.epochs or bool(config.patience and waited >= config.patience)


def curve_csv(curve: Sequence[EpochDone]) -> str:
    """Give a curve as CSV text, one row an epoch; ``best`` marks the one of the highest held-out AUC."""
    out = io.StringIO()
    best = best_epoch(curve)
    rows = [_curve_row(epoch, is_best=epoch.epoch == best) for epoch in curve]
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _curve_row(epoch: EpochDone, *, is_best: bool) -> dict[str, Any]:
    values = asdict(epoch)
    terms = values.pop("terms")
    kept = {name: value for name, value in values.items() if name not in ("phase", "done", "total")}
    return {**kept, "best": int(is_best), **terms}
