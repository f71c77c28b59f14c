"""Choices of the training loop: which layers learn, how fast, when it stops, and which epoch is kept."""

import csv
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from napari_slidecorr.errors import ConfigError
from napari_slidecorr.events import EpochDone, Notice, drain
from napari_slidecorr.learning import epochs as epochs_module
from napari_slidecorr.learning import steps
from napari_slidecorr.learning.freezing import freeze, last_block, set_training
from napari_slidecorr.learning.models import load_model, make_model
from napari_slidecorr.learning.schedules import learning_rate
from napari_slidecorr.learning.stopping import is_over
from napari_slidecorr.learning.training import train
from napari_slidecorr.metrics import patch_auc
from napari_slidecorr.runs import best_epoch


@pytest.fixture
def start(tables, slides, tmp_path):
    def start(config, run="run", *, resume=False):
        return train(*tables, slides, config, run=tmp_path / run, resume=resume)

    return start


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def scores(monkeypatch):
    """Let the held-out AUCs of the epochs be these."""

    def scores(*values):
        wanted = iter(values)
        calls = []

        def told(label, probabilities):
            calls.append(label)
            return (
                next(wanted) if len(calls) % 2 == 0 else patch_auc(label, probabilities)
            )  # training, held out, training ...

        monkeypatch.setattr(epochs_module, "patch_auc", told)

    return scores


def epochs(*aucs):
    nothing = {"loss": 0, "terms": {}, "pairs": 0, "train_auc": 1, "validation_accuracy": 1}
    speed = {"patches_per_second": 1, "seconds": 1}
    return [EpochDone(phase="", epoch=i, validation_auc=auc, **nothing, **speed) for i, auc in enumerate(aucs)]


# which layers learn


@pytest.mark.parametrize(
    ("backbone", "first"),
    [
        ("resnet18", "layer4.0.conv1.weight"),
        ("densenet121", "features.denseblock4.denselayer1.norm1.weight"),
        ("alexnet", "features.10.weight"),
        ("efficientnet_lite0", "blocks.6.0.conv_pw.weight"),
        ("vit_tiny_patch16_224", "blocks.11.norm1.weight"),
        ("convnext_atto", "stages.3.downsample.0.weight"),
        ("densenet169", "features.transition3.norm.weight"),
    ],
)
def test_the_last_block_of_each_family(backbone, first):
    model = make_model(backbone, 2, weights="random")
    freeze(model, backbone, "last_block")
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    named = [name for name, _ in model.named_parameters()]
    assert learning == named[named.index(f"backbone.{first}") :]
    assert last_block(model, backbone) in f"{first}"


def test_the_head_alone():
    model = make_model("test_resnet", 2, weights="random")
    freeze(model, "test_resnet", "head")
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]


@pytest.mark.parametrize("train_layers", ["head", "last_block"])
def test_frozen_layers_and_their_batch_statistics_stay(train_layers, start, config, tmp_path):
    config = replace(config, train_layers=train_layers)
    drain(start(config))
    begun = make_model(config.backbone, 2, weights="random", seed=config.seed)
    freeze(begun, config.backbone, train_layers)
    learning = {name for name, p in begun.named_parameters() if p.requires_grad}
    after = load_file(tmp_path / "run" / "model.safetensors")
    moved = {name for name, tensor in begun.state_dict().items() if not torch.equal(tensor, after[name])}
    assert {name for name in moved if name in dict(begun.named_parameters())} == learning
    block = () if train_layers == "head" else (f"backbone.{last_block(begun, config.backbone)}.",)
    assert all(name.startswith((*block, "head.")) for name in moved)


def test_frozen_parts_are_in_evaluation_mode():
    model = make_model("resnet18", 2, weights="random")
    freeze(model, "resnet18", "last_block")
    set_training(model)
    assert not model.backbone.bn1.training
    assert not model.backbone.layer3[0].bn1.training
    assert model.backbone.layer4[0].bn1.training


# how fast


def test_cosine_falls_from_the_whole_to_nothing(config):
    config = replace(config, schedule="cosine", epochs=10, learning_rate=1.0)
    rates = [learning_rate(config, epoch, part / 4) for epoch in range(10) for part in range(4)]
    assert rates[0] == 1
    assert rates[20] == pytest.approx(0.5)
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.01


def test_one_cycle_is_torchs(config):
    config = replace(config, schedule="one_cycle", epochs=10, learning_rate=0.4)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1)
    # torch counts to the last step, we to the end of the last epoch: 101 steps are 100 parts
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.4, total_steps=101, pct_start=0.31, final_div_factor=1 / 25 / 1e-4, cycle_momentum=False
    )
    rates = [learning_rate(config, i // 10, (i % 10) / 10) for i in range(100)]
    torchs = []
    for _ in rates:
        torchs.append(cycle.get_last_lr()[0])
        optimizer.step()
        cycle.step()
    assert rates == pytest.approx(torchs, abs=0.01)
    assert max(rates) == pytest.approx(0.4)


def test_clipping_bounds_the_gradient(start, config, monkeypatch):
    norms = []
    real = torch.optim.SGD.step

    def step(optimizer, *arguments):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(torch.stack([gradient.norm() for gradient in gradients]).norm().item())
        return real(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    drain(start(replace(config, epochs=1), "free"))
    free, norms[:] = max(norms), []
    drain(start(replace(config, epochs=1, gradient_clip=0.01), "clipped"))
    assert free > 0.02
    assert max(norms) == pytest.approx(0.01, rel=1e-3)


def test_half_precision_changes_nothing_without_a_gpu(start, config, tmp_path):
    drain(start(config, "full"))
    drain(start(replace(config, bf16="auto"), "half"))
    one, other = (load_file(tmp_path / run / "model.safetensors") for run in ("full", "half"))
    assert not steps.has_bf16(torch.device("cpu"))
    assert same(one, other)


@pytest.mark.parametrize(
    "change", [{"schedule": "one_cycle"}, {"schedule": "cosine", "train_layers": "last_block"}, {"keep": "best"}]
)
def test_resuming_gives_the_very_weights(change, start, config, tmp_path):
    config = replace(config, epochs=3, **change)
    drain(start(config, "whole"))
    events = start(config)
    next(event for event in events if isinstance(event, EpochDone))
    events.close()
    drain(start(config, resume=True))
    for name in ("model.safetensors", "best.safetensors"):
        assert same(load_file(tmp_path / "whole" / name), load_file(tmp_path / "run" / name))


# when it stops, and what it keeps


def test_the_best_epoch():
    assert best_epoch(epochs(0.5, 0.9, 0.9, 0.7)) == 1
    assert best_epoch(epochs(float("nan"), 0.2)) == 1
    assert best_epoch(epochs(float("nan"))) is None


def test_patience(config):
    config = replace(config, epochs=10, patience=2)
    assert not is_over(epochs(0.9, 0.5), config)
    assert is_over(epochs(0.9, 0.5, 0.9), config)
    assert not is_over(epochs(0.9, 0.5, 0.95), config)
    assert not is_over(epochs(*[0.9] * 9), replace(config, patience=0))


def test_it_stops_early_and_says_so(start, config, scores):
    scores(0.9, 0.5, 0.6)
    events = list(start(replace(config, epochs=6, patience=2)))
    assert len(events[-1].result.epochs) == 3
    told = [event.message for event in events if isinstance(event, Notice)]
    assert told[-1] == "Stopped after epoch 3: no higher held-out AUC any more."


def test_last_and_best_are_both_kept(start, config, scores, tmp_path):
    config = replace(config, epochs=3)
    scores(0.6, 0.9, 0.7)
    drain(start(config, "last"))
    scores(0.6, 0.9, 0.7)
    drain(start(replace(config, keep="best"), "best"))
    last, best = (tmp_path / name for name in ("last", "best"))
    assert same(load_file(last / "model.safetensors"), load_file(best / "last.safetensors"))
    assert same(load_file(last / "best.safetensors"), load_file(best / "model.safetensors"))
    assert not same(load_file(last / "model.safetensors"), load_file(last / "best.safetensors"))
    told = [(spec.epoch, spec.kept, spec.other_weights) for _, spec in map(load_model, (last, best))]
    assert told == [(3, "last", "best.safetensors"), (2, "best", "last.safetensors")]
    rows = csv.DictReader((last / "curve.csv").open())
    assert [row["best"] for row in rows] == ["0", "1", "0"]


@pytest.mark.parametrize("change", [{"keep": "best"}, {"patience": 3}])
def test_best_without_held_out_slides_is_refused(change, config):
    with pytest.raises(ConfigError, match="validation_fraction is 0"):
        replace(config, validation_fraction=0.0, **change)


@pytest.mark.parametrize("name", ["model.safetensors", "best.safetensors"])
def test_another_training_starts_from_a_run(name, start, config, tmp_path):
    drain(start(config))
    path = tmp_path / "run" / name
    begun = make_model(config.backbone, 2, weights=str(path))
    state = load_file(path)
    assert all(torch.equal(tensor, state[f"backbone.{key}"]) for key, tensor in begun.backbone.state_dict().items())
    result = drain(start(replace(config, weights=str(path), learning_rate=1e-6), "next"))
    assert load_model(result.spec_path)[1].initial_weights.startswith(f"{name} sha256:")
