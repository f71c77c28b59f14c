"""Which slides there are, who they belong to, and how they are divided; never by patch, no files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from napari_slidecorr.errors import CohortError


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
    members: dict[str, list[str]] = defaultdict(list)
    for slide_id in sorted(groups):
        if classes.get(slide_id):
            members[groups[slide_id]].append(slide_id)
    if fraction == 0:
        return Split(train=tuple(slide for group in sorted(members) for slide in members[group]), validation=())
    held = _held_out(_classes_of_groups(members, classes), fraction, np.random.default_rng([seed, 0x5911]))
    return Split(
        train=tuple(slide for group in sorted(members) if group not in held for slide in members[group]),
        validation=tuple(slide for group in sorted(held) for slide in members[group]),
    )


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
        raise CohortError(f"{len(of_group)} slide(s) have labelled regions; a slide-wise split needs at least 2.")
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
        covered = frozenset().union(*(of_group[group] for group in held)) if held else frozenset()
        candidates = [group for group in order if group not in held and keeps_training_whole(group)]
        gain = {group: len(of_group[group] - covered) for group in candidates}
        if not candidates or (covered == every and len(held) >= wanted):
            break
        best = max(candidates, key=lambda group: gain[group])
        if covered != every and gain[best] == 0:
            break
        held.add(best)
    if not held or frozenset().union(*(of_group[group] for group in held)) != every:
        raise CohortError(
            "The slides cannot be divided so that every class stands on both sides. Label more classes on each slide, "
            "or add slides."
        )
    return held
