import errno
import json
import os
import signal
import subprocess
import sys
import uuid
from dataclasses import replace

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_slidecorr.cell_areas import label_areas, outlines
from napari_slidecorr.errors import MapError, ProjectError
from napari_slidecorr.events import BlockDone
from napari_slidecorr.geometry import Grid
from napari_slidecorr.io import read_map, read_regions, write_map
from napari_slidecorr.io.map_zarr import MapWriter, is_complete, read
from napari_slidecorr.io.qupath import Uids
from napari_slidecorr.prediction_map import PredictionMap

GRID = Grid.over((1000, 1300), (100, 100), (50, 50), (0.5, 0.25))  # 21 x 27 cells
CLASSES = ("Tumor", "Stroma")
COLORS = {"Tumor": (200, 0, 1)}


def some_map(grid=GRID, classes=CLASSES, seed=0):
    values = np.random.default_rng(seed).random((len(classes), *grid.shape), np.float32)
    values[:, :8, :8] = np.nan  # a block of glass
    values[:, 3, 20:] = np.nan
    return PredictionMap(values, classes, grid, "slide 1", "abc")


def writer_of(path, prediction, block_cells=8, **changes):
    about = {"classes": prediction.classes, "grid": prediction.grid, "slide_id": prediction.slide_id}
    return MapWriter(path, **(about | {"model_id": "abc", "block_cells": block_cells} | changes))


def block_of(prediction, block):
    return BlockDone(phase="", rows=block[0], columns=block[1], probabilities=prediction.probabilities[:, *block])


def same(a, b):
    told = [(m.classes, m.grid, m.slide_id, m.model_id) for m in (a, b)]
    return told[0] == told[1] and np.array_equal(a.probabilities, b.probabilities, equal_nan=True)


# -- OME-Zarr, whole ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mpp", [None, (0.5, 0.25)])
def test_a_map_comes_back(tmp_path, mpp):
    prediction = some_map(replace(GRID, mpp=mpp))
    write_map(tmp_path / "m.ome.zarr", prediction)
    assert same(read_map(tmp_path / "m.ome.zarr"), prediction)
    assert [p.name for p in tmp_path.iterdir()] == ["m.ome.zarr"]


def test_zarr_reads_the_same_numbers(tmp_path):
    import zarr

    prediction = some_map()
    write_map(tmp_path / "m.ome.zarr", prediction)
    array = zarr.open_group(tmp_path / "m.ome.zarr", mode="r")["0"]
    np.testing.assert_array_equal(array[:], prediction.probabilities)
    assert array.nchunks_initialized == array.nchunks
    assert array.metadata.dimension_names == ("c", "y", "x")


@pytest.mark.parametrize(
    ("mpp", "unit", "scale", "translation"),
    [
        ((0.5, 0.25), "micrometer", [1, 25, 12.5], [0, -0.25, -0.125]),
        (None, None, [1, 50, 50], [0, -0.5, -0.5]),
    ],
)
def test_metadata_are_valid_and_say_where_the_cells_lie(tmp_path, mpp, unit, scale, translation):
    models = pytest.importorskip("ome_zarr_models.v05")
    import zarr

    write_map(tmp_path / "m.ome.zarr", some_map(replace(GRID, mpp=mpp)), colors=COLORS)
    image = models.Image.from_zarr(zarr.open_group(str(tmp_path / "m.ome.zarr"), mode="r"))
    (multiscale,) = image.ome_attributes.multiscales
    assert [(axis.name, axis.type) for axis in multiscale.axes] == [("c", "channel"), ("y", "space"), ("x", "space")]
    assert [axis.unit for axis in multiscale.axes] == [None, unit, unit]
    told = [transform.model_dump() for transform in multiscale.datasets[0].coordinateTransformations]
    assert told == [{"type": "scale", "scale": scale}, {"type": "translation", "translation": translation}]
    omero = json.loads((tmp_path / "m.ome.zarr" / "zarr.json").read_text())["attributes"]["ome"]["omero"]
    assert [(c["label"], c["color"], c["window"]["start"], c["window"]["end"]) for c in omero["channels"]] == [
        ("Tumor", "C80001", 0, 1),
        ("Stroma", "FFFFFF", 0, 1),
    ]


def test_the_reader_of_ome_zarr_shows_the_channels(tmp_path):
    pytest.importorskip("ome_zarr")
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    write_map(tmp_path / "m.ome.zarr", some_map())
    (node,) = Reader(parse_url(str(tmp_path / "m.ome.zarr")))()
    assert node.metadata["channel_names"] == list(CLASSES)
    np.testing.assert_array_equal(node.data[0].compute(), some_map().probabilities)


def test_a_map_is_replaced_and_nothing_else_is(tmp_path):
    path = tmp_path / "m.ome.zarr"
    write_map(path, some_map())
    write_map(path, some_map(seed=1))
    assert same(read_map(path), some_map(seed=1))
    assert [p.name for p in tmp_path.iterdir()] == ["m.ome.zarr"]

    slide = tmp_path / "slide.ome.zarr"
    slide.mkdir()
    (slide / "zarr.json").write_text('{"attributes": {"ome": {}}}')
    with pytest.raises(MapError, match=r"slide\.ome\.zarr: not a prediction map"):
        write_map(slide, some_map())
    assert [p.name for p in slide.iterdir()] == ["zarr.json"]


def test_a_full_disk_keeps_the_old_map(tmp_path, monkeypatch):
    path = tmp_path / "m.ome.zarr"
    write_map(path, some_map())

    def refuse(_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(ProjectError, match="no space left on the disk"):
        write_map(path, some_map(seed=1))
    assert same(read_map(path), some_map())
    assert [p.name for p in tmp_path.iterdir()] == ["m.ome.zarr"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: (path / "zarr.json").unlink(), "not a prediction map"),
        (lambda path: (path / "zarr.json").write_text("{"), "not a prediction map"),
        (lambda path: (path / "zarr.json").write_text('{"attributes": {}}'), "not a prediction map"),
        (lambda path: (path / "0" / "zarr.json").unlink(), "damaged"),
        (lambda path: (path / "0" / "c" / "0" / "0" / "0").write_bytes(b"no zstd"), "damaged"),
    ],
)
def test_a_damaged_map_is_refused(tmp_path, damage, words):
    path = tmp_path / "m.ome.zarr"
    write_map(path, some_map())
    damage(path)
    with pytest.raises(MapError, match=words) as caught:
        read_map(path)
    assert "m.ome.zarr" in str(caught.value)


def test_a_newer_format_is_refused(tmp_path):
    path = tmp_path / "m.ome.zarr"
    write_map(path, some_map())
    told = json.loads((path / "zarr.json").read_text())
    told["attributes"]["napari_slidecorr"]["format"] = 99
    (path / "zarr.json").write_text(json.dumps(told))
    with pytest.raises(MapError, match="format 99"):
        read_map(path)


# -- OME-Zarr, block by block ------------------------------------------------------------------------------------------


def test_a_map_grows_and_goes_on(tmp_path):
    path, prediction = tmp_path / "m.ome.zarr", some_map()
    first = writer_of(path, prediction)
    blocks = first.missing_blocks()
    assert blocks == list(GRID.blocks(8))
    for block in blocks[:5]:  # the first is all glass
        first.write(block_of(prediction, block))
    with pytest.raises(MapError, match="not complete"):
        read_map(path)
    with pytest.raises(MapError, match="7 blocks are missing"):
        first.complete()
    assert not is_complete(path)

    with writer_of(path, prediction, block_cells=64) as second:
        assert second.block_cells == 8
        assert second.missing_blocks() == blocks[5:]
        begun = second.read().probabilities
        np.testing.assert_array_equal(begun[:, :8], prediction.probabilities[:, :8])
        assert np.isnan(begun[:, 16:]).all()
        for block in second.missing_blocks():
            second.write(block_of(prediction, block))
        second.complete()
    assert is_complete(path)
    assert same(read_map(path), prediction)
    assert writer_of(path, prediction).missing_blocks() == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_id": "xyz"}, "was made by another model: abc instead of xyz"),
        ({"grid": replace(GRID, mpp=(1.0, 1.0))}, "has another grid"),
        ({"classes": ("Tumor", "Other")}, "has other classes"),
        ({"slide_id": "slide 2"}, "is of another slide"),
    ],
)
def test_a_map_of_something_else_is_refused(tmp_path, changes, words):
    path = tmp_path / "m.ome.zarr"
    writer_of(path, some_map())
    with pytest.raises(MapError, match=words) as caught:
        writer_of(path, some_map(), **changes)
    assert "m.ome.zarr" in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "columns", "shape"),
    [
        (slice(0, 8), slice(4, 12), (2, 8, 8)),
        (slice(0, 7), slice(0, 8), (2, 7, 8)),
        (slice(24, 32), slice(0, 8), (2, 8, 8)),
        (slice(0, 8), slice(0, 8), (3, 8, 8)),
    ],
)
def test_what_is_no_block_is_refused(tmp_path, rows, columns, shape):
    writer = writer_of(tmp_path / "m.ome.zarr", some_map())
    with pytest.raises(MapError, match=r"m\.ome\.zarr"):
        writer.write(BlockDone(phase="", rows=rows, columns=columns, probabilities=np.zeros(shape, np.float32)))
    assert len(writer.missing_blocks()) == 12


def test_a_failed_block_is_still_missing(tmp_path, monkeypatch):
    prediction = some_map()
    writer = writer_of(tmp_path / "m.ome.zarr", prediction)
    first, second, *_ = writer.missing_blocks()
    writer.write(block_of(prediction, first))
    with monkeypatch.context() as patch:

        def refuse(_):
            raise OSError(errno.ENOSPC, "full")

        patch.setattr(os, "fsync", refuse)
        with pytest.raises(ProjectError, match="no space left"):
            writer.write(block_of(prediction, second))
    assert len(writer.missing_blocks()) == 11
    writer.write(block_of(prediction, second))
    assert len(writer.missing_blocks()) == 10


DIE_IN_A_BLOCK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from napari_slidecorr.events import BlockDone
from napari_slidecorr.geometry import Grid
from napari_slidecorr.io.map_zarr import MapWriter
grid = Grid((800, 200), (0, 0), (10, 10), (10, 10))
writer = MapWriter(Path(sys.argv[1]), ("a", "b"), grid, "s", "m", 200)
values = np.random.default_rng(0).random((2, 200, 200), np.float32)
for number, (rows, columns) in enumerate(writer.missing_blocks()):
    if number == 1:  # the kernel kills whoever writes beyond the limit, after the bytes that still fit
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    writer.write(BlockDone(phase="", rows=rows, columns=columns, probabilities=values))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be killed in a write there")
def test_death_in_a_block_never_leaves_one_that_counts_but_is_not_whole(tmp_path):
    path = tmp_path / "m.ome.zarr"
    grid = Grid((800, 200), (0, 0), (10, 10), (10, 10))
    expected = np.random.default_rng(0).random((2, 200, 200), np.float32)
    blocks = list(grid.blocks(200))
    for whole in (1, 2, 3):
        died = subprocess.run([sys.executable, "-c", DIE_IN_A_BLOCK, str(path)], check=False)
        assert died.returncode == -signal.SIGXFSZ
        assert [p.stat().st_size for p in path.rglob("*.part")] == [50_000]
        writer = MapWriter(path, ("a", "b"), grid, "s", "m", 200)
        assert writer.missing_blocks() == blocks[whole:]
        found = writer.read().probabilities
        for rows, columns in blocks[:whole]:
            np.testing.assert_array_equal(found[:, rows, columns], expected)
        assert not list(path.rglob("*.part"))


def test_an_incomplete_map_can_be_asked_for(tmp_path):
    writer_of(tmp_path / "m.ome.zarr", some_map())
    assert not read(tmp_path / "m.ome.zarr", allow_incomplete=True).predicted.any()


# -- GeoJSON -----------------------------------------------------------------------------------------------------------


def map_of(class_map, grid):
    """A map whose best class is given, 0 for none; probability 0.75 of two classes."""
    values = np.full((2, *class_map.shape), 0.25, np.float32)
    for index in range(2):
        values[index, class_map == index + 1] = 0.75
    values[:, class_map == 0] = np.nan
    return PredictionMap(values, CLASSES, grid, "s", "m")


def test_a_block_of_cells_covers_exactly_its_pixels(tmp_path):
    grid = Grid.over((1000, 1300), (100, 100), (50, 50), (0.5, 0.25))
    class_map = np.zeros(grid.shape, int)
    class_map[2:4, 5:9] = 1  # centred on pixels 100 to 150 and 250 to 400
    write_map(tmp_path / "m.geojson", map_of(class_map, grid), colors=COLORS)
    (item,) = json.loads((tmp_path / "m.geojson").read_text())["features"]
    x, y = np.transpose(item["geometry"]["coordinates"][0])
    assert (x.min(), x.max(), y.min(), y.max()) == (225, 425, 75, 175)  # level-0 pixels [225, 425) x [75, 175)
    assert len(x) == 5
    assert item["properties"] == {
        "objectType": "annotation",
        "classification": {"name": "Tumor", "color": [200, 0, 1]},
        "measurements": {"Mean probability": 0.75, "Area mm2": pytest.approx(100 * 200 * 0.5 * 0.25 * 1e-6)},
    }


def test_the_mean_probability_is_that_of_the_areas_class(tmp_path):
    values = np.asarray([0.45, 0.3, 0.25], np.float32).reshape(3, 1, 1)
    grid = Grid((1, 1), (0, 0), (10, 10), (10, 10))
    prediction = PredictionMap(values, ("a", "b", "c"), grid, "s", "m", bounds=(0.5, 0.28, 0.28))
    write_map(tmp_path / "m.geojson", prediction)
    (item,) = json.loads((tmp_path / "m.geojson").read_text())["features"]
    assert item["properties"]["classification"]["name"] == "b"
    assert item["properties"]["measurements"] == {"Mean probability": pytest.approx(0.3)}


def test_a_map_that_is_moved_while_it_is_made_leaves_nothing_in_its_place(tmp_path):
    prediction = some_map()
    with writer_of(tmp_path / "m.ome.zarr", prediction) as writer:
        first, second, *_ = writer.missing_blocks()
        writer.write(block_of(prediction, first))
        (tmp_path / "m.ome.zarr").rename(tmp_path / "moved")
        with pytest.raises(MapError, match=r"m\.ome\.zarr: the map was moved while it was being made"):
            writer.write(block_of(prediction, second))
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]


def test_cells_of_odd_size_keep_their_half_pixels(tmp_path):
    grid = Grid((1, 1), (-2, -2), (4, 4), (9, 9))
    write_map(tmp_path / "m.geojson", map_of(np.ones((1, 1), int), grid))
    (region,) = read_regions(tmp_path / "m.geojson").regions
    assert region.polygon.bounds == (0.5, 0.5, 4.5, 4.5) == (*grid.corner_px, *(c + 4 for c in grid.corner_px))


def test_cells_end_at_the_edge_of_the_slide(tmp_path):
    grid = Grid.over((100, 130), (40, 40), (40, 40), (1.0, 1.0))
    prediction = map_of(np.ones(grid.shape, int), grid)
    write_map(tmp_path / "m.geojson", prediction)
    (region,) = read_regions(tmp_path / "m.geojson").regions
    assert region.polygon.equals(shapely.box(0, 0, 100, 130))
    assert prediction.area_mm2()["Tumor"] == pytest.approx(100 * 130 * 1e-6)


def test_cells_that_meet_at_a_corner_are_two_areas_and_holes_are_holes(tmp_path):
    class_map = np.array([[1, 1, 1, 0], [1, 2, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]])
    write_map(tmp_path / "m.geojson", map_of(class_map, Grid((4, 4), (0, 0), (10, 10), (10, 10))))
    found = read_regions(tmp_path / "m.geojson").regions
    assert [(r.class_name, r.area_px, len(r.polygon.interiors)) for r in found] == [
        ("Tumor", 800, 1),
        ("Tumor", 100, 0),
        ("Stroma", 100, 0),
    ]


def test_the_threshold_leaves_cells_out(tmp_path):
    prediction = map_of(np.ones((2, 2), int), Grid((2, 2), (0, 0), (10, 10), (10, 10)))
    prediction.probabilities[0, 0, 0] = 0.9
    write_map(tmp_path / "m.geojson", prediction, threshold=0.8)
    (item,) = json.loads((tmp_path / "m.geojson").read_text())["features"]
    assert item["properties"]["measurements"] == {"Mean probability": pytest.approx(0.9)}
    write_map(tmp_path / "m.geojson", prediction, threshold=0.95)
    assert len(read_regions(tmp_path / "m.geojson").regions) == 0


def test_the_same_map_gives_the_same_bytes(tmp_path):
    write_map(tmp_path / "a.geojson", some_map())
    write_map(tmp_path / "b.geojson", some_map())
    assert (tmp_path / "a.geojson").read_bytes() == (tmp_path / "b.geojson").read_bytes()


@given(class_map=arrays(np.int8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 2)))
def test_polygons_are_exactly_the_cells(tmp_path_factory, class_map):
    """Each cell's centre lies in one polygon of its class and in none of another; nothing is repaired or lost."""
    path = tmp_path_factory.getbasetemp() / "cells.geojson"
    grid = Grid(class_map.shape, (-3, 5), (7, 4), (10, 10))
    write_map(path, map_of(class_map, grid))
    regions, skipped, *_ = read_regions(path)
    assert skipped == {}
    assert len({region.uid for region in regions}) == len(regions)
    row, column = np.indices(class_map.shape)
    y, x = (grid.corner_px[i] + (index + 0.5) * grid.stride_px[i] for i, index in enumerate((row, column)))
    for index, name in enumerate(CLASSES):
        inside = sum(shapely.contains_xy(region.polygon, y, x).astype(int) for region in regions.of_class(name))
        np.testing.assert_array_equal(np.broadcast_to(inside, class_map.shape), class_map == index + 1)
        assert regions.area_px(name) == (class_map == index + 1).sum() * 28


def test_an_area_with_many_holes_that_touch_is_one_valid_polygon():
    """A lattice that holds chessboards of 3 x 3: the middle of each meets its corners in points, and is an area of its own."""
    chess = np.indices((41, 41)).sum(axis=0) % 2 == 0
    chess[::4] = chess[:, ::4] = True
    labels, counts = label_areas(chess.astype(np.uint8), 1)
    assert counts == [labels.max()]
    areas = {area: shapely.Polygon(outer, holes) for area, (outer, *holes) in outlines(labels)}
    assert list(areas) == list(range(1, counts[0] + 1))
    assert all(polygon.is_valid for polygon in areas.values())
    assert [polygon.area for polygon in areas.values()] == np.bincount(labels.ravel())[1:].tolist()
    assert len(areas[1].interiors) == 100
    assert list(outlines(np.zeros((3, 4), np.int32))) == []


@pytest.mark.parametrize("name", ["slide 1 abc 0.0 Tumor 17", "é 3", ""])
def test_ids_are_those_of_uuid5(name):
    assert Uids(uuid.NAMESPACE_URL, name[:4])(name[4:]) == str(uuid.uuid5(uuid.NAMESPACE_URL, name))


def test_a_class_may_be_called_anything(tmp_path):
    names = ('"quoted" \\ {0}', "Größe, 50 %")
    for kind in ("m.geojson", "m.tiles.geojson"):
        write_map(tmp_path / kind, some_map(classes=names))
        items = json.loads((tmp_path / kind).read_text("ascii"))["features"]
        assert {item["properties"]["classification"]["name"] for item in items} == set(names)


def test_an_unknown_suffix(tmp_path):
    with pytest.raises(MapError, match=r"m\.pdf"):
        write_map(tmp_path / "m.pdf", some_map())
