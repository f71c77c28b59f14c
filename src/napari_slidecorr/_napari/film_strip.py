"""A strip of patches to label next: one key takes what the model says, another class, or skips; a click goes there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QKeyEvent, QPainter, QPixmap
from qtpy.QtWidgets import QLabel, QScrollArea, QSizePolicy, QToolButton, QVBoxLayout, QWidget

from napari_slidecorr._napari.associated import pixmap
from napari_slidecorr._napari.errands import Errands
from napari_slidecorr._napari.layers import UNCLASSED
from napari_slidecorr._napari.parts import button, row
from napari_slidecorr.errors import SlideCorrError
from napari_slidecorr.geometry import Box
from napari_slidecorr.live_events import LiveSuggestion

if TYPE_CHECKING:
    from napari_slidecorr.project import Project

SIDE_PX, AROUND = 84, 0.5
"""Side of a picture, and how much of a patch's side is shown around it."""

FRAME_PX = 3
KEYS = "Enter accepts the model's class, 1 to 9 give another, S skips, arrows move, a click goes there."
Colors = Mapping[str, tuple[int, int, int]]
_Key = tuple[str, tuple[int, int]]


class FilmStrip(QWidget):
    """Pictures of suggested patches beside each other; the first is chosen.

    Attributes
    ----------
    labelled
        Signal with a `LiveSuggestion` and the class that somebody gave it.
    skipped, asked
        Signals with a `LiveSuggestion` that is not wanted, or that somebody wants to see in its slide.
    """

    labelled = Signal(object, str)
    skipped = Signal(object)
    asked = Signal(object)

    def __init__(self, errands: Errands) -> None:
        super().__init__()
        self._errands = errands
        self._project: Project | None = None
        self._colors: Colors = {}
        self._frames: list[_Frame] = []
        self._pictures: dict[_Key, NDArray[np.uint8]] = {}
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.scroll = QScrollArea()
        self.scroll.setWidgetResizable(True)
        self.scroll.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.scroll.setFixedHeight(SIDE_PX + 62)
        self.scroll.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.told = QLabel()
        self.told.setWordWrap(True)
        self.told.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.accept_button = button(
            "Accept", "Make it a region of the class that the model gives it (Enter).", self.accept
        )
        self.skip_button = button("Skip", "Do not suggest this patch again (S).", self.skip)
        self.go_button = button("Go there", "Show the patch in its slide.", self._go)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for part in (self.scroll, self.told, row(self.accept_button, self.skip_button, self.go_button)):
            layout.addWidget(part)
        for one in (self.accept_button, self.skip_button, self.go_button):
            one.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._lay_out()

    @property
    def suggestions(self) -> tuple[LiveSuggestion, ...]:
        """What is shown."""
        return tuple(frame.suggestion for frame in self._frames)

    @property
    def current(self) -> LiveSuggestion | None:
        """The chosen one."""
        return next((frame.suggestion for frame in self._frames if frame.isChecked()), None)

    def show_suggestions(self, suggestions: Sequence[LiveSuggestion], project: Project | None, colors: Colors) -> None:
        """Show other suggestions; the chosen patch stays chosen, and in its place, if it is among them."""
        kept = self.current
        self._project, self._colors = project, colors
        shown = list(suggestions)
        if kept is not None:
            place = next((i for i, frame in enumerate(self._frames) if frame.isChecked()), 0)
            same = [one for one in shown if _key(one) == _key(kept)]
            shown = [one for one in shown if _key(one) != _key(kept)]
            shown[place:place] = same
        self._frames = [self._frame(one) for one in shown]
        self._pictures = {key: self._pictures[key] for key in map(_key, shown) if key in self._pictures}
        self._lay_out(None if kept is None else _key(kept))
        self._fill()

    def accept(self) -> None:
        """Take the class that the model gives the chosen patch."""
        if (current := self.current) is not None:
            self._label(current, current.class_name)

    def reclass(self, number: int) -> None:
        """Give the chosen patch the class of a key, 1 for the project's first; nothing happens without such a class."""
        classes = self._project.classes if self._project is not None else ()
        if (current := self.current) is not None and number <= len(classes):
            self._label(current, classes[number - 1])

    def skip(self) -> None:
        """Take the chosen patch out of the strip, for good."""
        if (current := self.current) is not None:
            self._drop(current)
            self.skipped.emit(current)

    def step(self, by: int) -> None:
        """Choose the next one, or another one further on or back."""
        if self._frames:
            now = next((i for i, frame in enumerate(self._frames) if frame.isChecked()), 0)
            self._choose(self._frames[(now + by) % len(self._frames)])

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Obey the keys that the line below the pictures names."""
        key = event.key()
        if key in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_A):
            self.accept()
        elif key == Qt.Key.Key_S:
            self.skip()
        elif Qt.Key.Key_1 <= key <= Qt.Key.Key_9:
            self.reclass(key - Qt.Key.Key_0)
        elif key in (Qt.Key.Key_Left, Qt.Key.Key_Right):
            self.step(1 if key == Qt.Key.Key_Right else -1)
        elif key == Qt.Key.Key_Space:
            self._go()
        else:
            super().keyPressEvent(event)

    def _go(self) -> None:
        if (current := self.current) is not None:
            self.asked.emit(current)

    def _label(self, suggestion: LiveSuggestion, class_name: str) -> None:
        self._drop(suggestion)
        self.labelled.emit(suggestion, class_name)

    def _drop(self, suggestion: LiveSuggestion) -> None:
        """Take one out; the one that was behind it is chosen."""
        place = next(i for i, frame in enumerate(self._frames) if frame.suggestion is suggestion)
        del self._frames[place]
        after = self._frames[min(place, len(self._frames) - 1)].suggestion if self._frames else None
        self._frames = [self._frame(frame.suggestion) for frame in self._frames]
        self._lay_out(None if after is None else _key(after))
        self._fill()

    def _frame(self, suggestion: LiveSuggestion) -> _Frame:
        made = _Frame(suggestion)
        made.clicked.connect(lambda _checked: self._on_click(made))
        return made

    def _on_click(self, frame: _Frame) -> None:
        self._choose(frame)
        self.setFocus()
        self.asked.emit(frame.suggestion)

    def _choose(self, frame: _Frame) -> None:
        for one in self._frames:
            one.setChecked(one is frame)
        self.scroll.ensureWidgetVisible(frame)
        self._tell()

    def _lay_out(self, chosen: _Key | None = None) -> None:
        content = QWidget()
        layout = QVBoxLayout(content)
        layout.setContentsMargins(2, 2, 2, 2)
        line = row(*self._frames)
        line.layout().addStretch(1)
        layout.addWidget(line)
        self.scroll.setWidget(content)
        self.scroll.setVisible(bool(self._frames))
        at = next((i for i, frame in enumerate(self._frames) if _key(frame.suggestion) == chosen), 0)
        for i, frame in enumerate(self._frames):
            frame.setChecked(i == at)
        self._tell()

    def _tell(self) -> None:
        current = self.current
        for one in (self.accept_button, self.skip_button, self.go_button):
            one.setEnabled(current is not None)
        if current is None:
            self.told.setText(
                "Patches to label next come here once a first model is fitted and the slide was looked at."
            )
            return
        self.accept_button.setText(f"Accept {current.class_name}")
        self.told.setText(f"{current.slide_id}: {current.class_name} {current.probability:.2f}? {KEYS}")

    def _fill(self) -> None:
        """Read pictures in a thread, but for those that were read before; they come all at once, as each paints the window."""
        project, missing = self._project, []
        for frame in self._frames:
            if (known := self._pictures.get(_key(frame.suggestion))) is not None:
                self._put(frame, known)
            else:
                missing.append(frame.suggestion)
        if missing and project is not None:
            self._errands.run(
                partial(_pictures, project, missing), self._on_pictures, lambda error: self._fail(str(error))
            )

    def _on_pictures(self, found: Mapping[_Key, NDArray[np.uint8] | str]) -> None:
        for frame in self._frames:
            picture = found.get(_key(frame.suggestion))
            if isinstance(picture, str):
                frame.setToolTip(picture)
            elif picture is not None:
                self._pictures[_key(frame.suggestion)] = picture
                self._put(frame, picture)

    def _fail(self, why: str) -> None:
        for frame in self._frames:
            if frame.icon().isNull():
                frame.setToolTip(why)

    def _put(self, frame: _Frame, pixels: NDArray[np.uint8]) -> None:
        color = self._colors.get(frame.suggestion.class_name, UNCLASSED)
        frame.setIcon(QIcon(_framed(pixmap(pixels, SIDE_PX), color)))


class _Frame(QToolButton):
    """One picture with the model's class below."""

    def __init__(self, suggestion: LiveSuggestion) -> None:
        super().__init__()
        self.suggestion = suggestion
        self.setCheckable(True)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextUnderIcon)
        self.setIconSize(QSize(SIDE_PX, SIDE_PX))
        self.setFixedSize(SIDE_PX + 12, SIDE_PX + 34)
        self.setText(f"{suggestion.class_name} {suggestion.probability:.2f}")
        self.setToolTip(f"{suggestion.reason}\n{KEYS}")


def _key(suggestion: LiveSuggestion) -> _Key:
    return suggestion.slide_id, suggestion.cell


def _pictures(project: Project, suggestions: Sequence[LiveSuggestion]) -> dict[_Key, NDArray[np.uint8] | str]:
    """Read patches; where one cannot be read, why."""
    found: dict[_Key, NDArray[np.uint8] | str] = {}
    for one in suggestions:
        try:
            found[_key(one)] = _picture(project, one)
        except SlideCorrError as error:
            found[_key(one)] = str(error)
    return found


def _picture(project: Project, suggestion: LiveSuggestion) -> NDArray[np.uint8]:
    """Read a patch and what is around it."""
    box = suggestion.box
    more_y, more_x = round(box.height * AROUND), round(box.width * AROUND)
    wide = Box(box.y0 - more_y, box.x0 - more_x, box.y1 + more_y, box.x1 + more_x)
    return project.slide(suggestion.slide_id).read(wide, 2 * SIDE_PX)


def _framed(picture: QPixmap, color: tuple[int, int, int]) -> QPixmap:
    """Outline the patch in the colour of its class; around it lies its surroundings."""
    framed = QPixmap(picture)
    side = framed.width()
    low, span = round(side * AROUND / (1 + 2 * AROUND)), round(side / (1 + 2 * AROUND))
    painter = QPainter(framed)
    pen = painter.pen()
    pen.setColor(QColor(*color))
    pen.setWidth(FRAME_PX)
    painter.setPen(pen)
    painter.drawRect(low, low, span, span)
    painter.end()
    return framed
