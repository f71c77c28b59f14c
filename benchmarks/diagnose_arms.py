"""What the diagnosis says of several objectives on real patients: trained side by side, every run diagnosed, paired over seeds.

The folder holds sets of patches, each with ``fields.csv`` (`patient_slides`). A set is laid into the slides of a project, `compare` trains
each variant once a seed on the same patients, and every run is diagnosed as `slidecorr diagnose` does. A variant ``X+leaky`` is
trained with patches split at random; its held-out AUC minus that of ``X`` is the leakage gap by trainings. What is on the disk is not
done again::

    python benchmarks/diagnose_arms.py lymphoma --patches FOLDER --work KEEP --seeds 5 --json lymphoma.json
    python benchmarks/diagnose_arms.py idc --patches FOLDER --work KEEP --seeds 5 --patients 64 --variants baseline
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from patient_sets import RECIPES, Recipe
from patient_slides import Layout, make_project
from real_slides import packaged_weights

from napari_slidecorr import CrossEntropyConfig, PatchConfig, Project, TrainConfig, drain
from napari_slidecorr.comparison import TrialDone, compare
from napari_slidecorr.comparison_table import LEAKY, Trial
from napari_slidecorr.diagnostics.diagnosis import FILE, Diagnosis
from napari_slidecorr.io.atomic import atomic_write_text
from napari_slidecorr.io.made_tiles import FOLDER_VARIABLE
from napari_slidecorr.run_diagnosis import diagnose_run

SETS = {"lymphoma": "lymphoma, CLL and FL", "idc": "idc as is"}
EPOCHS = {"lymphoma": 4, "idc": 3}
VARIANTS = "baseline,scr,cj,scr+cj,baseline+leaky"
QUICK_PATIENTS, QUICK_VARIANTS = 10, "baseline,scr,baseline+leaky"
COLUMNS = {
    "training_auc": "training AUC",
    "held_out_auc": "held-out AUC",
    "generalization_gap": "lost on held-out",
    "slide_probe": "slide named",
    "within_class_probe": "inside one class",
    "same_slide_correlation": "same-slide correlation",
    "robustness_index": "robustness index",
    "average_performance_drop": "performance drop",
    "leakage_gap": "leakage gap, linear head",
    "leakage_by_training": "leakage gap, trainings",
}

Numbers = dict[str, float | None]


@dataclass(frozen=True)
class Found:
    """What one run came to; `numbers` has the columns of the table, ``by_chance`` what the probes would give by chance."""

    variant: str
    seed: int
    finding: str
    numbers: Numbers
    by_chance: Numbers
    n_slides: int
    n_patches: int


def set_up(name: str, recipe: Recipe, patches: Path, work: Path, patients: int | None) -> Project:
    """Make the project of a set unless it is there."""
    told = f"{name}-{recipe.shown_px}-{recipe.most or 'all'}-{patients or 'all'}"
    place = work / told
    if (place / "made").exists():
        return Project.open(place)
    project = make_project(
        patches / recipe.folder,
        place,
        Layout(1.0, recipe.shown_px),
        least=recipe.least,
        most=recipe.most,
        classes=recipe.classes,
        slides=patients,
    )
    (place / "made").touch()
    return project


def settings(recipe: Recipe, epochs: int) -> TrainConfig:
    """What all variants have in common: the last stage of an ImageNet network is trained, a quarter of the patients held out."""
    return TrainConfig(
        objective=CrossEntropyConfig(),
        backbone="tf_efficientnet_lite0",
        weights=str(packaged_weights()),
        train_layers="last_block",
        epochs=epochs,
        patches=PatchConfig(size_px=recipe.cell_px, mpp=1.0),
        optimizer="adamw",
        learning_rate=3e-4,
        schedule="one_cycle",
        device="cpu",
    )


def diagnosed(project: Project, trial: Trial) -> Found:
    """Diagnose a run, or read what was found; a leaky run is asked for its held-out AUC alone."""
    if LEAKY in trial.variant:
        numbers: Numbers = {"held_out_auc": trial.patch_auc}
        return Found(trial.variant, trial.seed, "leaky", numbers, {}, 0, 0)
    run = project.folder / "runs" / trial.run
    if not (run / FILE).exists():
        drain(diagnose_run(project, trial.run, device="cpu", seed=trial.seed))
    found = Diagnosis.load(run)
    if found is None:
        raise FileNotFoundError(run / FILE)
    measures = found.measures
    numbers = {name: measures[name].value for name in COLUMNS if name in measures}
    by_chance = {name: measures[name].chance for name in ("slide_probe", "within_class_probe")}
    probe = measures["slide_probe"]
    return Found(trial.variant, trial.seed, found.verdict.finding, numbers, by_chance, probe.n_slides, probe.n_patches)


def with_leakage(found: Sequence[Found]) -> list[Found]:
    """Give each variant, where its leaky twin was trained, what that promised beyond its own held-out AUC."""
    leaky = {(one.variant, one.seed): one for one in found if one.finding == "leaky"}
    out = []
    for one in found:
        twin = leaky.get((f"{one.variant}+{LEAKY}", one.seed))
        if twin is not None:
            one.numbers["leakage_by_training"] = _minus(twin.numbers["held_out_auc"], one.numbers["held_out_auc"])
        out.append(one)
    return out


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def table_of(found: Sequence[Found]) -> dict[str, Any]:
    """Mean, spread over seeds, and paired difference to the first variant with its standard error."""
    found = with_leakage(found)
    variants = list(dict.fromkeys(one.variant for one in found))
    first = {one.seed: one for one in found if one.variant == variants[0]}
    rows = {}
    for variant in variants:
        own = [one for one in found if one.variant == variant]
        pairs = [(one, first[one.seed]) for one in own if one.seed in first] if variant != variants[0] else []
        columns = {}
        for name in COLUMNS:
            values = _known([one.numbers.get(name) for one in own])
            differences = _known([_minus(a.numbers.get(name), b.numbers.get(name)) for a, b in pairs])
            columns[name] = {
                "mean": _mean(values),
                "sd": _sd(values),
                "n": len(values),
                "difference": _mean(differences),
                "error": None if (sd := _sd(differences)) is None else sd / len(differences) ** 0.5,
            }
        rows[variant] = {"findings": dict(Counter(one.finding for one in own)), "columns": columns}
    return rows


def _known(values: Sequence[float | None]) -> list[float]:
    return [float(value) for value in values if value is not None and np.isfinite(value)]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _sd(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def as_markdown(rows: dict[str, Any]) -> str:
    """Two tables: means with their spread over seeds, then paired differences with their error."""
    names = [name for name in COLUMNS if any(row["columns"][name]["n"] for row in rows.values())]
    head = [f"| mean ± spread over seeds | verdict | {' | '.join(COLUMNS[name] for name in names)} |"]
    head.append("|---" * (len(names) + 2) + "|")
    for variant, row in rows.items():
        said = ", ".join(f"{what} {count}" for what, count in row["findings"].items())
        head.append(f"| {variant} | {said} | {' | '.join(_level(row['columns'][name]) for name in names)} |")
    names = [name for name in names if any(row["columns"][name]["difference"] is not None for row in rows.values())]
    told = [f"| difference ± error | {' | '.join(COLUMNS[name] for name in names)} |", "|---" * (len(names) + 1) + "|"]
    for variant, row in list(rows.items())[1:]:
        told.append(f"| {variant} | {' | '.join(_difference(row['columns'][name]) for name in names)} |")
    return "\n".join([*head, "", *told])


def _level(column: dict[str, float | None]) -> str:
    if column["mean"] is None:
        return "-"
    return f"{column['mean']:.3f}" + ("" if column["sd"] is None else f" ± {column['sd']:.3f}")


def _difference(column: dict[str, float | None]) -> str:
    if column["difference"] is None:
        return "-"
    return f"{column['difference']:+.3f}" + ("" if column["error"] is None else f" ± {column['error']:.3f}")


def run(
    project: Project,
    config: TrainConfig,
    variants: Sequence[str],
    *,
    seeds: int = 5,
    tell: Callable[[str], None] = print,
    keep: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Train, diagnose, and put together; goes on where it stopped. ``keep`` is given all that is known after each run."""
    folder = f"arms-{config.epochs}-{seeds}-{len(variants)}{'-head' * config.fit_head_first}"
    begun = (project.folder / "runs" / folder).exists()
    found: list[Found] = []
    result: dict[str, Any] = {}
    for event in compare(project, config, variants, seeds=seeds, name=folder, resume=begun):
        if isinstance(event, TrialDone):
            one = diagnosed(project, event.trial)
            found.append(one)
            tell(
                f"{event.done} of {event.total}: {one.variant}, seed {one.seed}: {one.finding}; held-out AUC "
                f"{event.trial.patch_auc:.3f}; trained in {event.trial.seconds:.0f} s"
            )
            result = put_together(project, config, found)
            keep(result)
    return result


def put_together(project: Project, config: TrainConfig, found: Sequence[Found]) -> dict[str, Any]:
    """The facts, the table and all runs, as far as they are known."""
    chance = {name: _mean(_known([one.by_chance.get(name) for one in found])) for name in found[0].by_chance}
    return {
        "set": project.folder.name,
        "epochs": config.epochs,
        "seeds": len({one.seed for one in found}),
        "patients": len({slide.group for slide in project.cohort}),
        "slides": len(project.cohort),
        "patches": max(one.n_patches for one in found),
        "chance": chance,
        "rows": table_of(found),
        "runs": [asdict(one) for one in found],
    }


def main() -> None:
    """Print the tables of one set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", choices=list(SETS))
    parser.add_argument("--patches", type=Path, required=True, help="folder that holds lymphoma and idc")
    parser.add_argument("--work", type=Path, required=True, help="where slides, features and runs are kept")
    parser.add_argument("--variants", default=VARIANTS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--patients", type=int, help="so many slides, drawn at random; all when left out")
    parser.add_argument("--most", type=int, help="at most so many pictures of each class of a slide")
    parser.add_argument("--shown-px", type=int, help="side that each picture is brought to")
    parser.add_argument("--cell-px", type=int, help="side of the patches that are cut from it")
    parser.add_argument("--fit-head-first", action="store_true", help="begin with a head fitted on the frozen network")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="a few slides, one epoch, two seeds")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.seeds, chosen.epochs, chosen.patients, chosen.variants = 2, 1, QUICK_PATIENTS, QUICK_VARIANTS
    recipe = RECIPES[SETS[chosen.set]]
    asked = {"shown_px": chosen.shown_px, "cell_px": chosen.cell_px, "most": chosen.most}
    recipe = replace(recipe, **{field: value for field, value in asked.items() if value is not None})
    os.environ.setdefault(FOLDER_VARIABLE, str(chosen.work / "cache"))
    result = run(
        set_up(chosen.set, recipe, chosen.patches, chosen.work, chosen.patients),
        replace(settings(recipe, chosen.epochs or EPOCHS[chosen.set]), fit_head_first=chosen.fit_head_first),
        chosen.variants.split(","),
        seeds=chosen.seeds,
        tell=lambda line: print(line, flush=True),
        keep=lambda known: atomic_write_text(chosen.json, json.dumps(known, indent=2)) if chosen.json else None,
    )
    print({name: value for name, value in result.items() if name not in ("rows", "runs")})
    print(as_markdown(result["rows"]))


if __name__ == "__main__":
    main()
