import dataclasses
import time

import pytest

from napari_slidecorr.errors import SlideCorrError
from napari_slidecorr.events import BatchDone, Event, Notice, Predicted, drain, throttle


def batch(i):
    return BatchDone(phase="training", epoch=0, batch=i, loss=1.0, terms={}, pairs=0)


def test_drain_gives_the_result_of_the_last_event():
    assert drain(iter([batch(0), Predicted(phase="done", result=3)])) == 3


@pytest.mark.parametrize("events", [[], [batch(0)]])
def test_work_that_ends_without_result_is_an_error(events):
    with pytest.raises(SlideCorrError):
        drain(iter(events))


def test_throttle_drops_batches_and_plain_progress_only():
    events = [batch(0), batch(1), Event(phase="p"), Notice(phase="x", message="m"), batch(2)]
    assert list(throttle(iter(events), 60)) == [events[0], events[3]]


def test_throttle_passes_batches_that_come_slowly():
    def slow():
        for i in range(3):
            time.sleep(0.02)
            yield batch(i)

    assert len(list(throttle(slow(), 0.01))) == 3


def test_closing_a_throttled_stream_closes_the_inner_one():
    closed = []

    def inner():
        try:
            while True:
                yield batch(0)
        finally:
            closed.append(True)

    stream = throttle(inner())
    next(stream)
    stream.close()
    assert closed == [True]


def test_events_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Event(phase="x").done = 3
