import threading
import time

import pytest

from napari_slidecorr.learning.loading import AHEAD, read_ahead, stack


def reading_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("read-patches")]


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_order_does_not_depend_on_workers(workers):
    def read(item):
        time.sleep(0.002 * (item % 3))
        return item * 10

    batches = [[3, 1, 2], [], [6], [4, 5]]
    assert list(read_ahead(batches, read, workers=workers)) == [[30, 10, 20], [], [60], [40, 50]]
    assert not reading_threads()


def test_reads_no_further_than_two_batches_ahead():
    begun = []
    reader = read_ahead([[i] for i in range(10)], begun.append, workers=1)
    for batch in range(4):
        next(reader)
        time.sleep(0.02)
        assert max(len(begun) - 1 - batch, 0) <= AHEAD
    reader.close()


def test_threads_rest_while_nothing_is_taken_and_go_on_after():
    read = []
    reader = read_ahead(
        [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(20)], lambda item: read.append(item) or item, workers=2
    )
    assert next(reader) == [0, 1, 2]
    time.sleep(0.1)
    ahead, cpu = len(read), time.process_time()
    assert ahead <= 3 * (1 + AHEAD)
    time.sleep(0.5)
    assert len(read) == ahead
    assert time.process_time() - cpu < 0.25, "nobody spins"
    assert list(reader) == [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(1, 20)]
    assert not reading_threads()


def test_closing_drops_what_has_not_begun_and_ends_the_threads():
    begun, gate = [], threading.Event()

    def read(item):
        begun.append(item)
        if item:
            gate.wait(5)

    reader = read_ahead([[0], [1] * 50, [2] * 50], read, workers=1)
    next(reader)
    threading.Timer(0.05, gate.set).start()
    reader.close()
    assert len(begun) <= 2
    assert not reading_threads()


def test_an_error_comes_when_its_batch_is_due_and_ends_the_threads():
    def read(item):
        if item == 3:
            raise OSError("damaged")
        return item

    reader = read_ahead([[1, 2], [3, 4], [5]], read, workers=2)
    assert next(reader) == [1, 2]
    with pytest.raises(OSError, match="damaged"):
        next(reader)
    assert not reading_threads()


def test_no_patches_stack_to_an_empty_batch():
    assert stack([], 16).shape == (0, 16, 16, 3)
