import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_slides import SIZE_PX, two_class_slide

from napari_slidecorr.config import PredictConfig
from napari_slidecorr.errors import ModelError
from napari_slidecorr.events import BlockDone, CellsDone, Notice, drain
from napari_slidecorr.geometry import Box, Grid, PatchGeometry
from napari_slidecorr.learning import inference, sweep
from napari_slidecorr.learning.inference import predict
from napari_slidecorr.learning.kept_model import load_kept_model
from napari_slidecorr.learning.models import classify, make_model, save_model
from napari_slidecorr.learning.sweep import BatchSize, Sweep, blocks_in, cell_window
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.wanted import Wanted

GRID = Grid.over((900, 700), (32, 32), (16, 16))
SPEC = ModelSpec(
    backbone="test_resnet", classes=("a", "b", "c"), geometry=PatchGeometry(SIZE_PX, 0.5), mean=(0.5,) * 3,
    std=(0.5,) * 3, objective={"kind": "ce"}, train_slides=(), validation_slides=(), initial_weights="random",
    weights_sha256="0123456789abcdef", package_version="0",
)  # fmt: skip
CONFIG = PredictConfig(block_cells=4, batch_size=2, device="cpu", tissue_only=False)


@pytest.fixture(scope="module")
def model():
    return make_model("test_resnet", 3, weights="random", seed=1).eval()


@pytest.fixture(scope="module")
def slide():
    return two_class_slide("slide", 3)  # 256 x 192 px: 9 x 7 cells


def in_box(cell, box):
    """By the drawn edges of the cell, one by one."""
    (y0, y1), (x0, x1) = (
        (GRID.corner_px[a] + i * GRID.stride_px[a], GRID.corner_px[a] + (i + 1) * GRID.stride_px[a])
        for a, i in enumerate(cell)
    )
    return y0 < box.y1 and y1 > box.y0 and x0 < box.x1 and x1 > box.x0


boxes = st.tuples(*(st.integers(-200, 1100) for _ in range(4))).map(
    lambda t: Box(min(t[0], t[1]), min(t[2], t[3]), max(t[0], t[1]) + 1, max(t[2], t[3]) + 1)
)


@given(boxes)
def test_the_window_holds_the_cells_that_meet_the_box(box):
    rows, columns = cell_window(GRID, box)
    inside = np.zeros(GRID.shape, bool)
    inside[rows, columns] = True
    naive = [[in_box((i, j), box) for j in range(GRID.shape[1])] for i in range(GRID.shape[0])]
    np.testing.assert_array_equal(inside, naive)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.none(), boxes), max_size=5), st.integers(1, 40), st.integers(1, 20), st.integers(0, 9))
def test_each_cell_is_handed_out_once_and_each_block_ends_once_however_one_looks_around(looks, size, side, seed):
    rng = np.random.default_rng(seed)
    wanted = rng.random(GRID.shape) < 0.3
    wanted[:side] = False  # blocks of glass
    blocks = list(GRID.blocks(side))
    order = Sweep(GRID, blocks, wanted)
    seen, ended = np.zeros(GRID.shape, int), []
    turns = iter(looks)
    for step in itertools.count():
        pieces = [piece for _ in range(3) if (piece := order.take(size)) is not None]
        if not pieces:
            break
        if step % 2 == 0 and (box := next(turns, 0)) != 0:
            order.put_back(pieces[1:])
            order.look(box)
            pieces = pieces[:1]
        for piece in pieces:
            assert len(piece.cells) <= size
            for cell in piece.cells:
                seen[cell] += 1
            if order.finish(piece):
                ended.append(piece.block)
    np.testing.assert_array_equal(seen, wanted)
    assert sorted(map(str, ended)) == sorted(map(str, blocks))


@given(boxes)
def test_cells_in_view_come_before_all_others(box):
    order = Sweep(GRID, list(GRID.blocks(8)), np.ones(GRID.shape, bool))
    order.look(box)
    inside = []
    while (piece := order.take(5)) is not None:
        inside += [in_box(cell, box) for cell in piece.cells]
    assert inside == sorted(inside, reverse=True)


def test_blocks_in_a_box():
    blocks = list(GRID.blocks(10))
    assert blocks_in(GRID, blocks, Box(0, 0, 900, 700)) == blocks
    assert blocks_in(GRID, blocks, Box(200, 200, 210, 210)) == [(slice(10, 20), slice(10, 20))]
    assert blocks_in(GRID, blocks, Box(2000, 0, 2001, 10)) == []


def test_the_batch_size_that_is_fastest_is_kept():
    batch = BatchSize(0, (8, 16, 32, 64))
    tried = []
    for _ in range(7):
        tried.append(batch.next())
        batch.record(tried[-1], tried[-1] * {8: 0.010, 16: 0.0098, 32: 0.005, 64: 0.007}[tried[-1]])
    assert tried == [8, 8, 16, 32, 64, 32, 32], "a step that is not clearly faster is not taken"


def test_a_given_size_stays_and_while_somebody_looks_batches_are_short():
    batch = BatchSize(32)
    assert (batch.next(watched=True), batch.next()) == (sweep.FIRST_BATCH, 32)
    batch.record(4, 9.0)  # the first is not counted
    batch.record(4, 4 * 0.05)
    assert batch.next(watched=True) == int(sweep.WATCHED_S / 0.05)
    batch.record(32, 32 * 0.0001)
    assert batch.next(watched=True) <= 32


def test_a_size_found_by_trial_changes_nothing_but_rounding(slide, model):
    usual = drain(predict(slide, model, SPEC, replace(CONFIG, batch_size=7))).probabilities
    trial = drain(predict(slide, model, SPEC, replace(CONFIG, batch_size=0))).probabilities
    np.testing.assert_allclose(trial, usual, atol=2e-6)


def test_looking_elsewhere_turns_the_sweep_at_once(slide, model, monkeypatch):
    monkeypatch.setattr(inference, "PAINT_S", 0)
    wanted = Wanted("slide", Box(0, 0, 32, 32))
    config = replace(CONFIG, block_cells=8)
    cells, turned = [], None
    for event in predict(slide, model, SPEC, config, wanted=wanted):
        if isinstance(event, CellsDone | BlockDone):
            if isinstance(event, CellsDone):
                cells += zip(event.rows.tolist(), event.columns.tolist(), strict=True)
            if turned is None:
                turned = event.done
                wanted.look("slide", Box(200, 150, 220, 170))
            elif (6, 5) in cells:
                assert event.done <= turned + 2 * CONFIG.batch_size + 2, "no more than what was being computed"
                return
    pytest.fail("the cells in view were never told alone")


def test_looking_around_changes_nothing_but_rounding(slide, model):
    usual = drain(predict(slide, model, SPEC, CONFIG)).probabilities
    wanted = Wanted("slide", Box(0, 0, 32, 32))
    rng = np.random.default_rng(0)
    for event in predict(slide, model, SPEC, CONFIG, wanted=wanted):
        y, x = rng.integers(0, 200, 2).tolist()
        wanted.look("slide", Box(y, x, y + 40, x + 40))
        last = event
    np.testing.assert_allclose(last.result.probabilities, usual, atol=2e-6)


def test_another_slides_box_is_not_this_ones(slide, model):
    events = predict(slide, model, SPEC, CONFIG, wanted=Wanted("other", Box(140, 140, 180, 180)))
    first = next(event for event in events if isinstance(event, BlockDone))
    assert (first.rows.start, first.columns.start) == (0, 0)


def test_cells_told_early_are_those_of_the_map(slide, model):
    *events, last = predict(slide, model, SPEC, CONFIG, wanted=Wanted("slide", Box(0, 0, 256, 192)))
    early = [event for event in events if isinstance(event, CellsDone)]
    assert early
    for event in early:
        np.testing.assert_array_equal(event.probabilities, last.result.probabilities[:, event.rows, event.columns])


def test_cells_of_a_whole_block_are_not_told_again(slide, model, monkeypatch):
    monkeypatch.setattr(inference, "every", lambda _: itertools.cycle([False] * 9 + [True]))
    whole = np.zeros((9, 7), bool)
    for event in predict(slide, model, SPEC, CONFIG, wanted=Wanted("slide", Box(0, 0, 256, 192))):
        if isinstance(event, BlockDone):
            whole[event.rows, event.columns] = True
        elif isinstance(event, CellsDone):
            assert not whole[event.rows, event.columns].any()


def test_eight_orientations_are_averaged_and_their_spread_is_kept(slide, model):
    found = drain(predict(slide, model, SPEC, replace(CONFIG, orientations=True)))
    pixels = slide.source.pixels[80:112, 144:176]
    views = [np.rot90(side, k) for side in (pixels, pixels[::-1]) for k in range(4)]
    assert len({view.tobytes() for view in views}) == 8
    each = np.concatenate([classify(model, np.ascontiguousarray(view)[None]) for view in views])
    np.testing.assert_allclose(found.probabilities[:, 3, 5], each.mean(axis=0), atol=1e-5)
    best = each.mean(axis=0).argmax()
    assert found.spread[3, 5] == pytest.approx(each[:, best].std(), abs=1e-5)
    assert found.spread[3, 5] > 0
    assert drain(predict(slide, model, SPEC, CONFIG)).spread is None


def test_a_map_does_not_change_when_the_slide_is_turned(model, slide):
    """What the eight orientations are for: the model's answer for a turned patch is the same."""
    config = replace(CONFIG, orientations=True)
    usual = drain(predict(slide, model, SPEC, config)).probabilities
    turned = replace(slide, source=replace_pixels(slide.source, np.ascontiguousarray(np.rot90(slide.source.pixels, 2))))
    other = drain(predict(turned, model, SPEC, config)).probabilities
    np.testing.assert_allclose(other[:, 1:7, 1:5], np.rot90(usual, 2, axes=(1, 2))[:, 1:7, 1:5], atol=1e-5)


def replace_pixels(source, pixels):
    return type(source)(pixels)


def test_batches_that_do_not_fit_are_halved_and_told_once(slide, model, monkeypatch):
    usual = drain(predict(slide, model, SPEC, replace(CONFIG, batch_size=16))).probabilities

    def small_memory(model, patches):
        if len(patches) > 5:
            raise ModelError("too many") from torch.cuda.OutOfMemoryError()
        return classify(model, patches)

    monkeypatch.setattr(inference, "classify", small_memory)
    *events, last = predict(slide, model, SPEC, replace(CONFIG, batch_size=16, block_cells=8))
    np.testing.assert_allclose(last.result.probabilities, usual, atol=2e-6)
    told = [event.message for event in events if isinstance(event, Notice) and "memory" in event.message]
    assert told == [
        "16 patches at once do not fit into the GPU's memory; going on with 8.",
        "8 patches at once do not fit into the GPU's memory; going on with 4.",
    ]


def test_a_single_patch_that_does_not_fit_is_an_error(slide, model, monkeypatch):
    def no_memory(_model, _patches):
        raise ModelError("lower the batch size") from torch.cuda.OutOfMemoryError()

    monkeypatch.setattr(inference, "classify", no_memory)
    with pytest.raises(ModelError, match="lower the batch size"):
        drain(predict(slide, model, SPEC, CONFIG))


def test_the_model_that_was_used_last_is_kept_until_its_files_change(tmp_path):
    model = make_model("test_resnet", 3, weights="random", seed=2)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save_model(tmp_path / name, model, SPEC)
    first, spec = load_kept_model(tmp_path / "one")
    assert load_kept_model(tmp_path / "one")[0] is first
    assert load_kept_model(tmp_path / "two")[0] is not first
    assert load_kept_model(tmp_path / "one")[0] is not first, "only one is kept"
    with torch.no_grad():
        model.head.bias += 1
    changed = save_model(tmp_path / "one", model, SPEC)
    assert load_kept_model(tmp_path / "one")[1] == changed
    assert changed != spec
    (tmp_path / "one" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        load_kept_model(tmp_path / "one")
