"""Real slides, where they lie beside the checkout: what is expected of each, one row a file."""

import multiprocessing
import os
import pickle
import time
from typing import NamedTuple

import numpy as np
import pytest

from napari_slidecorr.errors import SlideError
from napari_slidecorr.io import open_slide


class Case(NamedTuple):
    path: str
    shape: tuple[int, int]
    mpp: tuple[float, float] | None
    stored: tuple[float, ...]  # downsamples of the levels in the file
    mean: float  # of the thumbnail, so that no colour or background case slips


CASES = [
    Case("slides/CMU-1-Small-Region.svs", (2967, 2220), (0.499, 0.499), (1,), 205.6),
    Case("slides/TCGA-CR-7395-01A-01-TS1.svs", (3567, 4443), None, (1, 2), 188.2),
    Case("slides/luna-1065626.svs", (10249, 11952), (0.5026, 0.5026), (1, 4), 242.2),
    Case("slides/hamamatsu-test3-DAPI-2-387.ndpi", (4864, 3968), (0.228175, 0.228175), (1, 2, 4, 8), 14.2),
    Case("slides/openslide-small.svs", (16, 16), (0.499, 0.499), (1,), 236.3),
    Case("slides/openslide-boxes.tiff", (250, 300), None, (1, 2, 4, 8), 171.3),
    Case("slides/qupath-cells.ome.tif", (131, 93), (0.25, 0.25), (1,), 213.6),
    Case("slides/dicom-camelyon-jpeg2000.dcm", (812, 1696), (28.968, 28.969), (1,), 201.7),
    Case("slides/highdicom-sm_image.dcm", (50, 50), (0.499, 0.499), (1,), 243.9),
    Case("slides/openslide-boxes_0.dcm", (16, 16), (0.499, 0.499), (1,), 236.3),
    Case("slides/openslide-boxes_1.dcm", (16, 16), (0.499, 0.499), (1,), 236.3),
    Case("derived/cmu1-vips-pyramid-jpeg.tif", (2967, 2220), (0.499, 0.499), (1, 2, 4, 8, 16), 205.6),
    Case("derived/cmu1-vips-subifd-jpeg.ome.tif", (2967, 2220), (0.499, 0.499), (1, 2, 4, 8, 16), 205.6),
    Case("derived/cmu1-tifffile-shaped-pages.tif", (512, 768), (0.499, 0.499), (1, 2), 171.7),
    Case("derived/cmu1-tifffile-sparse-tiles.tif", (512, 768), (0.499, 0.499), (1, 2), 216.3),
    Case("derived/cmu1-ngff-zarr-v0.5.ome.zarr", (1024, 1024), (0.499, 0.499), (1, 2, 4), 174.5),
    Case("derived/cmu1-ome-zarr-py-v0.4.ome.zarr", (1024, 1024), None, (1, 2, 4, 8, 16), 173.4),
    Case("derived/cmu1-wsidicomizer/level-2.dcm", (2967, 2220), (0.499, 0.499), (1, 2, 4, 8, 16), 156.7),
]
REFUSED = {
    "slides/pathml-small_vectra.qptiff": r"3x1440x1920 \(CYX\) of uint8",
    "slides/pathml-smalltif.tif": r"480x640 \(YX\) of uint16",
    "slides/insitupy-morphology_focus-v04.zarr": "uint16",
    "slides/ngio-v04-cyx.zarr": "uint16",
    "slides/ngio-v05-cyx.zarr": "uint16",
    "slides/viv-blobs-v04.ome.zarr": "float64",
    "slides/viv-blobs-v05.ome.zarr": "float64",
    "broken/histolab-broken.svs": "not a TIFF",
    "broken/git-lfs-pointer.ome.tiff": "git lfs pull",
    "broken/gcp-ndpi_test.ndpi": "git lfs pull",
    "broken/openslide-unopenable.tiff": "compression 52479",
    "broken/openslide-unreadable.svs": r"level 0, tile \(0, 0\) is damaged",
    "broken/pathml-small_dicom.dcm": "openslide cannot read",
    "broken/large_image-zero_gi.tif": "empty",
    "broken/large_image-test_orient1.tif": "brightfield RGB",
    "broken/large_image-test_orient3.tif": "orientation tag is 3",
}


def path_of(shared_data, name):
    if name.endswith(".dcm"):
        pytest.importorskip("openslide")
    return shared_data / name


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.path)
def test_a_real_slide_opens(shared_data, case):
    slide = open_slide(path_of(shared_data, case.path))
    assert slide.shape == case.shape
    assert slide.mpp == (None if case.mpp is None else pytest.approx(case.mpp, rel=1e-4))
    assert tuple(level.downsample[0] for level in slide.levels)[: len(case.stored)] == case.stored
    assert max(slide.levels[-1].shape) <= 1000
    assert slide.properties["format"]
    assert slide.thumbnail(100).mean() == pytest.approx(case.mean, abs=0.5)
    slide.close()


@pytest.mark.parametrize("name", REFUSED)
def test_a_real_file_is_refused_in_a_sentence(shared_data, name):
    path = path_of(shared_data, name)
    start = time.perf_counter()
    with pytest.raises(SlideError, match=REFUSED[name]) as caught:
        open_slide(path).thumbnail(64)
    assert path.name in str(caught.value)
    assert time.perf_counter() - start < 10


def test_every_file_has_its_row(shared_data):
    listed = {case.path.split("/")[1] for case in CASES} | {name.split("/")[1] for name in REFUSED}
    found = {path.name for folder in ("slides", "derived", "broken") for path in (shared_data / folder).iterdir()}
    assert found == listed


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("CMU-1-Small-Region.svs", 0),
        ("TCGA-CR-7395-01A-01-TS1.svs", 0),
        ("luna-1065626.svs", 1),  # JPEG 2000 in YCbCr: the conversion rounds otherwise
        ("openslide-small.svs", 0),
        ("openslide-boxes.tiff", 0),
        ("hamamatsu-test3-DAPI-2-387.ndpi", 0),
    ],
)
def test_pixels_equal_those_of_openslide(shared_data, name, tolerance):
    openslide = pytest.importorskip("openslide")
    slide, other = open_slide(shared_data / "slides" / name), openslide.OpenSlide(shared_data / "slides" / name)
    rng = np.random.default_rng(0)
    for _ in range(6):
        y, x = (int(rng.integers(0, max(1, n - 300))) for n in slide.shape)
        height, width = (min(300, n) for n in slide.shape)
        expected = np.asarray(other.read_region((x, y), 0, (width, height)).convert("RGB")).astype(int)
        assert np.abs(slide.source.read_level(0, y, x, height, width) - expected).max() <= tolerance


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_dicom_series_is_read_by_children_and_from_pickles(shared_data):
    slide = open_slide(path_of(shared_data, "derived/cmu1-wsidicomizer/level-0.dcm"))
    expected = slide.source.read_level(0, 1000, 1000, 600, 600)

    def check():
        np.testing.assert_array_equal(slide.source.read_level(0, 1000, 1000, 600, 600), expected)

    child = multiprocessing.get_context("fork").Process(target=check, daemon=True)
    child.start()
    child.join(30)
    assert child.exitcode == 0
    slide.close()
    check()
    again = pickle.loads(pickle.dumps(slide))  # noqa: S301 - our own
    np.testing.assert_array_equal(again.source.read_level(0, 1000, 1000, 600, 600), expected)


def test_a_dicom_series_holds_the_pixels_of_the_slide_it_was_made_from(shared_data):
    dicom = open_slide(path_of(shared_data, "derived/cmu1-wsidicomizer/level-3.dcm"))
    aperio = open_slide(shared_data / "slides" / "CMU-1-Small-Region.svs")
    for place in [(0, 0, 300, 300), (2700, 1900, 400, 400), (1111, 777, 99, 301)]:
        np.testing.assert_array_equal(dicom.source.read_level(0, *place), aperio.source.read_level(0, *place))
