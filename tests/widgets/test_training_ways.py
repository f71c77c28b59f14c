"""The dock's other ways to train, and what can be done with trainings afterwards: by clicks, in a real dock."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QMessageBox

from napari_slidecorr._napari import dock_training, graphics_card, run_shelf
from napari_slidecorr._napari.dock_training import TrainingDock
from napari_slidecorr._napari.run_details import OTHER_SLIDES
from napari_slidecorr._napari.run_shelf import CardDialog
from napari_slidecorr._napari.training_doubts import all_doubts
from napari_slidecorr._napari.training_form import FAST_SPLIT, LEAKY_WARNING
from napari_slidecorr.config import CrossEntropyConfig, PatchConfig, ScrConfig, TrainConfig
from napari_slidecorr.errors import TrainingError
from napari_slidecorr.events import JobStatus
from napari_slidecorr.fast_config import FastConfig, HeadConfig
from napari_slidecorr.learning import training

FULL = TrainConfig(
    objective=ScrConfig(beta=0.1),
    backbone="test_resnet",
    weights="random",
    epochs=2,
    patches=PatchConfig(size_px=64),
    learning_rate=3e-3,
    device="cpu",
)
FAST = FastConfig(backbone="test_resnet", weights="random", patches=PatchConfig(size_px=64), device="cpu")


@pytest.fixture
def dock(make_napari_viewer, project):
    viewer = make_napari_viewer()
    dock = TrainingDock(viewer)
    viewer.window.add_dock_widget(dock, name="Training")
    dock.show()
    dock.session.project = project
    return dock


@pytest.fixture
def ends(dock):
    heard = []
    dock.session.job_ended.connect(heard.append)
    return heard


def click(qtbot, button):
    assert button.isEnabled(), button.text()
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def run(qtbot, dock, ends, button=None):
    click(qtbot, button or dock.train_button)
    qtbot.waitUntil(lambda: bool(ends), timeout=120_000)
    listed(qtbot, dock)
    return ends.pop()


def listed(qtbot, dock):
    """Wait until the trainings are listed as they are now."""
    with qtbot.waitSignal(dock.shelf.listed, timeout=20_000):
        dock.shelf.read()


def choose(combo, data):
    """Choose an entry by the keyboard, as far as it takes."""
    combo.setFocus()
    combo.setCurrentIndex(combo.findData(data))


def select(qtbot, dock, *names):
    def there():
        entries = dock.shelf.list.entries
        every = {one.name for entry in entries for one in (entry, *getattr(entry, "runs", ()))}
        return set(names) <= every and all(one.state != "running" for one in entries)

    qtbot.waitUntil(there, timeout=20_000)
    modifier = Qt.KeyboardModifier.NoModifier
    for name in names:
        tree, item = dock.shelf.list, dock.shelf.list.item_of(name)
        if item.parent() is not None:
            item.parent().setExpanded(True)
        tree.scrollToItem(item)
        qtbot.mouseClick(tree.viewport(), Qt.MouseButton.LeftButton, modifier, tree.visualItemRect(item).center())
        modifier = Qt.KeyboardModifier.ControlModifier
    assert {one.name for one in dock.shelf.list.selected} == set(names)


@pytest.mark.parametrize(("gpu", "way"), [(False, "fast"), (True, "full")])
def test_the_way_that_is_offered_first(make_napari_viewer, monkeypatch, gpu, way):
    monkeypatch.setattr(dock_training, "has_gpu", lambda: gpu)
    dock = TrainingDock(make_napari_viewer())
    assert dock.form.way == way
    assert isinstance(dock.form.read(), FastConfig) == (way == "fast")


@pytest.mark.parametrize(
    ("system", "torch", "drivers", "told"),
    [
        pytest.param("linux", "2.9.0+cpu", True, False, id="a torch without CUDA"),
        pytest.param("linux", "2.9.0+cu128", True, True, id="a driver"),
        pytest.param("linux", "2.9.0", False, False, id="no driver"),
    ],
)
def test_a_gpu_is_told_without_torch(monkeypatch, tmp_path, system, torch, drivers, told):
    (driver := tmp_path / "version").touch()
    monkeypatch.setattr(graphics_card.sys, "platform", system)
    monkeypatch.setattr(graphics_card, "version", lambda _name: torch)
    monkeypatch.setattr(graphics_card, "LINUX_DRIVERS", (str(driver if drivers else tmp_path / "none"),))
    assert graphics_card.has_gpu() is told


def test_fast_trains_a_head_and_full_goes_on_from_its_backbone(qtbot, dock, ends):
    dock.form.set(FAST)
    assert dock.form.fast_split.text() == FAST_SPLIT
    assert not dock.form.fast_split.isHidden()
    assert dock.compare_fold.isHidden()
    end = run(qtbot, dock, ends)
    assert end.status is JobStatus.COMPLETED, end.error
    assert dock.progress.scores.text().startswith("AUC training")
    assert dock.progress.speed.text().startswith("Took ")
    assert dock.progress.curve.isHidden(), "one point is no curve"
    select(qtbot, dock, "fast-test_resnet-001")
    assert "fast, linear head" in dock.shelf.details.text.text()
    assert dock.shelf.continue_button.text() == "Fine-tune from this"
    assert not dock.shelf.resume_button.isEnabled()
    click(qtbot, dock.shelf.continue_button)
    config = dock.form.read()
    assert isinstance(config, TrainConfig)
    model = dock.session.project.folder / "runs" / "fast-test_resnet-001" / "model.safetensors"
    assert (config.backbone, config.weights) == ("test_resnet", str(model))
    assert config.patches.size_px == 64
    assert "Press Train" in dock.message.text()
    dock.form.edits["epochs"].write(1)
    end = run(qtbot, dock, ends)
    assert end.status is JobStatus.COMPLETED, end.error
    assert "Starting from model.safetensors" in dock.progress.notices.text()


def test_a_linear_head_says_that_scr_has_nothing_to_move(qtbot, dock):
    dock.form.set(FAST)
    head = dock.form.edits["head"].editor
    head.edits["objective"].write(ScrConfig())
    assert not head.errors["objective"].isHidden()
    click(qtbot, dock.train_button)
    assert "no features that SCR could move" in dock.message.text()
    assert not dock.session.busy
    head.edits["net"].write("adapter")
    assert head.errors["objective"].isHidden()


def test_switching_the_way_takes_patches_along(dock):
    dock.form.set(FULL)
    choose(dock.form.way_choice, "fast")
    assert dock.form.edits["patches"].read().size_px == 64
    dock.form.edits["patches"].write(PatchConfig(size_px=96))
    choose(dock.form.way_choice, "full")
    assert dock.form.read().patches.size_px == 96


def test_folds_are_trained_shown_with_their_warning_and_opened_again(qtbot, dock, ends):
    dock.form.set(replace(FULL, epochs=1))
    choose(dock.form.rounds_choice, "folds")
    dock.form.folds.setValue(2)
    assert not dock.form.edits["validation_fraction"].isEnabled()
    qtbot.waitUntil(lambda: "4 slides or patients are few" in dock.counts.warnings.text(), timeout=20_000)
    end = run(qtbot, dock, ends)
    assert end.status is JobStatus.COMPLETED, end.error
    assert list(dock.progress.curve.runs) == ["Fold 1", "Fold 2"]
    assert dock.progress.scores.text().startswith("Fold 2, Epoch 1: ")
    select(qtbot, dock, "scr-test_resnet-cv2-001")
    rows = dock.shelf.details.table.texts()
    assert sorted(row[0] for row in rows) == sorted(slide.id for slide in dock.session.project.cohort)
    assert f"{end.result.pooled_auc:.3f}" in dock.shelf.details.text.text()
    assert dock.shelf.list.item_of("scr-test_resnet-cv2-001").text(1) == f"{end.result.pooled_auc:.3f}"
    assert "4 slides are few" in dock.shelf.details.warning.text()
    select(qtbot, dock, "scr-test_resnet-cv2-001/fold-01", "scr-test_resnet-cv2-001/fold-02")
    assert dock.shelf.details.warning.text() == OTHER_SLIDES
    assert not dock.shelf.remove_button.isEnabled(), "a fold alone is not removed"


def test_folds_that_were_cancelled_go_on_as_a_whole(qtbot, dock, ends):
    dock.form.set(replace(FULL, epochs=40))
    choose(dock.form.rounds_choice, "each")
    click(qtbot, dock.train_button)
    qtbot.waitUntil(lambda: bool(dock.progress.curve.epochs), timeout=60_000)
    click(qtbot, dock.job.cancel)
    qtbot.waitUntil(lambda: bool(ends), timeout=60_000)
    assert ends.pop().status is JobStatus.CANCELLED
    select(qtbot, dock, "scr-test_resnet-loo-001")
    assert "stopped, 0 runs finished" in dock.shelf.details.text.text()
    done = len(dock.progress.curve.epochs)
    dock.form.set(FAST)
    click(qtbot, dock.shelf.resume_button)
    assert (dock.form.way, dock.form.rounds) == ("full", "each")
    qtbot.waitUntil(lambda: bool(dock.progress.curve.epochs), timeout=60_000)
    assert dock.progress.curve.epochs[0].epoch >= done
    click(qtbot, dock.job.cancel)
    qtbot.waitUntil(lambda: bool(ends), timeout=60_000)


def test_objectives_are_compared_and_the_table_is_opened_again(qtbot, dock, ends, project, make_napari_viewer):
    dock.form.set(replace(FULL, epochs=1, colour_jitter=True))
    dock.compare_fold.expand(animate=False)
    for name, check in dock.objectives.checks.items():
        if check.isEnabled() and check.isChecked() != (name == "scr"):
            qtbot.mouseClick(check, Qt.MouseButton.LeftButton, pos=check.rect().center() / 4)
            if check.isChecked() != (name == "scr"):
                check.click()
    dock.objectives.seeds.setValue(2)
    assert dock.objectives.variants == ("baseline", "scr")
    assert dock.objectives.told.text() == "2 x 2 seeds = 4 trainings"
    end = run(qtbot, dock, ends, dock.objectives.start_button)
    assert end.status is JobStatus.COMPLETED, end.error
    assert list(dock.progress.curve.runs) == ["baseline, seed 0", "scr, seed 0", "baseline, seed 1", "scr, seed 1"]
    again = TrainingDock(make_napari_viewer())
    again.session.project = project
    again.show()
    select(qtbot, again, "comparison-001")
    rows = again.shelf.details.table.texts()
    assert [row[0] for row in rows] == ["baseline", "scr"]
    scr = end.result.rows[1]
    assert rows[1][1] == f"{scr.difference['patch_auc']:+.3f} ± {scr.error['patch_auc']:.3f}"
    assert f"{scr.mean['patch_auc']:.3f} ± {scr.sd['patch_auc']:.3f}" in rows[1]
    assert "moves an AUC more than any objective" in again.shelf.details.warning.text()
    again.close()


def test_a_failure_is_listed_with_its_sentence_and_can_be_resumed(qtbot, dock, ends, monkeypatch):
    dock.form.set(FULL)
    whole = training.run_epoch

    def breaks(*arguments):
        if arguments[3] == 1:
            raise TrainingError("The loss became infinite. Lower the learning rate.")
        return whole(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(training, "run_epoch", breaks)
        assert run(qtbot, dock, ends).status is JobStatus.FAILED
    assert dock.message.property("error")
    select(qtbot, dock, "scr-test_resnet-001")
    assert "The loss became infinite" in dock.shelf.details.text.text()
    assert dock.shelf.list.item_of("scr-test_resnet-001").text(2) == "failed"
    click(qtbot, dock.shelf.resume_button)
    qtbot.waitUntil(lambda: bool(ends), timeout=60_000)
    assert ends.pop().status is JobStatus.COMPLETED
    assert [e.epoch for e in dock.progress.curve.epochs] == [0, 1]


def test_train_on_holds_the_same_slides_out(qtbot, dock, ends):
    dock.form.set(replace(FULL, seed=3))
    run(qtbot, dock, ends)
    select(qtbot, dock, "scr-test_resnet-001")
    click(qtbot, dock.shelf.continue_button)
    assert dock.form.read() == replace(FULL, seed=3, continue_from="scr-test_resnet-001")
    assert run(qtbot, dock, ends).status is JobStatus.COMPLETED
    runs = dock.session.project.folder / "runs"
    first, second = (json.loads((runs / f"scr-test_resnet-00{n}" / "config.json").read_text())["split"] for n in (1, 2))
    assert first == second


def test_a_leaky_split_is_called_so_everywhere(qtbot, dock, ends):
    dock.form.set(replace(FULL, epochs=1, patches=PatchConfig(size_px=32)))
    assert dock.form.leaky.isHidden()
    dock.form.edits["split"].write("patches")
    assert not dock.form.leaky.isHidden()
    assert dock.form.leaky.text() == LEAKY_WARNING
    qtbot.waitUntil(lambda: "leaky" in dock.counts.warnings.text(), timeout=20_000)
    assert run(qtbot, dock, ends).status is JobStatus.COMPLETED
    assert "leaky 0." in dock.progress.scores.text() or "leaky 1." in dock.progress.scores.text()
    select(qtbot, dock, "scr-test_resnet-001")
    assert dock.shelf.list.item_of("scr-test_resnet-001").text(1).endswith("leaky")
    assert "leaky" in dock.shelf.details.warning.text()
    assert not dock.shelf.continue_button.isEnabled(), "the core refuses to go on from it"


@pytest.mark.parametrize(("answer", "stays"), [("No", True), ("Yes", False)])
def test_a_training_is_removed_only_when_asked_twice(qtbot, dock, ends, monkeypatch, answer, stays):
    dock.form.set(FAST)
    run(qtbot, dock, ends)
    select(qtbot, dock, "fast-test_resnet-001")
    asked = []

    def question(_parent, _title, text, *_buttons):
        asked.append(text)
        return getattr(QMessageBox.StandardButton, answer)

    monkeypatch.setattr(run_shelf.QMessageBox, "question", question)
    click(qtbot, dock.shelf.remove_button)
    project = dock.session.project
    assert "fast-test_resnet-001" in asked[0]
    assert (project.folder / "runs" / "fast-test_resnet-001").exists() is stays
    moved = project.folder / "removed" / "runs" / "001-fast-test_resnet-001"
    assert (moved / "model.json").exists() is not stays
    if not stays:
        qtbot.waitUntil(lambda: not dock.shelf.list.entries, timeout=20_000)
        assert str(moved) in dock.message.text()


def test_the_model_card_and_the_folder_are_opened(qtbot, dock, ends, monkeypatch):
    dock.form.set(FAST)
    run(qtbot, dock, ends)
    select(qtbot, dock, "fast-test_resnet-001")
    click(qtbot, dock.shelf.card_button)
    (card,) = dock.shelf.findChildren(CardDialog)
    assert "A head on frozen features" in card.browser.toPlainText()
    card.close()
    opened = []
    monkeypatch.setattr(run_shelf.QDesktopServices, "openUrl", lambda url: bool(opened.append(url.toLocalFile())))
    click(qtbot, dock.shelf.folder_button)
    assert Path(opened[0]).name == "fast-test_resnet-001"
    assert opened[0] in dock.message.text(), "where no program opens it, the path is told"


def test_doubts_of_each_way(project):
    table = project.patch_table(FULL.patches)
    groups = {slide.id: slide.group for slide in project.cohort}
    assert ["far off" in told for told in all_doubts(table, FAST, groups)] == [True]
    plain = replace(FULL, objective=CrossEntropyConfig())
    assert all_doubts(table, plain, groups) == []
    (folds,) = all_doubts(table, plain, groups, rounds="folds", folds=3)
    (each,) = all_doubts(table, plain, groups, rounds="each")
    assert "how folds fall" in folds
    assert "next to nothing" in each
    nothing = all_doubts(table, replace(plain, validation_fraction=0.0), groups, rounds="folds", folds=30)
    assert sum("Folds hold out whole slides themselves" in told for told in nothing) == 1
    assert any("30 trainings" in told for told in nothing)
    adapter = replace(FAST, head=HeadConfig(net="adapter", objective=ScrConfig()))
    assert len(all_doubts(table, adapter, groups)) == 1
