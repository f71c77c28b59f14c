"""The state of a training after an epoch, in one file that is whole or absent; nothing is pickled."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from napari_slidecorr.errors import TrainingError
from napari_slidecorr.events import EpochDone
from napari_slidecorr.io.atomic import atomic_write_bytes

CHECKPOINT_NAME = "checkpoint.safetensors"
_META = "slidecorr"


@dataclass(frozen=True)
class Trainee:
    """What changes while training: the network, the objective's own parameters and the optimizer's memory."""

    model: nn.Module
    objective: nn.Module
    optimizer: torch.optim.Optimizer


def save_checkpoint(run: Path, trainee: Trainee, epochs: list[EpochDone]) -> None:
    """Write the state after ``len(epochs)`` epochs, with the curve up to there.

    Raises
    ------
    ProjectError
        If the folder cannot be written; the earlier checkpoint stays.
    """
    from safetensors.torch import save

    tensors = {
        **_named("model", trainee.model.state_dict()),
        **_named("objective", trainee.objective.state_dict()),
        **_optimizer_tensors(trainee.optimizer),
    }
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    meta = json.dumps({"epochs": [asdict(epoch) for epoch in epochs], "sha256": _digest(plain)})
    atomic_write_bytes(run / CHECKPOINT_NAME, save(plain, {_META: meta}))


def load_checkpoint(run: Path, trainee: Trainee) -> list[EpochDone]:
    """Bring a training to where its checkpoint was, in place; nothing happens without one.

    Returns
    -------
    list of EpochDone
        The curve up to there.

    Raises
    ------
    TrainingError
        If the checkpoint is damaged or of another training.
    """
    from safetensors import SafetensorError, safe_open

    path = run / CHECKPOINT_NAME
    if not path.is_file():
        return []
    try:
        with safe_open(path, "pt") as file:
            meta = json.loads((file.metadata() or {})[_META])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if meta.get("sha256", found := _digest(tensors)) != found:  # older ones have none
            raise ValueError("its numbers were changed")
        trainee.model.load_state_dict(_part("model", tensors))
        trainee.objective.load_state_dict(_part("objective", tensors))
        _restore_optimizer(trainee.optimizer, _part("optimizer", tensors))
        return [EpochDone(**epoch) for epoch in meta["epochs"]]
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            f"{path}: training cannot go on from this checkpoint ({error}). Start a new run instead."
        ) from error


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _named(prefix: str, tensors: dict[str, Any]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _part(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = prefix + "."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    memory = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{name}": tensor
        for index, values in memory.items()
        for name, tensor in values.items()
        if isinstance(tensor, Tensor)
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    memory: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        memory.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": memory, "param_groups": optimizer.state_dict()["param_groups"]})
