"""Every class of error stands in the table of the docs, and is raised with a sentence that names the thing and the way out."""

import ast
import functools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile

import napari_slidecorr
from napari_slidecorr import Project, TrainConfig, open_slide, read_regions
from napari_slidecorr.errors import SlideCorrError, sentence
from napari_slidecorr.events import Interrupted, check_interrupted, interruptible
from napari_slidecorr.geometry import Box
from napari_slidecorr.io.claim import claimed
from napari_slidecorr.io.map_zarr import read
from napari_slidecorr.learning.preconditions import check_run
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.runs import run_claimed
from napari_slidecorr.torch_trouble import torch_trouble_told

PACKAGE = Path(napari_slidecorr.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
INSIDE = {"NotRgbError", "StitchedError", "Interrupted"}


@functools.cache
def sources():
    return {path: ast.parse(path.read_text("utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def exceptions():
    """Names of all classes of the package that are raised: those whose parents end in an exception of Python's."""
    parents = {}
    for tree in sources().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                parents[node.name] = {base.id for base in node.bases if isinstance(base, ast.Name)}
    found = {"Exception", "OSError", "ValueError", "RuntimeError", "ImportError"}
    while more := {name for name, bases in parents.items() if bases & found} - found:
        found |= more
    return {name for name in found & set(parents) if not name.startswith("_")}


def rows():
    return {
        cells[1].strip(" `"): [cell.strip() for cell in cells[2:-1]]
        for line in PAGE.read_text("utf-8").splitlines()
        if (cells := line.split("|"))[1:2] and cells[1].startswith(" `")
    }


def damaged_tile(folder):
    path = folder / "a.tif"
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    tifffile.imwrite(path, noise, tile=(128, 128), photometric="rgb", compression="deflate")
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages.first.dataoffsets[0]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\x07" * 1000)
    open_slide(path).read(Box(0, 0, 128, 128), 128)


def broken_regions(folder):
    (folder / "a.geojson").write_text("")
    read_regions(folder / "a.geojson")


def unlabelled(folder):
    Project.create(folder / "study", ("tumour", "stroma")).training_plan(TrainConfig())


def no_torch(_folder):
    with torch_trouble_told():
        raise ModuleNotFoundError("No module named 'torch'", name="torch")


def taken_run(folder):
    (folder / "config.json").write_text(json.dumps({}))
    check_run(folder, None, None, TrainConfig(), resume=True)


def twice_claimed(folder):
    with claimed(folder / "a.ome.zarr"), claimed(folder / "a.ome.zarr"):
        pass


def twice_trained(folder):
    with run_claimed(folder / "scr-001"), run_claimed(folder / "scr-001"):
        pass


CASES = {
    "SlideError": (lambda folder: open_slide(folder / "a.svs"), "a.svs", "its drive is not connected"),
    "DamagedTileError": (damaged_tile, "a.tif: level 0, tile (0, 0)", "copy the file again or leave this place out"),
    "RegionsError": (broken_regions, "a.geojson", "export it again"),
    "ConfigError": (lambda _folder: TrainConfig(epochs=0), "epochs is 0", "it must be at least 1"),
    "CohortError": (unlabelled, "no regions", "Draw or import regions of at least two classes on two slides"),
    "TrainingError": (taken_run, "config.json", "start a new run"),
    "ModelError": (
        lambda folder: ModelSpec.load(folder / "model.json"),
        "model.json",
        "Choose the model.json of a run",
    ),
    "TorchError": (no_torch, "PyTorch", "install it again (pip install torch torchvision)"),
    "MapError": (lambda folder: read(folder / "a.ome.zarr"), "a.ome.zarr", "choose an .ome.zarr folder"),
    "ClaimedError": (twice_claimed, "a.ome.zarr", "wait for it, or stop it first"),
    "RunTakenError": (twice_trained, "scr-001: it is being trained", "wait for it, or stop it first"),
    "ProjectError": (lambda folder: Project.open(folder / "study"), "study", "create one there first"),
}


def test_the_table_is_whole():
    assert set(rows()) == exceptions() - INSIDE - {"SlideCorrError"}
    assert all(len(cells) == 3 and all(cells) for cells in rows().values())
    assert all(f"`{name}`" in PAGE.read_text("utf-8") for name in exceptions())


def test_each_has_a_case():
    assert set(CASES) == set(rows())


@pytest.mark.parametrize("name", CASES)
def test_each_names_the_thing_and_what_to_do(name, tmp_path):
    act, thing, way_out = CASES[name]
    with pytest.raises(SlideCorrError) as raised:
        act(tmp_path)
    assert type(raised.value).__name__ == name
    assert isinstance(raised.value, (OSError, ValueError, RuntimeError, ImportError))
    said = sentence(raised.value)
    assert thing in said
    assert said.endswith(f"{way_out}.")
    assert said.count("\n") == 0


def test_a_fault_of_ours_carries_its_name():
    assert sentence(KeyError("x")) == "KeyError: 'x'"


def test_a_cancel_is_no_error():
    with pytest.raises(Interrupted), interruptible(lambda: True):
        check_interrupted()


@pytest.mark.parametrize("name", ["NotRgbError", "StitchedError"])
def test_what_stays_inside_is_caught_where_it_is_raised(name):
    assert any(f"except {name}:" in path.read_text("utf-8") for path in (PACKAGE / "io").glob("*.py"))


UNKIND = (
    r"\b([Ff]ailed to|[Ii]nvalid|[Ii]llegal|[Uu]nexpected|NoneType|dtype|kwargs|stack|traceback|uid|null)\b|!|\s\.\.\."
)


def messages():
    """All texts that are raised as an error of ours, with a letter in the place of what is filled in."""
    names = set(rows())
    for path, tree in sources().items():
        for node in ast.walk(tree):
            made = node.exc if isinstance(node, ast.Raise) else node.value if isinstance(node, ast.Return) else None
            if isinstance(made, ast.Call) and getattr(made.func, "id", "") in names and made.args:
                text = made.args[0]
                parts = text.values if isinstance(text, ast.JoinedStr) else [text]
                if isinstance(parts[-1], ast.Constant):
                    said = "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in parts)
                    yield f"{path.relative_to(PACKAGE)}:{node.lineno}", said


def test_messages_are_sentences_without_jargon():
    found = list(messages())
    assert len(found) > 250
    assert [(where, said) for where, said in found if not said.endswith(".") or re.search(UNKIND, said)] == []
