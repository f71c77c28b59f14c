"""What every test with a window needs: torch before the first viewer, own settings, and no thread left behind."""

import os
import tempfile

os.environ.setdefault("NAPARI_CONFIG", os.path.join(tempfile.mkdtemp(), "settings.yaml"))  # noqa: PTH118

import threading

import pytest

from napari_slidecorr._napari.job import THREAD_NAME
from napari_slidecorr._napari.torch_door import load_torch

load_torch().set_num_threads(1)


@pytest.fixture(autouse=True)
def no_job_left():
    yield
    left = [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]
    for thread in left:
        thread.join(10)
    assert not left, "a job's thread was still running at the end of the test"


def write_slide(path, *, mpp=0.5, shape=(1024, 1536), seed=0):
    """A small tiled pyramid of noise on tissue-like colour; without mpp it says nothing of its pixels' size."""
    import numpy as np
    import tifffile

    rng = np.random.default_rng(seed)
    full = np.clip(rng.normal((200, 150, 190), 20, (*shape, 3)), 0, 255).astype(np.uint8)
    unit = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"} if mpp else {}
    with tifffile.TiffWriter(path) as writer:
        options = {"photometric": "rgb", "tile": (256, 256), "compression": "deflate"}
        writer.write(full, subifds=1, **options, **unit)
        writer.write(full[::4, ::4], subfiletype=1, **options)
    return path


@pytest.fixture
def small_slides(tmp_path):
    """Two slides with a pixel size of 0.5 um, one of them larger."""
    folder = tmp_path / "slides"
    folder.mkdir()
    return [
        write_slide(folder / "one.tif", seed=1),
        write_slide(folder / "two.tif", seed=2, shape=(2048, 2048)),
    ]


@pytest.fixture
def slide_without_mpp(tmp_path):
    return write_slide(tmp_path / "unknown.tif", mpp=None, seed=3)


@pytest.fixture(scope="session")
def sample_cohort(tmp_path_factory):
    """Four small made-up slides of two or three classes, with regions."""
    from napari_slidecorr.events import drain
    from napari_slidecorr.sample_data import make_cohort

    return drain(make_cohort(tmp_path_factory.mktemp("cohort"), slides=4, size_px=640))


@pytest.fixture
def project(tmp_path, sample_cohort):
    """A project of these slides."""
    from napari_slidecorr.project import Project
    from napari_slidecorr.sample_data import CLASS_COLORS

    made = Project.create(tmp_path / "project", tuple(CLASS_COLORS))
    made.add_slides([sample.path for sample in sample_cohort])
    for sample in sample_cohort:
        made.save_regions(sample.id, sample.regions)
    return made
