"""What run folders tell, also those that were stopped, killed, failed or damaged."""

import json
import os
import time
from dataclasses import replace

import pytest

from napari_slidecorr.config import ScrConfig, TrainConfig
from napari_slidecorr.events import EpochDone
from napari_slidecorr.io import owner_file
from napari_slidecorr.io.claim import TRAINING
from napari_slidecorr.io.owner_file import Owner
from napari_slidecorr.runs import (
    RunTakenError,
    curve_csv,
    list_runs,
    read_curve,
    read_run,
    run_claimed,
    write_state,
)
from napari_slidecorr.settings import to_json


def epoch(number, auc=0.5):
    values = {"loss": 0.25, "pairs": 48.0, "train_auc": 0.9, "validation_accuracy": 0.7, "patches_per_second": 10.0}
    terms = {"cross_entropy": 0.125}
    return EpochDone(
        phase="", done=number + 1, total=2, epoch=number, validation_auc=auc, terms=terms, seconds=3.0, **values
    )


@pytest.fixture
def make_run(tmp_path):
    def make_run(name, state=None, sentence="", aucs=(0.5, 0.75), kept=None):
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        told = {
            "settings": to_json(TrainConfig(objective=ScrConfig(beta=0.4))),
            "split": {"train": ["a"], "validation": ["b"]},
        }
        (run / "config.json").write_text(json.dumps(told))
        if aucs:
            (run / "curve.csv").write_text(curve_csv([epoch(i, auc) for i, auc in enumerate(aucs)]))
        if state:
            write_state(run, state, sentence)
        if kept:
            (run / "model.json").write_text(json.dumps({"epoch": kept}))
        return run

    return make_run


def test_a_curve_is_read_as_it_was_written(make_run):
    assert read_curve(make_run("one")) == (epoch(0, 0.5), epoch(1, 0.75))


def test_a_finished_run(make_run):
    record = read_run(make_run("one", "finished", kept=1))
    assert (record.state, record.epoch, record.held_out_auc, record.seconds) == ("finished", 0, 0.5, 6.0)
    assert record.config == TrainConfig(objective=ScrConfig(beta=0.4))
    assert (record.train_slides, record.validation_slides) == (("a",), ("b",))
    assert not record.resumable


def test_a_failed_run_keeps_its_sentence_and_can_go_on(make_run):
    record = read_run(make_run("one", "failed", "The loss became infinite."))
    assert (record.state, record.sentence, record.resumable) == ("failed", "The loss became infinite.", True)
    assert record.held_out_auc == 0.75


def test_a_run_goes_on_as_long_as_somebody_claims_it(make_run):
    run = make_run("one", "running")
    with run_claimed(run, resume=True):
        assert read_run(run).state == "running"
    assert (read_run(run).state, read_run(run).resumable) == ("stopped", True)


@pytest.mark.parametrize(
    ("changes", "age_s", "state"),
    [
        pytest.param({"birth": "of an earlier process"}, 0, "stopped", id="its number is another process's now"),
        pytest.param({"host": "elsewhere"}, 0, "running", id="on another machine"),
        pytest.param({"host": "elsewhere"}, 3600, "stopped", id="left behind on another machine"),
    ],
)
def test_who_claims_a_run_may_be_gone(make_run, changes, age_s, state):
    run = make_run("one", "running")
    claim = run.with_name("one.claim")
    owner_file.make(claim, replace(Owner.here(TRAINING), **changes))
    os.utime(claim, (time.time() - age_s,) * 2)
    assert read_run(run).state == state


def test_a_run_is_claimed_once(make_run, tmp_path):
    run = make_run("one")
    with (
        run_claimed(run, resume=True),
        pytest.raises(RunTakenError, match=r"one: it is being trained by another program \(process \d+"),
        run_claimed(run, resume=True),
    ):
        pass
    with pytest.raises(RunTakenError, match="has trained there just now"), run_claimed(run):
        pass
    assert not list((tmp_path / "runs").glob("*.claim"))


def test_when_it_began_is_kept_over_sessions(make_run):
    run = make_run("one", "running")
    told = json.loads((run / "state.json").read_text())
    (run / "state.json").write_text(json.dumps({**told, "begun": "2020-01-01T00:00:00+00:00"}))
    write_state(run, "finished")
    assert read_run(run).begun == "2020-01-01T00:00:00+00:00"


@pytest.mark.parametrize("name", ["config.json", "state.json", "curve.csv", "model.json"])
@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\xff\xfe", b'{"settings": {"epochs": "many"}}'])
def test_damaged_files_never_raise(make_run, name, damage):
    run = make_run("one", "stopped", kept=2)
    (run / name).write_bytes(damage)
    record = read_run(run)
    assert record.name == "one"
    if name == "config.json":
        assert record.config is None
        assert record.sentence
        assert not record.resumable
    assert json.loads(json.dumps(record.to_json(), default=str))


def test_runs_are_listed_with_their_folds_from_the_oldest(make_run, tmp_path):
    for name, begun in (("b", 3), ("a", 4), ("cv/fold-01", 1), ("cv/fold-02", 2)):
        run = make_run(name, "stopped")
        told = json.loads((run / "state.json").read_text())
        (run / "state.json").write_text(json.dumps({**told, "begun": f"202{begun}"}))
    (tmp_path / "runs" / "empty").mkdir()
    assert [record.name for record in list_runs(tmp_path / "runs")] == ["cv/fold-01", "cv/fold-02", "b", "a"]
    assert list_runs(tmp_path / "nothing") == []
