"""What an epoch shows that makes a training doubtful, said once."""

from __future__ import annotations

from collections.abc import Sequence

from napari_slidecorr.events import EpochDone, Notice
from napari_slidecorr.learning.objectives import CORRELATION_BY_CROSS_ENTROPY

OUTVOTED = 3.0
"""From this on, beta x correlation decides more of the loss than cross-entropy does: classes are not learnt."""


def epoch_doubts(before: Sequence[EpochDone], epoch: EpochDone) -> list[Notice]:
    """Give a warning for each doubt that an epoch raises and none before it raised.

    Parameters
    ----------
    before : sequence of EpochDone
        The curve up to this epoch.
    epoch : EpochDone
    """
    told = {name for earlier in before for name in _doubts(earlier)}
    return [
        Notice(phase=epoch.phase, message=f"Epoch {epoch.epoch + 1}: {message}", warning=True)
        for name, message in _doubts(epoch).items()
        if name not in told
    ]


def _doubts(epoch: EpochDone) -> dict[str, str]:
    ratio = epoch.terms.get(CORRELATION_BY_CROSS_ENTROPY)
    if ratio is None:
        return {}
    if epoch.pairs == 0:
        return {"pairs": "no batch had two patches of one slide, so the slide correlation did nothing."}
    if ratio > OUTVOTED:
        return {
            "outvoted": f"beta x slide correlation was {ratio:.1f} times the cross-entropy. If the held-out AUC does not "
            "rise, lower beta or the patches per slide."
        }
    return {}
