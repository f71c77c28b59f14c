"""With a PyTorch that cannot be loaded the docks open, slides are labelled, and what needs it says so in one sentence."""

import json
import os
import subprocess
import sys

import pytest

from napari_slidecorr.geometry import PatchGeometry
from napari_slidecorr.learning.models import make_model, save_model
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.project import Project

NO_CUDA = "libcudart.so.12: cannot open shared object file: No such file or directory"
TOLD = f"PyTorch cannot be loaded ({NO_CUDA}); slides and labels work without it"

PERSON = """
import json, sys, time
import napari
from qtpy.QtTest import QTest
from shapely.geometry import box
from napari_slidecorr.regions import Region, RegionSet

def wait(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        QTest.qWait(10)

viewer = napari.Viewer(show=False)
names = "Slides", "Regions", "Training", "Prediction", "Live", "Diagnostics"
docks = {name: viewer.window.add_plugin_dock_widget("napari-slidecorr", name)[1] for name in names}
slides, live, told = docks["Slides"], docks["Live"], {}
slides.session.open_project(sys.argv[1])
slides.show_slide("one")
wait(lambda: slides.session.current_slide == "one" and slides.desk.editor is not None)
told["before"] = [dock.message.text() for dock in docks.values() if dock.message.property("error")]
slides.desk.editor.set_regions(RegionSet((Region("tumour", box(100, 100, 400, 400)),)))
slides.desk.flush()

def note(name):  # what the dock shows at that moment, which another message may follow
    told[name] = docks[name].message.text()

pressed = ""
slides.session.message.connect(lambda text, is_error: note(pressed) if is_error else None)
for name, press in (("Training", "train"), ("Prediction", "predict"), ("Diagnostics", "diagnose")):
    pressed = name
    button = getattr(docks[name], press + "_button")
    wait(button.isEnabled)
    button.click()
    wait(lambda: name in told and not slides.session.busy)
live.worker.failed.connect(lambda error: note("Live"))
live.live_button.click()
wait(lambda: "Live" in told)
assert not live.worker.running
print(json.dumps(told))
viewer.close()
"""


@pytest.fixture
def trained(tmp_path, small_slides):
    """A project with a model, from the time when PyTorch could be loaded."""
    project = Project.create(tmp_path / "project", ("tumour", "stroma"))
    project.add_slides(small_slides)
    spec = ModelSpec(
        backbone="test_resnet", classes=project.classes, geometry=PatchGeometry(32, 0.5), mean=(0.5,) * 3, std=(0.5,) * 3,
        objective={"kind": "ce"}, train_slides=("one",), validation_slides=("two",), initial_weights="random",
        weights_sha256="", package_version="0",
    )  # fmt: skip
    run = project.folder / "runs" / "a"
    run.mkdir(parents=True)
    save_model(run, make_model("test_resnet", 2, weights="random"), spec)
    return project


def test_docks_open_label_and_tell(tmp_path, trained):
    torch = tmp_path / "broken" / "torch"
    torch.mkdir(parents=True)
    (torch / "__init__.py").write_text(f"raise OSError({NO_CUDA!r})")
    done = subprocess.run(
        [sys.executable, "-c", PERSON, str(trained.folder)],
        capture_output=True, text=True, check=False, timeout=240, env={**os.environ, "PYTHONPATH": str(torch.parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told.pop("before") == []
    assert set(told) == {"Training", "Prediction", "Diagnostics", "Live"}
    assert all(TOLD in sentence for sentence in told.values()), told
    (region,) = Project.open(trained.folder).regions("one")
    assert (region.class_name, region.area_px) == ("tumour", 90_000)
