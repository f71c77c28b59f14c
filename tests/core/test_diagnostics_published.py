"""The measures of PathoROB, against what its authors published and against loops that only follow the definition."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from croma import apd

from napari_slidecorr.diagnostics import robustness, shortcut
from napari_slidecorr.diagnostics.feature_table import FeatureTable
from napari_slidecorr.diagnostics.robustness import robustness_index

PUBLISHED = json.loads((Path(__file__).parents[1] / "data" / "pathorob" / "published.json").read_text("utf-8"))


def named(cases):
    return [pytest.param(case, id=f"{case['model']}-{case['dataset']}") for case in cases]


@pytest.mark.parametrize("case", named(PUBLISHED["neighbours"]))
def test_published_frequencies_of_neighbours_give_the_published_index(case):
    assert case["SS"] + case["SO"] + case["OS"] + case["OO"] == pytest.approx(1)
    same, other = np.asarray([case["SO"]]), np.asarray([case["OS"]])
    assert robustness._share(same, other)[0] == pytest.approx(case["robustness_index"], rel=1e-12)


@pytest.mark.parametrize("case", named(PUBLISHED["drops"]))
def test_published_accuracies_give_the_published_drop(case):
    matrix = np.asarray(case["accuracies"])
    facts = {"chance": 0.0, "n_slides": 2, "n_patches": 9}
    assert shortcut._drop("drop", [matrix], 10, 0, facts).value == pytest.approx(case["apd"], rel=1e-12)
    by_hand = [
        sum(matrix[v, r] / matrix[0, r] for v in range(1, len(matrix))) / (len(matrix) - 1) - 1
        for r in range(matrix.shape[1])
    ]
    assert math.fsum(by_hand) / len(by_hand) == pytest.approx(case["apd"], rel=1e-9)
    assert apd(matrix) == pytest.approx(case["apd"], rel=1e-12)


def table_of(features, label, slide, groups):
    slide = np.asarray(slide, np.int32)
    names = tuple(f"s{i}" for i in range(slide.max() + 1))
    place = np.stack([np.arange(len(slide)) * 10.0, np.zeros(len(slide))], axis=1)
    return FeatureTable(
        np.asarray(features, np.float32), np.asarray(label, np.int16), slide, place, names, ("a", "b"), groups
    )


def counted(table, k, *, by_group):
    """The index as its definition reads: for each patch its k nearest by cosine, none of its own slide or square."""
    group = table.group_index
    so = os = 0
    for i in range(len(table)):
        likeness = []
        for j in range(len(table)):
            near = np.floor(table.place[i] / robustness.BLOCK) == np.floor(table.place[j] / robustness.BLOCK)
            apart = table.slide_index[i] != table.slide_index[j] or (not by_group and not near.all())
            if i != j and apart:
                a, b = table.features[i].astype(float), table.features[j].astype(float)
                likeness.append((float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)), j))
        for _, j in sorted(likeness, reverse=True)[:k]:
            same_class = table.label[i] == table.label[j]
            who = group if by_group else table.slide_index
            same_source = who[i] == who[j]
            so += same_class and not same_source
            os += same_source and not same_class
    return so / (so + os)


@pytest.mark.parametrize(("pull", "by_group"), list(itertools.product((0.3, 1.0, 3.0), (False, True))))
def test_the_index_is_that_of_a_double_loop(pull, by_group):
    rng = np.random.default_rng(3)
    slide = np.repeat(np.arange(4), 24)
    label = rng.integers(0, 2, len(slide))
    centre = rng.normal(size=(2, 6))[slide // 2] + 0.3 * rng.normal(size=(4, 6))[slide]
    features = centre + pull * rng.normal(size=(2, 6))[label] + 0.5 * rng.normal(size=(len(slide), 6))
    table = table_of(features, label, slide, ("north", "north", "south", "south"))
    measure = robustness_index(table, by_group=by_group)
    k = int(measure.note.split(" ", maxsplit=1)[0])
    assert measure.value == pytest.approx(counted(table, k, by_group=by_group), abs=1e-9)


def test_a_case_that_was_counted_by_hand():
    """Four slides of two centres, each with one a (at 0 to 3 degrees) and one b (at 90 to 93); five neighbours of six.

    Each patch has the three others of its class, two of them of the other centre (SO), and the nearer two of three of the
    other class: of these the a at 0, 2, 3 and the b at 90, 91, 93 degrees meet one of their own centre (OS). 16 and 6.
    """
    degrees = np.radians([0, 1, 2, 3, 90, 91, 92, 93])
    label, slide = [0, 0, 0, 0, 1, 1, 1, 1], [0, 1, 2, 3, 0, 1, 2, 3]
    features = np.stack([np.cos(degrees), np.sin(degrees)], axis=1)
    measure = robustness_index(table_of(features, label, slide, ("one", "two", "one", "two")), by_group=True)
    assert measure.note.startswith("5 neighbours")
    assert measure.value == pytest.approx(16 / 22)
