"""A model as WSInfer folder: TorchScript that gives logits, and a ``config.json``; QuPath and WSInfer run it.

The format is that of the WSInfer model zoo, version 1.0 of its ``model-config.schema.json``.
"""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from napari_slidecorr.errors import ModelError
from napari_slidecorr.io.atomic import atomic_write_bytes, atomic_write_text, make_folder
from napari_slidecorr.learning.models import PatchClassifier, load_model
from napari_slidecorr.model_spec import ModelSpec

SCRIPT_NAME, CONFIG_NAME = "torchscript_model.pt", "config.json"
SPEC_VERSION = "1.0"
TOLERANCE = 1e-4
"""How far probabilities of the exported graph may be from ours."""


class _Logits(nn.Module):
    """Logits alone, for programs that know no features."""

    def __init__(self, model: PatchClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs).logits
        return logits


def export_wsinfer(run: Path, out: Path) -> Path:
    """Write the model of a run as WSInfer folder.

    Parameters
    ----------
    run : Path
        A run's folder, or its ``model.json``.
    out : Path
        The folder, made if it is missing; it must not hold a model yet.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ModelError
        If the model cannot be read, normalizes stains or has no resolution (WSInfer knows neither), the folder holds a
        model, or the exported graph does not give the same probabilities.
    ProjectError
        If the folder cannot be written.

    Notes
    -----
    WSInfer resizes what it reads to `patch_size_pixels`, scales it to [0, 1] and normalizes by the config, then takes the
    softmax of the logits. The config is written last, so a folder with one is whole.
    """
    model, spec = load_model(run)
    config = wsinfer_config(spec)
    if (out / CONFIG_NAME).exists() or (out / SCRIPT_NAME).exists():
        raise ModelError(f"{out}: holds a model already; choose another folder.")
    script = _script(model, spec.geometry.size_px)
    make_folder(out)
    atomic_write_bytes(out / SCRIPT_NAME, script)
    atomic_write_text(out / CONFIG_NAME, json.dumps(config, indent=2))
    return out


def wsinfer_config(spec: ModelSpec) -> dict[str, Any]:
    """Say what a model is in the words of WSInfer.

    Raises
    ------
    ModelError
        If WSInfer cannot do what the model needs.
    """
    if spec.stain is not None:
        raise ModelError(
            f"Model {spec.id} was trained on normalized stains, and WSInfer has no such step: its maps would be wrong. "
            "Train one with stain 'none' to export it."
        )
    if spec.centring:
        raise ModelError(
            f"Model {spec.id} takes off a share of each slide's mean feature, and WSInfer has no such step: its maps would be "
            "wrong. Train one without centring to export it."
        )
    if spec.geometry.mpp is None:
        raise ModelError(
            f"Model {spec.id} takes level-0 pixels as they are, and WSInfer needs micrometres per pixel. Train one with "
            "a resolution to export it."
        )
    return {
        "spec_version": SPEC_VERSION,
        "architecture": spec.backbone,
        "num_classes": len(spec.classes),
        "class_names": list(spec.classes),
        "patch_size_pixels": spec.geometry.size_px,
        "spacing_um_px": spec.geometry.mpp,
        "transform": [
            {"name": "Resize", "arguments": {"size": spec.geometry.size_px}},
            {"name": "ToTensor"},
            {"name": "Normalize", "arguments": {"mean": list(spec.mean), "std": list(spec.std)}},
        ],
    }


def _script(model: PatchClassifier, size_px: int) -> bytes:
    """Trace the network, and hold the graph against it on a batch of another size."""
    whole, other = _Logits(model).eval(), _noise(3, size_px)
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)  # it is what WSInfer reads
        traced = torch.jit.trace(whole, _noise(1, size_px), check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, buffer)
        distance = float((torch.softmax(traced(other), 1) - torch.softmax(whole(other), 1)).abs().max())
    if not distance <= TOLERANCE:
        raise ModelError(
            f"The exported graph gives probabilities {distance:.2g} away from the model's, so it was not written. Train "
            "with another backbone to export it."
        )
    return buffer.getvalue()


def _noise(count: int, size_px: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, size_px, size_px, generator=generator)
