"""A finished run is diagnosed: features, measures, verdict, report."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from small_project import project_with_cache, small_config
from typer.testing import CliRunner

from napari_slidecorr.cli import app
from napari_slidecorr.diagnosis_report import TITLES, told, write_report
from napari_slidecorr.diagnostics import panel
from napari_slidecorr.diagnostics.diagnosis import Diagnosis
from napari_slidecorr.diagnostics.feature_table import Measure
from napari_slidecorr.diagnostics.verdict import verdict
from napari_slidecorr.errors import CohortError, ModelError, ProjectError, SlideError
from napari_slidecorr.events import Notice, drain
from napari_slidecorr.learning.diagnosing import MeasureTaken, start_of
from napari_slidecorr.learning.leakage import leakage_gap
from napari_slidecorr.learning.models import save_model
from napari_slidecorr.project import Project
from napari_slidecorr.regions import RegionSet
from napari_slidecorr.run_diagnosis import diagnose_run


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    with project_with_cache(tmp_path_factory.mktemp("diagnosed"), slides=6, side=256) as made:
        drain(made.train(small_config(epochs=2), name="one"))
        yield made


@pytest.fixture(scope="module")
def events(project):
    return list(diagnose_run(project, "one"))


def test_every_measure_is_taken_and_told(events):
    taken = [event.measure.name for event in events if isinstance(event, MeasureTaken)]
    assert len(taken) == panel.COUNT + 2
    assert set(taken) == set(TITLES) - {"leakage_by_training"}  # which needs a twin
    measures = events[-1].result.measures
    assert measures["slide_probe"].value is not None
    assert measures["robustness_index"].value is not None
    assert measures["robustness_index_group"].value is None
    assert "random weights" in measures["leakage_gap"].reason


def test_what_the_head_saw_is_what_is_measured(project, events):
    """The training AUC of the diagnosis is that of the model's own probabilities on those patches."""
    from napari_slidecorr.learning.held_out_patches import predict_patches
    from napari_slidecorr.metrics import patch_auc

    run = project.folder / "runs" / "one"
    config = small_config(epochs=2)
    diagnosis = events[-1].result
    held = json.loads((run / "config.json").read_text("utf-8"))["split"]["validation"]
    table = project.patch_table(config.patches).of_slides(held)
    work = predict_patches(run, table, {slide: project.slide(slide) for slide in held}, config)
    while True:
        try:
            next(work)
        except StopIteration as end:
            probabilities = end.value
            break
    assert diagnosis.measures["held_out_auc"].value == pytest.approx(patch_auc(table.label, probabilities), abs=2e-3)


def test_a_diagnosis_is_kept_beside_the_model(project, events):
    assert Diagnosis.load(project.folder / "runs" / "one") == events[-1].result
    assert Diagnosis.load(project.folder / "runs") is None


def test_a_damaged_diagnosis_is_told(tmp_path):
    (tmp_path / "diagnosis.json").write_text("{")
    with pytest.raises(ModelError, match=r"diagnosis\.json"):
        Diagnosis.load(tmp_path)


def test_the_worst_patch_of_a_slide_lies_on_it(project, events):
    for finding in events[-1].result.slides:
        rows, columns = project.slide(finding.score.slide).shape
        assert 0 <= finding.worst.y <= rows - finding.worst.height
        assert 0 <= finding.worst.x <= columns - finding.worst.width
    assert [finding.seen for finding in events[-1].result.slides] == sorted(f.seen for f in events[-1].result.slides)


def test_the_command_writes_one_page_pictures_and_figures(project, tmp_path):
    run = project.folder / "runs" / "one"
    done = CliRunner().invoke(app, ["diagnose", str(run), "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    for name in ("slide_probe", "within_class_probe", "same_slide_correlation", "robustness_index", "leakage_gap"):
        assert {"value", "n_slides"} <= set(figures[name])
        assert figures[name]["value"] is not None or figures[name]["reason"]
    assert figures["chance"] == pytest.approx(1 / 6)
    assert figures["n_slides"] == 6
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert page.count("data:image/png") >= 5
    assert (tmp_path / "out" / "one-likeness.png").stat().st_size > 1000


def test_a_report_does_not_replace_what_a_run_keeps(project):
    run = project.folder / "runs" / "one"
    done = CliRunner().invoke(app, ["diagnose", str(run), "--out", str(run)])
    assert done.exit_code == 2
    assert "one: this is a run's folder" in done.stderr.splitlines()[-1]
    assert not (run / "report.html").exists()


def test_a_run_of_another_project_is_refused(project, tmp_path):
    other = Project.create(tmp_path / "other", project.classes)
    with pytest.raises(CohortError, match="none of the slides"):
        diagnose_run(other, project.folder / "runs" / "one")
    with pytest.raises(ProjectError, match="no finished run"):
        diagnose_run(project, "two")
    lost = CliRunner().invoke(app, ["diagnose", str(tmp_path / "nowhere")])
    assert lost.exit_code == 2
    assert "lies in no project" in lost.output


# -- patches that are not those of the training --------------------------------------------------------------------------


@pytest.fixture
def changed(project, tmp_path, monkeypatch):
    """A copy of the project, to be damaged."""
    monkeypatch.setenv("SLIDECORR_CACHE_DIR", str(tmp_path / "cache"))
    shutil.copytree(project.folder, tmp_path / "project")
    return Project.open(tmp_path / "project")


def sides(project):
    split = json.loads((project.folder / "runs" / "one" / "config.json").read_text("utf-8"))["split"]
    return split["train"], split["validation"]


def notices(project):
    """What is said before the first measure."""
    found = []
    for event in diagnose_run(project, "one", device="cpu"):
        if isinstance(event, Notice):
            found.append(event.message)
        if isinstance(event, MeasureTaken):
            return found
    raise AssertionError("no measure was taken")


def only(project, slide, *classes):
    """Leave the regions of some classes on a slide."""
    kept = [region for region in project.regions(slide).regions if region.class_name in classes]
    project.save_regions(slide, RegionSet(tuple(kept)))


def test_patches_of_the_training_are_nothing_to_talk_about(changed):
    assert notices(changed) == []


def test_a_slide_that_was_taken_out_is_named(changed):
    gone = sides(changed)[1][0]
    changed.remove_slide(gone)
    assert notices(changed) == [f"{gone}: no longer in the project or without regions, so not looked at."]


def test_regions_that_were_drawn_anew_are_told(changed):
    only(changed, sides(changed)[1][0], changed.classes[0])
    (told,) = notices(changed)
    assert "regions have changed since it was trained" in told


def test_a_slide_file_that_was_moved_is_told_with_its_name(changed, tmp_path):
    path = changed.slide(sides(changed)[0][0]).path
    path.rename(tmp_path / path.name)
    try:
        with pytest.raises(SlideError, match=path.name):
            drain(diagnose_run(changed, "one", device="cpu"))
    finally:
        (tmp_path / path.name).rename(path)


def test_training_slides_without_any_region_are_told(changed):
    for slide in sides(changed)[0]:
        only(changed, slide)
    with pytest.raises(CohortError, match="its training slides have no patches any more"):
        drain(diagnose_run(changed, "one", device="cpu"))


def test_regions_of_one_class_carry_no_verdict(changed):
    for slide in changed.cohort:
        only(changed, slide.id, changed.classes[0])
    found = drain(diagnose_run(changed, "one", device="cpu"))
    assert found.verdict.finding == "none"
    for name in ("training_auc", "generalization_gap", "robustness_index", "average_performance_drop"):
        assert found.measures[name].value is None
        assert found.measures[name].reason
    assert "one class" in found.verdict.text
    assert found.measures["slide_probe"].value is not None
    write_report(changed.folder / "report", [found], {})


def test_one_slide_carries_no_verdict(changed):
    first = sides(changed)[0][0]
    for slide in list(changed.cohort):
        if slide.id != first:
            changed.remove_slide(slide.id)
    found = drain(diagnose_run(changed, "one", device="cpu"))
    assert found.verdict.text.startswith("No verdict. One slide is too few")
    assert found.measures["slide_probe"].value is None
    write_report(changed.folder / "report", [found], {})


def test_a_model_of_weights_that_are_no_numbers_is_told(changed):
    model, spec = changed.load_model(changed.folder / "runs" / "one")
    with torch.no_grad():
        next(model.backbone.parameters()).fill_(float("nan"))
    save_model(changed.folder / "runs" / "one", model, spec)
    with pytest.raises(ModelError, match=r"gives features that are no finite numbers for patch .*Choose other weights"):
        drain(diagnose_run(changed, "one", device="cpu"))


def test_the_leakage_gap_is_of_as_many_patches_as_were_asked_for(changed, monkeypatch):
    start = start_of(changed.load_model(changed.folder / "runs" / "one")[1], "random", seed=0)
    monkeypatch.setattr("napari_slidecorr.run_diagnosis._start", lambda *_: (start, ""))
    found = drain(diagnose_run(changed, "one", device="cpu", per_slide=20))
    assert found.measures["leakage_gap"].n_patches == 20 * len(changed.cohort)


def test_runs_of_two_projects_are_not_put_beside_each_other(project, changed):
    runs = [str(one.folder / "runs" / "one") for one in (project, changed)]
    done = CliRunner().invoke(app, ["diagnose", *runs])
    assert done.exit_code == 2
    assert "a run of another project" in done.output


# -- the leakage gap ----------------------------------------------------------------------------------------------------


def features_of(slides, *, tied, seed=0):
    rng = np.random.default_rng(seed)
    index = np.repeat(np.arange(slides), 30).astype(np.int32)
    label = (index % 2).astype(np.int16) if tied else rng.integers(0, 2, len(index)).astype(np.int16)
    stain = rng.normal(size=(slides, 16))
    return (stain[index] + 0.3 * rng.normal(size=(len(index), 16))).astype(np.float32), label, index


def test_a_careless_split_flatters_where_each_slide_has_one_class():
    features, label, index = features_of(12, tied=True)
    measure = leakage_gap(features, label, index, [f"p{i}" for i in range(12)], 2)
    assert measure.value > 0.2
    assert measure.low > 0
    assert "0.9" in measure.note or "1.000" in measure.note


def test_a_careless_split_gains_nothing_where_classes_lie_on_every_slide():
    features, label, index = features_of(12, tied=False)
    measure = leakage_gap(features, label, index, [f"p{i}" for i in range(12)], 2)
    assert measure.low < 0.05


def test_the_leakage_gap_needs_five_patients():
    features, label, index = features_of(12, tied=True)
    measure = leakage_gap(features, label, index, [f"p{i // 3}" for i in range(12)], 2)
    assert measure.value is None
    assert "5 patients" in measure.reason


@pytest.mark.parametrize(
    ("classes", "reason"),
    [([0, 1, 2, 3, 4, 5], "No slide can be held out"), ([0, 0, 0, 0, 0, 1], "can be held out have one class")],
)
def test_the_leakage_gap_is_undefined_where_slides_cannot_be_held_out(classes, reason):
    features, _, index = features_of(6, tied=True)
    label = np.asarray(classes, np.int16)[index]
    measure = leakage_gap(features, label, index, [f"p{i}" for i in range(6)], max(classes) + 1)
    assert measure.value is None
    assert reason in measure.reason
    assert (measure.n_slides, measure.n_patches) == (6, len(index))


# -- the verdict --------------------------------------------------------------------------------------------------------


def found(gap, low, high, *, slides=6, **others):
    gap_measure = Measure("generalization_gap", gap, low, high, 0.0, n_slides=slides, n_patches=500)
    probe = Measure("slide_probe", 0.87, 0.8, 0.9, 0.12, 0.05, 0.2, n_slides=8, n_patches=900)
    return verdict({"generalization_gap": gap_measure, "slide_probe": probe, **others})


def test_a_model_that_loses_on_new_slides_is_called_out_in_plain_words():
    said = found(0.14, 0.08, 0.2)
    assert said.finding == "slide"
    assert "loses 0.14 AUC" in said.text
    assert "name the slide in 87 of 100 patches; chance is 12" in said.text


def test_nothing_is_told_as_nought_and_not_as_less_than_nothing():
    assert "(between 0.00 and 0.11)" in found(0.05, -0.001, 0.11).text


def test_a_model_that_loses_nothing_is_not_called_out_for_features_that_name_the_slide():
    said = found(0.003, -0.01, 0.02)
    assert said.finding == "tissue"
    assert "No problem here" in said.text


def test_slides_of_one_class_each_can_be_blamed_and_never_be_cleared():
    gap = Measure("generalization_gap", 0.0, -0.01, 0.01, 0.0, n_slides=6, n_patches=500)
    said = verdict({"generalization_gap": gap}, one_class_a_slide=True)
    assert said.finding == "none"
    assert "Label two classes" in said.text
    lost = dataclasses.replace(gap, value=0.2, low=0.1, high=0.3)
    assert verdict({"generalization_gap": lost}, one_class_a_slide=True).finding == "slide"


@pytest.mark.parametrize(("high", "finding"), [(0.019, "unclear"), (0.021, "slide")])
def test_the_slide_is_not_blamed_for_a_loss_where_knowing_it_would_hardly_help(high, finding):
    leak = Measure("leakage_gap", 0.005, -0.004, high, 0.0, n_slides=64, n_patches=1000)
    said = found(0.08, 0.02, 0.14, leakage_gap=leak)
    assert said.finding == finding
    assert ("promise 0.005 AUC more" in said.text) == (finding == "unclear")
    lost = Measure("generalization_gap", 0.08, 0.02, 0.14, 0.0, n_slides=6, n_patches=500)
    tied = verdict({"generalization_gap": lost, "leakage_gap": leak}, one_class_a_slide=True)
    assert tied.finding == "slide"  # where class and slide go together a careless split promises nothing more


def test_features_that_take_the_slide_for_the_class_are_blamed_all_the_same():
    leak = Measure("leakage_gap", 0.005, -0.004, 0.01, 0.0, n_slides=64, n_patches=1000)
    drop = Measure("average_performance_drop", -0.3, -0.4, -0.2, 0.0, n_slides=6, n_patches=500)
    assert found(0.08, 0.02, 0.14, leakage_gap=leak, average_performance_drop=drop).finding == "slide"


def test_wide_intervals_leave_it_open():
    assert found(0.04, -0.1, 0.3, slides=2).finding == "unclear"
    assert "make that wide" in found(0.04, -0.1, 0.3, slides=2).text


def test_a_model_that_has_learnt_nothing_is_not_praised():
    nothing_lost = Measure("generalization_gap", 0.0, -0.05, 0.05, 0.0, n_slides=20)
    guesses = Measure("training_auc", 0.52, n_slides=20)
    said = verdict({"generalization_gap": nothing_lost, "training_auc": guesses})
    assert (said.finding, said.advice) == ("none", "")
    assert "AUC 0.52" in said.sentences[1]
    knows = Measure("training_auc", 0.7, n_slides=20)
    assert verdict({"generalization_gap": nothing_lost, "training_auc": knows}).finding == "tissue"


def test_few_slides_carry_no_verdict():
    few = Measure("generalization_gap", 0.2, 0.1, 0.3, n_slides=2, n_patches=50)
    said = verdict({"generalization_gap": few})
    assert said.finding == "none"
    assert "at least 5" in said.text
    held_nothing = dataclasses.replace(
        few, value=None, low=None, high=None, n_slides=9, reason="No slide was held out."
    )
    assert "No slide was held out" in verdict({"generalization_gap": held_nothing}).text


def test_a_measure_is_told_in_one_line():
    assert told(Measure("x", 0.5, 0.4, 0.6, 0.1, n_slides=3, n_patches=9)) == (
        "0.500 (0.400 to 0.600), chance 0.100; 3 slides, 9 patches"
    )
    assert told(Measure.undefined("x", "No slides.")) == "- (No slides.)"
