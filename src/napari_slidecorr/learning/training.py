"""Training of a patch classifier, as a stream of events.

Everything random is drawn from (seed, epoch, batch): a training that was interrupted after any epoch goes on to the
very weights that it would have had.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np

from napari_slidecorr import __version__
from napari_slidecorr.config import FEW_SLIDES, TrainConfig
from napari_slidecorr.errors import ConfigError, SlideCorrError, sentence
from napari_slidecorr.events import EpochDone, Event, Interrupted, Notice, Trained, TrainResult
from napari_slidecorr.io.atomic import atomic_write_text, make_folder
from napari_slidecorr.learning.checkpoint import load_checkpoint, save_checkpoint
from napari_slidecorr.learning.doubts import epoch_doubts
from napari_slidecorr.learning.epochs import Data, run_epoch
from napari_slidecorr.learning.first_head import fit_first_head, put_first_head
from napari_slidecorr.learning.heads import LinearHead
from napari_slidecorr.learning.interruption import interruptible_layers
from napari_slidecorr.learning.memory import free_memory, is_out_of_memory, start_counting
from napari_slidecorr.learning.model_card import CARD_NAME, model_card, slide_facts, versions
from napari_slidecorr.learning.models import (
    SPEC_NAME,
    WEIGHTS_NAME,
    PatchClassifier,
    choose_device,
    describe_device,
    load_weights,
    save_model,
    save_weights,
)
from napari_slidecorr.learning.preconditions import check_run, check_tables, describe_run
from napari_slidecorr.learning.processes import barrier, failing_together, rank_and_ranks, share_of
from napari_slidecorr.learning.reductions import halved, patches_per_slide, read_reductions
from napari_slidecorr.learning.staining import make_stain_step
from napari_slidecorr.learning.stopping import is_over
from napari_slidecorr.learning.trainees import make_trainee
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.patches import PatchTable
from napari_slidecorr.runs import CONFIG_NAME, CURVE_NAME, RunState, best_epoch, curve_csv, run_claimed, write_state
from napari_slidecorr.sampling import slide_batches
from napari_slidecorr.settings import to_json
from napari_slidecorr.slide import Slide
from napari_slidecorr.stain import REFERENCE, Stain

BEST_NAME, LAST_NAME = "best.safetensors", "last.safetensors"
"""The best epoch by held-out AUC beside a model of the last, and the last beside a model of the best."""


def train(
    train_table: PatchTable,
    validation_table: PatchTable,
    slides: Mapping[str, Slide],
    config: TrainConfig,
    *,
    run: Path,
    resume: bool = False,
    start: Path | None = None,
    any_classes: bool = False,
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
    start : Path, optional
        Folder of a finished run whose weights it starts from; those of the head too if the classes are the same.
    any_classes : bool
        Whether the held-out side may lack classes, as when one slide is left out at a time.

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
        Now, if the folder holds another training; at the first step, if another program trains there; later, if the
        loss is no longer a number.

    Notes
    -----
    Unless the config says otherwise, the model is that of the last epoch, and the learning rate of the second half of
    the epochs a fifth of that of the first, as in Zhang et al., MIDL 2021. The weights of the epoch with the highest
    held-out AUC are kept beside it in ``best.safetensors``; ``weights`` of another training may name any of these files.
    """
    check_tables(train_table, validation_table, slides, config, any_classes=any_classes)
    choose_device(config.device)
    check_run(run, train_table, validation_table, config, resume=resume)
    _check_processes(train_table, config)
    barrier()  # nobody writes before everybody has looked
    data = Data(train_table, validation_table, slides, start=start)
    return _alone(run, _recorded(run, _train(data, config, run, resume=resume)), resume=resume)


def _check_processes(table: PatchTable, config: TrainConfig) -> None:
    """Make sure that each process gets slides of each batch."""
    if rank_and_ranks()[1] > 1:
        if config.fit_head_first:
            raise ConfigError(
                "fit_head_first is for one process; train without it, or continue from a run of one process."
            )
        shape = {"slides_per_batch": config.slides_per_batch, "patches_per_slide": config.patches_per_slide}
        share_of(slide_batches(table, **shape, seed=config.seed, epoch=0)[0], table.slide_index)


def _alone(run: Path, events: Iterator[Event], *, resume: bool) -> Generator[Event, None, None]:
    """Hold the run's claim, by the first of several processes, as long as the training lasts."""
    with failing_together(), run_claimed(run, resume=resume) if _is_first() else nullcontext():
        yield from events


def _recorded(run: Path, events: Generator[Event, None, None]) -> Generator[Event, None, None]:
    """Let the run's folder, once there is one, tell how the training ended."""
    try:
        with failing_together():
            yield from events
    except (GeneratorExit, Interrupted, KeyboardInterrupt):
        _tell_state(run, "stopped")
        raise
    except Exception as error:
        _tell_state(run, "failed", sentence(error))
        raise
    _tell_state(run, "finished")


def _tell_state(run: Path, state: RunState, why: str = "") -> None:
    if _is_first() and (run / CONFIG_NAME).is_file():
        write_state(run, state, why)


def _is_first() -> bool:
    """Whether this process is the one that writes."""
    return rank_and_ranks()[0] == 0


class _Work:
    """A training at work: what `_train` is about to change, so that nothing else holds on to GPU memory."""

    def __init__(self, data: Data, config: TrainConfig, run: Path) -> None:
        self.data, self.config, self.run = data, config, run
        self.device = choose_device(config.device)
        self.trainee = make_trainee(data.train, config, self.device, data.start)
        self.curve: list[EpochDone] = []
        self.reductions: dict[int, int] = {}
        self.head: LinearHead | None = None

    def fit_head(self) -> Generator[Event, None, None]:
        """Fit the head before the first epoch, if that is asked for."""
        if self.config.fit_head_first and not self.curve:
            model = self.trainee.model
            self.head = yield from fit_first_head(model, self.data, self.config, _stain_target(self.config))
            put_first_head(model, self.head)

    def describe(self) -> None:
        """Write what the run is of."""
        if not _is_first():
            return
        description = {
            "package_version": __version__,
            **describe_run(self.data.train, self.data.validation, self.config),
            "versions": versions(),
            "slides": slide_facts(self.data.in_use()),
            "processes": rank_and_ranks()[1],
            "reductions": [{"epoch": e, "patches_per_slide": n} for e, n in self.reductions.items()],
        }
        make_folder(self.run)
        atomic_write_text(self.run / CONFIG_NAME, json.dumps(description, indent=2))
        write_state(self.run, "running")

    def next_epoch(self) -> Generator[Event, None, None]:
        """Train the next epoch; when memory runs out, halve the patches of a slide and let it begin anew."""
        epoch = len(self.curve)
        n = patches_per_slide(self.config, self.reductions, epoch)
        try:
            with interruptible_layers(self.trainee.model):
                done = yield from run_epoch(self.trainee, self.data, self.config, epoch, n)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, SlideCorrError) or not is_out_of_memory(error):
                raise
            self.reductions[epoch] = halved(n, self.config, rank_and_ranks()[1], error)
        else:
            self._keep_epoch(done)
            yield done
            yield from epoch_doubts(self.curve[:-1], done)
            return
        yield from self._begin_anew(epoch, n)

    def _begin_anew(self, epoch: int, before: int) -> Iterator[Event]:
        """Go back to the last whole epoch, when the frames of the failed one are gone."""
        self.describe()
        del self.trainee
        free_memory(self.device)
        self.trainee = make_trainee(self.data.train, self.config, self.device, self.data.start)
        if not load_checkpoint(self.run, self.trainee) and self.head is not None:
            put_first_head(self.trainee.model, self.head)
        message = (
            f"Memory ran out in epoch {epoch + 1} with {before} patches of each slide; it begins again with "
            f"{self.reductions[epoch]}."
        )
        yield Notice(phase="Out of memory", message=message, warning=True)

    def _keep_epoch(self, done: EpochDone) -> None:
        self.curve.append(done)
        if not _is_first():
            return
        if best_epoch(self.curve) == done.epoch:
            save_weights(self.run / BEST_NAME, self.trainee.model)
        save_checkpoint(self.run, self.trainee, self.curve)
        atomic_write_text(self.run / CURVE_NAME, curve_csv(self.curve))


def _train(data: Data, config: TrainConfig, run: Path, *, resume: bool) -> Generator[Event, None, None]:
    device = choose_device(config.device)
    yield Notice(phase="Preparing", message=f"Training on {describe_device(device)}{_together()}.")
    yield Event(phase=f"Making {config.backbone}, starting from {config.weights}")
    work = _Work(data, config, run)
    work.reductions = read_reductions(run) if resume else {}
    barrier()
    work.describe()
    yield from _first_notices(work.trainee.model.start.note, data.train, config)
    work.data = data = replace(data, stain=(yield from make_stain_step(data.in_use(), _stain_target(config))))
    work.curve = load_checkpoint(run, work.trainee) if resume else []
    if work.curve:
        yield Notice(phase="Preparing", message=f"Resuming after epoch {len(work.curve)} of {config.epochs}.")
    yield from work.fit_head()
    start_counting(device)
    while not is_over(work.curve, config):
        yield from work.next_epoch()
    if len(work.curve) < config.epochs:
        message = f"Stopped after epoch {len(work.curve)}: no higher held-out AUC any more."
        yield Notice(phase="Stopped", message=message)
    if _is_first():
        spec = _keep(run, work.trainee.model, _spec(work.trainee.model, data, config), work.curve)
        card = model_card(spec, config, (data.train, data.validation), work.curve, describe_device(device))
        atomic_write_text(run / CARD_NAME, card)
    result = TrainResult(run / WEIGHTS_NAME, run / SPEC_NAME, tuple(work.curve))
    yield Trained(phase="Trained", done=1, total=1, result=result)


def _together() -> str:
    ranks = rank_and_ranks()[1]
    return f", with {ranks} processes" if ranks > 1 else ""


def _keep(run: Path, model: PatchClassifier, spec: ModelSpec, curve: Sequence[EpochDone]) -> ModelSpec:
    """Write the model of the wanted epoch, and leave the other one's weights beside it."""
    best = best_epoch(curve)
    if spec.kept == "best" and best is not None:
        save_weights(run / LAST_NAME, model)
        load_weights(run / BEST_NAME, model)
        return save_model(run, model, replace(spec, epoch=best + 1, other_weights=LAST_NAME))
    other = "" if best is None else BEST_NAME
    return save_model(run, model, replace(spec, epoch=len(curve), kept="last", other_weights=other))


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


def _spec(model: PatchClassifier, data: Data, config: TrainConfig) -> ModelSpec:
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
        split=config.split,
    )


def _stain_target(config: TrainConfig) -> Stain | None:
    return REFERENCE if config.stain == "macenko" else None
