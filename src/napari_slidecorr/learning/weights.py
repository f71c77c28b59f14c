"""What a backbone starts from: a random start, ImageNet weights of the hubs, or a local file."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from napari_slidecorr.errors import ModelError

TIMEOUT_S = 15.0
_PROBE_S = 5.0
_NO_ANSWER = (OSError, http.client.HTTPException)
_OFFER = "Choose a local weights file or the start 'random'."
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\.\w+)$")


class Start(NamedTuple):
    """Where weights came from.

    Attributes
    ----------
    origin : str
        ``imagenet``, ``random`` or a file's name with its sha256.
    note : str
        One sentence for the user.
    """

    origin: str
    note: str


def load_local(backbone: nn.Module, path: Path, classifier: tuple[str, ...]) -> Start:
    """Load a weights file into a backbone, in place.

    Parameters
    ----------
    path : Path
        ``.safetensors``, or what ``torch.save`` wrote of a state dict (read without unpickling objects).
    classifier : tuple of str
        Names of the layers that were taken off; they are left out of the file too.

    Raises
    ------
    ModelError
        If it cannot be read or does not fit; names the first tensor that is wrong.

    Notes
    -----
    Names must be the backbone's own. A file that shares none of them is matched by order, and only if every shape
    agrees; the note says so. ``.safetensors`` keeps tensors by type and name, so there is no order to match.
    """
    given = _own_names(_read_state(path), classifier)
    wanted = backbone.state_dict()
    how = ""
    if not set(given) & set(wanted):
        given = _matched_by_order(given, wanted, path)
        how = f", whose {len(given)} tensors have other names and were matched by order and shape"
    _check_fit(given, wanted, path)
    backbone.load_state_dict(given, strict=False)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Start(f"{path.name} sha256:{digest}", f"Starting from {path.name}{how}.")


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise a dozen kinds
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{path}: these weights cannot be read ({first_line}). "
            "Give a .safetensors file, or a .pth file that holds a plain state dict."
        ) from error
    return _innermost(loaded, path)


def _innermost(loaded: Any, path: Path) -> dict[str, Tensor]:
    """Look through the wrappers that training programs put around a state dict."""
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    tensors = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)} if isinstance(loaded, Mapping) else {}
    if not tensors:
        raise ModelError(f"{path}: there are no tensors in this file; give one that holds a state dict.")
    return tensors


def _own_names(state: Mapping[str, Tensor], classifier: tuple[str, ...]) -> dict[str, Tensor]:
    """Strip wrappers' prefixes and leave the classifier out."""
    for prefix in ("module.", "backbone.", "net."):
        if any(name.startswith(prefix) for name in state):
            state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    state = {_OLD_DENSENET.sub(lambda m: m[1] + m[2], name): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in state.items() if not name.startswith(classifier)}


def _matched_by_order(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Give the tensors the wanted names, in order; a classifier (weight and bias) may be left over at the end."""
    if path.suffix == ".safetensors":
        raise ModelError(
            f"{path.name}: its tensors have other names than the backbone's, as {next(iter(given))}; choose the backbone that "
            "these weights are of, or give a .pth file, which keeps their order."
        )
    if not len(wanted) <= len(given) <= len(wanted) + 2:
        raise ModelError(
            f"{path.name}: holds {len(given)} tensors of other names, the backbone has {len(wanted)}; "
            "choose the backbone that these weights are of."
        )
    for (name, tensor), (own, target) in zip(given.items(), wanted.items(), strict=False):
        if tensor.shape != target.shape:
            raise ModelError(
                f"{path.name}: {name} has shape {tuple(tensor.shape)}, and {own} in its place {tuple(target.shape)}; "
                "choose the backbone that these weights are of."
            )
    return dict(zip(wanted, given.values(), strict=False))


def _check_fit(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> None:
    advice = "choose the backbone that these weights are of."
    for name, target in wanted.items():
        if name not in given and not name.endswith("num_batches_tracked"):
            raise ModelError(f"{path.name}: has no tensor {name}; {advice}")
        if name in given and given[name].shape != target.shape:
            shapes = f"shape {tuple(given[name].shape)}, the backbone {tuple(target.shape)}"
            raise ModelError(f"{path.name}: {name} has {shapes}; {advice}")
    unknown = next((name for name in given if name not in wanted), None)
    if unknown is not None:
        raise ModelError(f"{path.name}: the backbone has no tensor {unknown}; {advice}")


def ensure_torchvision_file(url: str) -> None:
    """Bring a weights file into torch's cache, with a bounded wait, where torchvision will find it.

    Raises
    ------
    ModelError
        Without network; offers a local file or a random start.
    """
    target = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if target.is_file():
        return
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:  # noqa: S310 (torchvision's own https address)
            data = response.read()
        if not hashlib.sha256(data).hexdigest().startswith(target.stem.rsplit("-", 1)[1]):
            raise ModelError(f"{url}: the download was damaged. Try again.")
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.{os.getpid()}.part")  # processes of one training may fetch it at once
        part.write_bytes(data)
        part.replace(target)
    except _NO_ANSWER as error:
        raise _unreachable(url, error) from error


def timm_overlay(name: str) -> dict[str, str]:
    """Find a timm model's weights in the local cache, else make sure that the hub answers before timm retries for long.

    Returns
    -------
    dict
        For ``pretrained_cfg_overlay``: the cached file, or nothing.

    Raises
    ------
    ModelError
        If timm has no weights for it, or the hub does not answer.
    """
    import huggingface_hub
    import timm

    told = timm.get_pretrained_cfg(name)
    if told is None or not (told.hf_hub_id or told.url):
        raise ModelError(f"timm has no ImageNet weights for {name}. {_OFFER}")
    for file_name in ("model.safetensors", "pytorch_model.bin"):
        cached = huggingface_hub.try_to_load_from_cache(told.hf_hub_id, file_name) if told.hf_hub_id else None
        if isinstance(cached, str):
            return {"file": cached}
    probe(huggingface_hub.constants.ENDPOINT if told.hf_hub_id else str(told.url))
    return {}


def probe(url: str) -> None:
    """Make sure that an address answers within seconds; any answer will do."""
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310 (an https address of timm's)
    try:
        urllib.request.urlopen(request, timeout=_PROBE_S).close()  # noqa: S310
    except urllib.error.HTTPError:
        return
    except _NO_ANSWER as error:
        raise _unreachable(url, error) from error


def _unreachable(url: str, error: BaseException) -> ModelError:
    return ModelError(f"The ImageNet weights cannot be fetched from {url} ({error}). {_OFFER}")
