"""Computing layers twice, layers that learn at different rates, and what memory is told."""

from dataclasses import replace

import pytest
import torch

from napari_slidecorr.config import TrainConfig
from napari_slidecorr.errors import ModelError
from napari_slidecorr.learning.memory import checkpoint_gradients, is_out_of_memory, peak_memory, statistics_at_rest
from napari_slidecorr.learning.models import make_model
from napari_slidecorr.learning.optimizers import layer_depths, make_optimizer, set_learning_rate

SIZES = {"alexnet": 64, "densenet121": 32, "vgg16": 32}


def step(backbone, *, twice):
    """Gradients and state after one forward and backward pass, and how often a layer was called at most."""
    model = make_model(backbone, 2, weights="random", seed=1)
    if twice:
        checkpoint_gradients(model, backbone)
    model.train()
    layers = [module for module in model.backbone.modules() if isinstance(module, torch.nn.Conv2d)]
    calls = dict.fromkeys(layers, 0)
    for layer in layers:
        layer.register_forward_hook(lambda layer, *_: calls.update({layer: calls[layer] + 1}))
    size = SIZES.get(backbone, 32)
    inputs = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    loss = model(inputs).logits.square().sum()
    with statistics_at_rest(model):
        loss.backward()
    return [p.grad for p in model.parameters()], model.state_dict(), max(calls.values())


@pytest.mark.parametrize("backbone", ["resnet18", "densenet121", "alexnet", "test_resnet", "test_convnext"])
def test_computing_layers_twice_changes_neither_gradients_nor_statistics(backbone):
    grads, state, once = step(backbone, twice=False)
    again, state_again, calls = step(backbone, twice=True)
    assert (once, calls) == (1, 2)
    assert state.keys() == state_again.keys()
    for one, other in zip([*grads, *state.values()], [*again, *state_again.values()], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_it_holds_less_between_the_passes():
    def held(*, twice):
        model = make_model("resnet18", 2, weights="random")
        if twice:
            checkpoint_gradients(model, "resnet18")
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
            model(torch.zeros(2, 3, 64, 64))
        return sum(kept)

    assert held(twice=True) < 0.6 * held(twice=False)


def test_a_backbone_that_cannot_is_told(monkeypatch):
    model = make_model("test_resnet", 2, weights="random")
    monkeypatch.delattr(type(model.backbone), "set_grad_checkpointing")
    with pytest.raises(ModelError, match="test_resnet cannot compute its layers twice"):
        checkpoint_gradients(model, "test_resnet")


def test_what_counts_as_out_of_memory():
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 3 GB)"))
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_the_memory_of_the_process_is_told():
    assert peak_memory(torch.device("cpu")) > 50 * 2**20


# learning rates by depth


@pytest.mark.parametrize(
    ("backbone", "stages", "some"),
    [
        ("resnet18", 5, {"conv1.weight": 0, "bn1.bias": 0, "layer1.0.bn1.weight": 1, "layer4.1.conv2.weight": 4}),
        (
            "densenet121",
            8,
            {"features.norm0.weight": 0, "features.transition1.conv.weight": 2, "features.norm5.bias": 7},
        ),
        ("alexnet", 7, {"features.0.weight": 0, "features.3.weight": 1, "classifier.4.bias": 6}),
        ("test_resnet", 5, {"conv1.0.weight": 0, "layer1.0.conv1.weight": 1}),
        ("vit_tiny_patch16_224", 13, {"cls_token": 0, "blocks.11.norm1.weight": 12}),
    ],
)
def test_stages_are_counted_from_the_input(backbone, stages, some):
    depths = layer_depths(make_model(backbone, 2, weights="random"), backbone)
    assert set(depths.values()) == set(range(stages))
    assert {name: depths[name] for name in some} == some


def test_a_stage_learns_at_a_part_of_the_rate_of_the_next():
    model, objective = make_model("resnet18", 2, weights="random"), torch.nn.Linear(2, 2)
    optimizer = make_optimizer(model, objective, TrainConfig(layer_decay=0.5))
    set_learning_rate(optimizer, 0.8)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.025, 0.05, 0.1, 0.2, 0.4, 0.8])
    together = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert together == {id(p) for p in (*model.parameters(), *objective.parameters())}
    last = {id(p) for p in optimizer.param_groups[-1]["params"]}
    assert last == {id(p) for p in (*model.head.parameters(), *objective.parameters())}


def test_without_decay_there_is_one_group():
    optimizer = make_optimizer(make_model("resnet18", 2, weights="random"), torch.nn.Linear(2, 2), TrainConfig())
    assert len(optimizer.param_groups) == 1


def test_a_backbone_without_order_is_told(monkeypatch):
    model = make_model("test_resnet", 2, weights="random")
    monkeypatch.delattr(type(model.backbone), "group_matcher")
    config = replace(TrainConfig(), backbone="test_resnet", layer_decay=0.5)
    with pytest.raises(ModelError, match="set layer_decay to 1"):
        make_optimizer(model, torch.nn.Linear(2, 2), config)
