"""Small slides written for the tests, with the pixels they must give back."""

from pathlib import Path

import numpy as np
import tifffile
import zarr
from PIL import Image

from napari_slidecorr.levels import BACKGROUND


def picture(height, width, seed=0):
    """Smooth blobs with some noise: what JPEG is made for, and no two tiles alike."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return np.clip(smooth + rng.integers(-4, 5, smooth.shape), 0, 255).astype(np.uint8)


def half(pixels):
    """The next level as many writers make it: sizes rounded down."""
    h, w = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
    return pixels[:h, :w].reshape(h // 2, 2, w // 2, 2, 3).mean((1, 3)).round().astype(np.uint8)


def write_pyramid(path: Path, pixels, *, levels=1, subifds=True, tile=(64, 64), byteorder="<", **options):
    """Write a TIFF, its levels as SubIFDs or pages, and give the arrays that tifffile reads back."""
    options = {"photometric": "rgb", "tile": tile, "metadata": None, **options}
    with tifffile.TiffWriter(path, byteorder=byteorder) as tif:
        tif.write(pixels, subifds=levels - 1 if subifds else 0, **options)
        for _ in range(levels - 1):
            pixels = half(pixels)
            tif.write(pixels, subfiletype=1, **options)
    with tifffile.TiffFile(path) as tif:
        return [level.asarray() for level in tif.series[0].levels]


def write_sparse(path: Path, pixels, left_out, tile=64):
    """Write a deflate TIFF without the tiles at ``left_out`` (row, column); give the pixels, background there."""
    rows, columns = (-(-n // tile) for n in pixels.shape[:2])
    padded = np.zeros((rows * tile, columns * tile, 3), np.uint8)
    padded[: pixels.shape[0], : pixels.shape[1]] = pixels
    expected = pixels.copy()

    def tiles():
        for row in range(rows):
            for column in range(columns):
                place = slice(row * tile, (row + 1) * tile), slice(column * tile, (column + 1) * tile)
                if (row, column) in left_out:
                    expected[place] = BACKGROUND
                    yield b""
                else:
                    yield _deflated(padded[place])

    tifffile.imwrite(
        path, tiles(), shape=pixels.shape, dtype=np.uint8, tile=(tile, tile), compression="deflate", photometric="rgb",
        metadata=None,
    )  # fmt: skip
    return expected


def _deflated(tile):
    import zlib

    return zlib.compress(tile.tobytes())


def write_zarr(path: Path, pixels, *, version="0.4", axes="cyx", unit="micrometer", scale=0.5, levels=1, chunks=64):
    """Write an OME-Zarr by hand, the attributes where its version wants them; give the levels, (y, x, c)."""
    group = zarr.open_group(str(path), mode="w", zarr_format=2 if version < "0.5" else 3)
    expected, datasets = [], []
    for index in range(levels):
        expected.append(pixels)
        name = f"level {index}/image"
        data = pixels.transpose(["yxc".index(axis) for axis in axes if axis in "yxc"])
        data = data.reshape([data.shape[[a for a in axes if a in "yxc"].index(a)] if a in "yxc" else 1 for a in axes])
        array = group.create_array(
            name, shape=data.shape, dtype=data.dtype, chunks=tuple(min(chunks, n) for n in data.shape)
        )
        array[...] = data
        factor = scale * 2**index
        transform = {"type": "scale", "scale": [factor if axis in "yx" else 1.0 for axis in axes]}
        datasets.append({"path": name, "coordinateTransformations": [transform]})
        pixels = half(pixels)
    told = [{"name": axis, **({"unit": unit} if unit and axis in "yx" else {})} for axis in axes]
    attributes = {"multiscales": [{"version": version, "axes": told, "datasets": datasets}]}
    group.attrs.update(attributes if version < "0.5" else {"ome": {"version": version, **attributes}})
    return expected


def cut(pixels, y, x, height, width):
    """The naive read: the whole array on background, then a slice."""
    out = np.full((height, width, 3), BACKGROUND, np.uint8)
    for row in range(max(y, 0), min(y + height, pixels.shape[0])):
        low, high = max(x, 0), min(x + width, pixels.shape[1])
        if low < high:
            out[row - y, low - x : high - x] = pixels[row, low:high]
    return out


def pixels_of(slide, place):
    """Read in another process; at the top of a module so that a spawned one finds it."""
    return slide.source.read_level(0, *place)
