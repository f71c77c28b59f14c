"""What helps on these slides: remedies against slide-wise shift, each beside the plain head on slides not trained on.

Everything is chosen inside the training slides of each fold; the row to beat is a linear head whose penalty was chosen
there. A remedy is proposed only when its gain exceeds what the best of so many remedies may seem to gain by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.errors import CohortError
from napari_slidecorr.events import Event
from napari_slidecorr.fast_config import PENALTIES, FastConfig, HeadConfig
from napari_slidecorr.learning.fast_training import group_numbers
from napari_slidecorr.learning.heads import Probabilities, fit_head, fit_linear_folds
from napari_slidecorr.learning.held_out import balanced_part, choose_penalty, few_groups_warning, fold_of_rows
from napari_slidecorr.learning.labelled import Labelled
from napari_slidecorr.learning.nuisance import check_several_classes, fit_projected
from napari_slidecorr.learning.remedy_table import (
    Remedy,
    RemedyReport,
    RemedyRow,
    mean_of,
    needed_gain,
    paired_gain,
    remedies,
)
from napari_slidecorr.metrics import patch_auc

FOLDS, REPEATS = 5, 3
FEWEST_GROUPS = 2 * FOLDS
"""With fewer slides or patients, two a fold, the table is shown and nothing is proposed."""

MOST_ROWS, ROWS_TO_CHOOSE = 6000, 2000
INNER_FOLDS = 3


@dataclass(frozen=True, kw_only=True)
class RemedyTried(Event):
    """One more row of the table."""

    row: RemedyRow


@dataclass(frozen=True, kw_only=True)
class RemediesDone(Event):
    """The end; ``result`` is the `RemedyReport`."""

    result: RemedyReport


def compare(
    labelled: Labelled,
    config: FastConfig,
    *,
    groups: Mapping[str, str] | None = None,
    nets: bool = True,
    repeats: int = REPEATS,
    seed: int = 0,
) -> Iterator[Event]:
    """Try remedies on held-out slides.

    Parameters
    ----------
    labelled : Labelled
        With the centres of slides.
    config : FastConfig
        Its head says how adapters are trained.
    groups : mapping of slide id to group, optional
        What is held out together; each slide alone when left out.
    nets : bool
        Also adapters; they are tried in the first repeat alone.
    repeats : int
        How often groups are dealt to folds anew.

    Returns
    -------
    iterator of Event
        A `RemedyTried` for each remedy, and at the end `RemediesDone`.

    Raises
    ------
    CohortError
        Now, if fewer than two slides (or patients) can be held out.
    """
    trial = _Trial.of(labelled, groups, repeats, seed)
    return _compare(trial, remedies(config, nets=nets))


@dataclass(frozen=True, eq=False)
class _Trial:
    """Labelled patches dealt to folds several times.

    Attributes
    ----------
    folds : list of (ndarray, int)
        Of each repeat: which fold holds a patch out, and how many there are.
    penalties : list of list of float
        Of each repeat and fold: chosen inside the training slides; filled as they are chosen.
    """

    labelled: Labelled
    label: NDArray[np.int64]
    slide_index: NDArray[np.int32]
    of_slide: list[int]
    folds: list[tuple[NDArray[np.int64], int]]
    penalties: list[list[float]]

    @classmethod
    def of(cls, labelled: Labelled, groups: Mapping[str, str] | None, repeats: int, seed: int) -> _Trial:
        table = labelled.table
        rows = balanced_part(table.label, table.slide_index, MOST_ROWS, seed)
        keep = np.zeros(len(table), bool)
        keep[rows] = True
        part = replace(labelled, features=labelled.features[rows], table=table.of_rows(keep))
        of_slide = group_numbers(table.slides, groups)
        label, slide_index = part.table.label.astype(np.int64), part.table.slide_index
        folds = [
            fold_of_rows(label, slide_index, groups=of_slide, folds=FOLDS, seed=seed * 1000 + repeat)
            for repeat in range(repeats)
        ]
        return cls(part, label, slide_index, of_slide, folds, [[] for _ in folds])

    @property
    def classes(self) -> int:
        return len(self.labelled.table.classes)

    def scores(self, repeat: int, predict: Callable[[NDArray[np.bool_], int], Probabilities]) -> NDArray[np.float64]:
        """Pooled and inside-slide AUC of each fold of a repeat, shape (folds, 2)."""
        fold, total = self.folds[repeat]
        out = np.full((total, 2), np.nan)
        for held in range(total):
            rows = fold == held
            if rows.any():
                found = predict(rows, held)
                out[held] = patch_auc(self.label[rows], found), self._inside(rows, found)
        return out

    def _inside(self, rows: NDArray[np.bool_], probabilities: Probabilities) -> float:
        label, slide = self.label[rows], self.slide_index[rows]
        each = [patch_auc(label[slide == s], probabilities[slide == s]) for s in np.unique(slide)]
        known = [auc for auc in each if np.isfinite(auc)]
        return float(np.mean(known)) if known else float("nan")


def _compare(trial: _Trial, wanted: Sequence[Remedy]) -> Generator[Event, None, None]:
    rows: list[RemedyRow] = []
    plain = np.zeros((0, 2))
    candidates = sum(remedy.may_be_proposed for remedy in wanted[1:])
    for done, remedy in enumerate(wanted):
        yield Event(phase=f"Trying {remedy.name}", done=done, total=len(wanted))
        try:
            found = yield from _tried(trial, remedy)
        except CohortError as error:
            rows.append(RemedyRow(remedy, refused=str(error)))
        else:
            plain = found if not rows else plain
            ratio = 1 / max(trial.folds[0][1] - 1, 1)
            rows.append(_row(remedy, found, plain[: len(found)], ratio, candidates))
        yield RemedyTried(phase=f"Tried {remedy.name}", done=done + 1, total=len(wanted), row=rows[-1])
    yield RemediesDone(phase="Compared", done=len(wanted), total=len(wanted), result=_report(trial, rows))


def _tried(trial: _Trial, remedy: Remedy) -> Generator[Event, None, NDArray[np.float64]]:
    """Scores of all folds of all repeats, shape (repeats * folds, 2), in the order of the plain head's."""
    label, slide_index = trial.label, trial.slide_index
    if remedy.centring:
        check_several_classes(label, slide_index, "Centring")
    features = trial.labelled.centred(remedy.centring)
    repeats = range(len(trial.folds)) if remedy.head.net == "linear" else range(1)
    out = []
    for repeat in repeats:
        if remedy.head.net != "linear":
            predict = _net_predictor(trial, features, remedy.head, repeat)
        elif remedy.projection:
            predict = _projected_predictor(trial, features, remedy, repeat)
        else:
            if len(trial.penalties[repeat]) < trial.folds[repeat][1]:
                yield from _choose_penalties(trial, repeat)
            predict = _linear_predictor(trial, features, remedy, repeat)
        out.append(trial.scores(repeat, predict))
        yield Event(phase=f"Trying {remedy.name}", done=repeat + 1, total=len(repeats))
    return np.concatenate(out)


def _choose_penalties(trial: _Trial, repeat: int) -> Generator[Event, None, None]:
    fold, total = trial.folds[repeat]
    for held in range(total):
        rows = fold != held
        try:
            penalty, _ = choose_penalty(
                trial.labelled.features[rows],
                trial.label[rows],
                trial.slide_index[rows],
                groups=trial.of_slide,
                classes=trial.classes,
                folds=INNER_FOLDS,
                max_rows=ROWS_TO_CHOOSE,
                seed=repeat,
            )
        except CohortError:  # too few groups are left to choose inside
            penalty = PENALTIES[len(PENALTIES) // 2]
        trial.penalties[repeat].append(penalty)
        yield Event(phase="Choosing penalties inside the training slides", done=held + 1, total=total)


_Predictor = Callable[[NDArray[np.bool_], int], Probabilities]


def _linear_predictor(trial: _Trial, features: NDArray[np.floating], remedy: Remedy, repeat: int) -> _Predictor:
    fold, total = trial.folds[repeat]
    fixed = remedy.head.penalty
    chosen = trial.penalties[repeat] if fixed is None else [fixed] * total
    used = sorted(set(chosen))
    args = features, trial.label, trial.slide_index, fold, total, used, trial.classes
    heads = dict(zip(used, fit_linear_folds(*args), strict=True))
    return lambda rows, held: heads[chosen[held]][held].predict(features[rows])


def _projected_predictor(trial: _Trial, features: NDArray[np.floating], remedy: Remedy, repeat: int) -> _Predictor:
    fold, _ = trial.folds[repeat]

    def predict(rows: NDArray[np.bool_], held: int) -> Probabilities:
        seen = fold != held
        label, slide_index = trial.label[seen], trial.slide_index[seen]
        config = replace(remedy.head, penalty=trial.penalties[repeat][held])
        head = fit_projected(features[seen], label, slide_index, config, remedy.projection, classes=trial.classes)
        return head.predict(features[rows])

    return predict


def _net_predictor(trial: _Trial, features: NDArray[np.floating], config: HeadConfig, repeat: int) -> _Predictor:
    fold, _ = trial.folds[repeat]

    def predict(rows: NDArray[np.bool_], held: int) -> Probabilities:
        seen = fold != held
        head = fit_head(features[seen], trial.label[seen], trial.slide_index[seen], config, classes=trial.classes)
        return head.predict(features[rows])

    return predict


def _row(
    remedy: Remedy, found: NDArray[np.float64], plain: NDArray[np.float64], ratio: float, candidates: int
) -> RemedyRow:
    (gain, error), (inside, inside_error) = (paired_gain(found[:, i] - plain[:, i], ratio) for i in (0, 1))
    scores = int(np.isfinite(found[:, 0] - plain[:, 0]).sum())
    needed = needed_gain(error, scores, candidates)
    return RemedyRow(remedy, mean_of(found[:, 0]), mean_of(found[:, 1]), gain, error, needed, inside, inside_error)


def _report(trial: _Trial, rows: Sequence[RemedyRow]) -> RemedyReport:
    groups = len({trial.of_slide[slide] for slide in np.unique(trial.slide_index)})
    helping = [row for row in rows[1:] if row.helps] if groups >= FEWEST_GROUPS else []
    best = max(helping, key=lambda row: row.gain - row.needed, default=None)
    return RemedyReport(
        tuple(rows),
        best,
        _sentence(best, rows[0], groups),
        len(np.unique(trial.slide_index)),
        groups,
        len(trial.label),
        trial.folds[0][1],
        len(trial.folds),
        few_groups_warning(groups),
    )


def _sentence(best: RemedyRow | None, plain: RemedyRow, groups: int) -> str:
    if best is not None:
        return (
            f"Proposed: {best.remedy.name}; its AUC on held-out slides is {best.gain:.3f} ± {best.gain_error:.3f} higher; "
            f"up to {best.needed:.3f} could be chance."
        )
    if groups < FEWEST_GROUPS:
        return f"{groups} slides or patients are too few to propose anything; label on {FEWEST_GROUPS} or more."
    return (
        f"No remedy needed, or none helps: no gain over the plain head (AUC {plain.auc:.3f}) is larger than what could be "
        "chance."
    )
