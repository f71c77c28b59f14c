"""Training of a patch classifier, as a stream of events.

Everything random is drawn from (seed, epoch, batch): a training that was interrupted after any epoch goes on to the
very weights that it would have had.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_slidecorr import __version__
from napari_slidecorr.config import TrainConfig
from napari_slidecorr.errors import sentence
from napari_slidecorr.events import BatchDone, EpochDone, Event, Interrupted, Notice, Trained, TrainResult
from napari_slidecorr.io.atomic import atomic_write_text, make_folder
from napari_slidecorr.learning.checkpoint import load_checkpoint, save_checkpoint
from napari_slidecorr.learning.doubts import epoch_doubts
from napari_slidecorr.learning.freezing import freeze, set_training
from napari_slidecorr.learning.interruption import interruptible_layers
from napari_slidecorr.learning.loading import Patches, read_ahead, stack
from napari_slidecorr.learning.model_card import CARD_NAME, model_card, slide_facts, versions
from napari_slidecorr.learning.models import (
    SPEC_NAME,
    WEIGHTS_NAME,
    PatchClassifier,
    check_input_size,
    choose_device,
    classify,
    describe_device,
    load_weights,
    make_model,
    save_model,
    save_weights,
)
from napari_slidecorr.learning.objectives import make_objective
from napari_slidecorr.learning.preconditions import check_run, check_tables, describe_run
from napari_slidecorr.learning.randomness import seeded
from napari_slidecorr.learning.schedules import learning_rate
from napari_slidecorr.learning.staining import AS_READ, StainStep, make_stain_step
from napari_slidecorr.learning.steps import (
    ClassifierTrainee,
    Probabilities,
    has_bf16,
    not_a_number,
    take_step,
    views_of,
)
from napari_slidecorr.learning.stopping import is_over
from napari_slidecorr.metrics import accuracy, patch_auc
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.patches import PatchTable
from napari_slidecorr.runs import CONFIG_NAME, CURVE_NAME, best_epoch, curve_csv, write_state
from napari_slidecorr.sampling import Rows, class_shares, same_slide_pairs, slide_batches
from napari_slidecorr.settings import to_json
from napari_slidecorr.slide import Slide
from napari_slidecorr.stain import REFERENCE, Stain

BEST_NAME, LAST_NAME = "best.safetensors", "last.safetensors"
"""The best epoch by held-out AUC beside a model of the last, and the last beside a model of the best."""

FEW_SLIDES = 20
"""Below this SCR gained nothing in any simulation or data set that was tried."""


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
        ``checkpoint.safetensors``, and at the end ``model.safetensors``, ``model.json`` and ``MODEL_CARD.md``.
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
    Unless the config says otherwise, the model is that of the last epoch, and the learning rate of the second half of
    the epochs a fifth of that of the first, as in Zhang et al., MIDL 2021. The weights of the epoch with the highest
    held-out AUC are kept beside it in ``best.safetensors``; ``weights`` of another training may name any of these files.
    """
    check_tables(train_table, validation_table, slides, config)
    choose_device(config.device)
    check_run(run, train_table, validation_table, config, resume=resume)
    return _recorded(run, _train(_Data(train_table, validation_table, slides), config, run, resume=resume))


def _recorded(run: Path, events: Generator[Event, None, None]) -> Generator[Event, None, None]:
    """Let the run's folder, once there is one, tell how the training ended."""
    try:
        yield from events
    except (GeneratorExit, Interrupted, KeyboardInterrupt):
        if (run / CONFIG_NAME).is_file():
            write_state(run, "stopped")
        raise
    except Exception as error:
        if (run / CONFIG_NAME).is_file():
            write_state(run, "failed", sentence(error))
        raise
    write_state(run, "finished")


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
    description = {
        "package_version": __version__,
        **describe_run(data.train, data.validation, config),
        "versions": versions(),
        "slides": slide_facts(data.in_use()),
    }
    atomic_write_text(run / CONFIG_NAME, json.dumps(description, indent=2))
    write_state(run, "running")
    yield from _first_notices(trainee.model.start.note, data.train, config)
    data = replace(data, stain=(yield from make_stain_step(data.in_use(), _stain_target(config))))
    curve = load_checkpoint(run, trainee) if resume else []
    if curve:
        yield Notice(phase="Preparing", message=f"Resuming after epoch {len(curve)} of {config.epochs}.")
    while not is_over(curve, config):
        with interruptible_layers(trainee.model):
            done = yield from _run_epoch(trainee, data, config, len(curve))
        curve.append(done)
        if best_epoch(curve) == done.epoch:
            save_weights(run / BEST_NAME, trainee.model)
        save_checkpoint(run, trainee, curve)
        atomic_write_text(run / CURVE_NAME, curve_csv(curve))
        yield done
        yield from epoch_doubts(curve[:-1], done)
    if len(curve) < config.epochs:
        yield Notice(phase="Stopped", message=f"Stopped after epoch {len(curve)}: no higher held-out AUC any more.")
    spec = _keep(run, trainee.model, _spec(trainee.model, data, config), curve)
    card = model_card(spec, config, (data.train, data.validation), curve, describe_device(device))
    atomic_write_text(run / CARD_NAME, card)
    result = TrainResult(run / WEIGHTS_NAME, run / SPEC_NAME, tuple(curve))
    yield Trained(phase="Trained", done=1, total=1, result=result)


def _keep(run: Path, model: PatchClassifier, spec: ModelSpec, curve: Sequence[EpochDone]) -> ModelSpec:
    """Write the model of the wanted epoch, and leave the other one's weights beside it."""
    best = best_epoch(curve)
    if spec.kept == "best" and best is not None:
        save_weights(run / LAST_NAME, model)
        load_weights(run / BEST_NAME, model)
        return save_model(run, model, replace(spec, epoch=best + 1, other_weights=LAST_NAME))
    other = "" if best is None else BEST_NAME
    return save_model(run, model, replace(spec, epoch=len(curve), kept="last", other_weights=other))


def _make_trainee(table: PatchTable, config: TrainConfig, device: torch.device) -> ClassifierTrainee:
    model = make_model(config.backbone, len(table.classes), weights=config.weights, seed=config.seed)
    check_input_size(model, table.geometry.size_px, config.backbone)
    freeze(model, config.backbone, config.train_layers)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with seeded(config.seed):
        objective = make_objective(
            config.objective,
            feature_dim=model.feature_dim,
            slide_count=len(table.slides),
            class_weight=_class_weight(table, config),
            label_smoothing=config.label_smoothing,
        ).to(device)
    learning = [parameter for part in (model, objective) for parameter in part.parameters() if parameter.requires_grad]
    half = config.bf16 == "auto" and has_bf16(device)
    return ClassifierTrainee(model, objective, _make_optimizer(learning, config), config.gradient_clip, half)


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


def _run_epoch(
    trainee: ClassifierTrainee, data: _Data, config: TrainConfig, epoch: int
) -> Generator[Event, None, EpochDone]:
    begun = time.perf_counter()
    sums = _Sums()
    yield from _run_batches(trainee, data, config, epoch, sums)
    trained = time.perf_counter()
    probabilities = yield from _validate(trainee.model, data, config, epoch)
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
    )


def _run_batches(
    trainee: ClassifierTrainee, data: _Data, config: TrainConfig, epoch: int, sums: _Sums
) -> Generator[Event, None, None]:
    batches = slide_batches(
        data.train,
        slides_per_batch=config.slides_per_batch,
        patches_per_slide=config.patches_per_slide,
        seed=config.seed,
        epoch=epoch,
    )
    set_training(trainee.model)
    total = len(batches) * config.epochs
    with closing(_read(data.train, data, batches)) as reader:
        for batch, (rows, patches) in enumerate(zip(batches, sums.timed(reader), strict=True)):
            done = epoch * len(batches) + batch
            for group in trainee.optimizer.param_groups:
                group["lr"] = learning_rate(config, epoch, batch / len(batches))
            trainee.objective.progress = done / total
            views = views_of(patches, config, epoch, batch)
            loss, terms, probabilities = take_step(trainee, views, data.train, rows, (config.seed, epoch, batch))
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
        kept=config.keep,
    )


def _stain_target(config: TrainConfig) -> Stain | None:
    return REFERENCE if config.stain == "macenko" else None
