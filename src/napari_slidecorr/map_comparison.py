"""Two maps of one slide, cell by cell: where they differ, and by how much."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.errors import MapError
from napari_slidecorr.prediction_map import PredictionMap


@dataclass(frozen=True, eq=False)
class MapComparison:
    """A map and another of the same slide, whose cells may lie elsewhere and whose classes may be others.

    All results have the cells of the first map; a cell of it is compared with the cell of the second that is drawn at its
    centre.

    Attributes
    ----------
    first, second : PredictionMap

    Raises
    ------
    MapError
        If they are of different slides or share no class.
    """

    first: PredictionMap
    second: PredictionMap

    def __post_init__(self) -> None:
        if self.first.slide_id != self.second.slide_id:
            raise MapError(
                f"A map of {self.first.slide_id} cannot be compared with one of {self.second.slide_id}; choose two of "
                "one slide."
            )
        if not self.classes:
            raise MapError(f"The two maps of {self.first.slide_id} share no class, so there is nothing to compare.")

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that both maps have."""
        return tuple(name for name in self.first.classes if name in self.second.classes)

    def difference(self, class_name: str) -> NDArray[np.float32]:
        """Probability of a class in the first map less that in the second, shape (rows, columns).

        NaN where one of them has no prediction.
        """
        first = self.first.probabilities[self.first.classes.index(class_name)]
        second = self._at_first(self.second.probabilities[self.second.classes.index(class_name)])
        return np.asarray(first - second, np.float32)

    def disagreement(self) -> NDArray[np.float32]:
        """1 where the most probable classes have different names, 0 where they are the same, NaN where one is missing."""
        names = self._best_class(self.first), self._at_first(self._best_class(self.second))
        missing = np.isnan(names[0]) | np.isnan(names[1])
        return np.where(missing, np.nan, names[0] != names[1]).astype(np.float32)

    def _best_class(self, prediction: PredictionMap) -> NDArray[np.float32]:
        """The most probable class of each cell as a number that both maps share; NaN where nothing is predicted."""
        every = list(dict.fromkeys([*self.first.classes, *self.second.classes]))
        numbers = np.asarray([np.nan, *(every.index(name) for name in prediction.classes)], np.float32)
        return np.asarray(numbers[prediction.class_map(0.0)])

    def _at_first(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values of the second map at the centres of the first one's cells, NaN beyond it."""
        index = []
        for axis in (0, 1):
            edges = np.asarray(self.first.grid.cell_edges_px(axis))
            index.append(self.second.grid.cells_at(axis, (edges[:-1] + edges[1:]) / 2))
        rows, columns = index
        taken = values[np.ix_(rows, columns)]
        taken[np.ix_(rows < 0, np.ones(len(columns), bool))] = np.nan
        taken[np.ix_(np.ones(len(rows), bool), columns < 0)] = np.nan
        return taken
