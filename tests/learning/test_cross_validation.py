"""Folds, continued runs and the leaky split, through a project."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from napari_slidecorr.cli import app
from napari_slidecorr.config import CrossEntropyConfig, PatchConfig, TrainConfig
from napari_slidecorr.cross_validation import CrossValidated, cross_validate, folds_settings
from napari_slidecorr.errors import CohortError, ConfigError, ModelError, ProjectError
from napari_slidecorr.events import BatchDone, Notice, drain
from napari_slidecorr.learning.models import load_model
from napari_slidecorr.metrics import patch_auc
from napari_slidecorr.project import Project
from napari_slidecorr.sample_data import make_cohort

CONFIG = TrainConfig(
    objective=CrossEntropyConfig(),
    backbone="test_resnet",
    weights="random",
    epochs=1,
    patches=PatchConfig(size_px=64),
    learning_rate=0.01,
    device="cpu",
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folds")
    samples = drain(make_cohort(folder / "slides", slides=6, size_px=512))
    project = Project.create(folder / "project", tuple(dict.fromkeys(n for s in samples for n in s.regions.classes)))
    project.add_slides([sample.path for sample in samples])
    for sample in samples:
        project.save_regions(sample.id, sample.regions)
    return project.folder


@pytest.fixture
def project(cohort, tmp_path):
    shutil.copytree(cohort, tmp_path / "project")
    return Project.open(tmp_path / "project")


def weights(run):
    return load_file(run / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_folds_hold_every_slide_out_once_and_add_up(project):
    events = list(cross_validate(project, CONFIG, folds=2))
    assert isinstance(events[-1], CrossValidated)
    result = events[-1].result
    records = {record.name: record for record in project.run_records()}
    assert list(records) == [f"{result.folder.name}/fold-01", f"{result.folder.name}/fold-02"]
    held = [slide for record in records.values() for slide in record.validation_slides]
    assert sorted(held) == sorted(slide.id for slide in project.cohort)
    labels, probabilities = [], []
    for name, record in records.items():
        rows = list(csv.DictReader((record.folder / "held_out.csv").open()))
        assert {row["slide"] for row in rows} == set(record.validation_slides)
        _, spec = load_model(record.folder)
        label = np.asarray([spec.classes.index(row["class"]) for row in rows])
        found = np.asarray([[float(row[f"p_{one}"]) for one in spec.classes] for row in rows])
        assert result.fold_auc[name.split("/")[1]] == pytest.approx(patch_auc(label, found))
        assert record.held_out_auc == pytest.approx(patch_auc(label, found), abs=1e-6), "the very model that was judged"
        labels.append(label)
        probabilities.append(found)
    assert result.pooled_auc == pytest.approx(patch_auc(np.concatenate(labels), np.concatenate(probabilities)))
    assert result.mean_auc == pytest.approx(np.mean(list(result.fold_auc.values())))
    assert result.sd_auc == pytest.approx(np.std(list(result.fold_auc.values()), ddof=1))
    assert [score.slide for score in result.slides] == held
    assert "6 slides are few" in result.warning
    told = json.loads((result.folder / "summary.json").read_text())
    assert told["pooled_auc"] == pytest.approx(result.pooled_auc)
    assert project.runs() == [], "folds are not models to predict with by default"


def test_folds_that_were_stopped_go_on_to_the_same(project):
    whole = drain(cross_validate(project, CONFIG, folds=2, name="whole"))
    events = cross_validate(project, CONFIG, folds=2, name="stopped")
    next(event for event in events if isinstance(event, BatchDone) and event.phase.startswith("Fold 2"))
    events.close()
    first = (project.folder / "runs" / "stopped" / "fold-01" / "model.safetensors").stat().st_mtime_ns
    assert folds_settings(project.folder / "runs" / "stopped") == (CONFIG, 2)
    resumed = drain(cross_validate(project, CONFIG, folds=2, name="stopped", resume=True))
    assert (resumed.folder / "fold-01" / "model.safetensors").stat().st_mtime_ns == first
    assert same(weights(whole.folder / "fold-02"), weights(resumed.folder / "fold-02"))
    assert (resumed.pooled_auc, resumed.slides) == (whole.pooled_auc, whole.slides)
    with pytest.raises(ProjectError, match="other settings, slides or folds"):
        cross_validate(project, replace(CONFIG, seed=1), folds=2, name="stopped", resume=True)
    with pytest.raises(ProjectError, match="there is a run of that name"):
        cross_validate(project, CONFIG, folds=2, name="stopped")


def test_one_slide_at_a_time_on_the_command_line_is_doubted(project):
    options = [
        "--objective",
        "ce",
        "--backbone",
        "test_resnet",
        "--weights",
        "random",
        "--epochs",
        "1",
        "--size-px",
        "64",
        "--device",
        "cpu",
    ]
    done = CliRunner().invoke(
        app, ["train", str(project.folder), "--leave-one-out", "--name", "loo", "--json", *options]
    )
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert list(told["fold_auc"]) == [f"fold-{n:02d}" for n in range(1, 7)]
    assert "says next to nothing" in told["warning"]
    assert "says next to nothing" in done.stderr
    again = CliRunner().invoke(app, ["train", str(project.folder), "--leave-one-out", "--resume", "--json"])
    assert json.loads(again.stdout)["fold_auc"] == told["fold_auc"], "with their own settings"
    text = CliRunner().invoke(app, ["runs", str(project.folder)])
    assert text.stdout.count("finished") == 6


@pytest.mark.parametrize("change", [{"split": "patches"}, {"validation_fraction": 0.0}, {"continue_from": "x"}])
def test_folds_hold_out_by_themselves(change, project):
    with pytest.raises(ConfigError, match="Folds hold out whole slides themselves"):
        cross_validate(project, replace(CONFIG, **change), folds=2)


# runs that go on from another


def test_a_continued_run_takes_weights_and_split_and_trains_on_new_slides(project):
    ids = [slide.id for slide in project.cohort]
    regions = project.regions(ids[0])
    project.save_regions(ids[0], type(regions)(()))
    first = drain(project.train(CONFIG, name="first"))
    _, spec = load_model(first.spec_path)
    project.save_regions(ids[0], regions)
    config = replace(CONFIG, continue_from="first", learning_rate=1e-9)
    events = list(project.train(config, name="second"))
    assert "Continuing from first." in [event.message for event in events if isinstance(event, Notice)]
    model, second = load_model(events[-1].result.spec_path)
    assert second.validation_slides == spec.validation_slides
    assert set(second.train_slides) == {*spec.train_slides, ids[0]}
    assert second.initial_weights == f"first sha256:{spec.weights_sha256}"
    earlier, _ = load_model(first.spec_path)
    for one, other in zip(earlier.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)  # head and backbone, hardly moved


def test_a_new_slide_of_a_held_out_patient_is_held_out_too(project):
    ids = [slide.id for slide in project.cohort]
    regions = project.regions(ids[0])
    project.save_regions(ids[0], type(regions)(()))
    _, spec = load_model(drain(project.train(CONFIG, name="first")).spec_path)
    project.save_regions(ids[0], regions)
    group = next(slide.group for slide in project.cohort if slide.id == spec.validation_slides[0])
    project.set_group(ids[0], group)
    _, second = load_model(drain(project.train(replace(CONFIG, continue_from="first"), name="second")).spec_path)
    assert set(second.validation_slides) == {*spec.validation_slides, ids[0]}
    project.set_group(spec.train_slides[0], group)
    with pytest.raises(
        CohortError, match=f"Slide {spec.train_slides[0]} trained model .* of a patient that is held out"
    ):
        project.train(replace(CONFIG, continue_from="first"), name="third")


def test_what_cannot_be_continued_is_told(project):
    with pytest.raises(ProjectError, match="nothing: there is no finished run of that name"):
        project.train(replace(CONFIG, continue_from="nothing"))
    drain(project.train(CONFIG, name="first"))
    with pytest.raises(ModelError, match="first: is a test_resnet, not a resnet18"):
        drain(project.train(replace(CONFIG, continue_from="first", backbone="resnet18"), name="other"))
    with pytest.raises(ProjectError, match="set validation_fraction above 0"):
        project.train(replace(CONFIG, continue_from="first", validation_fraction=0.0))
    weights_file = project.folder / "runs" / "first" / "model.safetensors"
    weights_file.write_bytes(weights_file.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(ModelError, match=r"not the weights that model\.json describes"):
        drain(project.train(replace(CONFIG, continue_from="first"), name="tampered"))


# leaky


def test_a_leaky_split_says_so_everywhere(project):
    events = list(project.train(replace(CONFIG, split="patches"), name="leaky"))
    assert any(event.warning and "leaky" in event.message for event in events if isinstance(event, Notice))
    result = events[-1].result
    assert "leaky AUC" in result.epochs[-1].scores
    assert "held-out" not in result.epochs[-1].scores
    card = (project.folder / "runs" / "leaky" / "MODEL_CARD.md").read_text()
    assert "**Leaky split" in card
    assert "leaky AUC" in card
    assert "held-out AUC" not in card.replace("epoch of the highest held-out AUC", "")
    assert load_model(result.spec_path)[1].split == "patches"
    listed = CliRunner().invoke(app, ["runs", str(project.folder)]).stdout
    assert "(leaky)" in listed
    (record,) = project.run_records()
    assert record.curve[-1].leaky
    with pytest.raises(ProjectError, match="had a leaky split"):
        project.train(replace(CONFIG, continue_from="leaky"))


def test_a_leaky_split_divides_each_class_of_each_slide(project):
    config = replace(CONFIG, split="patches")
    plan = project.training_plan(config)
    train, held = plan.tables(plan.split(config), config)
    assert len(train) + len(held) == len(plan.table)
    np.testing.assert_allclose(held.counts(), 0.25 * plan.table.counts(), atol=0.51)
