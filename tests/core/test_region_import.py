import json
from dataclasses import replace

import numpy as np
import pytest
import shapely
from shapely import Polygon, box
from slide_files import write_pyramid

from napari_slidecorr.errors import ProjectError, RegionsError
from napari_slidecorr.io import open_slide, write_regions
from napari_slidecorr.project import Project
from napari_slidecorr.region_fit import Cloud, SlideFacts
from napari_slidecorr.region_import import KNOWN, OUTSIDE, in_whole_picture, plan_import, proposed_class
from napari_slidecorr.region_transform import IDENTITY, Transform
from napari_slidecorr.regions import IGNORE, Region, RegionSet

SHAPE = (1600, 2400)
TISSUE = (100, 160, 500, 700)  # y0 x0 y1 x1


@pytest.fixture
def slide_file(tmp_path):
    rng = np.random.default_rng(0)
    pixels = np.full((*SHAPE, 3), 243, np.uint8)
    y0, x0, y1, x1 = TISSUE
    pixels[y0:y1, x0:x1] = (180, 100, 160)
    path = tmp_path / "slide.tif"
    write_pyramid(path, (pixels + rng.integers(-3, 4, pixels.shape)).astype(np.uint8), levels=3)
    return path


@pytest.fixture
def slide(slide_file):
    return open_slide(slide_file, mpp=0.25)


@pytest.fixture
def file(tmp_path):
    def write(*regions, name="a.geojson", colors=None):
        write_regions(tmp_path / name, RegionSet(regions), colors=colors)
        return tmp_path / name

    return write


ON_TISSUE = Polygon([(120, 200), (120, 640), (460, 640), (460, 420)])
GLASS = box(1000, 1500, 1200, 1800)


def moved(polygon, matrix, shift=(0, 0)):
    return shapely.transform(polygon, lambda points: points @ np.asarray(matrix, float).T + shift)


# -- what a transform does ---------------------------------------------------------------------------------------------


def test_a_transform_swaps_scales_shifts_and_flips_in_this_order():
    transform = Transform(swap=True, flip_x=True, scale=(2, 3), offset=(10, 20))
    points = np.array([[1.0, 5.0]])
    assert transform.points(points, (100, 200)).tolist() == [[5 * 2 + 10, 200 - (1 * 3 + 20)]]
    triangle = Polygon([(0, 0), (0, 7), (9, 7)])
    coords = np.asarray(transform.polygon(triangle, (100, 200)).exterior.coords)
    assert np.allclose(coords, transform.points(np.asarray(triangle.exterior.coords), (100, 200)))
    assert transform.steps == 4
    assert transform.text == "swap x and y, scale by 3 in x, 2 in y, shift by +20 px in x, +10 px in y, flip x"
    assert IDENTITY.polygon(triangle, None) is triangle


@pytest.mark.parametrize("wrong", [{"scale": (0, 1)}, {"scale": (1, float("nan"))}, {"offset": (float("inf"), 0)}])
def test_a_transform_that_is_none_is_refused(wrong):
    with pytest.raises(RegionsError):
        Transform(**wrong)


# -- where the regions lie ---------------------------------------------------------------------------------------------


def test_shares_of_the_area_are_those_of_shapely(slide):
    facts = SlideFacts.of(slide)
    polygons = [
        ON_TISSUE,
        box(300, 400, 700, 1000),
        box(1500, -100, 1700, 300),
        *(box(i, i, i + 3, i + 3) for i in range(99)),
    ]
    on_tissue, outside = Cloud(polygons).shares(IDENTITY, facts)
    y0, x0, y1, x1 = TISSUE
    total = sum(one.area for one in polygons)
    assert on_tissue == pytest.approx(
        sum(one.intersection(box(y0, x0, y1, x1)).area for one in polygons) / total, abs=0.02
    )
    assert outside == pytest.approx(
        1 - sum(one.intersection(box(0, 0, *SHAPE)).area for one in polygons) / total, abs=0.02
    )


def test_a_plan_says_what_would_be_done(slide, file):
    path = file(Region("tumor ", ON_TISSUE), Region("New", GLASS), Region("Ignore*", GLASS), colors={"New": (1, 2, 3)})
    plan = plan_import(path, slide, classes=("Tumor", "Stroma"))
    assert plan.mapping == {"tumor ": "Tumor", "New": "New", "Ignore*": IGNORE}
    assert [(one.name, one.project_class, one.is_new, one.regions) for one in plan.classes] == [
        ("tumor ", "Tumor", False, 1),
        ("New", "New", True, 1),
        ("Ignore*", IGNORE, False, 1),
    ]
    assert plan.classes[0].area_px == ON_TISSUE.area
    assert plan.on_tissue == pytest.approx(ON_TISSUE.area / (ON_TISSUE.area + 2 * GLASS.area), abs=0.02)
    assert plan.poor == (plan.on_tissue < 0.5)
    assert (plan.outside, plan.colors) == (0, {"New": (1, 2, 3)})
    assert plan.apply() == plan.regions
    assert plan.regions.classes == ("Tumor", "New", IGNORE)


@pytest.mark.parametrize(
    ("matrix", "shift", "best"),
    [
        pytest.param([[0, 1], [1, 0]], (0, 0), Transform(swap=True), id="swap"),
        pytest.param([[1, 0], [0, -1]], (0, SHAPE[1]), Transform(flip_x=True), id="flip x"),
        pytest.param([[-1, 0], [0, 1]], (SHAPE[0], 0), Transform(flip_y=True), id="flip y"),
        pytest.param([[0.25, 0], [0, 0.25]], (0, 0), Transform(scale=(4, 4)), id="micrometres, or level 2"),
        pytest.param([[4, 0], [0, 4]], (0, 0), Transform(scale=(0.25, 0.25)), id="divided by mpp"),
    ],
)
def test_the_transform_that_brings_regions_back_is_the_first_suggestion(slide, file, matrix, shift, best):
    plan = plan_import(file(Region("A", moved(ON_TISSUE, matrix, shift))), slide)
    assert plan.poor
    assert plan.suggestions[0].transform == best
    assert plan.suggestions[0].on_tissue > 0.95
    again = plan.with_transform(best)
    assert again.on_tissue > 0.95
    assert again.regions.regions[0].polygon.equals_exact(ON_TISSUE, 1e-6)
    assert again.suggestions == plan.suggestions
    assert again.with_transform(None) == plan


def test_good_regions_are_left_alone(slide, file):
    assert plan_import(file(Region("A", ON_TISSUE)), slide).suggestions == ()
    assert plan_import(file(), slide).suggestions == ()


@pytest.mark.parametrize("sign", [1, -1])
def test_the_bounds_of_the_scan_are_tried_both_ways(slide, file, sign):
    slide.source.origin_px = (0, 300)
    shifted = moved(ON_TISSUE, np.eye(2), (0, sign * 300))
    plan = plan_import(file(Region("A", shifted)), slide)
    assert plan.suggestions[0].transform == Transform(offset=(0, -sign * 300))


def test_regions_for_the_whole_picture_come_back_with_the_suggested_shift(slide, file):
    slide.source.origin_px = (0, 300)
    ours = RegionSet((Region("A", ON_TISSUE, "1"),))
    plan = plan_import(file(*in_whole_picture(ours, slide)), slide)
    assert plan.with_transform(plan.suggestions[0].transform).apply() == ours


def test_a_slide_whose_tissue_cannot_be_seen_is_judged_by_its_size(slide, file, monkeypatch):
    from napari_slidecorr.errors import SlideError

    def damaged(*_, **__):
        raise SlideError("slide.tif: tile is damaged.")

    monkeypatch.setattr("napari_slidecorr.region_fit.find_tissue", damaged)
    plan = plan_import(file(Region("A", ON_TISSUE)), slide)
    assert (plan.on_tissue, plan.outside, plan.suggestions) == (None, 0, ())
    assert list(plan.notes) == ["Nothing is known of the tissue: slide.tif: tile is damaged."]


def test_without_a_slide_nothing_is_said_of_tissue_and_nothing_can_be_flipped(file):
    plan = plan_import(file(Region("A", ON_TISSUE)))
    assert (plan.on_tissue, plan.outside, plan.poor) == (None, None, False)
    assert plan.with_transform(Transform(swap=True)).regions.regions[0].polygon.bounds == (200, 120, 640, 460)
    with pytest.raises(RegionsError, match="size of the slide"):
        plan.with_transform(Transform(flip_x=True))


# -- what is left out --------------------------------------------------------------------------------------------------


def test_regions_outside_of_the_slide_are_left_out_and_all_of_them_refused(slide, file):
    away, half_away = box(5000, 0, 5010, 10), box(-10, 0, 10, 10)
    plan = plan_import(file(Region("A", away), Region("A", half_away, "h")), slide)
    assert [region.uid for region in plan.apply()] == ["h"]
    assert plan.skipped == {OUTSIDE: 1}
    lost = plan_import(file(Region("A", away)), slide)
    with pytest.raises(RegionsError, match=r"a\.geojson: all 1 regions lie outside .* region 1 begins at x 0, y 5000"):
        lost.apply()
    assert lost.poor


def test_mapping_renames_merges_and_leaves_out(slide, file):
    path = file(Region("a", ON_TISSUE, "1"), Region("b", ON_TISSUE, "2"), Region("", ON_TISSUE, "3"))
    plan = plan_import(path, slide, classes=("A", "C"))
    changed = plan.with_mapping({"b": "C", "": " new  one\n"}).with_mapping({"a": None})
    assert [(one.uid, one.class_name) for one in changed.regions] == [("2", "C"), ("3", "new one")]
    assert changed.skipped == {"A region of class 'a' was left out, as asked for.": 1}
    assert [one.is_new for one in changed.classes] == [False, False, True]
    with pytest.raises(RegionsError, match=r"no class 'x'; its classes are: a, b, \(no class\)"):
        plan.with_mapping({"x": "y"})


def test_what_the_slide_has_already_is_not_added_again(file):
    old = RegionSet((Region("A", ON_TISSUE, "1"),))
    plan = plan_import(file(Region("A", ON_TISSUE, "1"), Region("A", GLASS, "2")), existing=old)
    assert plan.skipped == {KNOWN: 1}
    assert [region.uid for region in plan.apply()] == ["1", "2"]
    later = old.added([Region("A", GLASS, "2"), Region("B", GLASS, "3")])
    assert plan.apply(later) == later
    shifted = plan.with_transform(Transform(offset=(1, 1)))
    assert len(shifted.apply()) == 3
    assert len({region.uid for region in shifted.apply()}) == 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [("TUMOR", "Tumor"), ("tumor", "tumor"), ("Ignore*", IGNORE), ("IGNORE", IGNORE), ("", ""), (" x\n", "x")],
)
def test_proposed_class(name, expected):
    assert proposed_class(name, ("Tumor", "tumor", "Stroma")) == expected


# -- into a project ----------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path, slide_file):
    made = Project.create(tmp_path / "study", classes=("Tumor",))
    made.add_slides([slide_file], mpp=0.25)
    made.save_regions("slide", RegionSet((Region("Tumor", ON_TISSUE, "mine"),)))
    return made


def test_a_project_imports_with_a_transform_and_a_mapping(project, file):
    swapped = moved(ON_TISSUE, [[0, 1], [1, 0]])
    path = file(Region("tumor", swapped, "1"), Region("Other", swapped, "2"), Region("Junk", swapped, "3"))
    found = project.import_regions(
        "slide", path, transform=Transform(swap=True), mapping={"Junk": None, "Other": "Stroma"}
    )
    assert [(one.uid, one.class_name) for one in found.regions] == [("1", "Tumor"), ("2", "Stroma")]
    assert project.regions("slide").regions[1].polygon.equals(ON_TISSUE)
    assert project.classes == ("Tumor", "Stroma")
    assert project.plan_import("slide", path).suggestions[0].transform == Transform(swap=True)


def files_of(project):
    return {path: path.read_bytes() for path in project.folder.rglob("*") if path.is_file() and "lock" not in path.name}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("{", id="cut short"),
        pytest.param('{"type": "FeatureCollection", "features": [{"type": "Feature"}, 7]}', id="no feature"),
        pytest.param(json.dumps({"type": "Polygon", "coordinates": [[[9000, 1], [9001, 1], [9001, 9]]]}), id="outside"),
        pytest.param("<ASAP_Annotations><Annotations>", id="cut xml"),
    ],
)
def test_a_failed_import_touches_nothing(project, tmp_path, content):
    before, regions = files_of(project), project.regions("slide")
    path = tmp_path / "bad.geojson"
    path.write_text(content, "utf-8")
    with pytest.raises(RegionsError, match=r"^bad\.geojson: "):
        project.import_regions("slide", path)
    assert files_of(project) == before
    assert (project.regions("slide"), project.classes) == (regions, ("Tumor",))


def test_an_import_that_cannot_be_written_leaves_classes_and_regions(project, file, monkeypatch):
    before, regions = files_of(project), project.regions("slide")

    def full(*_, **__):
        raise ProjectError("regions: cannot be written: no space left on the disk.")

    path = file(Region("New", GLASS))
    monkeypatch.setattr(type(project), "save_regions", full)
    with pytest.raises(ProjectError, match="no space left"):
        project.import_regions("slide", path)
    assert files_of(project) == before
    assert Project.open(project.folder).classes == project.classes == ("Tumor",)
    assert project.regions("slide") == regions


def test_plans_are_values(file):
    plan = plan_import(file(Region("A", ON_TISSUE)))
    with pytest.raises(AttributeError):
        plan.transform = Transform(swap=True)  # type: ignore[misc]
    assert replace(plan, format="x").regions == plan.regions
