"""The exported file, run by onnxruntime, against our own probabilities."""

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
from test_export_wsinfer import SPEC, make_run, noise
from typer.testing import CliRunner

from napari_slidecorr.cli import app
from napari_slidecorr.errors import ModelError
from napari_slidecorr.learning import export_onnx as module
from napari_slidecorr.learning.export_onnx import export_onnx
from napari_slidecorr.learning.models import classify, load_model, make_model, save_model
from napari_slidecorr.stain import REFERENCE


@pytest.mark.parametrize(("backbone", "size_px"), [("test_resnet", 64), ("resnet18", 96)])
def test_the_same_probabilities_as_ours(backbone, size_px, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    run = make_run(tmp_path / "run", backbone, size_px)
    session = onnxruntime.InferenceSession(str(export_onnx(run, tmp_path / "model.onnx")))
    patches = noise(size_px)
    (found,) = session.run(None, {"pixels": np.ascontiguousarray(patches.transpose(0, 3, 1, 2))})
    model, spec = load_model(run)
    ours = classify(model.eval(), patches)
    np.testing.assert_allclose(found, ours, atol=1e-4)
    assert np.ptp(ours, axis=0).max() > 0.01
    (one,) = session.run(None, {"pixels": np.ascontiguousarray(patches[:1].transpose(0, 3, 1, 2))})
    np.testing.assert_allclose(one, ours[:1], atol=1e-4)
    told = json.loads(session.get_modelmeta().custom_metadata_map["slidecorr"])
    assert (told["classes"], told["weights_sha256"]) == (list(spec.classes), spec.weights_sha256)


def test_normalized_stains_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: True)
    save_model(tmp_path, make_model("test_resnet", 3, weights="random"), replace(SPEC, stain=REFERENCE))
    with pytest.raises(ModelError, match="an ONNX file cannot hold"):
        export_onnx(tmp_path, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_without_onnx_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _name: None)
    done = CliRunner().invoke(app, ["export-model", str(tmp_path), str(tmp_path / "m.onnx"), "--format", "onnx"])
    assert done.exit_code == 2
    assert 'pip install "napari-slidecorr[onnx]"' in done.stderr


def test_a_file_is_not_overwritten(tmp_path, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _name: True)
    run = make_run(tmp_path / "run")
    (tmp_path / "m.onnx").write_bytes(b"mine")
    with pytest.raises(ModelError, match="exists already"):
        export_onnx(run, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() == b"mine"
