"""How much reading costs beyond decoding: random places, a sweep, threads, a viewer beside it, and other libraries.

Everything is held against decoding the same tiles in the same process ("raw"), in interleaved rounds, and medians of the
ratios are the result: CPU seconds for one thread, wall time for two and for what a viewer waits. `python benchmarks/read.py
--quick --json read.json`; `--slide FILE` makes the mosaic of a real slide's tissue instead of a made-up one's.

A library that is not installed is null in the figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from mosaic import TILE, tissue_block, write_mosaic

from napari_slidecorr.io import open_slide
from napari_slidecorr.io.tiles import CACHE_BYTES, Key, Tile, TileReader
from napari_slidecorr.slide import Slide

SWEEP_PX, OFFSET = 256, 100
SMALL_CACHE = 8 << 20
FEW_ROUNDS = 2
"""Of other libraries: they are far off, and take long."""
VIEW_PX = 1000
TARGETS = {
    "random_256_over_raw": 1.2,
    "random_512_over_raw": 1.25,
    "random_1024_over_raw": 1.3,
    "two_threads_over_raw": 1.35,
    "decodes_per_distinct_tile": 1.0,
    "sweep_over_raw": 1.25,
    "viewport_during_bulk_over_alone": 3.0,
}
Read = Callable[[int, int, int], object]
"""Reads a square of level 0: row, column, side."""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    side: int
    rounds: int
    reads: int
    sweep_rows: int
    views: int


QUICK, FULL = Size(8192, 7, 24, 10, 6), Size(20480, 15, 60, 12, 40)


def seconds(clock: Callable[[], float], results: Iterable[object]) -> float:
    """Time of taking one result after the other and dropping it."""
    start = clock()
    for _ in results:
        pass
    return clock() - start


def touched(y: int, x: int, side: int) -> list[Key]:
    return [
        (0, r, c) for r in range(y // TILE, -(-(y + side) // TILE)) for c in range(x // TILE, -(-(x + side) // TILE))
    ]


def tiles_of(slide: Slide) -> TileReader:
    return getattr(slide.source, "source", slide.source).tiles


def fresh(slide: Slide, capacity_bytes: int = SMALL_CACHE) -> TileReader:
    """A reader of its own with a small cache: what is measured is reading, neither remembering nor growing."""
    reader = tiles_of(slide)
    return TileReader(reader.levels, reader.load, capacity_bytes)


def our_read(slide: Slide) -> Read:
    reader = fresh(slide)
    return lambda y, x, side: reader.read(0, y, x, side, side)


def our_read_reusing(slide: Slide, capacity_bytes: int = SMALL_CACHE) -> Read:
    """The same, into one array for each size of patch, as a loop over patches can have it."""
    reader, arrays = fresh(slide, capacity_bytes), {}

    def read(y: int, x: int, side: int) -> np.ndarray:
        if side not in arrays:
            arrays[side] = np.empty((side, side, 3), np.uint8)
        return reader.read(0, y, x, side, side, arrays[side])

    return read


def keeping(slide: Slide) -> Read:
    """With the cache that a slide has, and a fresh array for each read."""
    reader = fresh(slide, CACHE_BYTES)
    return lambda y, x, side: reader.read(0, y, x, side, side)


def three_rows(size: Size) -> int:
    """What a sweep has to remember, in bytes."""
    return 3 * (size.side // TILE) * TILE * TILE * 3


def others(path: Path, stack: ExitStack) -> dict[str, Read | None]:
    return {
        "openslide": _slide_like("openslide", "OpenSlide", path, stack),
        "tiffslide": _slide_like("tiffslide", "TiffSlide", path, stack),
        "tifffile_zarr_dask": _dask(path, stack),
    }


def _slide_like(module: str, name: str, path: Path, stack: ExitStack) -> Read | None:
    try:
        opened = getattr(__import__(module), name)(path)
    except ImportError:
        return None
    stack.callback(opened.close)
    return lambda y, x, side: np.asarray(opened.read_region((x, y), 0, (side, side)).convert("RGB"))


def _dask(path: Path, stack: ExitStack) -> Read:
    """The plain route: tifffile's zarr store with its own chunks, dask's synchronous scheduler (threads cost more)."""
    import dask.array
    import zarr

    store = stack.enter_context(tifffile.TiffFile(path)).aszarr(level=0)
    level = dask.array.from_zarr(zarr.open_array(store, mode="r"))
    return lambda y, x, side: level[y : y + side, x : x + side].compute(scheduler="synchronous")


def check_equal(readers: dict[str, Read | None], side: int) -> None:
    """All read the same pixels, or the figures would mean nothing."""
    place = side // 3, side // 4, 700
    expected = readers["ours"](*place)
    for name, read in readers.items():
        if read is not None and not np.array_equal(read(*place), expected):
            raise SystemExit(f"{name} reads other pixels")


def random_places(rng: np.random.Generator, size: Size, side: int) -> list[tuple[int, int, int]]:
    count = max(6, size.reads * 256 // side)
    return [(*map(int, rng.integers(0, size.side - side, 2)), side) for _ in range(count)]


def random_over_raw(slide: Slide, readers: dict[str, Read | None], size: Size) -> dict[str, float | None]:
    """One thread, CPU: each library reads the same fresh places in every round."""
    load, rng, reusing = tiles_of(slide).load, np.random.default_rng(2), our_read_reusing(slide)
    ratios: dict[str, list[float]] = {}
    for index in range(size.rounds):
        for side in (256, 512, 1024):
            places = random_places(rng, size, side)
            raw = seconds(time.process_time, (load(*key) for place in places for key in touched(*place)))
            for name, read in readers.items():
                if read is not None and (name == "ours" or index < FEW_ROUNDS):
                    reading = reusing if name == "ours" and side > 256 else read
                    took = seconds(time.process_time, (reading(*place) for place in places))
                    ratios.setdefault(f"{prefix(name)}random_{side}_over_raw", []).append(took / raw)
    names = [f"{prefix(name)}random_{side}_over_raw" for name in readers for side in (256, 512, 1024)]
    return {name: median(ratios.get(name)) for name in names}


def two_threads_over_raw(slide: Slide, readers: dict[str, Read | None], size: Size) -> dict[str, float | None]:
    """Two threads, wall time, places of 512 px, against decoding their tiles in two threads."""
    load, rng = tiles_of(slide).load, np.random.default_rng(3)
    ratios: dict[str, list[float]] = {}
    with ThreadPoolExecutor(2) as pool:

        def wall(work: Callable[[tuple[int, int, int]], object], places: list[tuple[int, int, int]]) -> float:
            return seconds(time.perf_counter, pool.map(work, places))

        for index in range(size.rounds):
            places = random_places(rng, size, 512) + random_places(rng, size, 512)
            raw = wall(lambda place: [load(*key).shape for key in touched(*place)], places)
            for name, read in readers.items():
                if read is not None and (name == "ours" or index < FEW_ROUNDS):
                    took = wall(lambda place, read=read: np.shape(read(*place)), places)
                    ratios.setdefault(name, []).append(took / raw)
    return {f"{prefix(name)}two_threads_over_raw": median(ratios.get(name)) for name in readers}


def sweep_places(size: Size, band: int) -> list[tuple[int, int, int]]:
    """Patches side by side, row by row, not in line with the tiles."""
    top = band * size.sweep_rows * TILE % (size.side - size.sweep_rows * TILE) + OFFSET
    rows = range(top, top + (size.sweep_rows - 1) * TILE, SWEEP_PX)
    return [(y, x, SWEEP_PX) for y in rows for x in range(OFFSET, size.side - SWEEP_PX, SWEEP_PX)]


def sweep_over_raw(slide: Slide, readers: dict[str, Read | None], size: Size) -> dict[str, float | None]:
    """One thread, CPU, against decoding each distinct tile once and dropping it; another band in every round.

    Ours remembers three rows of tiles; "ours_keeping_all" is the cache of a viewer, whose memory grows meanwhile.
    """
    load = tiles_of(slide).load
    ratios: dict[str, list[float]] = {}
    readers = {**readers, "ours_keeping_all": readers["ours"]}
    for band in range(size.rounds):
        for name, read in readers.items():
            if read is None or ("ours" not in name and band >= FEW_ROUNDS):
                continue
            places = sweep_places(size, band)
            places = places if "ours" in name else places[: size.side // SWEEP_PX]
            distinct = sorted({key for place in places for key in touched(*place)})
            raw = seconds(time.process_time, (load(*key) for key in distinct))
            reading = read
            if "ours" in name:
                reading = our_read_reusing(slide, three_rows(size)) if name == "ours" else keeping(slide)
            took = seconds(time.process_time, (reading(*place) for place in places))
            ratios.setdefault(name, []).append(took / raw)
    return {f"{prefix(name)}sweep_over_raw": median(ratios.get(name)) for name in readers}


def decodes_per_tile(slide: Slide, size: Size, threads: int) -> float:
    """Tiles decoded by a sweep over distinct tiles: a count, the same on every machine."""
    loads, lock, reader = Counter[Key](), threading.Lock(), fresh(slide, 64 << 20)
    load = reader.load

    def counting(*key: int) -> Tile:
        with lock:
            loads[key] += 1
        return load(*key)

    reader.load = counting
    with ThreadPoolExecutor(threads) as pool:
        list(
            pool.map(lambda place: reader.read(0, place[0], place[1], place[2], place[2]).shape, sweep_places(size, 0))
        )
    return sum(loads.values()) / len(loads)


def threads_over_one(slide: Slide, size: Size) -> float:
    """Wall time of a sweep in two threads, one cache, over decoding its distinct tiles in two threads."""
    load, ratios = tiles_of(slide).load, []
    with ThreadPoolExecutor(2) as pool:
        for band in range(size.rounds):
            places = sweep_places(size, band)
            distinct = sorted({key for place in places for key in touched(*place)})
            raw = seconds(time.perf_counter, pool.map(lambda key: load(*key).shape, distinct))
            reader = fresh(slide, three_rows(size))
            read = lambda y, x, side, reader=reader: reader.read(0, y, x, side, side)  # noqa: E731
            ratios.append(seconds(time.perf_counter, pool.map(lambda p, r=read: np.shape(r(*p)), places)) / raw)
    return statistics.median(ratios)


def during_bulk(slide: Slide, size: Size) -> float:
    """Wall time of a viewport while another thread sweeps the slide, over its time alone."""
    rng, alone, during = np.random.default_rng(4), [], []
    view, stop = slide.view_levels()[0], threading.Event()

    def bulk() -> None:
        reader = fresh(slide)
        while not stop.is_set():
            for place in sweep_places(size, int(time.time())):
                reader.read(0, *place[:2], SWEEP_PX, SWEEP_PX)
                if stop.is_set():
                    return

    for index in range(size.views * 2):
        y, x = map(int, rng.integers(0, size.side - VIEW_PX, 2))
        slide.source.close()
        stop.clear()
        worker = threading.Thread(target=bulk)
        if index % 2:
            worker.start()
            time.sleep(0.02)
        took = seconds(time.perf_counter, (view[y : y + VIEW_PX, x : x + VIEW_PX] for _ in range(1)))
        (during if index % 2 else alone).append(took)
        stop.set()
        if index % 2:
            worker.join()
    return statistics.median(during) / statistics.median(alone)


def adapters(slide: Slide, size: Size) -> dict[str, float]:
    """Milliseconds of a viewport of 1,000 px through what a viewer could hold: the view, zarr, dask with large chunks."""
    rng, figures = np.random.default_rng(5), {}
    for level in (0, 1):
        arrays = {"view": slide.view_levels()[level], "zarr": slide.zarr(level), "dask": slide.dask(level)}
        taken: dict[str, list[float]] = {}
        for _ in range(size.views):
            y, x = map(int, rng.integers(0, max(1, slide.levels[level].shape[0] - VIEW_PX), 2))
            for name, array in arrays.items():
                slide.source.close()
                for state in ("cold", "warm"):
                    one = (np.asarray(array[y : y + VIEW_PX, x : x + VIEW_PX]) for _ in range(1))
                    taken.setdefault(f"viewport_{name}_level_{level}_{state}_ms", []).append(
                        seconds(time.perf_counter, one) * 1e3
                    )
        figures |= {name: statistics.median(values) for name, values in taken.items()}
    return figures


def prefix(name: str) -> str:
    return "" if name == "ours" else f"{name}_"


def median(values: list[float] | None) -> float | None:
    return statistics.median(values) if values else None


def open_ms(path: Path, rounds: int) -> float:
    return (
        statistics.median(seconds(time.perf_counter, (open_slide(path) for _ in range(1))) for _ in range(rounds)) * 1e3
    )


def measure(path: Path, size: Size) -> Iterator[dict[str, float | None]]:
    slide = open_slide(path)
    yield {
        "tile_kb": path.stat().st_size / 1e3 / sum((-(-level.shape[0] // TILE)) ** 2 for level in slide.levels),
        "open_ms": open_ms(path, size.rounds),
    }
    yield {f"decodes_per_distinct_tile_{n}_threads": decodes_per_tile(slide, size, n) for n in (1, 2)}
    yield {"decodes_per_distinct_tile": decodes_per_tile(slide, size, 8)}
    with ExitStack() as stack:
        readers: dict[str, Read | None] = {"ours": our_read(slide), **others(path, stack)}
        check_equal(readers, size.side)
        for figure in (random_over_raw, two_threads_over_raw, sweep_over_raw):
            yield figure(slide, readers, size)
    yield {"sweep_two_threads_over_raw": threads_over_one(slide, size)}
    yield {"viewport_during_bulk_over_alone": during_bulk(slide, size)}
    yield adapters(slide, size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small mosaic and few rounds")
    parser.add_argument("--slide", type=Path, help="a real slide whose tissue the mosaic is made of")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else FULL
    figures: dict[str, Any] = {"slide": arguments.slide.name if arguments.slide else "made up", "side_px": size.side}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mosaic.tif"
        write_mosaic(path, tissue_block(arguments.slide), size.side)
        for part in measure(path, size):
            for name, value in part.items():
                target = f"   at most {TARGETS[name]:g}" if name in TARGETS else ""
                print(f"{name:44} {'not installed' if value is None else f'{value:8.2f}'}{target}", flush=True)
            figures |= part
    figures["missed"] = {name: figures[name] for name, most in TARGETS.items() if figures[name] > most + 0.005}
    figures["seconds"] = time.perf_counter() - start
    print(f"{figures['seconds']:.0f} s; missed: {', '.join(figures['missed']) or 'none'}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
