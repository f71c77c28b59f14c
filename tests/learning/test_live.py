"""Live training as a window steps it: what is done first, what is used, and what happens to bad input."""

import json
import shutil
import subprocess
import threading
import time

import numpy as np
import pytest
from live_stepper import CONFIG, Stepper
from memory_slides import CLASSES, SIZE_PX
from shapely import box as rectangle
from small_project import make_project

from napari_slidecorr.errors import ConfigError
from napari_slidecorr.events import Notice
from napari_slidecorr.geometry import Box
from napari_slidecorr.learning.extractor import Extractor
from napari_slidecorr.learning.fast_training import make_extractor
from napari_slidecorr.learning.feature_store import META_NAME, FeatureCache
from napari_slidecorr.learning.features import FeaturesAdded
from napari_slidecorr.live import UNSURE
from napari_slidecorr.live_config import LiveConfig
from napari_slidecorr.live_events import (
    LiveCells,
    LiveFilled,
    LiveFitted,
    LiveJudged,
    LiveSuggested,
    LiveWaits,
)
from napari_slidecorr.live_wishes import LiveWishes
from napari_slidecorr.regions import Region, RegionSet

STROMA, TUMOUR = CLASSES


@pytest.fixture
def project(tmp_path):
    made = make_project(tmp_path, slides=4)
    for known in made.cohort:
        made.save_regions(known.id, regions())
    return made


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path / "cache")


@pytest.fixture(scope="session")
def extractor():
    return make_extractor(CONFIG)


@pytest.fixture
def start(project, cache, extractor):
    made = []

    def start(**options):
        made.append(Stepper(project, cache, **{"extractor": extractor, **options}))
        return made[-1]

    yield start
    for each in made:
        each.close()


def regions(*, stroma=True, tumour=True, y=(0, 96)):
    """Cells of 32 px: the left half of a slide is stroma, the right half tumour."""
    parts = [(STROMA, (0, 96))] * stroma + [(TUMOUR, (96, 192))] * tumour
    return RegionSet(tuple(Region(name, rectangle(y[0], x0, y[1], x1)) for name, (x0, x1) in parts))


def test_a_map_is_there_as_soon_as_the_labelled_cells_have_features(start, project):
    live = start()
    fitted = live.until(LiveFitted)
    assert (fitted.classes, fitted.slides) == (CLASSES, 4)
    seen = project.cohort[0].id
    cells = live.until(LiveCells, lambda event: event.last)
    assert cells.slide_id == seen
    assert len(cells.cells) < live.study.slides[seen].missing().sum() + len(cells.cells), "the rest comes later"
    live.settle()
    painted = {
        tuple(cell): shown
        for event in live.of(LiveCells)
        for cell, shown in zip(event.cells.tolist(), event.shown, strict=True)
    }
    assert len(painted) == live.study.slides[seen].tissue.sum()
    sure = {cell: shown for cell, shown in painted.items() if shown != UNSURE}
    assert np.mean([(column * SIZE_PX > 96) == (shown == 2) for (_, column), shown in sure.items()]) > 0.85


def test_what_is_in_view_is_filled_and_painted_first(start, project):
    live = start(box=Box(128, 128, 192, 192))
    for known in project.cohort:
        project.save_regions(known.id, RegionSet())
    live.until(LiveFilled, lambda event: event.slide_id == project.cohort[0].id and event.done > 0)
    slide = live.study.slides[project.cohort[0].id]
    first = slide.cells[:8].astype(float) * SIZE_PX
    assert np.abs(first - 160).max() <= 2 * SIZE_PX
    live.wishes.relabel(project.cohort[0].id, regions())
    live.until(LiveFilled, lambda event: event.slide_id == project.cohort[-1].id and event.done == event.total)
    live.wishes.relabel(project.cohort[0].id, regions(y=(0, 64)))
    version = live.wishes.version
    cells = live.until(LiveCells, lambda event: event.version == version)
    assert cells.in_view
    assert (cells.cells * SIZE_PX + SIZE_PX > 112).all()
    rest = live.until(LiveCells)
    assert not rest.in_view
    assert rest.last


def test_other_slides_come_after_the_one_in_view_and_the_view_can_change(start, project):
    ids = [known.id for known in project.cohort]
    live = start(seen=ids[2])
    live.until(LiveFilled, lambda event: event.done == event.total and event.slide_id == ids[2])
    assert all(live.study.slides[other].missing().any() for other in (ids[0], ids[1], ids[3]))
    live.wishes.look(ids[1], None)
    live.until(LiveFilled, lambda event: event.done == event.total and event.slide_id == ids[1])
    assert live.study.slides[ids[0]].missing().any()
    assert live.until(LiveCells, lambda event: event.slide_id == ids[1])


def test_a_change_of_regions_alone_computes_no_feature(start, project, monkeypatch):
    live = start()
    live.settle()
    monkeypatch.setattr(Extractor, "features", lambda *_: pytest.fail("computed again"))
    version = live.wishes.relabel(project.cohort[0].id, regions(y=(32, 96)))
    assert live.until(LiveFitted).version == version
    assert live.until(LiveCells, lambda event: event.last).version == version


def test_heads_are_judged_slide_by_slide_with_a_warning_for_few_slides(start):
    judged = start().until(LiveJudged)
    assert 0.8 < judged.auc <= 1
    assert judged.slides == 4
    assert "4 slides or patients only" in judged.warning


def test_a_class_that_loses_its_last_region_waits_and_says_so(start, project):
    for known in project.cohort[1:]:
        project.save_regions(known.id, RegionSet())
    live, slide_id = start(), project.cohort[0].id
    live.until(LiveFitted)
    head = live.study.head.head
    live.wishes.relabel(slide_id, regions(tumour=False))
    waits = live.until(LiveWaits)
    assert waits.lost == (TUMOUR,)
    assert f"{TUMOUR!r} lost the last region" in waits.message
    assert live.study.head.head is head
    version = live.wishes.relabel(slide_id, regions())
    assert live.until(LiveFitted).version == version


def test_of_three_classes_one_may_be_left_out_on_purpose(start, project):
    project.set_classes((*CLASSES, "fat"))
    slide_id = project.cohort[0].id
    fat = Region("fat", rectangle(96, 0, 192, 96))
    project.save_regions(slide_id, RegionSet((*regions(), fat)))
    live = start()
    assert live.until(LiveFitted).classes == (*CLASSES, "fat")
    live.wishes.relabel(slide_id, regions())
    assert live.until(LiveWaits).lost == ("fat",)
    live.wishes.go_without()
    assert live.until(LiveFitted).classes == CLASSES
    assert live.until(LiveCells).probabilities.shape[1] == 3


def test_nothing_labelled_is_told_and_the_features_are_filled_meanwhile(start, project):
    for known in project.cohort:
        project.save_regions(known.id, RegionSet())
    live = start()
    assert "two classes or more" in live.until(LiveWaits).message
    live.until(LiveFilled, lambda event: event.done == event.total and event.slide_id == project.cohort[-1].id)


@pytest.mark.parametrize("change", ["weights", "geometry", "slide"])
def test_features_of_another_model_grid_or_slide_are_never_used(start, project, cache, change, monkeypatch):
    first = start()
    first.settle()
    first.close()
    options = {
        "weights": {"extractor": None, "config": with_seed(1)},
        "geometry": {"extractor": None, "config": LiveConfig(**{**vars(SMALL), "size_px": 48}).fast},
        "slide": {},
    }[change]
    if change == "slide":  # the same name, other pixels
        path = project.slide_path(project.cohort[0].id)
        shutil.copy(project.slide_path(project.cohort[1].id), path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)
        project = type(project).open(project.folder)
        project.slide(project.cohort[1].id)
    computed = []
    inner = Extractor.features
    monkeypatch.setattr(Extractor, "features", lambda *args: computed.append(len(args[1])) or inner(*args))
    again = Stepper(project, cache, **{"extractor": first.study.extractor, **options})
    again.settle()
    slide = again.study.slides[project.cohort[0].id]
    direct = inner(again.study.extractor, read_patches(slide, again.study.extractor))
    np.testing.assert_allclose(slide.features[:4], direct, atol=2e-2, rtol=1e-2)
    assert (sum(computed) > 0) == (change != "slide"), "the other slide's features are those of its pixels"
    again.close()


SMALL = LiveConfig(backbone="test_resnet", weights="random", size_px=32, mpp=0.5, device="cpu")


def with_seed(seed):
    from dataclasses import replace

    return replace(CONFIG, head=replace(CONFIG.head, seed=seed))


def read_patches(slide, extractor):
    side = extractor.geometry.size_px
    return np.stack([slide.slide.read(slide.grid.patch_box(*cell), side) for cell in slide.cells[:4].tolist()])


def test_a_cache_that_tells_of_another_key_is_not_read(start, cache, monkeypatch):
    first = start()
    first.settle()
    first.close()
    for folder in cache.folder.iterdir():
        told = json.loads((folder / META_NAME).read_text())
        (folder / META_NAME).write_text(json.dumps({**told, "weights": "other"}, sort_keys=True))
    computed = []
    inner = Extractor.features
    monkeypatch.setattr(Extractor, "features", lambda *args: computed.append(len(args[1])) or inner(*args))
    again = start()
    again.settle()
    assert sum(computed) == sum(slide.count for slide in again.study.slides.values())


def test_two_windows_fill_one_cache(project, cache, extractor):
    ends = []

    def window(seen):
        live = Stepper(project, cache, seen=seen, extractor=extractor)
        live.settle()
        live.close()
        ends.append({slide.id: slide.count for slide in live.study.slides.values()})

    threads = [threading.Thread(target=window, args=(project.cohort[i].id,)) for i in (0, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(ends) == 2
    assert ends[0] == ends[1]


def test_features_that_are_no_numbers_end_that_slide_only(start, project, monkeypatch):
    inner, spoiled = Extractor.features, []
    live = start()
    live.until(LiveFitted)

    def features(self, patches):
        out = inner(self, patches)
        return np.full_like(out, np.nan) if not spoiled else out

    monkeypatch.setattr(Extractor, "features", features)
    notice = live.until(Notice, lambda event: "no finite numbers" in event.message)
    spoiled.append(True)
    live.settle()
    seen, *others = (live.study.slides[known.id] for known in project.cohort)
    assert seen.trouble == notice.message
    assert all(not other.trouble and other.count == other.wanted().sum() for other in others)


def test_a_slide_that_is_gone_takes_no_part(start, project):
    project.slide_path(project.cohort[1].id).unlink()
    live = start()
    live.until(LiveFitted)
    assert any("takes no part" in event.message for event in live.of(Notice))
    assert set(live.study.slides) == {known.id for known in project.cohort} - {project.cohort[1].id}


def test_suggestions_are_unlabelled_and_skipped_ones_do_not_come_again(start):
    live = start()
    live.settle()
    found = live.of(LiveSuggested)[-1].suggestions
    assert len(found) > 3
    for each in found:
        slide = live.study.slides[each.slide_id]
        assert each.cell not in set(map(tuple, slide.labelled.cells.tolist()))
        assert each.box == slide.grid.patch_box(*each.cell)
        assert each.class_name in CLASSES
        assert "Need for labels" in each.reason
    live.wishes.skip(found[0].slide_id, found[0].cell)
    again = live.until(LiveSuggested).suggestions
    assert (found[0].slide_id, found[0].cell) not in {(each.slide_id, each.cell) for each in again}


def test_nothing_is_filled_while_a_job_needs_the_machine(start):
    live = start()
    live.until(LiveFitted)
    live.wishes.rest(resting=True)
    live.until(LiveSuggested)
    live.settle()
    before = {slide.id: slide.count for slide in live.study.slides.values()}
    live.settle()
    assert before == {slide.id: slide.count for slide in live.study.slides.values()}
    live.wishes.rest(resting=False)
    live.until(LiveFilled)


def test_closing_keeps_what_was_computed(start, cache):
    live = start()
    live.until(LiveFilled, lambda event: event.done >= 8)
    live.close()
    assert cache.facts()["slides"] >= 1
    kept = start()
    kept.until(LiveFilled, lambda event: event.done >= 8)
    assert not [event for event in kept.said if isinstance(event, FeaturesAdded)]


def test_the_settings_refuse_what_the_fast_way_refuses():
    with pytest.raises(ConfigError, match="size_px"):
        LiveConfig(size_px=3)


def test_the_latest_of_several_wishes_wins():
    wishes = LiveWishes()
    wishes.relabel("a", regions(tumour=False))
    wishes.relabel("b", None)
    latest = regions()
    assert wishes.relabel("a", latest) == 3
    assert wishes.take_regions() == (3, {"a": latest, "b": None})
    assert wishes.take_regions() == (3, {})
    assert wishes.outdated(2, "")
    assert not wishes.outdated(3, "")


def test_a_few_patches_that_no_head_gets_right_do_not_make_the_whole_map_unsure(start, project):
    live = start()
    for number, known in enumerate(project.cohort):  # one cell of each slide has the wrong class
        wrong = Region(TUMOUR, rectangle(0, 0, 32, 32)) if number % 2 else Region(STROMA, rectangle(0, 144, 32, 176))
        live.wishes.relabel(known.id, RegionSet((*regions(y=(32, 96)), wrong)))
    live.until(LiveJudged)
    live.settle()
    assert min(live.study.head.bounds) >= 0.25
    shown = live.of(LiveCells)[-1].shown
    assert (shown == UNSURE).mean() < 0.5


def test_judging_gives_way_while_the_mouse_moves_but_not_to_newer_regions(monkeypatch):
    wishes = LiveWishes()
    wishes.move()
    assert wishes.hand_moves
    wishes.give_way(wishes.version)
    assert not wishes.hand_moves
    now = time.monotonic()
    monkeypatch.setattr("napari_slidecorr.live_wishes.time.monotonic", lambda: now)  # a hand that never rests
    wishes.move()
    version = wishes.version
    wishes.relabel("a", None)
    wishes.give_way(version)
    assert wishes.hand_moves


@pytest.fixture
def scarce(start, monkeypatch):
    """Live training with memory for the labelled cells of all slides and so many of the other cells of one."""

    def scarce(share):
        plenty = start()
        plenty.settle()
        slides = list(plenty.study.slides.values())
        labelled, whole = ([int(count(slide)) for slide in slides] for count in (labelled_count, wanted_count))
        assert len(set(labelled)) == len(set(whole)) == 1
        cells = sum(labelled) + int(share * (whole[0] - labelled[0]))
        limit = cells * slides[0].cell_bytes
        monkeypatch.setattr("napari_slidecorr.learning.feature_store.memory_limit_bytes", lambda: limit)
        return start(), labelled[0], whole[0], cells

    return scarce


def labelled_count(slide):
    return len(slide.labelled.labels)


def wanted_count(slide):
    return slide.wanted().sum()


def told_of_memory(live):
    return [event.message for event in live.of(Notice) if "SLIDECORR_MEMORY_MB" in event.message]


def test_slides_out_of_view_are_let_go_when_memory_is_scarce_and_come_again(scarce, project):
    live, labelled, whole, _ = scarce(1.5)
    live.settle()
    first, second, *_ = (live.study.slides[known.id] for known in project.cohort)
    assert [slide.count for slide in live.study.slides.values()] == [whole, labelled, labelled, labelled]
    live.wishes.look(second.id, None)
    live.until(LiveCells, lambda event: event.slide_id == second.id and event.last)
    live.settle()
    assert (first.count, second.count) == (labelled, whole)
    assert {tuple(cell) for cell in first.cells.tolist()} == {tuple(cell) for cell in first.labelled.cells.tolist()}
    assert [len(part) for part in first.training_rows()] == [labelled, labelled]
    assert len(told_of_memory(live)) == 1
    live.wishes.look(first.id, None)
    live.settle()
    assert first.count == whole


def test_of_a_slide_that_alone_is_too_large_a_part_is_held(scarce):
    live, labelled, whole, cells = scarce(0.5)
    live.settle()
    counts = [slide.count for slide in live.study.slides.values()]
    assert counts == [cells - 3 * labelled, labelled, labelled, labelled]
    assert labelled < counts[0] < whole
    assert len(told_of_memory(live)) == 1


@pytest.fixture
def small_disk(tmp_path):
    """A real disk of five pages."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=20k", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a disk here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_is_told_once_and_live_goes_on_with_features_in_memory(project, extractor, small_disk):
    cache = FeatureCache(small_disk / "features")
    live = Stepper(project, cache, extractor=extractor)
    live.settle()
    told = [event.message for event in live.of(Notice) if event.phase == "Keeping features"]
    assert len(told) == 1
    assert "no space left" in told[0].lower()
    assert all(slide.count == slide.wanted().sum() for slide in live.study.slides.values())
    assert live.study.head is not None
    live.close()
    assert not [path for path in small_disk.rglob("*") if path.is_file() and path.suffix not in {".chunk", ".json"}]
    again = Stepper(project, FeatureCache(small_disk / "features"), extractor=extractor)
    again.settle()
    assert all(slide.count == slide.wanted().sum() for slide in again.study.slides.values())
    again.close()
