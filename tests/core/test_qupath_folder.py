"""A whole project as a folder for QuPath."""

import json
import shutil

import numpy as np
import pytest
import shapely
import tifffile
from typer.testing import CliRunner

from napari_slidecorr.cli import app
from napari_slidecorr.errors import MapError
from napari_slidecorr.events import Notice, drain
from napari_slidecorr.geometry import Grid
from napari_slidecorr.io import read_regions, write_map
from napari_slidecorr.prediction_map import PredictionMap
from napari_slidecorr.project import Project
from napari_slidecorr.qupath_folder import _text, export_qupath
from napari_slidecorr.regions import Region, RegionSet


@pytest.fixture
def project(tmp_path):
    """Three slides: with map and regions, with a map, with nothing."""
    made = Project.create(tmp_path / "project", ("Tumor", "Stroma"))
    for name in ("it's $1", "b", "c"):
        pixels = np.zeros((256, 320, 3), np.uint8)
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, tile=(64, 64), photometric="rgb", metadata=None)
    a, b, _ = made.add_slides([tmp_path / f"{name}.tif" for name in ("it's $1", "b", "c")], mpp=0.5)
    made.save_regions(a.id, RegionSet((Region("Tumor", shapely.box(10, 20, 100, 200), "u1"),)))
    grid = Grid.over((256, 320), (64, 64), (64, 64), (0.5, 0.5))
    for slide in (a, b):
        first = np.random.default_rng(0).random(grid.shape, np.float32)
        prediction = PredictionMap(np.stack([first, 1 - first]), ("Tumor", "Stroma"), grid, slide.id, "m")
        (made.folder / "maps" / slide.id).mkdir(parents=True)
        write_map(made.folder / "maps" / slide.id / "m.ome.zarr", prediction)
    return made


def test_all_slides_are_there_in_the_structure_of_qupath(project, tmp_path):
    a, b, _ = (slide.id for slide in project.cohort)
    assert drain(export_qupath(project, tmp_path / "out")) == (a, b)
    files = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert files == sorted(
        [
            "README.txt",
            f"classes/{a}.geojson",
            f"classes/{b}.geojson",
            "import_into_qupath.groovy",
            f"regions/{a}.geojson",
            f"tiles/{a}.geojson",
            f"tiles/{b}.geojson",
        ]
    )
    kinds = {"classes": "annotation", "tiles": "tile"}
    for kind, object_type in kinds.items():
        told = json.loads((tmp_path / "out" / kind / f"{a}.geojson").read_text())
        assert told["type"] == "FeatureCollection"
        covered = shapely.union_all([shapely.from_geojson(json.dumps(one["geometry"])) for one in told["features"]])
        assert covered.equals(shapely.box(0, 0, 320, 256)), "x before y"
        for item in told["features"]:
            assert item["properties"]["objectType"] == object_type
            assert item["properties"]["classification"]["name"] in ("Tumor", "Stroma")
            assert len(item["properties"]["classification"]["color"]) == 3
    assert read_regions(tmp_path / "out" / "regions" / f"{a}.geojson").regions == project.regions(a)


def test_the_script_names_every_slide_by_its_file(project, tmp_path):
    drain(export_qupath(project, tmp_path / "out"))
    script = (tmp_path / "out" / "import_into_qupath.groovy").read_text()
    assert f"def folder = '{tmp_path / 'out'}'" in script
    assert "    'it\\'s $1.tif': " in script
    assert "    'b.tif': 'b'," in script
    assert "c.tif" not in script
    assert script.count("{") == script.count("}")
    readme = (tmp_path / "out" / "README.txt").read_text()
    assert ("classes/" in readme, "by hand:" in readme) == (True, False)


def test_slides_whose_files_are_called_alike_are_left_to_the_hand(project, tmp_path):
    (tmp_path / "p2").mkdir()
    other = shutil.copy(tmp_path / "b.tif", tmp_path / "p2" / "b.tif")
    (added,) = project.add_slides([other], mpp=0.5)
    project.save_regions(added.id, RegionSet((Region("Tumor", shapely.box(10, 20, 100, 200), "u1"),)))
    *events, end = export_qupath(project, tmp_path / "out")
    assert {"b", added.id} < set(end.result)
    script = (tmp_path / "out" / "import_into_qupath.groovy").read_text()
    assert ("b.tif" in script, "it\\'s $1.tif" in script) == (False, True)
    (notice,) = (event.message for event in events if isinstance(event, Notice))
    readme = (tmp_path / "out" / "README.txt").read_text()
    for told in (f"b.geojson belongs to {tmp_path / 'b.tif'}", f"{added.id}.geojson belongs to {other}"):
        assert told in notice
        assert told in readme


@pytest.mark.parametrize(("text", "quoted"), [("C:\\a", r"'C:\\a'"), ('"', "'\"'"), ("$x", "'$x'"), ("é", r"'\u00e9'")])
def test_text_for_groovy(text, quoted):
    assert _text(text) == quoted


def test_the_command_takes_a_project_or_a_map(project, tmp_path):
    call = CliRunner().invoke
    outcome = call(app, ["export", str(project.folder), str(tmp_path / "out"), "--qupath", "--smooth-um", "10"])
    assert (outcome.exit_code, outcome.stdout.startswith("2 slides")) == (0, True), outcome.output
    assert "at most 10 um" in (tmp_path / "out" / "README.txt").read_text()
    one = call(app, ["export", str(project.maps("b")[0]), str(tmp_path / "one"), "--qupath", "--json"])
    assert json.loads(one.stdout)["slides"] == ["b"]
    refused = call(app, ["export", str(project.folder), str(tmp_path / "x"), "--qupath", "--slide", "b"])
    assert (refused.exit_code, (tmp_path / "x").exists()) == (2, False)


def test_nothing_to_write_is_told(tmp_path):
    with pytest.raises(MapError, match="No slide has a map"):
        export_qupath(Project.create(tmp_path / "p"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
