"""Who is trained on and who is held out, without a network."""

import re

import numpy as np
import pytest
from shapely import box

from napari_slidecorr.config import PatchConfig, TrainConfig
from napari_slidecorr.errors import CohortError, ProjectError
from napari_slidecorr.geometry import PatchGeometry
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.patches import PatchSource, cut_patches
from napari_slidecorr.regions import Region, RegionSet
from napari_slidecorr.training_plan import LEAKY, TrainingPlan, earlier_model

CLASSES = ("stroma", "fat", "tumour")
SLIDES = ("a", "b", "c", "d")
EACH = RegionSet((Region("stroma", box(0, 0, 64, 32)), Region("tumour", box(0, 32, 64, 64))))
"""Eight patches of each class."""


def config(**changes):
    return TrainConfig(patches=PatchConfig(size_px=16, mpp=None), **changes)


def plan(regions=None, groups=None):
    regions = regions or dict.fromkeys(SLIDES, EACH)
    sources = [PatchSource(slide, (64, 64), (16, 16), found) for slide, found in regions.items()]
    groups = {slide: slide for slide in regions} | (groups or {})
    return TrainingPlan.of(cut_patches(sources, CLASSES, config().patches), groups, regions)


def spec(train, held, **changes):
    return ModelSpec(
        **{
            "backbone": "resnet18",
            "classes": ("stroma", "tumour"),
            "geometry": PatchGeometry(16, None),
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "objective": {"kind": "cross_entropy"},
            "train_slides": train,
            "validation_slides": held,
            "initial_weights": "random",
            "weights_sha256": "0123456789abcdef",
            "package_version": "1",
            **changes,
        }
    )


def sides(split):
    return sorted(split.train), sorted(split.validation)


def test_a_class_without_patches_is_left_out_and_the_others_keep_theirs():
    made = plan()
    assert made.table.classes == ("stroma", "tumour")
    assert made.empty_classes == ("fat",)
    assert made.table.counts().tolist() == [[8, 8]] * 4
    assert made.table.label.dtype == np.int16
    assert {made.table.label[i] for i in np.flatnonzero(made.table.x >= 32)} == {1}


def test_a_slide_without_patches_takes_no_part():
    made = plan(dict.fromkeys(SLIDES, EACH) | {"empty": RegionSet(())})
    assert made.groups == {slide: slide for slide in SLIDES}
    assert made.classes_of == {slide: ["stroma", "tumour"] for slide in SLIDES}


def test_each_slide_has_the_classes_that_are_labelled_on_it():
    only = RegionSet((Region("tumour", box(0, 0, 64, 64)),))
    assert plan({"a": EACH, "b": only}).classes_of == {"a": ["stroma", "tumour"], "b": ["tumour"]}


def test_the_share_and_the_seed_say_who_is_held_out():
    made = plan()
    found = {made.split(config(validation_fraction=0.5, seed=seed)).validation for seed in range(12)}
    assert {len(held) for held in found} == {2}
    assert len(found) > 1
    assert made.split(config(seed=3)) == made.split(config(seed=3))
    assert len(made.split(config(validation_fraction=0.25)).validation) == 1


def test_slides_of_a_patient_are_on_one_side():
    made = plan(groups={"a": "P", "b": "P"})
    for seed in range(8):
        assert len({"a", "b"} & set(made.split(config(seed=seed)).train)) in (0, 2)
        for fold in made.folds(3, seed):
            assert len({"a", "b"} & set(fold.train)) in (0, 2)


def test_folds_are_so_many_or_one_for_each_group():
    made = plan(groups={"a": "P", "b": "P"})
    assert sorted(sides(fold)[1] for fold in made.folds(None, 0)) == [["a", "b"], ["c"], ["d"]]
    two = made.folds(2, 0)
    assert sorted(slide for fold in two for slide in fold.validation) == list(SLIDES)
    assert len(two) == 2
    assert len({tuple(fold.validation for fold in plan().folds(2, seed)) for seed in range(8)}) > 1


def test_tables_are_the_patches_of_the_slides_of_each_side():
    made = plan()
    split = made.split(config(seed=1))
    train, held = made.tables(split, config(seed=1))
    assert (train.slides, held.slides) == (split.train, split.validation)
    assert (len(train), len(held)) == (16 * len(split.train), 16 * len(split.validation))


def test_the_leaky_split_has_all_slides_on_both_sides():
    made, leaky = plan(), config(split="patches", validation_fraction=0.25, seed=5)
    split = made.split(leaky)
    assert split.train == split.validation == SLIDES
    train, held = made.tables(split, leaky)
    assert train.counts().tolist() == [[6, 6]] * 4
    assert held.counts().tolist() == [[2, 2]] * 4
    other = made.tables(split, config(split="patches", validation_fraction=0.25, seed=6))[1]
    assert not np.array_equal(held.x, other.x) or not np.array_equal(held.y, other.y)
    half = made.tables(split, config(split="patches", validation_fraction=0.5))[1]
    assert half.counts().tolist() == [[4, 4]] * 4


# going on from an earlier run


def test_the_earlier_run_says_who_is_held_out_and_new_slides_are_trained_on():
    assert sides(plan().split(config(), spec(("a", "c"), ("b",)))) == (["a", "c", "d"], ["b"])


def test_a_new_slide_of_a_held_out_patient_is_held_out():
    made = plan(groups={"b": "P", "d": "P"})
    assert sides(made.split(config(), spec(("a", "c"), ("b",)))) == (["a", "c"], ["b", "d"])


def test_a_slide_that_taught_the_model_is_not_moved_to_the_other_side():
    made = plan(groups={"a": "P", "b": "P"})
    with pytest.raises(CohortError) as told:
        made.split(config(), spec(("a", "c"), ("b",)))
    assert str(told.value) == (
        "Slide a trained model 0123456789ab, and is of a patient that is held out; put it into a group of its own, or start a "
        "new training."
    )


def test_held_out_slides_without_patches_are_missed():
    with pytest.raises(CohortError) as told:
        plan().split(config(), spec(("a",), ("x", "y")))
    assert str(told.value) == (
        "None of the slides that model 0123456789ab held out has patches now (x, y); start a new training."
    )


def test_one_held_out_slide_with_patches_is_enough():
    assert sides(plan().split(config(), spec(("a",), ("x", "b")))) == (["a", "c", "d"], ["b"])


def test_a_model_that_held_nothing_out_goes_on_so():
    assert sides(plan().split(config(), spec(SLIDES, ()))) == (list(SLIDES), [])


def kept(folder, **changes):
    path = folder / "first" / "model.json"
    path.parent.mkdir()
    made = spec(**({"train": ("a",), "held": ("b",)} | changes))
    path.write_text(made.to_json())
    return made


def test_without_continue_from_there_is_no_earlier_model(tmp_path):
    assert earlier_model(tmp_path, config()) is None


def test_the_earlier_model_is_the_one_of_that_name(tmp_path):
    made = kept(tmp_path)
    assert earlier_model(tmp_path, config(continue_from="first")) == made


@pytest.mark.parametrize(
    ("model", "changes", "words"),
    [
        pytest.param({}, {"continue_from": "x"}, "x: there is no finished run of that name to continue from.", id="no"),
        pytest.param(
            {},
            {"validation_fraction": 0.0},
            "first: held slides out; set validation_fraction above 0 to continue from it.",
            id="held out",
        ),
        pytest.param(
            {"held": ()},
            {},
            "first: held nothing out; set validation_fraction to 0 to continue from it.",
            id="held nothing out",
        ),
        pytest.param(
            {"split": "patches"},
            {},
            "first: had a leaky split, which cannot be gone on with; choose another run.",
            id="leaky",
        ),
    ],
)
def test_what_cannot_be_gone_on_with_is_told(tmp_path, model, changes, words):
    kept(tmp_path, **model)
    with pytest.raises(ProjectError, match=f"^{re.escape(words)}$"):
        earlier_model(tmp_path, config(**({"continue_from": "first"} | changes)))


def test_all_may_be_trained_on_again(tmp_path):
    made = kept(tmp_path, held=())
    assert earlier_model(tmp_path, config(continue_from="first", validation_fraction=0.0)) == made


# what is doubtful


class File:
    """As much of a slide as is asked for."""

    def __init__(self, path, content):
        self.path = path
        path.write_bytes(content)


def told(made, tmp_path, contents, **changes):
    slides = {slide: File(tmp_path / f"{slide}.tif", content) for slide, content in contents.items()}
    found = list(made.notices(made.split(config(**changes)), slides, config(**changes)))
    assert all(notice.warning and notice.phase == "Cut patches" for notice in found)
    return [notice.message for notice in found]


def test_a_class_without_patches_is_told(tmp_path):
    contents = {slide: slide.encode() for slide in SLIDES}
    assert told(plan(), tmp_path, contents) == ["Class 'fat' has no patches and is left out of the model."]


def test_a_leaky_split_is_told(tmp_path):
    contents = {slide: slide.encode() for slide in SLIDES}
    assert told(plan(), tmp_path, contents, split="patches")[1:] == [LEAKY]


def test_copies_of_one_file_are_told_unless_they_are_of_one_group(tmp_path):
    contents = {"a": b"one", "b": b"two", "c": b"one", "d": b"four"}
    words = "a and c are copies of one file. Remove all but one, or give them one group."
    assert told(plan(), tmp_path, contents)[1:] == [words]
    assert told(plan(groups={"a": "P", "c": "P"}), tmp_path, contents)[1:] == []


def test_doubts_are_about_what_is_trained_on(tmp_path):
    both = RegionSet((Region("stroma", box(0, 0, 64, 40)), Region("tumour", box(0, 24, 64, 64))))
    contents = {slide: slide.encode() for slide in SLIDES}
    made = plan(dict.fromkeys(SLIDES, EACH) | {"b": both})
    for seed in range(8):
        held = made.split(config(seed=seed)).validation
        overlaps = [message for message in told(made, tmp_path, contents, seed=seed) if "overlap" in message]
        assert [message.split(":")[0] for message in overlaps] == ([] if "b" in held else ["b"])
    assert any("b" in made.split(config(seed=seed)).validation for seed in range(8))
