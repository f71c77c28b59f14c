"""Pixels: any place of any level, the one `read`, and the arrays a viewer gets, each against a naive second way."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slide_files import cut, half, picture, write_pyramid, write_sparse

from napari_slidecorr.errors import DamagedTileError, SlideError
from napari_slidecorr.geometry import Box
from napari_slidecorr.io import open_slide
from napari_slidecorr.level_view import UNREADABLE
from napari_slidecorr.levels import BACKGROUND, level_downsample

HEIGHT, WIDTH = 301, 405
many = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
places = st.tuples(st.integers(-200, 500), st.integers(-200, 500), st.integers(1, 300), st.integers(1, 300))

LAYOUTS = {
    "jpeg": {"compression": "jpeg"},
    "jpeg-420": {"compression": "jpeg", "subsampling": (2, 2)},
    "deflate": {"compression": "deflate"},
    "deflate-predictor": {"compression": "deflate", "predictor": True},
    "lzw": {"compression": "lzw"},
    "jpeg2000": {"compression": "jpeg2000"},
    "webp": {"compression": "webp", "compressionargs": {"lossless": True}},
    "raw": {},
    "big-endian": {"byteorder": ">", "compression": "zstd", "predictor": True},
    "wide-tiles": {"tile": (32, 128), "compression": "deflate"},
    "strips": {"tile": None, "rowsperstrip": 7, "compression": "deflate"},
    "one-strip": {"tile": None, "rowsperstrip": HEIGHT},
    "planar": {"planarconfig": "separate", "compression": "deflate"},
    "planar-strips": {"planarconfig": "separate", "tile": None, "rowsperstrip": 5},
}


@pytest.fixture(scope="module", params=LAYOUTS)
def written(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("slides") / f"{request.param}.tif"
    pixels = picture(HEIGHT, WIDTH)
    options = LAYOUTS[request.param]
    if options.get("planarconfig") == "separate":
        write_pyramid(path, np.ascontiguousarray(pixels.transpose(2, 0, 1)), **options)
        arrays = [pixels]
    else:
        arrays = write_pyramid(path, pixels, levels=2, **options)
    return open_slide(path), arrays


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Two stored levels, deflate, and the pixels of both."""
    path = tmp_path_factory.mktemp("slides") / "plain.tif"
    arrays = write_pyramid(path, picture(HEIGHT, WIDTH), levels=2, compression="deflate")
    return open_slide(path), arrays


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """One stored level that is too large for a viewer, so that coarser ones are made."""
    path = tmp_path_factory.mktemp("slides") / "single.tif"
    (pixels,) = write_pyramid(path, picture(1201, 2050), tile=(240, 240), compression="deflate")
    return open_slide(path), pixels


@many
@given(place=places, level=st.integers(0, 1))
def test_a_read_equals_a_cut_of_the_whole_array(written, place, level):
    slide, arrays = written
    level = min(level, len(arrays) - 1)
    np.testing.assert_array_equal(slide.source.read_level(level, *place), cut(arrays[level], *place))


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    path = tmp_path_factory.mktemp("slides") / "sparse.tif"
    expected = write_sparse(path, picture(200, 300), {(0, 0), (1, 2), (3, 4)})
    return open_slide(path), expected


@many
@given(place=places)
def test_tiles_the_scanner_left_out_are_background(sparse, place):
    slide, expected = sparse
    np.testing.assert_array_equal(slide.source.read_level(0, *place), cut(expected, *place))


def test_native_reads_are_the_stored_pixels(plain):
    slide, arrays = plain
    np.testing.assert_array_equal(slide.read(Box(10, 20, 110, 220), (100, 200)), arrays[0][10:110, 20:220])
    np.testing.assert_array_equal(slide.read(Box(10, 20, 110, 220), (50, 100)), arrays[1][5:55, 10:110])


@many
@given(data=st.data())
def test_whole_reductions_are_means_of_pixels(plain, data):
    slide, arrays = plain
    factor = data.draw(st.sampled_from([3, 5, 7]), "factor of level 0")
    size = data.draw(st.tuples(st.integers(1, 30), st.integers(1, 30)), "size")
    y, x = data.draw(st.tuples(st.integers(-50, 300), st.integers(-50, 400)), "corner")
    box = Box(y, x, y + factor * size[0], x + factor * size[1])
    slide = _only_level_0(slide)  # else these factors start from level 1 and its rounded pixels
    naive = cut(arrays[0], y, x, *box.shape).reshape(size[0], factor, size[1], factor, 3).mean((1, 3))
    assert np.abs(slide.read(box, size) - naive).max() <= 0.6  # Pillow divides in fixed point


def triangles(length, start, stop, size):
    """Weights, shape (size, length), of an antialiased linear filter: a triangle as wide as the reduction asks for."""
    step = (stop - start) / size
    centres = start + (np.arange(size) + 0.5) * step
    apart = np.abs(np.arange(length) + 0.5 - centres[:, None]) / max(step, 1)
    weights = np.clip(1 - apart, 0, None)
    return weights / weights.sum(1, keepdims=True)


@many
@given(data=st.data())
def test_any_place_and_scale_is_a_linear_filter_of_the_level(plain, data):
    slide, arrays = plain
    y, x = data.draw(st.tuples(st.integers(-50, 300), st.integers(-50, 400)), "corner")
    shape = data.draw(st.tuples(st.integers(1, 200), st.integers(1, 200)), "box")
    size = data.draw(st.tuples(st.integers(1, 150), st.integers(1, 150)), "size")
    level = int(min(n / m for n, m in zip(shape, size, strict=True)) * 1.001 >= 2)
    factor = 2**level
    y0, x0, y1, x1 = (n / factor for n in (y, x, y + shape[0], x + shape[1]))
    top, left, bottom, right = (
        int(f(n)) for f, n in zip((np.floor,) * 2 + (np.ceil,) * 2, (y0, x0, y1, x1), strict=True)
    )
    pixels = cut(arrays[level], top, left, bottom - top, right - left).astype(float)
    rows = triangles(bottom - top, y0 - top, y1 - top, size[0])
    columns = triangles(right - left, x0 - left, x1 - left, size[1])
    naive = np.einsum("ar,bc,rcs->abs", rows, columns, pixels, optimize=True)
    whole = all((n / m) % factor == 0 for n, m in zip(shape, size, strict=True)) and (y % factor, x % factor) == (0, 0)
    if whole:  # means of pixels then, held by the test above
        return
    # Pillow rounds between its two passes and keeps weights in fixed point: up to one value each
    assert np.abs(slide.read(Box(y, x, y + shape[0], x + shape[1]), size) - naive).max() <= 1.6


def _only_level_0(slide):
    class OneLevel:
        def __init__(self, source):
            self.__dict__.update(vars(source))
            self.levels = source.levels[:1]
            self.read_level = source.read_level

    return replace(slide, source=OneLevel(slide.source))


def test_even_reductions_start_from_the_coarse_level(plain):
    slide, arrays = plain
    expected = arrays[1][:120, :160].reshape(60, 2, 80, 2, 3).mean((1, 3))
    assert np.abs(slide.read(Box(0, 0, 240, 320), (60, 80)) - expected).max() <= 0.5


@pytest.mark.parametrize(("box", "size"), [(Box(3, 5, 103, 155), (77, 90)), (Box(0, 0, 100, 100), (150, 150))])
def test_other_sizes_keep_the_mean_colour(plain, box, size):
    slide, arrays = plain
    pixels = slide.read(box, size)
    assert pixels.shape == (*size, 3)
    expected = arrays[0][box.y0 : box.y1, box.x0 : box.x1].mean((0, 1))
    np.testing.assert_allclose(pixels.mean((0, 1)), expected, atol=2)


@pytest.mark.parametrize(("box", "size"), [(Box(5, 5, 5, 50), 10), (Box(0, 0, 10, 10), 0)])
def test_a_read_without_area_is_refused(plain, box, size):
    with pytest.raises(SlideError, match=r"plain\.tif"):
        plain[0].read(box, size)


def test_made_levels_halve_until_they_are_small(single):
    slide, _ = single
    assert [level.shape for level in slide.levels] == [(1201, 2050), (601, 1025), (301, 513)]
    assert [level.downsample for level in slide.levels] == [(1, 1), (2, 2), (4, 4)]
    assert slide.properties["levels made"].startswith("2")


@many
@given(place=st.tuples(st.integers(-9, 610), st.integers(-9, 1030), st.integers(1, 90), st.integers(1, 90)))
def test_made_levels_are_means_with_background_outside(single, place):
    slide, pixels = single
    y, x, height, width = place
    first = slide.source.read_level(1, *place)
    below = cut(pixels, 2 * y, 2 * x, 2 * height, 2 * width).reshape(height, 2, width, 2, 3).mean((1, 3))
    assert np.abs(first - below).max() <= 0.5
    second = slide.source.read_level(2, *place)
    below = cut(pixels, 4 * y, 4 * x, 4 * height, 4 * width).reshape(height, 4, width, 4, 3).mean((1, 3))
    assert np.abs(second - below).max() <= 1


def test_a_thumbnail_fits(single):
    slide, pixels = single
    thumbnail = slide.thumbnail(256)
    assert thumbnail.shape == (150, 256, 3)
    np.testing.assert_allclose(thumbnail.mean((0, 1)), pixels.mean((0, 1)), atol=1)


KEYS = [
    np.s_[:],
    np.s_[3],
    np.s_[-1],
    np.s_[-1, -2],
    np.s_[5, 6, 1],
    np.s_[..., 0],
    np.s_[10:40, 20:90],
    np.s_[-40:-10, -300:],
    np.s_[::7, ::5],
    np.s_[::-1, 100:20:-3],
    np.s_[200:100:-1, 5],
    np.s_[10:10],
    np.s_[20:10, ...],
    np.s_[5:900, 300:900, 1:],
    np.s_[np.int64(4), 3:9, ::-1],
]


@pytest.mark.parametrize("key", KEYS, ids=str)
@pytest.mark.parametrize("level", [0, 1])
def test_a_view_indexes_like_an_array(plain, key, level):
    slide, arrays = plain
    view = slide.view_levels()[level]
    whole = cut(arrays[level], 0, 0, *view.shape[:2])
    np.testing.assert_array_equal(view[key], whole[key])
    assert view[key].shape == whole[key].shape


@pytest.mark.parametrize("key", [301 + 1, -303, (0, 500)])
def test_a_view_ends(plain, key):
    with pytest.raises(IndexError):
        plain[0].view_levels()[0][key]


def test_views_stand_in_exact_ratios(single):
    slide, pixels = single
    shapes = [view.shape for view in slide.view_levels()]
    assert shapes == [(1204, 2052, 3), (602, 1026, 3), (301, 513, 3)]
    view = slide.view_levels()[0]
    assert view.size == np.asarray(view).size
    assert [sum(sizes) for sizes in view.chunks] == list(view.shape)
    np.testing.assert_array_equal(np.asarray(view), cut(pixels, 0, 0, 1204, 2052))


def test_dask_levels_hold_the_same_pixels(single):
    slide, pixels = single
    level = slide.pyramid(chunks=512)[0]
    assert level.chunksize == (512, 512, 3)
    np.testing.assert_array_equal(level[600:700, 900:1100].compute(), pixels[600:700, 900:1100])


def damage(path, tile):
    """Overwrite the bytes of one tile of level 0."""
    import tifffile

    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        offset, count = page.dataoffsets[tile], page.databytecounts[tile]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\x07" * count)


@pytest.fixture
def damaged(tmp_path):
    path = tmp_path / "damaged.tif"
    (pixels,) = write_pyramid(path, picture(1201, 2050), tile=(240, 240), compression="deflate")
    damage(path, 10)  # row 1, column 1 of 9 columns
    return open_slide(path), pixels


def test_a_damaged_tile_is_named_and_the_others_are_read(damaged):
    slide, pixels = damaged
    with pytest.raises(DamagedTileError, match=r"damaged\.tif: level 0, tile \(1, 1\)"):
        slide.read(Box(200, 200, 300, 300), 100)
    np.testing.assert_array_equal(slide.read(Box(0, 0, 240, 480), (240, 480)), pixels[:240, :480])
    with pytest.raises(DamagedTileError, match=r"tile \(1, 1\)"):  # the failure is not kept as a tile
        slide.read(Box(300, 300, 301, 301), 1)


def test_a_view_shows_grey_for_a_damaged_tile_and_says_so_once(damaged, caplog):
    slide, pixels = damaged
    told = []
    views = slide.view_levels(told.append)
    expected = pixels.copy()
    expected[240:480, 240:480] = UNREADABLE
    for _ in range(2):
        np.testing.assert_array_equal(views[0][:1201, :2050], expected)
    # made levels lose the tile only, not all that was made from it
    assert np.abs(views[1][:600, :1025].astype(int) - half(expected)[:600, :1025]).max() <= 1
    assert len(told) == 1
    assert len(caplog.records) == 1


def test_dask_raises_for_a_damaged_tile(damaged):
    with pytest.raises(SlideError, match=r"tile \(1, 1\)"):
        damaged[0].pyramid()[0][240:250, 240:250].compute()


@pytest.mark.parametrize(
    ("full", "level", "factors"),
    [
        ((3567, 4443), (1783, 2221), (2, 2)),
        ((10249, 11952), (2562, 2988), (4, 4)),
        ((2967, 2220), (1484, 1110), (2, 2)),
        ((2967, 2220), (185, 138), (16, 16)),
        ((100, 100), (100, 100), (1, 1)),
        ((1000, 2000), (300, 700), (1000 / 300, 2000 / 700)),
    ],
)
def test_downsamples_are_whole_where_the_shapes_allow(full, level, factors):
    assert level_downsample(full, level) == factors


def test_outside_is_background(plain):
    assert (plain[0].read(Box(-50, -50, -10, -10), 40) == BACKGROUND).all()
