"""A slide as a read-only zarr v3 store, for programs that read zarr: nothing is copied, each chunk is a tile.

Reading through it costs more than reading the slide (zarr's event loop, a copy), so nothing in this package does.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype

from napari_slidecorr.level_view import LevelView

if TYPE_CHECKING:
    from napari_slidecorr.levels import PixelSource

_META = "zarr.json"
_GROUP = {"zarr_format": 3, "node_type": "group", "attributes": {}}


class SlideStore(Store):
    """A group with an array for each level, called ``"0"``, ``"1"`` and so on; pickles as the slide does.

    The arrays have axes y, x and channel, the file's tiles as chunks, and the shapes of `Slide.view_levels`: padded with
    background to exact ratios.

    Parameters
    ----------
    source : PixelSource
        Of the slide; stays as it is: closing the store does not close it.
    """

    supports_writes = False
    supports_deletes = False
    supports_partial_writes = False
    supports_listing = True

    def __init__(self, source: PixelSource) -> None:
        super().__init__(read_only=True)
        self._source = source
        self._views = [LevelView(source, level, None) for level in range(len(source.levels))]
        self._metadata = {_META: _encoded(_GROUP)}
        self._metadata |= {f"{i}/{_META}": _encoded(_array_metadata(view)) for i, view in enumerate(self._views)}

    def __reduce__(self) -> tuple[Any, ...]:
        return SlideStore, (self._source,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SlideStore) and other._source is self._source

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"SlideStore({self._source.path.name!r})"

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Give metadata, or the pixels of a tile, uncompressed; None for a key that does not exist."""
        if key in self._metadata:
            return prototype.buffer.from_bytes(self._metadata[key][_span(byte_range, len(self._metadata[key]))])
        place = self._place(key)
        if place is None:
            return None
        data = await asyncio.to_thread(self._pixels, *place)
        return prototype.buffer.from_array_like(data[_span(byte_range, data.size)])

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Give parts of several values."""
        return await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges))

    async def exists(self, key: str) -> bool:
        """Whether there is such metadata or such a tile."""
        return key in self._metadata or self._place(key) is not None

    async def list(self) -> AsyncIterator[str]:
        """All keys, tile by tile."""
        for key in self._metadata:
            yield key
        for level, view in enumerate(self._views):
            rows, columns, _ = (len(sizes) for sizes in view.chunks)
            for row in range(rows):
                for column in range(columns):
                    yield f"{level}/c/{row}/{column}/0"

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """All keys that begin so."""
        async for key in self.list():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names right below a prefix; those of tiles are not listed one by one."""
        folder = prefix.strip("/")
        if not folder:
            names = [_META, *map(str, range(len(self._views)))]
        else:
            names = [_META, "c"] if folder.isdigit() and int(folder) < len(self._views) else []
        for name in names:
            yield name

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse: a slide is not written to."""
        self._refuse(key, value)

    async def delete(self, key: str) -> None:
        """Refuse: a slide is not written to."""
        self._refuse(key)

    def _refuse(self, *_: object) -> NoReturn:
        raise ValueError(f"{self._source.path.name}: slides are read-only; copy the array to a store of your own.")

    def _place(self, key: str) -> tuple[int, int, int] | None:
        """Give level, row and column of a chunk's key (``2/c/7/4/0``)."""
        parts = key.split("/")
        if len(parts) != 5 or parts[1] != "c" or parts[4] != "0" or not all(p.isdigit() for p in parts[:4:2]):
            return None
        if not parts[3].isdigit() or int(parts[0]) >= len(self._views):
            return None
        level, row, column = int(parts[0]), int(parts[2]), int(parts[3])
        rows, columns, _ = (len(sizes) for sizes in self._views[level].chunks)
        return (level, row, column) if row < rows and column < columns else None

    def _pixels(self, level: int, row: int, column: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        height, width, _ = _chunk(self._views[level])
        pixels = self._source.read_level(level, row * height, column * width, height, width)
        return np.ascontiguousarray(pixels).reshape(-1).view(np.uint8)


def _chunk(view: LevelView) -> tuple[int, ...]:
    return tuple(sizes[0] for sizes in view.chunks)


def _array_metadata(view: LevelView) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(view.shape),
        "data_type": view.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(_chunk(view))}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 255,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "dimension_names": ["y", "x", "c"],
        "attributes": {},
    }


def _encoded(metadata: dict[str, Any]) -> bytes:
    return json.dumps(metadata).encode()


def _span(wanted: ByteRequest | None, length: int) -> slice:
    match wanted:
        case RangeByteRequest(start, end):
            return slice(start, end)
        case OffsetByteRequest(offset):
            return slice(offset, None)
        case SuffixByteRequest(suffix):
            return slice(max(0, length - suffix), None)
        case _:
            return slice(None)
