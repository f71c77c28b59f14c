"""The exported folder, read as WSInfer documents it: config, transforms by torchvision, softmax of the logits."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from typer.testing import CliRunner

from napari_slidecorr.cli import app
from napari_slidecorr.errors import ModelError
from napari_slidecorr.geometry import PatchGeometry
from napari_slidecorr.learning.export_wsinfer import export_wsinfer, wsinfer_config
from napari_slidecorr.learning.models import classify, load_model, make_model, save_model
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.stain import REFERENCE

SPEC = ModelSpec(
    backbone="test_resnet",
    classes=("stroma", "tumour", "other"),
    geometry=PatchGeometry(64, 0.5),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    objective={"kind": "ce"},
    train_slides=(),
    validation_slides=(),
    initial_weights="random",
    weights_sha256="",
    package_version="0",
)
REQUIRED = {
    "spec_version",
    "architecture",
    "num_classes",
    "patch_size_pixels",
    "spacing_um_px",
    "class_names",
    "transform",
}


def noise(size_px):
    return np.random.default_rng(0).integers(0, 256, (5, size_px, size_px, 3), np.uint8)


def spread_out(model, patches):
    """Let the logits of some patches have mean 0 and deviation 1, as those of a trained model differ too."""
    with torch.no_grad():
        logits = model(model.prepare(torch.from_numpy(patches))).logits
        mean, deviation = logits.mean(0), logits.std(0)
        model.head.weight.div_(deviation[:, None])
        model.head.bias.sub_(mean).div_(deviation)


def make_run(folder, backbone="test_resnet", size_px=64):
    folder.mkdir(exist_ok=True)
    model = make_model(backbone, 3, weights="random", seed=3)
    spread_out(model.eval(), noise(size_px))
    geometry = PatchGeometry(size_px, 0.5)
    spec = replace(SPEC, backbone=backbone, mean=model.mean, std=model.std, geometry=geometry)
    save_model(folder, model, spec)
    return folder


def by_wsinfer(folder, patches):
    """Give probabilities as WSInfer does: its own order of steps, from files alone."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    known = {"Resize": transforms.Resize, "ToTensor": transforms.ToTensor, "Normalize": transforms.Normalize}
    steps = transforms.Compose([known[one["name"]](**one.get("arguments", {})) for one in config["transform"]])
    network = torch.jit.load(folder / "torchscript_model.pt", map_location="cpu").eval()
    batch = torch.stack([steps(Image.fromarray(patch)) for patch in patches])
    with torch.no_grad():
        return torch.softmax(network(batch), dim=1).numpy(), config


@pytest.mark.parametrize(
    ("backbone", "size_px"), [("test_resnet", 64), ("resnet18", 96), ("densenet121", 64), ("efficientnet_lite0", 64)]
)
def test_the_same_probabilities_as_ours(backbone, size_px, tmp_path):
    run = make_run(tmp_path / "run", backbone, size_px)
    patches = noise(size_px)
    found, _ = by_wsinfer(export_wsinfer(run, tmp_path / "out"), patches)
    model, _ = load_model(run)
    ours = classify(model.eval(), patches)
    np.testing.assert_allclose(found, ours, atol=1e-4)
    assert np.ptp(ours, axis=0).max() > 0.01, "patches must differ for the comparison to mean something"


def test_the_config_is_that_of_the_zoo():
    config = wsinfer_config(SPEC)
    assert config.keys() == REQUIRED
    assert config["spec_version"] == "1.0"
    assert (config["num_classes"], config["class_names"]) == (3, ["stroma", "tumour", "other"])
    assert (config["patch_size_pixels"], config["spacing_um_px"]) == (64, 0.5)
    assert [step["name"] for step in config["transform"]] == ["Resize", "ToTensor", "Normalize"]
    assert all(step.keys() <= {"name", "arguments"} for step in config["transform"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"stain": REFERENCE}, "was trained on normalized stains, and WSInfer has no such step"),
        ({"geometry": PatchGeometry(64, None)}, "WSInfer needs micrometres per pixel"),
    ],
)
def test_what_wsinfer_cannot_do_is_refused(change, told, tmp_path):
    save_model(tmp_path, make_model("test_resnet", 3, weights="random"), replace(SPEC, **change))
    with pytest.raises(ModelError, match=told):
        export_wsinfer(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_is_not_overwritten(tmp_path):
    run = make_run(tmp_path / "run")
    with pytest.raises(ModelError, match="holds a model already"):
        export_wsinfer(run, run.with_name("out")) and export_wsinfer(run, run.with_name("out"))


def test_on_the_command_line(tmp_path):
    run = make_run(tmp_path / "run")
    done = CliRunner().invoke(app, ["export-model", str(run), str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "torchscript_model.pt"]
    again = CliRunner().invoke(app, ["export-model", str(run), str(tmp_path / "out")])
    assert again.exit_code == 2
