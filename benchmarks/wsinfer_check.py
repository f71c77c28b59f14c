"""Run an exported model by the WSInfer package itself, and compare its probabilities with ours.

    pip install --no-deps --target FOLDER wsinfer wsinfer-zoo h5py jsonschema referencing rpds-py \
        jsonschema-specifications attrs tabulate requests
    python benchmarks/wsinfer_check.py --packages FOLDER --json wsinfer_check.json

A slide of noise is written as TIFF at the model's resolution. WSInfer checks the config, reads the slide, transforms and
classifies with its own code (``wsinfer.modellib.run_inference``); what it writes as CSV is held against `classify` on
the same pixels. `max_difference` is the largest distance of two probabilities.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch

from napari_slidecorr.geometry import Box, PatchGeometry
from napari_slidecorr.io import open_slide
from napari_slidecorr.learning.export_wsinfer import export_wsinfer
from napari_slidecorr.learning.models import classify, load_model, make_model, save_model
from napari_slidecorr.model_spec import ModelSpec

MPP = 0.5


def write_slide(path: Path, side: int) -> None:
    """Write colours that differ from place to place, as a tiled TIFF with a pixel size."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(60, 255, (side // 64, side // 64, 3)).repeat(64, 0).repeat(64, 1)
    pixels = np.clip(coarse + rng.normal(0, 15, coarse.shape), 0, 255).astype(np.uint8)
    unit = {"resolution": (1e4 / MPP, 1e4 / MPP), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(256, 256), **unit)


def make_run(folder: Path, backbone: str, patches: np.ndarray) -> None:
    """Write a model whose logits differ between these patches."""
    folder.mkdir()
    model = make_model(backbone, 2, weights="random", seed=3).eval()
    with torch.no_grad():
        logits = model(model.prepare(torch.from_numpy(patches))).logits
        model.head.weight.div_(logits.std(0)[:, None])
        model.head.bias.sub_(logits.mean(0)).div_(logits.std(0))
    spec = ModelSpec(
        backbone=backbone,
        classes=("stroma", "tumour"),
        geometry=PatchGeometry(patches.shape[1], MPP),
        mean=model.mean,
        std=model.std,
        objective={"kind": "ce"},
        train_slides=(),
        validation_slides=(),
        initial_weights="random",
        weights_sha256="",
        package_version="0",
    )
    save_model(folder, model, spec)


def by_wsinfer(exported: Path, slides: Path, results: Path, places: np.ndarray, size_px: int) -> list[dict[str, str]]:
    """Let WSInfer check the config and classify the patches; give the lines of its CSV."""
    import h5py
    import zarr.storage

    # WSInfer changes a class of zarr 2 for tiffslide when it is imported; zarr 3 has none, and openslide needs none.
    zarr.storage.KVStore = getattr(zarr.storage, "KVStore", type("KVStore", (), {}))
    from wsinfer.modellib.models import LocalModelTorchScript
    from wsinfer.modellib.run_inference import run_inference
    from wsinfer_zoo.client import ModelConfiguration

    config = ModelConfiguration.from_dict(json.loads((exported / "config.json").read_text()))
    model = LocalModelTorchScript(config=config, model_path=str(exported / "torchscript_model.pt"))
    (results / "patches").mkdir(parents=True)
    with h5py.File(results / "patches" / "slide.h5", "w") as file:
        coords = file.create_dataset("coords", data=places)
        coords.attrs["patch_level"], coords.attrs["patch_size"] = 0, size_px
    failed = run_inference(slides, results, model, batch_size=7)
    if any(failed):
        raise SystemExit(f"WSInfer failed: {failed}")
    return list(csv.DictReader((results / "model-outputs-csv" / "slide.csv").open()))


def compare(folder: Path, backbone: str, size_px: int, side: int) -> dict[str, Any]:
    """Export a model and classify a slide twice."""
    (folder / "slides").mkdir()
    write_slide(folder / "slides" / "slide.tif", side)
    starts = np.arange(0, side - size_px + 1, size_px)
    places = np.asarray([(x, y) for y in starts for x in starts])
    slide = open_slide(folder / "slides" / "slide.tif")
    pixels = np.stack([slide.read(Box(y, x, y + size_px, x + size_px), size_px) for x, y in places.tolist()])
    make_run(folder / "run", backbone, pixels)
    exported = export_wsinfer(folder / "run", folder / "exported")
    rows = by_wsinfer(exported, folder / "slides", folder / "results", places, size_px)
    theirs = np.asarray([[float(row[f"prob_{name}"]) for name in ("stroma", "tumour")] for row in rows])
    model, _ = load_model(folder / "run")
    ours = classify(model.eval(), pixels)
    same_places = [(int(row["minx"]), int(row["miny"])) for row in rows] == [tuple(place) for place in places.tolist()]
    return {
        "backbone": backbone,
        "patches": len(rows),
        "same_places": same_places,
        "spread": float(np.ptp(ours[:, 0])),
        "max_difference": float(np.abs(theirs - ours).max()),
    }


def main(*, quick: bool) -> list[dict[str, Any]]:
    """Compare backbones."""
    found = []
    for backbone, size_px in [("resnet18", 224)] if quick else [("resnet18", 224), ("densenet121", 96)]:
        with tempfile.TemporaryDirectory() as name:
            found.append(compare(Path(name), backbone, size_px, 1024))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, help="where WSInfer was installed")
    parser.add_argument("--quick", action="store_true", help="ResNet-18 alone")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.packages:
        sys.path.append(str(given.packages))
    figures = main(quick=given.quick)
    for figure in figures:
        print(figure)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2))
