"""Slides of channels are for viewing: training and prediction refuse them before anything is read or loaded."""

import numpy as np
import pytest
import tifffile
from shapely.geometry import box

from napari_slidecorr.config import PredictConfig, TrainConfig
from napari_slidecorr.errors import SlideError
from napari_slidecorr.events import drain
from napari_slidecorr.geometry import PatchGeometry
from napari_slidecorr.io import open_slide
from napari_slidecorr.learning.inference import prediction_grid
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.project import Project
from napari_slidecorr.regions import Region, RegionSet


@pytest.fixture
def stained(tmp_path):
    paths = [tmp_path / f"{name}.ome.tif" for name in "ab"]
    planes = np.random.default_rng(0).integers(0, 4000, (3, 1024, 1024), np.uint16)
    told = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    for path in paths:
        tifffile.imwrite(path, planes, tile=(128, 128), photometric="minisblack", metadata=told)
    return paths


def test_training_refuses(tmp_path, stained):
    project = Project.create(tmp_path / "project", ("x", "y"))
    project.add_slides(stained)
    for name in "ab":
        project.save_regions(name, RegionSet((Region("x", box(0, 0, 400, 400)), Region("y", box(500, 500, 900, 900)))))
    with pytest.raises(SlideError, match=r"\.ome\.tif: .* only brightfield RGB of 8 bits"):
        drain(project.train(TrainConfig()))


def test_prediction_refuses(stained):
    spec = ModelSpec(
        backbone="none", classes=("x", "y"), geometry=PatchGeometry(224, 0.5), mean=(0.5,) * 3, std=(0.5,) * 3,
        objective={"kind": "ce"}, train_slides=(), validation_slides=(), initial_weights="random",
        weights_sha256="0" * 64, package_version="0",
    )  # fmt: skip
    with pytest.raises(SlideError, match=r"a\.ome\.tif: .* only brightfield RGB of 8 bits"):
        prediction_grid(open_slide(stained[0]), spec, PredictConfig())
