"""Files with the same content under several names: one slide that would train and be held out at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from napari_slidecorr.io.content_digest import content_digest


def same_files(paths: Iterable[Path]) -> list[tuple[Path, ...]]:
    """Find files that are copies of each other.

    Parameters
    ----------
    paths : iterable of Path
        Folders (OME-Zarr) and what is not there are left out.

    Returns
    -------
    list of tuples of Path
        Each with two files or more, in the order in which they were given.

    Raises
    ------
    SlideError
        If a file cannot be read.

    Notes
    -----
    Only files of one size are opened, and of those `content_digest` reads 4 MiB instead of gigabytes.
    """
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in paths:
        if path.is_file():
            by_size[path.stat().st_size].append(path)
    copies: dict[str, list[Path]] = defaultdict(list)
    for files in by_size.values():
        for path in files if len(files) > 1 else ():
            copies[content_digest(path)].append(path)
    return [tuple(files) for files in copies.values() if len(files) > 1]
