"""A real napari window that scripts work as a person does, by the words on its buttons, and take pictures of.

Import it before napari: torch comes before the first window, and the user's own settings stay out of the pictures.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DOCKS = ("Slides", "Regions", "Training", "Prediction", "Live", "Diagnostics")
SMALL = (1366, 768)
MENU = "Plugins > Slide correlation > {}"
LEFT_PX = 346
"""Napari's own panels, left of the canvas."""


@contextmanager
def own_home(folder: Path) -> Iterator[None]:
    """Keep settings, caches and documents of this process in a folder of its own."""
    ours = {
        "HOME": folder,
        "XDG_CONFIG_HOME": folder / ".config",
        "NAPARI_CONFIG": folder / "napari.yaml",
        "SLIDECORR_CACHE_DIR": folder / "cache",
        "SLIDECORR_CONFIG_DIR": folder / "config",
    }
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update({name: str(path) for name, path in ours.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Window:
    """A viewer, its docks, and what was pressed in them.

    Attributes
    ----------
    said : list of str
        The words of all that was pressed or chosen, in this order.
    """

    def __init__(self, out: Path, size: tuple[int, int] = SMALL, theme: str = "dark") -> None:
        from napari_slidecorr._napari.torch_door import load_torch

        load_torch()
        import napari

        self.out, self.said = out, list[str]()
        self.viewer = napari.Viewer(show=True)
        self.viewer.theme = theme
        self.window = self.viewer.window._qt_window  # noqa: SLF001 - the public one is deprecated
        self.window.resize(*size)
        self.rest(1)

    # -- docks --------------------------------------------------------------------------------------------------------

    def dock(self, name: str) -> Any:
        """The content of an open dock."""
        module = importlib.import_module(f"napari_slidecorr._napari.dock_{name.lower()}")
        return self.window.findChild(getattr(module, f"{name}Dock"))

    def open(self, name: str) -> Any:
        """Open a dock, or bring it to the front, from the menu."""
        words = MENU.format(name)
        found = self.window.menuBar().actions()
        for word in words.split(" > "):
            action = next(each for each in found if each.text().replace("&", "") == word)
            menu = action.menu()
            if menu is not None:
                menu.aboutToShow.emit()
            found = menu.actions() if menu is not None else []
        self.said.append(words)
        action.trigger()
        self.rest(0.5)
        return self.front(name)

    def front(self, name: str) -> Any:
        """Bring an open dock to the front, as a click on its tab does."""
        from qtpy.QtWidgets import QDockWidget

        self.wait(lambda: self.dock(name) is not None, 30)
        holder = self.dock(name)
        while not isinstance(holder, QDockWidget):
            holder = holder.parent()
        holder.show()
        holder.raise_()
        self.rest(0.3)
        return self.dock(name)

    # -- hands --------------------------------------------------------------------------------------------------------

    def press(self, dock: Any, text: str) -> None:
        """Click the button of a dock that says this, once it can be clicked."""
        from qtpy.QtCore import Qt
        from qtpy.QtTest import QTest
        from qtpy.QtWidgets import QAbstractButton

        def found() -> list[Any]:
            every = dock.findChildren(QAbstractButton)
            return [each for each in every if each.text() == text and each.isVisible() and each.isEnabled()]

        self.wait(lambda: bool(found()), 60)
        (button,) = found()
        self.said.append(text)
        dock.ensureWidgetVisible(button)
        QTest.mouseClick(button, Qt.MouseButton.LeftButton)

    def click_row(self, table: Any, text: str) -> None:
        """Click the row of a table in which this stands."""
        from qtpy.QtCore import Qt
        from qtpy.QtTest import QTest

        (item, *_) = table.findItems(text, Qt.MatchFlag.MatchExactly)
        self.said.append(text)
        table.scrollToItem(item)
        place = table.visualItemRect(item).center()
        QTest.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, place)

    def choose(self, label: str, combo: Any, text: str) -> None:
        """Choose an entry of a drop-down."""
        self.said += [label, text]
        combo.setCurrentIndex(combo.findText(text))

    def dialog(self, fill: Callable[[Any], None]) -> None:
        """Fill in the dialog that comes next, and accept it."""
        from qtpy.QtCore import QTimer
        from qtpy.QtWidgets import QApplication

        def look() -> None:
            shown = QApplication.activeModalWidget()
            if shown is None:
                QTimer.singleShot(100, look)
                return
            fill(shown)

        QTimer.singleShot(100, look)

    # -- eyes ---------------------------------------------------------------------------------------------------------

    def wait(self, condition: Callable[[], bool], seconds: float = 600) -> None:
        """Let the window live until something is so."""
        from qtpy.QtWidgets import QApplication

        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError
            QApplication.processEvents()
            time.sleep(0.01)

    def rest(self, seconds: float = 1.0) -> None:
        """Let the window live for a while."""
        end = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() > end)

    def job(self, session: Any, start: Callable[[], Any]) -> None:
        """Start a job, and wait for its end, which must be a good one."""
        from napari_slidecorr.events import JobStatus

        ends: list[Any] = []
        session.job_ended.connect(ends.append)
        start()
        self.wait(lambda: bool(ends), 1800)
        session.job_ended.disconnect(ends.append)
        if ends[0].status is not JobStatus.COMPLETED:
            raise RuntimeError(f"The job {ends[0].status.value}: {ends[0].error}")
        self.rest(1.5)

    def shoot(self, name: str, *, left: int = 0) -> None:
        """Store what the window shows, from so many pixels on."""
        self.rest(0.8)
        pixels = self.viewer.screenshot(canvas_only=False, flash=False)[:, left:, :3]
        store(pixels, self.out / f"{name}.png")

    def close(self) -> None:
        """Close the window."""
        self.viewer.close()


def store(pixels: Any, path: Path, colors: int = 160) -> None:
    """Write a picture of few colours, which is small."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels).quantize(
        colors, method=Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE
    )
    image.save(path, optimize=True)
    print(path.name, f"{path.stat().st_size / 1000:.0f} kB", flush=True)
