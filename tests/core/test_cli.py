"""The command line as a user has it: real files, real commands, in one process unless a signal is needed."""

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import typer
from typer.testing import CliRunner

from napari_slidecorr import demo
from napari_slidecorr.cli import app
from napari_slidecorr.cli_output import print_result, told_in_one_sentence
from napari_slidecorr.config import PatchConfig, TrainConfig
from napari_slidecorr.io import read_map, write_regions
from napari_slidecorr.regions import RegionSet
from napari_slidecorr.sample_data import COHORTS, make_cohort

QUICK = ["--backbone", "test_resnet", "--weights", "random", "--size-px", "32", "--seed", "1", "--device", "cpu"]


def call(*arguments):
    """Run a command that must succeed and give what it printed."""
    outcome = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


def call_json(*arguments):
    return json.loads(call(*arguments, "--json"))


def fails(*arguments):
    """Run a command that must refuse its input: exit code 2, nothing on stdout, one line on stderr, no traceback."""
    outcome = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith("slidecorr: ")
    (line,) = outcome.stderr.splitlines()
    return line


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Four small slides, and beside each a GeoJSON file of the same name with its drawn regions."""
    folder = tmp_path_factory.mktemp("slides")
    *_, made = make_cohort(folder, slides=4, size_px=512)
    for slide in made.result:
        write_regions(slide.path.with_suffix(".geojson"), slide.regions)
    return made.result


@pytest.fixture
def project(tmp_path, cohort):
    """A project with the slides and regions of the cohort, made on the command line."""
    folder = tmp_path / "study"
    call("new", folder, "--class", "tumour")
    call("add", folder, *(slide.path for slide in cohort))
    for slide in cohort:
        call("regions", "import", folder, slide.path.with_suffix(".geojson"))
    return folder


def test_pixel_size_and_patient_of_a_slide_can_be_set(project, cohort):
    first = cohort[0].id
    assert [slide["mpp_source"] == "user" for slide in call_json("info", project)["slides"]] == [False] * 4
    told = call_json("set", project, first, "--mpp", 0.25, "--group", "patient 9")
    assert (told["slide"]["mpp"], told["slide"]["group"]) == ([0.25, 0.25], "patient 9")
    known = call_json("info", project)["slides"][0]
    assert (known["mpp"], known["mpp_source"], known["group"]) == ([0.25, 0.25], "user", "patient 9")
    assert "Nothing to set" in fails("set", project, first)
    assert "no-such" in fails("set", project, "no-such", "--mpp", 1)


def test_a_slide_that_went_away_is_told_beside_the_others(project, cohort, tmp_path):
    gone = tmp_path / "gone.tif"
    gone.write_bytes(cohort[0].path.read_bytes())
    call("add", project, gone)
    gone.unlink()
    *others, missing = call_json("info", project)["slides"]
    assert "is missing" in missing["problem"]
    assert all(slide["mpp"] for slide in others)


def test_new_says_what_comes_next(tmp_path):
    assert "slidecorr add" in call("new", tmp_path / "a", "--class", "tumour", "--class", "stroma")
    facts = call_json("info", tmp_path / "a")
    assert (facts["kind"], facts["classes"], facts["slides"]) == ("project", ["tumour", "stroma"], [])


def test_slides_are_added_with_group_and_mpp(tmp_path, cohort):
    call("new", tmp_path / "a")
    told = call_json("add", tmp_path / "a", *(s.path for s in cohort[:2]), "--group", "patient 1", "--mpp", 0.3)
    assert [slide["id"] for slide in told["slides"]] == [slide.id for slide in cohort[:2]]
    for slide in call_json("info", tmp_path / "a")["slides"]:
        assert (slide["group"], slide["mpp"]) == ("patient 1", [0.3, 0.3])


def test_regions_go_to_the_slide_of_the_same_name(project, cohort):
    slides = call_json("info", project)["slides"]
    for told, slide in zip(slides, cohort, strict=True):
        counts = {name: facts["regions"] for name, facts in told["regions"].items()}
        assert counts == {name: len(slide.regions.of_class(name)) for name in slide.regions.classes}
        assert counts


def test_regions_go_where_one_says(tmp_path, project, cohort):
    other = tmp_path / "somewhere else.geojson"
    write_regions(other, RegionSet(tuple(cohort[0].regions)[:1]))
    assert cohort[0].id in (line := fails("regions", "import", project, other))
    assert "somewhere else" in line
    assert "--slide" in line
    told = call_json("regions", "import", project, other, "--slide", cohort[1].id)
    assert (told["slide"], told["regions"], sum(told["by_class"].values())) == (cohort[1].id, 1, 1)


def test_info_of_a_slide(cohort):
    facts = call_json("info", cohort[0].path)
    assert (facts["kind"], facts["shape"], facts["mpp"]) == ("slide", [512, 512], pytest.approx([0.5, 0.5], rel=1e-3))
    assert facts["levels"][0]["downsample"] == [1, 1]
    assert "512 x 512" in call("info", cohort[0].path)


def test_info_of_regions(cohort):
    facts = call_json("info", cohort[0].path.with_suffix(".geojson"))
    assert (facts["kind"], facts["regions"]) == ("regions", len(cohort[0].regions))
    assert set(facts["classes"]) == set(cohort[0].regions.classes)


@pytest.mark.parametrize("folder", ["slides", "derived", "broken", "annotations"])
def test_info_of_any_file_is_facts_or_one_sentence(shared_data, folder):
    """Files of many programs, damaged ones and ones that are nothing of ours: never a traceback."""
    paths = sorted((shared_data / folder).iterdir())
    assert paths
    for path in paths:
        outcome = CliRunner().invoke(app, ["info", str(path), "--json"], catch_exceptions=False)
        if outcome.exit_code == 0:
            assert json.loads(outcome.stdout)["kind"] in {"slide", "regions"}
        else:
            (line,) = outcome.stderr.splitlines()
            assert (outcome.exit_code, outcome.stdout) == (2, ""), path
            assert path.name in line


@pytest.mark.slow
def test_from_regions_to_an_exported_map(tmp_path, project, cohort):
    run = call_json("train", project, *QUICK, "--epochs", 2, "--name", "first", "--beta", 0.1)
    assert [epoch["epoch"] for epoch in run["epochs"]] in ([0, 1], [1, 2])
    model = call_json("info", run["model"])
    assert model["kind"] == "model"
    assert (model["objective"]["kind"], model["objective"]["beta"]) == ("scr", 0.1)

    (made,) = call_json("predict", project, "--slide", cohort[0].id, "--run", "first", "--device", "cpu")["maps"]
    assert sum(made["score"].values()) == pytest.approx(1)
    assert call_json("info", made["map"])["cells"]["predicted"] == made["cells"] > 0

    assert "keeps all probabilities" in fails("export", project, tmp_path / "a.ome.tif", "--threshold", 0.5)
    assert "has no outlines" in fails("export", project, tmp_path / "a.tiles.geojson", "--smooth-um", 5)
    zarr, geojson = tmp_path / "out.ome.zarr", tmp_path / "out.geojson"
    call("export", project, zarr)
    call("export", made["map"], geojson)
    assert (read_map(zarr).probabilities == read_map(made["map"]).probabilities).sum() == made["cells"] * 3
    found = json.loads(geojson.read_text())["features"]
    assert {feature["properties"]["classification"]["name"] for feature in found} <= set(model["classes"])


@pytest.mark.slow
def test_ctrl_c_stops_in_order_and_resume_goes_on_with_the_runs_own_settings(project):
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a background job ignores it
    command = [sys.executable, "-c", f"{heeding}; from napari_slidecorr.cli import main; main()"]
    arguments = ["train", str(project), *QUICK, "--name", "long", "--epochs", "6"]
    child = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in child.stderr:
        if line.startswith("Epoch 1:"):
            child.send_signal(signal.SIGINT)
            break
    out, rest = child.communicate(timeout=60)
    assert (child.returncode, out) == (130, "")
    assert rest.splitlines()[-1].startswith("slidecorr: Stopped")
    assert "Traceback" not in rest
    assert not list(project.rglob("*.part"))
    assert not (project / "runs" / "long" / "model.json").exists()

    assert "epochs: 6 then, 7 now" in fails(*arguments[:-1], "7", "--resume")
    assert "epochs: 6 then, 10 now" in fails("train", project, "--resume", "--epochs", TrainConfig().epochs)
    outcome = CliRunner().invoke(app, ["train", str(project), "--resume", "--epochs", "6"], catch_exceptions=False)
    assert "Resuming after epoch" in outcome.stderr
    assert "after 6 epoch" in outcome.stdout
    assert (project / "runs" / "long" / "model.json").exists()


@pytest.mark.slow
def test_the_demo_prints_its_table(tmp_path, monkeypatch):
    quick = replace(demo.DEMO_CONFIG, epochs=1, patches=PatchConfig(size_px=32, mpp=0.5))
    monkeypatch.setattr(demo, "run_demo", partial(demo.run_demo, slides=4, size_px=512, config=quick))
    text = call("demo", "--out", tmp_path / "out")
    assert "held-out AUC" in text
    assert [line.split()[0] for line in text.splitlines()[1:3]] == ["Baseline", "SCR"]
    told = call_json("demo", "--out", tmp_path / "out")
    assert [row["objective"] for row in told["rows"]] == ["Baseline", "SCR"]
    for row, line in zip(told["rows"], text.splitlines()[1:3], strict=True):
        assert f"{row['train_auc']:.3f}" in line, "the second run gives the same numbers"
    for path in (told["summary"], told["project"], *told["maps"]):
        assert os.path.exists(path)  # noqa: PTH110


def test_the_demo_offers_every_cohort():
    help_text = call("demo", "--help")
    for kind in COHORTS:
        assert kind in help_text
    assert CliRunner().invoke(app, ["demo", "--out", "x", "--kind", "other"]).exit_code == 2


BAD_SLIDES = {
    "not a slide": ("notes.svs", b"these are notes, not a slide"),
    "empty": ("empty.svs", b""),
    "LFS pointer": ("pointer.svs", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
    "unknown kind": ("slide.docx", b"PK"),
    "truncated": ("cut.tif", None),
}


@pytest.mark.parametrize("kind", BAD_SLIDES)
@pytest.mark.parametrize("command", ["info", "add"])
def test_a_bad_slide_is_named(tmp_path, cohort, kind, command):
    name, content = BAD_SLIDES[kind]
    path = tmp_path / name
    path.write_bytes(cohort[0].path.read_bytes()[:5000] if content is None else content)
    call("new", tmp_path / "study")
    before = (tmp_path / "study" / "project.json").read_bytes()
    line = fails(command, path) if command == "info" else fails(command, tmp_path / "study", path)
    assert name in line
    assert (tmp_path / "study" / "project.json").read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["info", "{tmp}/nothing.svs"], id="info"),
        pytest.param(["add", "{tmp}/nothing", "{slide}"], id="add"),
        pytest.param(["train", "{tmp}/nothing"], id="train"),
        pytest.param(["predict", "{tmp}/nothing"], id="predict"),
        pytest.param(["export", "{tmp}/nothing", "{tmp}/out.geojson"], id="export"),
        pytest.param(["regions", "import", "{tmp}/nothing", "{slide}"], id="regions import"),
    ],
)
def test_what_is_not_there_is_named(tmp_path, cohort, arguments):
    assert "nothing" in fails(*(part.format(tmp=tmp_path, slide=cohort[0].path) for part in arguments))


def test_training_needs_regions(tmp_path, cohort):
    call("new", tmp_path / "study")
    call("add", tmp_path / "study", *(slide.path for slide in cohort))
    assert "region" in fails("train", tmp_path / "study", *QUICK)
    assert not (tmp_path / "study" / "runs").exists()


def test_training_needs_each_class_on_two_slides(tmp_path, cohort):
    call("new", tmp_path / "study")
    call("add", tmp_path / "study", *(slide.path for slide in cohort[:2]))
    call("regions", "import", tmp_path / "study", cohort[0].path.with_suffix(".geojson"))
    line = fails("train", tmp_path / "study", *QUICK)
    assert cohort[0].id in line
    assert "second" in line


def test_training_needs_the_pixel_size_it_is_told_to_use(tmp_path, shared_data):
    slide = shared_data / "slides" / "TCGA-CR-7395-01A-01-TS1.svs"
    call("new", tmp_path / "study")
    call("add", tmp_path / "study", slide)
    regions = os.path.join(os.path.dirname(__file__), "..", "data", "TCGA-CR-7395-01A-01-TS1.geojson")  # noqa: PTH118, PTH120
    call("regions", "import", tmp_path / "study", regions)
    assert "mpp" in fails("train", tmp_path / "study", *QUICK)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["train", "--objective", "ce", "--beta", "0.2"], ["--beta", "ce"], id="beta without scr"),
        pytest.param(["train", "--epochs", "0"], ["epochs", "0", "at least 1"], id="no epoch"),
        pytest.param(["train", *QUICK, "--name", "../x"], ["../x"], id="a run outside"),
        pytest.param(["train", *QUICK, "--resume"], ["resume"], id="nothing to resume"),
        pytest.param(["predict", "--run", "best"], ["best", "none yet"], id="no such run"),
        pytest.param(["predict"], ["train"], id="no run at all"),
        pytest.param(["predict", "--overlap", "1"], ["overlap", "below 1"], id="overlap of 1"),
        pytest.param(["export", "out.geojson"], ["no map", "predict"], id="no map"),
        pytest.param(["export", "out.geojson", "--slide", "x"], ["'x'"], id="no such slide"),
    ],
)
def test_a_mistake_is_told(project, arguments, words):
    command, *rest = arguments
    line = fails(command, project, *rest)
    for word in words:
        assert word in line


def test_a_project_is_not_made_twice(project):
    assert "already" in fails("new", project)


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert "file" in fails("new", tmp_path / "file" / "study")


def outcome_of(error):
    little = typer.Typer()

    @little.command()
    @told_in_one_sentence
    def command() -> None:
        raise error

    return CliRunner().invoke(little, [])


def test_a_full_disk_is_told():
    outcome = outcome_of(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/model.safetensors"))
    assert outcome.exit_code == 2
    assert outcome.stderr.startswith("slidecorr: /data/model.safetensors: No space left")


def test_a_bug_keeps_its_traceback():
    bug = ZeroDivisionError("division by zero")
    outcome = outcome_of(bug)
    assert (outcome.exit_code, outcome.exception) == (1, bug)


def test_json_has_no_nan(capsys):
    print_result({"auc": float("nan"), "loss": [1.5, float("inf")]}, "text", json=True)
    assert json.loads(capsys.readouterr().out) == {"auc": None, "loss": [1.5, None]}
