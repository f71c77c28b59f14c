"""Colours of classes can be told apart by colour-blind eyes."""

from itertools import combinations

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from napari_slidecorr.project_file import IGNORE_COLOR, PALETTE
from napari_slidecorr.sample_data import CLASS_COLORS

# What dichromats see, on linear RGB (Machado, Oliveira and Fernandes, IEEE TVCG 2009, table 1, severity 1.0).
EYES = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
APART = 10.0
"""CIEDE2000; about 2 is the least that can be seen side by side."""


def seen(colors, eyes):
    """Lab of 8-bit sRGB colours as these eyes see them."""
    srgb = np.asarray(colors) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    changed = np.clip(linear @ np.asarray(EYES[eyes]).T, 0, 1)
    back = np.where(changed <= 0.0031308, 12.92 * changed, 1.055 * changed ** (1 / 2.4) - 0.055)
    return rgb2lab(back[None])[0]


@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize(
    "colors", [(*PALETTE, IGNORE_COLOR), tuple(CLASS_COLORS.values())], ids=["of new classes", "of the samples"]
)
def test_any_two_classes_are_told_apart(colors, eyes):
    for (one, first), (other, second) in combinations(zip(colors, seen(colors, eyes), strict=True), 2):
        assert deltaE_ciede2000(first, second) >= APART, f"{one} and {other}"


def test_the_simulation_makes_red_and_green_alike():
    red, green = seen([(170, 80, 40), (105, 110, 40)], "deuteranopia")
    assert deltaE_ciede2000(red, green) < APART < deltaE_ciede2000(*seen([(170, 80, 40), (105, 110, 40)], "normal"))
