"""What tells one slide from another, whatever its name and place: a digest of a few megabytes of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from napari_slidecorr.errors import SlideError

_PIECES = 64
_PIECE_BYTES = 1 << 16


def content_digest(path: Path) -> str:
    """Give a sha256 of a slide's content, the same for copies and after a move.

    Parameters
    ----------
    path : Path
        A file, or the folder of an OME-Zarr.

    Returns
    -------
    str
        64 hexadecimal digits.

    Raises
    ------
    SlideError
        If it cannot be read.

    Notes
    -----
    Of a file its size and 64 pieces of 64 KiB, spread evenly from the first byte to the last; of a folder the names
    and sizes of all its files, and the first 64 KiB of 64 of them. Two scans never agree in all of that, and neither do
    two versions of one that was written anew.
    """
    try:
        pieces = _pieces_of_folder(path) if path.is_dir() else _pieces_of_file(path)
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
    except OSError as error:
        raise SlideError(f"{path}: cannot be read ({error}); put the slide back.") from error
    return digest.hexdigest()


def _pieces_of_file(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    yield f"file {size}".encode()
    with path.open("rb") as file:
        for start in _spread(max(0, size - _PIECE_BYTES)):
            file.seek(start)
            yield file.read(_PIECE_BYTES)


def _pieces_of_folder(path: Path) -> Iterator[bytes]:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        yield f"{file.relative_to(path).as_posix()} {file.stat().st_size}\n".encode()
    for index in _spread(len(files) - 1) if files else ():
        with files[index].open("rb") as opened:
            yield opened.read(_PIECE_BYTES)


def _spread(last: int) -> list[int]:
    """At most 64 whole numbers from 0 to ``last``."""
    return sorted({last * i // (_PIECES - 1) for i in range(_PIECES)})
