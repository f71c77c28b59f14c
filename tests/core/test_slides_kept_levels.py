"""Levels that were made are kept for the next time: bounded, never wrong, and never the reason why a read fails."""

import logging
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from slide_files import picture, write_pyramid

from napari_slidecorr.io import open_slide
from napari_slidecorr.io.made_tiles import MadeTiles, bound_bytes, evict, user_cache_folder

TILE = picture(512, 512)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    folder = tmp_path / "kept"
    monkeypatch.setenv("SLIDECORR_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def path(tmp_path):
    write_pyramid(tmp_path / "one level.tif", picture(1200, 3000), tile=(256, 256), compression="deflate")
    return tmp_path / "one level.tif"


def reads_of_the_file(path):
    """The coarsest level, and how many tiles of the file it took."""
    slide = open_slide(path)
    reader, loads, lock = slide.source.source.tiles, Counter(), threading.Lock()
    load = reader.load

    def counting(*key):
        with lock:
            loads[key] += 1
        return load(*key)

    reader.load = counting
    level = len(slide.levels) - 1
    pixels = slide.source.read_level(level, 0, 0, *slide.levels[level].shape)
    return pixels, sum(loads.values())


def test_the_second_time_nothing_of_the_file_is_read(folder, path):
    first, cost = reads_of_the_file(path)
    again, saved = reads_of_the_file(path)
    np.testing.assert_array_equal(first, again)
    assert (cost, saved) == (60, 0)
    assert len(list(folder.glob("*/2-*"))) == 2  # the coarsest of two made levels, 300 x 750 px


def test_a_changed_file_is_another_slide(folder, path, monkeypatch):
    reads_of_the_file(path)
    write_pyramid(path, 255 - picture(1200, 3000), tile=(256, 256), compression="deflate")
    changed, cost = reads_of_the_file(path)
    assert cost == 60
    assert len(list(folder.iterdir())) == 2
    monkeypatch.setenv("SLIDECORR_CACHE_DIR", "")
    np.testing.assert_array_equal(changed, reads_of_the_file(path)[0])


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:0],
        lambda data: data[:100],
        lambda data: data[:-1] + b"\x00\x01",
        lambda data: b"x" * len(data),
    ],
    ids=["empty", "cut", "flipped", "other"],
)
def test_damaged_entries_are_made_anew(folder, path, damage):
    expected, _ = reads_of_the_file(path)
    for kept in folder.glob("*/2-*"):
        kept.write_bytes(damage(kept.read_bytes()))
    pixels, cost = reads_of_the_file(path)
    np.testing.assert_array_equal(pixels, expected)
    assert cost == 60
    assert reads_of_the_file(path)[1] == 0


def test_switched_off_by_an_empty_name(folder, path, monkeypatch):
    monkeypatch.setenv("SLIDECORR_CACHE_DIR", "")
    assert user_cache_folder() is None
    assert [reads_of_the_file(path)[1] for _ in range(2)] == [60, 60]
    assert not folder.exists()


def test_a_disk_that_refuses_is_told_once(tmp_path, path, monkeypatch, caplog):
    (tmp_path / "a file").write_text("in the way")
    monkeypatch.setenv("SLIDECORR_CACHE_DIR", str(tmp_path / "a file"))
    with caplog.at_level(logging.WARNING):
        pixels, _ = reads_of_the_file(path)
    assert pixels.shape == (300, 750, 3)
    assert [record.getMessage().startswith("Coarse levels cannot be kept") for record in caplog.records] == [True]


def test_a_full_disk_leaves_no_piece(folder, path, monkeypatch):
    from pathlib import Path

    def full(self, data):
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert reads_of_the_file(path)[0].shape == (300, 750, 3)
    assert [entry for entry in folder.rglob("*") if entry.is_file()] == []


def test_the_tiles_unused_for_longest_go_first(folder, path):
    kept = MadeTiles(path, folder, 1 << 30)
    for column in range(6):
        kept.put(9, 0, column, TILE)
        os.utime(next(folder.glob(f"*/9-0-{column}")), (column, column))
    assert kept.get(9, 0, 0) is not None  # used now
    size = next(folder.glob("*/9-0-0")).stat().st_size
    evict(folder, 3 * size + size // 2)
    assert sorted(entry.name for entry in folder.glob("*/*")) == ["9-0-0", "9-0-4", "9-0-5"]


def test_the_bound_holds_while_tiles_are_added(folder, path, monkeypatch):
    monkeypatch.setattr("napari_slidecorr.io.made_tiles._CHECK_EVERY", 1 << 20)
    kept = MadeTiles(path, folder, 4 << 20)
    for column in range(20):
        kept.put(9, 0, column, TILE)
    assert sum(entry.stat().st_size for entry in folder.glob("*/*")) <= 5 << 20
    assert len(list(folder.glob("*/*"))) >= 4


def test_the_bound_is_told_by_the_environment(monkeypatch):
    assert bound_bytes() == 2 << 30
    monkeypatch.setenv("SLIDECORR_CACHE_MB", "7")
    assert bound_bytes() == 7 << 20
    monkeypatch.setenv("SLIDECORR_CACHE_MB", "much")
    assert bound_bytes() == 2 << 30


def test_many_threads_write_and_read_one_tile(folder, path):
    kept = [MadeTiles(path, folder, 1 << 30) for _ in range(4)]

    def work(index):
        kept[index % 4].put(9, 0, 0, TILE)
        return kept[(index + 1) % 4].get(9, 0, 0)

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(work, range(60)):
            np.testing.assert_array_equal(found, TILE)
    assert [entry.name for entry in folder.glob("*/*")] == ["9-0-0"]


def test_only_its_owner_may_look(folder, path):
    reads_of_the_file(path)
    if os.name == "posix":
        (slide,) = folder.iterdir()
        assert slide.stat().st_mode & 0o077 == 0
