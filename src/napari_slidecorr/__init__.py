"""Train patch classifiers on whole-slide images that also work on the next slide.

The names below are the notebook API; each is imported when it is first used, so that importing this package costs
next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_slidecorr.config import (
        CrossEntropyConfig,
        PatchConfig,
        PredictConfig,
        SceConfig,
        ScrConfig,
        SdaConfig,
        TrainConfig,
    )
    from napari_slidecorr.errors import SlideCorrError
    from napari_slidecorr.events import drain
    from napari_slidecorr.geometry import Box
    from napari_slidecorr.io import open_slide, read_regions, write_map, write_regions
    from napari_slidecorr.project import Project

__version__ = "0.1.0"

_HOME = {
    "Box": "geometry",
    "CrossEntropyConfig": "config",
    "PatchConfig": "config",
    "PredictConfig": "config",
    "Project": "project",
    "SceConfig": "config",
    "ScrConfig": "config",
    "SdaConfig": "config",
    "SlideCorrError": "errors",
    "TrainConfig": "config",
    "drain": "events",
    "open_slide": "io",
    "read_regions": "io",
    "write_map": "io",
    "write_regions": "io",
}

__all__ = [
    "Box",
    "CrossEntropyConfig",
    "PatchConfig",
    "PredictConfig",
    "Project",
    "SceConfig",
    "ScrConfig",
    "SdaConfig",
    "SlideCorrError",
    "TrainConfig",
    "drain",
    "open_slide",
    "read_regions",
    "write_map",
    "write_regions",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
