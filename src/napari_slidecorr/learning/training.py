"""Training of a patch classifier, as a stream of events.

Everything random is drawn from (seed, epoch, batch): a training that was interrupted after any epoch goes on to the
very weights that it would have had.
"""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_slidecorr import __version__
from napari_slidecorr.config import TrainConfig
from napari_slidecorr.errors import TrainingError
from napari_slidecorr.events import BatchDone, EpochDone, Event, Notice, Trained, TrainResult
from napari_slidecorr.io.atomic import atomic_write_text, make_folder
from napari_slidecorr.learning import augment
from napari_slidecorr.learning.checkpoint import Trainee, load_checkpoint, save_checkpoint
from napari_slidecorr.learning.doubts import epoch_doubts
from napari_slidecorr.learning.interruption import interruptible_layers
from napari_slidecorr.learning.loading import Patches, read_ahead, stack
from napari_slidecorr.learning.models import (
    SPEC_NAME,
    WEIGHTS_NAME,
    PatchClassifier,
    check_input_size,
    choose_device,
    classify,
    describe_device,
    make_model,
    save_model,
)
from napari_slidecorr.learning.objectives import Loss, Objective, Output, make_objective
from napari_slidecorr.learning.preconditions import CONFIG_NAME, check_run, check_tables, describe_run
from napari_slidecorr.learning.randomness import seeded
from napari_slidecorr.learning.staining import AS_READ, StainStep, make_stain_step
from napari_slidecorr.metrics import accuracy, patch_auc
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.patches import PatchTable
from napari_slidecorr.sampling import Rows, class_shares, same_slide_pairs, slide_batches
from napari_slidecorr.settings import to_json
from napari_slidecorr.slide import Slide
from napari_slidecorr.stain import REFERENCE, Stain

CURVE_NAME = "curve.csv"
FEW_SLIDES = 20
"""Below this SCR gained nothing in any simulation or data set that was tried."""

Probabilities = NDArray[np.float32]


def train(
    train_table: PatchTable,
    validation_table: PatchTable,
    slides: Mapping[str, Slide],
    config: TrainConfig,
    *,
    run: Path,
    resume: bool = False,
) -> Iterator[Event]:
    """Train a classifier on the patches of some slides and watch it on others.

    Parameters
    ----------
    train_table, validation_table : PatchTable
        Of the same classes and geometry; no slide in both.
    slides : mapping of slide id to Slide
        Where the pixels are.
    run : Path
        The run's folder, made if it is missing. It receives ``config.json``, after each epoch ``curve.csv`` and
        ``checkpoint.safetensors``, and at the end ``model.safetensors`` and ``model.json``.
    resume : bool
        Go on after the last whole epoch in the folder; from the beginning if there is none.

    Returns
    -------
    iterator of Event
        `Notice`, a `BatchDone` for each step, plain events while validating, an `EpochDone` for each epoch, and at
        the end `Trained`. Closing it loses the epoch that has begun, no other.

    Raises
    ------
    CohortError
        Now, if the patches do not allow the training.
    ModelError
        Now, if the device is absent; at the first step, if the model cannot be made.
    TrainingError
        Now, if the folder holds another training; later, if the loss is no longer a number.

    Notes
    -----
    As in Zhang et al., MIDL 2021, the model is that of the last epoch, and the learning rate of the second half of
    the epochs is a fifth of that of the first.
    """
    check_tables(train_table, validation_table, slides, config)
    choose_device(config.device)
    check_run(run, train_table, validation_table, config, resume=resume)
    return _train(_Data(train_table, validation_table, slides), config, run, resume=resume)


@dataclass(frozen=True)
class _Data:
    train: PatchTable
    validation: PatchTable
    slides: Mapping[str, Slide]
    stain: StainStep = AS_READ

    def in_use(self) -> list[Slide]:
        """The slides of both sides."""
        return [self.slides[slide_id] for slide_id in (*self.train.slides, *self.validation.slides)]


def _train(data: _Data, config: TrainConfig, run: Path, *, resume: bool) -> Generator[Event, None, None]:
    device = choose_device(config.device)
    yield Notice(phase="Preparing", message=f"Training on {describe_device(device)}.")
    yield Event(phase=f"Making {config.backbone}, starting from {config.weights}")
    trainee = _make_trainee(data.train, config, device)
    make_folder(run)
    description = {"package_version": __version__, **describe_run(data.train, data.validation, config)}
    atomic_write_text(run / CONFIG_NAME, json.dumps(description, indent=2))
    yield from _first_notices(trainee.model.start.note, data.train, config)
    data = replace(data, stain=(yield from make_stain_step(data.in_use(), _stain_target(config))))
    curve = load_checkpoint(run, trainee) if resume else []
    if curve:
        yield Notice(phase="Preparing", message=f"Resuming after epoch {len(curve)} of {config.epochs}.")
    for epoch in range(len(curve), config.epochs):
        with interruptible_layers(trainee.model):
            done = yield from _run_epoch(trainee, data, config, epoch)
        curve.append(done)
        save_checkpoint(run, trainee, curve)
        atomic_write_text(run / CURVE_NAME, _curve_csv(curve))
        yield done
        yield from epoch_doubts(curve[:-1], done)
    save_model(run, trainee.model, _spec(trainee.model, data, config))
    result = TrainResult(run / WEIGHTS_NAME, run / SPEC_NAME, tuple(curve))
    yield Trained(phase="Trained", done=1, total=1, result=result)


@dataclass(frozen=True)
class _Trainee(Trainee):
    model: PatchClassifier
    objective: Objective


def _make_trainee(table: PatchTable, config: TrainConfig, device: torch.device) -> _Trainee:
    model = make_model(config.backbone, len(table.classes), weights=config.weights, seed=config.seed)
    check_input_size(model, table.geometry.size_px, config.backbone)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with seeded(config.seed):
        objective = make_objective(
            config.objective,
            feature_dim=model.feature_dim,
            slide_count=len(table.slides),
            class_weight=_class_weight(table, config),
            label_smoothing=config.label_smoothing,
        ).to(device)
    return _Trainee(model, objective, _make_optimizer([*model.parameters(), *objective.parameters()], config))


def _class_weight(table: PatchTable, config: TrainConfig) -> Tensor | None:
    """Weights that make up for how often batches show a class; 1 for each where that is even."""
    if config.class_weights == "none":
        return None
    return torch.from_numpy(1 / (len(table.classes) * class_shares(table))).float()


def _make_optimizer(parameters: Sequence[torch.nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        parameters, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
    )


def _first_notices(weights_note: str, table: PatchTable, config: TrainConfig) -> Iterator[Notice]:
    yield Notice(phase="Preparing", message=weights_note)
    if config.validation_fraction == 0:
        message = "No slide is held out, so nothing tells how the model does on slides it has not seen."
        yield Notice(phase="Preparing", message=message, warning=True)
    count = len(np.unique(table.slide_index))
    if config.objective.kind == "scr" and count < FEW_SLIDES:
        slides = "slide" if count == 1 else "slides"
        message = f"{count} training {slides}: SCR is not expected to help below about {FEW_SLIDES}."
        yield Notice(phase="Preparing", message=message, warning=True)


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """Give the learning rate of an epoch, counted from 0: a fifth after half of the epochs."""
    return config.learning_rate if epoch < config.epochs / 2 else config.learning_rate / 5


class _Sums:
    """What an epoch adds up, batch by batch."""

    def __init__(self) -> None:
        self.batches: list[BatchDone] = []
        self.labels: list[NDArray[np.int16]] = []
        self.probabilities: list[Probabilities] = []

    def add(self, batch: BatchDone, label: NDArray[np.int16], probabilities: Probabilities) -> None:
        self.batches.append(batch)
        self.labels.append(label)
        self.probabilities.append(probabilities)

    def mean_terms(self) -> dict[str, float]:
        names = self.batches[0].terms
        return {name: float(np.mean([batch.terms[name] for batch in self.batches])) for name in names}

    def auc(self) -> float:
        return patch_auc(np.concatenate(self.labels), np.concatenate(self.probabilities))


def _run_epoch(trainee: _Trainee, data: _Data, config: TrainConfig, epoch: int) -> Generator[Event, None, EpochDone]:
    begun = time.perf_counter()
    for group in trainee.optimizer.param_groups:
        group["lr"] = learning_rate(config, epoch)
    sums = _Sums()
    yield from _run_batches(trainee, data, config, epoch, sums)
    trained = time.perf_counter()
    probabilities = yield from _validate(trainee.model, data, config, epoch)
    if not np.isfinite(probabilities).all():
        raise _not_a_number("the predictions for the held-out slides", epoch, None)
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
    )


def _run_batches(
    trainee: _Trainee, data: _Data, config: TrainConfig, epoch: int, sums: _Sums
) -> Generator[Event, None, None]:
    batches = slide_batches(
        data.train,
        slides_per_batch=config.slides_per_batch,
        patches_per_slide=config.patches_per_slide,
        seed=config.seed,
        epoch=epoch,
    )
    trainee.model.train()
    total = len(batches) * config.epochs
    with closing(_read(data.train, data, batches)) as reader:
        for batch, (rows, patches) in enumerate(zip(batches, reader, strict=True)):
            done = epoch * len(batches) + batch
            trainee.objective.progress = done / total
            views = _views(patches, config, epoch, batch)
            loss, terms, probabilities = _step(trainee, views, data.train, rows, (config.seed, epoch, batch))
            event = BatchDone(
                phase=f"Training, epoch {epoch + 1} of {config.epochs}",
                done=done + 1,
                total=total,
                epoch=epoch,
                batch=batch,
                loss=loss,
                terms=terms,
                pairs=same_slide_pairs(data.train.slide_index[rows]),
            )
            sums.add(event, data.train.label[rows], probabilities)
            yield event


def _read(table: PatchTable, data: _Data, batches: Sequence[Rows]) -> Generator[Patches, None, None]:
    size_px = table.geometry.size_px

    def read(row: np.int64) -> Patches:
        slide = data.slides[table.slides[table.slide_index[row]]]
        return data.stain(slide, slide.read(table.box(int(row)), size_px))

    with closing(read_ahead(batches, read)) as reader:
        for patches in reader:
            yield stack(patches, size_px)


def _views(patches: Patches, config: TrainConfig, epoch: int, batch: int) -> Tensor:
    rng = augment.generator(config.seed, epoch, batch)
    views = torch.from_numpy(augment.flip_rotate(patches, rng) if config.flip_rotate else patches)
    return augment.colour_jitter(views, rng) if config.colour_jitter else views


def _step(
    trainee: _Trainee, views: Tensor, table: PatchTable, rows: Rows, key: tuple[int, int, int]
) -> tuple[float, dict[str, float], Probabilities]:
    """Take one step of the optimizer; give the loss, its terms, and the probabilities before it."""
    try:
        output, loss = _gradients(trainee, views, table, rows, key)
    except torch.cuda.OutOfMemoryError as error:
        raise TrainingError(
            f"{len(rows)} patches do not fit into the GPU's memory; lower the slides per batch, or the patch size."
        ) from error
    value = float(loss.total.detach())
    if not math.isfinite(value):
        raise _not_a_number("the loss", key[1], key[2])
    trainee.optimizer.step()
    probabilities = torch.softmax(output.logits.detach(), dim=1).cpu().numpy()
    return value, {name: float(term.detach()) for name, term in loss.terms.items()}, probabilities


def _gradients(
    trainee: _Trainee, views: Tensor, table: PatchTable, rows: Rows, key: tuple[int, int, int]
) -> tuple[Output, Loss]:
    inputs = trainee.model.prepare(views)
    label = torch.from_numpy(table.label[rows].astype(np.int64)).to(inputs.device)
    slide_index = torch.from_numpy(table.slide_index[rows].astype(np.int64)).to(inputs.device)
    trainee.optimizer.zero_grad(set_to_none=True)
    with seeded(*key):  # drop-out
        output: Output = trainee.model(inputs)
        loss: Loss = trainee.objective(output, label, slide_index)
        loss.total.backward()  # type: ignore[no-untyped-call]
    return output, loss


def _validate(
    model: PatchClassifier, data: _Data, config: TrainConfig, epoch: int
) -> Generator[Event, None, Probabilities]:
    table = data.validation
    size = config.slides_per_batch * config.patches_per_slide
    batches = [np.arange(start, min(start + size, len(table))) for start in range(0, len(table), size)]
    found: list[Probabilities] = [np.zeros((0, len(table.classes)), np.float32)]
    model.eval()
    with closing(_read(table, data, batches)) as reader:
        for batch, patches in enumerate(reader):
            found.append(classify(model, patches))
            phase = f"Validating, epoch {epoch + 1} of {config.epochs}"
            yield Event(phase=phase, done=batch + 1, total=len(batches))
    return np.concatenate(found)


def _not_a_number(what: str, epoch: int, batch: int | None) -> TrainingError:
    where = f"epoch {epoch + 1}" if batch is None else f"epoch {epoch + 1}, batch {batch + 1}"
    return TrainingError(
        f"In {where}, {what} became infinite or not a number. Lower the learning rate or beta; the state after the "
        "last whole epoch is kept."
    )


def _curve_csv(curve: Sequence[EpochDone]) -> str:
    out = io.StringIO()
    rows = [_curve_row(epoch) for epoch in curve]
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _curve_row(epoch: EpochDone) -> dict[str, Any]:
    values = asdict(epoch)
    terms = values.pop("terms")
    kept = {name: value for name, value in values.items() if name not in ("phase", "done", "total")}
    return {**kept, **terms}


def _spec(model: PatchClassifier, data: _Data, config: TrainConfig) -> ModelSpec:
    return ModelSpec(
        backbone=config.backbone,
        classes=data.train.classes,
        geometry=data.train.geometry,
        mean=model.mean,
        std=model.std,
        objective=to_json(config.objective),
        train_slides=data.train.slides,
        validation_slides=data.validation.slides,
        initial_weights=model.start.origin,
        weights_sha256="",
        package_version=__version__,
        stain=_stain_target(config),
    )


def _stain_target(config: TrainConfig) -> Stain | None:
    return REFERENCE if config.stain == "macenko" else None
