"""Earlier states of a slide's regions: listed, looked at, and one of them brought back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QPainter, QPainterPath, QPaintEvent, QPen
from qtpy.QtWidgets import (
    QAbstractItemView,
    QDialog,
    QDialogButtonBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_slidecorr._napari import layers
from napari_slidecorr._napari.dock import ERROR_COLOR
from napari_slidecorr._napari.errands import Errands
from napari_slidecorr._napari.stage import MARK
from napari_slidecorr.errors import RegionsError
from napari_slidecorr.region_history import RegionState
from napari_slidecorr.regions import RegionSet
from napari_slidecorr.session import sentence

if TYPE_CHECKING:
    from napari_slidecorr._napari.desk import Desk

NO_CLASS = QColor(200, 200, 200)
MARGIN_PX = 8
STATE = Qt.ItemDataRole.UserRole


class Preview(QWidget):
    """Regions in their colours, within the outline of the slide."""

    def __init__(self, shape: tuple[int, int], colors: Mapping[str, tuple[int, int, int]]) -> None:
        super().__init__()
        self._shape = shape
        self._colors = {name: QColor(*color) for name, color in colors.items()}
        self.regions = RegionSet()
        self.setMinimumSize(260, 260)

    def show_regions(self, regions: RegionSet) -> None:
        """Show these regions."""
        self.regions = regions
        self.update()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Draw them as large as fits."""
        height, width = self._shape
        scale = min((self.width() - 2 * MARGIN_PX) / width, (self.height() - 2 * MARGIN_PX) / height)
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.translate((self.width() - scale * width) / 2, (self.height() - scale * height) / 2)
        painter.setPen(QPen(self.palette().mid().color(), 1))
        painter.drawRect(QRectF(0, 0, scale * width, scale * height))
        for region in self.regions:
            color = self._colors.get(region.class_name, NO_CLASS)
            painter.setPen(QPen(color, 1.5))
            painter.setBrush(QColor(color.red(), color.green(), color.blue(), 90))
            painter.drawPath(_path(region.polygon, scale))
        painter.end()


def _path(polygon: Any, scale: float) -> QPainterPath:
    path = QPainterPath()
    path.setFillRule(Qt.FillRule.OddEvenFill)
    for ring in (polygon.exterior, *polygon.interiors):
        (y, x), *rest = ring.coords
        path.moveTo(QPointF(x * scale, y * scale))
        for y, x in rest:
            path.lineTo(QPointF(x * scale, y * scale))
        path.closeSubpath()
    return path


class RestoreDialog(QDialog):
    """Lists the states of a slide's regions, newest first, and shows the one that is chosen.

    Parameters
    ----------
    desk : Desk
    slide_id : str
    """

    def __init__(self, desk: Desk, slide_id: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle(f"Restore the regions of {slide_id}")
        self.resize(820, 420)
        self._project = desk.session.require_project()
        self._slide_id = slide_id
        self._errands = Errands(self)
        self.list = QTreeWidget()
        self.list.setHeaderLabels(["Saved", "Regions", "What changed"])
        self.list.setRootIsDecorated(False)
        self.list.setUniformRowHeights(True)
        self.list.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.preview = Preview(self._project.slide(slide_id).shape, self._project.colors)
        self.trouble = QLabel()
        self.trouble.setWordWrap(True)
        self.trouble.setStyleSheet(f"color: {ERROR_COLOR};")
        self.buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel)
        self.restore_button = self.buttons.addButton("Restore", QDialogButtonBox.ButtonRole.AcceptRole)
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        self._lay_out()
        self._fill(self._project.region_states(slide_id))

    @property
    def chosen(self) -> RegionState | None:
        """The state in the marked row."""
        item = self.list.currentItem()
        return None if item is None else item.data(0, STATE)

    def _lay_out(self) -> None:
        middle = QHBoxLayout()
        middle.addWidget(self.list, 3)
        middle.addWidget(self.preview, 2)
        layout = QVBoxLayout(self)
        hint = QLabel("What is drawn now is kept as a state too, and restoring is one step that Undo takes back.")
        hint.setWordWrap(True)
        layout.addWidget(hint)
        layout.addLayout(middle, 1)
        layout.addWidget(self.trouble)
        layout.addWidget(self.buttons)

    def _fill(self, states: tuple[RegionState, ...]) -> None:
        for state in states:
            when = f"{state.time.astimezone():%Y-%m-%d %H:%M:%S}"
            count, change = ("", state.summary) if state.damaged else (str(state.regions), state.change)
            item = QTreeWidgetItem([when, count, change])
            item.setData(0, STATE, state)
            item.setToolTip(2, state.summary)
            item.setDisabled(state.damaged)
            self.list.addTopLevelItem(item)
        for column in (0, 1):
            self.list.resizeColumnToContents(column)
        self.list.currentItemChanged.connect(lambda _now, _before: self._show_chosen())
        self.restore_button.setEnabled(False)
        if not states:
            self.trouble.setText("Nothing was saved for this slide yet.")
        self.list.setCurrentItem(self.list.topLevelItem(0))

    def _show_chosen(self) -> None:
        state = self.chosen
        self.restore_button.setEnabled(False)
        if state is not None:
            self._errands.run(
                lambda: self._project.regions_at(self._slide_id, state),
                partial(self._on_read, state),
                partial(self._on_failed, state),
            )

    def _on_read(self, state: RegionState, regions: RegionSet) -> None:
        if state == self.chosen:
            self.preview.show_regions(regions)
            self.trouble.setText(self._project.read_only)
            self.restore_button.setEnabled(not self._project.read_only)

    def _on_failed(self, state: RegionState, error: BaseException) -> None:
        if state == self.chosen:
            self.preview.show_regions(RegionSet())
            self.trouble.setText(sentence(error))


class RestoreButton(QPushButton):
    """Opens the dialog for the slide in view, also when its regions cannot be read.

    Parameters
    ----------
    desk : Desk
    attempt
        Calls an action and shows its error; False when there was one.
    """

    def __init__(self, desk: Desk, attempt: Callable[[Callable[[], Any]], bool]) -> None:
        super().__init__("Restore ...")
        self.setToolTip("Bring an earlier state of this slide's regions back: the last 50 are kept on the disk.")
        self._desk, self._attempt = desk, attempt
        self.clicked.connect(lambda _checked: attempt(self.ask))

    def ask(self) -> None:
        """Let the user choose a state, and bring it back."""
        slide_id = self._desk.session.current_slide
        if slide_id is None:
            raise RegionsError("No slide of the project is in view; show one from the Slides dock.")
        editor = self._desk.editor_of(slide_id)
        if editor is not None:
            editor.flush()
        dialog = RestoreDialog(self._desk, slide_id, self)
        dialog.accepted.connect(lambda: self._attempt(lambda: self.restore(slide_id, dialog.chosen)))
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.open()

    def restore(self, slide_id: str, state: RegionState | None) -> None:
        """Bring a state of a slide back, as one step that can be undone.

        Raises
        ------
        RegionsError
            If it is damaged.
        ProjectError
            If it cannot be written, or the project is read-only here.
        """
        project, editor = self._desk.session.require_project(), self._desk.editor_of(slide_id)
        if state is None:
            return
        project.check_writable()
        if editor is not None:
            editor.flush()
            editor.set_regions(project.regions_at(slide_id, state))
        else:
            project.restore_regions(slide_id, state)
            self._show_restored(slide_id)
        when = f"{state.time.astimezone():%Y-%m-%d %H:%M:%S}"
        self._desk.session.message.emit(f"{slide_id}: the regions of {when} are back ({state.regions}).", False)

    def _show_restored(self, slide_id: str) -> None:
        session = self._desk.session
        if slide_id == session.current_slide:
            slide = session.require_project().slide(slide_id)
            layers.identity(self._desk.open_regions(slide))[MARK] = True
        session.regions_changed.emit(slide_id)
