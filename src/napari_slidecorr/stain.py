"""Stain normalization after Macenko: two stains told apart in optical density, and brought to a reference.

Colour alone; which pixels a slide's stains are taken from is told elsewhere (`learning.staining`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LIGHT = 240.0
"""Value of a pixel that absorbs nothing."""

MIN_DENSITY = 0.15
"""Pixels that are less dense than this in any channel say nothing of the stains."""

MIN_PIXELS = 1000
"""Fewer dense pixels than this do not tell two stains apart."""

MIN_ANGLE = np.deg2rad(5)
"""Stains whose directions are closer than this are one stain, and the division between them is noise."""

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Stain:
    """How two stains look on a slide.

    Attributes
    ----------
    haematoxylin, eosin : (float, float, float)
        Unit vectors of optical density in red, green and blue.
    strengths : (float, float)
        The 99th percentile of the amount of each.
    """

    haematoxylin: Triple
    eosin: Triple
    strengths: tuple[float, float]

    @property
    def vectors(self) -> NDArray[np.float64]:
        """Both directions, shape (2, 3)."""
        return np.asarray((self.haematoxylin, self.eosin), np.float64)

    def to_json(self) -> dict[str, Any]:
        """Give it ready for JSON, with the name of the method."""
        return {
            "method": "macenko",
            "haematoxylin": list(self.haematoxylin),
            "eosin": list(self.eosin),
            "strengths": list(self.strengths),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Stain:
        """Read what `to_json` gave.

        Raises
        ------
        ValueError
            If the method is another one, or a number is missing or not finite.
        """
        if values["method"] != "macenko":
            raise ValueError(f"there is no stain normalization named {values['method']!r}")
        numbers = [tuple(map(float, values[name])) for name in ("haematoxylin", "eosin", "strengths")]
        if [len(row) for row in numbers] != [3, 3, 2] or not np.isfinite(np.concatenate(numbers)).all():
            raise ValueError("the stain reference does not consist of 3 + 3 + 2 finite numbers")
        return cls(*numbers)  # type: ignore[arg-type]


REFERENCE = Stain((0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581), (1.9705, 1.0308))
"""The reference of the authors' own program, which other programs took over: slides are brought to it."""

_DENSITY_OF = -np.log((np.arange(256) + 1) / LIGHT)


def optical_density(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Give ``-log((value + 1) / 240)`` of each value, in the same shape."""
    return _DENSITY_OF[pixels]


def find_stain(pixels: NDArray[np.uint8]) -> Stain | None:
    """Tell the two stains of tissue.

    Parameters
    ----------
    pixels : ndarray, shape (P, 3), uint8
        Of tissue, from all over a slide; glass among them is left out.

    Returns
    -------
    Stain or None
        None where tissue is too pale, too little or of one colour only: nothing can then be told of two stains.

    Notes
    -----
    The optical densities lie near a plane, that of the two largest principal directions. The stains are the directions
    in it at the 1st and 99th percentile of the angle; haematoxylin is the one that takes more red.

    References
    ----------
    Macenko et al., "A method for normalizing histology slides for quantitative analysis", ISBI 2009.
    """
    density = optical_density(pixels.reshape(-1, 3))
    dense = density[(density >= MIN_DENSITY).all(axis=1)]
    if len(dense) < MIN_PIXELS:
        return None
    plane = np.linalg.eigh(np.cov(dense.T))[1][:, 1:]
    vectors = _extreme_directions(dense, plane)
    angle = np.arccos(np.clip(vectors[0] @ vectors[1], -1, 1))
    if not MIN_ANGLE < angle < np.pi - MIN_ANGLE:
        return None
    strengths = np.percentile(dense @ np.linalg.pinv(vectors), 99, axis=0)
    if not (np.isfinite(strengths).all() and (strengths > MIN_DENSITY).all()):
        return None
    first, second = ((float(r), float(g), float(b)) for r, g, b in vectors)
    return Stain(first, second, (float(strengths[0]), float(strengths[1])))


def _extreme_directions(dense: NDArray[np.float64], plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit vectors at the ends of the fan of pixels in a plane, shape (2, 3), the one that takes more red first."""
    along = dense @ plane
    low, high = np.percentile(np.arctan2(along[:, 1], along[:, 0]), (1, 99))
    ends = np.asarray([(np.cos(angle), np.sin(angle)) for angle in (low, high)]) @ plane.T
    return ends if ends[0, 0] > ends[1, 0] else ends[::-1]


def normalize_stain(patches: NDArray[np.uint8], source: Stain, target: Stain = REFERENCE) -> NDArray[np.uint8]:
    """Show patches as if they had been stained like the target.

    Parameters
    ----------
    patches : ndarray, shape (..., 3), uint8
    source : Stain
        Of the *slide* that they are from. Stains of the patch itself would take away what makes it differ from the
        rest of its slide.

    Returns
    -------
    ndarray, shape (..., 3), uint8

    Notes
    -----
    Amounts of both stains are scaled so that their strengths agree, and mixed with the target's vectors. All of this
    is one 3 x 3 matrix on optical densities. What lies outside the plane of the two stains, such as a pen, is lost.
    """
    scale = np.asarray(target.strengths) / np.asarray(source.strengths)
    matrix = np.linalg.pinv(source.vectors) @ (scale[:, None] * target.vectors)
    density = _DENSITY_OF.astype(np.float32)[patches] @ matrix.astype(np.float32)
    # Beyond these bounds all values are 255 or 0 anyway, and exp would overflow.
    light: NDArray[np.float32] = LIGHT * np.exp(-density.clip(-1, 20))
    return light.clip(0, 255).round().astype(np.uint8)
