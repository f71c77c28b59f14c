"""Patch classifiers: a backbone of torchvision or timm and a linear head; made, saved, loaded.

The only importer of torchvision and timm, inside functions: they take seconds to load.
"""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_slidecorr.backbone_table import known_backbone
from napari_slidecorr.errors import ModelError
from napari_slidecorr.io.atomic import atomic_write_bytes, atomic_write_text
from napari_slidecorr.learning import weights as start_weights
from napari_slidecorr.learning.known_backbones import ClassAndMean, hub_file, make_net, packaged_weights
from napari_slidecorr.learning.necks import make_neck
from napari_slidecorr.learning.objectives import Output
from napari_slidecorr.learning.randomness import seeded
from napari_slidecorr.model_spec import ModelSpec

WEIGHTS_NAME = "model.safetensors"
SPEC_NAME = "model.json"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RGB = tuple[float, float, float]

_TORCHVISION = {
    "resnet18": "fc",
    "resnet50": "fc",
    "densenet121": "classifier",
    "alexnet": "classifier.6",
    "vgg16": "classifier.6",
}
"""The paper's backbones, and the layer that is their classifier."""

PAPER_BACKBONES = tuple(_TORCHVISION)


class PatchClassifier(nn.Module):
    """A backbone, which gives features, perhaps a neck, and a linear head.

    Attributes
    ----------
    trunk_dim : int
        Length of the backbone's feature vector.
    feature_dim : int
        D, the length of the feature vector that the head sees: the same without a neck.
    offset : Tensor or None, shape (trunk_dim,)
        Taken off the backbone's features: for a model that centres slides, a share of the mean feature of the slide
        at hand. Not saved.
    mean, std : (float, float, float)
        Per channel, of inputs in [0, 1].
    start : Start
        What its weights came from.
    """

    def __init__(self, backbone: nn.Module, feature_dim: int, classes: int, mean: RGB, std: RGB) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(feature_dim, classes)
        self.neck: nn.Module = nn.Identity()
        self.trunk_dim = self.feature_dim = feature_dim
        self.offset: Tensor | None = None
        self.mean, self.std = mean, std
        self.start = start_weights.Start("random", "Starting from random weights.")

    def forward(self, inputs: Tensor) -> Output:
        """Classify normalised patches.

        Parameters
        ----------
        inputs : Tensor, shape (N, 3, H, W), float32
            What `prepare` gives.

        Returns
        -------
        Output
            Logits (N, K) and the features (N, D) that the head saw.
        """
        features = self.backbone(inputs)
        if self.offset is not None:
            features = features - self.offset.to(features)
        features = self.neck(features)
        return Output(self.head(features), features)

    def prepare(self, patches: Tensor) -> Tensor:
        """Bring patches to the network's device and normalise them.

        Parameters
        ----------
        patches : Tensor, shape (N, H, W, 3), uint8

        Returns
        -------
        Tensor, shape (N, 3, H, W), float32, in memory channels last
        """
        device = self.head.weight.device
        mean = torch.tensor(self.mean, device=device) * 255
        std = torch.tensor(self.std, device=device) * 255
        return patches.to(device).float().sub_(mean).div_(std).permute(0, 3, 1, 2)


def backbone_names() -> list[str]:
    """All backbones that can be chosen: the paper's five of torchvision first, then timm's."""
    import timm

    return [*PAPER_BACKBONES, *(name for name in timm.list_models() if name not in _TORCHVISION)]


def make_model(backbone: str, classes: int, *, weights: str | Path = "imagenet", seed: int = 0) -> PatchClassifier:
    """Make a classifier.

    Parameters
    ----------
    backbone : str
        One of `PAPER_BACKBONES`, which come from torchvision, any timm name, or one of `backbone_table.BACKBONES`.
    classes : int
        K, the number of logits.
    weights : str or Path
        ``imagenet`` (the backbone's own, fetched from the hub unless they lie on this machine), ``random``, or a local
        file; for the backbone only. The head always starts at random.
    seed : int
        Decides what is random; torch's own generator is left as it was.

    Raises
    ------
    ModelError
        For an unknown backbone, weights that cannot be had, or that do not fit.

    Notes
    -----
    The features of AlexNet and VGG-16 are the 4096 numbers before their last layer, those of the others the pooled
    last map.
    """
    if weights == "imagenet":
        weights = _without_timms_hub(backbone) or weights
    with seeded(seed):
        model = _bare_model(backbone, classes, pretrained=weights == "imagenet")
    if weights == "imagenet":
        model.start = start_weights.Start("imagenet", f"Starting from ImageNet weights of {backbone}.")
    elif weights != "random":
        net = model.backbone.net if isinstance(model.backbone, ClassAndMean) else model.backbone
        model.start = start_weights.load_local(net, Path(weights), _classifier_names(backbone, model))
    return model


def _without_timms_hub(backbone: str) -> Path | None:
    """Give the file of a backbone's own weights where timm does not know it: of a package, or of the hub."""
    known = known_backbone(backbone)
    return hub_file(known) if known is not None and known.usable else packaged_weights(backbone)


def attach_neck(model: PatchClassifier, kind: str) -> None:
    """Put an untrained neck (see `necks`) and a head that fits it on a classifier, in place."""
    model.neck, model.feature_dim = make_neck(kind, model.trunk_dim)
    model.head = nn.Linear(model.feature_dim, model.head.out_features)


def _bare_model(backbone: str, classes: int, *, pretrained: bool) -> PatchClassifier:
    if backbone in _TORCHVISION:
        return _torchvision_model(backbone, classes, pretrained=pretrained)
    if (known := known_backbone(backbone)) is not None:
        return PatchClassifier(make_net(known), known.dim, classes, known.mean, known.std)
    return _timm_model(backbone, classes, pretrained=pretrained)


def _torchvision_model(name: str, classes: int, *, pretrained: bool) -> PatchClassifier:
    import torchvision

    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1 if pretrained else None
    if weights is not None:
        start_weights.ensure_torchvision_file(weights.url)
    net: nn.Module = torchvision.models.get_model(name, weights=weights)
    parent_name, _, layer = _TORCHVISION[name].rpartition(".")
    parent = net.get_submodule(parent_name)
    feature_dim = cast("nn.Linear", net.get_submodule(_TORCHVISION[name])).in_features
    setattr(parent, layer, nn.Identity())
    return PatchClassifier(net, feature_dim, classes, IMAGENET_MEAN, IMAGENET_STD)


def _timm_model(name: str, classes: int, *, pretrained: bool) -> PatchClassifier:
    import timm
    from timm.data import resolve_model_data_config

    if not timm.is_model(name):
        near = ", ".join(difflib.get_close_matches(name, backbone_names(), 4)) or ", ".join(PAPER_BACKBONES)
        raise ModelError(f"There is no backbone named {name!r}; near it are {near}.")
    overlay: dict[str, str] = start_weights.timm_overlay(name) if pretrained else {}
    try:
        net: Any = timm.create_model(name, pretrained=pretrained, num_classes=0, pretrained_cfg_overlay=overlay)
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(f"timm cannot make {name} ({error}). Choose another backbone or start.") from error
    told = resolve_model_data_config(net)
    feature_dim = int(getattr(net, "head_hidden_size", None) or net.num_features)
    return PatchClassifier(net, feature_dim, classes, _rgb(told, "mean"), _rgb(told, "std"))


def _rgb(told: dict[str, Any], key: str) -> RGB:
    values = tuple(float(value) for value in told.get(key) or (0.5, 0.5, 0.5))
    if len(values) != 3:
        raise ModelError(f"This backbone takes {len(values)} channels; patches have 3. Choose another one.")
    return values


def _classifier_names(backbone: str, model: PatchClassifier) -> tuple[str, ...]:
    if backbone in _TORCHVISION:
        return (_TORCHVISION[backbone] + ".",)
    if known_backbone(backbone) is not None:
        return ("head.",)
    names = cast("Any", model.backbone).pretrained_cfg.get("classifier") or ()
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))


def check_input_size(model: PatchClassifier, size_px: int, backbone: str) -> None:
    """Make sure that a network takes patches of a size.

    Raises
    ------
    ModelError
        If it does not: too small for its poolings, or a transformer of a fixed size.
    """
    was_training = model.training
    try:
        model.eval()
        with torch.inference_mode():
            model(model.prepare(torch.zeros(1, size_px, size_px, 3, dtype=torch.uint8)))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ModelError(
            f"{backbone} does not take patches of {size_px} px ({error}). Choose another patch size or backbone."
        ) from error
    finally:
        model.train(was_training)


def classify(model: PatchClassifier, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Give the class probabilities of patches.

    Parameters
    ----------
    model : PatchClassifier
        In evaluation mode.
    patches : ndarray, shape (N, S, S, 3), uint8

    Returns
    -------
    ndarray, shape (N, K), float32

    Raises
    ------
    ModelError
        If the GPU's memory does not hold so many.
    """
    try:
        with torch.inference_mode():
            writable = np.require(patches, np.uint8, ["C", "W"])  # torch warns of any other
            logits = model(model.prepare(torch.from_numpy(writable))).logits
            return torch.softmax(logits, dim=1).cpu().numpy()
    except torch.cuda.OutOfMemoryError as error:
        raise ModelError(f"{len(patches)} patches do not fit into the GPU's memory; lower the batch size.") from error


def choose_device(name: str = "auto") -> torch.device:
    """Give the device of a name; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises
    ------
    ModelError
        If a device is asked for that this machine, or this build of torch, does not have.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in present.items() if there)
    if not present.get(name):
        raise ModelError(
            f"There is no device {name!r} that torch {torch.__version__} can use here. Choose auto or cpu."
        )
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """Name a device for a person to read."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    threads = torch.get_num_threads()
    return f"{device} ({threads} thread{'s' * (threads != 1)})" if device.type == "cpu" else str(device)


def save_model(folder: Path, model: PatchClassifier, spec: ModelSpec) -> ModelSpec:
    """Write ``model.safetensors`` and, when that is whole, ``model.json``.

    Parameters
    ----------
    spec : ModelSpec
        Its ``weights_sha256`` is replaced by that of the file.

    Returns
    -------
    ModelSpec
        As written.

    Raises
    ------
    ProjectError
        If the folder cannot be written.
    """
    data = _weights_bytes(model)
    spec = replace(spec, weights_sha256=hashlib.sha256(data).hexdigest())
    atomic_write_bytes(folder / WEIGHTS_NAME, data)
    atomic_write_text(folder / SPEC_NAME, spec.to_json())
    return spec


def save_weights(path: Path, model: PatchClassifier) -> None:
    """Write a network's tensors alone, as safetensors."""
    atomic_write_bytes(path, _weights_bytes(model))


def load_weights(path: Path, model: PatchClassifier) -> None:
    """Bring back what `save_weights` wrote of the same network.

    Raises
    ------
    ModelError
        If the file is missing, damaged or of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: the weights cannot be read ({error}); copy the run again, or train anew.") from error
    _load_strictly(model, state, path)


def _weights_bytes(model: PatchClassifier) -> bytes:
    from safetensors.torch import save

    return save({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()})


def load_model(path: Path) -> tuple[PatchClassifier, ModelSpec]:
    """Load what `save_model` wrote; nothing is unpickled.

    Parameters
    ----------
    path : Path
        The folder, or the ``model.json`` in it.

    Raises
    ------
    ModelError
        If a file is missing or damaged, or the two do not belong together.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    spec_path = path / SPEC_NAME if path.is_dir() else path
    weights_path = spec_path.with_name(WEIGHTS_NAME)
    spec = ModelSpec.load(spec_path)
    try:
        data = weights_path.read_bytes()
        if hashlib.sha256(data).hexdigest() != spec.weights_sha256:
            raise ModelError(f"{weights_path}: not the weights that {SPEC_NAME} describes. Train again or copy both.")
        state = load(data)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{weights_path}: the weights cannot be read ({error}); copy the run again, or train anew."
        ) from error
    model = make_model(spec.backbone, len(spec.classes), weights="random")
    if spec.head != "linear":
        attach_neck(model, spec.head)
    _load_strictly(model, state, weights_path)
    return model, spec


def _load_strictly(model: PatchClassifier, state: dict[str, Tensor], path: Path) -> None:
    own = model.state_dict()
    for name in (*own, *state):
        if name not in own or name not in state or own[name].shape != state[name].shape:
            raise ModelError(f"{path}: tensor {name} does not fit the backbone that {SPEC_NAME} names.")
    model.load_state_dict(state)
