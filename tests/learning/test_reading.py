"""Batches that are read ahead into their places."""

import threading
import time

import numpy as np
import pytest

from napari_slidecorr.errors import SlideError
from napari_slidecorr.events import Interrupted, interruptible
from napari_slidecorr.learning import loading
from napari_slidecorr.learning.reading import Reading, default_readers
from napari_slidecorr.learning.sweep import Piece

BLOCK = slice(0, 8), slice(0, 8)


def piece(first, count):
    return Piece(BLOCK, [(first + number, 0) for number in range(count)])


def patch_of(cell):
    """Takes a little while, an unlike one for each cell, so that threads overtake one another."""
    time.sleep(0.001 * (cell[0] * 7 % 5))
    if cell[0] % 10 == 9:
        raise SlideError(f"cell {cell[0]}")
    return np.full((4, 4, 3), cell[0], np.uint8)


@pytest.mark.parametrize("workers", [1, 3])
def test_patches_come_in_order_and_errors_in_their_place(workers):
    with Reading(patch_of, 4, workers) as reading:
        for first, count in [(0, 7), (7, 0), (7, 13)]:
            reading.add(piece(first, count))
        assert (reading.pieces, reading.patches) == (3, 20)
        for first, count in [(0, 7), (7, 0), (7, 13)]:
            found = reading.take()
            assert found.patches.shape == (count, 4, 4, 3)
            wrong = {number: cell for number, cell in enumerate(range(first, first + count)) if cell % 10 == 9}
            assert {number: str(error) for number, error in found.errors.items()} == {
                number: f"cell {cell}" for number, cell in wrong.items()
            }
            for number, cell in enumerate(range(first, first + count)):
                assert number in wrong or (found.patches[number] == cell).all()
        assert (reading.pieces, reading.patches) == (0, 0)


def test_what_is_dropped_is_given_back_and_not_read():
    begun, go = [], threading.Event()

    def read(cell):
        begun.append(cell[0])
        go.wait(5)
        return np.zeros((4, 4, 3), np.uint8)

    with Reading(read, 4, 2) as reading:
        for first in (0, 10, 20):
            reading.add(piece(first, 10))
        while len(begun) < 2:
            time.sleep(0.001)
        assert [one.cells[0][0] for one in reading.drop()] == [0, 10, 20]
        go.set()
        reading.add(piece(30, 2))
        reading.take()
    assert sorted(begun) == [0, 1, 30, 31]


def test_another_error_is_raised_when_its_batch_is_due():
    def read(cell):
        if cell[0] == 12:
            raise ZeroDivisionError
        return np.zeros((4, 4, 3), np.uint8)

    with Reading(read, 4, 2) as reading:
        for first in (0, 10):
            reading.add(piece(first, 5))
        assert len(reading.take().patches) == 5
        with pytest.raises(ZeroDivisionError):
            reading.take()


def test_a_wait_gives_up_when_nobody_wants_it_any_more():
    go = threading.Event()

    def read(_cell):
        go.wait(5)
        return np.zeros((4, 4, 3), np.uint8)

    with Reading(read, 4, 1) as reading:
        reading.add(piece(0, 3))
        with interruptible(lambda: True), pytest.raises(Interrupted):
            reading.take()
        go.set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-patches")]


def test_processes_that_share_a_machine_read_in_no_more_threads_than_they_may(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    assert (default_readers(on_cpu=True), default_readers(on_cpu=False)) == (8, 8)
    monkeypatch.setattr(loading, "most_workers", 2)
    assert (default_readers(on_cpu=True), default_readers(on_cpu=False)) == (2, 2)
