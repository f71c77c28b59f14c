"""What a file of regions held, and how its readers gather it: rings mended, the rest counted with its reason."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from shapely import Polygon

from napari_slidecorr.errors import RegionsError
from napari_slidecorr.regions import Region, RegionSet, valid_polygons

Color = tuple[int, int, int]
Ring = NDArray[np.float64]

REPAIRED = "An outline crossed itself and was repaired."
CLOSED = "An outline was not closed, and was closed."
HOLE_CUT = "A hole reached over the outline, or into another hole, and was cut to it."
FEW_CORNERS = "An outline with fewer than three corners was left out."
NO_AREA = "An outline without an area was left out."
LOST_HOLE = "A hole that lies in no region was left out."

_NAMESPACE = uuid.UUID("5b0a0c0e-4a0f-4c62-9d0f-8f2d3a1c7e55")


class RegionsFile(NamedTuple):
    """What a file of regions held.

    Attributes
    ----------
    regions : RegionSet
        In level-0 pixels, (y, x).
    skipped : dict of str to int
        A sentence for each kind of thing that was left out, and how often.
    repaired : dict of str to int
        A sentence for each kind of thing that was mended, and how often.
    notes : dict of str to int
        What was decided where the file leaves it open, and how often.
    colors : dict of str to (int, int, int)
        The colours, 0 to 255, that the file gives to its classes.
    format : str
        What wrote it, for a person to read.
    """

    regions: RegionSet
    skipped: dict[str, int]
    repaired: dict[str, int]
    notes: dict[str, int]
    colors: dict[str, Color]
    format: str


class Gathering:
    """Collects the regions of a file while it is read.

    Parameters
    ----------
    path : Path
        The file, to be named in errors.
    what : str
        What the file calls one of its things, for example ``"feature"``.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.skipped, self.repaired, self.notes = Counter[str](), Counter[str](), Counter[str]()
        self.colors: dict[str, Color] = {}
        self._path, self._what = path, what
        self._regions: list[Region] = []
        self._taken: set[str] = set()

    @contextmanager
    def item(self, number: int) -> Iterator[None]:
        """Refuse the file by the number, counted from 1, of the thing that cannot be understood within the block."""
        try:
            yield
        except RegionsError as error:
            raise RegionsError(f"{self._path.name}: {self._what} {number}: {error}") from error
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
            told = str(error).rstrip(".") or type(error).__name__
            raise RegionsError(
                f"{self._path.name}: {self._what} {number} cannot be understood: {told}; mend or remove it."
            ) from error

    def polygons(self, outline: Ring, holes: Iterable[Ring] = ()) -> list[Polygon]:
        """Make polygons of (y, x) rings, mended where they cross themselves; counts what it does."""
        if len(outline) < 3:
            self.skipped[FEW_CORNERS] += 1
            return []
        polygon = Polygon(outline, [hole for hole in holes if len(hole) >= 3])
        parts = valid_polygons(polygon)
        if not parts:
            self.skipped[NO_AREA] += 1
        elif parts[0] is not polygon:
            self.repaired[REPAIRED] += 1
        return parts

    def add(self, class_name: str, polygons: Sequence[Polygon], uid: Any = None) -> None:
        """Take polygons of one thing; several become regions with the uids ``<uid>/0``, ``<uid>/1`` and so on."""
        uid = self._uid(uid, class_name, polygons)
        for index, polygon in enumerate(polygons):
            own = uid if len(polygons) == 1 else self._uid(f"{uid}/{index}", class_name, polygons)
            self._regions.append(Region(class_name, polygon, own))

    def file(self, format_name: str) -> RegionsFile:
        """Give all that was gathered."""
        skipped, repaired, notes = (
            {why: n for why, n in counts.items() if n} for counts in (self.skipped, self.repaired, self.notes)
        )
        return RegionsFile(RegionSet(tuple(self._regions)), skipped, repaired, notes, self.colors, format_name)

    def _uid(self, wanted: Any, class_name: str, polygons: Sequence[Polygon]) -> str:
        """Hand out the file's own uid where it is unique, else one made from what the region is."""
        if isinstance(wanted, str) and wanted and wanted not in self._taken:
            self._taken.add(wanted)
            return wanted
        content = class_name + "".join(polygon.wkt for polygon in polygons)
        uid, again = _content_uid(content), 0
        while uid in self._taken:
            again += 1
            uid = _content_uid(f"{content} {again}")
        self._taken.add(uid)
        return uid


def ring(points: Any) -> Ring:
    """Make a (y, x) ring, shape (n, 2), of (x, y) or (x, y, z) points.

    Raises
    ------
    ValueError
        If a corner has fewer than two numbers, or a coordinate is not a finite number.
    """
    points = list(points or ())
    try:
        array = np.array(points, float)
    except ValueError:  # some corners with a z, some without
        array = np.array([(point[0], point[1]) for point in points], float)
    if not array.size:
        return np.zeros((0, 2))
    if array.ndim != 2 or array.shape[1] < 2:
        raise ValueError("a corner has fewer than two numbers")
    if not np.isfinite(array[:, :2]).all():
        raise ValueError("a coordinate is not a finite number")
    return np.ascontiguousarray(array[:, 1::-1])


def _content_uid(content: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, content))
