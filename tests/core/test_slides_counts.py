"""Counts that must not depend on threads, and what happens when the file changes or a drive hangs below an open slide."""

import os
import shutil
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from slide_files import picture, write_pyramid

from napari_slidecorr.errors import SlideError
from napari_slidecorr.io import open_slide
from napari_slidecorr.io.tiles import TileReader

TILE = 64
PIXELS = picture(900, 960)
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))


@pytest.fixture
def path(tmp_path):
    write_pyramid(tmp_path / "slide.tif", PIXELS, tile=(TILE, TILE), compression="deflate")
    return tmp_path / "slide.tif"


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_a_sweep_decodes_each_tile_once(path, threads):
    """Patches side by side and not in line with the tiles, row after row, through a cache of four rows of tiles."""
    source = open_slide(path).source
    loads, lock = Counter(), threading.Lock()

    def counting(*key):
        with lock:
            loads[key] += 1
        return source.tiles.load(*key)

    reader = TileReader(source.levels, counting, 4 * 15 * TILE * TILE * 3)
    with ThreadPoolExecutor(threads) as pool:
        for y in range(30, 900 - TILE, TILE):
            columns = range(30, 960 - TILE, TILE)
            patches = pool.map(lambda x, y=y: reader.read(0, y, x, TILE, TILE), columns)
            np.testing.assert_array_equal(np.hstack(list(patches)), PIXELS[y : y + TILE, 30 : 30 + len(columns) * TILE])
    assert len(loads) == 15 * 15 - 15
    assert sum(loads.values()) / len(loads) == 1.00


def test_20000_random_reads_in_8_threads_equal_those_of_one(path):
    """The cache is too small for the slide, so that tiles come and go all the time."""
    slide = open_slide(path)
    slide.source.tiles.cache.capacity_bytes = 30 * TILE * TILE * 3
    rng = np.random.default_rng(7)
    places = np.column_stack([rng.integers(-40, 900, 20_000), rng.integers(-40, 960, 20_000)])
    padded = np.full((900 + 140, 960 + 140, 3), 255, np.uint8)
    padded[40:940, 40:1000] = PIXELS

    def wrong(part):
        return sum(
            not np.array_equal(slide.source.read_level(0, y, x, 50, 60), padded[y + 40 : y + 90, x + 40 : x + 100])
            for y, x in part.tolist()
        )

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(wrong, np.array_split(places, 8))) == 0


def test_reading_into_an_array_of_the_callers_gives_the_same(path):
    reader = open_slide(path).source.tiles
    out = np.zeros((100, 120, 3), np.uint8)
    for place in [(0, 0), (333, 444), (-20, -30), (880, 900), (2000, 2000)]:
        assert reader.read(0, *place, 100, 120, out) is out
        np.testing.assert_array_equal(out, reader.read(0, *place, 100, 120))


def test_a_file_replaced_while_open_is_told_or_still_the_old_one(path, tmp_path):
    """Renamed over, as most programs save: the open handle goes on to the old pixels, a new one refuses the new file."""
    write_pyramid(tmp_path / "new.tif", 255 - PIXELS, tile=(TILE, TILE), compression="deflate")
    slide = open_slide(path)
    slide.source.read_level(0, 0, 0, 10, 10)
    if os.name == "nt":
        pytest.skip("an open file cannot be replaced there")
    shutil.move(tmp_path / "new.tif", path)
    np.testing.assert_array_equal(slide.source.read_level(0, 300, 300, 200, 200), PIXELS[300:500, 300:500])
    slide.close()
    with pytest.raises(SlideError, match="was changed or replaced"):
        slide.source.read_level(0, 0, 0, 10, 10)


def test_a_tile_overwritten_while_open_is_told(path):
    slide = open_slide(path)
    slide.source.read_level(0, 0, 0, 10, 10)
    data = bytearray(path.read_bytes())
    data[len(data) // 3 :] = bytes(len(data) - len(data) // 3)
    path.write_bytes(data)
    with pytest.raises(SlideError, match="was changed or replaced"):
        slide.read(slide.box, 500)


def test_a_read_that_hangs_holds_up_only_those_who_want_that_tile(path):
    """A share that does not answer: other tiles, and tiles that are known, are read meanwhile."""
    source = open_slide(path).source
    source.read_level(0, 500, 500, 10, 10)
    hang, asked, load = threading.Event(), threading.Event(), source.tiles.load

    def slow(level, row, column):
        if (row, column) == (0, 0):
            asked.set()
            assert hang.wait(20)
        return load(level, row, column)

    source.tiles.load = slow
    with ThreadPoolExecutor(2) as pool:
        stuck = pool.submit(source.read_level, 0, 0, 0, 10, 10)
        assert asked.wait(10)
        np.testing.assert_array_equal(source.read_level(0, 500, 500, 10, 10), PIXELS[500:510, 500:510])
        np.testing.assert_array_equal(source.read_level(0, 200, 200, 90, 90), PIXELS[200:290, 200:290])
        assert not stuck.done()
        hang.set()
        np.testing.assert_array_equal(stuck.result(10), PIXELS[:10, :10])


def test_a_slide_of_100000_px_opens_with_little_memory(tmp_path):
    """Counted rather than timed: Python's allocations; the index is two numbers a tile."""
    import tracemalloc

    mosaic = pytest.importorskip("mosaic", reason="the benchmarks are not beside the tests")
    path = tmp_path / "huge.tif"
    mosaic.write_huge(path)
    open_slide(path)  # imports
    tracemalloc.start()
    start = time.perf_counter()
    slide = open_slide(path)
    views = slide.view_levels()
    assert views[-1][:].max() > 0
    assert views[0][50_000:51_000, 50_000:51_000].std() > 0
    took, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert slide.shape == (100_000, 100_000)
    assert views[0].shape[0] == 2 ** (len(views) - 1) * views[-1].shape[0]
    assert peak < 50e6
    assert took < 5  # 0.1 s without tracemalloc; this is only against seconds
