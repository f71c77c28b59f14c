"""Random views of patches: eight orientations, the paper's colour jitter, and jitter of the stains.

Everything is drawn from (seed, epoch, batch), never from a global generator: the same numbers give the same views,
whatever was done before and however many threads read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

JITTER = (0.8, 1.2)
"""Bounds of the factors of colour jitter (Zhang et al., MIDL 2021, section 4.1)."""

HED = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
"""Optical densities (R, G, B) of haematoxylin, eosin and DAB (Ruifrok and Johnston, 2001)."""

_GREY = (0.299, 0.587, 0.114)


def generator(seed: int, epoch: int, batch: int) -> np.random.Generator:
    """Give the generator that decides the views of one batch."""
    return np.random.default_rng([seed, epoch, batch, 0xA06])


class Places(NamedTuple):
    """Where the patches at hand stand in a batch that several processes share.

    Attributes
    ----------
    mine : ndarray, shape (N,), int64
        Their places in the batch.
    total : int
        How many the batch has.
    """

    mine: NDArray[np.int64]
    total: int


def all_places(patches: Sequence[Any] | Tensor | NDArray[Any]) -> Places:
    """Give the places of a batch that is here as a whole."""
    return Places(np.arange(len(patches)), len(patches))


def flip_rotate(
    patches: NDArray[np.uint8], rng: np.random.Generator, places: Places | None = None
) -> NDArray[np.uint8]:
    """Show each patch in one of the eight orientations of a square.

    Parameters
    ----------
    patches : ndarray, shape (N, S, S, 3), uint8
    rng : numpy Generator
        Draws for the whole batch, whichever part of it is here.
    places : Places, optional
        Which part that is; the whole when left out.
    """
    places = places or all_places(patches)
    views = rng.integers(8, size=places.total)[places.mine]
    return np.stack([_oriented(patch, int(view)) for patch, view in zip(patches, views, strict=True)])


def _oriented(patch: NDArray[np.uint8], view: int) -> NDArray[np.uint8]:
    turned = np.rot90(patch, view % 4)
    return turned[:, ::-1] if view >= 4 else turned


def colour_jitter(patches: Tensor, rng: np.random.Generator, places: Places | None = None) -> Tensor:
    """Multiply brightness, contrast, saturation and hue of each patch by factors drawn from [0.8, 1.2].

    Parameters
    ----------
    patches : Tensor, shape (N, H, W, 3), uint8
    rng, places
        As for `flip_rotate`.

    Returns
    -------
    Tensor, shape (N, H, W, 3), uint8

    Notes
    -----
    In this order: brightness scales all values; contrast their distance to the patch's mean grey; saturation the
    distance of each pixel to its own grey; hue the angle from red, taken in (-180, 180] degrees. Its seam so lies at
    cyan, which stains do not have; an angle in [0, 360) would tear reds apart. Values are clipped after each step.

    References
    ----------
    Zhang et al., MIDL 2021, section 4.1 (the four factors; what hue is multiplied as is not said there).
    """
    places = places or all_places(patches)
    drawn = rng.uniform(*JITTER, size=(4, places.total, 1, 1, 1))[:, places.mine]
    factors = torch.from_numpy(drawn.astype(np.float32))
    brightness, contrast, saturation, hue = factors.to(patches.device)
    rgb = (patches.float() / 255 * brightness).clamp(0, 1)
    mean_grey = _grey(rgb).mean(dim=(1, 2), keepdim=True)
    rgb = (mean_grey + (rgb - mean_grey) * contrast).clamp(0, 1)
    grey = _grey(rgb)
    rgb = (grey + (rgb - grey) * saturation).clamp(0, 1)
    return (_with_hue_times(rgb, hue) * 255).round().to(torch.uint8)


def hed_jitter(patches: Tensor, rng: np.random.Generator, sigma: float, places: Places | None = None) -> Tensor:
    r"""Vary the stains of each patch: haematoxylin, eosin, and what is neither.

    Parameters
    ----------
    patches : Tensor, shape (N, H, W, 3), uint8
    sigma : float
        Largest change: of a density as part of it, and again as density of its own.
    rng, places
        As for `flip_rotate`.

    Returns
    -------
    Tensor, shape (N, H, W, 3), uint8

    Notes
    -----
    The optical density ``-log10(rgb / 255)`` of each pixel is written as ``s M`` with the three stains' colours M of
    Ruifrok and Johnston. Then for each patch and stain

    .. math::
        s' = \alpha s + \beta, \quad \alpha \sim U(1 - \sigma, 1 + \sigma), \quad \beta \sim U(-\sigma, \sigma).

    Values below 1 / 255 count as 1 / 255. Densities are to base 10 and without offset, which is ours.

    References
    ----------
    Tellez et al., "Whole-slide mitosis detection in H&E breast histology using PHH3 as a reference to train distilled
    stain-invariant convolutional networks", IEEE TMI 37, 2018, section III-D.
    Ruifrok and Johnston, "Quantification of histochemical staining by color deconvolution", AQCH 23, 2001.
    """
    places = places or all_places(patches)
    drawn = rng.uniform(-sigma, sigma, size=(2, places.total, 1, 1, 3))[:, places.mine]
    alpha, beta = torch.from_numpy(drawn.astype(np.float32)).to(patches.device)
    stains = torch.tensor(HED, device=patches.device)
    density = -torch.log10(patches.float().clamp(min=1) / 255)
    amounts = density @ torch.linalg.inv(stains) * (1 + alpha) + beta
    return (torch.pow(10, -(amounts @ stains)) * 255).round().clamp(0, 255).to(torch.uint8)


def _grey(rgb: Tensor) -> Tensor:
    return (rgb * torch.tensor(_GREY, device=rgb.device)).sum(dim=-1, keepdim=True)


def _with_hue_times(rgb: Tensor, factor: Tensor) -> Tensor:
    """Multiply the hue, measured from red in (-3, 3] sixths of the circle; value and saturation stay."""
    value, chroma, hue = _value_chroma_hue(rgb)
    sixths = torch.tensor((5.0, 3.0, 1.0), device=rgb.device) + hue * factor
    k = torch.remainder(sixths, 6)
    return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)


def _value_chroma_hue(rgb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    value, brightest = rgb.max(dim=-1, keepdim=True)
    chroma = value - rgb.amin(dim=-1, keepdim=True)
    r, g, b = rgb[..., 0:1], rgb[..., 1:2], rgb[..., 2:3]
    sector = torch.cat([g - b, b - r, r - g], dim=-1).gather(-1, brightest) / chroma.clamp(min=1e-6)
    return value, chroma, sector + torch.tensor((0.0, 2.0, -2.0), device=rgb.device)[brightest]
