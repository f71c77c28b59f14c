import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from memory_slides import SIZE_PX, MemorySource, two_class_slide

from napari_slidecorr.config import PredictConfig
from napari_slidecorr.errors import MapError, ModelError, SlideError
from napari_slidecorr.events import BlockDone, Event, Notice, Predicted, drain
from napari_slidecorr.geometry import Box, PatchGeometry
from napari_slidecorr.learning.inference import predict, prediction_grid
from napari_slidecorr.learning.models import classify, make_model
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.slide import Slide
from napari_slidecorr.wanted import Wanted

SPEC = ModelSpec(
    backbone="test_resnet",
    classes=("a", "b", "c"),
    geometry=PatchGeometry(SIZE_PX, 0.5),
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    objective={"kind": "ce"},
    train_slides=(),
    validation_slides=(),
    initial_weights="random",
    weights_sha256="0123456789abcdef",
    package_version="0",
)
CONFIG = PredictConfig(block_cells=4, batch_size=5, device="cpu", tissue_only=False)


@pytest.fixture(scope="module")
def model():
    return make_model("test_resnet", 3, weights="random", seed=1).eval()


@pytest.fixture(scope="module")
def slide():
    return two_class_slide("slide", 3)  # 256 x 192 px: 9 x 7 cells, the last two rows glass


def uniform(value, shape=(128, 128), mpp=(0.5, 0.5)):
    return Slide("uniform", MemorySource(np.full((*shape, 3), value, np.uint8)), mpp, "user")


def blocks_of(events):
    return [event for event in events if isinstance(event, BlockDone)]


def test_a_map_is_what_the_model_says_of_each_patch(slide, model):
    found = drain(predict(slide, model, SPEC, CONFIG))
    assert found.probabilities.shape == (3, 9, 7)
    assert (found.classes, found.slide_id, found.model_id) == (SPEC.classes, "slide", "0123456789ab")
    for row, column, y, x in [(0, 0, 0, 0), (3, 5, 80, 144), (8, 2, 224, 48), (1, 6, 16, 160)]:
        pixels = slide.source.pixels[y : y + 32, x : x + 32]
        expected = classify(model, pixels[None])[0]
        np.testing.assert_allclose(found.probabilities[:, row, column], expected, atol=1e-5)


def test_probabilities_sum_to_one(slide, model):
    sums = drain(predict(slide, model, SPEC, CONFIG)).probabilities.sum(axis=0)
    np.testing.assert_allclose(sums, 1, atol=1e-5)


@pytest.mark.parametrize("change", [{"batch_size": 1}, {"batch_size": 64}, {"block_cells": 1}, {"block_cells": 64}])
def test_batches_and_blocks_change_nothing(change, slide, model):
    usual = drain(predict(slide, model, SPEC, CONFIG)).probabilities
    other = drain(predict(slide, model, SPEC, replace(CONFIG, **change))).probabilities
    np.testing.assert_allclose(other, usual, atol=1e-5)


def test_blocks_tile_the_map(slide, model):
    *events, last = predict(slide, model, SPEC, CONFIG)
    assert isinstance(last, Predicted)
    assembled = np.zeros_like(last.result.probabilities)
    for block in blocks_of(events):
        assembled[:, block.rows, block.columns] += block.probabilities
    np.testing.assert_array_equal(assembled, last.result.probabilities)


def test_an_event_after_each_batch_counts_patches(slide, model):
    events = [event for event in predict(slide, model, SPEC, CONFIG) if event.phase == "Predicting"]
    assert np.diff([0, *(event.done for event in events)]).max() <= CONFIG.batch_size
    assert {event.total for event in events} == {63}
    assert {type(event) for event in events} == {Event, BlockDone}
    assert events[-1].done == 63


def test_only_the_wanted_blocks(slide, model):
    wanted = [(slice(4, 8), slice(0, 4))]
    whole = drain(predict(slide, model, SPEC, CONFIG)).probabilities
    *events, last = predict(slide, model, SPEC, CONFIG, blocks=wanted)
    assert [(block.rows, block.columns) for block in blocks_of(events)] == wanted
    np.testing.assert_allclose(last.result.probabilities[:, 4:8, :4], whole[:, 4:8, :4], atol=1e-5)
    assert last.result.predicted.sum() == 16


def test_no_blocks_left_is_no_work_and_no_warning(slide, model):
    *events, last = predict(slide, model, SPEC, CONFIG, blocks=[])
    assert not last.result.predicted.any()
    assert not [event for event in events if isinstance(event, Notice) and event.warning]


def test_what_is_looked_at_comes_first(slide, model):
    events = predict(slide, model, SPEC, CONFIG, wanted=Wanted("slide", Box(140, 140, 180, 180)))
    order = [(block.rows.start, block.columns.start) for block in blocks_of(events)]
    assert order[0] == (4, 4)
    assert sorted(order) == [(y, x) for y in (0, 4, 8) for x in (0, 4)]


def test_glass_is_left_out(slide, model):
    found = drain(predict(slide, model, SPEC, replace(CONFIG, tissue_only=True)))
    assert not found.predicted[7:].any()
    assert found.predicted[:6].any()


def test_a_slide_of_glass_gives_an_empty_map_and_a_warning(model):
    *events, last = predict(uniform(245), model, SPEC, replace(CONFIG, tissue_only=True))
    assert not last.result.predicted.any()
    assert [event.message for event in events if isinstance(event, Notice) and event.warning] == [
        "uniform: no tissue was found."
    ]
    assert len(blocks_of(events)) == 4


def test_a_finer_slide_is_resampled(model):
    fine = Slide("fine", two_class_slide("x", 3).source, (0.25, 0.25), "user")
    grid = prediction_grid(fine, SPEC, CONFIG)
    assert (grid.cell_px, grid.stride_px, grid.shape, grid.mpp) == ((64, 64), (64, 64), (5, 4), (0.25, 0.25))
    found = drain(predict(fine, model, SPEC, CONFIG))
    expected = classify(model, fine.read(Box(32, 32, 96, 96), SIZE_PX)[None])[0]
    np.testing.assert_allclose(found.probabilities[:, 1, 1], expected, atol=1e-5)


def test_overlap_makes_a_finer_grid_over_the_same_slide(slide, model):
    found = drain(predict(slide, model, SPEC, replace(CONFIG, overlap=0.5)))
    assert found.grid.stride_px == (16, 16)
    assert found.grid.shape == (17, 13)
    assert found.grid.translate == (-0.25, -0.25)


def test_a_slide_without_pixel_size_is_refused_at_the_call(model):
    with pytest.raises(SlideError, match=r"memory.tif: no physical pixel size"):
        predict(uniform(200, mpp=None), model, SPEC, CONFIG)


def test_a_model_of_level_0_pixels_needs_none(model):
    spec = replace(SPEC, geometry=PatchGeometry(SIZE_PX, None))
    assert drain(predict(uniform(200, mpp=None), model, spec, CONFIG)).grid.cell_px == (32, 32)


def test_a_much_coarser_slide_is_refused(model):
    with pytest.raises(SlideError, match=r"has 1 um/px, and the model was trained at 0.5 um/px"):
        predict(uniform(200, mpp=(1.0, 1.0)), model, SPEC, CONFIG)
    assert prediction_grid(uniform(200, mpp=(0.7, 0.7)), SPEC, CONFIG).cell_px == (23, 23)


def test_a_block_outside_of_the_map_is_refused(slide, model):
    with pytest.raises(MapError, match="does not lie in the map of 9 x 7 cells"):
        predict(slide, model, SPEC, CONFIG, blocks=[(slice(4, 10), slice(0, 4))])


def test_a_model_of_other_classes_is_refused(slide, model):
    with pytest.raises(ModelError, match="3 outputs for 2 classes"):
        predict(slide, model, replace(SPEC, classes=("a", "b")), CONFIG)


def test_closing_ends_the_threads(slide, model):
    events = predict(slide, model, SPEC, replace(CONFIG, batch_size=2))
    while next(events).phase != "Predicting":
        pass
    events.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-patches")]


class DamagedSource(MemorySource):
    """Every read that touches the columns below ``x`` fails."""

    def __init__(self, pixels, x):
        super().__init__(pixels)
        self.x = x

    def read_level(self, level, y, x, height, width):
        if x < self.x:
            raise SlideError(f"memory.tif: tile at ({y}, {x}) is damaged.")
        return super().read_level(level, y, x, height, width)


def test_damaged_patches_stay_empty_and_are_told(slide, model):
    damaged = replace(slide, source=DamagedSource(slide.source.pixels, 1))
    *events, last = predict(damaged, model, SPEC, CONFIG)
    assert not last.result.predicted[:, 0].any()
    assert last.result.predicted[:, 1:].all()
    (message,) = [event.message for event in events if isinstance(event, Notice) and event.warning]
    assert message.startswith("memory.tif: 9 of 63 patches cannot be read (first: memory.tif: tile at (")


def test_too_much_damage_ends_the_prediction(slide, model):
    damaged = replace(slide, source=DamagedSource(slide.source.pixels, 1000))
    with pytest.raises(SlideError, match=r"\d+ of 63 patches cannot be read"):
        drain(predict(damaged, model, SPEC, CONFIG))


def test_damage_is_a_share_of_the_slide_also_when_a_prediction_goes_on(model):
    slide = two_class_slide("slide", 3, 800)  # 28 x 26 cells, two columns of them damaged
    config = replace(CONFIG, block_cells=1, batch_size=64)
    damaged = replace(slide, source=DamagedSource(slide.source.pixels, 48))
    grid = prediction_grid(slide, SPEC, config)
    left = [(slice(row, row + 1), slice(0, 3)) for row in range(grid.shape[0])]
    *events, last = predict(damaged, model, SPEC, config, blocks=left)
    assert last.result.predicted[:, 2].all()
    (message,) = [event.message for event in events if isinstance(event, Notice) and event.warning]
    assert f"of {np.prod(grid.shape)} patches" in message


def test_prediction_does_not_depend_on_the_mode_the_model_came_in(slide, model):
    usual = drain(predict(slide, model, SPEC, CONFIG)).probabilities
    again = drain(predict(slide, model.train(), SPEC, CONFIG)).probabilities
    np.testing.assert_array_equal(usual, again)
    assert torch.is_grad_enabled()
