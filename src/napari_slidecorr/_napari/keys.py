"""Every key of the Regions dock, once: bound to the picture, obeyed in the dock, listed there and in the docs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from napari_slidecorr._napari.region_tools import TOOLS

if TYPE_CHECKING:
    from napari_slidecorr._napari.desk import Desk

CLASS_KEYS = 9
_NAPARI = {"Ctrl": "Control", "PgDown": "PageDown", "PgUp": "PageUp", "Del": "Delete", "Esc": "Escape"}


@dataclass(frozen=True)
class Shortcut:
    """Keys that do one thing.

    Attributes
    ----------
    keys : tuple of str
        As Qt writes them: ``"Ctrl+Z"``.
    text : str
        What they do.
    action
        Called with the desk, and with the number of the key in ``keys``; None for what the mouse or napari does.
    shown : str
        How the list names the keys; the keys themselves when left out.
    """

    keys: tuple[str, ...]
    text: str
    action: Callable[[Desk, int], Any] | None
    shown: str = ""

    @property
    def label(self) -> str:
        """How the list names the keys."""
        return self.shown or ", ".join(self.keys)


def _take(tool: str, desk: Desk, _key: int) -> None:
    desk.tools.take(tool)


SHORTCUTS: tuple[Shortcut, ...] = (
    Shortcut(
        tuple(str(n) for n in range(1, CLASS_KEYS + 1)),
        "choose a class; selected regions get it too",
        lambda desk, key: desk.choose(key + 1),
        "1 ... 9",
    ),
    Shortcut(("0",), "choose ignore, for artefacts", lambda desk, _: desk.choose(0)),
    *(Shortcut((tool.key,), f"{tool.text.lower()}", partial(_take, name)) for name, tool in TOOLS.items()),
    Shortcut((), "add to the region under the mouse, with any tool that draws", None, "Shift + draw"),
    Shortcut((), "cut from the region under the mouse, with any tool that draws", None, "Alt or Ctrl + draw"),
    Shortcut(
        ("[", "]"),
        "smaller, larger: brush, or tolerance of the wand",
        lambda desk, key: desk.tools.resize(2 * key - 1),
    ),
    Shortcut(("Esc",), "end an outline; give up a stroke", lambda desk, _: desk.tools.escape()),
    Shortcut((), "move the view", None, "Space (hold)"),
    Shortcut(("J",), "join the selected regions", lambda desk, _: desk.tools.merge()),
    Shortcut(("F",), "fill the holes of the selected regions", lambda desk, _: desk.tools.fill()),
    Shortcut(("H",), "cut the selected region out of the one around it", lambda desk, _: desk.tools.editor.cut_hole()),
    Shortcut(("Del", "Backspace"), "delete selected regions", lambda desk, _: desk.tools.editor.delete_selected()),
    Shortcut(("Ctrl+Z",), "undo", lambda desk, _: desk.tools.editor.undo()),
    Shortcut(("Ctrl+Shift+Z", "Ctrl+Y"), "redo", lambda desk, _: desk.tools.editor.redo()),
    Shortcut(
        ("PgDown", "PgUp"),
        "next, previous slide; zoom, tool and class stay",
        lambda desk, key: desk.step(1 - 2 * key),
    ),
)


def bound() -> Iterator[tuple[str, Callable[[Desk], Any]]]:
    """Give each key that does something, as Qt writes it, with what it does."""
    for shortcut in SHORTCUTS:
        if shortcut.action is not None:
            for number, key in enumerate(shortcut.keys):
                yield key, partial(_call, shortcut.action, number)


def _call(action: Callable[[Desk, int], Any], number: int, desk: Desk) -> Any:
    return action(desk, number)


def napari_key(key: str) -> str:
    """Give a key as napari writes it: ``"Ctrl+Z"`` is ``"Control-Z"``."""
    return "-".join(_NAPARI.get(part, part) for part in key.split("+"))


def html_table() -> str:
    """The list of keys as the dock shows it."""
    rows = "".join(f"<tr><td><b>{each.label}</b></td><td>{each.text}</td></tr>" for each in SHORTCUTS)
    return f'<table cellspacing="3">{rows}</table>'


def markdown_table() -> str:
    """The list of keys as the docs show it."""
    rows = [f"| **{each.label}** | {each.text} |" for each in SHORTCUTS]
    return "\n".join(["| keys | what they do |", "|---|---|", *rows])
