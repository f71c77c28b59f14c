"""A person at a real window, from two slides to an exported map: mouse, keys and buttons, nothing behind their back."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hand import Hand
from qtpy.QtCore import Qt

from napari_slidecorr import io
from napari_slidecorr._napari.job import THREAD_NAME
from napari_slidecorr._napari.layers import find_layer
from napari_slidecorr.config import PatchConfig, ScrConfig, TrainConfig
from napari_slidecorr.events import BlockDone, JobStatus
from napari_slidecorr.project import Project

CLASSES = ("tumour", "lymphoid", "stroma")
QUICK = TrainConfig(
    objective=ScrConfig(),
    backbone="test_resnet",
    weights="random",
    epochs=3,
    patches=PatchConfig(size_px=32),
    learning_rate=3e-3,
    device="cpu",
)


class Person:
    """Sees the docks and the picture, and clicks."""

    def __init__(self, viewer, qtbot):
        self.viewer, self.qtbot = viewer, qtbot
        self.slides, self.regions, self.training, self.prediction = (
            viewer.window.add_plugin_dock_widget("napari-slidecorr", name)[1]
            for name in ("Slides", "Regions", "Training", "Prediction")
        )
        self.session = self.slides.session
        self.hand = Hand(viewer, qtbot)
        self.ends = []
        self.session.job_ended.connect(self.ends.append)

    def wait(self, condition, seconds=60):
        self.qtbot.waitUntil(condition, timeout=seconds * 1000)

    def click(self, button):
        assert button.isEnabled(), button.text()
        self.qtbot.mouseClick(button, Qt.MouseButton.LeftButton)

    def wait_for_slide(self, slide_id):
        self.wait(lambda: self.session.current_slide == slide_id and self.slides.desk.editor is not None)

    def draw(self, sample):
        """Draw one polygon a class, as large as fits into what is known to be of that class."""
        self.viewer.reset_view()
        self.qtbot.wait(50)
        for key, name in enumerate(CLASSES, 1):
            known = max(sample.regions.of_class(name), key=lambda region: region.area_px, default=None)
            if known is None:
                continue
            before = len(self.slides.desk.editor.regions)
            self.click(self.regions.tool_box.buttons["add_polygon"])
            self.hand.press(str(key))
            self.hand.polygon(*list(known.polygon.simplify(8).exterior.coords)[:-1])
            self.wait(lambda before=before: len(self.slides.desk.editor.regions) == before + 1)
            assert self.slides.desk.editor.regions.regions[-1].class_name == name

    def end_of_job(self):
        self.wait(lambda: bool(self.ends))
        return self.ends.pop()


@pytest.fixture
def person(make_napari_viewer, qtbot):
    viewer = make_napari_viewer(show=True)
    viewer.window._qt_window.resize(1500, 1000)
    return Person(viewer, qtbot)


def job_threads():
    return [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]


def test_from_slides_to_an_exported_map(person, sample_cohort, tmp_path, qtbot):
    assert person.slides.create_project(tmp_path / "project")
    for name in CLASSES:
        assert person.regions.classes.add_class(name)
    person.slides.add_slides([sample.path for sample in sample_cohort])

    for sample in sample_cohort:  # open and draw
        person.slides.show_slide(sample.id)
        person.wait_for_slide(sample.id)
        person.draw(sample)
    person.slides.desk.flush()
    drawn = Project.open(tmp_path / "project")
    assert all(drawn.regions(sample.id).classes == sample.regions.classes for sample in sample_cohort)

    train_and_cancel(person)
    train_again(person)
    run = person.session.project.runs()[-1]
    assert json.loads((run / "model.json").read_text())["classes"] == list(CLASSES)

    predict(person)
    export(person, tmp_path)
    close_while_training(person, qtbot)
    assert Project.open(tmp_path / "project").runs() == [run]


def train_and_cancel(person):
    person.training.form.set(TrainConfig(**{**vars(QUICK), "epochs": 1000}))
    person.click(person.training.train_button)
    assert not person.training.train_button.isEnabled()
    person.wait(lambda: len(person.training.progress.curve.epochs) >= 2)
    picture = person.training.progress.curve.grab().toImage()
    person.wait(lambda: len(person.training.progress.curve.epochs) >= 4)
    assert person.training.progress.curve.grab().toImage() != picture, "the curve does not move"
    asked = time.monotonic()
    person.click(person.training.job.cancel)
    assert person.end_of_job().status is JobStatus.CANCELLED
    assert time.monotonic() - asked < 5
    assert person.training.train_button.isEnabled()


def train_again(person):
    person.training.form.set(QUICK)
    person.click(person.training.train_button)
    end = person.end_of_job()
    assert end.status is JobStatus.COMPLETED, end.error
    assert len(person.training.progress.curve.epochs) == 3


def predict(person):
    slide_id = person.session.current_slide
    person.prediction.form.edits["block_cells"].write(4)
    shown = []

    def look(event):
        if isinstance(event, BlockDone):
            layer = find_layer(person.viewer, "class_map", slide_id)
            shown.append(0 if layer is None else int(np.count_nonzero(layer.data)))

    person.session.job_event.connect(look)
    person.click(person.prediction.predict_button)
    end = person.end_of_job()
    person.session.job_event.disconnect(look)
    assert end.status is JobStatus.COMPLETED, end.error
    whole = np.count_nonzero(find_layer(person.viewer, "class_map", slide_id).data)
    assert len(set(shown)) > 2, "the map does not grow"
    assert shown == sorted(shown)
    assert 0 < shown[0] < whole


def export(person, tmp_path):
    for name in ("map.geojson", "map.ome.zarr"):
        assert person.prediction.export(tmp_path / name)
        person.wait(lambda name=name: person.prediction.message.text().startswith(f"Exported to {tmp_path / name}"))
    assert set(io.read_regions(tmp_path / "map.geojson").regions.classes) <= set(CLASSES)
    exported = io.read_map(tmp_path / "map.ome.zarr")
    shown = find_layer(person.viewer, "class_map", exported.slide_id)
    np.testing.assert_array_equal(exported.class_map(), shown.data)


def close_while_training(person, qtbot):
    person.training.form.set(TrainConfig(**{**vars(QUICK), "epochs": 1000}))
    person.click(person.training.train_button)
    person.wait(lambda: len(person.training.progress.curve.epochs) >= 1)
    assert job_threads()
    person.viewer.close()
    qtbot.waitUntil(lambda: not job_threads(), timeout=15_000)
    assert person.end_of_job().status is JobStatus.CANCELLED


CLOSE_WHILE_TRAINING = """
import sys
from pathlib import Path
import napari
from qtpy.QtCore import QTimer
from napari_slidecorr._napari.dock_slides import SlidesDock
from napari_slidecorr.config import PatchConfig, TrainConfig

viewer = napari.Viewer()
slides = viewer.window.add_plugin_dock_widget("napari-slidecorr", "Slides")[1]
training = viewer.window.add_plugin_dock_widget("napari-slidecorr", "Training")[1]
slides.open_project(Path(sys.argv[1]))
training.form.set(
    TrainConfig(
        backbone="test_resnet", weights="random", epochs=10_000, patches=PatchConfig(size_px=32), device="cpu"
    )
)
slides.stage.shown.connect(lambda _: training.train_button.click())
timer = QTimer()

def close_once_it_trains():
    if len(training.progress.curve.epochs) >= 2:
        timer.stop()
        print("closing", flush=True)
        viewer.window._qt_window.close()

timer.timeout.connect(close_once_it_trains)
timer.start(50)
napari.run()
print("closed", flush=True)
"""


def test_a_process_whose_window_is_closed_while_it_trains_ends_well(project, tmp_path):
    (script := Path(tmp_path / "session.py")).write_text(CLOSE_WHILE_TRAINING)
    done = subprocess.run(
        [sys.executable, script, project.folder], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["closing", "closed"]
    assert "Traceback" not in done.stderr
    assert project.runs() == []


DRAW_AND_CLOSE = """
import sys
from pathlib import Path
import napari
import numpy as np
from napari_slidecorr._napari.layers import find_layer

viewer = napari.Viewer()
slides = viewer.window.add_plugin_dock_widget("napari-slidecorr", "Slides")[1]
slides.open_project(Path(sys.argv[1]))

def draw_and_close(slide_id):
    find_layer(viewer, "regions", slide_id).add_polygons([np.array([[0, 0], [0, 90], [90, 90], [90, 0]])])
    viewer.window._qt_window.close()

slides.stage.shown.connect(draw_and_close)
napari.run()
"""


def test_what_was_drawn_a_moment_before_the_window_was_closed_is_saved(project, tmp_path):
    before = len(project.regions(project.cohort[0].id))
    (script := Path(tmp_path / "session.py")).write_text(DRAW_AND_CLOSE)
    done = subprocess.run(
        [sys.executable, script, project.folder], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(Project.open(project.folder).regions(project.cohort[0].id)) == before + 1
