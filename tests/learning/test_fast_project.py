"""The fast way as a user has it: real slide files, real commands."""

import json
from dataclasses import replace

import numpy as np
import pytest
from small_project import small_config
from typer.testing import CliRunner

from napari_slidecorr.backbone_table import BACKBONES
from napari_slidecorr.cli import app
from napari_slidecorr.config import PatchConfig
from napari_slidecorr.diagnosis_report import taken_on
from napari_slidecorr.errors import CohortError, ProjectError, TrainingError
from napari_slidecorr.events import drain
from napari_slidecorr.fast_config import FastConfig
from napari_slidecorr.fast_project import fast_train, fill_features, labelled_slides
from napari_slidecorr.io import read_map, write_regions
from napari_slidecorr.learning.extractor import Extractor
from napari_slidecorr.learning.features import FeaturesDone
from napari_slidecorr.project import Project
from napari_slidecorr.run_diagnosis import diagnose_run
from napari_slidecorr.sample_data import make_cohort

QUICK = ["--backbone", "test_resnet", "--weights", "random", "--size-px", "32", "--device", "cpu"]
CONFIG = FastConfig(backbone="test_resnet", weights="random", patches=PatchConfig(size_px=32), device="cpu")
SHORT = small_config(patches=PatchConfig(size_px=32))


def call_json(*arguments):
    outcome = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return json.loads(outcome.stdout)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    *_, made = make_cohort(tmp_path_factory.mktemp("slides"), slides=4, size_px=512)
    return made.result


@pytest.fixture
def project(tmp_path, cohort, monkeypatch):
    monkeypatch.setenv("SLIDECORR_CACHE_DIR", str(tmp_path / "cache"))
    made = Project.create(tmp_path / "study", ("tumour",))
    for slide in cohort:
        (known,) = made.add_slides([slide.path])
        write_regions(tmp_path / "regions.geojson", slide.regions)
        made.import_regions(known.id, tmp_path / "regions.geojson")
    return made


def test_features_then_a_head_then_a_map(project, monkeypatch):
    first = call_json("features", project.folder, *QUICK)
    assert set(first["patches"]) == {slide.id for slide in project.cohort}
    assert all(first["patches"].values())
    assert first["cache"]["slides"] == 4
    with monkeypatch.context() as patch:
        patch.setattr(Extractor, "features", lambda *_: pytest.fail("computed again"))
        assert call_json("features", project.folder, *QUICK) == first
    run = call_json("fast-train", project.folder, *QUICK, "--penalty", 0.1)
    assert run["run"].endswith("fast-test_resnet-001")
    assert run["validation_auc"] > 0.6
    chosen = project.cohort[0].id
    (made,) = call_json("predict", project.folder, "--slide", chosen, "--device", "cpu")["maps"]
    assert np.isfinite(read_map(made["map"]).probabilities).any()
    assert call_json("info", project.folder)["runs"]


def test_a_head_is_diagnosed_by_what_its_siblings_said_of_slides_they_had_not_seen(project):
    trained = drain(fast_train(project, CONFIG, name="judged"))
    found = drain(diagnose_run(project, "judged", device="cpu"))
    told = found.measures
    assert told["training_auc"].value == pytest.approx(trained.epochs[0].train_auc, abs=1e-3)
    assert told["held_out_auc"].value == pytest.approx(trained.epochs[0].validation_auc, abs=1e-6)
    lost = trained.epochs[0].train_auc - trained.epochs[0].validation_auc
    assert told["generalization_gap"].value == pytest.approx(lost, abs=1e-3)
    assert told["held_out_auc"].n_slides == 4
    assert not any(finding.seen for finding in found.slides)
    assert "each held out in turn" in taken_on(found)
    assert "4 slides are too few" in found.verdict.text


def test_a_head_that_centres_is_diagnosed_on_centred_features(project):
    trained = drain(fast_train(project, replace(CONFIG, centring=0.5), name="centred"))
    told = drain(diagnose_run(project, "centred", device="cpu")).measures
    assert told["training_auc"].value == pytest.approx(trained.epochs[0].train_auc, abs=1e-3)


def test_a_head_whose_held_out_figures_are_damaged_is_refused(project):
    drain(fast_train(project, CONFIG, name="damaged"))
    path = project.folder / "runs" / "damaged" / "held_out.csv"
    whole = path.read_text("utf-8")
    path.write_text(whole.replace("p_tumour", "p_other"), "utf-8")
    with pytest.raises(ProjectError, match=r"held_out\.csv: .*its columns are"):
        drain(diagnose_run(project, "damaged", device="cpu"))
    path.unlink()  # an older version wrote none
    assert drain(diagnose_run(project, "damaged", device="cpu")).measures["held_out_auc"].value is None


def test_remedies_are_told_as_json(project):
    told = call_json("remedies", project.folder, *QUICK, "--no-adapters")
    assert told["rows"][0]["gain"] == 0
    assert {"centring 0.5", "projection 4", "penalty 0.1"} <= {row["name"] for row in told["rows"]}
    assert told["proposal"] is None  # four slides are too few
    assert told["warning"]


def test_backbones_are_told_with_their_terms():
    told = call_json("backbones")["backbones"]
    assert [known["name"] for known in told] == [known.name for known in BACKBONES]
    assert all(known["licence"] and known["page"].startswith("https://huggingface.co/") for known in told)


def test_runs_have_names_of_their_own(project):
    with pytest.raises(ProjectError, match="cannot be named"):
        fast_train(project, CONFIG, name="../x")
    drain(fast_train(project, CONFIG, name="mine"))
    with pytest.raises(ProjectError, match="of that name already"):
        fast_train(project, CONFIG, name="mine")
    assert [run.name for run in project.runs()] == ["mine"]


def test_features_take_no_settings_of_the_head(project):
    outcome = CliRunner().invoke(app, ["features", str(project.folder), *QUICK, "--centring", "0.5"])
    assert (outcome.exit_code, "No such option" in outcome.output) == (2, True)


def test_two_at_once_get_a_folder_each(project):
    trainings = [fast_train(project, CONFIG), fast_train(project, CONFIG), project.train(SHORT), project.train(SHORT)]
    for events in trainings:
        next(event for event in events if event.phase.startswith("Making"))
    with pytest.raises(TrainingError, match=r"ce-test_resnet-001: it is being trained by another program \(process"):
        drain(project.train(SHORT, name="ce-test_resnet-001"))
    with pytest.raises(ProjectError, match="nothing to resume"):
        project.train(SHORT, resume=True)
    for events in trainings:
        drain(events)
    names = [f"{kind}-test_resnet-{number}" for kind in ("fast", "ce") for number in ("001", "002")]
    assert [run.name for run in project.runs()] == names


def test_a_project_without_regions_is_told(tmp_path, cohort):
    empty = Project.create(tmp_path / "empty", ("tumour", "stroma"))
    empty.add_slides([cohort[0].path])
    with pytest.raises(CohortError, match="no regions yet"):
        labelled_slides(empty)


def test_some_slides_can_be_filled(project):
    chosen = project.cohort[1].id
    events = list(fill_features(project, CONFIG, [chosen]))
    assert [event.result.slide_id for event in events if isinstance(event, FeaturesDone)] == [chosen]
    with pytest.raises(ProjectError, match="no slide 'x'"):
        fill_features(project, CONFIG, ["x"])
