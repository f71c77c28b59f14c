"""The remedies that are compared, how each did, and the table for people; no training here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.config import CrossEntropyConfig, ScrConfig, SdaConfig
from napari_slidecorr.fast_config import PENALTIES, FastConfig, HeadConfig
from napari_slidecorr.settings import to_json

CHANCE = 0.05
"""How often something may be proposed, at most, where nothing that is compared helps."""


@dataclass(frozen=True)
class Remedy:
    """One way to train a head.

    Attributes
    ----------
    name : str
    head : HeadConfig
        A penalty of None is chosen inside the training slides.
    centring : float
    projection : int
    """

    name: str
    head: HeadConfig
    centring: float = 0.0
    projection: int = 0

    @property
    def may_be_proposed(self) -> bool:
        """Whether it is more than another fixed penalty: the plain head chooses its own, on the same slides."""
        return self.head.penalty is None

    def applied_to(self, config: FastConfig) -> FastConfig:
        """Give the settings of a training with this remedy; what has nothing to do with remedies stays."""
        return replace(config, head=self.head, centring=self.centring, projection=self.projection)


@dataclass(frozen=True)
class RemedyRow:
    """How a remedy did on slides that it was not trained on.

    Attributes
    ----------
    remedy : Remedy
    auc : float
        Mean over folds of the patch AUC, all patches of a fold's slides together.
    inside_auc : float
        Mean of the patch AUC inside a slide, which is what a map shows; NaN where slides have one class.
    gain, gain_error : float
        Mean paired difference of `auc` to the plain head, and its standard error over folds and repeats (corrected for
        their overlap).
    needed : float
        What the gain must exceed, `needed_gain`; NaN where that is unknown.
    inside_gain, inside_error : float
        As `gain` and `gain_error`, of `inside_auc`.
    refused : str
        Why it was not tried, in one sentence; empty otherwise.
    """

    remedy: Remedy
    auc: float = float("nan")
    inside_auc: float = float("nan")
    gain: float = float("nan")
    gain_error: float = float("nan")
    needed: float = float("nan")
    inside_gain: float = float("nan")
    inside_error: float = float("nan")
    refused: str = ""

    @property
    def helps(self) -> bool:
        """Whether it gains more than it needs, and does not lose more than its error inside slides."""
        loses_inside = self.inside_gain < -self.inside_error  # False for NaN
        return bool(self.remedy.may_be_proposed and self.gain > max(self.needed, 0.0) and not loses_inside)

    def to_json(self) -> dict[str, Any]:
        """The row as plain values; NaN as None."""
        numbers = ("auc", "inside_auc", "gain", "gain_error", "needed", "inside_gain", "inside_error")
        values = {name: _plain(getattr(self, name)) for name in numbers}
        remedy = self.remedy
        settings = {"head": to_json(remedy.head), "centring": remedy.centring, "projection": remedy.projection}
        return {"name": remedy.name, **values, "helps": self.helps, "refused": self.refused, "settings": settings}


@dataclass(frozen=True)
class RemedyReport:
    """What was compared and what is proposed.

    Attributes
    ----------
    rows : tuple of RemedyRow
        The plain head first: the row to beat.
    proposal : RemedyRow or None
    sentence : str
        The proposal, or that there is none, in words.
    slides, groups, patches, folds, repeats : int
    warning : str
        When there are few slides; else empty.
    """

    rows: tuple[RemedyRow, ...]
    proposal: RemedyRow | None
    sentence: str
    slides: int
    groups: int
    patches: int
    folds: int
    repeats: int
    warning: str = ""

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        names = ("sentence", "slides", "groups", "patches", "folds", "repeats", "warning")
        told = {name: getattr(self, name) for name in names}
        proposal = self.proposal.to_json() if self.proposal else None
        return {**told, "proposal": proposal, "rows": [row.to_json() for row in self.rows]}

    def table(self) -> str:
        """The report as text for people."""
        head = ("remedy", "AUC", "gain", "needed", "inside a slide", "gain")
        lines = [head, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        rows = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        what = f"{self.patches} patches of {self.slides} slides ({self.groups} groups), {self.folds} folds x {self.repeats}"
        return "\n".join([what, *rows, self.sentence, *([self.warning] if self.warning else [])])


def remedies(config: FastConfig, *, nets: bool = True) -> tuple[Remedy, ...]:
    """List what is compared, the plain head first.

    Parameters
    ----------
    nets : bool
        Also adapters with slide-wise objectives, which take most of the time.
    """
    linear = HeadConfig(seed=config.head.seed)
    adapter = replace(config.head, net="adapter", objective=CrossEntropyConfig(), penalty=None)
    closed = (
        Remedy("plain head, penalty chosen", linear),
        *(Remedy(f"penalty {value:g}", replace(linear, penalty=value)) for value in PENALTIES),
        Remedy("centring 0.5", linear, centring=0.5),
        Remedy("projection 4", linear, projection=4),
        Remedy("projection 16", linear, projection=16),
    )
    scr, centred = ScrConfig(), ScrConfig(beta=30.0, reduction="mean", normalizer="centred")
    trained = (
        Remedy("adapter", adapter),
        Remedy("adapter, SCR", replace(adapter, objective=scr)),
        Remedy("adapter, SCR batch-centred", replace(adapter, objective=centred)),
        Remedy("adapter, SDA", replace(adapter, objective=SdaConfig())),
    )
    return closed + (trained if nets else ())


def paired_gain(differences: NDArray[np.float64], ratio: float) -> tuple[float, float]:
    """Give the mean of paired differences over folds and repeats, and its standard error.

    Parameters
    ----------
    differences : ndarray, shape (J,)
        NaN for folds without a score.
    ratio : float
        Held-out over training slides.

    Notes
    -----
    ``sqrt((1 / J + ratio) * variance)``: folds share training slides, so the plain error would be too small.

    References
    ----------
    Nadeau and Bengio, "Inference for the generalization error", Machine Learning 52, 2003.
    """
    known = differences[np.isfinite(differences)]
    if len(known) < 2:
        return mean_of(known), float("nan")
    return float(known.mean()), float(np.sqrt((1 / len(known) + ratio) * known.var(ddof=1)))


def needed_gain(error: float, scores: int, candidates: int) -> float:
    """Give what the gain of the best of several remedies must exceed to be believed.

    Parameters
    ----------
    error : float
        Of the gain, as `paired_gain` gives it.
    scores : int
        Folds and repeats that it is the mean of.
    candidates : int
        Remedies that were tried and might have been proposed.

    Notes
    -----
    ``t(1 - CHANCE / candidates; scores - 1) * error``: the corrected resampled t-test, one-sided, after Bonferroni. Where
    nothing helps, the best of all candidates exceeds it with a probability of `CHANCE` at most.

    References
    ----------
    Bouckaert and Frank, "Evaluating the replicability of significance tests for comparing learning algorithms",
    PAKDD 2004.
    """
    from scipy.special import stdtrit

    if scores < 2 or candidates < 1:
        return float("nan")
    return float(stdtrit(scores - 1, 1 - CHANCE / candidates)) * error


def _cells(row: RemedyRow) -> tuple[str, ...]:
    if row.refused:
        return row.remedy.name, "refused", row.refused, "", "", ""
    gains = [_signed(row.gain, row.gain_error), _signed(row.inside_gain, row.inside_error)]
    needed = _number(row.needed) if row.remedy.may_be_proposed else "not proposed"
    return row.remedy.name, _number(row.auc), gains[0], needed, _number(row.inside_auc), gains[1]


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "-"


def _signed(value: float, error: float) -> str:
    return f"{value:+.3f} ± {error:.3f}" if np.isfinite(value) and np.isfinite(error) else "-"


def mean_of(values: NDArray[np.float64]) -> float:
    """Mean of what is finite; NaN of nothing."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _plain(value: float) -> float | None:
    return value if np.isfinite(value) else None
