import colorsys

import numpy as np
import pytest
import torch

from napari_slidecorr.learning import augment


def patches(count=6, side=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


class FixedFactors:
    """A generator whose every factor is known: brightness, contrast, saturation, hue."""

    def __init__(self, *factors):
        self.factors = factors

    def uniform(self, low, high, size):
        assert (low, high) == (0.8, 1.2)
        return np.broadcast_to(np.reshape(self.factors, (4, 1, 1, 1, 1)), size)


def jitter(pixels, *factors):
    return augment.colour_jitter(torch.from_numpy(pixels), FixedFactors(*factors)).numpy()


def test_all_eight_orientations_come_and_nothing_else():
    one = patches(1)
    views = augment.flip_rotate(np.repeat(one, 200, axis=0), augment.generator(0, 0, 0))
    seen = {view.tobytes() for view in views}
    turned = [np.rot90(one[0], k) for k in range(4)]
    assert seen == {view.tobytes() for view in [*turned, *(view[:, ::-1] for view in turned)]}


def test_stains_are_varied_as_the_equation_says():
    """Pixels mixed of known amounts of stains; each amount s becomes (1 + a) s + b."""
    amounts = np.random.default_rng(0).uniform(0.1, 0.35, (3, 4, 4, 3))
    stains = np.asarray(augment.HED)
    pixels = np.round(255 * 10 ** -(amounts @ stains)).astype(np.uint8)
    drawn = np.asarray([[0.1, -0.1, 0.05], [0.03, 0.02, -0.04]])

    class Fixed:
        def uniform(self, low, high, size):
            assert (low, high, size) == (-0.1, 0.1, (2, 3, 1, 1, 3))
            return np.broadcast_to(drawn[:, None, None, None], size)

    found = augment.hed_jitter(torch.from_numpy(pixels), Fixed(), 0.1).numpy()
    wanted = 255 * 10 ** -(((1 + drawn[0]) * amounts + drawn[1]) @ stains)
    assert np.abs(found - wanted).max() < 2.5, "8-bit rounding of the input, no more"
    assert np.abs(found - pixels.astype(float)).mean() > 4


def test_no_stain_jitter_leaves_pixels_and_strong_jitter_stays_in_range():
    pixels = torch.from_numpy(patches())
    same = augment.hed_jitter(pixels, augment.generator(0, 0, 0), 0.0)
    assert (same.int() - pixels.clamp(min=1).int()).abs().max() <= 1
    strong = augment.hed_jitter(pixels, augment.generator(0, 0, 0), 1.0)
    assert strong.dtype == torch.uint8
    assert (strong != pixels).any()


def test_draws_of_stain_jitter_are_uniform_and_apart():
    rng = augment.generator(1, 2, 3)
    pixels = torch.full((4000, 1, 1, 3), 120, dtype=torch.uint8)
    density = -np.log10(augment.hed_jitter(pixels, rng, 0.2).numpy().reshape(-1, 3) / 255.0)
    amounts, before = (
        d @ np.linalg.inv(np.asarray(augment.HED)) for d in (density, -np.log10(np.full((1, 3), 120 / 255)))
    )
    change = amounts - before
    assert np.abs(change).max() < 0.2 * (1 + np.abs(before).max()) + 0.05
    assert np.abs(change.mean(axis=0)).max() < 0.02
    assert np.abs(np.corrcoef(change.T) - np.eye(3)).max() < 0.1


@pytest.mark.parametrize("part", [[0, 2, 5], [1, 3, 4]])
def test_a_part_of_a_batch_is_shown_as_in_the_whole(part):
    pixels, mine = patches(), np.asarray(part)
    places = augment.Places(mine, len(pixels))
    for view in (
        augment.flip_rotate,
        lambda p, *rest: augment.colour_jitter(torch.from_numpy(p), *rest),
        lambda p, rng, places=None: augment.hed_jitter(torch.from_numpy(p), rng, 0.2, places),
    ):
        whole = np.asarray(view(pixels, augment.generator(3, 0, 1)))
        assert np.array_equal(np.asarray(view(pixels[mine], augment.generator(3, 0, 1), places)), whole[mine])


def test_views_are_a_function_of_seed_epoch_and_batch():
    pixels = torch.from_numpy(patches())

    def view(*key):
        return augment.colour_jitter(pixels, augment.generator(*key))

    assert torch.equal(view(1, 2, 3), view(1, 2, 3))
    for other in ((0, 2, 3), (1, 0, 3), (1, 2, 0)):
        assert not torch.equal(view(1, 2, 3), view(*other))


def test_factors_of_one_change_nothing():
    np.testing.assert_array_equal(jitter(patches(), 1, 1, 1, 1), patches())


def test_brightness_multiplies_values():
    np.testing.assert_allclose(jitter(patches() // 2, 1.2, 1, 1, 1), (patches() // 2) * 1.2, atol=0.51)


def test_contrast_keeps_the_mean_grey_and_saturation_each_grey():
    pixels = patches() // 2 + 64

    def grey(rgb):
        return rgb @ np.asarray([0.299, 0.587, 0.114])

    for factors in ((1, 0.8, 1, 1), (1, 1, 0.8, 1)):
        assert np.abs(jitter(pixels, *factors).astype(float) - pixels).max() > 3
    np.testing.assert_allclose(grey(jitter(pixels, 1, 0.8, 1, 1)).mean((1, 2)), grey(pixels).mean((1, 2)), atol=0.6)
    np.testing.assert_allclose(grey(jitter(pixels, 1, 1, 0.8, 1)), grey(pixels), atol=1)


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_hue_multiplies_the_signed_angle_from_red(factor):
    pixels = patches(1)
    out = jitter(pixels, 1, 1, 1, factor).reshape(-1, 3)
    for before, after in zip(pixels.reshape(-1, 3) / 255, out / 255, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        signed = hue - 1 if hue > 0.5 else hue
        expected = colorsys.hsv_to_rgb((signed * factor) % 1, saturation, value)
        np.testing.assert_allclose(after, expected, atol=0.6 / 255)


def test_reds_on_both_sides_of_the_seam_stay_neighbours():
    reds = np.asarray([[[[200, 20, 24]], [[200, 24, 20]]]], np.uint8)
    out = jitter(reds, 1, 1, 1, 1.2).astype(int)
    assert np.abs(out[0, 0] - out[0, 1]).max() < 10
