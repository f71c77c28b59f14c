"""How a training goes: loss and its terms, scores, speed and memory, the curve; of folds or comparisons a curve each."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable

from qtpy.QtWidgets import QGroupBox, QLabel, QSizePolicy, QVBoxLayout

from napari_slidecorr._napari.curve import Curve
from napari_slidecorr.events import BatchDone, EpochDone, Event, Notice

_PART = re.compile(r"^(Fold \d+) of \d+: |^(.+, seed \d+) \(\d+ of \d+\): ")
PAUSED = "Paused: nothing is computed until you press Go on. Cancel ends it, and it can be resumed later."

TERMS_S = 0.3
"""A text that wraps has the dock laid out anew, so the terms of batches are told so often and not 20 times a second."""


class TrainingProgress(QGroupBox):
    """Lines and a curve that follow the events of a training; hidden before the first.

    Attributes
    ----------
    notices, terms, scores, speed, paused : QLabel
    curve : Curve
    """

    def __init__(self) -> None:
        super().__init__("Progress")
        self.notices, self.terms, self.scores, self.speed, self.paused = (wrapped_line() for _ in range(5))
        self.paused.setStyleSheet("color: #d9822b;")
        self.curve = Curve()
        layout = QVBoxLayout(self)
        for widget in (self.paused, self.scores, self.speed, self.terms, self.curve, self.notices):
            layout.addWidget(widget)
        self._parts: dict[str, list[EpochDone]] = {}
        self._told_terms = 0.0
        self.hide()

    def begin(self, earlier: Iterable[EpochDone] = ()) -> None:
        """Show that a training has begun; ``earlier`` are the epochs that it goes on after."""
        self._parts = {}
        self._told_terms = 0.0
        self.curve.show_epochs(earlier)
        self.curve.hide()
        for label in (self.notices, self.terms, self.scores, self.speed, self.paused):
            say(label, "")
        self._show_curve()
        self.show()

    def take(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, Notice):
            mark = "⚠ " if event.warning else ""
            told = self.notices.text().splitlines()
            if (line := mark + event.message) not in told:
                say(self.notices, "\n".join([*told, line]))
        elif isinstance(event, BatchDone):
            if time.monotonic() - self._told_terms >= TERMS_S:
                self._told_terms = time.monotonic()
                say(self.terms, told_terms(event))
        elif isinstance(event, EpochDone):
            self._add(event)
            say(self.scores, told_scores(event))
            say(self.speed, told_speed(event))

    def show_paused(self, *, paused: bool) -> None:
        """Say that it rests, or no longer."""
        say(self.paused, PAUSED if paused else "")

    def _add(self, event: EpochDone) -> None:
        """Put an epoch on the curve; one of another fold or variant begins a curve of its own."""
        if part := part_of(event.phase):
            self._parts.setdefault(part, []).append(event)
            self.curve.show_runs(self._parts)
        elif event.epoch <= max((epoch.epoch for epoch in self.curve.epochs), default=-1):
            self.curve.show_epochs([*(e for e in self.curve.epochs if e.epoch < event.epoch), event])
        else:
            self.curve.add(event)
        self._show_curve()

    def _show_curve(self) -> None:
        """One point is no curve; a training that has one epoch only, as a fast one, has none."""
        runs = self.curve.runs
        planned = max((epoch.total for run in runs.values() for epoch in run), default=0)
        self.curve.setVisible(len(runs) > 1 or planned > 1 or len(self.curve.epochs) > 1)


def part_of(phase: str) -> str:
    """Name the fold, or the variant and seed, that a phase is of; empty for a training by itself."""
    found = _PART.match(phase)
    return (found[1] or found[2]) if found else ""


def told_terms(event: BatchDone) -> str:
    """Say the loss of a batch, its terms and its same-slide pairs."""
    terms = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in event.terms.items())
    return f"Loss {event.loss:.4g} ({terms}), {event.pairs} same-slide pairs"


def told_scores(event: EpochDone) -> str:
    """Say the scores of an epoch; those that are not defined, such as of held-out slides without any, are left out."""
    kind = "leaky" if event.leaky else "held out"
    scores = {
        "AUC training": event.train_auc,
        kind: event.validation_auc,
        f"accuracy {kind}": event.validation_accuracy,
    }
    told = [f"{name} {score:.3f}" for name, score in scores.items() if math.isfinite(score)]
    part = part_of(event.phase)
    epoch = "" if is_at_once(event) else f"Epoch {event.epoch + 1}"
    told = [", ".join(filter(None, [part, epoch])), ", ".join(told)]
    return ": ".join(filter(None, told))


def is_at_once(event: EpochDone) -> bool:
    """Whether a training has this one epoch only, as a fast one."""
    return event.total == 1 and not event.pairs


def told_speed(event: EpochDone) -> str:
    """Say speed, waiting for data, pairs, memory and what is left of this training."""
    if is_at_once(event):
        return f"Took {event.seconds:.1f} s."
    told = [f"{event.patches_per_second:.0f} patches/s", f"{share_waited(event):.0%} of the time waiting for patches"]
    if event.pairs:
        told.append(f"{event.pairs:.0f} same-slide pairs a batch")
    if event.peak_memory:
        told.append(f"{event.peak_memory / 1e9:.2g} GB at most")
    if left := (event.total - event.done) * event.seconds:
        told.append(f"about {told_seconds(left)} left{' of this one' if part_of(event.phase) else ''}")
    return ", ".join(told)


def share_waited(event: EpochDone) -> float:
    """Give the part of an epoch's time in which steps waited for patches."""
    return min(1.0, event.data_wait_s / event.seconds) if event.seconds else 0.0


def told_seconds(seconds: float) -> str:
    """Say a duration in the unit that fits."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def say(label: QLabel, text: str) -> None:
    """Show a text in a line; an empty one hides it."""
    label.setText(text)
    label.setVisible(bool(text))


def wrapped_line() -> QLabel:
    """Make a hidden line of text that wraps and never widens its dock."""
    label = QLabel()
    label.setWordWrap(True)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    label.hide()
    return label
