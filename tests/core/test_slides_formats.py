"""What each format tells and what is refused, on files written here."""

import re
import struct
import sys

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from slide_files import picture, write_pyramid, write_sparse, write_zarr

from napari_slidecorr.errors import SlideError
from napari_slidecorr.io import SLIDE_SUFFIXES, is_slide, open_slide, stem

PIXELS = picture(150, 200)
RGB = {"photometric": "rgb", "tile": (64, 64)}


def opened(path, data, **options):
    tifffile.imwrite(path, data, **options)
    return open_slide(path)


def refusal(path):
    """The sentence that refuses a file; one line, naming it, ending like a sentence."""
    with pytest.raises(SlideError) as caught:
        open_slide(path).thumbnail(64)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    assert message.endswith(".")
    return message


# --- physical pixel size


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [
        ((20000, 40000), "CENTIMETER", (0.25, 0.5)),
        ((50800, 50800), "INCH", (0.5, 0.5)),
        ((72, 72), "INCH", None),
        ((96, 96), "INCH", None),
        ((300, 300), "INCH", None),
        ((28.34, 28.34), "CENTIMETER", None),
        ((1, 1), "NONE", None),
        ((20000, 20000), "NONE", None),
    ],
)
def test_resolution_tags_are_believed_when_a_microscope_could_have_them(tmp_path, resolution, unit, expected):
    slide = opened(tmp_path / "a.tif", PIXELS, resolution=resolution, resolutionunit=unit, **RGB)
    assert slide.mpp == (None if expected is None else pytest.approx(expected))
    assert bool(slide.mpp_source) == (expected is not None)
    assert ("resolution tag" in slide.properties) == (expected is None and unit != "NONE")


@pytest.mark.parametrize(
    ("size", "unit", "expected"),
    [((0.25, 0.5), "µm", 0.25), ((250, 500), "nm", 0.25), ((2.5e-4, 5e-4), "mm", 0.25), ((1, 2), "pixel", None)],
)
def test_ome_tiff_tells_its_size_with_unit(tmp_path, size, unit, expected):
    told = {"axes": "YXS", "PhysicalSizeY": size[0], "PhysicalSizeX": size[1]}
    told |= {"PhysicalSizeYUnit": unit, "PhysicalSizeXUnit": unit}
    slide = opened(tmp_path / "a.ome.tif", PIXELS, metadata=told, **RGB)
    assert slide.properties["format"] == "OME-TIFF"
    assert slide.mpp == (None if expected is None else pytest.approx((expected, 2 * expected)))
    assert slide.mpp_source == ("" if expected is None else "PhysicalSize in the OME-XML")


def test_ome_tiff_beats_a_printing_resolution_and_may_be_coarse(tmp_path):
    told = {"axes": "YXS", "PhysicalSizeY": 40, "PhysicalSizeX": 40}
    slide = opened(
        tmp_path / "a.ome.tif", PIXELS, metadata=told, resolution=(72, 72), resolutionunit="INCH", **RGB
    )  # fmt: skip
    assert slide.mpp == (40, 40)


@pytest.mark.parametrize(
    ("field", "expected"), [("MPP = 0.2521", 0.2521), ("MPP = 0,5", 0.5), ("MPP = 0", None), ("MPP = unknown", None)]
)
def test_aperio_descriptions_tell_size_and_objective(tmp_path, field, expected):
    text = f"Aperio Image Library v11\n200x150 (64x64) JPEG/RGB Q=70|AppMag = 40|{field}"
    slide = opened(tmp_path / "a.svs", PIXELS, description=text, metadata=None, compression="jpeg", **RGB)
    assert slide.mpp == (None if expected is None else (expected, expected))
    assert {key: slide.properties[key] for key in ("format", "vendor", "objective", "compression")} == {
        "format": "SVS",
        "vendor": "Aperio",
        "objective": "40x",
        "compression": "JPEG",
    }


def test_the_user_overrules_the_file(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, resolution=(50800, 50800), resolutionunit="INCH", **RGB)
    slide = open_slide(tmp_path / "a.tif", mpp=0.25, id="patient 1")
    assert (slide.id, slide.mpp, slide.mpp_source) == ("patient 1", (0.25, 0.25), "user")
    with pytest.raises(SlideError, match=r"mpp is -1"):
        open_slide(tmp_path / "a.tif", mpp=-1)


# --- refused TIFFs


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        (PIXELS.astype(np.uint16), {"photometric": "rgb"}, "uint16"),
        (PIXELS[..., 0], {"photometric": "minisblack"}, "brightfield RGB"),
        (np.stack([PIXELS[..., 0]] * 3), {"photometric": "minisblack"}, "brightfield RGB"),
        (np.dstack([PIXELS, PIXELS[..., :1]]), {"photometric": "rgb", "extrasamples": ["unassalpha"]}, "brightfield"),
        (np.stack([PIXELS] * 2), {"photometric": "rgb"}, "brightfield RGB"),
        (PIXELS, {"photometric": "ycbcr", "compression": "deflate"}, "YCBCR"),
        (PIXELS, {"photometric": "cielab"}, "CIELAB"),
        (PIXELS, {"photometric": "rgb", "extratags": [(274, 3, 1, 3, True)]}, "orientation tag is 3"),
        (PIXELS, {"photometric": "rgb", "extratags": [(274, 3, 1, 6, True)]}, "orientation tag is 6"),
    ],
    ids=["16 bits", "grey", "channels", "alpha", "stack", "ycbcr", "lab", "turned by 180", "turned by 90"],
)
def test_other_pixels_are_refused(tmp_path, data, options, words):
    tifffile.imwrite(tmp_path / "a.tif", data, metadata=None, **options)
    assert words in refusal(tmp_path / "a.tif")


def test_one_piece_giants_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, iter([b"\0" * 16]), shape=(12000, 10000, 3), dtype=np.uint8, photometric="rgb", rowsperstrip=12000,
        compression="deflate", metadata=None,
    )  # fmt: skip
    assert "pieces of 12000 x 10000" in refusal(path)


def test_an_unknown_compression_is_refused_when_opened(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS, metadata=None, **RGB)
    patch_tag(path, 259, 52479)
    with pytest.raises(SlideError, match="compression 52479"):
        open_slide(path)


def patch_tag(path, code, value):
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages[0].tags[code].overwrite(value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"\xff\xd8\xff\xe0 not a tiff", "not a TIFF"),
        (b"II*\0", "TIFF"),
        (b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 0) + struct.pack("<I", 0), "the image is empty"),
    ],
    ids=["empty", "lfs", "jpeg", "header only", "no tags"],
)
def test_files_that_are_no_slides(tmp_path, content, words):
    path = tmp_path / "a.svs"
    path.write_bytes(content)
    assert words in refusal(path)


def test_missing_files_folders_and_unknown_kinds(tmp_path):
    assert "no such file" in refusal(tmp_path / "gone.tif")
    assert "no such folder" in refusal(tmp_path / "gone.zarr")
    (tmp_path / "folder.tif").mkdir()
    assert "a folder" in refusal(tmp_path / "folder.tif")
    (tmp_path / "series").mkdir()
    assert "no .dcm files" in refusal(tmp_path / "series")
    (tmp_path / "notes.txt").write_text("hello")
    assert ".svs" in refusal(tmp_path / "notes.txt")


@pytest.fixture(scope="module")
def small_pyramid(tmp_path_factory):
    path = tmp_path_factory.mktemp("slides") / "small.tif"
    write_pyramid(path, PIXELS, levels=2, compression="jpeg", description="text")
    return path.read_bytes()


fuzz = settings(max_examples=150, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzz
@given(length=st.integers(0, 1 << 16))
def test_a_cut_file_is_refused_wherever_it_was_cut(small_pyramid, tmp_path, length):
    length %= len(small_pyramid)
    path = tmp_path / "cut.tif"
    path.write_bytes(small_pyramid[:length])
    refusal(path)


@fuzz
@given(flips=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=4))
@example(flips=[(12, 11)])  # a width of 0
def test_a_damaged_directory_opens_or_is_refused_in_a_sentence(small_pyramid, tmp_path, flips):
    data = bytearray(small_pyramid)
    for place, value in flips:
        data[place] = value
    path = tmp_path / "damaged.tif"
    path.write_bytes(bytes(data))
    try:
        slide = open_slide(path)
        slide.source.read_level(0, 0, 0, 150, 200)
    except SlideError as error:
        refused = error
    else:
        return
    assert "damaged.tif" in str(refused)


def test_sparse_slides_are_white_where_nothing_was_scanned(tmp_path):
    write_sparse(tmp_path / "a.tif", PIXELS, {(r, c) for r in range(3) for c in range(4)})
    assert (open_slide(tmp_path / "a.tif").thumbnail(50) == 255).all()


def test_tifffile_is_quiet_here_and_only_here(tmp_path, caplog):
    path = tmp_path / "a.tif"
    path.write_bytes(b"II*\0" + struct.pack("<I", 1 << 30))
    with pytest.raises(SlideError):
        open_slide(path)
    assert [record for record in caplog.records if record.name == "tifffile"] == []
    with tifffile.TiffFile(path) as tif:
        assert len(tif.pages) <= 1
        tifffile.logger().warning("still heard")
    assert "still heard" in caplog.messages


def test_names(tmp_path):
    assert {".svs", ".tif", ".ndpi", ".zarr", ".dcm", ".mrxs"} <= set(SLIDE_SUFFIXES)
    assert is_slide(tmp_path / "a.SVS")
    assert not is_slide("a.geojson")
    assert [stem(tmp_path / name) for name in ("a.b.ome.tif", "c.ome.zarr", "D.SVS")] == ["a.b", "c", "D"]


# --- OME-Zarr


@pytest.mark.parametrize("version", ["0.4", "0.5", "0.4-dev-spatialdata", "0.5-dev-spatialdata"])
@pytest.mark.parametrize("axes", ["cyx", "yxc", "tczyx", "zyxc"])
def test_ome_zarr_of_any_version_and_order(tmp_path, version, axes):
    path = tmp_path / "with space.ome.zarr"
    arrays = write_zarr(path, PIXELS, version=version, axes=axes, levels=2)
    slide = open_slide(path)
    assert [level.shape for level in slide.levels] == [(150, 200), (75, 100)]
    assert (slide.mpp, slide.mpp_source) == ((0.5, 0.5), "scale and unit of the OME-Zarr")
    for level, expected in enumerate(arrays):
        np.testing.assert_array_equal(slide.source.read_level(level, 0, 0, *expected.shape[:2]), expected)


@pytest.mark.parametrize(
    ("unit", "mpp"), [("micrometer", 0.5), ("nanometer", 0.0005), ("millimeter", 500), ("furlong", None), (None, None)]
)
def test_ome_zarr_sizes_need_a_unit(tmp_path, unit, mpp):
    write_zarr(tmp_path / "a.zarr", PIXELS, unit=unit)
    slide = open_slide(tmp_path / "a.zarr")
    assert slide.mpp == (None if mpp is None else pytest.approx((mpp, mpp)))
    assert ("without a unit" in slide.properties.get("scale", "")) == (unit is None)


def test_the_scale_of_all_levels_counts_too(tmp_path):
    write_zarr(tmp_path / "a.zarr", PIXELS)
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="r+")
    (multiscale,) = group.attrs["multiscales"]
    multiscale["coordinateTransformations"] = [{"type": "scale", "scale": [1, 2, 3]}]
    group.attrs["multiscales"] = [multiscale]
    assert open_slide(tmp_path / "a.zarr").mpp == (1.0, 1.5)


def test_the_first_image_of_a_bioformats_folder(tmp_path):
    write_zarr(tmp_path / "a.zarr" / "0", PIXELS)
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="a", zarr_format=2)
    group.attrs["bioformats2raw.layout"] = 3
    assert open_slide(tmp_path / "a.zarr").shape == (150, 200)


@pytest.mark.parametrize(
    ("pixels", "words"),
    [(PIXELS.astype(np.uint16), "uint16"), (PIXELS[..., :2], "2x150x200"), (PIXELS / 255, "float64")],
    ids=["16 bits", "two channels", "float"],
)
def test_other_zarr_pixels_are_refused(tmp_path, pixels, words):
    path = tmp_path / "a.zarr"
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    group.create_array("0", data=np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    axes = [{"name": axis} for axis in "cyx"]
    group.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0"}]}]
    assert words in refusal(path)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({}, "no multiscales"),
        ({"multiscales": []}, "no multiscales"),
        ({"multiscales": "x"}, "no multiscales"),
        ({"multiscales": [{"axes": ["y", "x"], "datasets": []}]}, "lists no levels"),
        ({"multiscales": [{"axes": ["row", "x"], "datasets": []}]}, "axes are row, x"),
        ({"multiscales": [{"axes": ["c", "y", "x"], "datasets": [{"path": "gone"}]}]}, "gone"),
        ({"multiscales": [{"axes": ["c", "y", "x"], "datasets": [7]}]}, "7"),
    ],
)
@pytest.mark.parametrize("version", [2, 3])
def test_other_zarr_groups_are_refused(tmp_path, attributes, words, version):
    zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=version).attrs.update(attributes)
    assert words in refusal(tmp_path / "a.zarr")


def test_zarr_folders_that_are_none(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    assert "no OME-Zarr" in refusal(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "zarr.json").write_text("{ not json")
    assert "description cannot be read" in refusal(tmp_path / "a.zarr")
    zarr.create_array(str(tmp_path / "array.zarr"), shape=(3, 4), dtype="u1")
    assert "array.zarr" in refusal(tmp_path / "array.zarr")


def test_a_damaged_chunk_is_named(tmp_path):
    path = tmp_path / "a.zarr"
    write_zarr(path, picture(300, 300), chunks=256)
    chunk = next((path / "level 0" / "image").rglob("0.1.1"))
    chunk.write_bytes(b"\x07" * 20)
    with pytest.raises(SlideError, match=r"a\.zarr: level 0, tile \(1, 1\) is damaged"):
        open_slide(path).source.read_level(0, 0, 0, 300, 300)


# --- openslide


def test_without_openslide_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openslide", None)
    (tmp_path / "a.mrxs").write_bytes(b"x")
    with pytest.raises(SlideError, match=re.escape('pip install "napari-slidecorr[openslide]"')):
        open_slide(tmp_path / "a.mrxs")


def test_what_openslide_cannot_read_is_refused(tmp_path):
    pytest.importorskip("openslide")
    (tmp_path / "a.dcm").write_bytes(b"x" * 200)
    assert "openslide cannot read" in refusal(tmp_path / "a.dcm")


def test_transparent_pixels_become_background():
    from PIL import Image

    from napari_slidecorr.io.slide_openslide import _on_background

    picture = Image.fromarray(np.array([[[10, 20, 30, 255], [0, 0, 0, 0], [0, 0, 0, 51]]], np.uint8), "RGBA")
    np.testing.assert_array_equal(_on_background(picture), [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]])


def test_bounds_of_the_scan_are_respected():
    from napari_slidecorr.io.slide_openslide import _bounds

    told = {
        f"openslide.bounds-{name}": str(n)
        for name, n in zip(("x", "y", "width", "height"), (5, 7, 30, 40), strict=True)
    }
    assert _bounds(told, (100, 200)) == ((7, 5), (40, 30))
    assert _bounds({}, (100, 200)) == ((0, 0), (200, 100))
