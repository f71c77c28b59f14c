"""What a model was raised on, as JSON beside its weights; readable without torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from napari_slidecorr.errors import ModelError
from napari_slidecorr.geometry import PatchGeometry
from napari_slidecorr.stain import Stain

FORMAT = 1


FOLDS = "folds"
"""`ModelSpec.kept` of a model whose held-out figures come from its siblings, each without one fold of slides."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Everything that prediction must take from the model and cannot choose itself.

    Attributes
    ----------
    backbone : str
        A torchvision or timm name.
    classes : tuple of str
        In the order of the logits.
    geometry : PatchGeometry
        Size and resolution of one input.
    mean, std : tuple of float
        Per channel, of inputs in [0, 1].
    objective : dict
        Kind and settings of the objective.
    train_slides, validation_slides : tuple of str
        Which slides it has seen, and which chose it.
    initial_weights : str
        What training started from: ``imagenet``, ``random`` or a file's name with its sha256.
    weights_sha256 : str
        Of the safetensors file; a spec and weights that do not belong together are refused.
    package_version : str
    stain : Stain or None
        What the stains of every slide are brought to before the model sees it (Macenko's method); None leaves pixels
        as they are.
    epoch : int
        After which epoch of the training the weights were kept, counted from 1; 0 in models of older versions.
    kept : str
        ``last`` or ``best``: why this epoch; `FOLDS` for a head that has seen every slide.
    split : str
        ``slides``, or ``patches`` for a leaky comparison, whose held-out figures flatter.
    other_weights : str
        Name of the file beside it that holds the weights of the best epoch, or of the last if this is the best.
    head : str
        What follows the backbone: ``linear``, or ``mlp`` or ``adapter`` before the linear layer.
    centring : float
        Which share of the mean feature of each slide's tissue is taken off before the head; 0 takes off nothing.
    remedy : str
        What was done against slide-wise shift, for people to read; empty for nothing.
    unsure_below : tuple of float
        A probability for each class from which on it may be the answer; where not exactly one class may, the model is
        unsure. Empty when it never is.
    """

    backbone: str
    classes: tuple[str, ...]
    geometry: PatchGeometry
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    objective: dict[str, Any]
    train_slides: tuple[str, ...]
    validation_slides: tuple[str, ...]
    initial_weights: str
    weights_sha256: str
    package_version: str
    stain: Stain | None = None
    epoch: int = 0
    kept: str = "last"
    other_weights: str = ""
    split: str = "slides"
    head: str = "linear"
    centring: float = 0.0
    remedy: str = ""
    unsure_below: tuple[float, ...] = ()

    @property
    def id(self) -> str:
        """A short name: the first twelve digits of the weights' hash."""
        return self.weights_sha256[:12]

    def to_json(self) -> str:
        """The spec as indented JSON."""
        values = asdict(self)
        values["stain"] = self.stain.to_json() if self.stain else None
        return json.dumps({"format": FORMAT, **values}, indent=2)

    @classmethod
    def from_json(cls, text: str, name: str = "model") -> ModelSpec:
        """Read what `to_json` wrote.

        Raises
        ------
        ModelError
            If it is not JSON, of a newer format, or lacks a field; names the file and the field.
        """
        try:
            values = json.loads(text)
            if values.pop("format") != FORMAT:
                raise ModelError(f"{name}: this model was written by a newer version; update napari-slidecorr.")
            values["geometry"] = PatchGeometry(**values["geometry"])
            for key in ("classes", "mean", "std", "train_slides", "validation_slides"):
                values[key] = tuple(values[key])
            values["unsure_below"] = tuple(values.get("unsure_below", ()))
            if (stain := values.pop("stain", None)) is not None:  # older models have none
                values["stain"] = Stain.from_json(stain)
            return cls(**values)
        except ModelError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{name}: not the description of a model ({error}). Choose the model.json of a run."
            ) from error

    @classmethod
    def load(cls, path: Path) -> ModelSpec:
        """Read a spec file."""
        try:
            return cls.from_json(path.read_text("utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{path}: cannot be read ({error}). Choose the model.json of a run.") from error
