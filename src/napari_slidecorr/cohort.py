"""Which slides there are, who they belong to, and how they are divided; never by patch, no files."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from napari_slidecorr.errors import CohortError
from napari_slidecorr.wording import counted

_ATTEMPTS = 100


@dataclass(frozen=True)
class CohortSlide:
    """A slide of a cohort.

    Attributes
    ----------
    id : str
        Unique in the cohort.
    path : str
        The file or folder; relative to the project's folder when it lies inside.
    group : str
        What must not be split, usually the patient; the slide's own id unless said otherwise.
    mpp : (float, float) or None
        The user's micrometres per pixel (y, x), which override the file's.
    """

    id: str
    path: str
    group: str
    mpp: tuple[float, float] | None = None


@dataclass(frozen=True)
class Split:
    """Slides that train and slides that are held out; no group stands on both sides."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


def split_by_group(
    groups: Mapping[str, str], classes: Mapping[str, Sequence[str]], *, fraction: float, seed: int
) -> Split:
    """Hold out groups of slides so that every class stands on both sides.

    Parameters
    ----------
    groups : mapping of slide id to group
        The patient, say; slides of one group stay together.
    classes : mapping of slide id to class names
        The classes that are labelled on each slide; a slide without any takes no part.
    fraction : float in [0, 1)
        Share of *groups* to hold out; at least one is held out and one trained on. 0 holds nothing out.
    seed : int
        Decides which; the same arguments always give the same split.

    Raises
    ------
    CohortError
        If a class is labelled in fewer than two groups; names the class and where it is.
    """
    members = _labelled(groups, classes)
    if fraction == 0:
        return _split_without(members, frozenset())
    held = _held_out(_classes_of_groups(members, classes), fraction, np.random.default_rng([seed, 0x5911]))
    return _split_without(members, held)


def _classes_of_groups(
    members: Mapping[str, Sequence[str]], classes: Mapping[str, Sequence[str]]
) -> dict[str, frozenset[str]]:
    of_group = {
        group: frozenset(name for slide in slides for name in classes[slide]) for group, slides in members.items()
    }
    for name in sorted(frozenset().union(*of_group.values())):
        having = [group for group, names in of_group.items() if name in names]
        if len(having) < 2:
            where = ", ".join(slide for slide in members[having[0]] if name in classes[slide])
            raise CohortError(
                f"Class {name!r} is labelled on one slide or patient only ({where}); one side of a slide-wise split would "
                "lack it. Label it on a second one."
            )
    if len(of_group) < 2:
        raise CohortError(
            f"Labelled regions are on {counted(len(of_group), 'slide')} only; a slide-wise split needs at least 2."
        )
    return of_group


def _held_out(of_group: Mapping[str, frozenset[str]], fraction: float, rng: np.random.Generator) -> set[str]:
    """Pick groups greedily: first one for each class that is missing, then up to the wanted number."""
    names = sorted(of_group)
    order = [names[i] for i in rng.permutation(len(names))]
    every = frozenset().union(*of_group.values())
    wanted = min(max(1, round(fraction * len(order))), len(order) - 1)
    held: set[str] = set()

    def keeps_training_whole(group: str) -> bool:
        left = [of_group[other] for other in order if other not in held and other != group]
        return bool(left) and frozenset().union(*left) == every

    while True:
        covered = frozenset().union(*(of_group[group] for group in held))
        candidates = [group for group in order if group not in held and keeps_training_whole(group)]
        gain = {group: len(of_group[group] - covered) for group in candidates}
        if not candidates or (covered == every and len(held) >= wanted):
            break
        best = max(candidates, key=lambda group: gain[group])
        if covered != every and gain[best] == 0:
            break
        held.add(best)
    if frozenset().union(*(of_group[group] for group in held)) != every:
        raise CohortError(
            "The slides cannot be divided so that every class stands on both sides. Label more classes on each slide, "
            "or add slides."
        )
    return held


def k_fold(groups: Mapping[str, str], classes: Mapping[str, Sequence[str]], *, folds: int, seed: int) -> list[Split]:
    """Hold out every group once, in folds of about as many patients each and with every class on both sides.

    Parameters
    ----------
    groups, classes
        As for `split_by_group`.
    folds : int
        2 or more; as many as there are groups is `leave_one_group_out`.
    seed : int
        Decides which groups meet; the same arguments always give the same folds.

    Raises
    ------
    CohortError
        If there are fewer groups than folds, or a class is labelled in fewer groups than that a fold could do without
        it; says what would do.
    """
    members = _labelled(groups, classes)
    of_group = _classes_of_groups(members, classes)
    if not 2 <= folds <= len(of_group):
        raise CohortError(f"{len(of_group)} slides or patients make 2 to {len(of_group)} folds, not {folds}.")
    having = Counter(name for names in of_group.values() for name in names)
    rarest = min(sorted(having), key=lambda name: having[name])
    if having[rarest] < folds:
        raise CohortError(
            f"Class {rarest!r} is labelled on {having[rarest]} slides or patients, so one of {folds} folds would lack it. "
            f"Use {having[rarest]} folds at most, label it on more, or leave one out at a time."
        )
    rng = np.random.default_rng([seed, 0xF01D])
    for _ in range(_ATTEMPTS):
        dealt = _dealt(of_group, having, folds, rng)
        if all(frozenset().union(*(of_group[group] for group in fold)) == having.keys() for fold in dealt):
            return [_split_without(members, frozenset(fold)) for fold in dealt]
    raise CohortError(f"The slides cannot be dealt to {folds} folds that all have every class. Use fewer folds.")


def leave_one_group_out(groups: Mapping[str, str], classes: Mapping[str, Sequence[str]]) -> list[Split]:
    """Hold out each patient (or slide, where no groups are given) in turn.

    A held-out side may lack a class; a score that needs several classes is then told over all of them together.

    Raises
    ------
    CohortError
        If a class is labelled in one group only: trained without that group it would be unknown.
    """
    members = _labelled(groups, classes)
    _classes_of_groups(members, classes)
    return [_split_without(members, frozenset([group])) for group in sorted(members)]


def _labelled(groups: Mapping[str, str], classes: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Slides with labels, by group."""
    members: dict[str, list[str]] = defaultdict(list)
    for slide_id in sorted(groups):
        if classes.get(slide_id):
            members[groups[slide_id]].append(slide_id)
    return members


def _split_without(members: Mapping[str, Sequence[str]], held: AbstractSet[str]) -> Split:
    return Split(
        train=tuple(slide for group in sorted(members) if group not in held for slide in members[group]),
        validation=tuple(slide for group in sorted(held) for slide in members[group]),
    )


def _dealt(
    of_group: Mapping[str, frozenset[str]], having: Mapping[str, int], folds: int, rng: np.random.Generator
) -> list[list[str]]:
    """Deal groups to folds of equal size, give or take one: rare classes first, each where it is missing."""
    names = sorted(of_group)
    order = [names[i] for i in rng.permutation(len(names))]
    order.sort(key=lambda group: min(having[name] for name in of_group[group]))
    smallest, larger = divmod(len(order), folds)
    dealt: list[list[str]] = [[] for _ in range(folds)]
    for group in order:
        full = sum(len(fold) > smallest for fold in dealt) >= larger
        room = [fold for fold in dealt if len(fold) < smallest + (not full)]
        missing = [len(of_group[group].difference(*(of_group[other] for other in fold))) for fold in room]
        room[min(range(len(room)), key=lambda i: (-missing[i], len(room[i])))].append(group)
    return dealt
