"""The table of a comparison: which variants there are, what each run came to, paired differences and their errors."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_slidecorr.config import (
    CoralConfig,
    CrossEntropyConfig,
    GroupDroConfig,
    ObjectiveConfig,
    SceConfig,
    ScrConfig,
    SdaConfig,
    TrainConfig,
)
from napari_slidecorr.errors import ConfigError
from napari_slidecorr.held_out_file import read_held_out
from napari_slidecorr.metrics import patch_auc, slide_probabilities
from napari_slidecorr.patches import PatchTable
from napari_slidecorr.runs import read_run

OBJECTIVES: Mapping[str, ObjectiveConfig] = {
    "baseline": CrossEntropyConfig(),
    "scr": ScrConfig(),
    "sce": SceConfig(),
    "sda": SdaConfig(),
    "coral": CoralConfig(),
    "groupdro": GroupDroConfig(),
}
CJ, SN, LEAKY = "cj", "sn", "leaky"
SCORES = ("train_auc", "patch_auc", "inside_auc", "slide_auc")
MANY_ALIKE = 0.9
"""Share of one class above which a slide counts as being of that class."""


@dataclass(frozen=True)
class Variant:
    """One row of a comparison.

    Attributes
    ----------
    name : str
        Its parts joined by ``+``, for example ``scr+cj``.
    objective : str
        One of `OBJECTIVES`.
    colour_jitter, stain, leaky : bool
        With colour jitter (CJ); with stain normalization (SN); with a random split of patches, to show what that promises.
    """

    name: str
    objective: str = "baseline"
    colour_jitter: bool = False
    stain: bool = False
    leaky: bool = False

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Read ``scr+cj``, ``sda``, ``cj``, ``baseline+leaky``.

        Raises
        ------
        ConfigError
            If a part is unknown or there are two objectives.
        """
        parts = text.strip().lower().split("+")
        unknown = [part for part in parts if part not in {*OBJECTIVES, CJ, SN, LEAKY}]
        if unknown:
            names = ", ".join([*OBJECTIVES, CJ, SN, LEAKY])
            raise ConfigError(f"{text!r}: there is no {unknown[0]!r} to compare; join with + what you want of {names}.")
        objectives = [part for part in parts if part in OBJECTIVES]
        if len(objectives) > 1 or len(set(parts)) != len(parts):
            raise ConfigError(f"{text!r}: a variant has one objective, and each part once.")
        return cls("+".join(parts), (objectives or ["baseline"])[0], CJ in parts, SN in parts, LEAKY in parts)

    def config(self, base: TrainConfig, seed: int) -> TrainConfig:
        """The settings of its run: those that are common, with this variant's own and a seed."""
        objective = OBJECTIVES[self.objective]
        if type(objective) is type(base.objective):
            objective = base.objective
        return replace(
            base,
            objective=objective,
            colour_jitter=self.colour_jitter,
            stain="macenko" if self.stain else "none",
            split="patches" if self.leaky else "slides",
            seed=seed,
        )


def common_settings(base: TrainConfig) -> TrainConfig:
    """Give settings with those at their defaults that each variant has its own of: colour jitter, stain and split."""
    return replace(base, colour_jitter=False, stain="none", split="slides")


@dataclass(frozen=True)
class Trial:
    """What one run of a comparison came to.

    Attributes
    ----------
    train_auc : float
        Of its last epoch, from the predictions made while training.
    patch_auc : float
        Pooled over held-out patches.
    inside_auc : float
        Mean over held-out slides with two classes of the AUC inside each, which is what a map shows; NaN without any.
    slide_auc : float
        Of the mean probability of held-out slides that are of one class; NaN when there are not two such classes.
    """

    variant: str
    seed: int
    run: str
    train_auc: float
    patch_auc: float
    inside_auc: float
    slide_auc: float
    seconds: float


@dataclass(frozen=True)
class Row:
    """One variant over all seeds.

    Attributes
    ----------
    mean, sd : dict of score to float
    difference, error : dict of score to float
        Mean of the paired differences to the first variant, and its standard error; NaN below two pairs.
    pairs : int
    """

    variant: str
    mean: dict[str, float]
    sd: dict[str, float]
    difference: dict[str, float]
    error: dict[str, float]
    pairs: int


@dataclass(frozen=True)
class Comparison:
    """All of it.

    Attributes
    ----------
    folder : Path
    rows : tuple of Row
        In the order asked for; the first is the one to beat.
    trials : tuple of Trial
    warning : str
        Why to doubt it; empty if nothing is known against it.
    """

    folder: Path
    rows: tuple[Row, ...]
    trials: tuple[Trial, ...]
    warning: str = ""


def table_text(result: Comparison) -> str:
    """The table for a terminal."""
    scores = [score for score in SCORES if any(math.isfinite(row.mean[score]) for row in result.rows)]
    head = ["", *(score.replace("_", " ") for score in scores), "difference of patch auc"]
    lines = [
        head,
        *([row.variant, *(_cell(row, score) for score in scores), _told_difference(row)] for row in result.rows),
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*text, *_about_leaky(result.rows), *([result.warning] if result.warning else [])])


def _about_leaky(rows: Sequence[Row]) -> list[str]:
    names = [row.variant for row in rows if LEAKY in row.variant.split("+")]
    if not names:
        return []
    return [
        f"{', '.join(names)}: random patches of the same slides held out, so its AUC flatters; the difference is the leak."
    ]


def _cell(row: Row, score: str) -> str:
    if not math.isfinite(row.mean[score]):
        return "-"
    spread = f" +- {row.sd[score]:.3f}" if math.isfinite(row.sd[score]) else ""
    return f"{row.mean[score]:.3f}{spread}"


def _told_difference(row: Row) -> str:
    if not math.isfinite(row.difference["patch_auc"]):
        return "-"
    error = row.error["patch_auc"]
    return f"{row.difference['patch_auc']:+.3f}" + (f" +- {error:.3f}" if math.isfinite(error) else "")


def trial_of(variant: Variant, config: TrainConfig, run: Path, table: PatchTable) -> Trial:
    """Score what a finished run said of the patches of a table, which it held out."""
    probabilities, record = read_held_out(run, table), read_run(run)
    inside = [
        patch_auc(table.label[rows], probabilities[rows])
        for slide in np.unique(table.slide_index)
        if len(np.unique(table.label[rows := np.flatnonzero(table.slide_index == slide)])) > 1
    ]
    return Trial(
        variant=variant.name,
        seed=config.seed,
        run=f"{run.parent.name}/{run.name}",
        train_auc=record.curve[-1].train_auc if record.curve else math.nan,
        patch_auc=patch_auc(table.label, probabilities),
        inside_auc=float(np.mean(inside)) if inside else math.nan,
        slide_auc=_slide_auc(table, probabilities),
        seconds=record.seconds,
    )


def _slide_auc(table: PatchTable, probabilities: Any) -> float:
    """AUC of slides by the mean of their patches, where a slide is of one class (Zhang et al. 2021, section 4)."""
    counts = table.counts()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    means = slide_probabilities(table.slide_index, probabilities)
    slides = [slide for slide in means if shares[slide].max() >= MANY_ALIKE]
    if not slides:
        return math.nan
    return patch_auc(shares[slides].argmax(axis=1), np.stack([means[slide] for slide in slides]))


def summarize(folder: Path, trials: Sequence[Trial], variants: Sequence[str], warning: str = "") -> Comparison:
    """Put trials together, each variant's paired by seed with those of the first variant."""
    by = {(trial.variant, trial.seed): trial for trial in trials}
    seeds = sorted({trial.seed for trial in trials})
    rows = []
    for variant in variants:
        own = [by[variant, seed] for seed in seeds if (variant, seed) in by]
        pairs = [(by[variant, s], by[variants[0], s]) for s in seeds if (variant, s) in by and (variants[0], s) in by]
        values = {score: np.asarray([getattr(trial, score) for trial in own]) for score in SCORES}
        differences = {score: np.asarray([getattr(a, score) - getattr(b, score) for a, b in pairs]) for score in SCORES}
        rows.append(
            Row(
                variant,
                {score: _mean(value) for score, value in values.items()},
                {score: _sd(value) for score, value in values.items()},
                {score: _mean(value) if variant != variants[0] else math.nan for score, value in differences.items()},
                {
                    score: _sd(value) / math.sqrt(max(1, len(value))) if variant != variants[0] else math.nan
                    for score, value in differences.items()
                },
                len(pairs),
            )
        )
    return Comparison(folder, tuple(rows), tuple(trials), warning)


def _mean(values: Any) -> float:
    return float(values.mean()) if len(values) and np.isfinite(values).all() else math.nan


def _sd(values: Any) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 and np.isfinite(values).all() else math.nan


def trials_csv(trials: Sequence[Trial]) -> str:
    """A line a trial."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(asdict(trials[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(trial) for trial in trials)
    return out.getvalue()
