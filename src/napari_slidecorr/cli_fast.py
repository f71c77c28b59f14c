"""Commands of the fast way: features, a head in seconds, which remedy helps, and the backbones there are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_slidecorr.cli_options import options_from
from napari_slidecorr.cli_output import print_result, told_in_one_sentence
from napari_slidecorr.fast_config import FastConfig
from napari_slidecorr.wording import counted

Folder = Annotated[Path, typer.Argument(metavar="PROJECT", help="A project's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


_OF_FEATURES = {"backbone", "weights", "size_px", "mpp", "overlap", "stain", "batch_size", "device", "seed"}
"""The settings that decide features; the others are about the head."""


@told_in_one_sentence
@options_from(FastConfig, only=_OF_FEATURES)
def features(
    folder: Folder,
    config: FastConfig,
    *,
    slide: Annotated[list[str] | None, typer.Option(help="A slide's id; repeat. All slides when left out.")] = None,
    json: Json = False,
) -> None:
    """Compute and keep features of a frozen backbone for the tissue of slides; goes on where it was stopped."""
    from napari_slidecorr.cli_progress import shown
    from napari_slidecorr.fast_project import fill_features
    from napari_slidecorr.learning.feature_store import FeatureCache
    from napari_slidecorr.learning.features import FeaturesDone
    from napari_slidecorr.project import Project

    cache = FeatureCache()
    filling = fill_features(Project.open(folder), config, slide or (), cache=cache)
    with shown(filling, quiet=json) as events:
        found = {e.result.slide_id: len(e.result.cells) for e in events if isinstance(e, FeaturesDone)}
    facts = cache.facts()
    told = [f"{name}  {count} patches" for name, count in found.items()]
    used = f"{facts['bytes'] / 1e6:.0f} of {facts['limit_bytes'] / 1e6:.0f} MB"
    told.append(f"{facts['folder'] or 'nothing'} keeps {counted(facts['slides'], 'slide')}, {used}")
    print_result({"patches": found, "cache": facts}, "\n".join(told), json=json)


@told_in_one_sentence
@options_from(FastConfig)
def fast_train(
    folder: Folder,
    config: FastConfig,
    *,
    name: Annotated[str | None, typer.Option(help="Name of the run; a new one when left out.")] = None,
    json: Json = False,
) -> None:
    """Train a head on features of a frozen backbone: seconds, and a model like any other."""
    from napari_slidecorr.cli_progress import shown
    from napari_slidecorr.events import drain
    from napari_slidecorr.fast_project import fast_train as train
    from napari_slidecorr.project import Project

    with shown(train(Project.open(folder), config, name=name), quiet=json) as events:
        result = drain(events)
    epoch = result.epochs[-1]
    text = f"Trained {result.spec_path.parent.name}: {epoch.scores}\n{result.spec_path}"
    scores = {name: getattr(epoch, name) for name in ("train_auc", "validation_auc", "validation_accuracy", "seconds")}
    paths = {"run": result.spec_path.parent, "model": result.spec_path, "weights": result.weights_path}
    print_result({**paths, **scores}, text, json=json)


@told_in_one_sentence
@options_from(FastConfig)
def remedies(
    folder: Folder,
    config: FastConfig,
    *,
    adapters: Annotated[
        bool, typer.Option(help="Also adapters with slide-wise objectives; they take most of the time.")
    ] = True,
    json: Json = False,
) -> None:
    """Say which remedy against slide-wise shift helps on the labelled slides of a project, if any."""
    from napari_slidecorr.cli_progress import shown
    from napari_slidecorr.events import drain
    from napari_slidecorr.fast_project import compare_remedies
    from napari_slidecorr.project import Project

    with shown(compare_remedies(Project.open(folder), config, nets=adapters), quiet=json) as events:
        report = drain(events)
    print_result(report.to_json(), report.table(), json=json)


@told_in_one_sentence
def backbones(*, json: Json = False) -> None:
    """List backbones worth having: where they come from, licence, gate, input size and resolution."""
    from napari_slidecorr.backbone_table import BACKBONES, as_table

    print_result({"backbones": [known.to_json() for known in BACKBONES]}, as_table(BACKBONES), json=json)


def register(app: typer.Typer) -> None:
    """Add the commands to an app."""
    app.command()(features)
    app.command("fast-train")(fast_train)
    app.command()(remedies)
    app.command()(backbones)
