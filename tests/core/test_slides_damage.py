"""Damage of all kinds: one sentence each, in bounded time, and never a silently wrong pixel where it can be known."""

import importlib.util
import os
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from slide_files import picture, write_pyramid

from napari_slidecorr.errors import DamagedTileError, SlideError
from napari_slidecorr.geometry import Box
from napari_slidecorr.io import open_slide

PIXELS = picture(300, 400)


def tiles_of(path):
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        return list(zip(page.dataoffsets, page.databytecounts, strict=True))


@pytest.mark.parametrize("blank", [b"\0", b"\xff"])
def test_a_jpeg_tile_whose_end_is_missing_is_damaged_not_grey(tmp_path, blank):
    path = tmp_path / "a.tif"
    write_pyramid(path, PIXELS, compression="jpeg")
    offset, count = tiles_of(path)[5]
    with path.open("r+b") as file:
        file.seek(offset + count // 2)
        file.write(blank * (count - count // 2))
    with pytest.raises(
        DamagedTileError, match=r"a\.tif: level 0, tile \(0, 5\) is damaged: its JPEG data is cut short"
    ):
        open_slide(path).source.read_level(0, 0, 0, 300, 400)


def test_padding_after_the_end_of_a_jpeg_tile_is_no_damage(tmp_path):
    path = tmp_path / "a.tif"
    (expected,) = write_pyramid(path, PIXELS, compression="jpeg")
    slide = open_slide(path)
    decode = slide.source._indexes[0].decode
    offset, count = tiles_of(path)[5]
    data = path.read_bytes()[offset : offset + count]
    np.testing.assert_array_equal(decode(data + b"\0" * 30, 5)[:64, :64], expected[:64, 320:384])


def test_a_file_written_over_while_open_is_told(tmp_path):
    path = tmp_path / "a.tif"
    write_pyramid(path, PIXELS, compression="deflate")
    slide = open_slide(path)
    slide.read(Box(0, 0, 64, 64), 64)
    with path.open("r+b") as file:
        file.seek(tiles_of(path)[9][0])
        file.write(b"\0\0\0")
    os.utime(path, ns=(0, 0))
    with pytest.raises(SlideError, match=r"a\.tif: the file was changed or replaced"):
        slide.read(Box(128, 128, 192, 192), 64)


def test_a_file_replaced_while_open_gives_its_own_pixels_or_a_sentence(tmp_path):
    path = tmp_path / "a.tif"
    write_pyramid(path, PIXELS, compression="deflate")
    slide = open_slide(path)
    slide.read(Box(0, 0, 64, 64), 64)
    write_pyramid(tmp_path / "b.tif", 255 - PIXELS, compression="deflate")
    (tmp_path / "b.tif").replace(path)
    np.testing.assert_array_equal(slide.read(Box(128, 128, 192, 192), (64, 64)), PIXELS[128:192, 128:192])
    slide.close()
    os.utime(path, ns=(0, 0))
    with pytest.raises(SlideError, match="changed or replaced"):
        slide.read(Box(200, 200, 264, 264), 64)


def test_an_ome_xml_with_two_prologs(tmp_path):
    path = tmp_path / "a.ome.tif"
    prolog = '<?xml version="1.0" encoding="UTF-8"?>'
    text = f'{prolog}{prolog}<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image/></OME>'
    tifffile.imwrite(path, PIXELS, photometric="rgb", tile=(64, 64), metadata=None, description=text)
    try:
        slide = open_slide(path)
    except SlideError as error:
        assert "a.ome.tif" in str(error)  # noqa: PT017 - either is right
    else:
        np.testing.assert_array_equal(slide.read(Box(0, 0, 300, 400), (300, 400)), PIXELS)
        assert slide.mpp is None


@pytest.mark.parametrize("where", ["past the end", "overflow"])
def test_tile_offsets_past_the_end(tmp_path, where):
    path = tmp_path / "a.tif"
    write_pyramid(path, PIXELS, compression="deflate")
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tag = tif.pages[0].tags[324]
        values = list(tag.value)
        values[3] = 10 * path.stat().st_size if where == "past the end" else 2**32 - 1
        tag.overwrite(values)
    with pytest.raises(SlideError, match=r"a\.tif: the file is cut short; 1 of 35 tiles"):
        open_slide(path)


def test_a_list_of_images_that_runs_in_a_circle(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS, photometric="rgb", metadata=None)
    data = bytearray(path.read_bytes())
    start = int.from_bytes(data[4:8], "little")
    tags = int.from_bytes(data[start : start + 2], "little")
    at = start + 2 + 12 * tags
    data[at : at + 4] = data[4:8]
    path.write_bytes(bytes(data))
    began = time.perf_counter()
    with pytest.raises(SlideError, match="has no end"):
        open_slide(path)
    assert time.perf_counter() - began < 1


def test_three_hundred_mutations_raise_our_errors_only():
    place = Path(__file__).parents[2] / "benchmarks" / "fuzz_slides.py"
    spec = importlib.util.spec_from_file_location("fuzz_slides", place)
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    figures = fuzz.run(300, seed=7)
    assert (figures["mutations"], figures["foreign"]) == (300, {})
    assert figures["slowest_s"] < 5
    assert min(figures["refused"], figures["read"]) > 20, "mutations must both pass and fail to mean anything"


def test_what_is_mutated_opens_before(tmp_path):
    place = Path(__file__).parents[2] / "benchmarks" / "fuzz_slides.py"
    spec = importlib.util.spec_from_file_location("fuzz_slides", place)
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    for number, data in enumerate(fuzz.originals(tmp_path)):
        path = tmp_path / f"{number}.ome.tif"
        path.write_bytes(data)
        fuzz.use(path)
