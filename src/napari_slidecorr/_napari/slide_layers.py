"""A slide as napari layers: one of RGB, or one a channel with contrast limits and a colour of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr._napari.layers import KEY, frame, slide_layer
from napari_slidecorr.level_view import LevelView
from napari_slidecorr.slide import Slide

LayerArguments = tuple[list[LevelView], dict[str, Any]]

_COLOURS = ("blue", "green", "red", "cyan", "magenta", "yellow")
_OWN_COLOUR = ("red", "green", "blue")
_MOST_VISIBLE = 4
"""Channels beyond these are there, hidden: additive colours of more cannot be told apart."""


def slide_layers(
    slide: Slide, on_error: Callable[[str], None] | None = None, *, srgb: bool = False
) -> list[LayerArguments]:
    """Give levels and arguments of ``viewer.add_image`` for each layer that shows a slide.

    Of RGB no pixel is read; of channels the coarsest level, for the contrast limits.

    Parameters
    ----------
    on_error
        Called with a sentence, perhaps in a reading thread, for each tile that cannot be decoded.
    srgb : bool
        Convert to sRGB where the file has an ICC profile; for viewing alone.
    """
    if slide.channels:
        return [_channel_layer(slide, channel, on_error) for channel in range(len(slide.channels))]
    levels, arguments = slide_layer(slide, on_error)
    if srgb and slide.icc_profile is not None:
        levels = slide.view_levels(on_error, srgb=True)
    return [(levels, arguments)]


def _channel_layer(slide: Slide, channel: int, on_error: Callable[[str], None] | None) -> LayerArguments:
    levels = slide.channel_levels(channel, on_error)
    told = frame(slide, "slide")
    told["metadata"][KEY]["channel"] = channel
    name = slide.channels[channel]
    return levels, {
        **told,
        "name": slide.id if len(slide.channels) == 1 else f"{slide.id} {name}",
        "rgb": False,
        "multiscale": True,
        "contrast_limits": contrast_limits(np.asarray(levels[-1])),
        "colormap": _colour(slide.channels, channel),
        "blending": "additive" if channel else "translucent",
        "visible": channel < _MOST_VISIBLE,
    }


def contrast_limits(pixels: NDArray[Any]) -> tuple[float, float]:
    """Give the range to show: nearly all of the values, without the few brightest; never an empty one.

    napari takes the whole range of a uint16 whose coarsest level is flat, and every channel is black then.
    """
    known = pixels[np.isfinite(pixels)]
    if not known.size:
        return 0.0, 1.0
    low, high = (float(n) for n in np.percentile(known, (0.5, 99.8)))
    if high <= low:
        low, high = float(known.min()), float(known.max())
    return (low, high) if high > low else (low, low + 1.0)


def _colour(channels: tuple[str, ...], channel: int) -> str:
    if len(channels) == 1:
        return "gray"
    return channels[channel] if channels == _OWN_COLOUR else _COLOURS[channel % len(_COLOURS)]
