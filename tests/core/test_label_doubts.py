import pytest
from shapely import box

from napari_slidecorr.config import PatchConfig
from napari_slidecorr.label_doubts import label_doubts
from napari_slidecorr.patches import PatchSource, cut_patches
from napari_slidecorr.regions import Region, RegionSet

CLASSES = ("stroma", "tumour")


def doubts(**marked):
    """Of slides with squares (class, y, x, side)."""
    regions = {
        slide: RegionSet(tuple(Region(name, box(y, x, y + side, x + side)) for name, y, x, side in squares))
        for slide, squares in marked.items()
    }
    sources = [PatchSource(slide, (200, 300), (16, 16), of_slide) for slide, of_slide in regions.items()]
    return list(label_doubts(cut_patches(sources, CLASSES, PatchConfig(size_px=16, mpp=None)), regions))


BOTH = (("stroma", 0, 0, 48), ("tumour", 96, 0, 48))


def test_two_slides_with_both_classes_apart_raise_none():
    assert doubts(a=BOTH, b=BOTH) == []


def test_a_class_on_one_slide_of_several_is_named_with_it():
    (told,) = doubts(a=BOTH, b=BOTH[:1], c=BOTH[:1])
    assert told.startswith("Class 'tumour' is on one training slide alone (a)")


def test_with_a_single_slide_there_is_nothing_to_compare():
    assert doubts(a=BOTH) == []


@pytest.mark.parametrize(("x", "warned"), [(48, 0), (47, 0), (40, 1), (0, 1)])
def test_overlaps_of_classes_are_told_but_not_that_they_touch(x, warned):
    """Squares of 48 px side by side share 48 px for each column of overlap; a quarter of a patch is 64."""
    told = doubts(a=(("stroma", 0, 0, 48), ("tumour", 0, x, 48), ("tumour", 96, 0, 48), ("stroma", 96, 96, 48)), b=BOTH)
    assert len(told) == warned
    assert all(sentence.startswith("a: regions of 'stroma' and 'tumour' overlap") for sentence in told)


def test_two_regions_of_one_class_may_overlap():
    assert doubts(a=(*BOTH, ("stroma", 0, 8, 48)), b=BOTH) == []
