"""Slides of channels, colours by profile, label images, thumbnails, and switching slides many times."""

import threading

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from PIL import ImageCms

from conftest import write_slide
from napari_slidecorr import io
from napari_slidecorr._napari import layers
from napari_slidecorr._napari.dock_slides import SlidesDock
from napari_slidecorr._napari.reader import get_reader
from napari_slidecorr._napari.slide_layers import contrast_limits, slide_layers
from napari_slidecorr._napari.slide_table import ID
from napari_slidecorr._napari.travel import Traveller
from napari_slidecorr.geometry import Box

RNG = np.random.default_rng(0)
CHANNELS = RNG.integers(100, 4000, (3, 300, 400), np.uint16)


@pytest.fixture
def stained(tmp_path):
    path = tmp_path / "stained.ome.tif"
    names = {"axes": "CYX", "Channel": {"Name": ["DAPI", "CD3", "CD8"]}, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(path, CHANNELS, tile=(128, 128), photometric="minisblack", metadata=names)
    return path


def test_channels_become_layers_with_contrast_and_colour(stained):
    viewer = ViewerModel()
    for levels, arguments, _ in get_reader(str(stained))(str(stained)):
        viewer.add_image(levels, **arguments)
    assert [layer.name for layer in viewer.layers] == ["stained DAPI", "stained CD3", "stained CD8"]
    assert [layer.colormap.name for layer in viewer.layers] == ["blue", "green", "red"]
    for layer, pixels in zip(viewer.layers, CHANNELS, strict=True):
        np.testing.assert_array_equal(np.asarray(layer.data[0])[:300, :400], pixels)
        low, high = layer.contrast_limits
        assert (100 <= low < 200, 3900 < high <= 4000) == (True, True)
        assert tuple(layer.scale) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.zeros((4, 4), np.uint16), (0, 1)),
        (np.full((4, 4), 7.5), (7.5, 8.5)),
        (np.full((4, 4), np.nan), (0, 1)),
        (np.eye(100), (0, 1)),
    ],
)
def test_contrast_limits_are_never_empty(pixels, expected):
    assert contrast_limits(pixels) == expected


def swapped_profile():
    """A profile whose red is sRGB's blue and the other way round."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return data.replace(b"rXYZ", b"????", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"????", b"bXYZ", 1)


def test_a_profile_changes_what_is_shown_and_not_what_is_read(coloured):
    path, pixels = coloured
    slide = io.open_slide(path)
    assert slide.icc_profile == swapped_profile()
    assert slide.properties["ICC profile"] == f"{len(swapped_profile()):,} bytes"
    ((levels, _),) = slide_layers(slide, srgb=True)
    shown = levels[0][:300, :400].astype(int)
    assert np.abs(shown - pixels[..., ::-1]).max() <= 3
    ((levels, _),) = slide_layers(slide)
    np.testing.assert_array_equal(levels[0][:300, :400], pixels)
    np.testing.assert_array_equal(slide.read(Box(0, 0, 300, 400), (300, 400)), pixels)


def test_a_slide_without_profile_is_shown_as_it_is(tmp_path):
    plain = io.open_slide(write_slide(tmp_path / "plain.tif"))
    assert plain.icc_profile is None
    ((levels, _),) = slide_layers(plain, srgb=True)
    np.testing.assert_array_equal(levels[0][:50, :50], plain.source.read_level(0, 0, 0, 50, 50))
    with pytest.raises(OSError, match="no ICC profile"):
        plain.view_levels(srgb=True)


def test_a_damaged_profile_is_told(tmp_path):
    path = tmp_path / "bad.tif"
    tag = (34675, 7, 40, b"x" * 40, True)
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), photometric="rgb", metadata=None, extratags=[tag])
    with pytest.raises(OSError, match=r"bad\.tif: its ICC profile \(40 bytes\)"):
        io.open_slide(path).view_levels(srgb=True)


@pytest.fixture
def coloured(tmp_path):
    """A slide whose profile takes red for blue."""
    profile = swapped_profile()
    path = tmp_path / "coloured.tif"
    pixels = RNG.integers(60, 200, (300, 400, 3), np.uint8)
    tag = (34675, 7, len(profile), profile, True)
    tifffile.imwrite(path, pixels, tile=(128, 128), photometric="rgb", metadata=None, extratags=[tag])
    return path, pixels


@pytest.fixture
def dock(make_napari_viewer, qtbot):
    dock = SlidesDock(make_napari_viewer())
    qtbot.addWidget(dock)
    yield dock
    for thread in threading.enumerate():
        if thread.name == "slidecorr-errand":
            thread.join(10)


def wait_shown(qtbot, dock, slide_id):
    qtbot.waitUntil(lambda: dock.session.current_slide == slide_id, timeout=60_000)


def test_channels_are_shown_in_the_dock_and_refused_by_a_model(dock, tmp_path, stained, qtbot):
    dock.create_project(tmp_path / "project")
    dock.add_slides([stained])
    wait_shown(qtbot, dock, "stained")
    kinds = [layers.identity(layer)["kind"] for layer in dock.viewer.layers]
    assert kinds == ["slide", "slide", "slide", "regions"]
    with pytest.raises(OSError, match="only brightfield RGB of 8 bits"):
        dock.session.project.slide("stained").thumbnail(32)


def test_other_colours_keep_zoom_tool_and_undo(dock, tmp_path, coloured, qtbot):
    path, pixels = coloured
    dock.create_project(tmp_path / "project")
    dock.add_slides([path])
    wait_shown(qtbot, dock, "coloured")
    editor, (image, regions) = dock.desk.editor, dock.viewer.layers
    dock.viewer.scene.camera.zoom = 3.0
    regions.mode = "add_polygon"

    def shown():
        return np.asarray(image.data[0])[:300, :400].astype(int)

    dock.srgb_box.click()
    qtbot.waitUntil(lambda: np.abs(shown() - pixels[..., ::-1]).max() <= 3, timeout=60_000)
    assert list(dock.viewer.layers) == [image, regions]
    assert dock.desk.editor is editor
    assert (dock.viewer.scene.camera.zoom, regions.mode) == (3.0, "add_polygon")
    dock.srgb_box.click()
    qtbot.waitUntil(lambda: np.array_equal(shown(), pixels), timeout=60_000)


def test_colours_are_those_of_the_box_whoever_shows_the_slide(dock, tmp_path, coloured, small_slides, qtbot):
    path, pixels = coloured
    dock.create_project(tmp_path / "project")
    dock.add_slides([small_slides[0], path])
    wait_shown(qtbot, dock, "one")
    dock.srgb_box.click()
    traveller = Traveller(dock.desk, dock)
    with qtbot.waitSignal(traveller.arrived, timeout=60_000):
        traveller.go("coloured", Box(0, 0, 64, 64))
    image = layers.find_layer(dock.viewer, "slide", "coloured")
    assert np.abs(image.data[0][:300, :400].astype(int) - pixels[..., ::-1]).max() <= 3


def test_thumbnails_and_switching_a_dozen_times(dock, tmp_path, small_slides, stained, qtbot):
    dock.create_project(tmp_path / "project")
    dock.add_slides([*small_slides, stained])
    wait_shown(qtbot, dock, "one")
    qtbot.waitUntil(lambda: not dock.table.item(1, ID).icon().isNull(), timeout=60_000)
    assert dock.table.item(2, ID).icon().isNull()
    for turn in range(12):
        step = 1 if turn % 4 < 2 else -1
        wanted = dock.table.ids[dock.table.ids.index(dock.session.current_slide) + step]
        (dock.next_button if step > 0 else dock.previous_button).click()
        wait_shown(qtbot, dock, wanted)
        assert {layers.identity(layer)["slide_id"] for layer in dock.viewer.layers} == {wanted}


def test_label_and_macro_images_are_read_on_request(dock, tmp_path, qtbot, monkeypatch):
    path = tmp_path / "a.svs"
    text = "Aperio Image Library v11\n200x150 (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = 0.5"
    label = RNG.integers(0, 255, (40, 30, 3), np.uint8)
    with tifffile.TiffWriter(path) as tif:
        tif.write(
            np.full((512, 512, 3), 200, np.uint8), photometric="rgb", tile=(64, 64), description=text, metadata=None
        )
        tif.write(label[::2, ::2], photometric="rgb", metadata=None)  # Aperio's second image is the thumbnail
        tif.write(label, photometric="rgb", description="Aperio\nlabel 30x40", subfiletype=1, metadata=None)
    dock.create_project(tmp_path / "project")
    dock.add_slides([path])
    wait_shown(qtbot, dock, "a")
    reads = []
    slide = dock.session.project.slide("a")
    real = slide.source.read_associated
    monkeypatch.setattr(slide.source, "read_associated", lambda name: reads.append(name) or real(name))
    assert reads == []
    dock.associated_button.click()
    found = lambda: [w for w in dock.children() if type(w).__name__ == "AssociatedWindow"]  # noqa: E731
    qtbot.waitUntil(lambda: bool(found()), timeout=60_000)
    assert list(found()[0].pictures) == reads == ["thumbnail", "label"]
    np.testing.assert_array_equal(slide.associated("label"), label)
    found()[0].close()
