"""Vendors' dialects. No real SCN, Philips, BIF or brightfield QPTIFF is small enough to be had: these files are made here
with the descriptions and tags by which tifffile and openslide know them, and prove no more than that these are understood.
"""

import base64
import io
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image
from slide_files import half, picture

from napari_slidecorr.errors import SlideError
from napari_slidecorr.geometry import Box
from napari_slidecorr.io import is_slide, open_slide, stem

PIXELS = picture(300, 400)
TILED = {"photometric": "rgb", "tile": (64, 64), "compression": "deflate", "metadata": None}


def write_pages(path, arrays, **options):
    """Pages one after the other; each entry is pixels and further options."""
    with tifffile.TiffWriter(path, **options) as tif:
        for pixels, more in arrays:
            tif.write(pixels, **{**TILED, **more})


def write_scn(path):
    dims = "".join(
        f'<dimension sizeX="{w}" sizeY="{h}" r="{r}" ifd="{ifd}"/>'
        for r, ifd, h, w in [(0, 1, 300, 400), (1, 2, 150, 200)]
    )
    text = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        '<collection name="c" sizeX="2000000" sizeY="1500000">'
        '<image name="overview"><pixels sizeX="80" sizeY="60"><dimension sizeX="80" sizeY="60" r="0" ifd="0"/></pixels>'
        '<view sizeX="2000000" sizeY="1500000" offsetX="0" offsetY="0"/></image>'
        f'<image name="region"><pixels sizeX="400" sizeY="300">{dims}</pixels>'
        '<view sizeX="100000" sizeY="75000" offsetX="5" offsetY="7"/>'
        "<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings></scanSettings></image>"
        "</collection></scn>"
    )
    size = {"resolution": (4e4, 4e4), "resolutionunit": "CENTIMETER"}
    write_pages(
        path,
        [(PIXELS[:60, :80], {"description": text}), (PIXELS, size), (half(PIXELS), {"subfiletype": 1})],
        bigtiff=True,
    )


def test_leica_scn(tmp_path):
    write_scn(tmp_path / "a.scn")
    slide = open_slide(tmp_path / "a.scn")
    assert [level.shape for level in slide.levels] == [(300, 400), (150, 200)]
    assert slide.mpp == (0.25, 0.25)
    assert (slide.properties["format"], slide.properties["objective"]) == ("SCN", "20x")
    np.testing.assert_array_equal(slide.read(Box(0, 0, 300, 400), (300, 400)), PIXELS)
    assert slide.associated_names in (("overview",), ("macro",), ("overview", "macro"))
    np.testing.assert_array_equal(slide.associated(slide.associated_names[0]), PIXELS[:60, :80])


def write_philips(path, *, label=None):
    spacings = [("0.00025", "0.0005"), ("0.0005", "0.001"), ("0.001", "0.002")]
    levels = "".join(
        '<DataObject ObjectType="PixelDataRepresentation"><Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028">'
        f"&quot;{y}&quot; &quot;{x}&quot;</Attribute></DataObject>"
        for y, x in spacings
    )
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[:40, :30]).save(buffer, "PNG")
    hidden = (
        '<DataObject ObjectType="DPScannedImage"><Attribute Name="PIM_DP_IMAGE_TYPE">LABELIMAGE</Attribute>'
        f'<Attribute Name="PIM_DP_IMAGE_DATA">{base64.b64encode(buffer.getvalue()).decode()}</Attribute></DataObject>'
    )
    text = (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport"><Attribute Name="X"><Array>'
        f"{hidden if label else ''}"
        '<DataObject ObjectType="DPScannedImage"><Attribute Name="PIM_DP_IMAGE_TYPE">WSI</Attribute>'
        f'<Attribute Name="P"><Array>{levels}</Array></Attribute></DataObject></Array></Attribute></DataObject>'
    )
    full = np.full((320, 448, 3), 255, np.uint8)  # Philips pads each level to whole tiles
    full[:300, :400] = PIXELS
    second, third = np.full((192, 256, 3), 255, np.uint8), np.full((128, 128, 3), 255, np.uint8)
    second[:160, :224], third[:80, :112] = half(full), half(half(full))
    write_pages(path, [(full, {"description": text, "software": "Philips DP v1.0"}), (second, {}), (third, {})])
    return full


def test_philips_levels_stand_as_the_xml_says(tmp_path):
    full = write_philips(tmp_path / "a.tiff", label=True)
    slide = open_slide(tmp_path / "a.tiff")
    assert slide.mpp == pytest.approx((0.25, 0.5))
    assert slide.mpp_source == "DICOM_PIXEL_SPACING in the Philips XML"
    assert [level.shape for level in slide.levels] == [(320, 448), (160, 224), (80, 112)]
    assert [level.downsample for level in slide.levels] == [(1, 1), (2, 2), (4, 4)]
    np.testing.assert_array_equal(slide.source.read_level(0, 0, 0, 320, 448), full)
    np.testing.assert_array_equal(slide.source.read_level(2, 0, 0, 80, 112), half(half(full)))
    np.testing.assert_array_equal(slide.associated("label"), PIXELS[:40, :30])


def test_qptiff_in_brightfield(tmp_path):
    path = tmp_path / "a.qptiff"
    text = (
        '<?xml version="1.0" encoding="utf-16"?><PerkinElmer-QPI-ImageDescription><ObjectiveName>20x</ObjectiveName>'
        "</PerkinElmer-QPI-ImageDescription>"
    )
    size = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    write_pages(
        path,
        [
            (PIXELS, {"description": text, "software": "PerkinElmer-QPI", **size}),
            (PIXELS[:60, :80], {"tile": None}),
            (half(PIXELS), {"subfiletype": 1}),
            (PIXELS[:50, :50], {"tile": None}),
            (PIXELS[:30, :40], {"tile": None}),
        ],
    )
    slide = open_slide(path)
    assert [level.shape for level in slide.levels] == [(300, 400), (150, 200)]
    assert (slide.mpp, slide.properties["objective"]) == ((0.5, 0.5), "20x")
    assert slide.associated_names == ("thumbnail", "macro", "label")
    np.testing.assert_array_equal(slide.read(Box(0, 0, 300, 400), (300, 400)), PIXELS)
    np.testing.assert_array_equal(slide.associated("label"), PIXELS[:30, :40])


def test_ventana_goes_to_openslide_whatever_its_suffix(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    write_pages(path, [(PIXELS, {"software": "ScanOutputManager 1.1", "extratags": [(700, 7, 7, b"<iScan>", True)]})])
    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(SlideError, match=r"a\.tif: .*napari-slidecorr\[openslide\]"):
        open_slide(path)


# --- pictures


@pytest.mark.parametrize(("suffix", "options"), [(".png", {}), (".jpg", {"quality": 95}), (".JPEG", {"quality": 80})])
def test_pictures_are_small_slides_without_a_pixel_size(tmp_path, suffix, options):
    path = tmp_path / f"a{suffix}"
    pixels = picture(700, 1300)
    Image.fromarray(pixels).save(path, dpi=(25400, 25400), **options)
    slide = open_slide(path)
    expected = np.asarray(Image.open(path).convert("RGB"))
    assert (slide.id, slide.mpp, slide.shape) == ("a", None, (700, 1300))
    assert [level.shape for level in slide.levels] == [(700, 1300), (350, 650)]
    np.testing.assert_array_equal(slide.read(Box(100, 200, 700, 1300), (600, 1100)), expected[100:, 200:])
    assert open_slide(path, mpp=0.5).mpp == (0.5, 0.5)
    assert not is_slide(path), "any photograph would be taken from napari's own reader"


def test_transparency_lies_on_background(tmp_path):
    pixels = np.dstack([PIXELS, np.zeros(PIXELS.shape[:2], np.uint8)])
    pixels[:100, :, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    read = open_slide(tmp_path / "a.png").source.read_level(0, 0, 0, 300, 400)
    np.testing.assert_array_equal(read[:100], PIXELS[:100])
    assert (read[100:] == 255).all()


def turned(path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(PIXELS).save(path, exif=exif)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda p: Image.fromarray(PIXELS[..., 0]).save(p), "kind L; only brightfield"),
        (lambda p: Image.fromarray(PIXELS[..., 0].astype(np.uint16)).save(p), "kind I;16"),
        (turned, "orientation tag is 6"),
        (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n and nothing else"), "cannot be read as a PNG"),
        (lambda p: p.write_bytes(b""), "empty"),
        (lambda p: Image.new("RGB", (9000, 9000)).save(p), "more than 80,000,000"),
    ],
    ids=["grey", "16 bits", "turned", "no picture", "empty", "giant"],
)
def test_other_pictures_are_refused(tmp_path, write, words):
    write(tmp_path / "a.png")
    with pytest.raises(SlideError, match=words) as caught:
        open_slide(tmp_path / "a.png")
    assert "a.png" in str(caught.value)


def test_a_picture_that_was_cut_is_told_when_read(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(SlideError, match=r"a\.png: the picture is damaged"):
        open_slide(path).thumbnail(50)


# --- channels, for viewing only


def test_channels_of_an_ome_tiff(tmp_path):
    path = tmp_path / "a.ome.tif"
    planes = np.random.default_rng(0).integers(0, 60_000, (2, 300, 1400), np.uint16)
    with tifffile.TiffWriter(path, byteorder=">") as tif:
        both = {"photometric": "minisblack", "tile": (64, 64), "compression": "deflate"}
        tif.write(planes, subifds=1, metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "CD3"]}}, **both)
        tif.write(planes[:, ::2, ::2], subfiletype=1, **both)
    slide = open_slide(path)
    assert slide.channels == ("DAPI", "CD3")
    assert [level.shape for level in slide.levels] == [(300, 1400), (150, 700)]
    for channel in (0, 1):
        fine, coarse = slide.channel_levels(channel)
        assert (fine.dtype, fine.ndim) == (np.dtype(np.uint16), 2)
        np.testing.assert_array_equal(fine[10:200, 50:1400], planes[channel, 10:200, 50:1400])
        np.testing.assert_array_equal(np.asarray(coarse), planes[channel, ::2, ::2])
    reads = (lambda: slide.read(Box(0, 0, 64, 64), 64), lambda: slide.thumbnail(32), slide.check_brightfield)
    for read in reads:
        with pytest.raises(SlideError, match="only brightfield RGB of 8 bits"):
            read()


def test_samples_of_sixteen_bits_and_made_levels(tmp_path):
    path = tmp_path / "a.tif"
    pixels = np.random.default_rng(0).integers(0, 60_000, (300, 1400, 3), np.uint16)
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(128, 128), metadata=None)
    slide = open_slide(path)
    assert slide.channels == ("red", "green", "blue")
    fine, coarse = slide.channel_levels(2)
    np.testing.assert_array_equal(fine[:300, :1400], pixels[..., 2])
    means = pixels[..., 2].reshape(150, 2, 700, 2).mean((1, 3))
    assert np.abs(np.asarray(coarse)[:150, :700] - means).max() <= 0.5


# --- DICOM folders


def test_a_folder_of_one_dicom_slide_opens(shared_data):
    pytest.importorskip("openslide")
    folder = shared_data / "derived" / "cmu1-wsidicomizer"
    slide = open_slide(folder)
    assert is_slide(folder)
    assert (stem(slide.path), slide.shape, slide.mpp) == ("level-0", (2967, 2220), (0.499, 0.499))


def test_a_folder_of_two_dicom_slides_asks_which(shared_data, tmp_path):
    pytest.importorskip("openslide")
    for name in ("highdicom-sm_image.dcm", "openslide-boxes_0.dcm"):
        (tmp_path / name).write_bytes((shared_data / "slides" / name).read_bytes())
    with pytest.raises(SlideError, match="holds 2 DICOM slides; choose one file"):
        open_slide(tmp_path)
    (tmp_path / "highdicom-sm_image.dcm").unlink()
    assert open_slide(tmp_path).shape == (16, 16)


def test_anisotropic_pixels_stay_so(shared_data):
    pytest.importorskip("openslide")
    assert open_slide(shared_data / "slides" / "dicom-camelyon-jpeg2000.dcm").mpp == (28.968, 28.969)
