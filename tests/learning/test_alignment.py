"""A map lies where the tissue is: squares of known classes on a slide, and a model that only looks at the colour."""

import csv
import json

import numpy as np
import pytest
import shapely
import tifffile
import torch
from memory_slides import MemorySource
from torch import nn

from napari_slidecorr.config import PredictConfig
from napari_slidecorr.events import drain
from napari_slidecorr.geometry import PatchGeometry
from napari_slidecorr.io import read_regions, write_map
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
