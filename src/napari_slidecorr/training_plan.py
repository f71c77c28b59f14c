"""What is trained on: patches, who is held out, and what is doubtful about it, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from napari_slidecorr.cohort import Split, k_fold, leave_one_group_out, split_by_group
from napari_slidecorr.config import TrainConfig
from napari_slidecorr.errors import CohortError, ProjectError
from napari_slidecorr.events import Notice
from napari_slidecorr.io.same_files import same_files
from napari_slidecorr.label_doubts import label_doubts
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.patches import PatchTable, leaky_split
from napari_slidecorr.regions import RegionSet
from napari_slidecorr.runs import MODEL_NAME
from napari_slidecorr.slide import Slide

LEAKY = (
    "The split is a leaky one: random patches of the same slides stand on both sides. Its held-out figures flatter, and say "
    "nothing about a new slide."
)


@dataclass(frozen=True)
class TrainingPlan:
    """Labelled patches of a project, ready to be divided.

    Attributes
    ----------
    table : PatchTable
        Of classes that have patches.
    groups : mapping of slide id to group
    regions : mapping of slide id to RegionSet
        What the patches were cut from.
    empty_classes : tuple of str
        Classes without a patch.
    """

    table: PatchTable
    groups: Mapping[str, str]
    regions: Mapping[str, RegionSet]
    empty_classes: tuple[str, ...]

    @classmethod
    def of(cls, table: PatchTable, groups: Mapping[str, str], regions: Mapping[str, RegionSet]) -> TrainingPlan:
        """Plan a training on a table of patches, leaving out classes and slides without any."""
        counts = table.counts().sum(axis=0)
        kept = np.flatnonzero(counts)
        empty = tuple(table.classes[i] for i in np.flatnonzero(counts == 0))
        label = np.searchsorted(kept, table.label).astype(np.int16)
        table = replace(table, classes=tuple(table.classes[i] for i in kept), label=label)
        table = table.of_slides([table.slides[i] for i in np.flatnonzero(table.counts().sum(axis=1))])
        return cls(table, {slide: groups[slide] for slide in table.slides}, regions, empty)

    @property
    def classes_of(self) -> dict[str, list[str]]:
        """The classes that are labelled on each slide."""
        counts = self.table.counts()
        return {
            slide: [self.table.classes[i] for i in np.flatnonzero(row)]
            for slide, row in zip(self.table.slides, counts, strict=True)
        }

    def split(self, config: TrainConfig, earlier: ModelSpec | None = None) -> Split:
        """Hold slides out: as the settings say, or the ones that an earlier run held out.

        Raises
        ------
        CohortError
            If the slides do not allow it.
        """
        if earlier is not None:
            return self._split_like(earlier)
        if config.split == "patches":
            return Split(self.table.slides, self.table.slides)
        return split_by_group(self.groups, self.classes_of, fraction=config.validation_fraction, seed=config.seed)

    def folds(self, folds: int | None, seed: int) -> list[Split]:
        """Hold every group out once: in so many folds, or one at a time for None.

        Raises
        ------
        CohortError
            If the slides do not allow it.
        """
        if folds is None:
            return leave_one_group_out(self.groups, self.classes_of)
        return k_fold(self.groups, self.classes_of, folds=folds, seed=seed)

    def tables(self, split: Split, config: TrainConfig) -> tuple[PatchTable, PatchTable]:
        """Give the patches to train on and those held out."""
        if config.split == "patches":
            return leaky_split(self.table, fraction=config.validation_fraction, seed=config.seed)
        return self.table.of_slides(split.train), self.table.of_slides(split.validation)

    def notices(self, split: Split, slides: Mapping[str, Slide], config: TrainConfig) -> Iterator[Notice]:
        """Give what is doubtful about it; reads slides' files for copies."""
        for name in self.empty_classes:
            yield _doubt(f"Class {name!r} has no patches and is left out of the model.")
        if config.split == "patches":
            yield _doubt(LEAKY)
        yield from _about_copies(slides, self.groups)
        regions = {slide: self.regions[slide] for slide in split.train}
        yield from map(_doubt, label_doubts(self.table.of_slides(split.train), regions))

    def _split_like(self, earlier: ModelSpec) -> Split:
        known = [slide for slide in self.table.slides if slide in earlier.validation_slides]
        held = {self.groups[slide] for slide in known}
        validation = tuple(slide for slide in self.table.slides if self.groups[slide] in held)
        if moved := sorted(set(validation) & set(earlier.train_slides)):
            raise CohortError(
                f"Slide {moved[0]} trained model {earlier.id}, and is of a patient that is held out; put it into a group "
                "of its own, or start a new training."
            )
        if earlier.validation_slides and not known:
            raise CohortError(
                f"None of the slides that model {earlier.id} held out has patches now "
                f"({', '.join(earlier.validation_slides)}); start a new training."
            )
        return Split(tuple(slide for slide in self.table.slides if slide not in validation), validation)


def earlier_model(runs: Path, config: TrainConfig) -> ModelSpec | None:
    """Read the model that a training continues; None when it continues none.

    Raises
    ------
    ProjectError
        If there is no finished run of that name, or it was held out otherwise than the settings say.
    ModelError
        If its description cannot be read.
    """
    if not config.continue_from:
        return None
    path = runs / config.continue_from / MODEL_NAME
    if not path.is_file():
        raise ProjectError(f"{config.continue_from}: there is no finished run of that name to continue from.")
    spec = ModelSpec.load(path)
    if bool(spec.validation_slides) != (config.validation_fraction > 0):
        did = "held slides out" if spec.validation_slides else "held nothing out"
        fix = "above 0" if spec.validation_slides else "to 0"
        raise ProjectError(f"{config.continue_from}: {did}; set validation_fraction {fix} to continue from it.")
    if spec.split != "slides":
        raise ProjectError(
            f"{config.continue_from}: had a leaky split, which cannot be gone on with; choose another run."
        )
    return spec


def _doubt(message: str) -> Notice:
    return Notice(phase="Cut patches", message=message, warning=True)


def _about_copies(slides: Mapping[str, Slide], groups: Mapping[str, str]) -> Iterator[Notice]:
    """Warn of files that are one slide and may be divided: one side would be judged by what it learnt of the other."""
    for paths in same_files([slide.path for slide in slides.values()]):
        copies = [slide_id for slide_id, slide in slides.items() if slide.path in paths]
        if len({groups[slide_id] for slide_id in copies}) > 1:
            yield _doubt(f"{' and '.join(copies)} are copies of one file. Remove all but one, or give them one group.")
