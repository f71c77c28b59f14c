"""The text of a file of regions: its size bounded, its encoding found out, and JSON walked item by item."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from napari_slidecorr.errors import RegionsError
from napari_slidecorr.io.regions_file import Gathering

MOST_BYTES = 1 << 30
"""Files of regions above this are refused: their text is held in memory while it is read."""

_PIECE_BYTES = 1 << 20
_BLANK = b" \t\r\n\0"

RECODED = "The file is not in UTF-8; its text was read as {}."

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SPACE = re.compile(r"[ \t\r\n]*")


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """Read a file, or its first bytes.

    Raises
    ------
    RegionsError
        If it is missing, cannot be read, is empty, or is larger than `MOST_BYTES`.
    """
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise RegionsError(
                f"{path.name}: it has {size / 1e6:,.0f} MB; files of regions are read up to {MOST_BYTES / 1e6:,.0f} MB; "
                "export the annotations in parts."
            )
        with path.open("rb") as file:
            data = file.read(-1 if most is None else most)
    except OSError as error:
        raise RegionsError(f"{path}: cannot be read ({error.strerror}); choose another file.") from error
    if not data[:_PIECE_BYTES].strip(_BLANK) and not data.strip(_BLANK):
        raise RegionsError(f"{path.name}: the file is empty; export it again.")
    return data


def encoding_of(data: bytes) -> str:
    """Find out in which encoding text is: by its mark, by zeros between ASCII letters, else UTF-8 or Latin-1."""
    for mark, name in _BOMS:
        if data.startswith(mark):
            return name
    if data[1:2] == b"\0" and data[:1] != b"\0":
        return "utf-16-le"
    if data[:1] == b"\0" and data[1:2] != b"\0":
        return "utf-16-be"
    decoder = codecs.getincrementaldecoder("utf-8")()  # a character cut at the end is none of its business
    try:
        for begin in range(0, len(data), _PIECE_BYTES):
            decoder.decode(data[begin : begin + _PIECE_BYTES])
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def read_text(path: Path, gathering: Gathering) -> str:
    """Read a text file in whatever encoding; told where it is not UTF-8.

    Raises
    ------
    RegionsError
        As `read_bytes`, or if the text ends within a character.
    """
    data = read_bytes(path)
    encoding = encoding_of(data)
    if not encoding.startswith("utf-8"):
        gathering.repaired[RECODED.format(encoding.upper())] += 1
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise RegionsError(f"{path.name}: the text is damaged or cut short ({error}); export it again.") from error
    if not text or text.isspace():
        raise RegionsError(f"{path.name}: the file is empty; export it again.")
    return text


def walk_json(text: str, name: str, list_key: str) -> Iterator[tuple[bool, Any]]:
    """Walk the items of a JSON array, or of the list under a key of a JSON object, without holding all of them.

    Parameters
    ----------
    text : str
        The whole JSON; ``NaN`` and ``Infinity`` are let through as floats.
    name : str
        The file's name, for errors.
    list_key : str
        Which key's list is walked.

    Yields
    ------
    in_list : bool
        Whether it is an item of a list; False for an object without such a list, which comes as a whole.
    item : Any

    Raises
    ------
    RegionsError
        If it is not JSON, or cut short.
    """
    try:
        yield from _Walk(text).items(list_key)
    except json.JSONDecodeError as error:
        raise RegionsError(
            f"{name}: not JSON, or cut short ({error.msg} in line {error.lineno}); export it again."
        ) from error
    except RecursionError as error:
        raise RegionsError(f"{name}: cannot be understood (nested too deeply); export it again.") from error


class _Walk:
    """A place in a JSON text that moves on."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._decode = json.JSONDecoder().raw_decode

    def items(self, list_key: str) -> Iterator[tuple[bool, Any]]:
        if self._next() == "[":
            yield from self._list()
        elif self._next() == "{":
            yield from self._object(list_key)
        else:
            yield False, self._value()
        if self._next():
            raise self._error("Extra data")

    def _object(self, list_key: str) -> Iterator[tuple[bool, Any]]:
        """Give the items of the list under the key, or the object as a whole if it has none."""
        whole: dict[str, Any] = {}
        walked = False
        self._take("{")
        while self._next() != "}":
            key = self._value()
            self._take(":")
            if key == list_key and self._next() == "[":
                walked = True
                yield from self._list()
            else:
                whole[str(key)] = self._value()
            self._comma("}")
        self._take("}")
        if not walked:
            yield False, whole

    def _list(self) -> Iterator[tuple[bool, Any]]:
        self._take("[")
        while self._next() != "]":
            yield True, self._value()
            self._comma("]")
        self._take("]")

    def _value(self) -> Any:
        self._next()
        value, self._at = self._decode(self._text, self._at)
        return value

    def _next(self) -> str:
        """The next character that is no space; empty at the end."""
        match = _SPACE.match(self._text, self._at)
        self._at = match.end() if match else self._at
        return self._text[self._at : self._at + 1]

    def _take(self, wanted: str) -> None:
        if self._next() != wanted:
            raise self._error(f"Expecting '{wanted}'")
        self._at += 1

    def _comma(self, end: str) -> None:
        """Take a comma between two, or stand before the end."""
        if self._next() == ",":
            self._at += 1
            if self._next() == end:
                raise self._error("Illegal trailing comma")
        elif self._next() != end:
            raise self._error("Expecting ',' delimiter")

    def _error(self, message: str) -> json.JSONDecodeError:
        return json.JSONDecodeError(message, self._text, self._at)
