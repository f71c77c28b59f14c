"""Does the remedy that is proposed on some patients help on others, who took no part in the choice?

In each draw patients are dealt into two parts. `learning.remedies.compare` looks at the first part alone and proposes a remedy
or none; the remedy and the plain head are then trained on that part and tried on the other one::

    python benchmarks/chooser.py --patches FOLDER --json chooser.json
    python benchmarks/chooser.py --patches FOLDER --set "idc tied" --nets --quick
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from patient_arms import ARMS, judge_arm
from patient_sets import RECIPES, PatientSet, read_set

from napari_slidecorr import drain
from napari_slidecorr.fast_config import FastConfig
from napari_slidecorr.io.atomic import atomic_write_text
from napari_slidecorr.learning.remedies import REPEATS, compare

DRAWS = 10
SETS = ("lymphoma, CLL and FL", "idc as is", "idc recoloured", "idc tied")


@dataclass(frozen=True)
class Draw:
    """What was proposed in one draw, and what came of it.

    Attributes
    ----------
    proposed : str
        Name of the remedy; empty for none.
    promised, promised_error : float
        Its gain on held-out folds of the patients that chose it.
    gain, inside_gain : float
        Its gain over the plain head on the others; 0 without a proposal, NaN inside slides of one class.
    plain : float
        AUC of the plain head on them.
    seconds : float
        Of a processor, that the comparison took.
    """

    draw: int
    proposed: str
    promised: float
    promised_error: float
    gain: float
    inside_gain: float
    plain: float
    seconds: float


def choose(data: PatientSet, draw: int, *, nets: bool, repeats: int = REPEATS) -> Draw:
    """Let one part of the patients choose, and the others judge."""
    train, test = data.choosers(draw)
    begun = time.process_time()
    report = drain(compare(data.part(train), FastConfig(), groups=data.groups, nets=nets, repeats=repeats, seed=draw))
    seconds = time.process_time() - begun
    plain = judge_arm(data, ARMS[0], (train, test), draw)
    if report.proposal is None:
        inside = 0.0 if np.isfinite(plain.inside) else float("nan")
        return Draw(draw, "", 0.0, 0.0, 0.0, inside, plain.pooled, seconds)
    best = report.proposal
    found = judge_arm(data, best.remedy, (train, test), draw)
    gains = found.pooled - plain.pooled, found.inside - plain.inside
    return Draw(draw, best.remedy.name, best.gain, best.gain_error, *gains, plain.pooled, seconds)


def facts_of(data: PatientSet, draws: Sequence[Draw], *, nets: bool, repeats: int = REPEATS) -> dict[str, Any]:
    """What came of all draws of a set, as plain values."""
    of_slide = np.asarray(data.of_slide)[data.labelled.table.slide_index]
    train, test = data.choosers(0)
    made = [draw for draw in draws if draw.proposed]
    return {
        "set": data.name,
        "nets": nets,
        "repeats": repeats,
        "patients": data.patients,
        "chosen_on": len(np.unique(of_slide[train])),
        "tried_on": len(np.unique(of_slide[test])),
        "draws": len(draws),
        "proposals": dict(Counter(draw.proposed or "none" for draw in draws).most_common()),
        "gain": mean_and_error([draw.gain for draw in draws]),
        "gain_of_proposals": mean_and_error([draw.gain for draw in made]),
        "promised": mean_and_error([draw.promised for draw in made]),
        "inside_gain": mean_and_error([draw.inside_gain for draw in draws]),
        "worst": min(draw.gain for draw in draws),
        "losses": sum(draw.gain < 0 for draw in draws),
        "plain": mean_and_error([draw.plain for draw in draws]),
        "seconds": mean_and_error([draw.seconds for draw in draws]),
        "each": [{k: _plain(v) for k, v in asdict(draw).items()} for draw in draws],
    }


def mean_and_error(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean of finite values and its standard error; None where there are too few."""
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    if not len(known):
        return None, None
    error = float(known.std(ddof=1) / np.sqrt(len(known))) if len(known) > 1 else None
    return float(known.mean()), error


def table_of(found: Sequence[dict[str, Any]]) -> str:
    """The results as a table in Markdown."""
    heads = (
        "set",
        "patients",
        "draws",
        "proposed",
        "promised",
        "gain, all draws",
        "inside a slide",
        "worst",
        "losses",
        "seconds",
    )
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for facts in found:
        proposals = ", ".join(f"{name} {count}" for name, count in facts["proposals"].items())
        cells = [
            facts["set"],
            f"{facts['chosen_on']} choose, {facts['tried_on']} judge",
            str(facts["draws"]),
            proposals,
            _told(facts["promised"]),
            _told(facts["gain"]),
            _told(facts["inside_gain"]),
            f"{facts['worst']:+.3f}",
            str(facts["losses"]),
            f"{facts['seconds'][0]:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _told(pair: tuple[float | None, float | None]) -> str:
    mean, error = pair
    if mean is None:
        return "-"
    return f"{mean:+.4f} ± {error:.4f}" if error is not None else f"{mean:+.4f}"


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def measure(names: Sequence[str], options: argparse.Namespace, work: Path) -> Iterator[dict[str, Any]]:
    """Give what is known of each set after each draw."""
    for name in names:
        data = read_set(name, options.patches, work, quick=options.quick)
        draws: list[Draw] = []
        for draw in range(2 if options.quick else options.draws):
            draws.append(choose(data, draw, nets=options.nets, repeats=options.repeats))
            yield facts_of(data, draws, nets=options.nets, repeats=options.repeats)


def main() -> None:
    """Measure and print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=Path, required=True, help="folder of sets")
    parser.add_argument("--set", dest="sets", action="append", choices=list(RECIPES), help="four of them when left out")
    parser.add_argument("--work", type=Path, help="folder for slides and features, which a later run takes up again")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--repeats", type=int, default=REPEATS, help="how often the comparison deals patients to folds")
    parser.add_argument("--nets", action="store_true", help="adapters too, which take most of the time")
    parser.add_argument("--quick", action="store_true", help="a few slides and two draws")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for facts in measure(options.sets or SETS, options, options.work or Path(folder)):
            found[facts["set"]] = facts
            if options.json:
                atomic_write_text(options.json, json.dumps({"quick": options.quick, "sets": found}, indent=2))
    print(table_of(list(found.values())))


if __name__ == "__main__":
    main()
