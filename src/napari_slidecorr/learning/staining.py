"""The stains of whole slides, found once a slide, and the step between reading and augmentation that evens them out."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.errors import SlideError
from napari_slidecorr.events import Event, Notice
from napari_slidecorr.geometry import Box
from napari_slidecorr.slide import Slide
from napari_slidecorr.stain import Stain, find_stain, normalize_stain
from napari_slidecorr.tissue import TissueMask, find_tissue

MPP = 2.0
"""Micrometres per pixel at which stains are looked at: 5x, where files have a level."""

SIDE_PX = 128
PLACES = 32
"""So many squares of that side are looked at, spread at random over the tissue of a slide, the same each time."""


@dataclass(frozen=True)
class StainStep:
    """Brings patches to one stain, each by what is known of its slide.

    Attributes
    ----------
    target : Stain or None
        None leaves all patches as they are.
    of_slide : mapping of slide id to Stain or None
        None where a slide's stains could not be told: its patches stay as they are.
    """

    target: Stain | None = None
    of_slide: Mapping[str, Stain | None] = field(default_factory=dict)

    def __call__(self, slide: Slide, patch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Give patches of a slide, shape (..., 3), uint8, as the model is to see them."""
        source = self.of_slide[slide.id] if self.target else None
        return normalize_stain(patch, source, self.target) if self.target and source else patch


AS_READ = StainStep()
"""Leaves everything as it is."""


def make_stain_step(slides: Sequence[Slide], target: Stain | None) -> Generator[Event, None, StainStep]:
    """Find the stains of slides; a target of None asks for nothing.

    Yields
    ------
    Event
        One for each slide, and a `Notice` that counts and names those whose stains could not be told.

    Returns
    -------
    StainStep
    """
    if target is None:
        return AS_READ
    found: dict[str, Stain | None] = {}
    for done, slide in enumerate(slides):
        yield Event(phase=f"Finding the stains of {slide.id}", done=done, total=len(slides))
        found[slide.id] = find_slide_stain(slide)
    plain = [slide_id for slide_id, stain in found.items() if stain is None]
    if plain:
        slides_are = "1 slide is" if len(plain) == 1 else f"{len(plain)} slides are"
        message = f"{slides_are} used as scanned, too pale or too little tissue to tell two stains: {', '.join(plain)}."
        yield Notice(phase="Finding stains", message=message, warning=True)
    return StainStep(target, found)


def find_slide_stain(slide: Slide) -> Stain | None:
    """Tell the stains of a slide from tissue all over it; the same slide always gives the same.

    Raises
    ------
    SlideError
        If its overview, or every place that was looked at, is damaged.
    """
    tissue = find_tissue(slide)
    if not tissue.mask.any():
        return None
    pixels, errors = [], []
    for box in _places(slide, tissue):
        try:
            pixels.append(slide.read(box, SIDE_PX).reshape(-1, 3))
        except SlideError as error:
            errors.append(error)
    if not pixels:
        raise errors[0]
    return find_stain(np.concatenate(pixels))


def _places(slide: Slide, tissue: TissueMask) -> list[Box]:
    """Squares around random points of tissue."""
    rng = np.random.default_rng(0x57A1)
    points = np.argwhere(tissue.mask)
    chosen = rng.choice(points, min(PLACES, len(points)), replace=False)
    height, width = (_side_px(slide, axis) for axis in (0, 1))
    corners = (chosen + 0.5) * tissue.pixel_px - (height / 2, width / 2)
    return [Box(y, x, y + height, x + width) for y, x in np.floor(corners).astype(int).tolist()]


def _side_px(slide: Slide, axis: int) -> int:
    """Level-0 pixels that a square covers: at 2 um/px, or at a quarter of the resolution when none is known."""
    zoom = max(1.0, MPP / slide.mpp[axis]) if slide.mpp else 4.0
    return round(SIDE_PX * zoom)
