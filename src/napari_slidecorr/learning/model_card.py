"""What a run says of itself: versions and slide files in its ``config.json``, and a model card for people."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from napari_slidecorr import __version__
from napari_slidecorr.config import PAPER, TrainConfig
from napari_slidecorr.events import EpochDone
from napari_slidecorr.fast_config import FastConfig
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.patches import PatchTable
from napari_slidecorr.runs import best_epoch
from napari_slidecorr.settings import fields_of
from napari_slidecorr.slide import Slide

CARD_NAME = "MODEL_CARD.md"
PACKAGES = ("torch", "torchvision", "timm", "numpy", "safetensors", "tifffile", "zarr")

_LIMITS = """\
- Research only. Not a medical device: not for diagnosis, and not for any decision about a patient.
- Not for slides of another stain, tissue, scanner or preparation than those above, until its maps were checked on such slides.
- Its probabilities are those of these classes alone: tissue of any other kind is given one of them all the same.
- The held-out figures are of patches inside drawn regions of a few slides; whole slides hold more, and are harder."""


def versions() -> dict[str, str]:
    """Give the versions of this package, of Python, and of what a training depends on."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"napari-slidecorr": __version__, "python": platform.python_version(), **found}


def slide_facts(slides: Iterable[Slide]) -> dict[str, dict[str, Any]]:
    """Say which files slides were read from: name, bytes, time of change (UTC), and the pixel size in use."""
    return {slide.id: _facts(slide) for slide in slides}


def _facts(slide: Slide) -> dict[str, Any]:
    facts: dict[str, Any] = {"file": slide.path.name, "mpp": slide.mpp, "shape": slide.shape}
    if slide.path.exists():
        stat = slide.path.stat()
        changed = dt.datetime.fromtimestamp(stat.st_mtime, dt.UTC)
        facts |= {"bytes": stat.st_size, "changed": changed.isoformat(timespec="seconds")}
    return facts


def model_card(
    spec: ModelSpec,
    config: TrainConfig | FastConfig,
    tables: tuple[PatchTable, PatchTable],
    curve: Sequence[EpochDone],
    device: str,
) -> str:
    """Write the model card of a run, as Markdown.

    Parameters
    ----------
    spec : ModelSpec
        As written beside the weights.
    tables : (PatchTable, PatchTable)
        Of the training and the held-out slides.
    device : str
        What it was trained on, for a person to read.
    """
    used = curve[spec.epoch - 1]
    geometry = spec.geometry
    resolution = f"{geometry.mpp:g} um/px" if geometry.mpp is not None else "level-0 pixels as they are"
    why = {
        "last": "the last epoch",
        "best": "the epoch of the highest held-out AUC, which therefore flatters",
        "folds": "fitted once; held-out figures are of heads that had not seen the slide",
    }[spec.kept]
    parts = [
        f"# Patch classifier {spec.id}",
        (
            f"{config.backbone}, {' / '.join(spec.classes)}, made with napari-slidecorr {spec.package_version}. It classifies "
            f"patches of {geometry.size_px} px at {resolution} of brightfield slides."
        ),
        f"## Classes and patches\n\n{_counts(tables)}",
        (
            f"## Slides\n\n{_divided(spec)}\n\n"
            f"- Trained on {len(spec.train_slides)}: {', '.join(spec.train_slides)}\n"
            f"- Held out {len(spec.validation_slides)}: {', '.join(spec.validation_slides) or 'none'}"
        ),
        (
            f"## Figures\n\nWeights of epoch {spec.epoch} of {len(curve)}: {why}. Of patches, not of slides.\n\n"
            f"{_figures(used, best_epoch(curve))}"
        ),
        f"## What it must not be used for\n\n{_LIMITS}{_few(spec)}",
        f"## Settings\n\n{_table(('setting', 'value'), _settings(config))}",
        (
            f"## Made with\n\nStarted from {spec.initial_weights}; trained on {device}.\n\n"
            f"{_table(('package', 'version'), versions())}"
        ),
        f"## To cite\n\nSlide correlation reduction (SCR): {PAPER}",
    ]
    return "\n\n".join(parts) + "\n"


def _divided(spec: ModelSpec) -> str:
    if spec.split == "patches":
        return (
            "**Leaky split: random patches of the same slides were held out.** The figures below flatter, and say nothing "
            "about a new slide. Made for comparison only."
        )
    return "Whole slides, or patients, are on one side only."


def _few(spec: ModelSpec) -> str:
    if not spec.validation_slides and spec.kept != "folds":
        return "\n- Nothing was held out: how it does on a slide that it has not seen is unknown."
    return ""


def _counts(tables: tuple[PatchTable, PatchTable]) -> str:
    training, held_out = (table.counts().sum(axis=0) if len(table) else [0] * len(table.classes) for table in tables)
    rows = [f"| {name} | {training[i]} | {held_out[i]} |" for i, name in enumerate(tables[0].classes)]
    return "\n".join(["| class | training patches | held-out patches |", "|---|---|---|", *rows])


def _figures(epoch: EpochDone, best: int | None) -> str:
    held_out = "leaky" if epoch.leaky else "held-out"
    figures = {
        "training AUC": epoch.train_auc,
        f"{held_out} AUC": epoch.validation_auc,
        f"{held_out} accuracy": epoch.validation_accuracy,
        "loss": epoch.loss,
        **{name.replace("_", " "): value for name, value in epoch.terms.items()},
    }
    rows = {name: f"{value:.4g}" for name, value in figures.items() if math.isfinite(value)}
    if best is not None:
        rows["epoch of the highest held-out AUC"] = str(best + 1)
    return _table(("figure", "value"), rows)


def _settings(config: Any, prefix: str = "") -> dict[str, Any]:
    """All settings as one flat list, nested ones as ``patches.size_px``."""
    out: dict[str, Any] = {}
    for field in fields_of(config):
        value = getattr(config, field.name)
        if field.nested:
            if kind := getattr(value, "kind", None):
                out[prefix + field.name] = kind
            out |= _settings(value, f"{prefix}{field.name}.")
        else:
            out[prefix + field.name] = value
    return out


def _table(head: tuple[str, str], rows: Mapping[str, Any]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join([f"| {head[0]} | {head[1]} |", "|---|---|", *lines])
