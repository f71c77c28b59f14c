"""Mutated TIFF headers and tiles: only our errors, in bounded time and memory. See ``--help``.

Each mutation is opened and read as the viewer and a model would; anything but pixels or a `SlideError` counts as foreign.
A mutation that brings the process down is found too: the work runs in a child, which leaves its number behind.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from napari_slidecorr.errors import SlideError
from napari_slidecorr.io import open_slide

SVS = "Aperio Image Library v11\n200x150 (64x64) JPEG/RGB Q=70|AppMag = 40|MPP = 0.25"
LAYOUTS: dict[str, dict[str, Any]] = {
    "jpeg": {"compression": "jpeg", "subsampling": (2, 2)},
    "svs": {"compression": "jpeg", "description": SVS, "metadata": None},
    "jpeg2000": {"compression": "jpeg2000"},
    "deflate": {"compression": "deflate", "predictor": True},
    "lzw": {"compression": "lzw"},
    "webp": {"compression": "webp"},
    "raw": {},
    "strips": {"tile": None, "rowsperstrip": 16, "compression": "zstd"},
    "ome": {"compression": "deflate", "metadata": {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}},
    "bigtiff": {"compression": "jpeg", "bigtiff": True},
}
LONGEST_S = 20
EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF)


def originals(folder: Path) -> list[bytes]:
    """Small two-level slides, one a layout, and a fluorescence one; their bytes."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (10, 13, 3), np.uint8)
    pixels = np.kron(coarse, np.ones((16, 16, 1), np.uint8))[:150, :200]
    made = []
    for name, options in LAYOUTS.items():
        path = folder / f"{name}.{'ome.' if name == 'ome' else ''}tif"
        both = {"photometric": "rgb", "tile": (64, 64), "metadata": None, **options}
        first = {key: both.pop(key) for key in ("description",) if key in both}
        big = both.pop("bigtiff", False)
        with tifffile.TiffWriter(path, bigtiff=big, ome=name == "ome") as tif:
            tif.write(pixels, subifds=0 if name == "svs" else 1, **both, **first)
            tif.write(pixels[::2, ::2], subfiletype=1, **both)
        made.append(path.read_bytes())
    path = folder / "channels.ome.tif"
    planes = rng.integers(0, 4000, (3, 150, 200), np.uint16)
    tifffile.imwrite(path, planes, photometric="minisblack", tile=(64, 64), metadata={"axes": "CYX"})
    return [*made, path.read_bytes()]


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Change up to eight places, mostly in header and directories, or cut, repeat or blank a stretch."""
    changed = bytearray(data)
    kind = rng.integers(0, 8)
    if kind == 0:
        return bytes(changed[: rng.integers(0, len(changed))])
    if kind == 1:
        start, length = rng.integers(0, len(changed)), int(rng.integers(1, 400))
        changed[start : start + length] = bytes([rng.choice(EXTREMES)]) * length
        return bytes(changed)
    if kind == 2:
        start = int(rng.integers(0, len(changed)))
        return bytes(changed[:start] + changed[max(0, start - 200) : start] + changed[start:])
    for _ in range(rng.integers(1, 9)):
        at = int(rng.integers(0, len(changed) if kind < 5 else min(len(changed), 700)))
        changed[at] = rng.choice(EXTREMES) if rng.random() < 0.5 else rng.integers(0, 256)
    return bytes(changed)


def use(path: Path) -> None:
    """Open and read as viewer and model do: a whole level, a small read, the coarsest view."""
    slide = open_slide(path)
    try:
        if slide.channels:
            np.asarray(slide.channel_levels(0)[-1][:300, :300])
            return
        np.asarray(slide.view_levels()[-1][:300, :300])
        slide.source.read_level(0, 0, 0, 300, 300)
        slide.thumbnail(32)
    finally:
        slide.close()


def run(count: int, seed: int, tell: Callable[[int], None] = lambda _number: None) -> dict[str, Any]:
    """Give figures over so many mutations; ``tell`` hears each one's number before it is used."""
    rng = np.random.default_rng(seed)
    foreign: Counter[str] = Counter()
    refused, opened, slowest = 0, 0, 0.0
    with tempfile.TemporaryDirectory() as name:
        data = originals(Path(name))
        for number in range(count):
            tell(number)
            path = Path(name) / "mutated.ome.tif"
            path.write_bytes(mutated(data[number % len(data)], rng))
            start = time.perf_counter()
            try:
                use(path)
                opened += 1
            except SlideError as error:
                message = str(error)
                refused += 1
                if "\n" in message or "mutated" not in message:
                    foreign[f"not one sentence: {message[:80]!r}"] += 1
            except Exception as error:  # noqa: BLE001 - what is counted here
                foreign[f"{type(error).__name__}: {str(error)[:80]}"] += 1
            slowest = max(slowest, time.perf_counter() - start)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "mutations": count,
        "foreign_errors": sum(foreign.values()),
        "slowest_s": round(slowest, 3),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6),
        "refused": refused,
        "read": opened,
        "foreign": dict(foreign),
    }


def _child(count: int, seed: int, progress: Any, results: Any) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)  # each place that is shown grey is logged

    def tell(number: int) -> None:
        progress.value = number

    results.put(run(count, seed, tell))


def in_child(count: int, seed: int) -> dict[str, Any]:
    """Run in a child process, so that a crash, or a mutation that takes more than `LONGEST_S`, is a figure and not the end."""
    context = multiprocessing.get_context("spawn")
    progress, results = context.Value("q", -1), context.SimpleQueue()
    child = context.Process(target=_child, args=(count, seed, progress, results))
    child.start()
    last, since = -1, time.monotonic()
    while child.is_alive() and results.empty():
        time.sleep(0.05)
        if progress.value != last:
            last, since = progress.value, time.monotonic()
        elif last >= 0 and time.monotonic() - since > LONGEST_S:
            child.kill()
            child.join()
            return {"mutations": last + 1, "foreign_errors": 1, "lost": f"seed {seed}, mutation {last}: hangs"}
    if results.empty():
        child.join()
        lost = f"seed {seed}, mutation {progress.value}: exit code {child.exitcode}"
        return {"mutations": progress.value + 1, "foreign_errors": 1, "lost": lost}
    figures: dict[str, Any] = results.get()
    child.join()
    return figures


def parts(count: int, size: int) -> Iterator[int]:
    while count > 0:
        yield min(size, count)
        count -= size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1,000 mutations instead of 10,000")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    results = [
        in_child(count, options.seed + number)
        for number, count in enumerate(parts(1000 if options.quick else 10_000, 1000))
    ]
    figures = {
        key: sum(one.get(key, 0) for one in results) for key in ("mutations", "foreign_errors", "refused", "read")
    }
    figures |= {key: max(one.get(key, 0) for one in results) for key in ("slowest_s", "peak_mb")}
    figures["lost"] = [one["lost"] for one in results if "lost" in one]
    figures["foreign"] = dict(sum((Counter(one.get("foreign", {})) for one in results), Counter()))
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
