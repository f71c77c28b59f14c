import subprocess
import sys
import threading

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_slidecorr._napari import training_doubts, training_form
from napari_slidecorr._napari.curve import Curve
from napari_slidecorr._napari.dock_training import TrainingDock
from napari_slidecorr._napari.patch_counts import doubts
from napari_slidecorr.config import CrossEntropyConfig, PatchConfig, ScrConfig, TrainConfig
from napari_slidecorr.errors import TrainingError
from napari_slidecorr.events import EpochDone, JobStatus
from napari_slidecorr.project import Project

SMALL = TrainConfig(
    objective=ScrConfig(beta=0.1),
    backbone="test_resnet",
    weights="random",
    epochs=3,
    patches=PatchConfig(size_px=64),
    learning_rate=3e-3,
    device="cpu",
)


@pytest.fixture
def dock(make_napari_viewer, project):
    viewer = make_napari_viewer()
    dock = TrainingDock(viewer)
    viewer.window.add_dock_widget(dock, name="Training")
    dock.show()
    dock.session.project = project
    dock.form.set(SMALL)
    return dock


@pytest.fixture
def ends(dock):
    heard = []
    dock.session.job_ended.connect(heard.append)
    return heard


def click(qtbot, button):
    assert button.isEnabled()
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def run(qtbot, dock, ends, button=None):
    click(qtbot, button or dock.train_button)
    qtbot.waitUntil(lambda: bool(ends), timeout=60_000)
    return ends.pop()


def listed(qtbot, dock, *names):
    """Wait until these trainings are listed, the newest first, and none runs."""

    def seen():
        entries = dock.shelf.list.entries
        ended = all(one.state != "running" for one in entries)
        return ended and [one.name for one in reversed(entries)] == list(names)

    qtbot.waitUntil(seen, timeout=20_000)


def select(qtbot, dock, *names):
    """Click on lines of the list, further ones with Ctrl."""
    modifier = Qt.KeyboardModifier.NoModifier
    for name in names:
        tree, item = dock.shelf.list, dock.shelf.list.item_of(name)
        tree.scrollToItem(item)
        qtbot.mouseClick(tree.viewport(), Qt.MouseButton.LeftButton, modifier, tree.visualItemRect(item).center())
        modifier = Qt.KeyboardModifier.ControlModifier
    assert {one.name for one in dock.shelf.list.selected} == set(names)


def test_train_shows_counts_terms_curve_and_the_model(qtbot, dock, ends):
    qtbot.waitUntil(lambda: "patches on 4 slides" in dock.counts.sum.text(), timeout=60_000)
    assert dock.counts.table.rowCount() == 4
    end = run(qtbot, dock, ends)
    assert end.status is JobStatus.COMPLETED, end.error
    curve = dock.progress.curve
    assert len(curve.epochs) == 3
    assert curve.epochs[-1].loss < curve.epochs[0].loss
    assert "same-slide pairs" in dock.progress.terms.text()
    assert "slide correlation" in dock.progress.terms.text()
    assert dock.progress.scores.text().startswith("Epoch 3: AUC training")
    assert "random weights" in dock.progress.notices.text()
    for told in ("patches/s", "waiting for patches", "same-slide pairs a batch", "GB at most"):
        assert told in dock.progress.speed.text()
    assert dock.message.text() == "Training completed."
    assert dock.job.bar.isHidden()
    listed(qtbot, dock, "scr-test_resnet-001")
    line = dock.shelf.list.item_of("scr-test_resnet-001")
    assert line.text(1) == f"{curve.epochs[-1].validation_auc:.3f}"
    assert line.text(2) == "finished"


def test_a_click_shows_curve_and_settings_of_a_run_and_a_second_one_compares(qtbot, dock, ends):
    run(qtbot, dock, ends)
    first = dock.progress.curve.epochs
    dock.form.edits["epochs"].write(1)
    dock.form.edits["objective"].write(CrossEntropyConfig())
    run(qtbot, dock, ends)
    names = "ce-test_resnet-001", "scr-test_resnet-001"
    listed(qtbot, dock, *names)
    details = dock.shelf.details
    select(qtbot, dock, names[1])
    assert [(e.loss, e.validation_auc) for e in details.curve.epochs] == [(e.loss, e.validation_auc) for e in first]
    for told in ("finished, 3 of 3 epochs", "Slide correlation reduction (SCR), beta 0.1", "1 held out"):
        assert told in details.text.text()
    select(qtbot, dock, *names)
    assert set(details.curve.runs) == set(names)
    rows = {row[0]: row[1:] for row in details.table.texts()}
    assert rows["objective"] == ["ce", "scr 0.1 sum paper"]
    assert rows["epochs"] == ["1", "3"]
    assert rows["AUC held out"][1] == f"{first[-1].validation_auc:.3f}"
    assert "seed" not in rows, "only settings that differ"
    assert details.warning.isHidden(), "both held out the same slide"
    (dock.session.project.folder / "runs" / names[1] / "curve.csv").write_text("epoch\nx\n")
    dock.session.runs_changed.emit()
    qtbot.waitUntil(lambda: dock.shelf.list.item_of(names[1]).text(1) == "-", timeout=20_000)
    assert {one.name for one in dock.shelf.list.selected} == set(names), "the selection stays"


def test_cancel_stops_within_a_step_and_resume_goes_on(qtbot, dock, ends):
    dock.form.edits["epochs"].write(30)
    click(qtbot, dock.train_button)
    assert not dock.train_button.isEnabled(), "one job at a time"
    qtbot.waitUntil(lambda: len(dock.progress.curve.epochs) >= 2, timeout=60_000)
    click(qtbot, dock.job.cancel)
    assert dock.job.cancel.text() == "Cancelling ..."
    qtbot.waitUntil(lambda: bool(ends), timeout=60_000)
    assert ends.pop().status is JobStatus.CANCELLED
    assert "cancelled" in dock.message.text()
    listed(qtbot, dock, "scr-test_resnet-001")
    assert dock.shelf.list.item_of("scr-test_resnet-001").text(2) == "stopped"
    done = len(dock.progress.curve.epochs)

    dock.form.set(TrainConfig())
    qtbot.waitUntil(dock.resume_button.isEnabled, timeout=20_000)
    click(qtbot, dock.resume_button)
    assert dock.form.read().epochs == 30, "the stopped training's settings are back"
    qtbot.waitUntil(lambda: len(dock.progress.curve.epochs) > done, timeout=60_000)
    assert [e.epoch for e in dock.progress.curve.epochs] == list(range(len(dock.progress.curve.epochs)))
    click(qtbot, dock.job.cancel)
    qtbot.waitUntil(lambda: bool(ends), timeout=60_000)
    assert ends.pop().status is JobStatus.CANCELLED


def test_pause_rests_and_goes_on(qtbot, dock, ends):
    dock.form.edits["epochs"].write(1000)
    assert not dock.pause_button.isEnabled()
    click(qtbot, dock.train_button)
    qtbot.waitUntil(lambda: bool(dock.progress.curve.epochs), timeout=60_000)
    click(qtbot, dock.pause_button)
    assert dock.pause_button.text() == "Go on"
    assert "Paused" in dock.progress.paused.text()
    assert not dock.progress.paused.isHidden()
    qtbot.wait(500)
    seen = len(dock.progress.curve.epochs)
    qtbot.wait(1500)
    assert len(dock.progress.curve.epochs) == seen
    click(qtbot, dock.pause_button)
    assert dock.progress.paused.isHidden()
    qtbot.waitUntil(lambda: len(dock.progress.curve.epochs) > seen, timeout=60_000)
    click(qtbot, dock.pause_button)
    click(qtbot, dock.job.cancel)
    qtbot.waitUntil(lambda: bool(ends), timeout=15_000)
    assert ends[0].status is JobStatus.CANCELLED, "a paused training can be cancelled"
    assert dock.pause_button.text() == "Pause"
    assert not dock.pause_button.isEnabled()


def test_a_failure_stays_readable_and_the_next_training_can_start(qtbot, dock, ends, monkeypatch):
    def train(*_arguments, **_settings):
        raise TrainingError("The loss became infinite. Lower the learning rate.")

    with monkeypatch.context() as patched:
        patched.setattr(Project, "train", train)
        assert run(qtbot, dock, ends).status is JobStatus.FAILED
    assert not dock.message.isHidden()
    assert dock.message.text() == "Training failed: The loss became infinite. Lower the learning rate."
    assert dock.message.property("error")
    dock.form.edits["epochs"].write(1)
    assert run(qtbot, dock, ends).status is JobStatus.COMPLETED


def test_out_of_memory_is_told(qtbot, dock, ends, monkeypatch):
    def train(*_arguments, **_settings):
        raise RuntimeError("CUDA out of memory")
        yield

    monkeypatch.setattr(Project, "train", train)
    assert run(qtbot, dock, ends).status is JobStatus.FAILED
    assert "RuntimeError: CUDA out of memory" in dock.message.text()


def test_a_bad_setting_starts_nothing(qtbot, dock):
    dock.form.edits["learning_rate"].editor.setText("-1")
    click(qtbot, dock.train_button)
    assert not dock.session.busy
    assert "learning_rate is -1; it must be above 0." in dock.message.text()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param({"backbone": "resnet19"}, "resnet19", id="unknown backbone"),
        pytest.param({"patches": PatchConfig(size_px=2048)}, "No region is large enough", id="patches too large"),
        pytest.param({"weights": "/nowhere.safetensors"}, "nowhere.safetensors", id="no such weights"),
    ],
)
def test_what_cannot_be_trained_says_why(qtbot, dock, ends, change, told):
    dock.form.set(TrainConfig(**{name: getattr(SMALL, name) for name in vars(SMALL)} | change))
    assert run(qtbot, dock, ends).status is JobStatus.FAILED
    assert told in dock.message.text()


def test_without_project_the_dock_says_where_to_open_one(make_napari_viewer):
    dock = TrainingDock(make_napari_viewer())
    assert not dock.train_button.isEnabled()
    assert "Slides dock" in dock.counts.sum.text()


def test_counts_follow_the_settings_and_the_regions(qtbot, dock, project):
    qtbot.waitUntil(lambda: "patches on 4 slides" in dock.counts.sum.text(), timeout=60_000)
    before = dock.counts.sum.text()
    dock.form.edits["patches"].editor.edits["size_px"].write(32)
    qtbot.waitUntil(lambda: dock.counts.sum.text() != before, timeout=60_000)
    dock.form.edits["patches"].editor.edits["size_px"].write(2048)
    qtbot.waitUntil(lambda: "1,024 µm (2048 px) wide" in dock.counts.sum.text(), timeout=60_000)
    dock.form.edits["patches"].editor.edits["size_px"].write(32)
    slide = project.cohort[0].id
    project.save_regions(slide, type(project.regions(slide))())
    dock.session.regions_changed.emit(slide)
    qtbot.waitUntil(lambda: "patches on 3 slides" in dock.counts.sum.text(), timeout=60_000)


def test_doubts_before_a_run(project):
    table = project.patch_table(SMALL.patches)
    groups = {slide.id: slide.group for slide in project.cohort}
    assert [told[:26] for told in doubts(table, SMALL, groups)] == ["About 3 training slides: S"]
    baseline = TrainConfig(objective=CrossEntropyConfig())
    assert doubts(table, baseline, groups) == []
    one = table.of_slides(table.slides[:1])
    assert all("on one slide or patient only" in told for told in doubts(one, baseline, groups))
    everything = TrainConfig(objective=CrossEntropyConfig(), validation_fraction=0.0)
    assert [told[:19] for told in doubts(one, everything, groups)] == ["Nothing is held out"]


def test_nothing_held_out_gives_a_curve_without_held_out_scores(qtbot, dock, ends):
    dock.form.edits["validation_fraction"].write(0)
    dock.form.edits["epochs"].write(1)
    assert run(qtbot, dock, ends).status is JobStatus.COMPLETED
    assert "held out" not in dock.progress.scores.text()
    listed(qtbot, dock, "scr-test_resnet-001")
    assert dock.shelf.list.item_of("scr-test_resnet-001").text(1) == "-"


def test_names_that_are_repeated_to_keep_torch_out_are_the_same():
    from napari_slidecorr.learning import held_out, models

    assert models.PAPER_BACKBONES == training_form.BACKBONES
    assert held_out.FEW_GROUPS == training_doubts.FEW_GROUPS


def test_closing_the_viewer_while_training_leaves_no_thread(qtbot, make_napari_viewer, project):
    viewer = make_napari_viewer(show=True)
    dock = TrainingDock(viewer)
    viewer.window.add_dock_widget(dock, name="Training")
    dock.session.project = project
    dock.form.set(SMALL)
    dock.form.edits["epochs"].write(1000)
    ends = []
    dock.session.job_ended.connect(ends.append)
    click(qtbot, dock.train_button)
    qtbot.waitUntil(lambda: bool(dock.progress.curve.epochs), timeout=60_000)
    viewer.close()
    qtbot.waitUntil(lambda: bool(ends), timeout=15_000)
    assert [end.status for end in ends] == [JobStatus.CANCELLED]
    assert "slidecorr-job" not in {thread.name for thread in threading.enumerate()}


def test_a_dock_that_is_closed_leaves_its_training_to_the_next_one(qtbot, dock, ends):
    dock.form.edits["epochs"].write(1000)
    viewer, session = dock.viewer, dock.session
    click(qtbot, dock.train_button)
    qtbot.waitUntil(lambda: bool(dock.progress.curve.epochs), timeout=60_000)
    viewer.window.remove_dock_widget(dock)
    dock.deleteLater()
    qtbot.wait(200)
    assert session.busy
    again = TrainingDock(viewer)
    qtbot.addWidget(again)
    assert not again.progress.isHidden()
    qtbot.waitUntil(lambda: bool(again.progress.curve.epochs), timeout=60_000)
    click(qtbot, again.job.cancel)
    qtbot.waitUntil(lambda: bool(ends), timeout=15_000)
    assert ends[0].status is JobStatus.CANCELLED


def test_the_curve_paints_its_lines(qtbot):
    curve = Curve()
    qtbot.addWidget(curve)
    curve.resize(300, 170)
    curve.show()
    bare = _pixels(curve)
    for number, (loss, auc) in enumerate([(1.5, 0.6), (0.7, 0.8), (0.4, float("nan"))]):
        curve.add(_epoch(number, loss, auc))
    assert curve.limits(loss=True) == (0, 1.5)
    assert curve.limits(loss=False) == (0.5, 1)
    curve.add(_epoch(3, -0.2, 0.9))
    assert curve.limits(loss=True) == (-0.2, 1.5)
    changed = (_pixels(curve) != bare).any(axis=-1)
    assert changed[25:-25, 40:-45].any(), "between the axes"


def _pixels(widget):
    image = widget.grab().toImage()
    pixels = np.frombuffer(image.constBits().asstring(image.sizeInBytes()), np.uint8)
    return pixels.reshape(image.height(), -1, 4)[:, : image.width()].copy()


def _epoch(number, loss, auc):
    return EpochDone(
        phase="",
        epoch=number,
        loss=loss,
        terms={},
        pairs=0,
        train_auc=auc,
        validation_auc=auc,
        validation_accuracy=auc,
        patches_per_second=1,
        seconds=1,
    )


LAZY = """
import sys
from napari.components import ViewerModel
from qtpy.QtWidgets import QApplication
from napari_slidecorr._napari.dock_prediction import PredictionDock
from napari_slidecorr._napari.dock_regions import RegionsDock
from napari_slidecorr._napari.dock_slides import SlidesDock
from napari_slidecorr._napari.dock_training import TrainingDock
app, viewer = QApplication([]), ViewerModel()
docks = [make(viewer) for make in (SlidesDock, RegionsDock, TrainingDock, PredictionDock)]
print(*sorted({"torch", "torchvision", "timm", "sklearn", "matplotlib"} & set(sys.modules)))
"""


def test_opening_the_docks_loads_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True, timeout=100, check=False)
    assert (done.stdout.strip(), done.returncode) == ("", 0), done.stderr
