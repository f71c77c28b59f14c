"""What preparation and scanner make of a slide: stain, light, gamma, focus and grain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

HAEMATOXYLIN = (0.68, 0.70, 0.36)
EOSIN = (0.14, 0.82, 0.44)
"""Optical density of R, G, B per unit of stain; as broad as seen through a camera."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What preparation and scanner make of a slide; says nothing of its classes.

    Attributes
    ----------
    haematoxylin, eosin : (float, float, float)
        Optical density of R, G, B per unit of stain.
    light : (float, float, float)
        Glass in R, G, B, of 1.
    gamma : (float, float, float)
        Exponent of each channel; unequal ones tint tissue and leave white alone.
    blur_px, noise : float
        Standard deviations, in level-0 pixels and in grey values of 255.
    nuclear_size, nuclear_spacing : float
        Factors on the sizes of all classes: no two patients have the same.
    texture : float
        Contrast of the ground substance.
    """

    haematoxylin: tuple[float, float, float] = HAEMATOXYLIN
    eosin: tuple[float, float, float] = EOSIN
    light: tuple[float, float, float] = (0.96, 0.96, 0.96)
    gamma: tuple[float, float, float] = (1.0, 1.0, 1.0)
    blur_px: float = 0.6
    noise: float = 2.0
    nuclear_size: float = 1.0
    nuclear_spacing: float = 1.0
    texture: float = 0.25


def tinted(look: Look, *, pink: bool) -> Look:
    """The same look, moved to one side of the colours."""
    gamma = (0.85, 1.15, 1.0) if pink else (1.2, 0.95, 0.8)
    return replace(look, gamma=gamma)


def varied_looks(count: int, rng: np.random.Generator) -> list[Look]:
    """Looks as far apart as those of a cohort from many laboratories.

    Each property is spread evenly over its range, so that even a few slides span it.
    """
    spread = _Spread(count, rng)
    columns = (
        spread.stain(HAEMATOXYLIN, strength=(0.9, 1.9), tint=0.11),
        spread.stain(EOSIN, strength=(0.35, 1.1), tint=0.12),
        1 - spread.columns((0.01, 0.01, 0.01), (0.06, 0.05, 0.07)),
        spread.columns((0.8, 0.85, 0.8), (1.25, 1.2, 1.25)),
        spread((0.3, 1.7)),
        spread((0.5, 4.0)),
        spread((0.9, 1.15)),
        spread((0.94, 1.1)),
        spread((0.15, 0.4)),
    )
    return [_look([column[i].tolist() for column in columns]) for i in range(count)]


def _look(values: list[Any]) -> Look:
    """A look from its properties in the order of their declaration."""
    return Look(**{field.name: value for field, value in zip(fields(Look), values, strict=True)})


class _Spread:
    """Draws numbers for all slides at once, one in each of as many equal parts of a range, in random order."""

    def __init__(self, count: int, rng: np.random.Generator) -> None:
        self._count, self._rng = count, rng

    def __call__(self, bounds: tuple[float, float]) -> NDArray[np.float64]:
        places = (self._rng.permutation(self._count) + self._rng.random(self._count)) / self._count
        return bounds[0] + (bounds[1] - bounds[0]) * places

    def columns(self, low: Sequence[float], high: Sequence[float]) -> NDArray[np.float64]:
        """Three independent channels, shape (count, 3)."""
        return np.stack([self(bounds) for bounds in zip(low, high, strict=True)], axis=1)

    def stain(self, density: Sequence[float], *, strength: tuple[float, float], tint: float) -> NDArray[np.float64]:
        """Optical densities of a stain of varied strength and hue, shape (count, 3), at least 0.06."""
        hue = self.columns([-tint] * 3, [tint] * 3)
        return np.maximum(np.asarray(density) + hue, 0.06) * self(strength)[:, None]
