"""Give all pictures of a slide another look: how strong its two stains are, its white balance and its gamma."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.color import hed2rgb, rgb2hed


@dataclass(frozen=True)
class Recolouring:
    """A look that one slide shares and no other has.

    Attributes
    ----------
    haematoxylin, eosin : float
        Factors of the two stains.
    white : (float, float, float)
        Factors of red, green and blue.
    gamma : float
        Exponent of intensities in [0, 1].
    """

    haematoxylin: float
    eosin: float
    white: tuple[float, float, float]
    gamma: float

    @classmethod
    def of(cls, slide: str, seed: int = 0) -> Recolouring:
        """Draw the look of a slide, always the same one for the same name and seed."""
        digest = hashlib.sha256(f"{seed} {slide}".encode()).digest()
        rng = np.random.default_rng(list(digest[:16]))
        haematoxylin, eosin = np.exp(rng.uniform(-0.4, 0.4, 2))
        red, green, blue = rng.uniform(0.85, 1.0, 3)
        gamma = np.exp(rng.uniform(-0.3, 0.3))
        return cls(float(haematoxylin), float(eosin), (float(red), float(green), float(blue)), float(gamma))

    @property
    def is_blue(self) -> bool:
        """Whether haematoxylin gained on eosin."""
        return self.haematoxylin > self.eosin

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Recolour a picture, shape (H, W, 3)."""
        stains = rgb2hed(rgb) * np.asarray([self.haematoxylin, self.eosin, 1.0])
        shown = np.clip(hed2rgb(stains), 0, 1) ** self.gamma * np.asarray(self.white)
        return np.asarray(np.rint(shown * 255), np.uint8)
