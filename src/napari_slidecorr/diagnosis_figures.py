"""The pictures of a diagnosis, by matplotlib without any window: curves, slides' likeness, map of features, shortcut."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_slidecorr.diagnostics.diagnosis import Diagnosis, ShownPatch
from napari_slidecorr.events import EpochDone

if TYPE_CHECKING:
    from matplotlib.figure import Figure

By = Literal["slide", "group", "class", "error"]

LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colours that colour-blind people can tell apart (Okabe and Ito)."""
RIGHT, WRONG = "#0072b2", "#d55e00"
MANY = 12
"""More names than this get no legend."""


def curves_figure(curves: Mapping[str, Sequence[EpochDone]]) -> Figure:
    """AUC after each epoch, training dashed and held-out drawn through (Zhang et al. 2021, Figure 2)."""
    figure, axes = _figure(7.0, 3.6)
    for number, (name, curve) in enumerate(curves.items()):
        color = LINES[number % len(LINES)]
        epochs = [epoch.epoch + 1 for epoch in curve]
        axes.plot(epochs, [epoch.train_auc for epoch in curve], color=color, linestyle="--", marker=".")
        axes.plot(epochs, [epoch.validation_auc for epoch in curve], color=color, marker=".", label=name)
    axes.set(xlabel="Epoch", ylabel="Patch AUC")
    axes.legend(title="solid: held out, dashed: training", fontsize="small", title_fontsize="small")
    axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def features_figure(diagnosis: Diagnosis, by: By = "slide") -> Figure:
    """Features laid out by t-SNE and coloured (Zhang et al. 2021, Figure 3)."""
    figure, axes = _figure(5.2, 4.6)
    keys = [_key(patch, by) for patch in diagnosis.patches]
    names = sorted(set(keys))
    palette = _palette(len(names)) if by != "error" else [WRONG if name == "wrong" else RIGHT for name in names]
    at = np.asarray([patch.at for patch in diagnosis.patches], float).reshape(-1, 2)
    for name, color in zip(names, palette, strict=True):
        rows = [i for i, key in enumerate(keys) if key == name]
        axes.scatter(at[rows, 0], at[rows, 1], s=9, color=color, label=name, linewidths=0)
    axes.set(xticks=[], yticks=[], title=f"{diagnosis.run}: coloured by {by}")
    if 1 < len(names) <= MANY:
        axes.legend(fontsize="x-small", markerscale=1.8, loc="best", framealpha=0.8)
    return figure


def likeness_figure(diagnosis: Diagnosis) -> Figure:
    """Mean cosine between the patches of each two slides, inside a class."""
    figure, axes = _figure(5.2, 4.6)
    values = np.asarray([[math.nan if v is None else v for v in row] for row in diagnosis.similarity], float)
    most = float(np.nanmax(np.abs(values), initial=0.05)) if values.size else 1.0
    image = axes.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most)
    names = diagnosis.similarity_slides
    if len(names) <= 2 * MANY:
        short = [name if len(name) <= 18 else f"{name[:8]}...{name[-7:]}" for name in names]
        axes.set_xticks(range(len(names)), short, rotation=90, fontsize="x-small")
        axes.set_yticks(range(len(names)), short, fontsize="x-small")
    else:
        axes.set(xticks=[], yticks=[], xlabel=f"{len(names)} slides")
    axes.set_title(f"{diagnosis.run}: likeness of slides", fontsize="medium")
    figure.colorbar(image, ax=axes, label="mean cosine inside a class", shrink=0.8)
    return figure


def shortcut_figure(diagnoses: Sequence[Diagnosis]) -> Figure:
    """Accuracy of heads that were trained while class and slide were tied, over the strength of the tie."""
    figure, axes = _figure(5.2, 3.6)
    for number, diagnosis in enumerate(d for d in diagnoses if d.accuracy):
        color = LINES[number % len(LINES)]
        axes.plot(diagnosis.ties, diagnosis.accuracy, color=color, marker="o", label=diagnosis.run)
        if diagnosis.accuracy_unseen:
            axes.plot(diagnosis.ties, diagnosis.accuracy_unseen, color=color, marker=".", linestyle=":")
    axes.set(xlabel="Tie of class and slide in training (Cramér's V)", ylabel="Balanced accuracy without a tie")
    axes.legend(title="other slides dotted", fontsize="small", title_fontsize="small")
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    return figure, figure.add_subplot()


def _key(patch: ShownPatch, by: By) -> str:
    if by == "error":
        return "right" if patch.right else "wrong"
    return {"slide": patch.slide, "group": patch.group, "class": patch.label}[by]


def _palette(count: int) -> list[Any]:
    from matplotlib import colormaps

    if count <= len(LINES):
        return list(LINES[:count])
    colors = colormaps["turbo"](np.linspace(0.05, 0.95, count))
    return [tuple(color) for color in colors]
