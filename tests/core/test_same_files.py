import numpy as np
import pytest

from napari_slidecorr.errors import SlideError
from napari_slidecorr.io.same_files import same_files


def written(folder, **contents):
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def test_copies_are_found_and_others_are_not(tmp_path):
    pixels = np.random.default_rng(0).bytes(9_000_000)
    paths = written(tmp_path, a=pixels, b=pixels[:-1], c=pixels, d=b"", e=b"x", f=b"x")
    (tmp_path / "folder").mkdir()
    a, _, c, _, e, f = paths
    assert same_files([*paths, tmp_path / "folder", tmp_path / "absent"]) == [(a, c), (e, f)]


def test_files_that_differ_at_the_end_or_in_a_tile_are_two_slides(tmp_path):
    pixels = bytearray(np.random.default_rng(0).bytes(9_000_000))
    end, tile = pixels.copy(), pixels.copy()
    end[-1] ^= 1
    tile[4_000_000:4_300_000] = bytes(300_000)
    assert same_files(written(tmp_path, pixels=pixels, end=end, tile=tile)) == []


def test_files_of_different_sizes_are_never_opened(tmp_path, monkeypatch):
    paths = written(tmp_path, a=b"1", b=b"22", c=b"333")
    monkeypatch.setattr("pathlib.Path.open", None)
    assert same_files(paths) == []


def test_a_file_that_cannot_be_read_is_told_by_name(tmp_path, monkeypatch):
    paths = written(tmp_path, a=b"1", b=b"2")

    def refuse(*_):
        raise OSError("input/output error")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(SlideError, match=r"a: cannot be read \(input/output error\)"):
        same_files(paths)
