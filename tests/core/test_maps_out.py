"""Maps for other programs, read back with those programs' own readers."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import shapely
import tifffile
from PIL import Image

from napari_slidecorr.errors import MapError, ProjectError
from napari_slidecorr.figure import FALLBACK, UNSURE_COLOR, ScaleBar, class_index, draw_map
from napari_slidecorr.geometry import Grid
from napari_slidecorr.io import MAP_SUFFIXES, read_map, read_regions, write_map
from napari_slidecorr.prediction_map import PredictionMap

CLASSES = ("Tumor", "Stroma, dense")
COLORS = {"Tumor": (200, 0, 1)}
GRID = Grid.over((1000, 1300), (100, 100), (50, 50), (0.5, 0.25))  # 21 x 27 cells


def some_map(grid=GRID, seed=0):
    first = np.random.default_rng(seed).random(grid.shape, np.float32)
    values = np.stack([first, 1 - first])
    values[:, :8, :8] = np.nan
    values[:, 3, 20:] = np.nan
    return PredictionMap(values, CLASSES, grid, "slide 1", "abc")


def shown_at(prediction, y, x):
    """What is drawn at level-0 positions, straight from the cells' edges."""
    rows, columns = (np.searchsorted(prediction.grid.cell_edges_px(a), p, "right") - 1 for a, p in ((0, y), (1, x)))
    return prediction.probabilities[:, rows[:, None], columns[None]]


def ome(path):
    with tifffile.TiffFile(path) as tif:
        return tifffile.xml2dict(tif.ome_metadata)["OME"]["Image"]["Pixels"]


# -- OME-TIFF ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["m.ome.tif", "m.float32.ome.tif", "m.ome.tiff"])
def test_a_tiff_has_the_probabilities_where_the_cells_are_drawn(tmp_path, name):
    prediction = some_map()
    write_map(tmp_path / name, prediction, colors=COLORS)
    with tifffile.TiffFile(tmp_path / name) as tif:
        pixels, axes = tif.series[0].asarray(), tif.series[0].axes
    assert axes == "CYX"
    about = ome(tmp_path / name)
    size = float(about["PhysicalSizeY"]) / 0.5, float(about["PhysicalSizeX"]) / 0.25
    assert size == (25, 25), "level-0 pixels"
    assert (pixels.shape[1] * size[0], pixels.shape[2] * size[1]) == (1000, 1300), "the slide's own extent"
    y, x = ((np.arange(n) + 0.5) * step for n, step in zip(pixels.shape[1:], size, strict=True))
    expected = shown_at(prediction, y, x)
    if "float32" in name:
        np.testing.assert_array_equal(pixels, expected)
    else:
        np.testing.assert_array_equal(pixels, np.rint(np.nan_to_num(expected) * 255))


def test_a_tiff_names_and_colours_its_channels(tmp_path):
    write_map(tmp_path / "m.ome.tif", some_map(), colors=COLORS)
    channels = ome(tmp_path / "m.ome.tif")["Channel"]
    assert [channel["Name"] for channel in channels] == list(CLASSES)
    assert [int(c["Color"]) % 2**32 for c in channels] == [0xC80001FF, 0xFFFFFFFF]


def test_a_tiff_without_a_pixel_size_invents_none(tmp_path):
    write_map(tmp_path / "m.ome.tif", some_map(replace(GRID, mpp=None)))
    assert not [key for key in ome(tmp_path / "m.ome.tif") if key.startswith("Physical")]


def test_the_levels_of_a_tiff_are_means_of_what_is_predicted(tmp_path):
    grid = Grid.over((40_000, 30_000), (100, 100), (100, 100), (0.5, 0.5))
    prediction = some_map(grid)
    write_map(tmp_path / "m.float32.ome.tif", prediction)
    with tifffile.TiffFile(tmp_path / "m.float32.ome.tif") as tif:
        levels = [level.asarray() for level in tif.series[0].levels]
    assert [level.shape for level in levels] == [(2, 800, 600), (2, 400, 300), (2, 200, 150)]
    with np.errstate(all="ignore"), pytest.warns(RuntimeWarning, match="Mean of empty"):
        mean = np.nanmean(levels[0].reshape(2, 400, 2, 300, 2), axis=(2, 4))
    np.testing.assert_allclose(levels[1], mean, rtol=1e-5)


def test_openslide_and_pillow_open_the_tiff(tmp_path):
    openslide = pytest.importorskip("openslide")
    write_map(tmp_path / "m.ome.tif", some_map())
    with tifffile.TiffFile(tmp_path / "m.ome.tif") as tif:
        pixels = tif.series[0].asarray()
    slide = openslide.OpenSlide(tmp_path / "m.ome.tif")
    assert slide.dimensions == pixels.shape[:0:-1]
    found = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))
    np.testing.assert_array_equal(found[..., 0], pixels[0])
    mpp = [float(slide.properties[name]) for name in ("openslide.mpp-y", "openslide.mpp-x")]
    assert mpp == pytest.approx([25 * 0.5, 25 * 0.25], rel=1e-6), "half a cell, where nobody reads OME's XML"
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "m.ome.tif")), pixels[0])


def test_libvips_opens_the_tiff(tmp_path):
    pyvips = pytest.importorskip("pyvips")
    write_map(tmp_path / "m.ome.tif", some_map())
    with tifffile.TiffFile(tmp_path / "m.ome.tif") as tif:
        pixels = tif.series[0].asarray()
    for page, plane in enumerate(pixels):
        found = pyvips.Image.new_from_file(str(tmp_path / "m.ome.tif"), page=page).numpy()
        np.testing.assert_array_equal(found, plane)


# -- CSV ---------------------------------------------------------------------------------------------------------------


def test_a_table_has_a_line_a_patch(tmp_path):
    prediction = some_map()
    write_map(tmp_path / "m.csv", prediction, threshold=0.75)
    with (tmp_path / "m.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    cells = np.argwhere(prediction.predicted)
    assert len(lines) == len(cells)
    y, x = (prediction.grid.cell_edges_px(axis) for axis in (0, 1))
    for line, (row, column) in zip(lines, cells, strict=True):
        values = prediction.probabilities[:, row, column]
        assert [float(line[n]) for n in ("y", "x", "height", "width")] == [
            y[row], x[column], y[row + 1] - y[row], x[column + 1] - x[column]
        ]  # fmt: skip
        assert [float(line[name]) for name in CLASSES] == pytest.approx(values.tolist(), rel=1e-5)
        assert line["class"] == (CLASSES[values.argmax()] if values.max() >= 0.75 else "")
    assert {line["class"] for line in lines} == {"", *CLASSES}


# -- Parquet -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [1 << 16, 40])
def test_a_parquet_table_is_the_csv(tmp_path, monkeypatch, group):
    pytest.importorskip("pyarrow")
    pandas = pytest.importorskip("pandas")
    from pyarrow import parquet

    from napari_slidecorr.io import map_parquet

    monkeypatch.setattr(map_parquet, "GROUP_CELLS", group)
    prediction = some_map()
    write_map(tmp_path / "m.csv", prediction, threshold=0.75)
    write_map(tmp_path / "m.parquet", prediction, threshold=0.75)
    found = pandas.read_parquet(tmp_path / "m.parquet", engine="pyarrow")
    expected = pandas.read_csv(tmp_path / "m.csv")
    assert list(found.columns) == list(expected.columns)
    assert found["class"].isna().tolist() == expected["class"].isna().tolist()
    assert found["class"].dropna().astype(str).tolist() == expected["class"].dropna().tolist()
    for name in ("y", "x", "height", "width"):
        np.testing.assert_array_equal(found[name], expected[name])
    values = np.asarray(found[list(CLASSES)]).T
    np.testing.assert_array_equal(values, prediction.probabilities[:, prediction.predicted])
    told = parquet.read_metadata(tmp_path / "m.parquet").metadata
    assert (told[b"slide_id"], told[b"model_id"], told[b"mpp"]) == (b"slide 1", b"abc", b"0.5 0.25")


def test_parquet_of_an_empty_map_and_of_a_class_called_y(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_map(tmp_path / "e.parquet", PredictionMap.empty(CLASSES, GRID, "s", "m"))
    assert parquet.read_table(tmp_path / "e.parquet").num_rows == 0
    with pytest.raises(MapError, match="class 'y'"):
        write_map(tmp_path / "y.parquet", replace(some_map(), classes=("y", "z")))
    assert not (tmp_path / "y.parquet").exists()


def test_without_pyarrow_it_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MapError, match=r"napari-slidecorr\[parquet\]"):
        write_map(tmp_path / "m.parquet", some_map())
    assert list(tmp_path.iterdir()) == []


# -- polygons ----------------------------------------------------------------------------------------------------------


def polygons(path):
    items = json.loads(path.read_text())["features"]
    return items, [shapely.from_geojson(json.dumps(item["geometry"])) for item in items]


def test_smoothed_outlines_move_by_no_more_than_was_said(tmp_path):
    grid = Grid.over((3000, 3000), (100, 100), (50, 50), (0.5, 0.25))
    y, x = np.indices(grid.shape)
    first = ((y - 30) ** 2 + (x - 30) ** 2 < 400).astype(np.float32)
    prediction = PredictionMap(np.stack([first, 1 - first]), CLASSES, grid, "s", "m")
    write_map(tmp_path / "a.geojson", prediction)
    write_map(tmp_path / "b.geojson", prediction, smooth_um=25)
    (old, steps), (new, smooth) = polygons(tmp_path / "a.geojson"), polygons(tmp_path / "b.geojson")
    assert [item["properties"]["measurements"] for item in old] == [item["properties"]["measurements"] for item in new]
    for before, after in zip(steps, smooth, strict=True):
        assert after.is_valid
        in_um = [shapely.transform(one.boundary, lambda xy: xy * (0.25, 0.5)) for one in (before, after)]
        assert 0 < in_um[0].hausdorff_distance(in_um[1]) <= 25 + 1e-6
        assert len(shapely.get_coordinates(after)) < len(shapely.get_coordinates(before)) / 2
    mm2 = old[0]["properties"]["measurements"]["Area mm2"]
    assert mm2 == pytest.approx(first.sum() * 50 * 50 * 0.125e-6)


def test_without_a_pixel_size_nothing_is_smoothed(tmp_path):
    with pytest.raises(MapError, match="no pixel size"):
        write_map(tmp_path / "m.geojson", some_map(replace(GRID, mpp=None)), smooth_um=5)
    assert list(tmp_path.iterdir()) == []


# -- tiles for QuPath --------------------------------------------------------------------------------------------------


def test_tiles_are_squares_with_probabilities(tmp_path):
    prediction = some_map()
    write_map(tmp_path / "m.tiles.geojson", prediction, threshold=0.75, colors=COLORS)
    items = json.loads((tmp_path / "m.tiles.geojson").read_text())["features"]
    cells = np.argwhere(prediction.predicted)
    assert len(items) == len({item["id"] for item in items}) == len(cells)
    squares = [shapely.from_geojson(json.dumps(item["geometry"])) for item in items]
    assert sum(square.area for square in squares) == pytest.approx(shapely.union_all(squares).area)
    for item, square, (row, column) in zip(items, squares, cells, strict=True):
        y, x = (prediction.grid.cell_edges_px(axis)[i : i + 2] for axis, i in ((0, row), (1, column)))
        assert square.bounds == (x[0], y[0], x[1], y[1])
        about, values = item["properties"], prediction.probabilities[:, row, column]
        assert about["objectType"] == "tile"
        assert list(about["measurements"].values()) == values.tolist()
        name = about.get("classification", {"name": None})["name"]
        assert name == (CLASSES[values.argmax()] if values.max() >= 0.75 else None)


def test_tiles_are_no_regions(tmp_path):
    write_map(tmp_path / "m.tiles.geojson", some_map())
    found = read_regions(tmp_path / "m.tiles.geojson")
    assert len(found.regions) == 0
    assert sum(found.skipped.values()) == some_map().predicted.sum()


# -- PNG ---------------------------------------------------------------------------------------------------------------


def test_a_figure_shows_classes_where_they_are(tmp_path):
    prediction = some_map()
    write_map(tmp_path / "m.png", prediction, threshold=0.75, colors=COLORS)
    pixels = np.asarray(Image.open(tmp_path / "m.png")).astype(int)
    palette = [(255, 255, 255), COLORS["Tumor"], FALLBACK[1], UNSURE_COLOR]
    tints = np.asarray([palette[0], *(np.asarray(c) * 0.55 + 255 * 0.45 for c in palette[1:])])
    class_map = prediction.class_map(0.75)
    class_map[prediction.unsure(0.75)] = 3
    scale = 1600 / 1300
    for row, column in [(2, 2), (3, 22), (10, 10), (20, 3), (12, 26), (15, 15), (5, 20)]:
        y, x = row * 50, column * 50  # the centres of cells; cells centred on the edge are cut
        found = pixels[min(int(y * scale) + 24, 1230 + 23), min(int(x * scale) + 24, 1600 + 23)]
        assert np.abs(tints - found).max(axis=1).argmin() == class_map[row, column]
        assert np.abs(tints - found).max(axis=1).min() < 2


def test_a_figure_tells_unsure_from_not_predicted():
    prediction = some_map()
    index = class_index(prediction, (1000, 1300), 1.0, 0.75)
    assert index[30, 30] == 0
    assert (index == 3).sum() > 0
    row, column = np.argwhere(prediction.unsure(0.75))[5]
    assert index[row * 50, column * 50] == 3


@pytest.mark.parametrize(
    ("longest", "pixel", "unit", "length", "text"),
    [
        (400, 1, "um", 200, "200 um"),
        (400, 10, "um", 200, "2 mm"),
        (100, 0.5, "um", 100, "50 um"),
        (99, 1, "px", 50, "50 px"),
    ],
)
def test_a_scale_bar_has_a_round_length(longest, pixel, unit, length, text):
    assert ScaleBar.fitting(longest, pixel, unit) == ScaleBar(pytest.approx(length), text)


def test_a_figure_without_pixel_size_or_predictions():
    grid = replace(GRID, mpp=None)
    empty = PredictionMap.empty(CLASSES, grid, "s", "m")
    assert draw_map(empty, {}).size[0] == 1600 + 48


# -- all kinds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [s for s in MAP_SUFFIXES if s != ".zarr"])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"m{suffix}"
    write_map(path, some_map())

    def refuse(_):
        raise OSError(28, "full")

    before = path.read_bytes() if path.is_file() else None
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(ProjectError, match="no space left"):
        write_map(path, some_map(seed=1))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert before is None or path.read_bytes() == before


WRITE_BIG = """
import resource, sys, numpy as np
from napari_slidecorr.geometry import Grid
from napari_slidecorr.io import write_map
from napari_slidecorr.prediction_map import PredictionMap
side = int(sys.argv[2])
grid = Grid.over((side * 64, side * 64), (64, 64), (64, 64), (0.5, 0.5))
values = np.full((2, *grid.shape), 0.5, np.float32)
prediction = PredictionMap(values, ("a", "b"), grid, "s", "m")
write_map(sys.argv[1], prediction)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".geojson", ".tiles.geojson"])
def test_what_is_written_is_never_held(tmp_path, suffix):
    """Sixteen times the cells are up to 70 MB more of text; memory grows by the arrays alone."""
    peaks = [
        float(subprocess.check_output([sys.executable, "-c", WRITE_BIG, str(tmp_path / f"m{suffix}"), str(side)]))
        for side in (100, 400)
    ]
    assert peaks[1] - peaks[0] < 20


def test_exports_go_by_the_models_own_bounds_unless_told_otherwise(tmp_path):
    own = replace(some_map(), bounds=(0.5, 0.25))
    kept = tmp_path / "map.ome.zarr"
    write_map(kept, own)
    assert read_map(kept).bounds == own.bounds
    unsure = int(own.unsure().sum())
    assert unsure > 0
    for threshold, empty in ((None, unsure), (0.0, 0)):
        write_map(tmp_path / "map.csv", read_map(kept), threshold=threshold)
        with (tmp_path / "map.csv").open(newline="") as file:
            assert sum(not line["class"] for line in csv.DictReader(file)) == empty
