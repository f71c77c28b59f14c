"""What helps on new patients: heads on frozen features and a trained last stage, on published patches of many patients.

The folder holds sets of patches, ``lymphoma`` and ``idc``, each with ``fields.csv`` (file, label, patient, slide). They are laid
into slides (`patient_slides`), so that features, centring and training are those of the plugin. Patients are held out, never
patches; all arms see the same patients and seeds, and are compared in pairs with the plain linear head::

    python benchmarks/real_patients.py --patches FOLDER --json patients.json
    python benchmarks/real_patients.py --patches FOLDER --set "idc tied" --tuned-seeds 1 --quick
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from patient_arms import ARMS, PLAIN, TUNED, Score, judge_arm, judge_tuned
from patient_sets import RECIPES, PatientSet, fast_config, read_set

from napari_slidecorr import ScrConfig
from napari_slidecorr.errors import CohortError, ConfigError
from napari_slidecorr.fast_config import HeadConfig
from napari_slidecorr.io.atomic import atomic_write_text
from napari_slidecorr.learning.remedy_table import Remedy

SEEDS, TUNED_SEEDS, EPOCHS = 5, 2, 4


@dataclass(frozen=True)
class Run:
    """The score of one arm on the held-out patients of one fold of one seed."""

    arm: str
    seed: int
    fold: int
    score: Score


def run_arms(data: PatientSet, arms: Sequence[Remedy], seeds: Iterable[int]) -> tuple[list[Run], dict[str, str]]:
    """Judge arms on all folds of some seeds; also gives why an arm was refused, by its name."""
    runs, refused = [], {}
    for seed in seeds:
        for fold, split in enumerate(data.splits(seed)):
            for arm in arms:
                try:
                    runs.append(Run(arm.name, seed, fold, judge_arm(data, arm, split, seed)))
                except CohortError as error:
                    refused[arm.name] = str(error)
    return runs, refused


def run_tuned(data: PatientSet, seeds: int, epochs: int) -> Iterator[Run]:
    """Train the last stage of the network on the first fold of so many seeds."""
    for seed in range(seeds):
        split = data.splits(seed)[0]
        yield Run(TUNED, seed, 0, judge_tuned(data, split, seed, fast_config(data.recipe), epochs))


def rows_of(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Give means of each arm, and mean and standard error over seeds of its differences to the plain head.

    Folds of a seed are averaged first: they are no independent draws.
    """
    plain = {(run.seed, run.fold): run.score for run in runs if run.arm == PLAIN}
    out = []
    for name in dict.fromkeys(run.arm for run in runs):
        mine = [run for run in runs if run.arm == name]
        seeds = sorted({run.seed for run in mine})
        row: dict[str, Any] = {"arm": name, "seeds": len(seeds), "runs": len(mine)}
        for key in ("pooled", "inside", "probe", "seconds"):
            values = [getattr(run.score, key) for run in mine]
            differences = [
                np.mean([getattr(r.score, key) - getattr(plain[r.seed, r.fold], key) for r in mine if r.seed == seed])
                for seed in seeds
            ]
            error = np.std(differences, ddof=1) / np.sqrt(len(seeds)) if len(seeds) > 1 else np.nan
            row |= {key: _plain(np.mean(values)), f"{key}_gain": _plain(np.mean(differences))}
            row[f"{key}_error"] = _plain(error)
        row["probe_chance"] = _plain(np.mean([run.score.probe_chance for run in mine]))
        out.append(row)
    return out


def table_of(facts: dict[str, Any]) -> str:
    """The results of one set as a table in Markdown."""
    heads = ("trained", "n", "AUC", "difference", "inside a slide", "difference", "slide probe", "seconds")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in facts["rows"]:
        cells = [row["arm"], f"{row['seeds']} / {row['runs']}"]
        for key in ("pooled", "inside"):
            cells += [
                _number(row[key]),
                "" if row["arm"] == PLAIN else _signed(row[f"{key}_gain"], row[f"{key}_error"]),
            ]
        cells += [_number(row["probe"], 2), _number(row["seconds"], 1)]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *(f"{name} was refused: {why}" for name, why in facts["refused"].items())]
    chance = _number(facts["rows"][0]["probe_chance"], 2)
    told = f"{facts['patients']} patients, {facts['slides']} slides, {facts['patches']} patches; "
    told += f"{facts['trained_on']} patients train, {facts['tried_on']} are new; slide probe by chance {chance}"
    return "\n".join([f"{facts['set']}: {told}", "", *lines])


def linear_refusal() -> str:
    """Why SCR is refused on a linear head, in the plugin's words."""
    try:
        HeadConfig(objective=ScrConfig())
    except ConfigError as error:
        return str(error)
    raise AssertionError("a linear head took SCR")


def facts_of(data: PatientSet, runs: Sequence[Run], refused: dict[str, str]) -> dict[str, Any]:
    """All that is known of a set and its results, as plain values."""
    of_slide = np.asarray(data.of_slide)[data.labelled.table.slide_index]
    train, test = data.splits(0)[0]
    return {
        "set": data.name,
        "patients": data.patients,
        "slides": len(data.labelled.table.slides),
        "patches": len(data.labelled.table),
        "patches_of_classes": dict(
            zip(data.labelled.table.classes, data.labelled.table.counts().sum(axis=0).tolist(), strict=True)
        ),
        "trained_on": len(np.unique(of_slide[train])),
        "tried_on": len(np.unique(of_slide[test])),
        "feature_seconds": data.feature_seconds,
        "notices": data.notices,
        "refused": {"linear, SCR 0.2": linear_refusal(), **refused},
        "rows": rows_of(runs),
        "runs": [{**asdict(run), "score": {k: _plain(v) for k, v in asdict(run.score).items()}} for run in runs],
    }


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _signed(value: float | None, error: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:+.3f} ± {error:.3f}" if error is not None else f"{value:+.3f}"


def measure(names: Sequence[str], patches: Path, work: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Give what is known of each set after each seed of the heads and each training through the network."""
    for name in names:
        data = read_set(name, patches, work, quick=options.quick)
        runs: list[Run] = []
        for seed in range(1 if options.quick else options.seeds):
            found, refused = run_arms(data, ARMS, [seed])
            runs += found
            yield facts_of(data, runs, refused)
        for run in run_tuned(data, options.tuned_seeds, options.epochs):
            runs.append(run)
            yield facts_of(data, runs, refused)


def main() -> None:
    """Measure and print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=Path, required=True, help="folder of sets")
    parser.add_argument("--set", dest="sets", action="append", choices=list(RECIPES), help="all when left out")
    parser.add_argument("--work", type=Path, help="folder for slides and features, which a later run takes up again")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--tuned-seeds", type=int, default=TUNED_SEEDS, help="for the training through the network")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the training through the network")
    parser.add_argument("--quick", action="store_true", help="a few slides and one seed")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, dict[str, Any]] = {}
        for facts in measure(options.sets or list(RECIPES), options.patches, options.work or Path(folder), options):
            found[facts["set"]] = facts
            if options.json:
                atomic_write_text(options.json, json.dumps({"quick": options.quick, "sets": found}, indent=2))
    for facts in found.values():
        print(table_of(facts), end="\n\n")


if __name__ == "__main__":
    main()
