"""How often is a model that leans on the slide called out, and one that does not left alone?

Small made-up slides of two tissues. *Tied*: in training the stain goes with the tissue, one tissue labelled a slide; on the new
slides it does not. *Untied*: every slide shows both tissues and its stain says nothing. A small network is trained from a random
start on the training slides, and diagnosed on these and the new ones, for each seed::

    python benchmarks/verdict_rates.py --json verdict.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_slidecorr import CrossEntropyConfig, PatchConfig, Project, TrainConfig, drain
from napari_slidecorr.learning import training
from napari_slidecorr.learning.diagnosing import Subject, diagnose
from napari_slidecorr.learning.feature_store import FeatureCache
from napari_slidecorr.learning.models import load_model
from napari_slidecorr.sample_data import Plan, make_slide
from napari_slidecorr.sample_looks import tinted, varied_looks

CLASSES = ("tumour", "lymphoid")
TRAINING, NEW, SIDE_PX = 8, 6, 640
CONFIG = TrainConfig(
    objective=CrossEntropyConfig(),
    backbone="test_resnet",
    weights="random",
    epochs=3,
    patches=PatchConfig(size_px=64, mpp=1.0, overlap=0.5),
    optimizer="adamw",
    learning_rate=2e-3,
    slides_per_batch=4,
    patches_per_slide=8,
    device="cpu",
)


def plans(kind: str, seed: int) -> list[Plan]:
    """What the slides of a cohort are to be; the new ones come last."""
    found = []
    for i, look in enumerate(varied_looks(TRAINING + NEW, np.random.default_rng([seed, 5]))):
        new, hue = i >= TRAINING, i % 2
        shares = dict.fromkeys(CLASSES, 0.5)
        if kind == "untied":
            found.append(Plan(shares=shares, drawn=CLASSES, look=look, size_px=SIDE_PX, held_out=new))
            continue
        tied = tinted(look, pink=hue == 0)
        drawn = CLASSES if new else (CLASSES[hue],)
        share = shares if new else {CLASSES[hue]: 0.9, CLASSES[1 - hue]: 0.1}
        found.append(Plan(shares=share, drawn=drawn, look=tied, size_px=SIDE_PX, held_out=new))
    return found


def trial(kind: str, seed: int, folder: Path) -> dict[str, Any]:
    """Make a cohort, train on its training slides, diagnose on all."""
    project = Project.create(folder / "project", CLASSES)
    sides: dict[bool, list[str]] = {False: [], True: []}
    for i, plan in enumerate(plans(kind, seed)):
        made = make_slide(folder / f"{kind}-{seed}-{i:02d}.tif", plan, seed=seed)
        project.add_slides([made.path], group=made.group)
        project.save_regions(made.id, made.regions)
        sides[plan.held_out].append(made.id)
    table = project.patch_table(CONFIG.patches)
    seen, unseen = table.of_slides(sides[False]), table.of_slides(sides[True])
    slides = {slide: project.slide(slide) for slide in table.slides}
    run = folder / "run"
    drain(training.train(seen, unseen, slides, replace(CONFIG, seed=seed), run=run))
    groups = {slide.id: slide.group for slide in project.cohort}
    model, spec = load_model(run)
    subject = Subject(f"{kind}-{seed}", model, spec, seen, unseen, slides, groups, None, "not asked here")
    found = drain(diagnose(subject, cache=FeatureCache(folder / "cache"), device="cpu", per_slide=60))
    measures = {name: measure.value for name, measure in found.measures.items()}
    return {"kind": kind, "seed": seed, "finding": found.verdict.finding, **measures}


def main() -> None:
    """Run all trials and print the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="two seeds instead of twenty")
    arguments = parser.parse_args()
    begun, trials = time.monotonic(), []
    for seed in range(2 if arguments.quick else 20):
        for kind in ("tied", "untied"):
            with tempfile.TemporaryDirectory() as folder:
                trials.append(trial(kind, seed, Path(folder)))
            one = trials[-1]
            print(f"{kind:7} {seed:2} {one['finding']:8} lost {one['generalization_gap']:.3f}", flush=True)
    figures: dict[str, Any] = {"seeds": len(trials) // 2, "seconds": round(time.monotonic() - begun, 1)}
    for kind in ("tied", "untied"):
        found = [one["finding"] for one in trials if one["kind"] == kind]
        for finding in ("slide", "tissue", "unclear", "none"):
            figures[f"{kind}_{finding}"] = found.count(finding)
        gaps = [one["generalization_gap"] for one in trials if one["kind"] == kind]
        figures[f"{kind}_lost_mean"] = round(float(np.mean(gaps)), 4)
    for name, value in figures.items():
        print(f"{name:24} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps({**figures, "trials": trials}, indent=2))


if __name__ == "__main__":
    main()
