import json

import numpy as np
import pytest
from shapely import Polygon, box
from slide_files import write_pyramid
from typer.testing import CliRunner

from napari_slidecorr.cli import app
from napari_slidecorr.cli_regions import options_of
from napari_slidecorr.io import read_regions, write_regions
from napari_slidecorr.project import Project
from napari_slidecorr.region_transform import Transform
from napari_slidecorr.regions import Region, RegionSet

ON_TISSUE = box(120, 560, 460, 680)
SWAPPED = box(560, 120, 680, 460)


def run(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)


def call_json(*arguments):
    outcome = run(*arguments, "--json")
    assert outcome.exit_code == 0, outcome.output
    return json.loads(outcome.stdout)


def fails(*arguments):
    outcome = run(*arguments)
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    (line,) = outcome.stderr.splitlines()
    return line


@pytest.fixture
def slide(tmp_path):
    pixels = np.full((800, 1200, 3), 243, np.uint8)
    pixels[100:500, 160:700] = (180, 100, 160)
    write_pyramid(tmp_path / "one.tif", pixels)
    return tmp_path / "one.tif"


@pytest.fixture
def project(tmp_path, slide):
    made = Project.create(tmp_path / "study", classes=("Tumor",))
    made.add_slides([slide])
    return made.folder


@pytest.fixture
def file(tmp_path):
    def write(*regions, name="one.geojson", **options):
        write_regions(tmp_path / name, RegionSet(regions), **options)
        return tmp_path / name

    return write


def test_read_says_what_a_file_holds(file, slide):
    holed = Polygon(ON_TISSUE.exterior, [[(200, 600), (300, 600), (300, 650)]])
    path = file(Region("Tumor", holed), Region("", ON_TISSUE))
    told = call_json("regions", "read", path)
    assert (told["regions"], told["holes"], told["skipped"], told["repaired"]) == (2, 1, {}, {})
    assert {name: one["regions"] for name, one in told["classes"].items()} == {"Tumor": 1, "": 1}
    assert told["on_tissue"] is None
    assert call_json("regions", "read", path, "--slide", slide)["on_tissue"] == 1
    assert "(no class): 1 region" in run("regions", "read", path).stdout


def test_read_refuses_in_one_sentence(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text("<ImageData><GlobalCoordinates>1</GlobalCoordinates></ImageData>", "utf-8")
    assert "Leica LMD" in fails("regions", "read", path)
    assert "cannot be read" in fails("regions", "read", tmp_path / "gone.xml", "--json")


def test_import_warns_says_what_would_help_and_takes_it(project, file):
    path = file(Region("tumor", SWAPPED, "1"), Region("Junk", SWAPPED, "2"))
    dry = run("regions", "import", project, path, "--dry-run")
    assert "--swap (100%)" in dry.stderr
    assert len(Project.open(project).regions("one")) == 0
    outcome = run("regions", "import", project, path, "--swap", "--map", "Junk=", "--json")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    told = json.loads(outcome.stdout)
    assert (told["slide"], told["regions"], told["by_class"], told["imported"]) == ("one", 1, {"Tumor": 1}, True)
    (region,) = Project.open(project).regions("one")
    assert (region.class_name, region.polygon.bounds) == ("Tumor", ON_TISSUE.bounds)


def test_scales_offsets_and_flips_on_the_command_line(project, file):
    small = box(*(np.array([800 - 460, 560, 800 - 120, 680]) / 2 - 5))
    path = file(Region("A", small, "1"))
    call_json("regions", "import", project, path, "--scale", "2", "--offset", "10,10", "--flip-y")
    assert Project.open(project).regions("one").regions[0].polygon.bounds == ON_TISSUE.bounds
    assert "--scale is 'a'" in fails("regions", "import", project, path, "--scale", "a")
    assert "--offset is '1'" in fails("regions", "import", project, path, "--offset", "1")
    assert "--map is 'A'" in fails("regions", "import", project, path, "--map", "A")
    assert "above 0" in fails("regions", "import", project, path, "--scale", "0")


@pytest.mark.parametrize(
    ("transform", "options"),
    [
        (Transform(), ""),
        (Transform(swap=True, flip_x=True, flip_y=True), "--swap --flip-x --flip-y"),
        (Transform(scale=(4, 4), offset=(1, -2)), "--scale 4 --offset -2,1"),
        (Transform(scale=(4, 2)), "--scale 2,4"),
    ],
)
def test_a_suggestion_is_told_as_options(transform, options):
    assert options_of(transform) == options


@pytest.mark.parametrize(
    ("name", "options", "form"),
    [
        ("one.geojson", (), "GeoJSON"),
        ("one.xml", ("--format", "asap"), "ASAP XML"),
        ("one.xml", ("--format", "aperio"), "Aperio ImageScope XML"),
    ],
)
def test_export_writes_what_can_be_imported_again(tmp_path, project, name, options, form):
    regions = RegionSet((Region("Tumor", ON_TISSUE, "1"), Region("Other", ON_TISSUE, "2")))
    Project.open(project).save_regions("one", regions)
    told = call_json("regions", "export", project, tmp_path / name, *options)
    assert (told["slide"], told["regions"]) == ("one", 2)
    found = read_regions(tmp_path / name)
    assert (found.regions, found.format) == (regions, form)
    again = call_json("regions", "import", project, tmp_path / name)
    assert (again["regions"], again["by_class"]) == (0, {})


def test_a_file_goes_to_the_slide_of_its_whole_name(project, file):
    path = file(Region("Tumor", ON_TISSUE, "1"))
    for name in ("one.regions.geojson", "one.annotations.geojson"):
        assert call_json("regions", "import", project, path.rename(path.with_name(name)), "--dry-run")["slide"] == "one"
        path = path.with_name(name)
    assert "'one.1'" in fails("regions", "import", project, path.rename(path.with_name("one.1.geojson")))


def test_export_wants_to_know_which_xml(tmp_path, project):
    assert "--format asap or --format aperio" in fails("regions", "export", project, tmp_path / "one.xml")
    assert "'two'" in fails("regions", "export", project, tmp_path / "two.geojson", "--slide", "two")


def test_info_knows_the_other_formats(file):
    path = file(Region("A", ON_TISSUE), name="a.xml", format="aperio")
    assert call_json("info", path)["classes"]["A"]["regions"] == 1
