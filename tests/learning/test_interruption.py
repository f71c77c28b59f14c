import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_slidecorr.events import BatchDone, Interrupted, check_interrupted, drain, interruptible
from napari_slidecorr.learning.interruption import interruptible_layers
from napari_slidecorr.learning.loading import read_ahead
from napari_slidecorr.learning.models import make_model
from napari_slidecorr.learning.training import train


class Asked:
    """Wants work until it has been asked so many times."""

    def __init__(self, limit):
        self.limit, self.count = limit, 0

    def __call__(self):
        self.count += 1
        return self.count > self.limit


def backward(model):
    inputs = model.prepare(torch.arange(2 * 64 * 64 * 3).reshape(2, 64, 64, 3).remainder(251).to(torch.uint8))
    model.zero_grad()
    model(inputs).logits.square().sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("backbone", ["resnet18", "densenet121"])
def test_gradients_are_the_same_with_and_without_the_question(backbone):
    plain = backward(make_model(backbone, 2, weights="random").eval())
    model = make_model(backbone, 2, weights="random").eval()
    with interruptible_layers(model), interruptible(lambda: False):
        asked = backward(model)
    assert all(torch.equal(one, other) for one, other in zip(plain, asked, strict=True))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("limit", [0, 10, 70], ids=["at once", "in the forward pass", "in the backward pass"])
def test_a_step_ends_where_it_is_asked(limit):
    model = make_model("resnet18", 2, weights="random").eval()
    wanted = Asked(limit)
    with interruptible_layers(model), interruptible(wanted), pytest.raises(Interrupted):
        backward(model)
    assert wanted.count == limit + 1
    assert len(backward(model)) == len(list(model.parameters())), "and the next one is whole"


def test_outside_of_the_block_nothing_is_interrupted():
    with interruptible(lambda: True), pytest.raises(Interrupted):
        check_interrupted()
    check_interrupted()


def test_waiting_for_a_slow_disk_gives_up_and_ends_the_threads():
    begun = time.monotonic()
    with interruptible(lambda: time.monotonic() - begun > 0.2), pytest.raises(Interrupted):
        list(read_ahead([range(50)], lambda _item: time.sleep(0.1), workers=2))
    assert time.monotonic() - begun < 1.5
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-patches")]


def test_an_interrupted_training_resumes_to_the_very_weights(tables, slides, config, tmp_path):
    whole = drain(train(*tables, slides, config, run=tmp_path / "whole"))
    wanted = Asked(10**9)

    def interrupt_the_next_step(events):
        for event in events:
            if isinstance(event, BatchDone) and event.epoch == 1:
                wanted.limit = wanted.count + 5

    with interruptible(wanted), pytest.raises(Interrupted):
        interrupt_the_next_step(train(*tables, slides, config, run=tmp_path / "run"))
    resumed = drain(train(*tables, slides, config, run=tmp_path / "run", resume=True))
    assert resumed.weights_path.read_bytes() == whole.weights_path.read_bytes()
    alike = [
        [replace(epoch, seconds=0, patches_per_second=0, data_wait_s=0) for epoch in result.epochs]
        for result in (whole, resumed)
    ]
    np.testing.assert_equal(*alike)
