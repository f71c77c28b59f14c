import csv
import json
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from napari_slidecorr.config import (
    CoralConfig,
    CrossEntropyConfig,
    GroupDroConfig,
    PatchConfig,
    SceConfig,
    ScrConfig,
    SdaConfig,
)
from napari_slidecorr.errors import CohortError, ModelError, ProjectError, SlideError, TrainingError
from napari_slidecorr.events import BatchDone, EpochDone, Event, Notice, Trained, drain
from napari_slidecorr.learning import steps, trainees
from napari_slidecorr.learning.models import load_model, make_model
from napari_slidecorr.learning.schedules import learning_rate
from napari_slidecorr.learning.training import train
from napari_slidecorr.runs import read_run


@pytest.fixture
def start(tables, slides, tmp_path):
    def start(config, run="run", tables=tables, slides=slides, *, resume=False):
        return train(*tables, slides, config, run=tmp_path / run, resume=resume)

    return start


def weights(folder):
    return load_file(folder / "model.safetensors")


def same_weights(one, other):
    return all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())


def stop_after_epochs(events, count):
    """Take events until some epochs are done, and one batch more."""
    for event in events:
        if isinstance(event, BatchDone) and event.epoch == count:
            break
    events.close()


def numbers(result):
    return [replace(epoch, seconds=0, patches_per_second=0, data_wait_s=0) for epoch in result.epochs]


def test_it_learns_two_colours_and_leaves_a_run(start, config, tables, tmp_path):
    config = replace(config, epochs=4)
    events = list(start(config))
    assert isinstance(events[-1], Trained)
    result = events[-1].result
    assert result.epochs[-1].validation_auc > 0.99
    assert result.epochs[-1].loss < result.epochs[0].loss
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == [
        "MODEL_CARD.md",
        "best.safetensors",
        "checkpoint.safetensors",
        "config.json",
        "curve.csv",
        "model.json",
        "model.safetensors",
        "state.json",
    ]
    model, spec = load_model(tmp_path / "run")
    assert spec.classes == tables[0].classes
    assert spec.geometry == tables[0].geometry
    assert (spec.train_slides, spec.validation_slides) == (tables[0].slides, tables[1].slides)
    assert (spec.backbone, spec.initial_weights, spec.objective) == ("test_resnet", "random", {"kind": "ce"})
    assert model.feature_dim == 96


def test_the_stream_of_events(start, config):
    events = list(start(config))
    steps = [event for event in events if isinstance(event, BatchDone)]
    per_epoch = len(steps) // 2
    assert [(e.epoch, e.batch) for e in steps] == [(epoch, i) for epoch in range(2) for i in range(per_epoch)]
    assert [e.done for e in steps] == list(range(1, len(steps) + 1))
    assert {e.total for e in steps} == {len(steps)}
    assert {e.pairs for e in steps} == {4 * 28}
    between = events[events.index(steps[per_epoch - 1]) + 1 : events.index(steps[per_epoch])]
    assert [type(event) for event in between] == [Event] * (len(between) - 1) + [EpochDone]
    assert "cpu" in next(event for event in events if isinstance(event, Notice)).message


def test_an_epoch_sums_its_batches_up(start, config):
    events = list(start(replace(config, objective=ScrConfig(beta=0.1))))
    steps = [event for event in events if isinstance(event, BatchDone) and event.epoch == 0]
    epoch = next(event for event in events if isinstance(event, EpochDone))
    assert epoch.loss == pytest.approx(np.mean([step.loss for step in steps]))
    for name in ("cross_entropy", "slide_correlation"):
        assert epoch.terms[name] == pytest.approx(np.mean([step.terms[name] for step in steps]))
    assert epoch.loss == pytest.approx(epoch.terms["cross_entropy"] + 0.1 * epoch.terms["slide_correlation"])


def assert_resumes_exactly(start, config, folder, stops):
    whole = drain(start(config, "whole"))
    for epochs in stops:
        torch.manual_seed(epochs)  # must not matter
        stop_after_epochs(start(config, f"stopped{epochs}"), epochs)
        assert not (folder / f"stopped{epochs}" / "model.json").exists()
        resumed = drain(start(config, f"stopped{epochs}", resume=True))
        assert same_weights(weights(folder / "whole"), weights(folder / f"stopped{epochs}"))
        assert numbers(resumed) == numbers(whole)


@pytest.mark.parametrize(
    ("objective", "optimizer"),
    [
        (CrossEntropyConfig(), "sgd"),
        (ScrConfig(), "sgd"),
        (ScrConfig(reduction="mean", normalizer="centred"), "adamw"),
        (SceConfig(beta=0.01), "adamw"),
        (SdaConfig(), "adamw"),
        (CoralConfig(), "sgd"),
        (GroupDroConfig(step_size=1.0), "sgd"),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
def test_resuming_gives_the_very_weights(objective, optimizer, start, config, tmp_path):
    config = replace(config, objective=objective, optimizer=optimizer, learning_rate=0.003, colour_jitter=True)
    assert_resumes_exactly(start, config, tmp_path, [1])


def test_resuming_after_any_epoch_with_dropout(start, config, tmp_path, monkeypatch):
    def make_model_with_dropout(*args, **kwargs):
        model = make_model(*args, **kwargs)
        model.backbone = torch.nn.Sequential(model.backbone, torch.nn.Dropout())
        return model

    monkeypatch.setattr(trainees, "make_model", make_model_with_dropout)
    assert_resumes_exactly(start, replace(config, epochs=4), tmp_path, [1, 2, 3])


def test_torchs_generator_and_threads_are_left_alone(start, config):
    torch.manual_seed(5)
    before = torch.random.get_rng_state(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    drain(start(config))
    after = torch.random.get_rng_state(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_resuming_before_the_first_epoch_begins_anew(start, config):
    whole = drain(start(config, "whole"))
    stop_after_epochs(start(config), 0)
    assert numbers(drain(start(config, resume=True))) == numbers(whole)


def test_resuming_a_finished_run_gives_its_result(start, config, tmp_path):
    whole = drain(start(config))
    before = weights(tmp_path / "run")
    assert drain(start(config, resume=True)) == whole
    assert same_weights(before, weights(tmp_path / "run"))


def test_stopping_within_a_batch_ends_threads_and_leaves_no_part(start, config, tmp_path):
    events = start(config)
    while not isinstance(next(events), BatchDone):
        pass
    events.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-patches")]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json", "state.json"]


def test_the_curve_as_csv(start, config, tmp_path):
    result = drain(start(replace(config, objective=ScrConfig())))
    rows = list(csv.DictReader((tmp_path / "run" / "curve.csv").open()))
    assert [int(row["epoch"]) for row in rows] == [0, 1]
    assert [float(row["loss"]) for row in rows] == [epoch.loss for epoch in result.epochs]
    assert [float(row["slide_correlation"]) for row in rows] == [e.terms["slide_correlation"] for e in result.epochs]


def test_the_run_says_what_it_is_of(start, config, tmp_path):
    stop_after_epochs(start(config), 0)
    told = json.loads((tmp_path / "run" / "config.json").read_text())
    assert told["settings"]["learning_rate"] == config.learning_rate
    assert told["split"] == {"train": ["s0", "s1", "s2", "s3"], "validation": ["s4", "s5"]}


def test_learning_rate_falls_after_half_of_the_epochs(config):
    config = replace(config, epochs=10, learning_rate=5e-4)
    assert [learning_rate(config, e) for e in range(10)] == [5e-4] * 5 + [pytest.approx(1e-4)] * 5


def test_scr_with_few_slides_is_warned_of(start, config):
    config = replace(config, objective=ScrConfig(), patches_per_slide=2)
    notices = [event for event in start(config) if isinstance(event, Notice)]
    assert [notice.message for notice in notices if notice.warning] == [
        "4 training slides: SCR is not expected to help below about 20."
    ]


def test_with_nothing_held_out_all_slides_train_and_it_says_so(start, config, table):
    config = replace(config, validation_fraction=0.0)
    events = list(start(config, tables=(table, table.of_slides(()))))
    warned = [event.message for event in events if isinstance(event, Notice) and event.warning]
    assert "held out" in warned[0]
    assert events[-1].result.epochs[-1].scores.endswith("nothing held out")


def test_an_epoch_tells_how_much_the_correlation_weighs_and_how_low_it_could_be(start, config, tmp_path):
    result = drain(start(replace(config, objective=ScrConfig(beta=0.1))))
    for epoch in result.epochs:
        weighted = 0.1 * epoch.terms["slide_correlation"]
        assert epoch.terms["correlation_by_cross_entropy"] == pytest.approx(weighted / epoch.terms["cross_entropy"])
        assert epoch.terms["slide_correlation_bound"] == -32 / 8 <= epoch.terms["slide_correlation"]
    header = (tmp_path / "run" / "curve.csv").read_text("utf-8").splitlines()[0]
    assert header.endswith("cross_entropy,slide_correlation,correlation_by_cross_entropy,slide_correlation_bound")


def test_a_correlation_that_outvotes_the_classes_is_warned_of_once(start, config):
    def warned(**changes):
        events = list(start(replace(config, epochs=3, **changes), f"run{len(changes)}"))
        return [event.message for event in events if isinstance(event, Notice) and "cross-entropy" in event.message]

    (message,) = warned(objective=ScrConfig(beta=5.0))
    assert message.startswith("Epoch 1: beta x slide correlation was ")
    assert warned() == []


def test_class_weights_and_label_smoothing_reach_the_loss(start, config, tables):
    events = start(replace(config, class_weights="balanced", label_smoothing=0.2))
    smooth = next(event for event in events if isinstance(event, BatchDone))
    events.close()
    events = start(config, "plain")
    plain = next(event for event in events if isinstance(event, BatchDone))
    events.close()
    assert smooth.loss != plain.loss
    one_sided = tables[0]
    kept = (one_sided.slide_index < 2) | (one_sided.label == 0)
    columns = {name: getattr(one_sided, name)[kept] for name in ("y", "x", "slide_index", "label")}
    weight = trainees.class_weight(replace(one_sided, **columns), replace(config, class_weights="balanced"))
    torch.testing.assert_close(weight, torch.tensor([2 / 3, 2.0]))  # three quarters are drawn of class 0
    assert trainees.class_weight(one_sided, config) is None


# what is refused


def test_a_run_is_not_overwritten(start, config):
    stop_after_epochs(start(config), 0)
    with pytest.raises(TrainingError, match="holds a training already"):
        start(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"seed": 1}, r"other settings \(seed: 0 then, 1 now\)"), ({"objective": SdaConfig()}, "other settings")],
)
def test_resuming_with_other_settings_is_refused(change, message, start, config):
    stop_after_epochs(start(config), 1)
    with pytest.raises(TrainingError, match=message):
        start(replace(config, **change), resume=True)


def test_resuming_with_other_patches_is_refused(start, config, tables):
    stop_after_epochs(start(config), 1)
    moved = replace(tables[0], y=tables[0].y + 1)
    with pytest.raises(TrainingError, match="other patches"):
        start(config, tables=(moved, tables[1]), resume=True)


def test_a_damaged_checkpoint_is_told(start, config, tmp_path):
    stop_after_epochs(start(config), 1)
    path = tmp_path / "run" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(TrainingError, match=r"checkpoint.safetensors: training cannot go on"):
        drain(start(config, resume=True))


def test_a_slide_on_both_sides_is_refused(start, config, table):
    with pytest.raises(CohortError, match="Slide s2 stands on both sides"):
        start(config, tables=(table.of_slides(("s0", "s1", "s2")), table.of_slides(("s2", "s3"))))


@pytest.mark.parametrize(("side", "name"), [(0, "training"), (1, "held-out")])
def test_a_class_that_is_missing_on_one_side_is_told(side, name, start, config, tables):
    def without_tumour(table):
        keep = table.label == 0
        columns = {c: getattr(table, c)[keep] for c in ("y", "x", "slide_index", "label")}
        return replace(table, **columns)

    changed = tuple(without_tumour(t) if i == side else t for i, t in enumerate(tables))
    with pytest.raises(CohortError, match=f"Class 'tumour' has no patch on the {name} slides"):
        start(config, tables=changed)


def test_scr_without_two_patches_of_a_slide_is_refused(start, config, tables):
    wanted = [(0, 0), (1, 1), (2, 0), (3, 1)]
    pairs = list(zip(tables[0].slide_index.tolist(), tables[0].label.tolist(), strict=True))
    rows = np.asarray([pairs.index(pair) for pair in wanted])
    thin = replace(tables[0], **{c: getattr(tables[0], c)[rows] for c in ("y", "x", "slide_index", "label")})
    with pytest.raises(CohortError, match="No training slide has two patches"):
        start(replace(config, objective=ScrConfig()), tables=(thin, tables[1]))


def test_a_slide_that_was_not_handed_in_is_told(start, config, slides):
    with pytest.raises(CohortError, match="Slide s3 has patches, and was not handed in"):
        start(config, slides={name: slide for name, slide in slides.items() if name != "s3"})


def test_an_absent_device_is_told_at_the_call(start, config):
    absent = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(ModelError, match="no device"):
        start(replace(config, device=absent))


def test_a_loss_that_is_not_a_number_keeps_the_last_epoch(start, config, tmp_path):
    config = replace(config, epochs=3)
    stop_after_epochs(start(config), 1)
    kept = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()
    events = start(config, resume=True)
    while not isinstance(next(events), BatchDone):
        pass
    poison(events)
    with pytest.raises(TrainingError, match=r"In epoch 2, batch 2, the loss became infinite or not a number"):
        next(events)
    assert (tmp_path / "run" / "checkpoint.safetensors").read_bytes() == kept


def poison(events):
    """Put a NaN into the head of the network that a suspended training holds."""
    inner = events
    while "trainee" not in inner.gi_frame.f_locals:
        inner = inner.gi_yieldfrom
    with torch.no_grad():
        inner.gi_frame.f_locals["trainee"].model.head.bias.fill_(float("nan"))


def test_a_damaged_slide_ends_the_training_with_its_error(start, config, slides):
    class Damaged:
        def __getattr__(self, name):
            return getattr(slides["s1"].source, name)

        def read_level(self, *_args):
            raise SlideError("s1.tif: tile (3, 4) is damaged.")

    with pytest.raises(SlideError, match=r"tile \(3, 4\) is damaged"):
        drain(start(config, slides={**slides, "s1": replace(slides["s1"], source=Damaged())}))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-patches")]


def test_a_slide_that_vanishes_within_an_epoch_keeps_the_epochs_before_it(start, config, slides, tmp_path):
    class Vanishing:
        gone = False

        def __getattr__(self, name):
            return getattr(slides["s1"].source, name)

        def read_level(self, *where):
            if self.gone:
                raise SlideError("s1.tif: cannot be read any more; is the disk still there?")
            return slides["s1"].source.read_level(*where)

    source = Vanishing()
    config = replace(config, epochs=3)
    events = start(config, slides={**slides, "s1": replace(slides["s1"], source=source)})
    next(event for event in events if isinstance(event, EpochDone))
    next(event for event in events if isinstance(event, BatchDone))
    source.gone = True
    with pytest.raises(SlideError, match="is the disk still there"):
        list(events)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-patches")]
    record = read_run(tmp_path / "run")
    assert (record.state, len(record.curve), record.resumable) == ("failed", 1, True)
    assert "is the disk still there" in record.sentence
    whole = drain(start(config, "whole"))
    assert numbers(drain(start(config, resume=True))) == numbers(whole)
    assert same_weights(weights(tmp_path / "whole"), weights(tmp_path / "run"))


@pytest.mark.parametrize("objective", [CrossEntropyConfig(), ScrConfig(), SdaConfig(), CoralConfig(), GroupDroConfig()])
def test_constant_pixels_train_without_harm_and_tell_chance(objective, start, config, slides):
    class Grey:
        def __getattr__(self, name):
            return getattr(slides["s1"].source, name)

        def read_level(self, _level, _y, _x, height, width):
            return np.full((height, width, 3), 127, np.uint8)

    grey = {name: replace(slide, source=Grey()) for name, slide in slides.items()}
    result = drain(start(replace(config, objective=objective, epochs=1), slides=grey))
    assert np.isfinite(result.epochs[-1].loss)
    assert result.epochs[-1].validation_auc == 0.5


def test_a_checkpoint_of_another_architecture_is_told(start, config, tmp_path):
    stop_after_epochs(start(config), 1)
    stop_after_epochs(start(replace(config, backbone="test_convnext"), "other"), 1)
    shutil.copy(tmp_path / "other" / "checkpoint.safetensors", tmp_path / "run" / "checkpoint.safetensors")
    with pytest.raises(TrainingError, match=r"checkpoint.safetensors: training cannot go on"):
        drain(start(config, resume=True))


@pytest.mark.parametrize("byte", [0, 8, 100, -1])
def test_a_tampered_checkpoint_never_crashes(byte, start, config, tmp_path):
    stop_after_epochs(start(config), 1)
    path = tmp_path / "run" / "checkpoint.safetensors"
    data = bytearray(path.read_bytes())
    data[byte] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(TrainingError, match=r"checkpoint.safetensors: training cannot go on"):
        drain(start(config, resume=True))


def test_a_tampered_config_is_told(start, config, tmp_path):
    stop_after_epochs(start(config), 1)
    path = tmp_path / "run" / "config.json"
    told = json.loads(path.read_text())
    for broken in ("", "[]", json.dumps({**told, "settings": {"epochs": -1}}), json.dumps({"settings": None})):
        path.write_text(broken)
        with pytest.raises(TrainingError, match=r"config.json: cannot be read|was begun with other"):
            start(config, resume=True)
    path.write_text(json.dumps({**told, "reductions": [{"epoch": "one"}]}))
    with pytest.raises(TrainingError, match=r"config.json: cannot be read"):
        drain(start(config, resume=True))


def test_a_folder_that_cannot_be_made_is_told(start, config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ProjectError, match="file"):
        drain(start(config, run="file/run"))


def test_a_full_gpu_is_told(start, config, monkeypatch):
    def full(*_args):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(steps, "gradients", full)
    with pytest.raises(TrainingError, match="Memory ran out even with 4 slides x 1 patches; lower slides_per_batch"):
        drain(start(config))
    with pytest.raises(TrainingError, match="even with 4 slides x 2 patches"):  # SCR compares patches of one slide
        drain(start(replace(config, objective=ScrConfig(), patches_per_slide=4), "scr"))


def test_when_memory_runs_out_patches_are_halved_and_it_goes_on_as_it_would_again(start, config, tmp_path, monkeypatch):
    config = replace(config, epochs=4, objective=ScrConfig(beta=0.1), learning_rate=0.003)

    def with_memory_for(patches_in_epoch):
        real = steps.gradients

        def gradients(trainee, views, table, share, key):
            if len(views) > patches_in_epoch.get(key[1], 10**9) and key[2] == 1:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return real(trainee, views, table, share, key)

        patch = monkeypatch.context()
        patch.__enter__().setattr(steps, "gradients", gradients)
        return lambda: patch.__exit__(None, None, None)

    undo = with_memory_for({1: 16})
    events = list(start(config, "whole"))
    undo()
    warned = [event.message for event in events if isinstance(event, Notice) and event.phase == "Out of memory"]
    assert warned == ["Memory ran out in epoch 2 with 8 patches of each slide; it begins again with 4."]
    result = events[-1].result
    assert [epoch.patches_per_slide for epoch in result.epochs] == [8, 4, 4, 4]
    assert [epoch.pairs for epoch in result.epochs] == [4 * 28, 4 * 6, 4 * 6, 4 * 6]
    rows = list(csv.DictReader((tmp_path / "whole" / "curve.csv").open()))
    assert [row["patches_per_slide"] for row in rows] == ["8", "4", "4", "4"]
    told = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert told["reductions"] == [{"epoch": 1, "patches_per_slide": 4}]
    assert told["settings"]["patches_per_slide"] == 8

    undo = with_memory_for({1: 16})
    events = start(config, "stopped")
    next(event for event in events if isinstance(event, Notice) and event.phase == "Out of memory")
    next(event for event in events if isinstance(event, BatchDone))
    events.close()
    undo()
    resumed = drain(start(config, "stopped", resume=True))
    assert same_weights(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))
    assert numbers(resumed) == numbers(result)


def test_memory_that_runs_out_in_the_first_epoch(start, config, monkeypatch):
    real, failed = steps.gradients, []

    def gradients(trainee, views, *rest):
        if len(views) > 8:
            failed.append(len(views))
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
            )
        return real(trainee, views, *rest)

    monkeypatch.setattr(steps, "gradients", gradients)
    found = drain(start(config))
    monkeypatch.undo()
    assert failed == [32, 16]
    assert numbers(found)[0].terms == numbers(drain(start(replace(config, patches_per_slide=2), "two")))[0].terms


def test_settings_that_came_later_do_not_stop_a_run_from_going_on(start, config, tmp_path):
    stop_after_epochs(start(config), 1)
    path = tmp_path / "run" / "config.json"
    told = json.loads(path.read_text())
    del told["settings"]["hed_jitter"]
    path.write_text(json.dumps(told))
    assert len(drain(start(config, resume=True)).epochs) == 2


@pytest.mark.parametrize(
    "change", [{"hed_jitter": 0.1}, {"layer_decay": 0.7}, {"gradient_checkpointing": True}], ids=lambda c: next(iter(c))
)
def test_resuming_is_exact_with(change, start, config, tmp_path):
    assert_resumes_exactly(start, replace(config, learning_rate=0.003, **change), tmp_path, [1])
    if "gradient_checkpointing" in change:
        drain(start(replace(config, learning_rate=0.003), "plain"))
    same = (
        same_weights(weights(tmp_path / "whole"), weights(tmp_path / "plain"))
        if (tmp_path / "plain").exists()
        else None
    )
    assert same in (None, True)


def test_an_epoch_tells_its_memory(start, config):
    assert drain(start(config)).epochs[-1].peak_memory > 50 * 2**20


def test_a_failed_run_says_why(start, config, tmp_path, monkeypatch):
    stop_after_epochs(start(config), 1)
    assert read_run(tmp_path / "run").state == "stopped"
    monkeypatch.setattr(steps, "gradients", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        drain(start(config, resume=True))
    record = read_run(tmp_path / "run")
    assert (record.state, record.sentence, record.resumable) == ("failed", "ZeroDivisionError: division by zero", True)
    monkeypatch.undo()
    result = drain(start(config, resume=True))
    record = read_run(tmp_path / "run")
    assert (record.state, record.sentence, record.curve[-1].loss) == ("finished", "", result.epochs[-1].loss)


def test_a_model_that_cannot_be_made_leaves_no_run_behind(start, config, tmp_path):
    with pytest.raises(ModelError, match="no backbone named 'nothing'"):
        drain(start(replace(config, backbone="nothing")))
    assert not (tmp_path / "run").exists()


def test_patches_too_small_for_the_backbone_are_told(start, config):
    with pytest.raises(ModelError, match="alexnet does not take patches of 32 px"):
        drain(start(replace(config, backbone="alexnet", patches=PatchConfig(size_px=32))))
