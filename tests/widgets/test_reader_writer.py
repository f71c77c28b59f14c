import json

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Shapes
from npe2 import PluginManifest
from shapely.geometry import box
from slides import flat_slide

from napari_slidecorr import io
from napari_slidecorr._napari import samples
from napari_slidecorr._napari.layers import add_regions, identity
from napari_slidecorr._napari.map_layers import class_layer
from napari_slidecorr._napari.reader import get_reader
from napari_slidecorr._napari.writer import write_regions_layer
from napari_slidecorr.errors import SlideError
from napari_slidecorr.geometry import Grid
from napari_slidecorr.prediction_map import PredictionMap
from napari_slidecorr.regions import Region, RegionSet


@pytest.fixture
def tiff(tmp_path):
    def make(name, side=512):
        path = tmp_path / name
        pixels = np.full((side, side, 3), 180, np.uint8)
        tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", resolution=(20000, 20000), resolutionunit=3)
        return path

    return make


@pytest.fixture
def prediction():
    probabilities = np.full((2, 4, 6), 0.5, np.float32)
    probabilities[:, 0, 0] = np.nan
    grid = Grid((4, 6), (0, 0), (64, 64), (64, 64), (0.5, 0.5))
    return PredictionMap(probabilities, ("tumour", "stroma"), grid, "a", "m")


def test_a_dropped_slide_becomes_a_lazy_layer(tiff):
    path = tiff("a.tif")
    ((levels, arguments, kind),) = get_reader(str(path))(str(path))
    assert kind == "image"
    layer = ViewerModel().add_image(levels, **arguments)
    assert layer.multiscale
    assert (identity(layer)["slide_id"], identity(layer)["path"]) == ("a", str(path))
    assert tuple(layer.scale) == pytest.approx((0.5, 0.5))


def test_several_slides_at_once(tiff):
    paths = [str(tiff("a.tif")), str(tiff("b.svs"))]
    assert [arguments["name"] for _, arguments, _ in get_reader(paths)(paths)] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("photo.png", b"\x89PNG", id="another kind"),
        pytest.param("photo.tif", b"\x89PNG", id="a suffix that lies"),
        pytest.param("empty.tif", b"", id="empty"),
    ],
)
def test_what_is_no_slide_is_left_to_others(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert get_reader(str(path)) is None
    assert get_reader([str(path)]) is None


def test_missing_files_and_plain_folders_are_left_to_others(tmp_path):
    (tmp_path / "tables.zarr").mkdir()
    assert get_reader(str(tmp_path / "gone.svs")) is None
    assert get_reader(str(tmp_path / "tables.zarr")) is None
    assert get_reader(str(tmp_path)) is None


def test_a_damaged_slide_says_so(tmp_path):
    path = tmp_path / "pointer.svs"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(SlideError, match=r"pointer\.svs"):
        get_reader(str(path))(str(path))


def test_our_maps_open_as_map_layers(tmp_path, prediction):
    path = tmp_path / "a.ome.zarr"
    io.write_map(path, prediction)
    (classes, told, kind), (probability, _, _) = get_reader(str(path))(str(path))
    wanted, arguments = class_layer(prediction, {})
    assert kind == "labels"
    np.testing.assert_array_equal(classes, wanted)
    np.testing.assert_array_equal(probability, prediction.probabilities[0])
    assert (told["scale"], told["translate"]) == (arguments["scale"], arguments["translate"])


def test_regions_are_saved_as_they_are(tmp_path):
    regions = RegionSet((Region("tumour", box(16, 16, 32.25, 32), "a"), Region("", box(50, 50, 60, 60), "b")))
    layer = add_regions(ViewerModel(), flat_slide(), regions, ("tumour",), {})
    path = tmp_path / "out.geojson"
    assert write_regions_layer(str(path), *layer.as_layer_data_tuple()[:2]) == [str(path)]
    back = io.read_regions(path).regions
    assert [(r.class_name, r.uid) for r in back] == [("tumour", "a"), ("", "b")]
    assert all(after.polygon.equals(before.polygon) for before, after in zip(regions, back, strict=True))


def test_shapes_that_are_not_ours_are_saved_without_class(tmp_path):
    layer = Shapes([np.asarray([(0, 0), (0, 10), (10, 10), (10, 0)], float)], shape_type="rectangle")
    path = tmp_path / "out.geojson"
    write_regions_layer(str(path), *layer.as_layer_data_tuple()[:2])
    (region,) = io.read_regions(path).regions
    assert (region.class_name, region.polygon.bounds) == ("", (0.5, 0.5, 10.5, 10.5))


def test_napari_saves_through_our_writer(tmp_path, npe2pm):
    with npe2pm.tmp_plugin(manifest=PluginManifest.from_distribution("napari-slidecorr")):
        viewer = ViewerModel()
        layer = add_regions(viewer, flat_slide(), RegionSet((Region("t", box(1, 2, 30, 40)),)), (), {})
        path = tmp_path / "out.geojson"
        layer.save(str(path), plugin="napari-slidecorr")
    assert json.loads(path.read_text())["type"] == "FeatureCollection"


def test_the_manifest_names_only_what_there_is():
    manifest = PluginManifest.from_distribution("napari-slidecorr")
    manifest.validate_imports()
    patterns = {
        pattern.lstrip("*") for reader in manifest.contributions.readers for pattern in reader.filename_patterns
    }
    assert patterns == set(io.SLIDE_SUFFIXES)


@pytest.mark.parametrize("kind", ["default", "tied", "many"])
def test_sample_slides_are_made_once(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(samples, "cache_folder", lambda: tmp_path)
    plan = samples.sample_data.plan_cohort
    monkeypatch.setattr(samples.sample_data, "plan_cohort", lambda name: plan(name, slides=4, size_px=512))
    viewer = ViewerModel()
    for data in (made := getattr(samples, f"open_{kind}")()):
        viewer._add_layer_from_data(*data)
    assert [entry[2] for entry in made] == ["image", "shapes"] * 2
    assert all(len(layer.data) for layer in viewer.layers)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    getattr(samples, f"open_{kind}")()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times
