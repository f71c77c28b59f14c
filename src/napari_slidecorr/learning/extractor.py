"""A frozen backbone and how patches come to it: what makes features, and what they are known by."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import torch

from napari_slidecorr.errors import ModelError
from napari_slidecorr.geometry import Grid, PatchGeometry
from napari_slidecorr.io.content_digest import content_digest
from napari_slidecorr.learning.feature_store import FeatureKey, Features
from napari_slidecorr.learning.loading import Patches
from napari_slidecorr.learning.models import PatchClassifier, choose_device
from napari_slidecorr.slide import Slide
from napari_slidecorr.stain import Stain


@dataclass(frozen=True, eq=False)
class Extractor:
    """A frozen backbone and how patches come to it.

    Attributes
    ----------
    model : PatchClassifier
        In evaluation mode on its device; head and neck are not used.
    geometry : PatchGeometry
        What one patch is.
    stain : Stain or None
        What stains are brought to first.
    weights : str
        sha256 of the backbone's tensors.
    """

    model: PatchClassifier
    geometry: PatchGeometry
    stain: Stain | None = None
    weights: str = ""

    @classmethod
    def of(
        cls, model: PatchClassifier, geometry: PatchGeometry, stain: Stain | None = None, *, device: str = "auto"
    ) -> Extractor:
        """Make one of any classifier, pretrained or trained; it is moved to the device and its weights are hashed."""
        model.to(choose_device(device), memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        return cls(model, geometry, stain, weights_digest(model.backbone))

    @property
    def dim(self) -> int:
        """D, numbers a patch."""
        return self.model.trunk_dim

    def features(self, patches: Patches) -> Features:
        """Compute features, shape (N, D), float16, of patches, shape (N, S, S, 3), uint8.

        Patches that do not fit into the GPU's memory together are halved until they do.

        Raises
        ------
        ModelError
            If it does not hold a single one.
        """
        if not len(patches):
            return np.zeros((0, self.dim), np.float16)
        try:
            with torch.inference_mode():
                inputs = self.model.prepare(torch.from_numpy(np.require(patches, np.uint8, ["C", "W"])))
                found: Features = self.model.backbone(inputs).float().cpu().numpy().astype(np.float16)
                return found
        except torch.cuda.OutOfMemoryError as error:
            if len(patches) == 1:
                raise ModelError(
                    "Not one patch fits into the GPU's memory; choose smaller patches, another backbone or the device cpu."
                ) from error
        # Here and not in the except block: until that ends, the error holds on to what did not fit.
        half = len(patches) // 2
        return np.concatenate([self.features(patches[:half]), self.features(patches[half:])])

    def key(self, slide: Slide) -> FeatureKey:
        """Say what decides the features of a slide's patches.

        Raises
        ------
        SlideError
            If the slide cannot be read, or has no pixel size and the geometry needs one.
        """
        return FeatureKey(
            slide=slide_digest(slide),
            slide_px=slide.shape,
            footprint_px=self.geometry.footprint_px(slide.mpp, slide.id),
            size_px=self.geometry.size_px,
            stain=json.dumps(self.stain.to_json(), sort_keys=True) if self.stain else "",
            weights=self.weights,
            preprocessing=f"mean {self.model.mean} std {self.model.std}",
            dim=self.dim,
        )


def slide_grid(slide: Slide, geometry: PatchGeometry, overlap: float = 0.0) -> Grid:
    """Lay the cells of the fast way over a slide: those of its map, on which its regions are read too.

    Raises
    ------
    SlideError
        If the slide can only be viewed, or has no pixel size and the geometry needs one.
    """
    slide.check_brightfield()
    cell = geometry.footprint_px(slide.mpp, slide.id)
    height, width = (max(1, round(n * (1 - overlap))) for n in cell)
    return Grid.over(slide.shape, cell, (height, width), slide.mpp)


def slide_digest(slide: Slide) -> str:
    """Give a digest of a slide's content, whatever its path; of its pixels at a glance when it is in no file.

    Raises
    ------
    SlideError
        If it cannot be read.
    """
    if slide.path.exists():
        return content_digest(slide.path)
    digest = hashlib.sha256(repr(slide.shape).encode())
    digest.update(np.ascontiguousarray(slide.thumbnail(512)).tobytes())
    return digest.hexdigest()


def weights_digest(network: torch.nn.Module) -> str:
    """Give a sha256 of a network's tensors and their names."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
