"""Several slides in turn, as `slidecorr predict PROJECT` does it."""

import csv
import errno
import json
import os
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from napari_slidecorr.cli import app
from napari_slidecorr.cohort_prediction import CohortPredicted, SlideEnded, predict_cohort
from napari_slidecorr.config import PredictConfig
from napari_slidecorr.errors import ProjectError
from napari_slidecorr.events import Notice, drain
from napari_slidecorr.geometry import PatchGeometry
from napari_slidecorr.io import map_zarr, read_map
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.project import Project

CONFIG = PredictConfig(block_cells=2, batch_size=4, device="cpu", tissue_only=False)
OPTIONS = ["--block-cells", "2", "--batch-size", "4", "--device", "cpu", "--no-tissue-only"]


@pytest.fixture
def project(tmp_path):
    """Three slides of 4 x 4 patches, and a model that nobody trained."""
    import torch

    from napari_slidecorr.learning.models import make_model, save_model

    torch.set_num_threads(1)
    made = Project.create(tmp_path / "project", ("one", "two"))
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (112, 112, 3), np.uint8)
        tifffile.imwrite(tmp_path / f"s{number}.tif", pixels, tile=(16, 16), photometric="rgb", metadata=None)
    made.add_slides([tmp_path / f"s{number}.tif" for number in range(3)])
    run = made.folder / "runs" / "random"
    run.mkdir(parents=True)
    model = make_model("test_resnet", 2, weights="random")
    spec = ModelSpec(
        backbone="test_resnet", classes=("one", "two"), geometry=PatchGeometry(32, None), mean=model.mean,
        std=model.std, objective={"kind": "ce"}, train_slides=(), validation_slides=(), initial_weights="random",
        weights_sha256="", package_version="0",
    )  # fmt: skip
    save_model(run, model, spec)
    return made


def cut(project, slide_id):
    """Cut a slide's file short."""
    path = project.folder.parent / f"{slide_id}.tif"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return whole


def call(project, *more):
    outcome = CliRunner().invoke(app, ["predict", str(project.folder), *OPTIONS, *more], catch_exceptions=False)
    return outcome.exit_code, outcome.stdout, outcome.stderr


def test_a_truncated_slide_is_told_and_the_others_go_on(project):
    cut(project, "s1")
    outcomes = drain(predict_cohort(project, config=CONFIG))
    assert [(one.slide, one.state) for one in outcomes] == [
        ("s0", "predicted"),
        ("s1", "failed"),
        ("s2", "predicted"),
    ]
    assert "s1.tif" in outcomes[1].error
    assert [one.patches for one in outcomes] == [16, 0, 16]
    assert all(one.seconds > 0 and one.patches_per_second > 0 for one in (outcomes[0], outcomes[2]))
    assert [len(project.maps(slide)) for slide in ("s0", "s1", "s2")] == [1, 0, 1]


def test_maps_are_those_of_the_strict_way_and_complete_ones_are_left(project):
    first = drain(predict_cohort(project, ["s0"], config=CONFIG))[0]
    stamp = [file.stat().st_mtime_ns for file in first.map.rglob("*") if file.is_file()]
    outcomes = drain(predict_cohort(project, config=CONFIG))
    assert [one.state for one in outcomes] == ["was complete", "predicted", "predicted"]
    assert [file.stat().st_mtime_ns for file in first.map.rglob("*") if file.is_file()] == stamp
    assert (outcomes[0].score, outcomes[0].cells, outcomes[0].patches) == (first.score, first.cells, 0)
    found = read_map(outcomes[2].map).probabilities
    outcomes[2].map.rename(project.folder / "kept")
    np.testing.assert_array_equal(drain(project.predict(["s2"], config=CONFIG)).probabilities, found)


def test_a_complete_map_needs_no_slide(project):
    drain(predict_cohort(project, config=CONFIG))
    (project.folder.parent / "s0.tif").unlink()
    assert {one.state for one in drain(predict_cohort(Project.open(project.folder), config=CONFIG))} == {"was complete"}


def test_events_name_the_slide_and_say_nothing_twice(project):
    cut(project, "s1")
    *events, last = predict_cohort(project, config=CONFIG)
    assert isinstance(last, CohortPredicted)
    assert [event.phase for event in events if isinstance(event, SlideEnded)] == [
        f"s{i} ({i + 1} of 3)" for i in range(3)
    ]
    assert {event.phase for event in events} == {f"s{i} ({i + 1} of 3)" for i in range(3)}
    plain = [event.message for event in events if isinstance(event, Notice) and not isinstance(event, SlideEnded)]
    assert len(plain) == 1, plain


def test_what_stops_every_slide_ends_the_work(project, monkeypatch):
    def refuse(_):
        raise OSError(errno.ENOSPC, "full")

    events = predict_cohort(project, config=CONFIG)
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(ProjectError, match="no space left"):
        list(events)


def test_an_unknown_slide_is_told_at_once(project):
    with pytest.raises(ProjectError, match="no slide 'x'"):
        predict_cohort(project, ["s0", "x"])


def test_closing_in_the_middle_keeps_the_blocks(project):
    events = predict_cohort(project, config=CONFIG)
    while type(next(events)).__name__ != "BlockDone":
        pass
    events.close()
    outcome = drain(predict_cohort(project, ["s0"], config=CONFIG))[0]
    assert (outcome.state, outcome.patches, outcome.cells) == ("predicted", 12, 16)


def test_the_command_prints_a_table_and_ends_with_2_when_a_slide_failed(project):
    whole = cut(project, "s1")
    code, out, err = call(project)
    assert code == 2
    lines = out.splitlines()
    assert lines[0].split() == ["slide", "state", "seconds", "patches/s", "score"]
    assert lines[-1].startswith("2 predicted, 1 failed; 32 patches in ")
    assert [line.split()[:2] for line in lines[1:-1]] == [["s0", "predicted"], ["s1", "failed"], ["s2", "predicted"]]
    assert "s1.tif" in lines[2]
    assert "Warning: s1 failed: s1.tif" in err
    assert "Traceback" not in err

    (project.folder.parent / "s1.tif").write_bytes(whole)
    code, out, err = call(project, "--json")
    told = json.loads(out)
    assert (code, [one["state"] for one in told["slides"]]) == (0, ["was complete", "predicted", "was complete"])
    assert [one["slide"] for one in told["maps"]] == ["s0", "s1", "s2"]


def test_a_report_has_a_line_a_slide(project, tmp_path):
    cut(project, "s1")
    code, out, _ = call(project, "--report", str(tmp_path / "r.csv"))
    assert (code, out.splitlines()[-1]) == (2, str(tmp_path / "r.csv"))
    with (tmp_path / "r.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["slide"], line["state"], line["patches"], line["cells"]) for line in lines] == [
        ("s0", "predicted", "16", "16"),
        ("s1", "failed", "0", "0"),
        ("s2", "predicted", "16", "16"),
    ]
    assert "s1.tif" in lines[1]["error"]
    assert float(lines[0]["score one"]) + float(lines[0]["score two"]) == pytest.approx(1, abs=1e-4)
    assert float(lines[0]["patches_per_second"]) > 0
    assert lines[1]["score one"] == lines[0]["mm2 one"] == ""


def test_slides_without_a_project(project, tmp_path):
    cut(project, "s1")
    run, out = project.folder / "runs" / "random", tmp_path / "out"
    sources = [str(tmp_path / "s*.tif"), str(tmp_path / "s0.tif")]
    arguments = ["predict", *sources, "--run", str(run), "--out", str(out), *OPTIONS]
    outcome = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    told = json.loads(outcome.stdout)
    assert outcome.exit_code == 2
    assert {one["slide"]: one["state"] for one in told["slides"]} == {
        "s0": "predicted",
        "s2": "predicted",
        "s1": "failed",
    }
    assert (out / "report.csv").read_text().count("predicted") == 2
    drain(predict_cohort(project, ["s0"], config=CONFIG))
    np.testing.assert_array_equal(
        read_map(Project.open(out).maps("s0")[0]).probabilities, read_map(project.maps("s0")[0]).probabilities
    )
    again = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    states = {one["slide"]: one["state"] for one in json.loads(again.stdout)["slides"]}
    assert states == {"s0": "was complete", "s2": "was complete", "s1": "failed"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{tmp}/s0.tif", "{tmp}/s2.tif"], ["--run", "--out"]),
        (["{tmp}/x*.tif", "--run", "{run}", "--out", "{tmp}/out"], ["x*.tif", "no slide"]),
        (["{tmp}/s0.tif", "--run", "{tmp}", "--out", "{tmp}/out"], ["model.json"]),
        (["{tmp}/s0.tif", "--run", "{run}", "--out", "{tmp}/out", "--slide", "s0"], ["--slide"]),
        (["{tmp}/project", "--out", "{tmp}/out"], ["--out", "without a project"]),
        (["{tmp}/project", "--workers", "2", "--scheduler", "tcp://x:1"], ["choose one"]),
    ],
)
def test_mistakes_with_loose_slides(project, tmp_path, arguments, words):
    filled = [one.format(tmp=tmp_path, run=project.folder / "runs" / "random") for one in arguments]
    outcome = CliRunner().invoke(app, ["predict", *filled], catch_exceptions=False)
    assert outcome.exit_code == 2
    assert all(word in outcome.stderr for word in words), outcome.stderr
    assert not (tmp_path / "out").exists()


def other_pixels(project, slide_id):
    """Another slide of the same size under the same name."""
    path = project.folder.parent / f"{slide_id}.tif"
    tifffile.imwrite(path, np.full((112, 112, 3), 77, np.uint8), tile=(16, 16), photometric="rgb", metadata=None)


def test_a_complete_map_of_what_the_file_no_longer_holds_is_refused(project):
    drain(predict_cohort(project, config=CONFIG))
    other_pixels(project, "s1")
    outcomes = drain(predict_cohort(Project.open(project.folder), config=CONFIG))
    assert [one.state for one in outcomes] == ["was complete", "failed", "was complete"]
    assert "file has changed since this map was begun" in outcomes[1].error


def test_a_begun_map_is_never_gone_on_with_on_another_file(project):
    events = predict_cohort(project, ["s0"], config=CONFIG)
    while type(next(events)).__name__ != "BlockDone":
        pass
    events.close()
    (path,) = (project.folder / "maps" / "s0").glob("*.ome.zarr")
    begun = sorted((file.name, file.stat().st_mtime_ns) for file in path.rglob("*"))
    other_pixels(project, "s0")
    (outcome,) = drain(predict_cohort(Project.open(project.folder), ["s0"], config=CONFIG))
    assert "file has changed" in outcome.error
    assert sorted((file.name, file.stat().st_mtime_ns) for file in path.rglob("*")) == begun


def test_a_begun_map_of_a_slide_of_another_size_is_refused(project):
    events = predict_cohort(project, ["s0"], config=CONFIG)
    while type(next(events)).__name__ != "BlockDone":
        pass
    events.close()
    path = project.folder.parent / "s0.tif"
    tifffile.imwrite(path, np.zeros((128, 96, 3), np.uint8), tile=(16, 16), photometric="rgb", metadata=None)
    (outcome,) = drain(predict_cohort(Project.open(project.folder), ["s0"], config=CONFIG))
    assert "another grid" in outcome.error


def test_a_map_of_an_older_version_that_knows_no_digest_goes_on(project):
    (outcome,) = drain(predict_cohort(project, ["s0"], config=CONFIG))
    root = outcome.map / "zarr.json"
    told = json.loads(root.read_text())
    told["attributes"]["napari_slidecorr"].pop("slide_digest")
    told["attributes"]["napari_slidecorr"]["complete"] = False
    root.write_text(json.dumps(told))
    next((outcome.map / "0" / "c" / "0" / "0").iterdir()).unlink()
    (again,) = drain(predict_cohort(project, ["s0"], config=CONFIG))
    assert (again.state, again.patches) == ("predicted", 4)


def test_a_map_half_written_by_a_newer_version_is_left_alone(project):
    (outcome,) = drain(predict_cohort(project, ["s0"], config=CONFIG))
    root = outcome.map / "zarr.json"
    told = json.loads(root.read_text())
    told["attributes"]["napari_slidecorr"] |= {"format": 99, "complete": False}
    root.write_text(json.dumps(told))
    before = root.read_bytes()
    (again,) = drain(predict_cohort(project, ["s0"], config=CONFIG))
    assert "format 99" in again.error
    assert root.read_bytes() == before


def test_a_disk_that_fills_up_in_the_middle_keeps_what_was_written(project, monkeypatch):
    events = predict_cohort(project, ["s0"], config=CONFIG)
    while type(next(events)).__name__ != "BlockDone":
        pass

    def refuse(_):
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(ProjectError, match="no space left"):
            list(events)
    assert project.maps("s0") == []
    assert not list((project.folder / "maps" / "s0").glob("*.claim"))
    (outcome,) = drain(predict_cohort(project, ["s0"], config=CONFIG))
    assert (outcome.state, outcome.patches, outcome.cells) == ("predicted", 12, 16)


@pytest.fixture
def small_disk(project):
    """The project's maps on a disk of 32 kB; called, it makes the disk larger."""
    folder = project.folder / "maps"
    folder.mkdir(exist_ok=True)

    def mount(options, *where):
        command = ["mount", "-t", "tmpfs", "-o", options, *where, str(folder)]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    if shutil.which("mount") is None or not mount("size=32k", "tmpfs"):
        pytest.skip("no disk can be mounted here")
    yield lambda: mount("remount,size=4m")
    subprocess.run(["umount", str(folder)], check=True)


def test_on_a_disk_that_is_really_full_every_block_is_whole_or_missing(project, small_disk):
    config = replace(CONFIG, block_cells=1)
    with pytest.raises(ProjectError, match="no space left"):
        drain(predict_cohort(project, ["s0"], config=config))
    (path,) = (project.folder / "maps" / "s0").glob("*.ome.zarr")
    begun = map_zarr.read(path, allow_incomplete=True).predicted
    assert 0 < begun.sum() < 16
    assert project.maps("s0") == []
    assert small_disk()
    (outcome,) = drain(predict_cohort(project, ["s0"], config=config))
    assert (outcome.state, outcome.patches, outcome.cells) == ("predicted", 16 - begun.sum(), 16)
    resumed = read_map(path).probabilities
    shutil.rmtree(path)
    drain(predict_cohort(project, ["s0"], config=config))
    np.testing.assert_array_equal(read_map(path).probabilities, resumed)


def test_slides_are_closed_again_unless_they_were_open(project):
    project = Project.open(project.folder)
    project.slide("s1")
    drain(predict_cohort(project, config=CONFIG))
    assert set(project._open) == {"s1"}


def test_named_slides_are_told_of_as_all_are(project, tmp_path):
    for state in ("predicted", "was complete"):
        code, out, _ = call(project, "--slide", "s0", "--report", tmp_path / "r.csv", "--json")
        told = json.loads(out)
        assert (code, told["report"], [one["map"] for one in told["maps"]]) == (
            0,
            str(tmp_path / "r.csv"),
            list(map(str, project.maps("s0"))),
        )
        assert [(one["slide"], one["state"]) for one in told["slides"]] == [("s0", state)]
        (row,) = csv.DictReader((tmp_path / "r.csv").read_text("utf-8").splitlines())
        assert (row["slide"], row["state"]) == ("s0", state)


def test_named_slides_must_be_fit(project):
    cut(project, "s1")
    code, out, err = call(project, "--slide", "s0", "--slide", "s1")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("slidecorr: s1.tif")
    assert project.maps("s0") == [], "nothing was begun"
