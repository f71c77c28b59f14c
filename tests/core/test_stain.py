import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_slidecorr.stain import MIN_PIXELS, REFERENCE, Stain, find_stain, normalize_stain

PURPLE = Stain((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (1.4, 0.9))


def unit(values):
    return np.asarray(values) / np.linalg.norm(values)


def tissue(stain=REFERENCE, side=96, seed=0, amount=1.0, noise=0.0):
    """H&E made the other way round: random amounts of two stains, mixed by hand."""
    rng = np.random.default_rng(seed)
    amounts = amount * rng.gamma(3, 0.25, (side * side, 2)) + 0.2
    pure = rng.random(side * side)
    amounts[pure < 0.1, 1] = amounts[pure > 0.9, 0] = 0.02
    density = amounts @ np.stack([unit(stain.haematoxylin), unit(stain.eosin)])
    light = 240 * np.exp(-density) - 1 + rng.normal(0, noise, density.shape)
    return light.clip(0, 255).round().astype(np.uint8).reshape(side, side, 3)


def dense(pixels):
    flat = pixels.reshape(-1, 3)
    return flat[(flat <= 205).all(axis=1)]


def test_it_finds_the_stains_that_tissue_was_made_of():
    found = find_stain(tissue(PURPLE))
    for vector, made in zip(found.vectors, (PURPLE.haematoxylin, PURPLE.eosin), strict=True):
        assert np.degrees(np.arccos(vector @ unit(made))) < 8  # purest eosin is below the least density in red
        assert np.linalg.norm(vector) == pytest.approx(1)


@pytest.mark.parametrize(("stain", "noise"), [(REFERENCE, 0), (PURPLE, 0), (PURPLE, 4)])
def test_a_second_implementation_agrees(stain, noise):
    normalizers = pytest.importorskip("torchstain.numpy.normalizers")
    flat = dense(tissue(stain, noise=noise))  # the other one counts thin pixels among the strengths as well
    pixels = flat[: len(flat) // 64 * 64].reshape(-1, 64, 3)
    theirs, _, _ = normalizers.NumpyMacenkoNormalizer().normalize(pixels, stains=False)
    ours = normalize_stain(pixels, find_stain(pixels))
    assert np.abs(ours.astype(int) - theirs).max() <= 1  # they cut decimals off, we round
    other = normalizers.NumpyMacenkoNormalizer()
    other.fit(pixels)
    found = find_stain(pixels)
    np.testing.assert_allclose(found.vectors.T, other.HERef, atol=1e-9)
    np.testing.assert_allclose(found.strengths, other.maxCRef, rtol=1e-9)


def test_a_slide_that_is_the_target_stays_as_it_is():
    pixels = tissue(PURPLE)
    own = find_stain(pixels)
    moved = np.abs(normalize_stain(pixels, own, own).astype(int) - pixels)
    assert np.quantile(moved, 0.99) <= 2  # dark pixels are the coarsest in optical density


def test_two_stainings_of_one_tissue_become_alike():
    one, other = tissue(REFERENCE, amount=0.7), tissue(PURPLE)
    before = np.abs(one.astype(int) - other).mean()
    after = [normalize_stain(pixels, find_stain(pixels)).astype(int) for pixels in (one, other)]
    assert np.abs(after[0] - after[1]).mean() < before / 2


def test_patches_of_a_slide_keep_their_differences():
    """A pale patch of a slide stays pale: the stain is that of the slide."""
    pixels = tissue(PURPLE)
    slide = find_stain(pixels)
    pale, dark = tissue(PURPLE, amount=0.3), tissue(PURPLE, amount=1.5)
    of_slide = [normalize_stain(p, slide).mean() for p in (pale, dark)]
    of_patch = [normalize_stain(p, find_stain(p)).mean() for p in (pale, dark)]
    assert of_slide[0] - of_slide[1] > 3 * (of_patch[0] - of_patch[1])


def test_a_batch_is_its_patches():
    batch = np.stack([tissue(seed=seed) for seed in range(3)])
    source = find_stain(batch)
    whole = normalize_stain(batch, source)
    assert whole.dtype == np.uint8
    assert whole.shape == batch.shape
    for one, patch in zip(whole, batch, strict=True):
        assert (one == normalize_stain(patch, source)).all()


def test_glass_among_tissue_changes_nothing_and_stays_light():
    pixels = tissue(PURPLE).reshape(-1, 3)
    glass = np.full((5000, 3), 250, np.uint8)
    assert find_stain(np.concatenate([pixels, glass])) == find_stain(pixels)
    assert normalize_stain(glass, find_stain(pixels)).min() > 235


@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(np.full((5000, 3), 245, np.uint8), id="glass"),
        pytest.param(np.full((5000, 3), (225, 205, 218), np.uint8), id="pale"),
        pytest.param(np.full((5000, 3), (150, 90, 140), np.uint8), id="one colour"),
        pytest.param(np.repeat(np.arange(40, 180, dtype=np.uint8), 60)[:, None].repeat(3, 1), id="grey"),
        pytest.param(np.zeros((5000, 3), np.uint8), id="black"),
        pytest.param(tissue(side=31).reshape(-1, 3)[: MIN_PIXELS - 1], id="tiny"),
        pytest.param(np.zeros((0, 3), np.uint8), id="nothing"),
    ],
)
def test_what_does_not_show_two_stains_has_none(pixels):
    assert find_stain(pixels) is None


@given(st.integers(0, 10_000), st.sampled_from(["uniform", "narrow", "two colours"]))
def test_never_a_value_that_is_not_a_colour(seed, kind):
    rng = np.random.default_rng(seed)
    low, high = sorted(rng.integers(0, 256, 2)) if kind == "narrow" else (0, 255)
    pixels = rng.integers(low, high + 1, (1500, 3)).astype(np.uint8)
    if kind == "two colours":
        pixels = pixels[rng.integers(0, 2, 1500)]
    if (stain := find_stain(pixels)) is not None:
        assert np.isfinite([*stain.haematoxylin, *stain.eosin, *stain.strengths]).all()
        with np.errstate(all="raise", under="ignore"):
            normalize_stain(pixels, stain)


def test_json_and_back():
    assert Stain.from_json(PURPLE.to_json()) == PURPLE


@pytest.mark.parametrize(
    "change", [{"method": "vahadane"}, {"eosin": [1, 2]}, {"strengths": [1, float("nan")]}, {"eosin": "pink"}]
)
def test_damaged_json_is_told(change):
    with pytest.raises(ValueError):  # noqa: PT011 (the caller names the file)
        Stain.from_json({**PURPLE.to_json(), **change})
