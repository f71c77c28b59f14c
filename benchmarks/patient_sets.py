"""Published patches of many patients as labelled slides of a project, with the features of a frozen backbone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from patient_slides import Layout, make_project
from recolouring import Recolouring

from napari_slidecorr import PatchConfig, Project
from napari_slidecorr.events import Event, Notice
from napari_slidecorr.fast_config import FastConfig
from napari_slidecorr.fast_project import labelled_slides
from napari_slidecorr.learning.fast_training import group_numbers, make_extractor
from napari_slidecorr.learning.feature_store import FeatureCache
from napari_slidecorr.learning.held_out import fold_of_rows
from napari_slidecorr.learning.labelled import Labelled, read_labelled
from napari_slidecorr.slide import Slide

TIED_DROP = 0.85
"""Share of training patches that is dropped where the class does not go with the colour of the slide."""

QUICK_SLIDES = 14
Rows = NDArray[np.bool_]


@dataclass(frozen=True)
class Recipe:
    """How slides are made of a set.

    Attributes
    ----------
    folder : str
        Of the set, beside the others.
    shown_px, cell_px : int
        Side of a picture as it is laid into the slide, and of the patches that the network sees, in pixels.
    least, most : int, int or None
        Pictures of each class that a slide must have, and that are taken.
    folds : int
        Patients are dealt to so many folds.
    all_folds : bool
        Whether each fold is held out once a seed, or the first alone.
    choosing_folds : int
        Where a remedy is chosen, patients are dealt to so many folds, of which the first chooses and the others judge.
    most_choose : bool
        The other way round.
    recoloured : bool
        Each slide with a look of its own, the same for all its pictures.
    tied : bool
        In training the first class goes with bluish slides, the others with reddish ones.
    """

    folder: str
    classes: tuple[str, ...]
    shown_px: int
    cell_px: int
    least: int = 0
    most: int | None = None
    folds: int = 2
    all_folds: bool = False
    choosing_folds: int = 4
    most_choose: bool = False
    recoloured: bool = False
    tied: bool = False


_LYMPHOMA = Recipe("lymphoma", ("CLL", "FL"), 256, 128, folds=3, all_folds=True, choosing_folds=3, most_choose=True)
_IDC = Recipe("idc", ("IDC", "non-IDC"), 112, 112, least=5, most=12)
RECIPES = {
    "lymphoma, CLL and FL": _LYMPHOMA,
    "lymphoma, three classes": replace(_LYMPHOMA, classes=("CLL", "FL", "MCL")),
    "idc as is": _IDC,
    "idc recoloured": replace(_IDC, recoloured=True),
    "idc tied": replace(_IDC, recoloured=True, tied=True),
}


@dataclass(frozen=True, eq=False)
class PatientSet:
    """Labelled patches of patients, with their features.

    Attributes
    ----------
    labelled : Labelled
        Centres included.
    slides : mapping of slide id to Slide
    groups : mapping of slide id to patient
    feature_seconds : float
        That reading pixels and the backbone took; next to nothing when features had been kept.
    notices : tuple of str
    """

    name: str
    recipe: Recipe
    labelled: Labelled
    slides: Mapping[str, Slide]
    groups: Mapping[str, str]
    feature_seconds: float = 0.0
    notices: tuple[str, ...] = ()

    @property
    def of_slide(self) -> list[int]:
        """Number of the patient of each slide."""
        return group_numbers(self.labelled.table.slides, self.groups)

    @property
    def patients(self) -> int:
        """How many there are."""
        return len(set(self.of_slide))

    def splits(self, seed: int) -> list[tuple[Rows, Rows]]:
        """Rows to train on and rows of patients held out, one pair for each fold of a seed."""
        fold, total = self._dealt(self.recipe.folds, seed)
        held = range(total) if self.recipe.all_folds else range(1)
        return [(self._trained_on(fold != k, seed), fold == k) for k in held]

    def choosers(self, seed: int) -> tuple[Rows, Rows]:
        """Rows of the patients that choose, and of those that judge."""
        fold, _ = self._dealt(self.recipe.choosing_folds, seed)
        choosing = fold != 0 if self.recipe.most_choose else fold == 0
        return self._trained_on(choosing, seed), ~choosing

    def _dealt(self, folds: int, seed: int) -> tuple[NDArray[np.int64], int]:
        table = self.labelled.table
        labels = table.label.astype(np.int64)
        return fold_of_rows(labels, table.slide_index, groups=self.of_slide, folds=folds, seed=seed)

    def part(self, rows: Rows) -> Labelled:
        """Some patches; slides keep their numbers."""
        return replace(self.labelled, features=self.labelled.features[rows], table=self.labelled.table.of_rows(rows))

    def _trained_on(self, rows: Rows, seed: int) -> Rows:
        if not self.recipe.tied:
            return rows
        table = self.labelled.table
        blue = np.asarray([Recolouring.of(slide).is_blue for slide in table.slides])
        against = (table.label == 0) != blue[table.slide_index]
        dropped = np.random.default_rng([seed, 0x71ED]).random(len(table)) < TIED_DROP
        return rows & ~(against & dropped)


def fast_config(recipe: Recipe, backbone: str = "tf_efficientnet_lite0", weights: str = "imagenet") -> FastConfig:
    """Settings that show the network the cells of a recipe as they lie in the slide."""
    return FastConfig(
        backbone=backbone, weights=weights, patches=PatchConfig(size_px=recipe.cell_px, mpp=1.0), device="cpu"
    )


def read_set(
    name: str,
    patches: Path,
    work: Path,
    *,
    quick: bool = False,
    config: FastConfig | None = None,
    tell: Callable[[Event], None] = lambda _: None,
) -> PatientSet:
    """Make the slides of a set unless they lie in ``work`` already, and get features, which are kept there.

    Parameters
    ----------
    name : str
        Of `RECIPES`.
    patches : Path
        Folder of sets, each with ``fields.csv``.
    quick : bool
        A few slides alone.
    """
    recipe = RECIPES[name]
    place = work / f"{name.replace(', ', '-').replace(' ', '-')}{'-quick' if quick else ''}"
    project = _project(recipe, patches, place, quick=quick)
    config = config or fast_config(recipe)
    known = labelled_slides(project)
    begun, notices = time.perf_counter(), []
    events = read_labelled(
        known.slides,
        known.regions,
        project.classes,
        make_extractor(config),
        cache=FeatureCache(work / "features"),
        with_centres=True,
    )
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            labelled = end.value
            break
        tell(event)
        if isinstance(event, Notice):
            notices.append(event.message)
    taken = time.perf_counter() - begun
    return PatientSet(name, recipe, labelled, known.slides, known.groups, taken, tuple(notices))


def _project(recipe: Recipe, patches: Path, place: Path, *, quick: bool) -> Project:
    if (place / "made").exists():
        return Project.open(place)
    project = make_project(
        patches / recipe.folder,
        place,
        Layout(1.0, recipe.shown_px, recipe.cell_px + recipe.cell_px // 2),
        least=recipe.least,
        most=recipe.most,
        classes=recipe.classes,
        slides=QUICK_SLIDES if quick else None,
        recolour=Recolouring.of if recipe.recoloured else None,
    )
    (place / "made").touch()
    return project
