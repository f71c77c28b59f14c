"""A model as ONNX file, for programs that have no torch: logits of normalised patches, and all that a reader must know.

Needs the packages onnx and onnxscript (``pip install "napari-slidecorr[onnx]"``).
"""

from __future__ import annotations

import importlib.util
import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from napari_slidecorr.errors import ModelError
from napari_slidecorr.io.atomic import atomic_write_bytes
from napari_slidecorr.learning.models import PatchClassifier, load_model
from napari_slidecorr.model_spec import ModelSpec

OPSET = 18


class _FromPixels(nn.Module):
    """The whole way from pixels to probabilities, so that a reader can do nothing wrong."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: PatchClassifier) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(model.mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(model.std).view(1, 3, 1, 1) * 255)

    def forward(self, pixels: Tensor) -> Tensor:
        inputs = (pixels.float() - self.mean) / self.std
        return torch.softmax(self.model(inputs).logits, dim=1)


def export_onnx(run: Path, out: Path) -> Path:
    """Write the model of a run as one ``.onnx`` file.

    Parameters
    ----------
    run : Path
        A run's folder, or its ``model.json``.
    out : Path
        The file, which must not exist.

    Returns
    -------
    Path
        The file. Its input ``pixels`` is uint8, shape (N, 3, S, S), RGB of patches at the model's size and resolution;
        its output ``probabilities`` float32, shape (N, K). Classes, resolution and the rest of the model's description
        are in its metadata under ``slidecorr``.

    Raises
    ------
    ModelError
        If onnx is not installed, the model cannot be read, normalizes stains (which is not part of a network), the file
        exists, or the backbone cannot be written.
    ProjectError
        If the file cannot be written.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            f'{out.name}: ONNX needs {" and ".join(missing)}; install it with: pip install "napari-slidecorr[onnx]".'
        )
    model, spec = load_model(run)
    if spec.stain is not None:
        raise ModelError(
            f"Model {spec.id} was trained on normalized stains, a step on whole slides that an ONNX file cannot hold: its "
            "maps would be wrong. Train one with stain 'none' to export it."
        )
    if spec.centring:
        raise ModelError(
            f"Model {spec.id} takes off a share of each slide's mean feature, a step on whole slides that an ONNX file cannot "
            "hold: its maps would be wrong. Train one without centring to export it."
        )
    if out.exists():
        raise ModelError(f"{out}: exists already; choose another name.")
    atomic_write_bytes(out, _onnx(model, spec))
    return out


def _onnx(model: PatchClassifier, spec: ModelSpec) -> bytes:
    import onnx

    size_px = spec.geometry.size_px
    example = torch.zeros(2, 3, size_px, size_px, dtype=torch.uint8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own exporter, about itself
            program: Any = torch.onnx.export(
                _FromPixels(model).eval(),
                (example,),
                input_names=["pixels"],
                output_names=["probabilities"],
                dynamic_shapes=({0: torch.export.Dim("patches", min=1)},),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # torch's exporter raises many kinds
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{spec.backbone} cannot be written as ONNX ({first_line}); export it for WSInfer.") from error
    written: Any = program.model_proto
    onnx.checker.check_model(written)
    told = written.metadata_props.add()
    told.key, told.value = "slidecorr", json.dumps(json.loads(spec.to_json()))
    buffer = io.BytesIO()
    onnx.save_model(written, buffer)
    return buffer.getvalue()
