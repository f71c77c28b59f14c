"""Trainings as they lie on the disk: alone, as folds, as a comparison; what is damaged; taking them out."""

import json
import math
from dataclasses import asdict, replace

import pytest

from napari_slidecorr.comparison_table import Trial, summarize, trials_csv
from napari_slidecorr.config import ScrConfig, TrainConfig
from napari_slidecorr.cross_validation import CrossValidation, SlideScore, _finite
from napari_slidecorr.errors import ProjectError
from napari_slidecorr.events import EpochDone
from napari_slidecorr.fast_config import FastConfig
from napari_slidecorr.project import Project
from napari_slidecorr.runs import curve_csv, run_claimed, write_state
from napari_slidecorr.settings import to_json
from napari_slidecorr.stored_runs import RunGroup, StoredRun, read_folds, remove_runs, stored_runs

EPOCH = EpochDone(
    phase="",
    epoch=0,
    loss=0.5,
    terms={"cross_entropy": 0.5},
    pairs=24.0,
    train_auc=0.9,
    validation_auc=0.8,
    validation_accuracy=0.7,
    patches_per_second=100.0,
    seconds=2.0,
)


@pytest.fixture
def project(tmp_path):
    return Project.create(tmp_path / "study", ("a", "b"))


def write_run(folder, *, state="finished", config=None, fast=None, sentence="", slides=("s1", "s2")):
    folder.mkdir(parents=True)
    split = {"train": list(slides), "validation": ["s9"]}
    told = {"settings": to_json(config or TrainConfig()), "split": split}
    if fast is not None:
        told["fast"] = to_json(fast)
    (folder / "config.json").write_text(json.dumps(told))
    (folder / "curve.csv").write_text(curve_csv((EPOCH,)))
    write_state(folder, state, sentence)
    if state == "finished":
        (folder / "model.json").write_text("{}")
    return folder


def folds_result(folder):
    scores = tuple(
        SlideScore(f"s{n}", f"fold-0{n}", 4, 0.5, {"a": 0.5, "b": 0.5}, {"a": 0.6, "b": 0.4}) for n in (1, 2)
    )
    fold_auc = {"fold-01": 0.75, "fold-02": math.nan}
    return CrossValidation(folder, fold_auc, 0.75, math.nan, 0.7, scores, "2 slides are few.")


def write_folds(runs, *, ended):
    folder = runs / "cv"
    for n in (1, 2):
        write_run(folder / f"fold-0{n}", state="finished" if ended else "stopped")
    (folder / "folds.json").write_text(json.dumps({"folds": 2, "settings": to_json(TrainConfig()), "splits": []}))
    if ended:
        (folder / "summary.json").write_text(json.dumps(_finite(asdict(folds_result(folder)))))
    return folder


def test_alone_fast_and_together(project):
    runs = project.folder / "runs"
    write_run(runs / "one")
    write_run(runs / "two", fast=FastConfig(centring=0.5))
    write_folds(runs, ended=True)
    found = {one.name: one for one in stored_runs(project)}
    assert set(found) == {"one", "two", "cv"}
    assert found["one"].fast is None
    assert found["two"].fast == FastConfig(centring=0.5)
    assert [run.name for run in found["cv"].runs] == ["cv/fold-01", "cv/fold-02"]
    assert (found["cv"].state, found["cv"].seconds) == ("finished", 4.0)


def test_folds_are_read_as_they_were_written(project):
    folder = write_folds(project.folder / "runs", ended=True)
    read, wrote = read_folds(folder), folds_result(folder)
    assert (read.slides, read.pooled_auc, read.warning) == (wrote.slides, wrote.pooled_auc, wrote.warning)
    assert math.isnan(read.sd_auc)
    assert math.isnan(read.fold_auc["fold-02"])


@pytest.mark.parametrize("text", ["", "[]", '{"slides": 3}', '{"slides": [{"slide": "s1"}]}'])
def test_a_damaged_summary_counts_as_none(project, text):
    folder = write_folds(project.folder / "runs", ended=True)
    (folder / "summary.json").write_text(text)
    (group,) = stored_runs(project)
    assert group.result is None
    assert group.resumable


def test_a_comparison_is_the_table_it_was(project):
    folder = project.folder / "runs" / "comparison-001"
    trials = [
        Trial(variant, seed, f"comparison-001/{variant}-seed{seed}", 0.9, auc, math.nan, 0.8, 3.0)
        for seed, aucs in enumerate([(0.7, 0.8), (0.6, 0.75)])
        for variant, auc in zip(("baseline", "scr"), aucs, strict=True)
    ]
    for trial in trials:
        write_run(folder.parent / trial.run)
    settings = to_json(TrainConfig(objective=ScrConfig(beta=0.3)))
    told = {"variants": ["baseline", "scr"], "seeds": 2, "same_split": False, "settings": settings}
    (folder / "comparison.json").write_text(json.dumps(told))
    (group,) = stored_runs(project)
    assert group.result is None, "it has not ended"
    (folder / "comparison.csv").write_text(trials_csv(trials))
    (group,) = stored_runs(project)
    wanted = summarize(folder, trials, ["baseline", "scr"])
    assert repr(group.result.rows) == repr(wanted.rows), "repr, as NaN is not itself"
    assert group.result.rows[1].difference["patch_auc"] == pytest.approx(0.125)
    assert "2 training slides" in group.result.warning
    assert group.state == "finished"


def test_how_a_group_stands_is_told_by_its_runs(project):
    folder = write_folds(project.folder / "runs", ended=False)
    (group,) = stored_runs(project)
    assert (group.state, group.sentence, group.resumable) == ("stopped", "", True)
    write_state(folder / "fold-02", "failed", "The disk is full.")
    (group,) = stored_runs(project)
    assert (group.state, group.sentence) == ("failed", "The disk is full.")
    write_state(folder / "fold-02", "running")
    with run_claimed(folder / "fold-02", resume=True):
        (group,) = stored_runs(project)
    assert (group.state, group.resumable) == ("running", False)
    assert RunGroup("new", folder, "folds", (), None).begun, "told by the folder before the first run"


def test_removed_trainings_lie_in_removed_and_can_be_put_back(project):
    runs = project.folder / "runs"
    for number in (1, 2):
        write_run(runs / "one")
        (stored,) = stored_runs(project)
        moved = remove_runs(project, stored)
        assert moved == project.folder / "removed" / "runs" / f"00{number}-one"
        assert stored_runs(project) == []
    moved.rename(runs / "back")
    assert [one.name for one in stored_runs(project)] == ["back"]


def test_what_cannot_be_removed_says_why_and_stays(project):
    runs = project.folder / "runs"
    write_folds(runs, ended=True)
    (group,) = stored_runs(project)
    with pytest.raises(ProjectError, match=r"part of cv; remove that as a whole"):
        remove_runs(project, group.runs[0])
    write_run(runs / "now", state="running")
    running = next(one for one in stored_runs(project) if one.name == "now")
    with run_claimed(runs / "now", resume=True), pytest.raises(ProjectError, match=r"still runs; cancel it"):
        remove_runs(project, running)
    gone = StoredRun(replace(running.record, name="gone", folder=runs / "gone", state="stopped"))
    with pytest.raises(ProjectError, match=r"no such training any more"):
        remove_runs(project, gone)
    assert {one.name for one in stored_runs(project)} == {"cv", "now"}
