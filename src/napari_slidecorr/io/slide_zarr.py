"""OME-Zarr slides, versions 0.1 to 0.5, in any order of axes: brightfield RGB of 8 bits, others for viewing only.

zarr reads the chunks; what it gives is kept as tiles, since a slice costs it more than a decoded JPEG tile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.errors import DamagedTileError, SlideError
from napari_slidecorr.geometry import YX
from napari_slidecorr.io.raw_file import FileState
from napari_slidecorr.io.tiles import (
    CACHE_BYTES,
    MAX_SEGMENT_PIXELS,
    NOT_RGB,
    NotRgbError,
    Tile,
    TileReader,
    channel_readers,
)
from napari_slidecorr.levels import Level, level_downsample

_MIN_TILE_PX = 256
_UM = {
    "angstrom": 1e-4,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "micron": 1.0,
    "um": 1.0,
    "µm": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "meter": 1e6,
}
_METADATA = ("zarr.json", ".zattrs", ".zgroup")


@dataclass(frozen=True)
class _Plane:
    """One level: its array and where y, x and c stand among the axes."""

    array: Any
    axes: str

    @property
    def shape(self) -> YX:
        return self._along("y", self.array.shape), self._along("x", self.array.shape)

    @property
    def tile(self) -> YX:
        """The stored chunk, or as many as make up a tile worth asking zarr for."""
        y, x = (_whole_chunks(self._along(a, self.array.chunks), self._along(a, self.array.shape)) for a in "yx")
        return y, x

    def _along(self, axis: str, values: Sequence[int]) -> int:
        return int(values[self.axes.index(axis)])

    @property
    def channels(self) -> int:
        return self._along("c", self.array.shape) if "c" in self.axes else 1

    def read(self, row: int, column: int, channels: slice = slice(None)) -> Tile:
        (th, tw), places = self.tile, {}
        places["y"], places["x"] = slice(row * th, (row + 1) * th), slice(column * tw, (column + 1) * tw)
        places["c"] = channels
        pixels = np.asarray(self.array[tuple(places.get(axis, 0) for axis in self.axes)])
        pixels = pixels if "c" in self.axes else pixels[..., None]
        order = [axis for axis in self.axes if axis in "yxc"] + ([] if "c" in self.axes else ["c"])
        pixels = pixels.transpose([order.index(axis) for axis in "yxc"])
        return np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("="))


class ZarrSource:
    """An OME-Zarr slide as `PixelSource`; pickles as path and the state of its metadata file.

    Parameters
    ----------
    path : Path
        The folder with the multiscales attribute.
    state : FileState, optional
        What its metadata file must be; what it is now when left out.
    """

    def __init__(self, path: Path, state: FileState | None = None) -> None:
        self._open(path, state)
        for plane in self._planes:
            _check_rgb(path, plane)
        self.tiles = TileReader(self.levels, self._load, CACHE_BYTES)

    def _open(self, path: Path, state: FileState | None) -> None:
        self.path = path
        metadata = _metadata_file(path)
        self._state = state or FileState.of(metadata)
        self._state.check(metadata)
        group, multiscale = _image(path)
        axes, units = _axes(path, multiscale)
        self._planes = _planes(path, group, multiscale, axes)
        self.mpp, self.mpp_source = _pixel_size(multiscale, axes, units)
        self.properties = _properties(multiscale, self._planes[0], axes, units)
        full = self._planes[0].shape
        self.levels = tuple(Level(p.shape, level_downsample(full, p.shape), p.tile) for p in self._planes)

    def __reduce__(self) -> tuple[Any, ...]:
        return ZarrSource, (self.path, self._state)

    def read_level(self, level: int, y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
        """See `PixelSource.read_level`."""
        return self.tiles.read(level, y, x, height, width)

    def close(self) -> None:
        """Let go of the decoded tiles."""
        self.tiles.cache.clear()

    def _load(self, level: int, row: int, column: int, channels: slice = slice(None)) -> Tile:
        try:
            return self._planes[level].read(row, column, channels)
        except Exception as error:  # stores and codecs raise types of their own
            self._state.check(_metadata_file(self.path))
            raise DamagedTileError(
                f"{self.path.name}: level {level}, tile ({row}, {column}) is damaged: {str(error).rstrip('.')}; "
                "copy the folder again or leave this place out."
            ) from error


class ZarrChannels(ZarrSource):
    """An OME-Zarr slide of fluorescence channels, grey or 16 bits, as `ChannelSource`: for viewing only."""

    def __init__(self, path: Path, state: FileState | None = None) -> None:
        self._open(path, state)
        first = self._planes[0]
        self._refusal = _not_rgb(path, first)
        self.dtype = first.array.dtype.newbyteorder("=")
        self.channels = _channel_names(path, first.channels)
        self._readers = channel_readers(self.levels, self._load_channel, first.channels, self.dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return ZarrChannels, (self.path, self._state)

    def read_level(self, level: int, y: int, x: int, height: int, width: int) -> NoReturn:  # noqa: ARG002 - protocol
        """Refuse: no model may see these pixels, and the first three channels are no RGB."""
        raise SlideError(self._refusal)

    def read_channel(self, channel: int, level: int, y: int, x: int, height: int, width: int) -> NDArray[Any]:
        """See `ChannelSource.read_channel`."""
        return self._readers[channel].read(level, y, x, height, width)[..., 0]

    def close(self) -> None:
        """Let go of the decoded tiles."""
        for reader in self._readers:
            reader.cache.clear()

    def _load_channel(self, channel: int, level: int, row: int, column: int) -> Tile:
        return self._load(level, row, column, slice(channel, channel + 1))


def open_source(path: Path) -> ZarrSource:
    """Open an OME-Zarr folder; other pixels than brightfield RGB of 8 bits for viewing only.

    Raises
    ------
    SlideError
        If it is no OME-Zarr image, or cannot even be viewed.
    """
    try:
        return ZarrSource(path)
    except NotRgbError:
        return ZarrChannels(path)


def _channel_names(path: Path, count: int) -> tuple[str, ...]:
    """Give the labels in the ``omero`` attributes, else numbers."""
    group, _ = _image(path)
    told = _ome(group).get("omero")
    listed = told.get("channels", []) if isinstance(told, dict) else []
    names = [str(one.get("label", "")) for one in listed if isinstance(one, dict)]
    names = names if len(names) == count else [""] * count
    return tuple(name or f"channel {number}" for number, name in enumerate(names, 1))


def _metadata_file(path: Path) -> Path:
    if not path.exists():
        raise SlideError(f"{path}: no such folder; it was moved or its drive is not connected.")
    found = next((path / name for name in _METADATA if (path / name).is_file()), None)
    if found is None:
        raise SlideError(
            f"{path.name}: this is no OME-Zarr (no zarr.json or .zgroup in it); choose the folder that ends in .zarr."
        )
    return found


def _image(path: Path) -> tuple[Any, Mapping[str, Any]]:
    """Give the zarr group and its first multiscale; the first image of a bioformats2raw folder."""
    import zarr

    try:
        group = zarr.open_group(str(path), mode="r")
        if _ome(group).get("bioformats2raw.layout") and "multiscales" not in _ome(group):
            group = zarr.open_group(str(path / "0"), mode="r")
        multiscales = _ome(group).get("multiscales")
    except Exception as error:  # broken metadata raises whatever it runs into
        raise SlideError(f"{path.name}: its description cannot be read ({error}); copy the folder again.") from error
    if not (isinstance(multiscales, list) and multiscales and isinstance(multiscales[0], dict)):
        raise SlideError(
            f"{path.name}: this Zarr holds no image (no multiscales in its description); choose the image's own folder."
        )
    return group, multiscales[0]


def _ome(group: Any) -> dict[str, Any]:
    """OME attributes: under ``ome`` since 0.5, at the root before."""
    attributes = dict(group.attrs)
    inner = attributes.get("ome")
    return inner if isinstance(inner, dict) else attributes


def _axes(path: Path, multiscale: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Give the names of the axes as one string, and the units that are told; 0.1 and 0.2 have five axes unnamed."""
    listed = multiscale.get("axes", list("tczyx"))
    entries = [axis if isinstance(axis, dict) else {"name": axis} for axis in listed]
    names = [str(entry.get("name", "?")) for entry in entries]
    if any(len(name) != 1 for name in names) or not {"y", "x"} <= set(names):
        raise SlideError(
            f"{path.name}: its axes are {', '.join(names)}; a slide has y, x and c; export it as one plane."
        )
    return "".join(names), {str(e["name"]): str(e["unit"]) for e in entries if e.get("unit")}


def _planes(path: Path, group: Any, multiscale: Mapping[str, Any], axes: str) -> list[_Plane]:
    planes: list[_Plane] = []
    for dataset in multiscale.get("datasets", []):
        plane = _Plane(_array(path, group, dataset), axes)
        _check_plane(path, plane)
        if not planes or plane.shape < planes[-1].shape:
            planes.append(plane)
    if not planes:
        raise SlideError(f"{path.name}: its description lists no levels; export it again.")
    return planes


def _array(path: Path, group: Any, dataset: Any) -> Any:
    try:
        array = group[dataset["path"]]
        array.chunks  # noqa: B018 - a group has none
    except Exception as error:  # a missing array, a group in its place, metadata that is none
        raise SlideError(
            f"{path.name}: the level {dataset!r} cannot be opened ({error}); copy the folder again."
        ) from error
    return array


def _not_rgb(path: Path, plane: _Plane) -> str:
    array = plane.array
    return f"{path.name}: the image is {'x'.join(map(str, array.shape))} ({plane.axes}) of {array.dtype}; {NOT_RGB}"


def _check_plane(path: Path, plane: _Plane) -> None:
    """Refuse what cannot even be viewed: stacks, times, what is no number, and giant chunks."""
    array, axes = plane.array, plane.axes
    others = [n for axis, n in zip(axes, array.shape, strict=False) if axis not in "yxc"]
    if array.ndim != len(axes) or array.dtype.kind not in "uif" or any(n != 1 for n in others):
        raise SlideError(_not_rgb(path, plane))
    if 0 in array.shape:
        raise SlideError(f"{path.name}: the image is empty (shape {array.shape}); export it again.")
    if plane.tile[0] * plane.tile[1] > MAX_SEGMENT_PIXELS:
        raise SlideError(
            f"{path.name}: its chunks are {plane.tile[0]} x {plane.tile[1]}, and every read would decode a whole one; "
            "write it with smaller chunks first."
        )


def _check_rgb(path: Path, plane: _Plane) -> None:
    if plane.array.dtype != np.uint8 or plane.channels != 3:
        raise NotRgbError(_not_rgb(path, plane))


def _whole_chunks(chunk: int, length: int) -> int:
    return min(length, chunk * max(1, -(-_MIN_TILE_PX // chunk)))


def _pixel_size(
    multiscale: Mapping[str, Any], axes: str, units: Mapping[str, str]
) -> tuple[tuple[float, float] | None, str]:
    """Micrometres per level-0 pixel, (y, x); None unless both axes have a scale and a unit of length."""
    first = multiscale["datasets"][0]
    scale = [a * b for a, b in zip(_scale(first, len(axes)), _scale(multiscale, len(axes)), strict=True)]
    factors = [_UM.get(units.get(axis, "").lower()) for axis in "yx"]
    y, x = (scale[axes.index(axis)] * (factor or 0.0) for axis, factor in zip("yx", factors, strict=True))
    return ((y, x), "scale and unit of the OME-Zarr") if y > 0 and x > 0 else (None, "")


def _scale(entry: Mapping[str, Any], ndim: int) -> list[float]:
    for transform in entry.get("coordinateTransformations", []):
        values = transform.get("scale") if transform.get("type") == "scale" else None
        if isinstance(values, list) and len(values) == ndim:
            return [float(value) for value in values]
    return [1.0] * ndim


def _properties(multiscale: Mapping[str, Any], plane: _Plane, axes: str, units: Mapping[str, str]) -> dict[str, str]:
    codecs = getattr(plane.array, "compressors", None) or ()
    facts = {
        "format": f"OME-Zarr (zarr v{plane.array.metadata.zarr_format})",
        "axes": axes,
        "compression": ", ".join(type(codec).__name__.removesuffix("Codec") for codec in codecs) or "none",
    }
    missing = [axis for axis in "yx" if axis not in units]
    if missing:
        scale = _scale(multiscale["datasets"][0], len(axes))
        facts["scale"] = f"{scale[axes.index(missing[0])]:g} per pixel, without a unit"
    return facts
