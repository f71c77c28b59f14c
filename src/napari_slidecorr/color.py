"""Colours as a scanner meant them: from its ICC profile to sRGB, for viewing."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from napari_slidecorr.errors import SlideError


def srgb_converter(profile: bytes, name: str) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """Give a function that converts pixels, shape (h, w, 3), uint8, from a profile to sRGB; safe in threads.

    Raises
    ------
    SlideError
        If the profile is damaged or not one of RGB; ``name`` is the file to name.
    """
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), "RGB", "RGB"
        )
    except (OSError, ImageCms.PyCMSError) as error:
        raise SlideError(
            f"{name}: its ICC profile ({len(profile):,} bytes) is damaged ({error}); read it without conversion to sRGB."
        ) from error

    def convert(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.asarray(ImageCms.applyTransform(Image.fromarray(np.ascontiguousarray(pixels)), transform))

    return convert
