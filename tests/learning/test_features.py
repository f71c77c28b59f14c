import errno
import os
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from memory_slides import CLASSES, SIZE_PX, MemorySource, halves, two_class_slide

from napari_slidecorr.errors import ModelError, SlideError
from napari_slidecorr.events import Notice, drain
from napari_slidecorr.geometry import Box, PatchGeometry
from napari_slidecorr.learning import feature_store
from napari_slidecorr.learning.cell_labels import label_cells
from napari_slidecorr.learning.extractor import Extractor, slide_grid
from napari_slidecorr.learning.feature_store import CHUNK_SUFFIX, META_NAME, FeatureCache
from napari_slidecorr.learning.features import (
    FeaturesAdded,
    FeaturesDone,
    SlideFeatures,
    extract,
    table_features,
)
from napari_slidecorr.learning.models import make_model
from napari_slidecorr.slide import Slide
from napari_slidecorr.tissue import find_tissue

GEOMETRY = PatchGeometry(SIZE_PX, 0.5)


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return Extractor.of(make_model("test_resnet", 2, weights="random"), GEOMETRY, device="cpu")


@pytest.fixture(scope="module")
def slide() -> Slide:
    return two_class_slide("s", 0)


@pytest.fixture
def cache(tmp_path) -> FeatureCache:
    return FeatureCache(tmp_path / "features", 100)


def counting(monkeypatch) -> list[int]:
    """How many patches were computed, call by call."""
    counts: list[int] = []
    plain = Extractor.features

    def features(self, patches):
        counts.append(len(patches))
        return plain(self, patches)

    monkeypatch.setattr(Extractor, "features", features)
    return counts


def kept_cells(slide, extractor, grid, cache):
    """What is given before anything is computed."""
    with closing(extract(slide, extractor, grid, cache=cache)) as events:
        return next(events).cells


def test_features_are_those_of_the_backbone(extractor, slide, cache):
    grid = slide_grid(slide, GEOMETRY)
    result: SlideFeatures = drain(extract(slide, extractor, grid, cache=cache))
    assert len(result.cells) == grid.shape[0] * grid.shape[1]
    assert result.features.dtype == np.float16
    row, column = map(int, result.cells[5])
    patch = slide.read(grid.patch_box(row, column), SIZE_PX)
    with torch.inference_mode():
        expected = extractor.model.backbone(extractor.model.prepare(torch.from_numpy(patch[None].copy())))[0].numpy()
    np.testing.assert_allclose(result.features[5], expected, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("room", [3, 0])
def test_patches_that_do_not_fit_into_memory_are_halved(extractor, slide, monkeypatch, room):
    patches = np.stack([slide.read(Box(0, x, SIZE_PX, x + SIZE_PX), SIZE_PX) for x in range(0, 110, 10)])
    expected = extractor.features(patches)
    plain = extractor.model.prepare

    def prepare(inputs):
        if len(inputs) > room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return plain(inputs)

    monkeypatch.setattr(extractor.model, "prepare", prepare)
    if room:
        np.testing.assert_allclose(extractor.features(patches), expected, rtol=2e-3, atol=1e-4)
        return
    with pytest.raises(ModelError, match="Not one patch fits"):
        extractor.features(patches)


def test_what_is_kept_is_not_computed_again(extractor, slide, cache, monkeypatch):
    grid = slide_grid(slide, GEOMETRY)
    first = drain(extract(slide, extractor, grid, cache=cache))
    counts = counting(monkeypatch)
    again = drain(extract(slide, extractor, grid, cache=FeatureCache(cache.folder, 100)))
    assert not counts
    np.testing.assert_array_equal(again.features, first.features)
    np.testing.assert_array_equal(again.cells, first.cells)


def test_stopped_work_goes_on(extractor, slide, cache, monkeypatch):
    grid = slide_grid(slide, GEOMETRY)
    events = extract(slide, extractor, grid, cache=cache, batch_size=4)
    for event in events:
        if isinstance(event, FeaturesAdded) and event.done >= 8:
            break
    events.close()
    counts = counting(monkeypatch)
    result = drain(extract(slide, extractor, grid, cache=FeatureCache(cache.folder, 100), batch_size=4))
    assert 0 < sum(counts) <= grid.shape[0] * grid.shape[1] - 8
    assert len(result.cells) == grid.shape[0] * grid.shape[1]


def test_what_is_in_view_comes_first(extractor, slide, cache):
    grid = slide_grid(slide, GEOMETRY)
    box = Box(200, 130, 256, 192)
    events = extract(slide, extractor, grid, cache=cache, view=lambda: box, batch_size=4)
    first = [event for event in events if isinstance(event, FeaturesAdded)][1]
    middle = np.asarray([(box.y0 + box.y1) / 2, (box.x0 + box.x1) / 2])

    def far(cell):
        patch = grid.patch_box(*map(int, cell))
        return np.abs(np.asarray([(patch.y0 + patch.y1) / 2, (patch.x0 + patch.x1) / 2]) - middle).max()

    every = np.argwhere(np.ones(grid.shape, bool))
    nearest = sorted(map(far, every))[3]
    assert max(map(far, first.cells)) <= nearest


@pytest.mark.parametrize("change", ["weights", "size", "stain", "pixels", "mpp"])
def test_what_was_made_otherwise_is_never_used(extractor, slide, cache, change, monkeypatch):
    drain(extract(slide, extractor, slide_grid(slide, GEOMETRY), cache=cache))
    from napari_slidecorr.stain import REFERENCE

    other, seen = extractor, slide
    if change == "weights":
        other = Extractor.of(make_model("test_resnet", 2, weights="random", seed=1), GEOMETRY, device="cpu")
    elif change == "size":
        other = replace(extractor, geometry=PatchGeometry(48, 0.5))
    elif change == "stain":
        other = replace(extractor, stain=REFERENCE)
    elif change == "pixels":
        seen = two_class_slide("s", 7)
    else:
        seen = replace(slide, mpp=(0.25, 0.25))
    assert other.key(seen).digest != extractor.key(slide).digest
    counts = counting(monkeypatch)
    grid = slide_grid(seen, other.geometry)
    drain(extract(seen, other, grid, cache=cache))
    assert sum(counts) == grid.shape[0] * grid.shape[1]


def test_a_copy_elsewhere_is_the_same_slide(tmp_path):
    from napari_slidecorr.io.content_digest import content_digest

    (tmp_path / "a.bin").write_bytes(os.urandom(300_000))
    (tmp_path / "other name.bin").write_bytes((tmp_path / "a.bin").read_bytes())
    changed = bytearray((tmp_path / "a.bin").read_bytes())
    changed[150_000] ^= 1
    (tmp_path / "c.bin").write_bytes(changed)
    assert content_digest(tmp_path / "a.bin") == content_digest(tmp_path / "other name.bin")
    assert content_digest(tmp_path / "a.bin") != content_digest(tmp_path / "c.bin")


def test_slides_of_folders_are_told_apart(tmp_path):
    from napari_slidecorr.io.content_digest import content_digest

    for name, data in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / name / "0").mkdir(parents=True)
        (tmp_path / name / "0" / "chunk").write_bytes(data)
    assert content_digest(tmp_path / "a") == content_digest(tmp_path / "b") != content_digest(tmp_path / "c")
    with pytest.raises(SlideError, match="missing"):
        content_digest(tmp_path / "missing")


def chunks(cache: FeatureCache):
    return sorted(cache.folder.glob(f"*/*{CHUNK_SUFFIX}"))


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_damaged_chunks_are_computed_anew(extractor, slide, cache, damage, monkeypatch):
    grid = slide_grid(slide, GEOMETRY)
    first = drain(extract(slide, extractor, grid, cache=cache))
    (path,) = chunks(cache)
    data = bytearray(path.read_bytes())
    data[-1] ^= 255
    path.write_bytes({"cut": data[:-7], "flipped": data, "empty": b""}[damage])
    counts = counting(monkeypatch)
    again = drain(extract(slide, extractor, grid, cache=cache))
    assert sum(counts) == len(first.cells)
    np.testing.assert_array_equal(again.features, first.features)
    assert (
        drain(extract(slide, extractor, grid, cache=FeatureCache(cache.folder, 100))).features.shape
        == first.features.shape
    )


def test_a_folder_of_another_key_is_thrown_away(extractor, slide, cache):
    grid = slide_grid(slide, GEOMETRY)
    drain(extract(slide, extractor, grid, cache=cache))
    (folder,) = cache.folder.iterdir()
    (folder / META_NAME).write_text("{}")
    assert not len(kept_cells(slide, extractor, grid, cache))
    drain(extract(slide, extractor, grid, cache=cache))
    assert (folder / META_NAME).read_text() == extractor.key(slide).to_json()
    assert len(chunks(cache)) == 1


def test_numbers_that_are_none_are_refused(slide, cache):
    model = make_model("test_resnet", 2, weights="random")
    broken = Extractor.of(model, GEOMETRY, device="cpu")
    with torch.no_grad():
        next(model.backbone.parameters()).fill_(float("nan"))
    with pytest.raises(ModelError, match=r"s: .* no finite numbers for patch \(0, 0\)"):
        drain(extract(slide, broken, slide_grid(slide, GEOMETRY), cache=cache))
    assert not chunks(cache)


def test_full_disk_is_told_once_and_work_goes_on(extractor, slide, cache, monkeypatch):
    monkeypatch.setattr("napari_slidecorr.learning.features.CHUNK", 4)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("napari_slidecorr.io.atomic.os.fsync", full)
    events = list(extract(slide, extractor, slide_grid(slide, GEOMETRY), cache=cache, batch_size=4))
    notices = [event.message for event in events if isinstance(event, Notice)]
    assert len(notices) == 1
    assert "no space left" in notices[0]
    assert isinstance(events[-1], FeaturesDone)
    assert len(events[-1].result.cells) == np.prod(slide_grid(slide, GEOMETRY).shape)
    assert not chunks(cache)


def test_a_cache_that_is_switched_off_keeps_nothing(extractor, slide, monkeypatch):
    monkeypatch.setenv("SLIDECORR_CACHE_DIR", "")
    cache = FeatureCache()
    assert cache.folder is None
    result = drain(extract(slide, extractor, slide_grid(slide, GEOMETRY), cache=cache))
    assert len(result.cells)
    assert cache.size_bytes() == 0


def test_the_slide_unused_for_longest_goes_first(extractor, tmp_path):
    slides = [two_class_slide(f"s{i}", i) for i in range(3)]
    roomy = FeatureCache(tmp_path, 100)
    for age, slide in enumerate(slides[:2]):
        drain(extract(slide, extractor, slide_grid(slide, GEOMETRY), cache=roomy))
        os.utime(tmp_path / extractor.key(slide).digest / META_NAME, (age + 1, age + 1))
    each = roomy.size_bytes() // 2
    tight = FeatureCache(tmp_path, 1)
    tight.limit_bytes = int(2.5 * each)
    grid = slide_grid(slides[0], GEOMETRY)
    assert len(kept_cells(slides[0], extractor, grid, tight))  # used now, so the second is the oldest
    drain(extract(slides[2], extractor, grid, cache=tight))
    kept = [bool(len(kept_cells(slide, extractor, grid, tight))) for slide in slides]
    assert kept == [True, False, True]
    assert tight.size_bytes() <= tight.limit_bytes


def test_a_slide_larger_than_the_bound_is_told(extractor, slide, tmp_path):
    cache = FeatureCache(tmp_path, 0)
    events = list(extract(slide, extractor, slide_grid(slide, GEOMETRY), cache=cache))
    (notice,) = [event for event in events if isinstance(event, Notice)]
    assert feature_store.MEGABYTES_VARIABLE in notice.message
    assert len(events[-1].result.cells)


def test_two_windows_on_one_cache(extractor, slide, cache):
    grid = slide_grid(slide, GEOMETRY)
    other = FeatureCache(cache.folder, 100)
    one = extract(slide, extractor, grid, cache=cache, batch_size=8)
    two = extract(slide, extractor, grid, cache=other, batch_size=8)
    for _ in zip(one, two, strict=True):
        pass
    third = kept_cells(slide, extractor, grid, FeatureCache(cache.folder, 100))
    assert len(third) == np.prod(grid.shape)
    assert len(np.unique(third, axis=0)) == len(third)


def test_another_process_empties_the_cache_meanwhile(extractor, slide, cache, monkeypatch):
    monkeypatch.setattr("napari_slidecorr.learning.features.CHUNK", 8)
    grid = slide_grid(slide, GEOMETRY)
    events = extract(slide, extractor, grid, cache=cache, batch_size=8)
    seen = []
    for event in events:
        seen.append(event)
        if len(seen) == 4:
            FeatureCache(cache.folder, 100).clear()
    assert len(seen[-1].result.cells) == np.prod(grid.shape)
    assert not any(isinstance(event, Notice) for event in seen)
    assert 0 < len(kept_cells(slide, extractor, grid, FeatureCache(cache.folder, 100))) < np.prod(grid.shape)


def test_patches_of_a_table_share_what_cells_have(extractor, slides, table, cache, monkeypatch):
    found = drain(table_features(table, slides, extractor, cache=cache))
    assert found.shape == (len(table), extractor.dim)
    counts = counting(monkeypatch)
    np.testing.assert_array_equal(drain(table_features(table, slides, extractor, cache=cache)), found)
    assert not counts
    row = 11
    slide = slides[table.slides[table.slide_index[row]]]
    np.testing.assert_array_equal(extractor.features(slide.read(table.box(row), SIZE_PX)[None])[0], found[row])


class DamagedSource(MemorySource):
    """A slide whose upper rows cannot be read."""

    def read_level(self, level, y, x, height, width):
        if y < self.damaged_rows and height < 200:
            raise SlideError("memory.tif: tile is damaged.")
        return super().read_level(level, y, x, height, width)


@pytest.mark.parametrize(("rows", "fatal"), [(1, False), (250, True)])
def test_damaged_patches(extractor, slide, cache, rows, fatal):
    source = DamagedSource(slide.source.pixels)
    source.damaged_rows = rows
    damaged = Slide("d", source, (0.5, 0.5), "user")
    events = extract(damaged, extractor, slide_grid(damaged, GEOMETRY), cache=cache)
    if fatal:
        with pytest.raises(SlideError, match="cannot be read"):
            drain(events)
        return
    all_events = list(events)
    assert any("cannot be read" in event.message for event in all_events if isinstance(event, Notice))
    assert 0 < len(all_events[-1].result.cells) < np.prod(slide_grid(damaged, GEOMETRY).shape)
    *_, again = extract(damaged, extractor, slide_grid(damaged, GEOMETRY), cache=cache)  # only damaged ones are missing
    np.testing.assert_array_equal(again.result.cells, all_events[-1].result.cells)


def test_labelled_cells_lie_in_regions_of_their_class(slide):
    grid = slide_grid(slide, GEOMETRY)
    found = label_cells(grid, halves(), CLASSES)
    for (row, column), label in zip(found.cells.tolist(), found.labels, strict=True):
        box = grid.patch_box(row, column)
        left = max(0, min(box.x1, 96) - box.x0) * max(0, min(box.y1, 192) - box.y0)
        right = max(0, box.x1 - max(box.x0, 96)) * max(0, min(box.y1, 192) - box.y0)
        assert label == int(right > left)
        assert max(left, right) >= SIZE_PX**2 / 2
    tissue = find_tissue(slide).cells(grid)
    assert tissue[tuple(found.cells.T)].mean() > 0.9


def test_no_region_no_label(slide):
    from napari_slidecorr.regions import RegionSet

    assert len(label_cells(slide_grid(slide, GEOMETRY), RegionSet(), CLASSES).cells) == 0
    assert len(label_cells(slide_grid(slide, GEOMETRY), halves(), ("other",)).cells) == 0
