"""What is known of the selected trainings: one with its settings and curve, several side by side, folds, a comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem, QVBoxLayout, QWidget

from napari_slidecorr._napari.curve import Curve
from napari_slidecorr._napari.run_list import score_of
from napari_slidecorr._napari.training_progress import say, told_seconds, wrapped_line
from napari_slidecorr.comparison_table import SCORES, Comparison, Row
from napari_slidecorr.config import TrainConfig
from napari_slidecorr.cross_validation import CrossValidation
from napari_slidecorr.fast_config import FastConfig
from napari_slidecorr.settings import fields_of
from napari_slidecorr.stored_runs import RunGroup, Stored, StoredRun
from napari_slidecorr.training_plan import LEAKY
from napari_slidecorr.wording import counted

OTHER_SLIDES = "⚠ These trainings held out different slides: their scores say as much of the slides as of the settings."
HEAD_NAMES = {
    "train_auc": "training AUC",
    "patch_auc": "patch AUC",
    "inside_auc": "AUC inside slides",
    "slide_auc": "slide AUC",
}
ROWS_SHOWN = 12


class RunDetails(QWidget):
    """Text, a curve and a table; hidden when nothing is selected."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.warning = wrapped_line(), wrapped_line()
        self.text.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.warning.setStyleSheet("color: #d9822b;")
        self.curve, self.table = Curve(), FactTable()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self.text, self.curve, self.table, self.warning):
            layout.addWidget(widget)
        self.show_entries([])

    def show_entries(self, entries: Sequence[Stored]) -> None:
        """Show what is known of some trainings."""
        self.setVisible(bool(entries))
        runs = [one for one in entries if isinstance(one, StoredRun)]
        if len(entries) == 1:
            self._show_group(entries[0]) if isinstance(entries[0], RunGroup) else self._show_one(runs[0])
        elif entries:
            self._show_several(runs, left_out=len(entries) - len(runs))

    def _show_one(self, run: StoredRun) -> None:
        say(self.text, told_run(run))
        say(self.warning, f"⚠ {LEAKY}" if run.leaky else "")
        self._show_curves({run.name: run})
        self.table.hide()

    def _show_several(self, runs: Sequence[StoredRun], left_out: int) -> None:
        told = "Folds and comparisons as a whole are left out; open them and select runs inside." if left_out else ""
        say(self.text, told)
        held = {run.record.validation_slides for run in runs if run.record.validation_slides}
        doubts = [OTHER_SLIDES] if len(held) > 1 else []
        if any(run.leaky for run in runs) and not all(run.leaky for run in runs):
            doubts.append("⚠ A leaky score is not to be compared with one on held-out slides.")
        say(self.warning, "\n".join(doubts))
        self._show_curves({run.name: run for run in runs})
        self.table.fill(["", *(run.name.rpartition("/")[2] for run in runs)], side_by_side(runs))

    def _show_group(self, group: RunGroup) -> None:
        self._show_curves({run.name.rpartition("/")[2]: run for run in group.runs})
        warning, result = "", group.result
        if isinstance(result, CrossValidation):
            say(self.text, told_folds(group.name, result))
            warning = result.warning
            self.table.fill(*folds_table(result))
        elif isinstance(result, Comparison):
            say(
                self.text,
                f"{group.name}: mean ± sd over {counted(_seeds(result), 'seed')}; differences to {result.rows[0].variant}.",
            )
            warning = result.warning
            self.table.fill(*comparison_table(result))
        else:
            done = sum(run.state == "finished" for run in group.runs)
            say(self.text, " ".join([f"{group.name}: {group.state}, {counted(done, 'run')} finished.", group.sentence]))
            self.table.hide()
        say(self.warning, f"⚠ {warning}" if warning else "")

    def _show_curves(self, runs: dict[str, StoredRun]) -> None:
        curves = {name: run.record.curve for name, run in runs.items() if run.record.curve}
        self.curve.show_runs(curves)
        self.curve.setVisible(any(len(curve) > 1 for curve in curves.values()))


class FactTable(QTableWidget):
    """A small table to read and copy from, as high as what is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.verticalHeader().hide()
        self.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)

    def fill(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show rows of texts below a head."""
        self.clear()
        self.setColumnCount(len(head))
        self.setRowCount(len(rows))
        self.setHorizontalHeaderLabels(list(head))
        for number, texts in enumerate(rows):
            for column, text in enumerate(texts):
                item = QTableWidgetItem(text)
                item.setToolTip(text)
                self.setItem(number, column, item)
        self.resizeRowsToContents()
        shown = sum(self.rowHeight(number) for number in range(min(len(rows), ROWS_SHOWN)))
        self.setFixedHeight(self.horizontalHeader().sizeHint().height() + shown + 2 * self.frameWidth() + 16)
        self.setVisible(bool(rows))

    def texts(self) -> list[list[str]]:
        """Give what is shown, row by row."""
        return [
            [self.item(row, column).text() for column in range(self.columnCount())] for row in range(self.rowCount())
        ]


def told_run(run: StoredRun) -> str:
    """Say what a training is: state, settings that are not the usual ones, slides, and the epoch that was kept."""
    record = run.record
    planned = "" if run.fast or record.config is None else f" of {record.config.epochs}"
    epochs = [] if run.fast else [f"{len(record.curve)}{planned} epochs"]
    lines = [f"{run.name}: {', '.join([record.state, *epochs, told_seconds(record.seconds)])}"]
    if record.sentence:
        lines.append(record.sentence)
    config = run.fast or record.config
    if config is not None:
        lines.append(told_settings(config))
    lines.append(_told_slides(run))
    if record.epoch is not None and not run.fast and record.config is not None:
        lines.append(f"Model kept: of epoch {record.epoch + 1} ({record.config.keep}), held-out AUC {score_of(run)}.")
    return "\n".join(filter(None, lines))


def _told_slides(run: StoredRun) -> str:
    trained, held = run.record.train_slides, run.record.validation_slides
    if not trained:
        return ""
    if run.fast:
        return f"{len(trained)} slides, each judged by a head that had not seen it; held-out AUC {score_of(run)}."
    names = ", ".join(held[:4]) + (" ..." if len(held) > 4 else "")
    return f"{len(trained)} slides trained, {len(held)} held out{': ' + names if held else ''}."


def told_settings(config: TrainConfig | FastConfig) -> str:
    """Say objective or head, backbone, and every setting that is not as it is by default."""
    head = config.head if isinstance(config, FastConfig) else None
    objective = head.objective if head is not None else config.objective  # type: ignore[union-attr]
    values = [f"{f.setting.label.lower()} {getattr(objective, f.name)}" for f in fields_of(objective)]
    first = f"fast, {head.net} head" if head is not None else ""
    told = [part for part in (first, objective.title, *values, config.backbone) if part]
    default = type(config)()
    for name, (label, value) in flat_settings(config).items():
        if name not in ("objective", "backbone", "head.objective", "head.net") and value != _value(default, name):
            told.append(f"{label.lower()} {value}")
    return ", ".join(told)


def flat_settings(config: Any, before: str = "") -> dict[str, tuple[str, Any]]:
    """Give label and value of every setting by name; those of patches and head are told by ``patches.size_px`` and so on."""
    out: dict[str, tuple[str, Any]] = {}
    for field in fields_of(config):
        value = getattr(config, field.name)
        if len(field.nested) == 1:
            out |= flat_settings(value, f"{before}{field.name}.")
        else:
            out[before + field.name] = field.setting.label, value
    return out


def _value(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def side_by_side(runs: Sequence[StoredRun]) -> list[list[str]]:
    """Give rows of a table with a column for each run: scores, and the settings in which they differ."""
    rows = [
        ["AUC held out", *(score_of(run) for run in runs)],
        ["AUC training", *(_last(run, "train_auc") for run in runs)],
        ["accuracy", *(_last(run, "validation_accuracy") for run in runs)],
        ["state", *(run.state for run in runs)],
        ["epochs done", *(str(len(run.record.curve)) for run in runs)],
        ["took", *(told_seconds(run.record.seconds) for run in runs)],
        ["slides", *(f"{len(run.record.train_slides)} + {len(run.record.validation_slides)}" for run in runs)],
    ]
    if any(run.fast for run in runs):
        rows.append(["way", *("fast" if run.fast else "full" for run in runs)])
    settings = [flat_settings(run.fast or run.record.config) if run.fast or run.record.config else {} for run in runs]
    for name, (label, _) in settings[0].items():
        told = [_short(one[name][1]) for one in settings if name in one]
        if len(told) == len(runs) and len(set(told)) > 1:
            rows.append([label.lower(), *told])
    return rows


def _short(value: Any) -> str:
    """Say a value in a cell; a config by its kind and what is in it."""
    kind = getattr(type(value), "kind", None)
    if kind is None:
        return str(value)
    return " ".join([kind, *(str(getattr(value, field.name)) for field in fields_of(value))])


def _last(run: StoredRun, name: str) -> str:
    return _number(getattr(run.record.curve[-1], name)) if run.record.curve else "-"


def told_folds(name: str, result: CrossValidation) -> str:
    """Say what folds came to."""
    spread = f" ± {result.sd_auc:.3f}" if math.isfinite(result.sd_auc) else ""
    return (
        f"{name}: AUC of all held-out patches {_number(result.pooled_auc)}; of the {len(result.fold_auc)} folds "
        f"{_number(result.mean_auc)}{spread}."
    )


def folds_table(result: CrossValidation) -> tuple[list[str], list[list[str]]]:
    """Give head and rows of the table of held-out slides."""
    classes = list(result.slides[0].probabilities) if result.slides else []
    rows = [
        [
            one.slide,
            one.fold.removeprefix("fold-"),
            _number(result.fold_auc.get(one.fold, math.nan)),
            f"{one.patches:,}",
            _number(one.accuracy),
            *(f"{one.probabilities[name]:.2f} ({one.shares[name]:.2f})" for name in classes),
        ]
        for one in result.slides
    ]
    return ["slide", "fold", "fold AUC", "patches", "accuracy", *(f"{name} (labelled)" for name in classes)], rows


def comparison_table(result: Comparison) -> tuple[list[str], list[list[str]]]:
    """Give head and rows of the table of variants."""
    scores = [score for score in SCORES if any(math.isfinite(row.mean[score]) for row in result.rows)]
    head = ["", "difference", *(HEAD_NAMES[score] for score in scores)]
    return head, [[row.variant, _difference(row), *(_spread(row, score) for score in scores)] for row in result.rows]


def _difference(row: Row) -> str:
    value, error = row.difference["patch_auc"], row.error["patch_auc"]
    if not math.isfinite(value):
        return "-"
    return f"{value:+.3f}" + (f" ± {error:.3f}" if math.isfinite(error) else "")


def _spread(row: Row, score: str) -> str:
    sd = row.sd[score]
    return _number(row.mean[score]) + (f" ± {sd:.3f}" if math.isfinite(sd) else "")


def _seeds(result: Comparison) -> int:
    return len({trial.seed for trial in result.trials})


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"
