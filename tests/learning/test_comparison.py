"""Objectives side by side, on slides small enough to be trained in a second."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from small_project import project_with_cache, small_config
from typer.testing import CliRunner

from napari_slidecorr.cli import app
from napari_slidecorr.comparison import Compared, TrialDone, compare, comparison_settings
from napari_slidecorr.comparison_table import Trial, Variant, summarize, table_text
from napari_slidecorr.config import ScrConfig, SdaConfig
from napari_slidecorr.errors import ConfigError, ProjectError
from napari_slidecorr.events import BatchDone, Notice, drain
from napari_slidecorr.held_out_file import read_held_out, write_held_out
from napari_slidecorr.regions import RegionSet
from napari_slidecorr.run_diagnosis import diagnose_run
from napari_slidecorr.trained_leakage import leakage_by_training, leaky_twin


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    with project_with_cache(tmp_path_factory.mktemp("compared")) as made:
        yield made


def test_a_variant_is_read_from_its_name():
    variant = Variant.parse("SCR+cj+sn")
    config = variant.config(small_config(objective=SdaConfig()), seed=7)
    assert (variant.name, variant.leaky) == ("scr+cj+sn", False)
    assert config.objective == ScrConfig()
    assert (config.colour_jitter, config.stain, config.split, config.seed) == (True, "macenko", "slides", 7)


def test_a_variant_keeps_the_settings_of_its_objective():
    config = Variant.parse("scr").config(small_config(objective=ScrConfig(beta=0.7)), seed=0)
    assert config.objective.beta == 0.7


@pytest.mark.parametrize(
    ("text", "told"), [("scr+sda", "one objective"), ("dann", "no 'dann'"), ("cj+cj", "each part once"), ("", "no ''")]
)
def test_a_variant_that_is_none_is_refused(text, told):
    with pytest.raises(ConfigError, match=told):
        Variant.parse(text)


def trial(variant, seed, auc):
    return Trial(variant, seed, "", 1.0, auc, auc, math.nan, 1.0)


def test_differences_are_paired_by_seed(tmp_path):
    """By hand: differences 0.1, 0.2, 0.3; their mean 0.2, their sd 0.1, the error 0.1 / sqrt 3."""
    trials = [trial("baseline", s, b) for s, b in enumerate((0.5, 0.7, 0.6))]
    trials += [trial("scr", s, b) for s, b in enumerate((0.6, 0.9, 0.9))]
    first, second = summarize(tmp_path, trials, ["baseline", "scr"]).rows
    assert first.mean["patch_auc"] == pytest.approx(0.6)
    assert math.isnan(first.difference["patch_auc"])
    assert math.isnan(first.error["patch_auc"])
    assert second.difference["patch_auc"] == pytest.approx(0.2)
    assert second.error["patch_auc"] == pytest.approx(0.1 / math.sqrt(3))
    assert second.pairs == 3


def test_a_seed_that_is_missing_is_no_pair(tmp_path):
    trials = [trial("baseline", 0, 0.5), trial("baseline", 1, 0.5), trial("scr", 1, 0.6)]
    row = summarize(tmp_path, trials, ["baseline", "scr"]).rows[1]
    assert row.pairs == 1
    assert row.difference["patch_auc"] == pytest.approx(0.1)
    assert math.isnan(row.error["patch_auc"])
    assert "+0.100" in table_text(summarize(tmp_path, trials, ["baseline", "scr"]))


def test_every_variant_holds_the_same_slides_out_and_goes_on_where_it_stopped(project):
    events = compare(project, small_config(), ["baseline", "scr"], seeds=2, name="both")
    for event in events:
        if isinstance(event, TrialDone) and event.done == 3:
            events.close()
            break
    done = list(compare(project, small_config(), ["baseline", "scr"], seeds=2, name="both", resume=True))
    assert not any(isinstance(e, BatchDone) and "baseline, seed 0" in e.phase for e in done)
    assert isinstance(done[-1], Compared)
    result = done[-1].result
    assert [(t.variant, t.seed) for t in result.trials] == [("baseline", 0), ("scr", 0), ("baseline", 1), ("scr", 1)]
    held = {}
    for one in result.trials:
        text = (project.folder / "runs" / one.run / "config.json").read_text("utf-8")
        held.setdefault(one.seed, set()).add(tuple(json.loads(text)["split"]["validation"]))
    assert all(len(sides) == 1 for sides in held.values())
    assert "training slides" in result.warning
    assert all(0 <= t.patch_auc <= 1 and np.isfinite(t.inside_auc) and math.isnan(t.slide_auc) for t in result.trials)
    assert comparison_settings(result.folder) == (small_config(), ("baseline", "scr"), 2, False)
    assert len((result.folder / "comparison.csv").read_text("utf-8").splitlines()) == 5


def test_another_comparison_does_not_go_on_with_it(project, leaky):
    name, variants = leaky.folder.name, ["baseline", "baseline+leaky"]
    with pytest.raises(ProjectError, match="other settings"):
        compare(project, small_config(epochs=2), variants, seeds=1, name=name, resume=True)
    with pytest.raises(ProjectError, match="of that name"):
        compare(project, small_config(), name=name)


@pytest.mark.parametrize(
    "setting", [{"colour_jitter": True}, {"stain": "macenko"}, {"split": "patches"}], ids=lambda one: next(iter(one))
)
def test_what_variants_say_is_no_common_setting(setting, project):
    with pytest.raises(ConfigError, match=r"parts of a variant: .* write scr\+cj, scr\+sn or scr\+leaky"):
        compare(project, small_config(**setting))


def test_a_comparison_does_not_go_on_with_other_regions(tmp_path):
    with project_with_cache(tmp_path) as project:
        events = compare(project, small_config(), ["baseline"], seeds=1, name="one")
        next(events)
        events.close()
        compare(project, small_config(), ["baseline"], seeds=1, name="one", resume=True)
        project.save_regions("s0", RegionSet(tuple(project.regions("s0"))[:1]))
        with pytest.raises(ProjectError, match="one: slides or regions were changed"):
            compare(project, small_config(), ["baseline"], seeds=1, name="one", resume=True)


def test_held_out_figures_are_of_the_very_patches(project, tmp_path):
    table = project.training_plan(small_config()).table
    said = np.full((len(table), 2), 0.5, np.float32)
    write_held_out(tmp_path, table, said)
    assert np.array_equal(read_held_out(tmp_path, table), said)
    with pytest.raises(ProjectError, match=r"held_out\.csv: cannot be read \(its patches lie elsewhere\)"):
        read_held_out(tmp_path, replace(table, x=table.x + 1))


def test_a_comparison_needs_slides_held_out(project):
    with pytest.raises(ConfigError, match="holds slides out"):
        compare(project, small_config(validation_fraction=0.0))
    with pytest.raises(ConfigError, match="once"):
        compare(project, small_config(), ["scr", "scr"])


@pytest.fixture(scope="module")
def leaky(project):
    return drain(compare(project, small_config(), ["baseline", "baseline+leaky"], seeds=1, name="leaky"))


def test_the_leaky_variant_holds_out_patches_of_slides_that_it_trained_on(project, leaky):
    text = (project.folder / "runs" / leaky.trials[1].run / "config.json").read_text("utf-8")
    split = json.loads(text)["split"]
    assert set(split["train"]) == set(split["validation"])
    assert "baseline+leaky: random patches of the same slides held out, so its AUC flatters" in table_text(leaky)


def test_the_leakage_gap_by_training_is_the_difference_of_the_two_held_out_scores(project, leaky):
    careful, careless = (project.folder / "runs" / one.run for one in leaky.trials)
    measure = leakage_by_training(careful, draws=50)
    assert measure.value == pytest.approx(leaky.trials[1].patch_auc - leaky.trials[0].patch_auc)
    assert measure.low <= measure.value <= measure.high
    assert f"{leaky.trials[1].patch_auc:.3f} with patches held out at random" in measure.note
    assert leaky_twin(careless) is None
    assert leakage_by_training(project.folder / "runs" / "both" / "baseline-seed0") is None


def test_a_run_beside_its_leaky_twin_is_diagnosed_with_what_that_promised(project, leaky):
    found = drain(diagnose_run(project, leaky.trials[0].run, device="cpu"))
    assert found.measures["leakage_by_training"].value == pytest.approx(
        leaky.trials[1].patch_auc - leaky.trials[0].patch_auc
    )


def test_a_leaky_run_is_said_to_hold_nothing_out(project, leaky):
    events = list(diagnose_run(project, leaky.trials[1].run, device="cpu"))
    assert any(isinstance(event, Notice) and "leaky split" in event.message for event in events)
    found = events[-1].result
    assert found.verdict.finding == "none"
    assert found.measures["held_out_auc"].value is None
    assert all(slide.seen for slide in found.slides)


def test_what_was_held_out_and_is_damaged_is_told(tmp_path):
    for name in ("baseline-seed0", "baseline+leaky-seed0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "held_out.csv").write_text("slide,y,x,class,p_a,p_b\ns,0,0,c,0.1,0.9\n")
    with pytest.raises(ProjectError, match=r"held_out\.csv: cannot be read .*delete it, and resume"):
        leakage_by_training(tmp_path / "baseline-seed0")


def test_the_command_prints_the_table_and_goes_on_without_options(project):
    options = [
        "--backbone",
        "test_resnet",
        "--weights",
        "random",
        "--epochs",
        "1",
        "--size-px",
        "32",
        "--device",
        "cpu",
    ]
    first = CliRunner().invoke(
        app,
        [
            "compare",
            str(project.folder),
            *options,
            "--variants",
            "baseline,cj",
            "--seeds",
            "1",
            "--name",
            "cli",
            "--json",
        ],
    )
    assert first.exit_code == 0, first.output
    told = json.loads(first.stdout)
    assert [row["variant"] for row in told["rows"]] == ["baseline", "cj"]
    again = CliRunner().invoke(app, ["compare", str(project.folder), "--resume", "--name", "cli"])
    assert again.exit_code == 0, again.output
    assert "difference of patch auc" in again.stdout
    wrong = CliRunner().invoke(app, ["compare", str(project.folder), "--variants", "dann"])
    assert wrong.exit_code == 2
