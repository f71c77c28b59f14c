"""What a model says of a slide: class probabilities on a grid of patches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.errors import MapError
from napari_slidecorr.geometry import Grid


@dataclass(frozen=True, eq=False)
class PredictionMap:
    """Class probabilities of one slide.

    Attributes
    ----------
    probabilities : ndarray, shape (K, rows, columns), float32
        NaN where nothing was predicted, such as glass.
    classes : tuple of str
        K names.
    grid : Grid
        Where the cells lie.
    slide_id, model_id : str
    spread : ndarray, shape (rows, columns), float32, or None
        Standard deviation, over eight orientations of the patch, of the probability of the most probable class; NaN
        where nothing was predicted. None when patches were seen in one orientation.
    """

    probabilities: NDArray[np.float32]
    classes: tuple[str, ...]
    grid: Grid
    slide_id: str
    model_id: str
    spread: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        expected = (len(self.classes), *self.grid.shape)
        if self.probabilities.shape != expected:
            raise MapError(
                f"Map of {self.slide_id}: probabilities have shape {self.probabilities.shape}, not {expected}."
            )
        if self.spread is not None and self.spread.shape != self.grid.shape:
            raise MapError(f"Map of {self.slide_id}: spread has shape {self.spread.shape}, not {self.grid.shape}.")

    @classmethod
    def empty(
        cls, classes: tuple[str, ...], grid: Grid, slide_id: str, model_id: str, *, with_spread: bool = False
    ) -> PredictionMap:
        """A map in which nothing is predicted yet."""
        spread = np.full(grid.shape, np.nan, np.float32) if with_spread else None
        values = np.full((len(classes), *grid.shape), np.nan, np.float32)
        return cls(values, classes, grid, slide_id, model_id, spread)

    @property
    def predicted(self) -> NDArray[np.bool_]:
        """Cells that have a prediction, shape (rows, columns)."""
        return np.asarray(np.isfinite(self.probabilities[0]))

    def class_map(self, threshold: float = 0.0) -> NDArray[np.uint8]:
        """Give the most probable class plus one of each cell, shape (rows, columns).

        0 means not predicted, or a probability below the threshold.
        """
        filled = np.nan_to_num(self.probabilities, nan=-1.0)
        sure = self.predicted & (filled.max(axis=0) >= threshold)
        return np.where(sure, filled.argmax(axis=0) + 1, 0).astype(np.uint8)

    def unsure(self, threshold: float) -> NDArray[np.bool_]:
        """Cells that are predicted, but no class reaches the threshold, shape (rows, columns)."""
        return np.asarray(self.predicted & (self.class_map(threshold) == 0))

    def uncertainty(self) -> NDArray[np.float32]:
        """Give the entropy of each cell's probabilities over its largest possible value, shape (rows, columns).

        0 means that one class has all, 1 that all classes are alike; NaN where nothing is predicted.
        """
        p = np.clip(self.probabilities, np.finfo(np.float32).tiny, 1)
        most = np.log(max(2, len(self.classes)))
        return np.asarray(np.maximum(-(p * np.log(p)).sum(axis=0) / most, 0), np.float32)

    def slide_score(self, top_k: int | None = None) -> dict[str, float]:
        """Give the slide's score for each class: the mean of its patches' probabilities (Zhang et al. 2021, section 4).

        Parameters
        ----------
        top_k : int, optional
            The mean of only so many patches, those of the highest probability of the class; of all if there are fewer.

        Raises
        ------
        MapError
            If no cell is predicted, or ``top_k`` is below 1.
        """
        if top_k is not None and top_k < 1:
            raise MapError(f"top_k is {top_k}; it must be at least 1.")
        if not self.predicted.any():
            raise MapError(
                f"Map of {self.slide_id}: no patch was predicted, so the slide has no score; predict it to the end."
            )
        values = self.probabilities[:, self.predicted]
        if top_k is not None and top_k < values.shape[1]:
            values = np.partition(values, -top_k, axis=1)[:, -top_k:]
        means = values.mean(axis=1, dtype=np.float64)
        return dict(zip(self.classes, means.tolist(), strict=True))

    def area_mm2(self, threshold: float = 0.0) -> dict[str, float] | None:
        """Area of each class in mm2, cells as drawn and cut at the slide's edge; None without mpp.

        Cells whose best class has a probability below the threshold count for none.
        """
        if self.grid.mpp is None:
            return None
        height, width = (np.diff(self.grid.cell_edges_px(axis)) * self.grid.mpp[axis] for axis in (0, 1))
        class_map, cell_mm2 = self.class_map(threshold), np.outer(height, width) * 1e-6
        return {name: float(cell_mm2[class_map == index].sum()) for index, name in enumerate(self.classes, 1)}
