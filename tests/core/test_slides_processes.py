"""Many threads, forked and spawned children, pickles, changed files: the same pixels, each tile decoded once."""

import multiprocessing
import os
import pickle
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from slide_files import cut, picture, pixels_of, write_pyramid, write_zarr

from napari_slidecorr.errors import SlideError
from napari_slidecorr.io import open_slide
from napari_slidecorr.io.tiles import TileCache

PLACE = (100, 50, 300, 300)


@pytest.fixture(params=["tiff", "made levels", "zarr"])
def slide(request, tmp_path):
    size = (600, 1100) if request.param == "made levels" else (600, 900)
    pixels = picture(*size)
    if request.param == "zarr":
        write_zarr(tmp_path / "slide.ome.zarr", pixels, levels=2)
        yield_path = tmp_path / "slide.ome.zarr"
    else:
        write_pyramid(tmp_path / "slide.tif", pixels, compression="deflate")
        yield_path = tmp_path / "slide.tif"
    slide = open_slide(yield_path)
    yield slide, pixels
    slide.close()


def tile_reader(slide):
    source = slide.source
    return getattr(source, "source", source).tiles


def counted(reader):
    """Count how often each tile is loaded from now on."""
    loads, load, lock = Counter(), reader.load, threading.Lock()

    def counting(*key):
        with lock:
            loads[key] += 1
        return load(*key)

    reader.load = counting
    return loads


def test_eight_threads_read_what_one_reads_and_decode_each_tile_once(slide):
    slide, pixels = slide
    loads = counted(tile_reader(slide))
    rng = np.random.default_rng(1)
    places = [(*map(int, rng.integers(-100, 800, 2)), *map(int, rng.integers(1, 200, 2))) for _ in range(200)]
    barrier = threading.Barrier(8)

    def read(part):
        barrier.wait()
        return [slide.source.read_level(0, *place) for place in part]

    with ThreadPoolExecutor(8) as pool:  # all eight read all places, in different orders
        orders = [np.random.default_rng(i).permutation(len(places)) for i in range(8)]
        results = list(pool.map(read, [[places[i] for i in order] for order in orders]))
    for order, result in zip(orders, results, strict=True):
        for i, found in zip(order, result, strict=True):
            np.testing.assert_array_equal(found, cut(pixels, *places[i]))
    assert loads
    assert set(loads.values()) == {1}


def test_threads_that_want_one_tile_wait_for_a_single_decode():
    cache, started, go = TileCache(), threading.Event(), threading.Event()
    calls = []

    def load(*key):
        calls.append(key)
        started.set()
        assert go.wait(10)
        return np.zeros((4, 4, 3), np.uint8)

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(cache.get, (0, 0, 0), load)
        assert started.wait(10)
        rest = [pool.submit(cache.get, (0, 0, 0), load) for _ in range(7)]
        go.set()
        assert all(future.result(10) is first.result(10) for future in rest)
    assert calls == [(0, 0, 0)]


def test_a_failed_load_reaches_all_waiters_and_is_tried_again():
    cache = TileCache()

    def fail(*key):
        raise SlideError(f"no {key}")

    for _ in range(2):
        with pytest.raises(SlideError, match=r"no \(1, 2, 3\)"):
            cache.get((1, 2, 3), fail)
    tile = np.ones((2, 2, 3), np.uint8)
    assert cache.get((1, 2, 3), lambda *_: tile) is tile


def test_the_cache_keeps_the_latest_within_its_bytes():
    cache = TileCache(capacity_bytes=300)
    loads = []

    def load(*key):
        loads.append(key)
        return np.zeros((4, 8, 3), np.uint8)  # 96 bytes

    for column in (0, 1, 2, 0, 3, 0, 1):
        cache.get((0, 0, column), load)
    assert loads == [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 0, 1)]


def test_a_tile_above_the_capacity_is_still_given():
    cache = TileCache(capacity_bytes=10)
    assert cache.get((0, 0, 0), lambda *_: np.zeros((9, 9, 3), np.uint8)).shape == (9, 9, 3)


def test_a_pickle_is_small_and_reads_the_same(slide):
    slide, pixels = slide
    slide.source.read_level(0, *PLACE)
    data = pickle.dumps(slide.with_mpp(0.25))
    assert len(data) < 1000
    again = pickle.loads(data)  # noqa: S301 - our own
    assert (again.id, again.levels, again.mpp, again.mpp_source) == (slide.id, slide.levels, (0.25, 0.25), "user")
    np.testing.assert_array_equal(again.source.read_level(0, *PLACE), cut(pixels, *PLACE))


def test_views_pickle_without_their_listener(slide):
    slide, pixels = slide
    view = pickle.loads(pickle.dumps(slide.view_levels(print)[0]))  # noqa: S301 - our own
    np.testing.assert_array_equal(view[100:200, 50:90], pixels[100:200, 50:90])


def test_a_pickle_of_a_changed_file_says_so(slide):
    slide, _ = slide
    data = pickle.dumps(slide)
    path = slide.path if slide.path.is_file() else slide.path / ".zattrs"
    os.utime(path, ns=(1, 1))
    with pytest.raises(SlideError, match="was changed or replaced"):
        pickle.loads(data)  # noqa: S301 - our own


def test_a_file_changed_before_its_first_read_says_so(tmp_path):
    path = tmp_path / "slide.tif"
    write_pyramid(path, picture(100, 100))
    slide = open_slide(path)
    write_pyramid(path, picture(90, 90))
    with pytest.raises(SlideError, match=r"slide\.tif: the file was changed or replaced"):
        slide.thumbnail(50)


def test_a_file_cut_while_open_says_so(tmp_path):
    path = tmp_path / "slide.tif"
    write_pyramid(path, picture(300, 300))
    slide = open_slide(path)
    slide.source.read_level(0, 0, 0, 10, 10)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(SlideError, match=r"slide\.tif: the file was changed or replaced"):
        slide.read(slide.box, 300)


def test_a_closed_slide_opens_again(slide):
    slide, pixels = slide
    for _ in range(2):
        slide.close()
        np.testing.assert_array_equal(slide.source.read_level(0, *PLACE), cut(pixels, *PLACE))


def test_closing_while_others_read_harms_nobody(tmp_path):
    path = tmp_path / "slide.tif"
    (pixels,) = write_pyramid(path, picture(600, 600))
    slide, stop = open_slide(path), threading.Event()

    def read():
        while not stop.is_set():
            np.testing.assert_array_equal(slide.source.read_level(0, *PLACE), pixels[100:400, 50:350])

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        for _ in range(100):
            slide.close()
            slide.source.read_level(0, 0, 0, 1, 1)
        stop.set()
        for reader in readers:
            reader.result(30)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_reads_though_a_thread_held_the_locks(slide):
    slide, pixels = slide
    slide.source.read_level(0, *PLACE)
    reader = tile_reader(slide)

    def check():
        np.testing.assert_array_equal(slide.source.read_level(0, *PLACE), cut(pixels, *PLACE))

    context = multiprocessing.get_context("fork")
    with Held(reader.cache._lock):
        child = context.Process(target=check, daemon=True)
        child.start()
    child.join(30)
    assert child.exitcode == 0


class Held:
    """A lock that another thread holds."""

    def __init__(self, lock):
        self.lock, self.ready, self.done = lock, threading.Event(), threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=self._hold)
        self.thread.start()
        assert self.ready.wait(10)

    def _hold(self):
        with self.lock:
            self.ready.set()
            self.done.wait(10)

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_children_and_parent_read_at_once(tmp_path):
    path = tmp_path / "slide.tif"
    (pixels,) = write_pyramid(path, picture(600, 900), compression="jpeg")
    slide = open_slide(path)
    slide.source.read_level(0, 0, 0, 10, 10)
    rng = np.random.default_rng(2)
    places = [(*map(int, rng.integers(0, 500, 2)), 64, 64) for _ in range(60)]

    def check():
        for place in places:
            np.testing.assert_array_equal(slide.source.read_level(0, *place), cut(pixels, *place))

    context = multiprocessing.get_context("fork")
    children = [context.Process(target=check, daemon=True) for _ in range(3)]
    for child in children:
        child.start()
    check()
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0, 0, 0]


def test_a_spawned_child_reads(slide):
    slide, pixels = slide
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply_async(pixels_of, (slide, PLACE)).get(60)
    np.testing.assert_array_equal(found, cut(pixels, *PLACE))


def test_opening_imports_neither_zarr_nor_dask(tmp_path):
    import subprocess

    path = tmp_path / "slide.tif"
    write_pyramid(path, picture(100, 100))
    code = (
        "import sys; from napari_slidecorr.io import open_slide;"
        f"open_slide({str(path)!r}).thumbnail(10);"
        "print([name for name in ('zarr', 'dask', 'torch', 'skimage') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
