"""With a PyTorch that cannot be loaded, slides and labels go on, and whatever needs it says so in one sentence."""

import os
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import tifffile

from napari_slidecorr.errors import ModelError, TorchError
from napari_slidecorr.project import Project
from napari_slidecorr.torch_trouble import torch_trouble_told

NO_CUDA = "libcudart.so.12: cannot open shared object file: No such file or directory"
BROKEN = {
    "a library of CUDA is missing": f"raise OSError({NO_CUDA!r})",
    "its own library does not fit": "raise ImportError('undefined symbol: ncclCommSplit\\nmore lines')",
    "the module is missing": "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')",
    "its parts do not fit": "import torch_parts",
}
PARTS = "raise RuntimeError('operator torchvision::nms does not exist')"
SENTENCE = (
    r"slidecorr: PyTorch cannot be loaded \(.+\); slides and labels work without it, but to train or predict, remove it "
    r"\(pip uninstall torch torchvision\) and install it again \(pip install torch torchvision\)\.\n"
)


def break_torch(folder, code):
    """Make a folder that, first on the path, stands for a broken installation; gives the environment to use it."""
    (folder / "torch").mkdir(parents=True)
    (folder / "torch" / "__init__.py").write_text(code)
    (folder / "torch_parts.py").write_text(PARTS)
    return {**os.environ, "PYTHONPATH": str(folder)}


def slidecorr(environment, *arguments):
    command = [sys.executable, "-m", "napari_slidecorr", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)


@pytest.fixture
def project(tmp_path):
    return Project.create(tmp_path / "project", ("tumour", "stroma"))


def test_slides_and_labels_work(tmp_path):
    environment = break_torch(tmp_path / "broken", BROKEN["a library of CUDA is missing"])
    (tmp_path / "one.geojson").write_text(
        '{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [400, 0], [400, 300], [0, 0]]]},'
        ' "properties": {"classification": {"name": "tumour"}}}'
    )
    folder, slide = tmp_path / "study", tmp_path / "one.tif"
    tifffile.imwrite(slide, np.full((512, 512, 3), 200, np.uint8), tile=(128, 128), photometric="rgb")
    for arguments in (
        ("new", folder, "--class", "tumour"),
        ("info", slide),
        ("add", folder, slide),
        ("regions", "import", folder, tmp_path / "one.geojson"),
        ("info", folder),
    ):
        done = slidecorr(environment, *arguments)
        assert done.returncode == 0, done.stderr
    assert "tumour" in done.stdout


@pytest.mark.parametrize("kind", BROKEN)
def test_training_says_what_is_wrong_and_what_to_do(kind, tmp_path, project):
    environment = break_torch(tmp_path / "broken", BROKEN[kind])
    done = slidecorr(environment, "train", project.folder)
    assert done.returncode == 2
    assert re.fullmatch(SENTENCE, done.stderr), done.stderr


def test_a_notebook_is_told_too(tmp_path, project):
    environment = break_torch(tmp_path / "broken", BROKEN["a library of CUDA is missing"])
    code = (
        "from pathlib import Path; from napari_slidecorr import Project, TrainConfig, drain\n"
        "from napari_slidecorr.errors import TorchError\n"
        "from napari_slidecorr.fast_config import FastConfig; from napari_slidecorr.fast_project import fast_train\n"
        f"project = Project.open({str(project.folder)!r})\n"
        "for work in (lambda: project.train(TrainConfig()), lambda: fast_train(project, FastConfig()),\n"
        "             lambda: project.load_model(Path('run'))):\n"
        "    try:\n        work()\n    except TorchError as error:\n        print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120, env=environment
    )
    assert done.stdout.count(f"PyTorch cannot be loaded ({NO_CUDA})") == 3


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left"), ModelError("no such run"), ImportError("x", name="captum")]
)
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as told, torch_trouble_told():
        raise error
    assert told.value is error


def test_a_worker_can_send_it():
    error = pickle.loads(pickle.dumps(TorchError("PyTorch cannot be loaded")))  # noqa: S301 - our own bytes
    assert isinstance(error, ImportError)
    assert str(error) == "PyTorch cannot be loaded"
