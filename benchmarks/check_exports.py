"""Export maps of real slides in every way and open each with another program's reader: is it there, and is it in place?

    pip install --no-deps --target FOLDER geopandas pyogrio pyproj pyvips pyvips-binary
    python benchmarks/check_exports.py --slides DIR --packages FOLDER --json exports.json

DIR holds ``CMU-1-Small-Region.svs`` (OpenSlide's test data) and ``TCGA-CR-7395-01A-01-TS1.svs`` (TCGA, open access). A small
network that nobody trained predicts both. First the table (CSV) is held against the slide itself: openslide reads patches
where the table says that they lie, and at the eight places one pixel beside, and the model must give the table's
probabilities at the first. Then every other export, opened by others, is held against the table:

- ``offset_px``: largest distance of a border between cells from where the table has it, in level-0 pixels.
- ``difference``: largest difference of a probability (8 bits cannot be nearer than 0.002).
- ``objects``: cells, tiles, areas or lines found.

A reader that is not installed is told as missing; the exit code is 1 if anything is off by half a pixel or more.
"""

import argparse
import importlib
import json
import sys
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_slidecorr.config import PredictConfig
from napari_slidecorr.events import drain
from napari_slidecorr.geometry import Box, PatchGeometry
from napari_slidecorr.learning.models import PatchClassifier, classify, make_model, save_model
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.project import Project
from napari_slidecorr.qupath_folder import export_qupath

SLIDES = {"CMU-1-Small-Region": None, "TCGA-CR-7395-01A-01-TS1": 1.0}
"""And the pixel size that we give to one that states none."""

CLASSES = ("Tumor", "Stroma")
SIZE_PX = 64
THRESHOLD = 0.6
NAMES = (
    "map.ome.zarr",
    "map.ome.tif",
    "map.float32.ome.tif",
    "map.geojson",
    "map.tiles.geojson",
    "map.csv",
    "map.parquet",
    "map.png",
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """What the CSV says of a slide: borders between cells, and probabilities, shape (2, rows, columns), NaN where none."""

    y: np.ndarray
    x: np.ndarray
    known: np.ndarray
    slide: Path
    mpp: tuple[float, float]
    stride_px: tuple[int, int]


def make_project(folder: Path, slides: Path) -> tuple[Project, PatchClassifier]:
    """Both slides and a small network whose answers differ from place to place."""
    project = Project.create(folder / "project", CLASSES)
    for name, mpp in SLIDES.items():
        project.add_slides([slides / f"{name}.svs"], mpp=mpp)
    model = make_model("test_resnet", 2, weights="random", seed=3).eval()
    slide = project.slide(next(iter(SLIDES)))
    places = np.random.default_rng(0).integers(0, np.asarray(slide.shape) - SIZE_PX, (64, 2)).tolist()
    patches = np.stack([slide.read(Box(y, x, y + SIZE_PX, x + SIZE_PX), SIZE_PX) for y, x in places])
    with torch.no_grad():
        logits = model(model.prepare(torch.from_numpy(patches))).logits
        model.head.weight.div_(logits.std(0)[:, None])
        model.head.bias.sub_(logits.mean(0)).div_(logits.std(0))
    spec = ModelSpec(
        backbone="test_resnet", classes=CLASSES, geometry=PatchGeometry(SIZE_PX, None), mean=model.mean, std=model.std,
        objective={"kind": "ce"}, train_slides=(), validation_slides=(), initial_weights="random", weights_sha256="",
        package_version="0",
    )  # fmt: skip
    run = project.folder / "runs" / "random"
    run.mkdir(parents=True)
    save_model(run, model, spec)
    return project, model


# -- the table against the slide ------------------------------------------------------------------------------------------


def by_pandas(path: Path, stride: tuple[int, int], slide: Path, mpp: tuple[float, float]) -> Table:
    """The table, put back on the grid that its places span."""
    import pandas as pd

    frame = pd.read_csv(path)
    y, x = (
        borders(np.unique(np.concatenate([frame[a], frame[a] + frame[side]])), step)
        for a, side, step in (("y", "height", stride[0]), ("x", "width", stride[1]))
    )
    values = np.full((2, len(y) - 1, len(x) - 1), np.nan)
    values[:, np.searchsorted(y, frame.y), np.searchsorted(x, frame.x)] = frame[list(CLASSES)].to_numpy().T
    return Table(y, x, values, slide, mpp, stride)


def borders(told: np.ndarray, step: int) -> np.ndarray:
    """Put those in that no predicted cell has: of whole rows or columns of glass."""
    filled = [told[:1]]
    for low, high in pairwise(told):
        filled += [np.arange(low + step, high, step), [high]]
    return np.concatenate(filled)


def inner_cells(table: Table, count: int) -> np.ndarray:
    """Some predicted cells whose patch lies inside the slide, (row, column)."""
    found = np.argwhere(np.isfinite(table.known[0]))
    centre = np.stack(
        [(table.y[found[:, 0]] + table.y[found[:, 0] + 1]) / 2, (table.x[found[:, 1]] + table.x[found[:, 1] + 1]) / 2],
        1,
    )
    last = np.asarray([table.y[-1], table.x[-1]])
    inside = ((centre > SIZE_PX) & (centre < last - SIZE_PX)).all(axis=1)
    return np.random.default_rng(0).choice(found[inside], count, replace=False)


def against_the_slide(table: Table, model: PatchClassifier) -> Row:
    """Read with openslide where the table says, and one pixel beside: where does the model say the same?"""
    import openslide

    slide = openslide.OpenSlide(table.slide)
    cells = inner_cells(table, 40)
    told = table.known[:, cells[:, 0], cells[:, 1]]
    differences = {}
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            patches = []
            for row, column in cells.tolist():
                y = round((table.y[row] + table.y[row + 1] - SIZE_PX) / 2) + dy
                x = round((table.x[column] + table.x[column + 1] - SIZE_PX) / 2) + dx
                patches.append(np.asarray(slide.read_region((x, y), 0, (SIZE_PX, SIZE_PX)).convert("RGB")))
            differences[dy, dx] = np.abs(classify(model, np.stack(patches)).T - told)
    best = min(differences, key=lambda shift: differences[shift].mean())
    return {
        "offset_px": float(np.abs(best).max()),
        "difference": float(differences[best].max()),
        "objects": int(np.isfinite(table.known[0]).sum()),
    }


# -- the others against the table -----------------------------------------------------------------------------------------


def edges_apart(found: np.ndarray, known: np.ndarray) -> float:
    """Largest distance of a found border from the nearest known one."""
    return float(np.abs(np.asarray(found, float)[:, None] - known[None]).min(axis=1).max())


def grid_row(y0: float, x0: float, values: np.ndarray, table: Table) -> Row:
    """Compare cells that lie on a regular grid from a corner on, in level-0 pixels."""
    inside = np.isfinite(values[0])
    rows, columns = np.nonzero(inside.any(axis=1))[0], np.nonzero(inside.any(axis=0))[0]
    first = [
        start + np.arange(n + 1) * step
        for start, n, step in zip((y0, x0), values.shape[1:], table.stride_px, strict=True)
    ]
    y, x = (np.clip(edges, 0, known[-1]) for edges, known in zip(first, (table.y, table.x), strict=True))
    offset = max(edges_apart(y[rows], table.y), edges_apart(x[columns], table.x))
    shown = values[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return {
        "offset_px": offset,
        "difference": float(np.nanmax(np.abs(shown - table.known))),
        "objects": int(inside.sum()),
    }


def by_ome_zarr_models(path: Path, table: Table) -> Row:
    """Its validator, and the place by the metadata that it has understood."""
    import zarr
    from ome_zarr_models.v05 import Image

    group = zarr.open_group(path, mode="r")
    image = Image.from_zarr(group)
    dataset = image.ome_attributes.multiscales[0].datasets[0]
    scale, translation = (np.asarray(getattr(one, one.type)) for one in dataset.coordinateTransformations)
    return _zarr_row(scale[1:], translation[1:], np.asarray(group[dataset.path]), table)


def by_ome_zarr(path: Path, table: Table) -> Row:
    """The reader of ome-zarr-py."""
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    (node,) = [node for node in Reader(parse_url(path))() if node.data]
    transforms = {one["type"]: one[one["type"]] for one in node.metadata["coordinateTransformations"][0]}
    scale, translation = np.asarray(transforms["scale"]), np.asarray(transforms["translation"])
    return _zarr_row(scale[1:], translation[1:], np.asarray(node.data[0]), table)


def _zarr_row(scale: np.ndarray, translation: np.ndarray, values: np.ndarray, table: Table) -> Row:
    """OME-Zarr tells the centre of the first cell, in micrometres, where pixel centres lie on integers."""
    mpp = np.asarray(table.mpp)
    if not np.allclose(scale / mpp, table.stride_px, rtol=1e-6):
        return {"offset_px": float("inf"), "difference": float("nan"), "objects": 0}
    y0, x0 = translation / mpp + 0.5 - scale / mpp / 2
    return grid_row(y0, x0, values, table)


def tiff_row(planes: np.ndarray, pixel_px: tuple[float, float], table: Table) -> Row:
    """Compare a picture that begins at the slide's corner: borders where the values change, values at cells' centres."""
    y, x = ((edges[:-1] + edges[1:]) / 2 for edges in (table.y, table.x))
    rows, columns = (
        np.minimum((centre / size).astype(int), n - 1)
        for centre, size, n in zip((y, x), pixel_px, planes.shape[1:], strict=True)
    )
    shown = planes[:, rows][:, :, columns]
    borders = [np.flatnonzero((np.diff(planes, axis=axis) != 0).any(axis=(0, 3 - axis))) + 1 for axis in (1, 2)]
    offset = max(
        edges_apart(found * size, known)
        for found, size, known in zip(borders, pixel_px, (table.y, table.x), strict=True)
    )
    there = np.isfinite(table.known)
    return {
        "offset_px": offset,
        "difference": float(np.abs(shown - table.known)[there].max()),
        "objects": int(there[0].sum()),
    }


def by_tifffile(path: Path, table: Table) -> Row:
    import tifffile

    with tifffile.TiffFile(path) as tif:
        pixels = tifffile.xml2dict(tif.ome_metadata)["OME"]["Image"]["Pixels"]
        planes, levels = tif.series[0].asarray(), len(tif.series[0].levels)
    size = pixels["PhysicalSizeY"] / table.mpp[0], pixels["PhysicalSizeX"] / table.mpp[1]
    planes = planes / 255 if planes.dtype == np.uint8 else np.nan_to_num(planes, nan=-1)
    return tiff_row(planes, size, table) | {"note": f"{levels} level(s)"}


def by_openslide(path: Path, table: Table) -> Row:
    """It opens the first class, as a grey picture, and reads the pixel size from the TIFF's own tags."""
    import openslide

    slide = openslide.OpenSlide(path)
    mpp = [float(slide.properties[f"openslide.mpp-{axis}"]) for axis in "yx"]
    grey = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))[..., 0] / 255
    size = mpp[0] / table.mpp[0], mpp[1] / table.mpp[1]
    return tiff_row(np.stack([grey, grey]), size, first_class(table)) | {"note": "first class"}


def by_pyvips(path: Path, table: Table) -> Row:
    import pyvips

    pages = [np.asarray(pyvips.Image.new_from_file(str(path), page=page)) for page in range(2)]
    image = pyvips.Image.new_from_file(str(path))
    size = 1000 / image.yres / table.mpp[0], 1000 / image.xres / table.mpp[1]
    planes = np.stack([page.reshape(image.height, image.width) for page in pages])
    return tiff_row(planes / 255 if planes.dtype == np.uint8 else np.nan_to_num(planes, nan=-1), size, table)


def first_class(table: Table) -> Table:
    return Table(table.y, table.x, np.stack([table.known[0]] * 2), table.slide, table.mpp, table.stride_px)


def by_geopandas(path: Path, table: Table) -> Row:
    """Tiles or areas: corners on the borders of cells, and inside them what the table says."""
    import geopandas

    frame = geopandas.read_file(path)
    check_qupath(json.loads(path.read_text("utf-8")))
    corners = frame.geometry.get_coordinates()
    offset = max(edges_apart(np.unique(corners.y), table.y), edges_apart(np.unique(corners.x), table.x))
    if not frame.geometry.is_valid.all():
        offset = float("inf")
    y, x = ((edges[:-1] + edges[1:]) / 2 for edges in (table.y, table.x))
    are_tiles = "tiles" in path.name or path.parent.name == "tiles"
    best = np.nan_to_num(table.known, nan=-1).max(axis=0)
    rows, columns = np.nonzero(best >= (0 if are_tiles else THRESHOLD))
    points = geopandas.GeoDataFrame(geometry=geopandas.points_from_xy(x[columns], y[rows]))
    joined = geopandas.sjoin(points, frame.set_crs(None, allow_override=True), predicate="within")
    if len(joined) != len(points) or not joined.index.is_unique:
        return {"offset_px": float("inf"), "difference": float("nan"), "objects": len(frame)}
    names = np.asarray(CLASSES)[table.known[:, rows, columns].argmax(axis=0)]
    told = [_as_dict(one) for one in joined.sort_index()["classification"]]
    wrong = sum(one["name"] != name for one, name in zip(told, names, strict=True) if isinstance(one, dict))
    difference = float("nan")
    if are_tiles:
        values = np.asarray(
            [[_as_dict(one)[f"Probability {name}"] for name in CLASSES] for one in joined.sort_index()["measurements"]]
        )
        difference = float(np.abs(values.T - table.known[:, rows, columns]).max())
    return {"offset_px": offset, "difference": difference, "objects": len(frame), "note": f"{wrong} of another class"}


def _as_dict(told: Any) -> Any:
    return json.loads(told) if isinstance(told, str) else told


def check_qupath(collection: dict[str, Any]) -> None:
    """The structure that QuPath 0.4 and later writes and reads."""
    assert collection["type"] == "FeatureCollection"  # noqa: S101
    for item in collection["features"]:
        uuid.UUID(item["id"])
        about = item["properties"]
        assert item["type"] == "Feature"  # noqa: S101
        assert item["geometry"]["type"] == "Polygon"  # noqa: S101
        assert about["objectType"] in ("annotation", "tile")  # noqa: S101
        assert all(isinstance(value, int | float) for value in about["measurements"].values())  # noqa: S101
        if (kind := about.get("classification")) is not None:
            assert kind["name"] in CLASSES  # noqa: S101
            assert len(kind["color"]) == 3  # noqa: S101


def by_pyarrow(path: Path, table: Table) -> Row:
    from pyarrow import parquet

    frame = parquet.read_table(path).to_pandas()
    rows, columns = np.searchsorted(table.y, frame.y), np.searchsorted(table.x, frame.x)
    offset = max(edges_apart(frame.y.to_numpy(), table.y), edges_apart(frame.x.to_numpy(), table.x))
    difference = np.abs(frame[list(CLASSES)].to_numpy().T - table.known[:, rows, columns]).max()
    return {"offset_px": offset, "difference": float(difference), "objects": len(frame)}


def by_pillow(path: Path, table: Table) -> Row:  # noqa: ARG001 - all readers are called alike
    """A figure is to be looked at: it opens, and has more than one colour."""
    from PIL import Image

    picture = Image.open(path).convert("RGB")
    return {
        "offset_px": 0.0,
        "difference": float("nan"),
        "objects": len(np.unique(np.asarray(picture.resize((200, 200))).reshape(-1, 3), axis=0)),
        "note": "colours",
    }


READERS: list[tuple[str, str, Callable[[Path, Table], Row]]] = [
    ("map.ome.zarr", "ome_zarr_models", by_ome_zarr_models),
    ("map.ome.zarr", "ome_zarr", by_ome_zarr),
    ("map.ome.tif", "tifffile", by_tifffile),
    ("map.float32.ome.tif", "tifffile", by_tifffile),
    ("map.ome.tif", "openslide", by_openslide),
    ("map.ome.tif", "pyvips", by_pyvips),
    ("map.float32.ome.tif", "pyvips", by_pyvips),
    ("map.geojson", "geopandas", by_geopandas),
    ("map.tiles.geojson", "geopandas", by_geopandas),
    ("qupath/classes/{slide}.geojson", "geopandas", by_geopandas),
    ("qupath/tiles/{slide}.geojson", "geopandas", by_geopandas),
    ("map.parquet", "pyarrow", by_pyarrow),
    ("map.png", "PIL", by_pillow),
]


def check_slide(project: Project, model: PatchClassifier, name: str, slides: Path, folder: Path) -> list[Row]:
    """Predict a slide, export it in every way, open everything."""
    prediction = drain(project.predict([name], config=PredictConfig(overlap=0.5, device="cpu")))
    for file in NAMES:
        project.export(project.maps(name)[-1], folder / file, threshold=THRESHOLD)
    drain(export_qupath(project, folder / "qupath", threshold=THRESHOLD))
    mpp = project.slide(name).mpp
    assert mpp is not None  # noqa: S101
    table = by_pandas(folder / "map.csv", prediction.grid.stride_px, slides / f"{name}.svs", mpp)
    found = [{"slide": name, "file": "map.csv", "reader": "pandas, openslide", **against_the_slide(table, model)}]
    for file, module, read in READERS:
        path = folder / file.format(slide=name)
        row: Row = {"slide": name, "file": str(path.relative_to(folder)), "reader": module}
        try:
            version = getattr(importlib.import_module(module), "__version__", "")
        except ImportError:
            found.append(row | {"missing": True})
            continue
        found.append(row | {"reader": f"{module} {version}".strip()} | read(path, table))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=Path, required=True)
    parser.add_argument("--packages", type=Path, help="where readers were installed that are not beside us")
    parser.add_argument("--json", type=Path, help="write the rows here")
    arguments = parser.parse_args()
    if arguments.packages:
        sys.path.append(str(arguments.packages))
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        project, model = make_project(Path(folder), arguments.slides)
        for name in SLIDES:
            out = Path(folder) / name
            out.mkdir()
            rows += check_slide(project, model, name, arguments.slides, out)
    for row in rows:
        figures = (
            "missing" if "missing" in row else f"{row['offset_px']:9.4f} {row['difference']:9.5f} {row['objects']:7d}"
        )
        print(f"{row['slide'][:8]:9}{row['file'][-34:]:35}{row['reader']:24}{figures}  {row.get('note', '')}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    if any(row.get("offset_px", 0) >= 0.5 for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
