"""A project of small slides on the disk, each with two classes and a tint of its own."""

from contextlib import contextmanager

import numpy as np
import pytest
import tifffile
from memory_slides import CLASSES, SIZE_PX, halves, two_class_slide

from napari_slidecorr.config import CrossEntropyConfig, PatchConfig, TrainConfig
from napari_slidecorr.geometry import Box
from napari_slidecorr.project import Project


def make_project(folder, slides=6, side=192):
    """Each slide is a patient of its own; half of it is of either class."""
    project = Project.create(folder / "project", CLASSES)
    for i in range(slides):
        made = two_class_slide(f"s{i}", i, side)
        pixels = made.read(Box(0, 0, *made.shape), made.shape)
        path = folder / f"s{i}.tif"
        tifffile.imwrite(path, np.asarray(pixels), tile=(64, 64), photometric="rgb")
        project.add_slides([path], mpp=0.5, group=f"patient {i}")
        project.save_regions(f"s{i}", halves(side))
    return project


def small_config(**changes):
    values = {
        "objective": CrossEntropyConfig(),
        "backbone": "test_resnet",
        "weights": "random",
        "epochs": 1,
        "patches": PatchConfig(size_px=SIZE_PX, mpp=0.5),
        "slides_per_batch": 4,
        "patches_per_slide": 8,
        "learning_rate": 0.02,
        "device": "cpu",
    }
    return TrainConfig(**{**values, **changes})


@contextmanager
def project_with_cache(folder, **how):
    """A project whose features are kept in the same folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLIDECORR_CACHE_DIR", str(folder / "cache"))
        yield make_project(folder, **how)
