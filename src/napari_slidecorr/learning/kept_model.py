"""The model that was used last, kept: to predict again with it begins at once."""

from __future__ import annotations

from pathlib import Path
from threading import Lock

from napari_slidecorr.learning.models import SPEC_NAME, WEIGHTS_NAME, PatchClassifier, load_model
from napari_slidecorr.model_spec import ModelSpec

Stamp = tuple[tuple[str, int, int], ...]

_lock = Lock()
_kept: dict[Stamp, tuple[PatchClassifier, ModelSpec]] = {}


def load_kept_model(run: Path) -> tuple[PatchClassifier, ModelSpec]:
    """Load the model of a run, or give the one that was loaded last if its files are the same; only for prediction.

    Whoever changes a model loads one of their own with `models.load_model`.

    Raises
    ------
    ModelError
        As `models.load_model`.
    """
    stamp = _stamp(run)
    with _lock:
        if stamp is None:
            return load_model(run)
        if stamp not in _kept:
            loaded = load_model(run)
            _kept.clear()
            _kept[stamp] = loaded
        return _kept[stamp]


def _stamp(run: Path) -> Stamp | None:
    """Name, size and time of the model's files; None when one is missing."""
    stamp = []
    for name in (SPEC_NAME, WEIGHTS_NAME):
        try:
            told = (run / name).stat()
        except OSError:
            return None
        stamp.append((str(run / name), told.st_size, told.st_mtime_ns))
    return tuple(stamp)
