"""What became of many slides, as text and as a file for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from napari_slidecorr.cohort_prediction import SlideOutcome
from napari_slidecorr.io.atomic import atomic_write_text

COLUMNS = ("slide", "state", "seconds", "patches", "patches_per_second", "error", "map", "model", "cells")


def as_table(outcomes: Sequence[SlideOutcome]) -> str:
    """Give a line a slide: state, seconds, patches a second, and the score or why it failed."""
    rows = [("slide", "state", "seconds", "patches/s", "score")]
    for one in outcomes:
        done = one.state == "predicted"
        speed = (f"{one.seconds:.1f}", f"{one.patches_per_second:.1f}") if done else ("", "")
        rows.append((one.slide, one.state, *speed, one.error or percentages(one.score)))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join("  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[4]]) for row in rows)


def in_total(outcomes: Sequence[SlideOutcome], seconds: float) -> str:
    """Say in one line how many slides ended how, and how fast all of them together were."""
    states = [one.state for one in outcomes]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "no slide"
    patches = sum(one.patches for one in outcomes)
    return f"{counts}; {patches} patches in {seconds:.1f} s ({patches / max(seconds, 1e-9):.1f} patches/s)"


def facts(outcome: SlideOutcome) -> dict[str, Any]:
    """Give how the prediction of a slide went, for scripts."""
    return {name: getattr(outcome, name) for name in COLUMNS[:6]}


def write_csv(path: Path, outcomes: Sequence[SlideOutcome]) -> None:
    """Write a line a slide, whole or not at all: `COLUMNS`, then each class's score and area in mm2.

    Raises
    ------
    ProjectError
        If the file cannot be written.
    """
    classes = list(dict.fromkeys(name for one in outcomes for name in one.score or {}))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*COLUMNS, *(f"score {name}" for name in classes), *(f"mm2 {name}" for name in classes)])
    for one in outcomes:
        score, area = one.score or {}, one.area_mm2 or {}
        values = [getattr(one, name) for name in COLUMNS]
        table.writerow([_cell(v) for v in (*values, *map(score.get, classes), *map(area.get, classes))])
    atomic_write_text(path, text.getvalue())


def percentages(score: dict[str, float] | None) -> str:
    """Give a slide's scores in words."""
    return ", ".join(f"{name} {value:.1%}" for name, value in score.items()) if score else "no tissue found"


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value
