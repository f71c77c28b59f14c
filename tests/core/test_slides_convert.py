"""Conversion: the very pixels, read by us and by others; stopped, killed and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import repeat

import numpy as np
import pytest
import tifffile
import zarr
from slide_files import picture, write_pyramid
from typer.testing import CliRunner

from napari_slidecorr.cli import app
from napari_slidecorr.errors import ProjectError, SlideError
from napari_slidecorr.events import drain
from napari_slidecorr.io import open_slide
from napari_slidecorr.io.claim import ClaimedError
from napari_slidecorr.io.convert import CHUNK_PX, convert, level_shapes

PIXELS = picture(1201, 2050)
SHAPES = [(1201, 2050), (601, 1025), (301, 513)]
OUTS = ["out.ome.zarr", "out.ome.tif"]


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("slides") / "slide.tif"
    write_pyramid(path, PIXELS, tile=(240, 240), compression="deflate")
    slide = open_slide(path, mpp=(0.25, 0.5))
    yield slide
    slide.close()


@pytest.fixture(scope="module", params=OUTS)
def converted(request, slide, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / request.param
    assert drain(convert(slide, out)) == out
    return out


def test_the_pixels_and_the_levels_are_the_slides(converted, slide):
    found = open_slide(converted)
    assert [level.shape for level in found.levels] == SHAPES == list(level_shapes(slide.shape))
    assert [level.downsample for level in found.levels] == [(1, 1), (2, 2), (4, 4)]
    assert found.mpp == pytest.approx((0.25, 0.5))
    for level, (height, width) in enumerate(SHAPES):
        expected = slide.source.read_level(level, 0, 0, height, width)
        np.testing.assert_array_equal(found.source.read_level(level, 0, 0, height, width), expected)
    assert "levels made" not in found.properties


def test_nothing_else_is_left(converted):
    assert [path.name for path in converted.parent.iterdir()] == [converted.name]


def test_other_programs_read_it(converted):
    if converted.suffix == ".zarr":
        from ome_zarr_models.v05 import Image

        group = zarr.open_group(str(converted), mode="r")
        assert len(Image.from_zarr(group).datasets[0]) == 3
        np.testing.assert_array_equal(group["0"][:].transpose(1, 2, 0), PIXELS)
        return
    with tifffile.TiffFile(converted) as tif:
        assert tif.is_ome
        assert [level.shape[:2] for level in tif.series[0].levels] == SHAPES
        np.testing.assert_array_equal(tif.asarray(), PIXELS)
    openslide = pytest.importorskip("openslide")
    other = openslide.OpenSlide(converted).read_region((1000, 500), 0, (300, 200)).convert("RGB")
    np.testing.assert_array_equal(np.asarray(other), PIXELS[500:700, 1000:1300])


def test_jpeg_is_smaller_and_close(slide, converted, tmp_path):
    out = drain(convert(slide, tmp_path / "out.ome.tif", quality=85))
    pixels = open_slide(out).source.read_level(0, 0, 0, *slide.shape)
    assert np.abs(pixels.astype(int) - PIXELS).mean() < 4
    if converted.suffix == ".tif":
        assert out.stat().st_size < converted.stat().st_size / 2


@pytest.mark.parametrize(
    ("name", "quality", "words"),
    [("a.png", None, "NAME.ome.zarr or NAME.ome.tif"), ("a.ome.zarr", 80, "quality is 80"), ("a.ome.tif", 0, "is 0")],
)
def test_what_cannot_be_is_refused_at_the_call(slide, tmp_path, name, quality, words):
    with pytest.raises(SlideError, match=words):
        convert(slide, tmp_path / name, quality=quality)
    (tmp_path / "there.ome.tif").write_text("mine")
    with pytest.raises(SlideError, match="already something"):
        convert(slide, tmp_path / "there.ome.tif")


@pytest.mark.parametrize("name", OUTS)
def test_closing_stops_and_the_same_call_goes_on(slide, tmp_path, name):
    out = tmp_path / name
    events = convert(slide, out)
    for _ in range(3):
        next(events)
    events.close()
    assert not out.exists()
    (folder,) = tmp_path.iterdir()
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("c/0/*/*")}
    first = next(again := convert(slide, out))
    assert len(kept) >= 3
    assert first.done > len(kept)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    drain(again)
    np.testing.assert_array_equal(open_slide(out).source.read_level(0, 0, 0, *slide.shape), PIXELS)


def test_stopping_while_the_tiff_is_written_leaves_no_file(slide, tmp_path):
    events = convert(slide, tmp_path / "a.ome.tif")
    while next(events).phase != "Writing TIFF":
        pass
    events.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.ome.tif.levels.part"]


def test_another_slides_beginnings_are_not_gone_on_with(slide, tmp_path):
    write_pyramid(tmp_path / "other.tif", 255 - PIXELS)
    events = convert(open_slide(tmp_path / "other.tif"), tmp_path / "out.ome.zarr")
    for _ in range(5):
        next(events)
    events.close()
    out = drain(convert(slide, tmp_path / "out.ome.zarr"))
    np.testing.assert_array_equal(open_slide(out).source.read_level(0, 0, 0, *slide.shape), PIXELS)


def test_a_folder_of_somebody_else_in_the_way_stays(slide, tmp_path):
    (tmp_path / "out.ome.zarr.part").mkdir()
    (tmp_path / "out.ome.zarr.part" / "notes").write_text("mine")
    with pytest.raises(ProjectError, match="in the way"):
        drain(convert(slide, tmp_path / "out.ome.zarr"))
    assert (tmp_path / "out.ome.zarr.part" / "notes").read_text() == "mine"


@pytest.mark.parametrize("name", OUTS)
def test_two_at_once_do_not_write_into_each_other(slide, tmp_path, name):
    first, second = convert(slide, tmp_path / name), convert(slide, tmp_path / name)
    next(first)
    with pytest.raises(ClaimedError, match="is writing it; wait for it, or stop it first"):
        next(second)
    third = convert(slide, tmp_path / name)
    drain(first)
    with pytest.raises(SlideError, match="already something of that name"):
        next(third)


def test_a_slide_of_channels_is_refused_before_anything_is_written(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.ome.tif", np.zeros((2, 256, 256), np.uint16), tile=(64, 64), metadata={"axes": "CYX"}
    )
    with pytest.raises(SlideError):
        convert(open_slide(tmp_path / "a.ome.tif"), tmp_path / "out.ome.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["a.ome.tif"]


def test_a_damaged_tile_stops_the_work_with_its_place(tmp_path):
    write_pyramid(tmp_path / "a.tif", PIXELS, compression="deflate")
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        offset = tif.pages[0].dataoffsets[40]
    with (tmp_path / "a.tif").open("r+b") as file:
        file.seek(offset)
        file.write(b"\x07" * 30)
    with pytest.raises(SlideError, match=r"level 0, tile \(1, 7\) is damaged"):
        drain(convert(open_slide(tmp_path / "a.tif"), tmp_path / "out.ome.zarr"))
    assert not (tmp_path / "out.ome.zarr").exists()


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_killed_and_gone_on_with(slide, tmp_path):
    out, part = tmp_path / "out.ome.zarr", tmp_path / "out.ome.zarr.part"
    code = (
        "import sys, time; from pathlib import Path; from napari_slidecorr.io import open_slide\n"
        "from napari_slidecorr.io.convert import convert\n"
        "for event in convert(open_slide(sys.argv[1], mpp=(0.25, 0.5)), Path(sys.argv[2])): time.sleep(0.1)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(slide.path), str(out)])
    try:
        deadline = time.monotonic() + 60
        while len(list(part.rglob("c/0/*/*"))) < 6:
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait(30)
    assert not out.exists()
    kept = {path.relative_to(part): path.stat().st_mtime_ns for path in part.rglob("c/0/*/*") if path.suffix != ".part"}
    drain(convert(slide, out))
    assert {path: (out / path).stat().st_mtime_ns for path in kept} == kept
    np.testing.assert_array_equal(open_slide(out).source.read_level(0, 0, 0, *slide.shape), PIXELS)


@pytest.mark.parametrize("name", OUTS)
def test_memory_does_not_grow_with_the_slide(tmp_path, name):
    """Python's own allocations at their highest, numpy's arrays included, for a slide of 9 and one of 50 megapixels."""
    import tracemalloc

    peaks = []
    for side in (3072, 7168):
        path = tmp_path / f"{side}.tif"
        tifffile.imwrite(
            path, repeat(b"", (side // CHUNK_PX) ** 2), shape=(side, side, 3), dtype=np.uint8,
            tile=(CHUNK_PX, CHUNK_PX), photometric="rgb", compression="deflate",
        )  # fmt: skip
        slide = open_slide(path)
        slide.source.source.tiles.cache.capacity_bytes = 1
        tracemalloc.start()
        drain(convert(slide, tmp_path / f"{side}-{name}"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_on_the_command_line(slide, tmp_path):
    out = tmp_path / "out.ome.tif"
    outcome = CliRunner().invoke(app, ["convert", str(slide.path), str(out), "--mpp", "0.5", "--json"])
    assert outcome.exit_code == 0, outcome.output
    told = json.loads(outcome.stdout)
    assert (told["out"], told["mpp"], told["levels"]) == (str(out), [0.5, 0.5], [list(s) for s in SHAPES])
    again = CliRunner().invoke(app, ["convert", str(slide.path), str(out)])
    assert again.exit_code == 2
    assert "already something" in again.stderr


@pytest.mark.parametrize(
    ("shape", "advice"), [((300, 400), "slidecorr convert"), ((900, 1000), "the program that made it")]
)
def test_giants_in_one_piece_are_converted_or_refused(tmp_path, monkeypatch, shape, advice):
    from napari_slidecorr.io import tiles

    monkeypatch.setattr(tiles, "MAX_CONVERTED_SEGMENT_PIXELS", 200_000)
    token = tiles._segment_limit.set(100_000)
    path, out = tmp_path / "strip.tif", tmp_path / "out.ome.zarr"
    pixels = picture(*shape)
    tifffile.imwrite(path, pixels, photometric="rgb", rowsperstrip=shape[0], compression="deflate", metadata=None)
    try:
        with pytest.raises(SlideError, match=advice):
            open_slide(path)
        outcome = CliRunner().invoke(app, ["convert", str(path), str(out)])
    finally:
        tiles._segment_limit.reset(token)
    assert (outcome.exit_code == 0) == (advice == "slidecorr convert")
    if outcome.exit_code == 0:
        np.testing.assert_array_equal(open_slide(out).source.read_level(0, 0, 0, *shape), pixels)
