"""The head is fitted on the frozen network before the network learns."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from small_project import project_with_cache, small_config

from napari_slidecorr.errors import ConfigError
from napari_slidecorr.events import BatchDone, EpochDone, Notice, drain
from napari_slidecorr.learning import steps, training
from napari_slidecorr.regions import RegionSet


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    with project_with_cache(tmp_path_factory.mktemp("first")) as made:
        yield made


def config(**changes):
    return small_config(**{"fit_head_first": True, "learning_rate": 1e-9, "flip_rotate": False, **changes})


def weights(project, name):
    return load_file(project.folder / "runs" / name / "model.safetensors")


def held_out(events):
    return next(event for event in events if isinstance(event, EpochDone)).validation_auc


def told_auc(events):
    (said,) = [e.message for e in events if isinstance(e, Notice) and e.message.startswith("The head was fitted")]
    return float(re.search(r"AUC of (\d\.\d+)", said)[1])


def test_a_network_that_does_not_move_is_as_good_as_the_fitted_head_is_said_to_be(project):
    events = list(project.train(config(), name="still"))
    assert told_auc(events) == pytest.approx(held_out(events), abs=2e-3)
    plain = list(project.train(config(fit_head_first=False), name="plain"))
    loss, loss_without = (next(e for e in each if isinstance(e, EpochDone)).loss for each in (events, plain))
    assert loss < 0.8 * loss_without


def test_held_out_slides_take_no_part_in_the_fit(project):
    drain(project.train(config(), name="fit"))
    before = weights(project, "fit")["head.weight"]
    (unseen, *_) = json.loads((project.folder / "runs" / "fit" / "config.json").read_text("utf-8"))["split"][
        "validation"
    ]
    regions = project.regions(unseen)
    other = dict(zip(project.classes, reversed(project.classes), strict=True))
    project.save_regions(unseen, RegionSet(tuple(region.reclassed(other[region.class_name]) for region in regions)))
    try:
        drain(project.train(config(), name="flipped"))
    finally:
        project.save_regions(unseen, regions)
    np.testing.assert_allclose(weights(project, "flipped")["head.weight"], before, atol=1e-6)


def test_a_training_that_was_stopped_goes_on_to_the_same_weights(project):
    settings = config(epochs=3, learning_rate=0.01, flip_rotate=True)
    drain(project.train(settings, name="whole"))
    for stop in (BatchDone, EpochDone):
        name = f"stopped-{stop.__name__}"
        events = project.train(settings, name=name)
        next(event for event in events if isinstance(event, stop))
        events.close()
        drain(project.train(settings, name=name, resume=True))
        found, expected = weights(project, name), weights(project, "whole")
        assert all(np.array_equal(found[key], expected[key]) for key in expected)


def test_the_fitted_head_is_put_back_when_memory_runs_out_in_the_first_epoch(project, monkeypatch):
    real = steps.gradients

    def gradients(trainee, views, *others):
        if len(views) > 16:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(trainee, views, *others)

    monkeypatch.setattr(steps, "gradients", gradients)
    events = list(project.train(config(), name="scarce"))
    assert [event.phase for event in events if isinstance(event, Notice)].count("Out of memory") == 1
    assert told_auc(events) == pytest.approx(held_out(events), abs=2e-3)


def test_several_processes_are_refused(project, monkeypatch):
    monkeypatch.setattr(training, "rank_and_ranks", lambda: (0, 2))
    monkeypatch.setattr(training, "barrier", lambda: None)
    with pytest.raises(ConfigError, match="fit_head_first is for one process"):
        project.train(config(), name="two")
