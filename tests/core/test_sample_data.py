import hashlib

import numpy as np
import pytest
import shapely

from napari_slidecorr import open_slide
from napari_slidecorr.errors import ConfigError, ProjectError
from napari_slidecorr.events import drain
from napari_slidecorr.sample_data import COHORTS, TISSUES, make_cohort, make_slide, plan_cohort
from napari_slidecorr.sample_layout import lay_out
from napari_slidecorr.sample_looks import varied_looks
from napari_slidecorr.sample_tissue import rasterize
from napari_slidecorr.tissue import find_tissue

SIZE = 768


@pytest.fixture(scope="module", params=COHORTS)
def cohort(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, drain(make_cohort(folder, request.param, slides=8, size_px=SIZE))


def union(regions):
    return shapely.union_all([region.polygon for region in regions])


def test_slides_are_pyramids_with_a_pixel_size(cohort):
    _, slides = cohort
    for sample in slides:
        with_mpp = open_slide(sample.path)
        assert with_mpp.mpp == pytest.approx((0.5, 0.5))
        assert [level.shape for level in with_mpp.levels] == [(768, 768), (384, 384)]
        assert with_mpp.id == sample.id


def test_openslide_reads_them_too(cohort):
    openslide = pytest.importorskip("openslide")
    _, slides = cohort
    theirs, ours = openslide.OpenSlide(str(slides[0].path)), open_slide(slides[0].path)
    assert theirs.level_dimensions == ((768, 768), (384, 384))
    assert float(theirs.properties["openslide.mpp-x"]) == pytest.approx(0.5)
    pixels = np.asarray(theirs.read_region((256, 256), 0, (256, 256)).convert("RGB"), int)
    assert np.abs(pixels - ours.source.read_level(0, 256, 256, 256, 256)).mean() < 2


def test_truth_is_where_the_tissue_is(cohort):
    _, slides = cohort
    for sample in slides:
        mask = find_tissue(open_slide(sample.path), max_px=192)
        truth = rasterize(shapely.transform(union(sample.truth), lambda corners: corners / 4), mask.mask.shape)
        assert (mask.mask & ~truth).sum() < 0.02 * truth.sum()
        assert (mask.mask & truth).sum() > 0.6 * truth.sum()


def test_drawn_regions_lie_in_the_truth_of_their_class(cohort):
    _, slides = cohort
    for sample in slides:
        assert len(sample.regions)
        for name in sample.regions.classes:
            assert union(sample.truth.of_class(name)).covers(union(sample.regions.of_class(name)))


def test_classes_do_not_overlap_and_corners_are_whole_pixels(cohort):
    _, slides = cohort
    for sample in slides:
        areas = [union(sample.truth.of_class(name)) for name in sample.truth.classes]
        assert union(sample.truth).area == pytest.approx(sum(area.area for area in areas), rel=1e-4)
        corners = shapely.get_coordinates(areas)
        assert (corners == np.rint(corners)).all()
        assert corners.min() >= 0
        assert corners.max() <= SIZE


def test_every_kind_keeps_what_it_promises(cohort):
    kind, slides = cohort
    training = [sample for sample in slides if not sample.held_out]
    held_out = [sample for sample in slides if sample.held_out]
    assert training
    assert held_out
    assert len({sample.group for sample in slides}) == len(slides)
    classes = {"default": set(TISSUES), "tied": {"tumour", "lymphoid"}, "many": {"tumour", "lymphoid"}}[kind]
    for sample in slides:
        of_one = {"default": False, "tied": not sample.held_out, "many": True}[kind]
        assert len(set(sample.regions.classes)) == (1 if of_one else len(classes))
    for side in (training, held_out):
        assert {name for sample in side for name in sample.regions.classes} == classes


def test_stain_goes_with_the_class_in_training_only():
    plans = plan_cohort("tied").values()
    blue_of_red = {"training": {}, "held out": {}}
    for plan in plans:
        names = blue_of_red["held out" if plan.held_out else "training"]
        for name in plan.drawn:
            names.setdefault(name, []).append(plan.look.gamma[0] / plan.look.gamma[2])
    assert max(blue_of_red["training"]["tumour"]) < min(blue_of_red["training"]["lymphoid"])
    assert blue_of_red["held out"]["tumour"] == blue_of_red["held out"]["lymphoid"]


def test_same_seed_same_bytes_and_another_seed_another_slide(tmp_path):
    (name, plan), *_ = plan_cohort(size_px=512).items()
    digests = [
        hashlib.sha256(make_slide(tmp_path / folder / f"{name}.tif", plan, seed=seed).path.read_bytes()).hexdigest()
        for folder, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_same_seed_same_regions(tmp_path):
    (name, plan), *_ = plan_cohort(size_px=512).items()
    first, second = (make_slide(tmp_path / folder / f"{name}.tif", plan) for folder in "ab")
    assert first.regions == second.regions
    assert first.truth == second.truth


def test_slides_differ_in_colour_as_widely_as_asked():
    looks = varied_looks(8, np.random.default_rng(0))
    strength = [look.haematoxylin[1] for look in looks]
    assert max(strength) > 2 * min(strength)
    assert all(0.3 <= look.blur_px <= 1.7 for look in looks)


def test_shares_of_the_tissue_are_kept():
    shares = {"tumour": 0.5, "lymphoid": 0.3, "stroma": 0.2}
    areas = lay_out((2048, 2048), shares, np.random.default_rng(3))
    whole = sum(area.area for area in areas.values())
    assert {name: area.area / whole for name, area in areas.items()} == pytest.approx(shares, abs=0.03)


def test_progress_is_told_slide_by_slide(tmp_path):
    events = list(make_cohort(tmp_path, slides=4, size_px=512))
    assert [(event.done, event.total) for event in events] == [(i, 4) for i in range(5)]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param({"kind": "few"}, "kind is 'few'", id="unknown kind"),
        pytest.param({"slides": 2}, "slides is 2", id="too few slides"),
        pytest.param({"size_px": 100}, "size_px is 100", id="too small"),
    ],
)
def test_bad_arguments_are_told_at_the_call(tmp_path, arguments, told):
    with pytest.raises(ConfigError, match=told):
        make_cohort(tmp_path / "slides", **arguments)
    assert not (tmp_path / "slides").exists()


def test_a_file_in_the_way_is_told(tmp_path):
    (tmp_path / "slides").write_text("not a folder")
    with pytest.raises(ProjectError, match="slides"):
        drain(make_cohort(tmp_path / "slides", slides=4, size_px=512))


def test_a_closed_stream_leaves_whole_slides_only(tmp_path):
    events = make_cohort(tmp_path, slides=4, size_px=512)
    next(events)
    next(events)
    events.close()
    assert [path.name for path in tmp_path.iterdir()] == ["default-01.tif"]


def test_rasterize_keeps_holes_and_islands_in_holes():
    square = shapely.box(10, 20, 50, 60)
    ring = square.difference(shapely.box(20, 30, 40, 50)).union(shapely.box(28, 38, 32, 42))
    mask = rasterize(ring, (64, 80))
    assert mask.sum() == pytest.approx(ring.area, rel=0.08)
    assert mask[12, 22]
    assert not mask[22, 32]
    assert mask[30, 40]
