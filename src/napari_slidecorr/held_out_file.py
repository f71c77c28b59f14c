"""What a run says of the patches that it held out, as CSV in the run's folder: a line a patch.

A fast run, whose heads hold out each slide in turn, writes all its patches; NaN are the probabilities of those that no head held out.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.errors import ProjectError
from napari_slidecorr.geometry import YX, PatchGeometry
from napari_slidecorr.io.atomic import atomic_write_text
from napari_slidecorr.patches import PatchTable

NAME = "held_out.csv"


def write_held_out(run: Path, table: PatchTable, probabilities: NDArray[np.float32]) -> None:
    """Write slide, place, class and the probability of each class, shape (P, K), of each patch.

    Raises
    ------
    ProjectError
        If the folder cannot be written.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["slide", "y", "x", "class", *(f"p_{name}" for name in table.classes)])
    for row in range(len(table)):
        writer.writerow(
            [*_where(table, row), table.classes[table.label[row]], *(repr(float(p)) for p in probabilities[row])]
        )
    atomic_write_text(run / NAME, out.getvalue())


def read_held_out(run: Path, table: PatchTable) -> NDArray[np.float32]:
    """Read the probabilities, shape (P, K), that were written for the patches of a table.

    Raises
    ------
    ProjectError
        If the file is missing, damaged or of other patches.
    """
    _, rows, probabilities = _read(run, "delete it, and resume")
    if probabilities.shape != (len(table), len(table.classes)):
        raise _unreadable(run, f"{len(probabilities)} patches, not {len(table)}", "delete it, and resume")
    if [tuple(row[:3]) for row in rows] != [tuple(map(str, _where(table, row))) for row in range(len(table))]:
        raise _unreadable(run, "its patches lie elsewhere", "delete it, and resume")
    return probabilities


def read_told(run: Path) -> tuple[NDArray[np.str_], NDArray[np.int64], NDArray[np.float32]]:
    """Read what was written, without the patches at hand.

    Returns
    -------
    ndarray of str, shape (P,)
        Slide of each patch.
    ndarray of int64, shape (P,)
        Its class, in the order of the columns of probabilities.
    ndarray of float32, shape (P, K)

    Raises
    ------
    ProjectError
        If the file is missing or damaged.
    """
    advice = "delete it, and resume the comparison"
    classes, rows, probabilities = _read(run, advice)
    try:
        label = np.asarray([classes.index(row[3]) for row in rows], np.int64)
    except (ValueError, IndexError) as error:
        raise _unreadable(run, error, advice) from error
    return np.asarray([row[0] for row in rows], np.str_), label, probabilities


def read_own_patches(
    run: Path, classes: Sequence[str], geometry: PatchGeometry, footprints: Mapping[str, YX]
) -> tuple[PatchTable, NDArray[np.float32]]:
    """Read the patches that a fast run was trained on, and what was said of each by a head that had not seen its slide.

    Parameters
    ----------
    classes : sequence of str
        In the model's order.
    footprints : mapping of slide id to (int, int)
        Of the slides that are still there; patches of others are left out.

    Returns
    -------
    PatchTable
    ndarray, shape (P, K), float32
        NaN for patches that no head held out.

    Raises
    ------
    ProjectError
        If the file is missing, damaged or of other classes.
    """
    advice = "train the model again"
    found, rows, said = _read(run, advice)
    if found != list(classes):
        raise _unreadable(run, f"its columns are of {', '.join(found)}", advice)
    there = np.asarray([row[0] in footprints for row in rows], bool)
    rows = [row for row, kept in zip(rows, there, strict=True) if kept]
    slides = tuple(dict.fromkeys(row[0] for row in rows))
    try:
        place = np.asarray([(int(row[1]), int(row[2])) for row in rows], np.int64).reshape(-1, 2)
        label = np.asarray([found.index(row[3]) for row in rows], np.int16)
    except (ValueError, IndexError) as error:
        raise _unreadable(run, error, advice) from error
    index = np.asarray([slides.index(row[0]) for row in rows], np.int32)
    sizes = tuple(footprints[slide] for slide in slides)
    table = PatchTable(place[:, 0], place[:, 1], index, label, slides, tuple(classes), sizes, geometry)
    return table, said[there]


def _read(run: Path, advice: str) -> tuple[list[str], list[list[str]], NDArray[np.float32]]:
    """Give the classes, the rows as text, and the probabilities, shape (P, K)."""
    try:
        head, *rows = list(csv.reader((run / NAME).read_text("utf-8").splitlines()))
        classes = [name.removeprefix("p_") for name in head[4:]]
        probabilities = np.asarray([[float(p) for p in row[4:]] for row in rows], np.float32)
        return classes, rows, probabilities.reshape(len(rows), len(classes))
    except (OSError, ValueError) as error:
        raise _unreadable(run, error, advice) from error


def _where(table: PatchTable, row: int) -> tuple[str, int, int]:
    return table.slides[table.slide_index[row]], int(table.y[row]), int(table.x[row])


def _unreadable(run: Path, why: object, advice: str) -> ProjectError:
    return ProjectError(f"{run / NAME}: cannot be read ({why}); {advice}.")
