"""Slides as zarr and dask arrays: the same pixels as the slide's own lazy arrays, and nothing written."""

import pickle

import numpy as np
import pytest
import zarr
from slide_files import cut, picture, write_pyramid, write_zarr

from napari_slidecorr.io import open_slide

PLACES = [np.s_[100:300, 50:450], np.s_[0:1, 0:1], np.s_[590:, 880:], np.s_[::97, ::101], np.s_[5, 6, 1]]


@pytest.fixture(scope="module", params=["tiff", "made levels", "zarr"])
def slide(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("slides") / ("a.ome.zarr" if request.param == "zarr" else "a.tif")
    pixels = picture(600, 1100 if request.param == "made levels" else 900)
    if request.param == "zarr":
        write_zarr(path, pixels, levels=2)
    else:
        write_pyramid(path, pixels, levels=1 if request.param == "made levels" else 2, compression="deflate")
    slide = open_slide(path)
    yield slide
    slide.close()


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_zarr_and_dask_give_the_pixels_of_the_view(slide, place):
    import dask.array

    for level, view in enumerate(slide.view_levels()):
        array = slide.zarr(level)
        assert (array.shape, array.dtype) == (view.shape, view.dtype)
        assert array.chunks[:2] == tuple(min(t, n) for t, n in zip(slide.levels[level].tile, view.shape, strict=False))
        expected = np.asarray(view)[place]
        np.testing.assert_array_equal(array[place], expected)
        np.testing.assert_array_equal(slide.dask(level, 256)[place].compute(), expected)
        np.testing.assert_array_equal(dask.array.from_zarr(array)[place].compute(), expected)


def test_level_0_holds_the_files_pixels_and_background_outside(slide):
    array = slide.zarr(0)
    whole = slide.source.read_level(0, 0, 0, *slide.shape)
    np.testing.assert_array_equal(array[:], cut(whole, 0, 0, *array.shape[:2]))


def test_the_store_is_a_group_that_lists_its_levels(slide):
    store = slide.zarr_store()
    group = zarr.open_group(store, mode="r")
    assert sorted(group.array_keys()) == [str(i) for i in range(len(slide.levels))]
    np.testing.assert_array_equal(group["1"][:50, :50], slide.view_levels()[1][:50, :50])


def test_zarr_arrays_pickle_as_the_slide_does(slide):
    data = pickle.dumps(slide.zarr(0))
    assert len(data) < 4000
    np.testing.assert_array_equal(pickle.loads(data)[100:200, 50:90], slide.view_levels()[0][100:200, 50:90])  # noqa: S301


def test_nothing_can_be_written(slide):
    with pytest.raises(ValueError, match="read-only"):
        slide.zarr(0)[0, 0] = 1
    with pytest.raises(ValueError, match="read"):
        zarr.open_array(slide.zarr_store(), path="0", mode="r+")


@pytest.mark.parametrize("key", ["9/c/0/0/0", "0/c/999/0/0", "0/c/0/0/1", "0/c/x/0/0", "0/.zarray", "c/0"])
def test_other_keys_do_not_exist(slide, key):
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    store = slide.zarr_store()
    assert not sync(store.exists(key))
    assert sync(store.get(key, default_buffer_prototype())) is None


def test_keys_listed_are_keys_that_exist(slide):
    from zarr.core.sync import sync

    async def missing(store):
        return [key async for key in store.list_prefix("1/") if not await store.exists(key)]

    assert sync(missing(slide.zarr_store())) == []


def test_dask_names_tell_files_apart(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        write_pyramid(tmp_path / f"{name}.tif", picture(100, 100, seed))
    first, again, other = (open_slide(tmp_path / f"{name}.tif").dask() for name in "aab")
    assert first.name == again.name != other.name


def test_dask_slides_travel_to_other_processes(slide):
    level = slide.dask(0, 512)
    found = level[100:300, 50:450].compute(scheduler="processes", num_workers=1)
    np.testing.assert_array_equal(found, slide.view_levels()[0][100:300, 50:450])
