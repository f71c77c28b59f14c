import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from shapely import Polygon, box

from napari_slidecorr.cohort import CohortSlide
from napari_slidecorr.config import PatchConfig, PredictConfig, ScrConfig, TrainConfig
from napari_slidecorr.errors import CohortError, MapError, ModelError, ProjectError, RegionsError, SlideError
from napari_slidecorr.events import BlockDone, MapBegun, Notice, Predicted, Trained, drain
from napari_slidecorr.io import open_slide, read_map, read_regions, write_regions
from napari_slidecorr.project import Project
from napari_slidecorr.project_file import PALETTE, safe_name
from napari_slidecorr.regions import IGNORE, Region, RegionSet

PATCHES = PatchConfig(size_px=32)
TRAIN = TrainConfig(
    patches=PatchConfig(size_px=64), weights="random", epochs=1, slides_per_batch=3, patches_per_slide=8, device="cpu"
)
PREDICT = PredictConfig(block_cells=2, tissue_only=False, device="cpu")


def write_slide(path, seed=0, mpp=0.5, side=256):
    """A slide whose left half is pink and whose right half is violet, with noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pixels = np.empty((side, side, 3), np.int16)
    pixels[:, : side // 2], pixels[:, side // 2 :] = (230, 150, 190), (120, 60, 160)
    pixels = np.clip(pixels + rng.integers(-20, 20, pixels.shape), 0, 255).astype(np.uint8)
    options = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"} if mpp else {}
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", metadata=None, **options)
    return path


def halves(side=256):
    return RegionSet(
        (Region("pink", box(0, 0, side, side // 2), "p"), Region("violet", box(0, side // 2, side, side), "v"))
    )


@pytest.fixture
def project(tmp_path):
    return Project.create(tmp_path / "project", ["pink", "violet"])


@pytest.fixture
def labelled(project, tmp_path):
    """Four slides of four patients, both classes labelled in each."""
    for n in range(4):
        project.add_slides([write_slide(tmp_path / f"s{n}.tif", n)], group=f"patient {n}")
        project.save_regions(f"s{n}", halves())
    return project


def files_of(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def full_disk(monkeypatch):
    def refuse(_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", refuse)


# -- the folder --------------------------------------------------------------------------------------------------------


def test_what_is_made_can_be_opened(tmp_path):
    made = Project.create(tmp_path / "deep" / "project", ["Tumor", "Größe µ"])
    made.add_slides([write_slide(tmp_path / "a.tif")], mpp=(0.5, 0.25), group=" Jane ")
    made.set_classes(["Größe µ", "Tumor"], {"Tumor": (1, 2, 3)})
    found = Project.open(tmp_path / "deep" / "project")
    assert found.cohort == made.cohort == (CohortSlide("a", str(tmp_path / "a.tif"), "Jane", (0.5, 0.25)),)
    assert found.classes == ("Größe µ", "Tumor")
    assert found.colors == made.colors == {"Größe µ": PALETTE[1], "Tumor": (1, 2, 3), IGNORE: (190, 190, 190)}
    assert found.slide("a").mpp == (0.5, 0.25)


def test_create_refuses_a_project(project):
    with pytest.raises(ProjectError, match="there is a project already"):
        Project.create(project.folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "not a project, it has no project.json"),
        ("", "damaged"),
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"format": 1, "slides": []}', "damaged"),
        ('{"format": "new"}', "damaged"),
        ('{"format": 2}', "newer version"),
        ('{"format": 1, "classes": [], "slides": [{"id": "../a", "path": "", "group": "", "mpp": null}]}', "damaged"),
        ('{"format": 1, "classes": [{"name": "a", "color": [1, 2]}], "slides": []}', "three numbers"),
    ],
)
def test_open_refuses_what_is_no_project(tmp_path, content, words):
    if content is not None:
        (tmp_path / "project.json").write_text(content)
    with pytest.raises(ProjectError, match=words) as caught:
        Project.open(tmp_path)
    assert str(tmp_path) in str(caught.value) or "Class" in str(caught.value)


def test_a_full_disk_changes_nothing(labelled, tmp_path, monkeypatch):
    before = {name: (labelled.folder / name).read_bytes() for name in files_of(labelled.folder)}
    slide = write_slide(tmp_path / "new.tif")
    full_disk(monkeypatch)
    for change in (
        lambda: labelled.set_classes(["other"]),
        lambda: labelled.add_slides([slide]),
        lambda: labelled.set_group("s0", "other"),
        lambda: labelled.set_mpp("s0", 1.0),
        lambda: labelled.remove_slide("s0"),
        lambda: labelled.save_regions("s0", RegionSet()),
        lambda: labelled.save_regions("s0", RegionSet((Region("new", box(0, 0, 1, 1)),))),
    ):
        with pytest.raises(ProjectError, match="no space left on the disk"):
            change()
    assert {name: (labelled.folder / name).read_bytes() for name in files_of(labelled.folder)} == before
    assert labelled.classes == ("pink", "violet")
    assert [(s.id, s.group, s.mpp) for s in labelled.cohort] == [(f"s{n}", f"patient {n}", None) for n in range(4)]
    assert labelled.regions("s0") == halves()


def test_a_project_may_move_with_its_slides(tmp_path):
    project = Project.create(tmp_path / "here")
    project.add_slides([write_slide(tmp_path / "here" / "slides" / "a.tif")])
    assert project.cohort[0].path == "slides/a.tif"
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert Project.open(tmp_path / "there").slide("a").shape == (256, 256)


# -- slides ------------------------------------------------------------------------------------------------------------


def test_ids_are_unique_and_safe(project, tmp_path):
    paths = [
        tmp_path / n / name for n, name in (("1", "a.tif"), ("2", "a.tif"), ("3", "A.tif"), ("4", "x:y *?.ome.tif"))
    ]
    if os.name == "nt":
        paths.pop()
    added = project.add_slides([write_slide(path) for path in paths])
    assert [slide.id for slide in added] == ["a", "a-2", "A-3", "x_y"][: len(paths)]
    assert [slide.group for slide in added] == [slide.id for slide in added]
    assert [project.slide(s.id).path for s in added] == paths


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("slide 1", "slide_1"),
        ("../../etc", "etc"),
        ("...", "_"),
        ("con", "_con"),
        ("NUL.b", "_NUL.b"),
        ("Größe", "Größe"),
        ("a" * 300, "a" * 100),
        ("a\0b", "a_b"),
    ],
)
def test_safe_names(name, safe):
    assert safe_name(name) == safe
    assert safe_name(safe) == safe


def test_slides_are_added_all_or_none(project, tmp_path):
    good = write_slide(tmp_path / "good.tif")
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"not a slide")
    with pytest.raises(SlideError, match=r"bad\.tif"):
        project.add_slides([good, bad])
    assert project.cohort == Project.open(project.folder).cohort == ()
    project.add_slides([good])
    with pytest.raises(ProjectError, match=r"good\.tif: this slide is in the project already"):
        project.add_slides([tmp_path / "." / "good.tif"])
    with pytest.raises(ProjectError, match="already"):
        project.add_slides([write_slide(tmp_path / "c.tif"), tmp_path / "c.tif"])
    assert len(project.cohort) == 1


def test_a_missing_slide_is_told_when_it_is_used(project, tmp_path):
    project.add_slides([write_slide(tmp_path / "a.tif")])
    (tmp_path / "a.tif").unlink()
    found = Project.open(project.folder)
    with pytest.raises(SlideError, match=r"Slide a: .*a\.tif is missing"):
        found.slide("a")


def test_unknown_slides(labelled):
    for use in (labelled.slide, labelled.regions, labelled.remove_slide, labelled.maps):
        with pytest.raises(ProjectError, match="There is no slide 's9' in project; its slides are: s0, s1, s2, s3"):
            use("s9")


def test_what_is_removed_can_be_found_again(labelled):
    labelled.remove_slide("s1")
    assert [slide.id for slide in Project.open(labelled.folder).cohort] == ["s0", "s2", "s3"]
    assert read_regions(labelled.folder / "removed" / "regions" / "1-s1.geojson").regions == halves()
    labelled.add_slides([labelled.folder.parent / "s1.tif"])
    assert labelled.regions("s1") == RegionSet()
    labelled.save_regions("s1", halves())
    labelled.remove_slide("s1")
    assert (labelled.folder / "removed" / "regions" / "2-s1.geojson").exists()


def test_group_and_mpp_are_kept(labelled):
    labelled.set_group("s1", " Joe ")
    labelled.set_group("s2", "")
    labelled.set_mpp("s1", 0.25)
    found = Project.open(labelled.folder)
    assert [(s.group, s.mpp) for s in found.cohort[1:3]] == [("Joe", (0.25, 0.25)), ("s2", None)]
    assert labelled.slide("s1").mpp == found.slide("s1").mpp == (0.25, 0.25)
    labelled.set_mpp("s1", None)
    assert labelled.slide("s1").mpp == pytest.approx((0.5, 0.5))
    with pytest.raises(SlideError, match="mpp is -1"):
        labelled.set_mpp("s1", -1)
    assert Project.open(labelled.folder).cohort[1].mpp is None


# -- classes and regions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [[""], [" a"], ["a\n"], ["a", "a"], ["a\0b"]])
def test_class_names_that_cannot_be(project, names):
    with pytest.raises(ProjectError, match=r"[Cc]lass"):
        project.set_classes(names)
    assert project.classes == ("pink", "violet")


def test_colours_differ_and_stay(project):
    project.set_classes([f"c{n}" for n in range(len(PALETTE))], {"c3": PALETTE[0]})
    assert len(set(project.colors.values())) == len(PALETTE) + 1
    before = project.colors
    project.set_classes(["c5", "c1"])
    assert project.colors == {name: before[name] for name in ("c5", "c1", IGNORE)}
    with pytest.raises(ProjectError, match="three numbers"):
        project.set_classes(["a"], {"a": (0, 0, 256)})


def test_regions_are_on_the_disk_at_once(project, tmp_path):
    project.add_slides([write_slide(tmp_path / "a.tif")])
    assert project.regions("a") == RegionSet()
    regions = halves().added(
        [Region("", box(0, 0, 5, 5)), Region("new", box(0, 0, 5, 5)), Region(IGNORE, box(0, 0, 5, 5))]
    )
    project.save_regions("a", regions)
    found = Project.open(project.folder)
    assert found.regions("a") == project.regions("a") == regions
    assert found.classes == ("pink", "violet", "new")
    told = json.loads((project.folder / "regions" / "a.geojson").read_text())["features"]
    assert told[0]["properties"]["classification"] == {"name": "pink", "color": list(PALETTE[0])}


def test_damaged_regions_are_told_when_they_are_used(labelled):
    (labelled.folder / "regions" / "s1.geojson").write_text("{")
    found = Project.open(labelled.folder)
    assert found.regions("s0") == halves()
    with pytest.raises(RegionsError, match=r"s1\.geojson"):
        found.regions("s1")


def test_import_adds_once_and_takes_colours(project, tmp_path):
    project.add_slides([write_slide(tmp_path / "a.tif")])
    project.save_regions("a", RegionSet((Region("pink", box(0, 0, 9, 9), "mine"),)))
    file = tmp_path / "from elsewhere.geojson"
    write_regions(
        file, RegionSet((Region(" Tumor  cells\n", box(1, 2, 3, 4), "t"),)), colors={" Tumor  cells\n": (9, 8, 7)}
    )
    added = project.import_regions("a", file)
    assert [(r.class_name, r.uid) for r in added.regions] == [("Tumor cells", "t")]
    assert added.skipped == {}
    again = project.import_regions("a", file)
    assert again.regions == RegionSet()
    assert again.skipped == {"A region that is in the project already was left out.": 1}
    assert [region.uid for region in Project.open(project.folder).regions("a")] == ["mine", "t"]
    assert "Tumor cells" in project.classes


def test_what_qupath_ignores_is_ignored(project, tmp_path):
    project.add_slides([write_slide(tmp_path / "a.tif")])
    write_regions(tmp_path / "b.geojson", RegionSet((Region("Ignore*", box(0, 0, 9, 9)),)))
    assert project.import_regions("a", tmp_path / "b.geojson").regions.classes == (IGNORE,)
    assert project.classes == ("pink", "violet")


def test_import_of_a_changed_region_keeps_both(project, tmp_path):
    project.add_slides([write_slide(tmp_path / "a.tif")])
    project.save_regions("a", halves())
    write_regions(tmp_path / "b.geojson", RegionSet((Region("pink", box(0, 0, 9, 9), "p"),)))
    for _ in range(2):
        project.import_regions("a", tmp_path / "b.geojson")
        assert [region.area_px for region in project.regions("a")] == [256 * 128, 256 * 128, 81]


def test_import_takes_the_colours_of_new_classes_only(project, tmp_path):
    project.add_slides([write_slide(tmp_path / "a.tif")])
    regions = RegionSet((Region("pink", box(0, 0, 9, 9)), Region("new", box(0, 0, 9, 9))))
    write_regions(tmp_path / "b.geojson", regions, colors={"pink": (1, 1, 1), "new": (2, 2, 2)})
    project.import_regions("a", tmp_path / "b.geojson")
    assert project.colors == {"pink": PALETTE[0], "violet": PALETTE[1], "new": (2, 2, 2), IGNORE: (190, 190, 190)}


# -- patches -----------------------------------------------------------------------------------------------------------


def test_patches_of_every_labelled_slide(labelled, tmp_path):
    labelled.add_slides([write_slide(tmp_path / "unlabelled.tif", mpp=None)])
    table = labelled.patch_table(PATCHES)
    assert table.slides == ("s0", "s1", "s2", "s3")
    assert table.classes == ("pink", "violet")
    assert table.counts().tolist() == [[32, 32]] * 4
    labelled.set_mpp("s3", 0.25)
    assert labelled.patch_table(PATCHES).counts().tolist() == [[32, 32]] * 3 + [[8, 8]]


def test_ignored_areas_are_no_class(labelled):
    labelled.save_regions("s0", halves().added([Region(IGNORE, box(0, 0, 256, 128))]))
    table = labelled.patch_table(PATCHES)
    assert table.classes == ("pink", "violet")
    assert table.counts()[0].tolist() == [0, 32]


def test_an_outline_across_itself_can_be_cut(labelled):
    tie = Polygon([(0, 0), (256, 256), (256, 0), (0, 256)])
    labelled.save_regions("s0", RegionSet((Region("pink", tie, "tie"),)))
    assert labelled.patch_table(PATCHES).counts()[0, 0] > 10
    assert len(Project.open(labelled.folder).regions("s0")) == 2


def test_a_slide_without_a_pixel_size(project, tmp_path):
    project.add_slides([write_slide(tmp_path / "a.tif", mpp=None)])
    project.save_regions("a", halves())
    with pytest.raises(SlideError, match="a: no physical pixel size"):
        project.patch_table(PATCHES)
    assert len(project.patch_table(PatchConfig(size_px=32, mpp=None))) == 64


# -- training and prediction -------------------------------------------------------------------------------------------


def test_training_needs_regions_on_two_patients(project, tmp_path):
    with pytest.raises(CohortError, match="no regions yet"):
        project.train(TRAIN)
    project.add_slides([write_slide(tmp_path / f"s{n}.tif") for n in range(2)], group="one")
    for n in range(2):
        project.save_regions(f"s{n}", halves())
    with pytest.raises(CohortError, match="on one slide or patient only"):
        project.train(TRAIN)
    assert not (project.folder / "runs").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A project with one run; tests copy it."""
    folder = tmp_path_factory.mktemp("trained")
    project = Project.create(folder / "project", ["pink", "never drawn", "violet"])
    for n in range(4):
        project.add_slides([write_slide(folder / "project" / f"s{n}.tif", n)], group=f"patient {n}")
        project.save_regions(f"s{n}", halves())
    events = list(project.train(TRAIN))
    return project.folder, events


@pytest.fixture
def with_run(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "copy")
    return Project.open(tmp_path / "copy")


def test_training_leaves_a_run(trained):
    folder, events = trained
    project = Project.open(folder)
    assert project.runs() == [folder / "runs" / "scr-resnet18-001"]
    assert isinstance(events[-1], Trained)
    assert Path(events[-1].result.spec_path) == project.runs()[0] / "model.json"
    told = json.loads((project.runs()[0] / "model.json").read_text())
    assert told["classes"] == ["pink", "violet"]
    assert {*told["train_slides"], *told["validation_slides"]} == {"s0", "s1", "s2", "s3"}
    warnings = [event.message for event in events if isinstance(event, Notice) and event.warning]
    assert "Class 'never drawn' has no patches and is left out of the model." in warnings


def test_copies_of_a_slide_are_told_unless_they_are_one_patient(labelled, tmp_path):
    def warned():
        events = labelled.train(TRAIN)
        told = next(events)
        events.close()
        return told.message if isinstance(told, Notice) and told.warning else ""

    shutil.copy(tmp_path / "s0.tif", tmp_path / "again.tif")
    labelled.add_slides([tmp_path / "again.tif"])
    assert warned() == ""  # without regions it takes no part
    labelled.save_regions("again", halves())
    assert "copies of one file" in warned()
    assert "s0" in warned()
    labelled.set_group("again", "patient 0")
    assert warned() == ""


def test_overlapping_classes_are_told_before_the_run(labelled):
    regions = (*halves().regions, Region("violet", box(0, 0, 128, 128), "over"))
    for n in range(4):
        labelled.save_regions(f"s{n}", RegionSet(regions))
    events = labelled.train(TRAIN)
    told = next(events)
    events.close()
    assert isinstance(told, Notice)
    assert told.warning
    assert "regions of 'pink' and 'violet' overlap" in told.message


def test_a_run_that_was_killed_while_its_first_file_was_written_leaves_its_name_free(with_run):
    run = with_run.folder / "runs" / "early"
    run.mkdir(parents=True)
    (run / "config.json.123.part").write_text("{")
    assert with_run._new_run("early") == run
    with pytest.raises(ProjectError, match="nothing to resume"):
        with_run.stopped_settings("early")
    (run / "config.json").write_text("{}")
    with pytest.raises(ProjectError, match="there is a run of that name"):
        with_run._new_run("early")


def test_names_of_runs(with_run):
    with pytest.raises(ProjectError, match="there is a run of that name"):
        with_run.train(TRAIN, name="scr-resnet18-001")
    with pytest.raises(ProjectError, match="A run cannot be named"):
        with_run.train(TRAIN, name="../x")
    with pytest.raises(ProjectError, match="nothing to resume"):
        with_run.train(TRAIN, resume=True)
    assert with_run.map_path("s0", "m", PredictConfig()).name == "m.ome.zarr"


def test_a_stopped_run_goes_on(with_run):
    config = replace(TRAIN, epochs=2, objective=ScrConfig(beta=0.1))
    events = with_run.train(config, name="mine")
    for event in events:
        if type(event).__name__ == "EpochDone":
            break
    events.close()
    assert [run.name for run in with_run.runs()] == ["scr-resnet18-001"]
    assert with_run.stopped_settings() == with_run.stopped_settings("mine") == config
    result = drain(with_run.train(config, resume=True))
    assert [run.name for run in with_run.runs()] == ["scr-resnet18-001", "mine"]
    with pytest.raises(ProjectError, match="nothing to resume"):
        with_run.stopped_settings()
    assert [epoch.epoch for epoch in result.epochs] == [0, 1]


def test_prediction_stores_each_block_before_it_is_told(with_run):
    events = with_run.predict(["s0", "s1"], config=PREDICT)
    begun = next(events)
    assert isinstance(begun, MapBegun)
    assert not begun.begun.predicted.any()
    shown = begun.begun.probabilities.copy()
    for event in events:
        if isinstance(event, BlockDone):
            assert event.slide_id == "s0"
            shown[:, event.rows, event.columns] = event.probabilities
            break
    events.close()
    assert with_run.maps("s0") == []
    with pytest.raises(MapError, match="not complete"):
        read_map(begun.path)

    rest = list(with_run.predict(["s0", "s1"], config=PREDICT))
    first, second = (event for event in rest if isinstance(event, Predicted))
    begun_again = next(event for event in rest if isinstance(event, MapBegun))
    np.testing.assert_array_equal(begun_again.begun.probabilities, shown)
    blocks = [event for event in rest if isinstance(event, BlockDone)]
    assert [event.slide_id for event in blocks] == ["s0"] * 8 + ["s1"] * 9
    assert (first.result.slide_id, second.result.slide_id) == ("s0", "s1")
    assert with_run.maps("s0") == [first.path]
    assert first.path.name.endswith("-all.ome.zarr")
    np.testing.assert_array_equal(read_map(first.path).probabilities, first.result.probabilities)
    assert first.result.predicted.all()

    again = list(with_run.predict(["s0"], config=PREDICT))
    assert not [event for event in again if isinstance(event, BlockDone)]
    np.testing.assert_array_equal(again[-1].result.probabilities, first.result.probabilities)


def test_settings_that_change_a_map_have_their_own(with_run):
    drain(with_run.predict(["s0"], config=PREDICT))
    drain(with_run.predict(["s0"], with_run.runs()[0] / "model.json", replace(PREDICT, overlap=0.5)))
    assert [read_map(path).grid.shape for path in with_run.maps("s0")] == [(5, 5), (9, 9)]
    with_run.set_mpp("s0", 0.4)
    assert with_run.maps("s0") == []
    assert len(list((with_run.folder / "removed" / "maps").rglob("*.ome.zarr"))) == 2


def test_prediction_checks_before_it_begins(project, with_run, tmp_path):
    with pytest.raises(ProjectError, match="no trained model yet"):
        project.predict([])
    with pytest.raises(ProjectError, match="There is no slide 'x'"):
        with_run.predict(["x"])
    with pytest.raises(ModelError, match="cannot be read"):
        with_run.predict(["s0"], tmp_path)
    with_run.add_slides([write_slide(tmp_path / "no size.tif", mpp=None)])
    with pytest.raises(SlideError, match="no_size: no physical pixel size"):
        with_run.predict(["no_size"])


def test_a_full_disk_ends_a_prediction_that_can_go_on(with_run, monkeypatch):
    with monkeypatch.context() as patch:
        events = with_run.predict(["s0"], config=PREDICT)
        next(events)
        full_disk(patch)
        with pytest.raises(ProjectError, match="no space left on the disk"):
            list(events)
    assert drain(with_run.predict(["s0"], config=PREDICT)).predicted.all()


def test_maps_are_exported(with_run, tmp_path):
    drain(with_run.predict(["s0"], config=PREDICT))
    (path,) = with_run.maps("s0")
    with_run.export(path, tmp_path / "a.ome.zarr")
    with_run.export(path, tmp_path / "a.geojson")
    assert read_map(tmp_path / "a.ome.zarr").slide_id == "s0"
    found = read_regions(tmp_path / "a.geojson").regions
    assert sum(region.area_px for region in found) == 256 * 256
    told = json.loads((tmp_path / "a.geojson").read_text())["features"][0]["properties"]["classification"]
    assert tuple(told["color"]) == with_run.colors[told["name"]]


def test_the_real_slide(project, shared_data):
    path = shared_data / "slides" / "CMU-1-Small-Region.svs"
    (slide,) = project.add_slides([path])
    added = project.import_regions(slide.id, shared_data / "annotations" / "luna-123.annotation.geojson")
    assert added.regions.classes == ("Other", "Tumor")
    assert project.slide(slide.id).shape == open_slide(path).shape
    assert project.patch_table(PatchConfig()).counts().tolist() == [[0, 0, 16, 6]]
