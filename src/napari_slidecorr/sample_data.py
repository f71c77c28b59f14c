"""Cohorts of made-up slides with known truth: to try things on, to test with, and to show where methods fail.

Nuclei alone tell the classes apart. Stain, light, gamma, focus and nuclear size vary from slide to slide as they do
between laboratories. Everything follows from the seed: the same arguments give the same files, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_slidecorr.errors import ConfigError
from napari_slidecorr.events import Event
from napari_slidecorr.io.atomic import atomic_file, make_folder
from napari_slidecorr.regions import RegionSet
from napari_slidecorr.sample_layout import as_regions, drawn_regions, lay_out
from napari_slidecorr.sample_looks import Look, tinted, varied_looks
from napari_slidecorr.sample_tissue import Tissue, draw_tissue

MPP = 0.5
TISSUES = {
    "tumour": Tissue(radii=(10.5, 9.5), spread=0.2, spacing=26, missing=0.05, nests=0.25),
    "lymphoid": Tissue(radii=(5.6, 5.3), spread=0.1, spacing=15.5, missing=0.08),
    "stroma": Tissue(radii=(13, 3.6), spread=0.2, spacing=25, missing=0.25, aligned=True),
}
CLASS_COLORS = {"tumour": (213, 94, 0), "lymphoid": (0, 114, 178), "stroma": (0, 158, 115)}
"""Colours that colour-blind people can tell apart (Okabe and Ito)."""


@dataclass(frozen=True)
class SampleSlide:
    """A made-up slide and what is known of it.

    Attributes
    ----------
    id : str
        The file's stem.
    path : Path
        A pyramidal TIFF.
    regions : RegionSet
        A few regions of each class, as a person would have drawn them.
    truth : RegionSet
        All tissue.
    held_out : bool
        Whether it is meant for the test alone.
    group : str
        The pretended patient.
    """

    id: str
    path: Path
    regions: RegionSet
    truth: RegionSet
    held_out: bool
    group: str


@dataclass(frozen=True, kw_only=True)
class CohortMade(Event):
    """The last event of `make_cohort`."""

    result: tuple[SampleSlide, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a slide is to be, before a pixel is drawn.

    Attributes
    ----------
    shares : mapping of class name to share of the tissue
    drawn : tuple of str
        Classes of which regions are drawn.
    look : Look
    size_px : int
        Side of the slide, in level-0 pixels.
    held_out : bool
    """

    shares: Mapping[str, float]
    drawn: tuple[str, ...]
    look: Look
    size_px: int
    held_out: bool = False


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """Usual number of slides, how many of these are held out, and side of a slide in pixels."""

    slides: int
    held_out: float
    size_px: int


_KINDS = {
    "default": _Kind(slides=8, held_out=0.25, size_px=2560),
    "tied": _Kind(slides=12, held_out=0.33, size_px=2048),
    "many": _Kind(slides=56, held_out=0.29, size_px=896),
}
COHORTS = tuple(_KINDS)


def make_cohort(
    folder: Path, kind: str = "default", *, seed: int = 0, slides: int | None = None, size_px: int | None = None
) -> Iterator[Event]:
    """Make the slides of a cohort, an event for each; the last one is a `CohortMade`.

    Parameters
    ----------
    folder : Path
        Where the files go; made if missing. Files of the same name are replaced.
    kind : {"default", "tied", "many"}
        *default*: three classes in every slide. *tied*: two classes, and in the slides for training the stain goes with
        the class, one class a slide; in the held-out ones it does not. *many*: many small slides of one class each.
    seed : int
        Decides everything.
    slides, size_px : int, optional
        Number of slides and side of a slide in pixels; the kind's own when left out.

    Raises
    ------
    ConfigError
        For an unknown kind, fewer than four slides or slides under 512 pixels; now, not at the first event.
    ProjectError
        While the events run, if a file cannot be written.
    """
    plans = plan_cohort(kind, seed=seed, slides=slides, size_px=size_px)
    return _make(Path(folder), kind, plans, seed)


def plan_cohort(
    kind: str = "default", *, seed: int = 0, slides: int | None = None, size_px: int | None = None
) -> dict[str, Plan]:
    """Say what `make_cohort` would make, as mapping of slide id to `Plan`."""
    if kind not in _KINDS:
        raise ConfigError(f"kind is {kind!r}; choose one of {', '.join(COHORTS)}.")
    usual = _KINDS[kind]
    count = usual.slides if slides is None else slides
    side = usual.size_px if size_px is None else size_px
    if count < 4:
        raise ConfigError(f"slides is {count}; a cohort needs at least 4, to train, to validate and to hold out.")
    if side < 512:
        raise ConfigError(f"size_px is {side}; a slide needs at least 512 pixels.")
    held = max(1, round(count * usual.held_out))
    looks = varied_looks(count, np.random.default_rng([seed, COHORTS.index(kind)]))
    make = {"default": _plan_default, "tied": _plan_tied, "many": _plan_many}[kind]
    plans = [make(i, look, side, held_out=i >= count - held) for i, look in enumerate(looks)]
    return {f"{kind}-{i + 1:02d}": plan for i, plan in enumerate(plans)}


def make_slide(path: Path, plan: Plan, *, seed: int = 0) -> SampleSlide:
    """Make one slide, and write it as pyramidal TIFF; its id is the file's stem.

    Raises
    ------
    ProjectError
        If the file cannot be written.
    """
    shape = plan.size_px, plan.size_px
    rng = np.random.default_rng([seed, *path.stem.encode()])
    areas = lay_out(shape, plan.shares, rng)
    drawn = drawn_regions(path.stem, shape, areas, plan.drawn, rng, count=3, radius_px=min(300, plan.size_px / 6))
    make_folder(path.parent)
    _write_pyramid(path, draw_tissue(shape, areas, TISSUES, plan.look, rng))
    return SampleSlide(path.stem, path, drawn, as_regions(path.stem, areas), plan.held_out, f"patient-{path.stem}")


def _make(folder: Path, kind: str, plans: Mapping[str, Plan], seed: int) -> Iterator[Event]:
    made: list[SampleSlide] = []
    for slide_id, plan in plans.items():
        yield Event(phase=f"Making slides ({kind})", done=len(made), total=len(plans))
        made.append(make_slide(folder / f"{slide_id}.tif", plan, seed=seed))
    yield CohortMade(phase=f"Making slides ({kind})", done=len(made), total=len(plans), result=tuple(made))


def _plan_default(_index: int, look: Look, size_px: int, *, held_out: bool) -> Plan:
    shares = {"tumour": 0.36, "lymphoid": 0.32, "stroma": 0.32}
    return Plan(shares=shares, drawn=tuple(shares), look=look, size_px=size_px, held_out=held_out)


def _plan_many(index: int, look: Look, size_px: int, *, held_out: bool) -> Plan:
    name = ("tumour", "lymphoid")[index % 2]
    return Plan(shares={name: 1.0}, drawn=(name,), look=look, size_px=size_px, held_out=held_out)


def _plan_tied(index: int, look: Look, size_px: int, *, held_out: bool) -> Plan:
    names = ("tumour", "lymphoid")
    hue = index % 2
    look = tinted(look, pink=hue == 0)
    if held_out:
        return Plan(shares=dict.fromkeys(names, 0.5), drawn=names, look=look, size_px=size_px, held_out=True)
    shares = dict(zip(names, (0.9, 0.1) if hue == 0 else (0.1, 0.9), strict=True))
    return Plan(shares=shares, drawn=(names[hue],), look=look, size_px=size_px)


def _write_pyramid(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write tiled JPEG levels, each half of the one before, the coarsest at most 512 pixels."""
    import tifffile

    with atomic_file(path) as file, tifffile.TiffWriter(file) as tiff:
        for level, picture in enumerate(_levels(Image.fromarray(pixels))):
            per_cm = 1e4 / (MPP * 2**level)
            tiff.write(
                np.asarray(picture),
                photometric="rgb",
                tile=(256, 256),
                compression="jpeg",
                compressionargs={"level": 85},
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                subfiletype=1 if level else 0,
                metadata=None,
                maxworkers=1,
            )


def _levels(picture: Image.Image) -> Iterator[Image.Image]:
    yield picture
    while max(picture.size) > 512:
        picture = picture.reduce(2)
        yield picture
