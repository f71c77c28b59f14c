"""What a model says of a slide: class probabilities on a grid of patches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.decision import UNSURE, Threshold, decide
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
    bounds : tuple of float
        From which probability on each class may be the answer, `ModelSpec.unsure_below`; empty: the model has none.
    """

    probabilities: NDArray[np.float32]
    classes: tuple[str, ...]
    grid: Grid
    slide_id: str
    model_id: str
    spread: NDArray[np.float32] | None = None
    bounds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        expected = (len(self.classes), *self.grid.shape)
        if self.probabilities.shape != expected:
            raise MapError(
                f"Map of {self.slide_id}: probabilities have shape {self.probabilities.shape}, not {expected}."
            )
        if self.spread is not None and self.spread.shape != self.grid.shape:
            raise MapError(f"Map of {self.slide_id}: spread has shape {self.spread.shape}, not {self.grid.shape}.")
        if len(self.bounds) not in (0, len(self.classes)):
            raise MapError(
                f"Map of {self.slide_id}: {len(self.bounds)} bounds for {len(self.classes)} classes; give one each."
            )

    @classmethod
    def empty(
        cls,
        classes: tuple[str, ...],
        grid: Grid,
        slide_id: str,
        model_id: str,
        *,
        with_spread: bool = False,
        bounds: tuple[float, ...] = (),
    ) -> PredictionMap:
        """A map in which nothing is predicted yet."""
        spread = np.full(grid.shape, np.nan, np.float32) if with_spread else None
        values = np.full((len(classes), *grid.shape), np.nan, np.float32)
        return cls(values, classes, grid, slide_id, model_id, spread, bounds)

    @property
    def predicted(self) -> NDArray[np.bool_]:
        """Cells that have a prediction, shape (rows, columns)."""
        return np.asarray(np.isfinite(self.probabilities[0]))

    def class_map(self, threshold: Threshold = None) -> NDArray[np.uint8]:
        """Give the class plus one of each cell, shape (rows, columns); 0 means not predicted, or unsure.

        Parameters
        ----------
        threshold : float or None
            The most probable class is the answer where its probability reaches this. None: where exactly one class reaches
            its own bound (`decision.decide`), and in a map without bounds everywhere.
        """
        if threshold is None:
            return np.asarray(decide(self.probabilities, self.bounds) - UNSURE, np.uint8)
        filled = np.nan_to_num(self.probabilities, nan=-1.0)
        sure = self.predicted & (filled.max(axis=0) >= threshold)
        return np.where(sure, filled.argmax(axis=0) + 1, 0).astype(np.uint8)

    def unsure(self, threshold: Threshold = None) -> NDArray[np.bool_]:
        """Cells that are predicted and have no class in `class_map`, shape (rows, columns)."""
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

    def area_mm2(self, threshold: Threshold = None) -> dict[str, float] | None:
        """Area of each class in mm2, cells as drawn and cut at the slide's edge; None without mpp.

        Cells that have no class in `class_map` count for none.
        """
        if self.grid.mpp is None:
            return None
        height, width = (np.diff(self.grid.cell_edges_px(axis)) * self.grid.mpp[axis] for axis in (0, 1))
        class_map, cell_mm2 = self.class_map(threshold), np.outer(height, width) * 1e-6
        return {name: float(cell_mm2[class_map == index].sum()) for index, name in enumerate(self.classes, 1)}
