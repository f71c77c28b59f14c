import csv
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_slidecorr import PatchConfig
from napari_slidecorr.fast_config import FastConfig, HeadConfig

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
patient_sets = pytest.importorskip("patient_sets", reason="the benchmarks are not beside the tests")
import chooser  # noqa: E402
import patient_arms  # noqa: E402
import real_patients  # noqa: E402
from recolouring import Recolouring  # noqa: E402

SIDE, SLIDES, EACH = 32, 8, 10
CONFIG = FastConfig(backbone="test_resnet", weights="random", patches=PatchConfig(size_px=SIDE, mpp=1.0), device="cpu")
TINY = patient_sets.Recipe("tiny", ("dark", "pale"), SIDE, SIDE, folds=2, choosing_folds=2)


def write_patches(folder: Path, *, one_class: bool) -> Path:
    """A set whose two classes differ in how dark they are; the patches of a slide share a tint."""
    rng = np.random.default_rng(5)
    (folder / "tiny").mkdir(parents=True)
    rows = []
    for slide in range(SLIDES):
        tint = rng.uniform(-15, 15, 3)
        for number in range(EACH):
            kind = (slide if one_class else number) % 2
            base = np.asarray([(150, 70, 140), (215, 150, 200)][kind]) + tint
            pixels = np.clip(base + rng.normal(0, 25, (SIDE, SIDE, 3)), 0, 240).astype(np.uint8)
            name = f"{slide}-{number}.png"
            Image.fromarray(pixels).save(folder / "tiny" / name)
            rows.append((name, TINY.classes[kind], f"p{slide}", f"s{slide}"))
    with (folder / "tiny" / "fields.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "label", "patient", "slide"), *rows])
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Gives a tiny set by its recipe."""

    def read(recipe=TINY, *, one_class=False):
        folder = tmp_path_factory.mktemp("tiny")
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(patient_sets.RECIPES, "tiny", recipe)
            patches = write_patches(folder / "patches", one_class=one_class)
            return patient_sets.read_set("tiny", patches, folder / "work", config=CONFIG)

    return read


@pytest.fixture(scope="module")
def mixed(tiny):
    return tiny()


def test_each_picture_is_one_patch_of_its_class(mixed):
    table = mixed.labelled.table
    assert len(table) == SLIDES * EACH
    assert table.counts().tolist() == [[EACH // 2] * 2] * SLIDES
    margin = SIDE + SIDE // 2
    assert set(((table.y - margin) % SIDE).tolist()) == set(((table.x - margin) % SIDE).tolist()) == {0}


def test_patients_are_held_out_whole(mixed):
    ((train, test),) = mixed.splits(0)
    slides = mixed.labelled.table.slide_index
    assert (train ^ test).all()
    assert not set(slides[train].tolist()) & set(slides[test].tolist())
    assert any((mixed.splits(seed)[0][0] != train).any() for seed in range(1, 4))


def test_tied_training_loses_what_disagrees_and_the_others_stay(tiny):
    tied = tiny(replace(TINY, recoloured=True, tied=True))
    ((train, test),) = tied.splits(0)
    table = tied.labelled.table
    blue = np.asarray([Recolouring.of(slide).is_blue for slide in table.slides])[table.slide_index]
    agrees = (table.label == 0) == blue
    assert (train | test)[agrees].all()
    assert train[~agrees & ~test].mean() < 0.5
    assert table.of_rows(test).counts()[np.unique(table.slide_index[test])].min() == EACH // 2


def test_a_slide_has_one_look_and_another_slide_another():
    rgb = np.random.default_rng(0).integers(60, 220, (8, 8, 3), np.uint8)
    one = Recolouring.of("a")
    assert one == Recolouring.of("a") != Recolouring.of("b")
    assert np.array_equal(one(rgb), one(rgb))
    assert np.abs(one(rgb).astype(int) - rgb).mean() > 2


def test_arms_are_compared_in_pairs_with_the_plain_head(mixed):
    quick = [replace(arm, head=replace(arm.head, steps=10)) for arm in patient_arms.ARMS]
    runs, refused = real_patients.run_arms(mixed, quick, seeds=range(2))
    facts = real_patients.facts_of(mixed, runs, refused)
    rows = {row["arm"]: row for row in facts["rows"]}
    assert list(rows) == [arm.name for arm in patient_arms.ARMS]
    plain = rows[patient_arms.PLAIN]
    assert plain["pooled"] > 0.8
    assert plain["pooled_gain"] == plain["pooled_error"] == 0
    for row in rows.values():
        assert row["seeds"] == row["runs"] == 2
        assert row["pooled_gain"] == pytest.approx(row["pooled"] - plain["pooled"])
    assert "frozen features" in facts["refused"]["linear, SCR 0.2"]
    assert all(name in real_patients.table_of(facts) for name in rows)


def test_slides_of_one_class_refuse_centring_and_projection(tiny):
    runs, refused = real_patients.run_arms(tiny(one_class=True), patient_arms.ARMS[:3], seeds=[0])
    assert {run.arm for run in runs} == {patient_arms.PLAIN}
    assert set(refused) == {"linear, centring 0.5", "linear, projection 4"}
    assert np.isnan(runs[0].score.inside)


def test_the_last_stage_is_trained_on_the_same_patches(mixed):
    split = mixed.splits(0)[0]
    config = replace(CONFIG, backbone="resnet18")
    score = patient_arms.judge_tuned(mixed, split, 0, config, epochs=1)
    assert 0 <= score.pooled <= 1
    assert score.seconds > 0


def test_who_chooses_takes_no_part_in_judging(mixed, monkeypatch):
    seen = []
    compare = chooser.compare

    def watched(labelled, *args, **more):
        seen.append(set(np.unique(labelled.table.slide_index).tolist()))
        return compare(labelled, *args, **more)

    monkeypatch.setattr(chooser, "compare", watched)
    draw = chooser.choose(mixed, 0, nets=False, repeats=1)
    _, test = mixed.choosers(0)
    assert seen
    assert not seen[0] & set(mixed.labelled.table.slide_index[test].tolist())
    facts = chooser.facts_of(mixed, [draw], nets=False)
    assert facts["draws"] == sum(facts["proposals"].values()) == 1
    assert "tiny" in chooser.table_of([facts])


def test_without_a_proposal_there_is_no_gain(mixed, monkeypatch):
    class Nothing:
        proposal = None

    monkeypatch.setattr(chooser, "drain", lambda _: Nothing)
    draw = chooser.choose(mixed, 3, nets=False)
    assert (draw.proposed, draw.gain, draw.inside_gain) == ("", 0.0, 0.0)


def test_errors_are_those_of_paired_seeds():
    def run(arm, seed, fold, pooled):
        return real_patients.Run(arm, seed, fold, patient_arms.Score(pooled, float("nan"), 0.5, 0.25, 1.0))

    gains = {(0, 0): 0.01, (0, 1): 0.03, (1, 0): 0.05, (1, 1): 0.07}
    runs = [run(patient_arms.PLAIN, *key, 0.6 + key[0] / 10) for key in gains]
    runs += [run("other", *key, 0.6 + key[0] / 10 + gain) for key, gain in gains.items()]
    _, other = real_patients.rows_of(runs)
    assert other["pooled_gain"] == pytest.approx(0.04)
    assert other["pooled_error"] == pytest.approx(0.02)
    assert other["inside"] is None


def test_a_linear_head_refuses_scr():
    assert "linear head" in real_patients.linear_refusal()
    assert HeadConfig().objective.kind == "ce"
