"""Where tissue and its classes lie on a made-up slide, and where a person would have drawn."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

import numpy as np
import shapely
from numpy.typing import NDArray

from napari_slidecorr.geometry import YX
from napari_slidecorr.regions import Region, RegionSet
from napari_slidecorr.sample_tissue import rasterize, smooth_noise

CELL_PX = 16
"""Level-0 pixels between the corners of an outline."""


def lay_out(shape: YX, shares: Mapping[str, float], rng: np.random.Generator) -> dict[str, shapely.Geometry]:
    """Divide a piece of tissue among classes.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of the slide in level-0 pixels.
    shares : mapping of class name to share of the tissue
        Sums to 1; the last class takes what is left.

    Returns
    -------
    dict of class name to MultiPolygon
        (y, x) in whole level-0 pixels; together the tissue, without overlap.
    """
    coarse = -(-shape[0] // CELL_PX), -(-shape[1] // CELL_PX)
    height = _tissue(coarse, rng)
    inside = height > 0
    rest = _polygons(shapely.intersection(_above(height), shapely.box(0, 0, *shape), grid_size=1))
    areas: dict[str, shapely.Geometry] = {}
    left = 1.0
    for name, share in list(shares.items())[:-1]:
        hills = smooth_noise(coarse, max(coarse) / 2.6, rng) + 0.1 * smooth_noise(coarse, 6, rng)
        level = np.quantile(hills[inside], 1 - share / left)
        area = _above(hills - level)
        areas[name] = _polygons(shapely.intersection(rest, area, grid_size=1))
        rest = _polygons(shapely.difference(rest, areas[name], grid_size=1))
        inside, left = inside & (hills <= level), left - share
    return {**areas, list(shares)[-1]: rest}


def _tissue(coarse: YX, rng: np.random.Generator) -> NDArray[np.float32]:
    """A field above 0 where there is tissue: one piece with a ragged outline, and gaps in it."""
    y, x = (np.abs(np.linspace(-1, 1, n, dtype=np.float32)) for n in coarse)
    ry, rx = rng.uniform(0.78, 0.92, 2)
    piece = 1 - (y[:, None] / ry) ** 3 - (x[None, :] / rx) ** 3
    piece += 0.22 * smooth_noise(coarse, max(coarse) / 4, rng) + 0.07 * smooth_noise(coarse, 4, rng)
    gaps = 2.1 - smooth_noise(coarse, max(4.0, max(coarse) / 16), rng)
    return np.asarray(np.minimum(piece, gaps), np.float32)


def _above(field: NDArray[np.floating]) -> shapely.Geometry:
    """Area where a coarse field is above 0, in level-0 pixels."""
    from skimage.measure import find_contours

    rings = find_contours(np.pad(np.asarray(field, np.float64), 1, constant_values=-1e-3), 0)
    polygons = [shapely.Polygon((ring - 0.5) * CELL_PX) for ring in rings if len(ring) > 3]
    area: shapely.Geometry = shapely.MultiPolygon()
    for polygon in polygons:
        area = shapely.symmetric_difference(area, polygon.buffer(0))
    return area


def _polygons(area: shapely.Geometry) -> shapely.MultiPolygon:
    """The parts that have an area."""
    return shapely.MultiPolygon([part for part in shapely.get_parts(area) if part.geom_type == "Polygon" and part.area])


def as_regions(slide_id: str, areas: Mapping[str, shapely.Geometry]) -> RegionSet:
    """Give areas as regions whose uids depend on slide and place alone."""
    polygons = [(name, part) for name, area in areas.items() for part in shapely.get_parts(area)]
    return RegionSet(tuple(_region(slide_id, "truth", i, name, part) for i, (name, part) in enumerate(polygons)))


def _region(slide_id: str, what: str, number: int, class_name: str, polygon: shapely.Polygon) -> Region:
    return Region(class_name, polygon, str(uuid.uuid5(uuid.NAMESPACE_OID, f"{slide_id}/{what}/{number}")))


def drawn_regions(
    slide_id: str,
    shape: YX,
    areas: Mapping[str, shapely.Geometry],
    classes: Sequence[str],
    rng: np.random.Generator,
    *,
    count: int,
    radius_px: float,
) -> RegionSet:
    """Draw a few rounded regions well inside the areas, as a person would.

    Parameters
    ----------
    classes : sequence of str
        Classes that are drawn.
    count : int
        Regions of each class, fewer where there is no room.
    radius_px : float
        Largest radius in level-0 pixels.
    """
    regions = [
        _region(slide_id, "drawn", 100 * k + i, name, polygon)
        for k, name in enumerate(classes)
        for i, polygon in enumerate(_blobs(areas[name], shape, count, radius_px, rng))
    ]
    return RegionSet(tuple(regions))


def _blobs(
    area: shapely.Geometry, shape: YX, count: int, radius_px: float, rng: np.random.Generator
) -> list[shapely.Polygon]:
    """Blobs around the roomiest places of an area; where none fits, its largest part."""
    from scipy.ndimage import distance_transform_edt

    step = CELL_PX
    coarse = -(-shape[0] // step), -(-shape[1] // step)
    scaled = shapely.transform(area, lambda corners: corners / step)
    free = np.pad(rasterize(scaled, coarse), 1)
    blobs = []
    for _ in range(count):
        room = distance_transform_edt(free)[1:-1, 1:-1]
        # Any place with room for the full radius is as good as the roomiest one.
        room = np.minimum(room, radius_px / step + 2) + rng.random(room.shape) * 0.5
        y, x = np.unravel_index(int(room.argmax()), room.shape)
        radius = (float(room[y, x]) - 2.5) * step
        if radius < 2 * step:
            break
        blobs.append(_blob(((y + 0.5) * step, (x + 0.5) * step), min(radius, radius_px), rng))
        yy, xx = np.ogrid[: free.shape[0], : free.shape[1]]
        free &= (yy - y - 1) ** 2 + (xx - x - 1) ** 2 > (radius / step + 1) ** 2
    fitting = [blob for blob in blobs if shapely.contains(area, blob)]
    return fitting or [max(shapely.get_parts(area), key=shapely.area)]


def _blob(centre: tuple[float, float], radius: float, rng: np.random.Generator) -> shapely.Polygon:
    """A wobbly circle that stays within its radius; corners on whole pixels."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    wobble = sum(np.cos(order * angle + rng.uniform(0, 6.3)) / order for order in (2, 3, 5))
    distance = radius * (0.88 + 0.11 * wobble / 1.04)
    corners = np.stack([centre[0] + distance * np.sin(angle), centre[1] + distance * np.cos(angle)], axis=1)
    return shapely.Polygon(np.rint(corners))
