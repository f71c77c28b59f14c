"""A map lies where the tissue is: squares of known classes on a slide, and a model that only looks at the colour."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import shapely
import tifffile
import torch
from memory_slides import MemorySource
from scipy import ndimage
from torch import nn

from napari_slidecorr.config import PredictConfig
from napari_slidecorr.events import drain
from napari_slidecorr.geometry import Grid, PatchGeometry
from napari_slidecorr.io import read_regions, write_map
from napari_slidecorr.learning import inference
from napari_slidecorr.learning.inference import predict
from napari_slidecorr.learning.objectives import Output
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.slide import Slide

PATCH = 32
SQUARES = {  # (y0, x0, y1, x1) in level-0 pixels; places that no grid falls on
    "red": [(101, 70, 301, 260), (500, 611, 640, 783)],
    "blue": [(83, 421, 250, 701), (390, 95, 655, 411)],
}
COLORS = {"red": (210, 40, 40), "blue": (40, 40, 210)}
HALF = (210 - 40) / 255 / 2
"""How much redder than blue a patch is whose half is red."""
SHAPE = (721, 857)


class ColourModel(nn.Module):
    """More red than blue is red, more blue than red is blue, else the third class."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1, 3)

    def prepare(self, patches):
        return patches.permute(0, 3, 1, 2).float() / 255

    def forward(self, inputs):
        red, _, blue = inputs.mean((2, 3)).T
        logits = torch.stack([red - blue, blue - red, torch.full_like(red, HALF)], dim=1)
        return Output(logits * 40, inputs.mean((2, 3)))


def the_slide(mpp):
    pixels = np.full((*SHAPE, 3), 200, np.uint8)
    for name, squares in SQUARES.items():
        for y0, x0, y1, x1 in squares:
            pixels[y0:y1, x0:x1] = COLORS[name]
    return Slide("squares", MemorySource(pixels), (mpp, mpp), "user")


def the_map(mpp, overlap):
    """Patches of 32 px at 0.5 um: 32 level-0 pixels at mpp 0.5, 64 at 0.25."""
    spec = ModelSpec(
        backbone="none", classes=("red", "blue", "none"), geometry=PatchGeometry(PATCH, 0.5), mean=(0.5,) * 3,
        std=(0.5,) * 3, objective={"kind": "ce"}, train_slides=(), validation_slides=(), initial_weights="random",
        weights_sha256="0" * 64, package_version="0",
    )  # fmt: skip
    config = PredictConfig(overlap=overlap, tissue_only=False, device="cpu")
    return drain(predict(the_slide(mpp), ColourModel(), spec, config))


CASES = pytest.mark.parametrize(("mpp", "overlap"), [(mpp, o) for mpp in (0.5, 0.25) for o in (0, 0.5, 0.75)])


def truth(name):
    return [shapely.box(*square) for square in SQUARES[name]]


def check(name, polygons, stride):
    """One area for each square, each of its sides at most half a cell and half a pixel away, without a drift."""
    found = sorted((polygon for polygon in polygons if polygon.area > stride**2), key=lambda p: p.bounds)
    wanted = sorted(truth(name), key=lambda p: p.bounds)
    assert len(found) == len(wanted)
    offsets = np.asarray([f.bounds for f in found]) - np.asarray([w.bounds for w in wanted])
    assert np.abs(offsets).max() <= stride / 2 + 0.5, offsets


@CASES
def test_cells_have_the_class_of_what_lies_at_their_centre(mpp, overlap):
    prediction = the_map(mpp, overlap)
    class_map, grid = prediction.class_map(), prediction.grid
    wrong = 0
    centres = [np.asarray(grid.corner_px)[a] + (np.arange(grid.shape[a]) + 0.5) * grid.stride_px[a] for a in (0, 1)]
    y, x = np.meshgrid(*centres, indexing="ij")
    for number, name in enumerate(("red", "blue"), 1):
        inside = shapely.contains_xy(shapely.MultiPolygon(truth(name)), y, x)
        near = shapely.distance(shapely.points(y, x), shapely.MultiPolygon(truth(name)).boundary)
        clear = near > grid.cell_px[0] / 8  # nearer to an edge, and at corners, the patch decides by its other half
        corner = np.min(
            [shapely.distance(shapely.points(y, x), shapely.Point(c)) for s in truth(name) for c in s.exterior.coords],
            axis=0,
        )
        clear &= corner > grid.cell_px[0]
        in_slide = (y >= grid.cell_px[0] / 2) & (x >= grid.cell_px[1] / 2)
        in_slide &= (y <= SHAPE[0] - grid.cell_px[0] / 2) & (x <= SHAPE[1] - grid.cell_px[1] / 2)
        wrong += np.count_nonzero(((class_map == number) != inside) & clear & in_slide)
    assert wrong == 0


@CASES
def test_contours_lie_on_the_squares(tmp_path, mpp, overlap):
    prediction = the_map(mpp, overlap)
    write_map(tmp_path / "m.geojson", prediction)
    regions = read_regions(tmp_path / "m.geojson").regions
    for name in SQUARES:
        check(name, [region.polygon for region in regions.of_class(name)], prediction.grid.stride_px[0])


@CASES
def test_tiles_lie_on_the_squares(tmp_path, mpp, overlap):
    prediction = the_map(mpp, overlap)
    write_map(tmp_path / "m.tiles.geojson", prediction)
    items = json.loads((tmp_path / "m.tiles.geojson").read_text())["features"]
    for name in SQUARES:
        of_class = [item for item in items if item["properties"]["classification"]["name"] == name]
        rings = [np.asarray(item["geometry"]["coordinates"][0])[:, ::-1] for item in of_class]
        area = shapely.union_all(shapely.polygons(rings))
        check(name, shapely.get_parts(area), prediction.grid.stride_px[0])


@CASES
def test_tables_lie_on_the_squares(tmp_path, mpp, overlap):
    prediction = the_map(mpp, overlap)
    write_map(tmp_path / "m.csv", prediction)
    with (tmp_path / "m.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    for name in SQUARES:
        places = [[float(one[n]) for n in ("y", "x", "height", "width")] for one in lines if one["class"] == name]
        area = shapely.union_all([shapely.box(y, x, y + h, x + w) for y, x, h, w in places])
        check(name, shapely.get_parts(area), prediction.grid.stride_px[0])


@CASES
def test_the_tiff_lies_on_the_squares(tmp_path, mpp, overlap):
    prediction = the_map(mpp, overlap)
    write_map(tmp_path / "m.float32.ome.tif", prediction)
    with tifffile.TiffFile(tmp_path / "m.float32.ome.tif") as tif:
        values = tif.series[0].asarray()
        about = tifffile.xml2dict(tif.ome_metadata)["OME"]["Image"]["Pixels"]
    size = float(about["PhysicalSizeY"]) / mpp, float(about["PhysicalSizeX"]) / mpp
    for number, name in enumerate(SQUARES):
        row, column = np.nonzero(values.argmax(0) == number)
        pixels = shapely.box(row * size[0], column * size[1], (row + 1) * size[0], (column + 1) * size[1])
        parts = [
            shapely.intersection(part, shapely.box(0, 0, *SHAPE))
            for part in shapely.get_parts(shapely.union_all(pixels))
        ]
        check(name, parts, prediction.grid.stride_px[0])


# -- exact: squares that end where cells end, and a model that looks at the middle of its patch ----------------------

HALF_PX = 0.5
PLACES = [("red", (3, 4, 9, 11)), ("red", (14, 5, 17, 9)), ("blue", (5, 15, 12, 19)), ("blue", (15, 12, 19, 21))]
"""Rows and columns of cells: first, and one past the last."""


class CentreModel(ColourModel):
    """Sees only the four pixels in the middle of a patch."""

    def prepare(self, patches):
        middle = patches.shape[1] // 2
        return super().prepare(patches[:, middle - 1 : middle + 1, middle - 1 : middle + 1])


def exact_grid(mpp, overlap, shift):
    """The grid that a prediction lays, moved by some level-0 pixels."""
    footprint = round(PATCH * 0.5 / mpp)
    stride = round(footprint * (1 - overlap))
    slide_px = (24 * stride + 3 * footprint, 26 * stride + 3 * footprint)
    grid = Grid.over(slide_px, (footprint, footprint), (stride, stride), (mpp, mpp))
    return replace(grid, origin_px=(grid.origin_px[0] + shift[0], grid.origin_px[1] + shift[1]))


def exact_squares(grid):
    """Of each class, the squares in level-0 pixels, by the definition of a cell alone: its patch's middle stride."""
    found = {"red": [], "blue": []}
    for name, (r0, c0, r1, c1) in PLACES:
        y0, x0, y1, x1 = (
            grid.origin_px[a] + i * grid.stride_px[a] + (grid.cell_px[a] - grid.stride_px[a]) / 2
            for a, i in ((0, r0), (1, c0), (0, r1), (1, c1))
        )
        found[name].append(shapely.box(y0, x0, y1, x1))
    return found


def exact_map(monkeypatch, mpp, overlap, shift):
    grid = exact_grid(mpp, overlap, shift)
    pixels = np.full((*grid.slide_px, 3), 200, np.uint8)
    for name, squares in exact_squares(grid).items():
        for square in squares:
            y0, x0, y1, x1 = (int(value) for value in square.bounds)
            pixels[y0:y1, x0:x1] = COLORS[name]
    monkeypatch.setattr(inference, "prediction_grid", lambda *_: grid)
    spec = ModelSpec(
        backbone="none", classes=("red", "blue", "none"), geometry=PatchGeometry(PATCH, 0.5), mean=(0.5,) * 3,
        std=(0.5,) * 3, objective={"kind": "ce"}, train_slides=(), validation_slides=(), initial_weights="random",
        weights_sha256="0" * 64, package_version="0",
    )  # fmt: skip
    config = PredictConfig(overlap=overlap, tissue_only=False, device="cpu")
    slide = Slide("squares", MemorySource(pixels), (mpp, mpp), "user")
    return drain(predict(slide, CentreModel(), spec, config))


def is_exact(polygons, squares):
    found, wanted = (sorted(p.bounds for p in each) for each in (polygons, squares))
    assert len(found) == len(wanted)
    assert np.abs(np.asarray(found) - wanted).max() <= HALF_PX


EXACT = pytest.mark.parametrize(
    ("mpp", "overlap", "shift"),
    [(mpp, o, s) for mpp in (0.5, 0.25) for o in (0, 0.5, 0.75) for s in ((0, 0), (37, 53))],
)


@EXACT
def test_what_ends_where_cells_end_is_drawn_to_half_a_pixel(tmp_path, monkeypatch, mpp, overlap, shift):
    prediction = exact_map(monkeypatch, mpp, overlap, shift)
    squares, grid = exact_squares(prediction.grid), prediction.grid
    for number, name in enumerate(squares, 1):  # the map itself
        rows, columns = np.nonzero(prediction.class_map() == number)
        y, x = (np.asarray(grid.cell_edges_px(axis)) for axis in (0, 1))
        cells = shapely.box(y[rows], x[columns], y[rows + 1], x[columns + 1])
        is_exact(shapely.get_parts(shapely.union_all(cells)), squares[name])
    write_map(tmp_path / "m.geojson", prediction)
    regions = read_regions(tmp_path / "m.geojson").regions
    write_map(tmp_path / "m.csv", prediction)
    with (tmp_path / "m.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    for name, wanted in squares.items():
        is_exact([region.polygon for region in regions.of_class(name)], wanted)
        places = [[float(one[n]) for n in ("y", "x", "height", "width")] for one in lines if one["class"] == name]
        area = shapely.union_all([shapely.box(y, x, y + h, x + w) for y, x, h, w in places])
        is_exact(shapely.get_parts(area), wanted)


@EXACT
def test_the_layers_transform_is_exact_too(tmp_path, monkeypatch, mpp, overlap, shift):
    """In napari and OME-Zarr a cell's centre lies at scale x index + translate, where pixel centres are integers."""
    prediction = exact_map(monkeypatch, mpp, overlap, shift)
    write_map(tmp_path / "m.ome.zarr", prediction)
    attributes = json.loads((tmp_path / "m.ome.zarr" / "zarr.json").read_text())["attributes"]
    scale, move = attributes["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert (tuple(scale["scale"][1:]), tuple(move["translation"][1:])) == (
        prediction.grid.scale,
        prediction.grid.translate,
    )
    for number, (name, squares) in enumerate(exact_squares(prediction.grid).items(), 1):
        labels, count = ndimage.label(prediction.class_map() == number)
        assert count == len(squares), name
        found = []
        for rows, columns in ndimage.find_objects(labels):
            sides = [
                (place * prediction.grid.scale[a] + prediction.grid.translate[a]) / mpp + 0.5
                for a, place in (
                    (0, rows.start - 0.5),
                    (1, columns.start - 0.5),
                    (0, rows.stop - 0.5),
                    (1, columns.stop - 0.5),
                )
            ]
            found.append(shapely.box(*sides))
        is_exact(found, squares)
