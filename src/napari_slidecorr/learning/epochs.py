"""One pass over the training patches, and what the held-out slides say after it."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from napari_slidecorr.config import TrainConfig
from napari_slidecorr.events import BatchDone, EpochDone, Event
from napari_slidecorr.learning.freezing import set_training
from napari_slidecorr.learning.loading import Patches, read_ahead, stack
from napari_slidecorr.learning.memory import peak_memory
from napari_slidecorr.learning.models import PatchClassifier, classify
from napari_slidecorr.learning.optimizers import set_learning_rate
from napari_slidecorr.learning.processes import gathered_objects, in_step, rank_and_ranks, share_of
from napari_slidecorr.learning.schedules import learning_rate
from napari_slidecorr.learning.staining import AS_READ, StainStep
from napari_slidecorr.learning.steps import (
    ClassifierTrainee,
    Probabilities,
    not_a_number,
    take_step,
    views_of,
)
from napari_slidecorr.metrics import accuracy, patch_auc
from napari_slidecorr.patches import PatchTable
from napari_slidecorr.sampling import Rows, same_slide_pairs, slide_batches
from napari_slidecorr.slide import Slide


@dataclass(frozen=True)
class Data:
    """What is trained on and what is held out.

    Attributes
    ----------
    train, validation : PatchTable
    slides : mapping of slide id to Slide
    stain : StainStep
        What each patch passes when it was read.
    start : Path or None
        Folder of the run that is continued.
    """

    train: PatchTable
    validation: PatchTable
    slides: Mapping[str, Slide]
    stain: StainStep = AS_READ
    start: Path | None = None

    def in_use(self) -> list[Slide]:
        """The slides of both sides."""
        names = dict.fromkeys((*self.train.slides, *self.validation.slides))
        return [self.slides[slide_id] for slide_id in names]


class _Sums:
    """What an epoch adds up, batch by batch."""

    def __init__(self) -> None:
        self.batches: list[BatchDone] = []
        self.labels: list[NDArray[np.int16]] = []
        self.probabilities: list[Probabilities] = []
        self.waited_s = 0.0

    def timed(self, reader: Iterator[Patches]) -> Iterator[Patches]:
        """Add up how long is waited for each batch."""
        while True:
            begun = time.perf_counter()
            patches = next(reader, None)
            self.waited_s += time.perf_counter() - begun
            if patches is None:
                return
            yield patches

    def add(self, batch: BatchDone, label: NDArray[np.int16], probabilities: Probabilities) -> None:
        self.batches.append(batch)
        self.labels.append(label)
        self.probabilities.append(probabilities)

    def mean_terms(self) -> dict[str, float]:
        names = self.batches[0].terms
        return {name: float(np.mean([batch.terms[name] for batch in self.batches])) for name in names}

    def auc(self) -> float:
        return patch_auc(np.concatenate(self.labels), np.concatenate(self.probabilities))


def run_epoch(
    trainee: ClassifierTrainee, data: Data, config: TrainConfig, epoch: int, patches_per_slide: int
) -> Generator[Event, None, EpochDone]:
    """Train one epoch and validate; gives `BatchDone`, plain events while validating, and returns `EpochDone`."""
    begun = time.perf_counter()
    sums = _Sums()
    yield from _run_batches(trainee, data, config, epoch, patches_per_slide, sums)
    trained = time.perf_counter()
    phase = f"Validating, epoch {epoch + 1} of {config.epochs}"
    probabilities = yield from validate(trainee.model, data, config, phase)
    if not np.isfinite(probabilities).all():
        raise not_a_number("the predictions for the held-out slides", epoch, None)
    terms, pairs = sums.mean_terms(), float(np.mean([batch.pairs for batch in sums.batches]))
    return EpochDone(
        phase=f"Epoch {epoch + 1} of {config.epochs}",
        done=epoch + 1,
        total=config.epochs,
        epoch=epoch,
        loss=float(np.mean([batch.loss for batch in sums.batches])),
        terms={**terms, **trainee.objective.measures(terms, len(sums.labels[0]), pairs)},
        pairs=pairs,
        train_auc=sums.auc(),
        validation_auc=patch_auc(data.validation.label, probabilities),
        validation_accuracy=accuracy(data.validation.label, probabilities),
        patches_per_second=sum(map(len, sums.labels)) / (trained - begun),
        seconds=time.perf_counter() - begun,
        data_wait_s=sums.waited_s,
        patches_per_slide=patches_per_slide,
        leaky=config.split == "patches",
        peak_memory=peak_memory(_device_of(trainee.model)),
    )


def _device_of(model: PatchClassifier) -> torch.device:
    return model.head.weight.device


def _run_batches(
    trainee: ClassifierTrainee, data: Data, config: TrainConfig, epoch: int, patches_per_slide: int, sums: _Sums
) -> Generator[Event, None, None]:
    batches = slide_batches(
        data.train,
        slides_per_batch=config.slides_per_batch,
        patches_per_slide=patches_per_slide,
        seed=config.seed,
        epoch=epoch,
    )
    shares = [share_of(rows, data.train.slide_index) for rows in batches]
    set_training(trainee.model, keep_statistics=config.fit_head_first)
    total = len(batches) * config.epochs
    with closing(_read(data.train, data, [share.rows for share in shares])) as reader:
        for batch, (share, patches) in enumerate(zip(shares, in_step(sums.timed(reader)), strict=True)):
            done = epoch * len(batches) + batch
            set_learning_rate(trainee.optimizer, learning_rate(config, epoch, batch / len(batches)))
            trainee.objective.progress = done / total
            views = views_of(patches, config, (epoch, batch), share.places, _device_of(trainee.model))
            loss, terms, probabilities = take_step(trainee, views, data.train, share, (config.seed, epoch, batch))
            event = BatchDone(
                phase=f"Training, epoch {epoch + 1} of {config.epochs}",
                done=done + 1,
                total=total,
                epoch=epoch,
                batch=batch,
                loss=loss,
                terms=terms,
                pairs=same_slide_pairs(data.train.slide_index[share.batch]),
            )
            sums.add(event, data.train.label[share.batch], probabilities)
            yield event


def _read(table: PatchTable, data: Data, batches: Sequence[Rows]) -> Generator[Patches, None, None]:
    size_px = table.geometry.size_px

    def read(row: np.int64) -> Patches:
        slide = data.slides[table.slides[table.slide_index[row]]]
        return data.stain(slide, slide.read(table.box(int(row)), size_px))

    with closing(read_ahead(batches, read)) as reader:
        for patches in reader:
            yield stack(patches, size_px)


def validate(
    model: PatchClassifier, data: Data, config: TrainConfig, phase: str
) -> Generator[Event, None, Probabilities]:
    """Give the probabilities of the held-out patches; several processes take batches in turn."""
    table = data.validation
    size = config.slides_per_batch * config.patches_per_slide
    rank, ranks = rank_and_ranks()
    batches = [np.arange(start, min(start + size, len(table))) for start in range(0, len(table), size)]
    mine = batches[rank::ranks]
    found: list[Probabilities] = []
    model.eval()
    with closing(_read(table, data, mine)) as reader:
        for batch, patches in enumerate(reader):
            found.append(classify(model, patches))
            yield Event(phase=phase, done=batch + 1, total=len(mine))
    whole = np.zeros((len(table), len(table.classes)), np.float32)
    for one, parts in enumerate(gathered_objects(found)):
        for rows, probabilities in zip(batches[one::ranks], parts, strict=True):
            whole[rows] = probabilities
    return whole
