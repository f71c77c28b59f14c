"""The mean feature of a slide's tissue, of which a model that centres takes off a share: what stain moves most."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch
from numpy.typing import NDArray

from napari_slidecorr.events import Event, Notice
from napari_slidecorr.learning.extractor import Extractor, slide_grid
from napari_slidecorr.learning.feature_store import FeatureCache
from napari_slidecorr.learning.features import FeaturesAdded, FeaturesDone, SlideFeatures, extract
from napari_slidecorr.learning.models import PatchClassifier
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.slide import Slide
from napari_slidecorr.tissue import find_tissue

CENTRE_CELLS = 256
"""So many cells of tissue tell the mean of a slide, the same ones each time; its error is a sixteenth of a deviation."""


def centre_cells(tissue: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Choose the cells that tell a slide's mean: all of the tissue, or 256 at random, always the same.

    Parameters
    ----------
    tissue : ndarray, shape of the grid without overlap, bool
    """
    places = np.flatnonzero(tissue)
    if len(places) > CENTRE_CELLS:
        places = np.random.default_rng(0xCE27).choice(places, CENTRE_CELLS, replace=False)
    out = np.zeros(tissue.shape, bool)
    out.flat[places] = True
    return out


def slide_centre(
    slide: Slide, extractor: Extractor, cache: FeatureCache
) -> Generator[Event, None, NDArray[np.float32]]:
    """Compute the mean feature of a slide's tissue, shape (D,); labels are not asked.

    Yields
    ------
    Event
        While features are computed; a `Notice` for a slide without tissue, whose mean is told as 0.

    Raises
    ------
    SlideError, ModelError
        As `features.extract`.
    """
    grid = slide_grid(slide, extractor.geometry)
    wanted = centre_cells(find_tissue(slide).cells(grid))
    if not wanted.any():
        message = f"{slide.id}: no tissue was found, so its features are not centred."
        yield Notice(phase="Centring", message=message, warning=True)
        return np.zeros(extractor.dim, np.float32)
    found: SlideFeatures | None = None
    for event in extract(slide, extractor, grid, cache=cache, wanted=wanted):
        if isinstance(event, FeaturesDone):
            found = event.result
        elif isinstance(event, FeaturesAdded):
            yield Event(phase=f"Centring {slide.id}", done=event.done, total=event.total)
        else:
            yield event
    return mean_feature(found.features) if found else np.zeros(extractor.dim, np.float32)


def mean_feature(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Mean of features, shape (D,), float32."""
    return np.asarray(features.mean(axis=0, dtype=np.float64), np.float32)


def offset_of(
    slide: Slide, model: PatchClassifier, spec: ModelSpec, device: str
) -> Generator[Event, None, torch.Tensor | None]:
    """Compute what a model takes off the features of a slide (`PatchClassifier.offset`); None for one that does not centre.

    Raises
    ------
    SlideError, ModelError
        As `features.extract`.
    """
    if not spec.centring:
        return None
    extractor = Extractor.of(model, spec.geometry, spec.stain, device=device)
    centre = yield from slide_centre(slide, extractor, FeatureCache())
    return torch.from_numpy(np.float32(spec.centring) * centre)
