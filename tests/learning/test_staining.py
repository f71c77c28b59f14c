import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from memory_slides import SIZE_PX, MemorySource, halves
from safetensors.torch import load_file

from napari_slidecorr.config import PatchConfig, PredictConfig
from napari_slidecorr.errors import ModelError, SlideError
from napari_slidecorr.events import BatchDone, Notice, drain
from napari_slidecorr.geometry import Box
from napari_slidecorr.learning import augment, epochs, staining
from napari_slidecorr.learning.inference import predict
from napari_slidecorr.learning.models import classify, load_model
from napari_slidecorr.learning.staining import find_slide_stain, make_stain_step
from napari_slidecorr.learning.training import train
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.patches import PatchSource, cut_patches
from napari_slidecorr.slide import Slide
from napari_slidecorr.stain import REFERENCE, find_stain, normalize_stain


def stained_slide(slide_id, seed, strength=1.0, side=192, mpp=(0.5, 0.5)):
    """Much haematoxylin on the left and much eosin on the right, on a slide of its own hue and strength."""
    rng = np.random.default_rng(seed)
    vectors = REFERENCE.vectors * rng.uniform(0.9, 1.1, (2, 3))
    amounts = rng.gamma(4, 0.2, (side, side, 2)) * strength
    amounts[:, : side // 2, 1] *= 0.3
    amounts[:, side // 2 :, 0] *= 0.3
    light = 240 * np.exp(-(amounts @ vectors)) - 1
    pixels = np.full((side + 64, side, 3), 248, np.uint8)
    pixels[:side] = light.clip(0, 255).round()
    return Slide(slide_id, MemorySource(pixels), mpp, "user")


@pytest.fixture(scope="module")
def slides():
    return {f"s{i}": stained_slide(f"s{i}", i, strength=0.7 + 0.2 * i) for i in range(6)}


@pytest.fixture(scope="module")
def tables(slides):
    sources = [PatchSource(slide.id, slide.shape, (SIZE_PX, SIZE_PX), halves()) for slide in slides.values()]
    table = cut_patches(sources, ("stroma", "tumour"), PatchConfig(size_px=SIZE_PX, mpp=0.5))
    return table.of_slides(("s0", "s1", "s2", "s3")), table.of_slides(("s4", "s5"))


@pytest.fixture
def config(config):
    return replace(config, stain="macenko")


def run_to_end(events):
    """The events, and what the generator returned."""
    seen = []
    while True:
        try:
            seen.append(next(events))
        except StopIteration as end:
            return seen, end.value


def test_a_slides_stain_is_the_same_each_time_and_that_of_its_tissue(slides):
    slide = slides["s2"]
    found = find_slide_stain(slide)
    assert found == find_slide_stain(Slide("again", slide.source, slide.mpp, "user"))
    coarse = slide.read(Box(0, 0, 192, 192), 48)
    np.testing.assert_allclose(found.vectors, find_stain(coarse).vectors, atol=0.1)


def test_it_is_looked_for_at_two_micrometres(slides, monkeypatch):
    asked = []
    monkeypatch.setattr(
        Slide, "read", lambda _, box, size: asked.append((box.shape, size)) or np.zeros((1, 1, 3), "u1")
    )
    tissue = staining.TissueMask(np.ones((4, 4), bool), (48.0, 48.0))
    monkeypatch.setattr(staining, "find_tissue", lambda _: tissue)
    for mpp, side in [((0.25, 0.25), 1024), ((0.5, 1.0), (512, 256)), (None, 512), ((4.0, 4.0), 128)]:
        find_slide_stain(replace(slides["s0"], mpp=mpp))
        assert asked.pop() == (side if isinstance(side, tuple) else (side, side), 128)


def test_every_patch_is_normalized_by_its_slide(slides):
    events, step = run_to_end(make_stain_step(list(slides.values()), REFERENCE))
    assert len(events) == len(slides)
    patches = {name: slide.read(Box(32, 32, 64, 64), 32) for name, slide in slides.items()}
    for name, patch in patches.items():
        assert (step(slides[name], patch) == normalize_stain(patch, find_slide_stain(slides[name]), REFERENCE)).all()
    before, after = (
        [p.mean() for p in group] for group in (patches.values(), map(step, slides.values(), patches.values()))
    )
    assert np.std(after) < np.std(before) / 3


def test_without_a_target_nothing_is_read_or_changed(slides, monkeypatch):
    monkeypatch.setattr(staining, "find_slide_stain", None)
    events, step = run_to_end(make_stain_step(list(slides.values()), None))
    patch = np.zeros((4, 4, 3), np.uint8)
    assert events == []
    assert step(slides["s0"], patch) is patch


def test_a_pale_slide_stays_as_it_is_and_is_told(slides):
    pale = Slide("pale", MemorySource(np.full((128, 128, 3), (236, 228, 234), np.uint8)), (0.5, 0.5), "user")
    events, step = run_to_end(make_stain_step([slides["s0"], pale], REFERENCE))
    (notice,) = [event for event in events if isinstance(event, Notice)]
    assert notice.warning
    assert "1 slide is used as scanned" in notice.message
    assert notice.message.endswith("pale.")
    patch = pale.read(Box(0, 0, 8, 8), 8)
    assert step(pale, patch) is patch


def test_damaged_places_are_left_out_and_a_damaged_slide_is_told(slides):
    class Damaged(MemorySource):
        first = 0

        def read_level(self, level, y, x, height, width):
            self.first += 1
            if self.first > 1 and (self.first % 2 or self.all_bad):  # the overview is read first
                raise SlideError("tile 3 is damaged")
            return super().read_level(level, y, x, height, width)

    for all_bad in (False, True):
        source = Damaged(slides["s1"].source.pixels)
        source.all_bad = all_bad
        slide = Slide("damaged", source, (0.5, 0.5), "user")
        if all_bad:
            with pytest.raises(SlideError, match="tile 3"):
                find_slide_stain(slide)
        else:
            assert find_slide_stain(slide) is not None


def test_training_sees_normalized_patches_before_their_colours_are_jittered(
    slides, tables, config, tmp_path, monkeypatch
):
    seen = []
    jitter = augment.colour_jitter
    monkeypatch.setattr(
        augment, "colour_jitter", lambda views, *rest: seen.append(views.numpy()) or jitter(views, *rest)
    )
    rows = []
    monkeypatch.setattr(epochs, "same_slide_pairs", lambda index: rows.append(index) or 0)
    events = train(*tables, slides, replace(config, colour_jitter=True), run=tmp_path / "run")
    next(event for event in events if isinstance(event, BatchDone))
    events.close()
    reference = stained_slide("reference", 0)
    own = normalize_stain(reference.read(Box(0, 0, 192, 192), 192), find_slide_stain(reference))
    means = np.asarray([seen[0][rows[0] == slide].mean(axis=(0, 1, 2)) for slide in np.unique(rows[0])])
    assert np.abs(means - own.mean(axis=(0, 1))).max() < 20
    assert np.ptp(means, axis=0).max() < 20  # as scanned they differ by 70


def test_resuming_gives_the_very_weights(slides, tables, config, tmp_path):
    drain(train(*tables, slides, config, run=tmp_path / "whole"))
    for event in (events := train(*tables, slides, config, run=tmp_path / "stopped")):
        if isinstance(event, BatchDone) and event.epoch == 1:
            break
    events.close()
    drain(train(*tables, slides, config, run=tmp_path / "stopped", resume=True))
    whole, stopped = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "stopped"))
    assert all(torch.equal(whole[name], stopped[name]) for name in whole.keys() | stopped.keys())


def test_prediction_takes_the_step_from_the_model(slides, tables, config, tmp_path):
    drain(train(*tables, slides, replace(config, epochs=1), run=tmp_path / "run"))
    model, spec = load_model(tmp_path / "run")
    assert spec.stain == REFERENCE
    slide, options = slides["s5"], PredictConfig(device="cpu", tissue_only=False)
    patch = slide.source.pixels[48:80, 80:112]  # cell (2, 3): the first is centred on the corner
    source = find_slide_stain(slide)
    shown = {True: normalize_stain(patch, source), False: patch}
    for stained, described in [(True, spec), (False, replace(spec, stain=None))]:
        found = drain(predict(slide, model, described, options)).probabilities[:, 2, 3]
        np.testing.assert_allclose(found, classify(model, shown[stained][None])[0], atol=1e-5)
    other = replace(REFERENCE, strengths=(1.0, 0.5))
    found = drain(predict(slide, model, replace(spec, stain=other), options)).probabilities[:, 2, 3]
    np.testing.assert_allclose(found, classify(model, normalize_stain(patch, source, other)[None])[0], atol=1e-5)


def test_the_spec_carries_the_reference_and_old_ones_have_none(tmp_path, slides, tables, config):
    drain(train(*tables, slides, replace(config, epochs=1), run=tmp_path / "run"))
    text = (tmp_path / "run" / "model.json").read_text("utf-8")
    spec = ModelSpec.from_json(text)
    assert ModelSpec.from_json(spec.to_json()) == spec
    assert ModelSpec.from_json(replace(spec, stain=None).to_json()).stain is None
    values = json.loads(text)
    assert values["stain"]["method"] == "macenko"
    values["stain"]["method"] = "reinhard"
    with pytest.raises(ModelError, match="reinhard"):
        ModelSpec.from_json(json.dumps(values))
    del values["stain"]
    assert ModelSpec.from_json(json.dumps(values)).stain is None
