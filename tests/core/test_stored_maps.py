import os

import numpy as np
import pytest
import tifffile

from napari_slidecorr.errors import ProjectError
from napari_slidecorr.events import BlockDone
from napari_slidecorr.geometry import Grid, PatchGeometry
from napari_slidecorr.io.map_zarr import MapWriter
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.project import Project
from napari_slidecorr.stored_maps import remove_map, stored_maps

GRID = Grid((4, 4), (0, 0), (32, 32), (32, 32), (0.5, 0.5))


@pytest.fixture
def project(tmp_path):
    pixels = np.full((128, 128, 3), 200, np.uint8)
    tifffile.imwrite(tmp_path / "s.tif", pixels, tile=(64, 64), photometric="rgb", metadata=None)
    made = Project.create(tmp_path / "project", ["a", "b"])
    made.add_slides([tmp_path / "s.tif"])
    return made


def put(project, name, model_id, *, complete=True, at=1_000_000_000):
    path = project.folder / "maps" / "s" / name
    with MapWriter(path, ("a", "b"), GRID, "s", model_id, 2) as writer:
        for rows, columns in writer.missing_blocks():
            values = np.full((2, 2, 2), 0.5, np.float32)
            writer.write(BlockDone(phase="", rows=rows, columns=columns, probabilities=values))
        if complete:
            writer.complete()
    os.utime(path / "zarr.json", (at, at))
    return path


def a_run(project, name):
    spec = ModelSpec(
        backbone="none", classes=("a", "b"), geometry=PatchGeometry(32, 0.5), mean=(0.5,) * 3, std=(0.5,) * 3,
        objective={"kind": "scr"}, train_slides=(), validation_slides=(), initial_weights="random",
        weights_sha256="ab" * 32, package_version="0",
    )  # fmt: skip
    folder = project.folder / "runs" / name
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(spec.to_json())
    return spec


def test_maps_are_listed_with_run_objective_and_state(project):
    assert stored_maps(project, "s") == []
    spec = a_run(project, "scr-none-001")
    put(project, "123456789abc.ome.zarr", "123456789abc", at=1_000_000_000)
    put(project, f"{spec.id}-overlap0.5-all.ome.zarr", spec.id, complete=False, at=1_100_000_000)
    (project.folder / "maps" / "s" / "other.ome.zarr").mkdir()
    old, new = stored_maps(project, "s")
    assert (old.run, old.objective, old.settings, old.complete) == ("", "", "", True)
    assert (new.run, new.objective, new.settings, new.complete) == ("scr-none-001", "scr", "overlap0.5, all", False)
    assert old.title.startswith("model 123456789abc, 2001-09-")
    assert new.title.startswith("scr-none-001 (SCR), overlap0.5, all, 2004-11-")
    assert new.title.endswith(", not complete")


def test_a_removed_map_can_be_put_back(project):
    path = put(project, "m.ome.zarr", "m")
    (stored,) = stored_maps(project, "s")
    moved = remove_map(project, stored)
    assert stored_maps(project, "s") == project.maps("s") == []
    with pytest.raises(ProjectError, match="no such map in the project"):
        remove_map(project, stored)
    moved.rename(path)
    assert stored_maps(project, "s") == [stored]
    assert remove_map(project, stored) == moved
    put(project, "m.ome.zarr", "m")
    assert remove_map(project, stored) not in (moved, path)


def test_a_project_that_is_read_only_here_keeps_its_maps(project):
    path = put(project, "m.ome.zarr", "m")
    (stored,) = stored_maps(project, "s")
    assert project.claim() == ""
    other = Project.open(project.folder)
    told = other.claim()
    with pytest.raises(ProjectError, match="read-only here") as refused:
        remove_map(other, stored)
    assert str(refused.value) == told
    assert path.exists()
    project.release()


def test_a_slide_that_is_not_there_is_told(project):
    with pytest.raises(ProjectError, match="nowhere"):
        stored_maps(project, "nowhere")
