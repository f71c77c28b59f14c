"""Draws tissue as a scanner would show it: nuclei and eosin as optical density, then stain, light, focus and noise.

Classes differ in the size, density and arrangement of their nuclei; the chromatin and the stain of a slide are the same
for all of them. What differs from slide to slide is a `Look`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from napari_slidecorr.geometry import YX
from napari_slidecorr.sample_looks import Look

Plane = NDArray[np.float32]

STAMPS = 12
DIRECTIONS = 16


@dataclass(frozen=True, kw_only=True)
class Tissue:
    """How the nuclei of a class look and lie; lengths in level-0 pixels of 0.5 um.

    Attributes
    ----------
    radii : (float, float)
        Half axes of a nucleus, long and short.
    spread : float
        Relative standard deviation of the size.
    spacing : float
        Distance of neighbours on the jittered lattice on which nuclei lie.
    missing : float
        Share of places without a nucleus.
    nests : float
        Width of the empty seams between nests, 0 for none.
    aligned : bool
        Whether long axes follow streams instead of pointing anywhere.
    """

    radii: tuple[float, float]
    spread: float
    spacing: float
    missing: float = 0.0
    nests: float = 0.0
    aligned: bool = False


def draw_tissue(
    shape: YX,
    areas: Mapping[str, shapely.Geometry],
    tissues: Mapping[str, Tissue],
    look: Look,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Draw a slide: areas of tissue on glass.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns.
    areas : mapping of class name to polygons
        (y, x) in level-0 pixels, corner-based; they must not overlap. What none covers is glass.
    tissues : mapping of class name to Tissue
    look : Look
    rng : numpy.random.Generator
        Decides the rest.

    Returns
    -------
    ndarray, shape (rows, columns, 3), uint8
    """
    nuclei = np.zeros(shape, np.float32)
    covered = np.zeros(shape, bool)
    for name, area in areas.items():
        mask = rasterize(area, shape)
        covered |= mask
        _stamp_nuclei(nuclei, mask, tissues[name], look, rng)
    body = _ragged(covered, rng)
    nuclei *= body
    ground = 1 + look.texture * sum(smooth_noise(shape, scale, rng) for scale in (5, 17, 70)) / np.float32(1.5)
    near = np.clip(_blurred(nuclei, 4) - nuclei, 0, 1)
    eosin = body * np.clip(ground, 0.15, 2) * (0.62 - 0.45 * nuclei - 0.55 * near)
    _stamp_red_cells(eosin, covered, rng)
    haematoxylin = 1.15 * nuclei + body * 0.13 * np.clip(ground, 0, 2)
    return _scan(haematoxylin, np.clip(eosin, 0, None), look, rng)


def rasterize(area: shapely.Geometry, shape: YX) -> NDArray[np.bool_]:
    """Tell which pixels have their centre in an area of (y, x) polygons with holes, to half a pixel."""
    picture = Image.new("L", (shape[1], shape[0]), 0)
    draw = ImageDraw.Draw(picture)
    for polygon in sorted(shapely.get_parts(area), key=lambda part: -shapely.Polygon(part.exterior).area):
        draw.polygon(_corners(polygon.exterior), fill=1)
        for hole in polygon.interiors:
            draw.polygon(_corners(hole), fill=0)
    return np.asarray(picture, bool)


def _corners(ring: shapely.LinearRing) -> list[tuple[float, float]]:
    return [(x - 0.5, y - 0.5) for y, x in shapely.get_coordinates(ring)]


def smooth_noise(shape: YX, scale: float, rng: np.random.Generator) -> Plane:
    """Noise of mean 0 and variance near 1 whose hills are about ``scale`` pixels wide; shape ``shape``, float32."""
    coarse = tuple(int(n / scale) + 4 for n in shape)
    field = Image.fromarray(rng.standard_normal(coarse, dtype=np.float32))
    box = (1.5, 1.5, 1.5 + shape[1] / scale, 1.5 + shape[0] / scale)
    return np.asarray(field.resize((shape[1], shape[0]), Image.Resampling.BICUBIC, box=box)) * np.float32(1.35)


def _blurred(plane: Plane, factor: int) -> Plane:
    """A cheap wide blur: reduced and enlarged again."""
    small = Image.fromarray(plane).reduce(factor)
    return np.asarray(small.resize((plane.shape[1], plane.shape[0]), Image.Resampling.BICUBIC))


def _ragged(covered: NDArray[np.bool_], rng: np.random.Generator) -> Plane:
    """Tissue from 0 to 1 with an edge that frays over a few pixels."""
    soft = Image.fromarray(covered.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(5))
    frayed = np.asarray(soft, np.float32) / 255 + 0.12 * smooth_noise(covered.shape, 9, rng)
    return np.asarray(np.clip((frayed - 0.5) * 4 + 0.5, 0, 1) * (np.asarray(soft) > 0), np.float32)


def _stamp_nuclei(plane: Plane, mask: NDArray[np.bool_], tissue: Tissue, look: Look, rng: np.random.Generator) -> None:
    y, x = _lattice(mask.shape, tissue.spacing * look.nuclear_spacing, rng)
    there = mask[y, x] & (rng.random(len(y)) >= tissue.missing)
    if tissue.nests:
        there &= np.abs(smooth_noise(mask.shape, 110, rng)[y, x]) > tissue.nests
    y, x = y[there], x[there]
    turn = rng.random(len(y)) * DIRECTIONS
    if tissue.aligned:
        turn = smooth_noise(mask.shape, 260, rng)[y, x] * 0.35 * DIRECTIONS + rng.normal(0, 0.7, len(y))
    stamps = _nuclei(tissue, look.nuclear_size, rng)
    which = (np.rint(turn).astype(int) % DIRECTIONS) * STAMPS + rng.integers(STAMPS, size=len(y))
    _stamp(plane, stamps, which, y, x)


def _lattice(shape: YX, spacing: float, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places on a hexagonal lattice, each moved at random; whole pixels inside of the shape."""
    rows = np.arange(0, shape[0] + spacing, spacing * 0.87)
    columns = np.arange(0, shape[1] + spacing, spacing)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    x = x + (np.arange(len(rows)) % 2)[:, None] * spacing / 2
    y, x = (part + rng.uniform(-0.36, 0.36, part.shape) * spacing for part in (y, x))
    inside = (y >= 0) & (x >= 0) & (y < shape[0]) & (x < shape[1])
    return y[inside].astype(np.int64), x[inside].astype(np.int64)


def _nuclei(tissue: Tissue, size: float, rng: np.random.Generator) -> Plane:
    """Nuclei to choose from, shape (DIRECTIONS * STAMPS, s, s): soft edge, dark rim, clumped chromatin."""
    count = DIRECTIONS * STAMPS
    scale = size * np.clip(rng.normal(1, tissue.spread, (count, 1, 1)), 0.5, 1.7)
    half = int(np.ceil(tissue.radii[0] * size * 1.9))
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    angle = (np.arange(count) // STAMPS * np.pi / DIRECTIONS)[:, None, None]
    along = (x * np.cos(angle) + y * np.sin(angle)) / (tissue.radii[0] * scale)
    across = (y * np.cos(angle) - x * np.sin(angle)) / (tissue.radii[1] * scale)
    around = np.arctan2(across, along)
    wobble = sum(
        rng.normal(0, 0.16 / order, (count, 1, 1)) * np.cos(order * around + rng.uniform(0, 6.3, (count, 1, 1)))
        for order in (2, 3, 4)
    )
    distance = np.hypot(along, across) / (1 + np.clip(wobble, -0.4, 0.4))
    edge = np.clip((1 - distance) * tissue.radii[1] * scale / 1.6 + 0.5, 0, 1)
    rim = 0.25 * np.exp(-(((distance - 0.85) / 0.14) ** 2))
    side = 2 * half + 1
    chromatin = np.stack([smooth_noise((side, side), 3.4, rng) for _ in range(count)])
    darkness = np.clip(rng.normal(0.95, 0.16, (count, 1, 1)), 0.55, 1.4)
    return np.asarray(edge * (0.72 + rim + 0.16 * chromatin) * darkness, np.float32)


def _stamp(plane: Plane, stamps: Plane, which: NDArray[np.int64], y: NDArray[np.int64], x: NDArray[np.int64]) -> None:
    """Press stamps around places, the darker value winning; those that would cross the border are left out."""
    half = stamps.shape[1] // 2
    inside = (y >= half) & (x >= half) & (y < plane.shape[0] - half) & (x < plane.shape[1] - half)
    for index, top, left in zip(which[inside], y[inside] - half, x[inside] - half, strict=True):
        view = plane[top : top + 2 * half + 1, left : left + 2 * half + 1]
        np.maximum(view, stamps[index], out=view)


def _stamp_red_cells(eosin: Plane, covered: NDArray[np.bool_], rng: np.random.Generator) -> None:
    """A few groups of red blood cells, in tissue of any class."""
    shape = eosin.shape
    groups = max(2, round(shape[0] * shape[1] / 350_000))
    centre = rng.uniform(0, 1, (groups, 1, 2)) * shape
    places = (centre + rng.normal(0, 22, (groups, 14, 2))).reshape(-1, 2).astype(np.int64)
    places = places[((places >= 0) & (places < shape)).all(axis=1)]
    y, x = places[covered[places[:, 0], places[:, 1]]].T
    round_cell = Tissue(radii=(6.5, 5.8), spread=0.08, spacing=1)
    stamps = np.minimum(_nuclei(round_cell, 1, rng) * 1.5, 1.15)
    _stamp(eosin, stamps, rng.integers(len(stamps), size=len(y)), y, x)


def _scan(haematoxylin: Plane, eosin: Plane, look: Look, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Beer-Lambert, then light, gamma, focus and noise."""
    channels = [
        Image.fromarray((255 * np.power(light * np.exp(-(h * haematoxylin + e * eosin)), gamma) + 0.5).astype(np.uint8))
        for h, e, light, gamma in zip(look.haematoxylin, look.eosin, look.light, look.gamma, strict=True)
    ]
    grain = np.rint(rng.standard_normal(eosin.shape, dtype=np.float32) * np.float32(look.noise)).astype(np.int16)
    picture = np.empty((*eosin.shape, 3), np.uint8)
    for index, channel in enumerate(channels):
        sharp = np.asarray(channel.filter(ImageFilter.GaussianBlur(look.blur_px)), np.int16)
        picture[..., index] = np.clip(sharp + grain, 0, 255)
    return picture
