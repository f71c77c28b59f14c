"""What an explanation shows: the place that spoke for a class, right on the slide; and what cannot be explained is told."""

import builtins
import json

import numpy as np
import pytest
import shapely
import torch
from memory_slides import MemorySource
from small_project import make_project, small_config
from torch import nn
from typer.testing import CliRunner

from napari_slidecorr.cli import app
from napari_slidecorr.config import PatchConfig
from napari_slidecorr.errors import MapError, ModelError, SlideError
from napari_slidecorr.events import drain
from napari_slidecorr.geometry import Box, PatchGeometry
from napari_slidecorr.learning import attribution
from napari_slidecorr.learning.attribution import Explainer, explain, explain_patch, patch_boxes
from napari_slidecorr.learning.known_backbones import ClassAndMean
from napari_slidecorr.learning.models import PatchClassifier, classify, make_model, save_model
from napari_slidecorr.model_spec import ModelSpec
from napari_slidecorr.slide import Slide

CLASSES = ("stroma", "tumour")
SIDE = 64


def spec_of(backbone="made", *, size_px=SIDE, mpp=None, classes=CLASSES):
    return ModelSpec(
        backbone=backbone,
        classes=classes,
        geometry=PatchGeometry(size_px, mpp),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        objective={},
        train_slides=("a",),
        validation_slides=(),
        initial_weights="random",
        weights_sha256="0" * 64,
        package_version="0",
    )


class Redness(nn.Module):
    """Two maps of squares of eight pixels: how blue they are, and how red; pooled."""

    feature_info = ({"module": "maps", "num_chs": 2},)

    def __init__(self):
        super().__init__()
        self.maps = nn.Conv2d(3, 2, 8, 8, bias=False)
        with torch.no_grad():
            self.maps.weight.zero_()
            for out, (more, less) in enumerate([(2, 0), (0, 2)]):
                self.maps.weight[out, more], self.maps.weight[out, less] = 1 / 64, -1 / 64

    def forward(self, inputs):
        return torch.relu(self.maps(inputs)).mean((2, 3))


@pytest.fixture
def red_model():
    """Red is tumour, blue is stroma."""
    model = PatchClassifier(Redness(), 2, 2, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    with torch.no_grad():
        model.head.weight.copy_(torch.eye(2))
        model.head.bias.zero_()
    return model.eval()


def grey(side=SIDE):
    return np.full((side, side, 3), 128, np.uint8)


RED, BLUE = (220, 40, 40), (40, 40, 220)
QUADRANTS = [(0, 0), (0, 1), (1, 0), (1, 1)]


def share_in(values, quadrant):
    half = values.shape[0] // 2
    row, column = quadrant
    return values[row * half : (row + 1) * half, column * half : (column + 1) * half].sum() / values.sum()


@pytest.mark.parametrize("quadrant", QUADRANTS)
def test_the_mass_lies_where_the_class_sits(red_model, quadrant):
    patch = grey()
    row, column = (32 * at for at in quadrant)
    patch[row : row + 32, column : column + 32] = RED
    values, name = explain_patch(red_model, spec_of(), patch)
    assert name == "tumour"
    assert values.shape == (SIDE, SIDE)
    assert values.min() >= 0
    assert values.max() == 1
    assert share_in(values, quadrant) > 0.85


def test_another_class_is_explained_by_its_own_place_and_an_absent_one_by_nothing(red_model):
    patch = grey()
    patch[:32, :32], patch[32:, 32:] = RED, BLUE
    assert share_in(explain_patch(red_model, spec_of(), patch, "tumour")[0], (0, 0)) > 0.85
    assert share_in(explain_patch(red_model, spec_of(), patch, "stroma")[0], (1, 1)) > 0.85
    only_red = grey()
    only_red[:32, :32] = RED
    assert not explain_patch(red_model, spec_of(), only_red, "stroma")[0].any()


def blobs(count, side, seed):
    """Patches with a dark blob in a random quadrant for class 1, none for class 0."""
    rng = np.random.default_rng(seed)
    patches = rng.normal(200, 12, (count, side, side, 3))
    labels, places = np.arange(count) % 2, rng.integers(0, 4, count)
    half = side // 2
    for patch, label, place in zip(patches, labels, places, strict=True):
        y, x = (half * at + half // 4 for at in divmod(int(place), 2))
        patch[y : y + half // 2, x : x + half // 2] -= 110 * label
    return np.clip(patches, 0, 255).astype(np.uint8), torch.from_numpy(labels), places


def test_a_trained_network_is_seen_to_look_at_the_thing_that_it_learnt():
    side = 128
    model = make_model("test_resnet", 2, weights="random", seed=1).train()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for step in range(40):
        patches, labels, _ = blobs(16, side, step)
        loss = nn.functional.cross_entropy(model(model.prepare(torch.from_numpy(patches))).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    patches, labels, places = blobs(32, side, 10_000)
    assert (classify(model.eval(), patches).argmax(1) == labels.numpy()).mean() > 0.95
    shown = patches[labels == 1]
    maps = Explainer(model, spec_of("test_resnet", size_px=side)).maps(shown, "tumour")
    shares = [share_in(one, divmod(int(place), 2)) for one, place in zip(maps, places[labels == 1], strict=True)]
    assert min(shares) > 0.75  # a quarter by chance


@pytest.mark.parametrize(
    ("backbone", "size_px", "cells"),
    [
        ("resnet18", 64, (2, 2)),
        ("resnet50", 64, (2, 2)),
        ("densenet121", 64, (2, 2)),
        ("alexnet", 96, (5, 5)),
        ("vgg16", 32, (2, 2)),
        ("test_resnet", 64, (2, 2)),
        ("tf_efficientnet_lite0", 64, (2, 2)),
        ("convnext_atto", 64, (2, 2)),
        ("test_vit", 160, (10, 10)),
        ("swin_tiny_patch4_window7_224", 224, (7, 7)),
    ],
)
def test_every_kind_of_backbone_has_its_layer_and_is_left_as_it_was(backbone, size_px, cells):
    model = make_model(backbone, 2, weights="random")
    patches = np.random.default_rng(0).integers(0, 255, (2, size_px, size_px, 3), np.uint8)
    before = classify(model.eval(), patches)
    explainer = Explainer(model, spec_of(backbone, size_px=size_px))
    maps = explainer.maps(patches, "tumour")
    assert explainer.layer.cells == cells
    assert maps.shape == (2, size_px, size_px)
    assert np.isfinite(maps).all()
    np.testing.assert_array_equal(classify(model, patches), before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_tokens_are_laid_out_row_by_row():
    """In a transformer that classifies by the mean of its tokens, the map lies on the token that was made to count."""
    import timm

    net = ClassAndMean(timm.create_model("test_vit", num_classes=0, global_pool=""))
    model = PatchClassifier(net, 2 * net.net.embed_dim, 2, (0.0,) * 3, (1.0,) * 3).eval()
    explainer = Explainer(model, spec_of("test_vit", size_px=160))
    out = torch.zeros(1, net.prefix + 100, net.net.embed_dim)
    out[0, net.prefix + 3 * 10 + 7] = 1
    seen = []
    hook = explainer.layer.as_maps.maps.register_forward_hook(lambda _m, _i, maps: seen.append(maps))
    back = explainer.layer.as_maps(out)
    hook.remove()
    assert torch.equal(back, out)
    assert seen[0].shape == (1, net.net.embed_dim, 10, 10)
    assert seen[0][0, 0].nonzero().tolist() == [[3, 7]]


# -- on slides --------------------------------------------------------------------------------------------------------


@pytest.fixture
def red_run(red_model, tmp_path, monkeypatch):
    """A run whose model knows red from blue, and gives it when it is loaded."""
    spec = spec_of(mpp=1.0)
    (tmp_path / "model.json").write_text(spec.to_json())
    monkeypatch.setattr(attribution, "load_model", lambda _run: (red_model, spec))
    return tmp_path


def slide_with_squares(*squares, shape=(512, 640), mpp=(0.5, 0.5), color=RED):
    pixels = np.full((*shape, 3), 128, np.uint8)
    for y, x in squares:
        pixels[y : y + 16, x : x + 16] = color
    return Slide("squares", MemorySource(pixels), mpp, "user" if mpp else "")


@pytest.mark.parametrize("corner", [(96, 160), (112, 256)])
def test_the_map_of_a_patch_lies_on_the_slide_within_half_a_pixel(red_run, corner):
    """A red square of one cell of the network, 16 level-0 pixels at half the model's resolution."""
    slide = slide_with_squares(corner)
    box = Box(corner[0] - 48, corner[1] - 32, corner[0] + 80, corner[1] + 96)
    found = drain(explain(slide, red_run, box, device="cpu"))
    assert found.class_name == "tumour"
    assert found.box == box
    assert found.cells == (8, 8)
    y, x = centre_of(found)
    assert abs(y - (corner[0] + 8)) <= 0.5
    assert abs(x - (corner[1] + 8)) <= 0.5
    peak = found.peak_px()
    assert max(abs(peak[0] - corner[0] - 8), abs(peak[1] - corner[1] - 8)) <= 8


def centre_of(found):
    """Centre of mass in level-0 pixels, by the very scale and translate that a viewer gets."""
    weights = np.nan_to_num(found.values)
    rows, columns = np.indices(weights.shape)
    at = [(weights * index).sum() / weights.sum() for index in (rows, columns)]
    world = [
        translate + index * scale for index, scale, translate in zip(at, found.scale, found.translate, strict=True)
    ]
    return tuple(place / mpp + 0.5 for place, mpp in zip(world, found.mpp, strict=True))


def test_a_box_smaller_than_a_patch_gives_the_patch_around_it_and_the_edge_moves_it_in():
    slide, spec = slide_with_squares(), spec_of(mpp=1.0)
    assert patch_boxes(slide, spec, Box(200, 300, 202, 302)) == [Box(137, 237, 265, 365)]
    assert patch_boxes(slide, spec, Box(0, 638, 2, 640)) == [Box(0, 512, 128, 640)]


def test_a_region_is_tiled_on_one_scale_and_what_is_not_asked_for_is_clear(red_run):
    slide = slide_with_squares((0, 0), (128, 256), (144, 256))
    area = shapely.union_all([shapely.box(0, 0, 100, 100), shapely.box(130, 260, 250, 380)])
    hull = Box(0, 0, 250, 380)
    found = drain(explain(slide, red_run, hull, area=area, class_name="tumour", device="cpu"))
    assert found.box == Box(0, 0, 256, 384)
    assert found.patches == 2
    assert found.values.shape == (128, 192)
    assert np.isnan(found.values[:64, 64:]).all()
    assert np.isfinite(found.values[:64, :64]).all()
    assert np.nanmax(found.values) == 1
    one, two = (np.nansum(found.values[part]) for part in (np.s_[:64, :64], np.s_[64:, 128:]))
    assert two > one


def test_the_last_patches_fit_on_the_slide():
    boxes = patch_boxes(slide_with_squares(), spec_of(mpp=1.0), Box(0, 0, 512, 640))
    assert len(boxes) == 20
    assert max(box.y1 for box in boxes) == 512
    boxes = patch_boxes(slide_with_squares(shape=(500, 640)), spec_of(mpp=1.0), Box(200, 0, 500, 640))
    assert min(box.y0 for box in boxes) == 116
    assert max(box.y1 for box in boxes) == 500


def test_the_overlay_colours_only_where_the_class_is_spoken_for(red_run):
    slide = slide_with_squares((128, 128))
    found = drain(explain(slide, red_run, Box(96, 96, 224, 224), device="cpu"))
    picture = found.overlay(slide)
    assert picture.shape == (64, 64, 3)
    assert (picture[-8:, -8:] == 128).all()
    assert (picture[20, 20] != RED).any()
    assert found.picture(slide).startswith(b"\x89PNG")


# -- what cannot be explained -----------------------------------------------------------------------------------------


def test_a_network_without_maps_is_told():
    class Flat(nn.Module):
        def forward(self, inputs):
            return inputs.mean((2, 3))

    model = PatchClassifier(Flat(), 3, 2, (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(ModelError, match="has no layer whose numbers have a place"):
        Explainer(model, spec_of("flat"))


def test_a_network_that_sees_a_patch_as_one_cell_is_told():
    with pytest.raises(ModelError, match="one single cell"):
        Explainer(make_model("test_resnet", 2, weights="random"), spec_of("test_resnet", size_px=32))


def test_the_missing_package_is_told(red_model, monkeypatch):
    real = builtins.__import__

    def no_captum(name, *rest):
        if name.startswith("captum"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_captum)
    with pytest.raises(ModelError, match=r"napari-slidecorr\[attribution\]"):
        Explainer(red_model, spec_of())


def test_a_slide_without_pixel_size_and_a_too_coarse_one_are_told(red_run):
    with pytest.raises(SlideError, match="no physical pixel size"):
        explain(slide_with_squares(mpp=None), red_run, Box(0, 0, 64, 64))
    with pytest.raises(SlideError, match="finer resolution"):
        explain(slide_with_squares(mpp=(4.0, 4.0)), red_run, Box(0, 0, 64, 64))


def test_unknown_classes_places_beside_the_slide_and_large_regions_are_told(red_run):
    slide = slide_with_squares()
    with pytest.raises(ModelError, match="no class 'lung'; it knows stroma, tumour"):
        explain(slide, red_run, Box(0, 0, 64, 64), class_name="lung")
    with pytest.raises(MapError, match="lies beside squares"):
        explain(slide, red_run, Box(600, 0, 700, 64))
    with pytest.raises(MapError, match="No patch lies on this region"):
        explain(slide, red_run, Box(0, 0, 64, 64), area=shapely.box(400, 400, 410, 410))
    huge = Slide("huge", MemorySource(np.zeros((4096, 4096, 3), np.uint8)), (0.5, 0.5), "user")
    with pytest.raises(MapError, match="1024 patches; at most 400"):
        explain(huge, red_run, Box(0, 0, 4096, 4096))


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    project = make_project(tmp_path_factory.mktemp("explained"), slides=1)
    spec = spec_of("test_resnet", mpp=0.5)
    folder = project.folder / "runs" / "one"
    folder.mkdir(parents=True)
    save_model(folder, make_model("test_resnet", 2, weights="random", seed=3), spec)
    return folder


def run_command(*arguments):
    return CliRunner().invoke(app, ["explain", *map(str, arguments)])


def test_the_command_writes_a_picture_and_tells_the_class(run_folder, tmp_path, monkeypatch):
    from PIL import Image

    (tmp_path / "s0").write_text("a file that happens to be called like the slide")
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "why.png"
    done = run_command(run_folder, "s0", "--box", "0,0,128,192", "--class", "tumour", "--out", out, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["class"] == "tumour"
    assert told["box"] == [0, 0, 128, 192]
    assert told["patches"] == 6
    assert sum(told["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert Image.open(out).size == (192, 128)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("s0", "--box", "1,2,3", "--out", "a.png"), "four whole numbers"),
        (("s0", "--box", "5,0,5,9", "--out", "a.png"), "Y1 must be larger"),
        (("s0", "--box", "0,0,9,9", "--out", "a.jpg"), "end in .png"),
        (("nowhere", "--box", "0,0,9,9", "--out", "a.png"), "nowhere"),
    ],
)
def test_the_command_tells_mistakes_in_one_sentence(run_folder, arguments, sentence):
    done = run_command(run_folder, *arguments)
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_model_that_was_trained_here_is_explained(tmp_path):
    project = make_project(tmp_path)
    drain(project.train(small_config(patches=PatchConfig(size_px=64, mpp=0.5))))
    found = drain(explain(project.slide("s0"), project.runs()[-1], Box(0, 0, 128, 128), device="cpu"))
    assert found.patches == 4
    assert found.values.shape == (128, 128)
    assert found.model_id in (project.runs()[-1] / "model.json").read_text()
    assert found.class_name in found.sentence()
