"""A form made from a config's declaration: label, tooltip, bounds and folds come from `settings`, nothing is retyped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QIcon, QWheelEvent
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible, QLargeIntSpinBox

from napari_slidecorr._napari.dock import ERROR_COLOR, narrow
from napari_slidecorr.errors import ConfigError
from napari_slidecorr.settings import SettingField, fields_of

Suggestions = Mapping[str, Sequence[str]]
FOLDED, UNFOLDED = "▸ Advanced settings", "▾ Advanced settings"
_NO_SUGGESTIONS: Suggestions = {}


class Edit(QWidget):
    """One value that can be edited; `read` gives it, or raises `ConfigError` with what is wrong."""

    changed = Signal()

    def __init__(self, editor: QWidget) -> None:
        super().__init__()
        self.editor = editor
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(editor)

    def read(self) -> Any:
        """Give the value."""
        raise NotImplementedError

    def write(self, value: Any) -> None:
        """Show a value."""
        raise NotImplementedError


class BoolEdit(Edit):
    """A check box."""

    def __init__(self, _field: SettingField) -> None:
        super().__init__(QCheckBox())
        self.editor.toggled.connect(self.changed)

    def read(self) -> bool:
        """Whether it is checked."""
        return bool(self.editor.isChecked())

    def write(self, value: bool) -> None:  # noqa: FBT001 - the value itself
        """Check or uncheck."""
        self.editor.setChecked(value)


class ChoiceEdit(Edit):
    """A drop-down of the values of a Literal."""

    def __init__(self, field: SettingField) -> None:
        super().__init__(narrow(_Combo()))
        for choice in field.choices:
            self.editor.addItem(str(choice), choice)
        self.editor.currentIndexChanged.connect(self.changed)

    def read(self) -> Any:
        """The chosen value."""
        return self.editor.currentData()

    def write(self, value: Any) -> None:
        """Choose."""
        self.editor.setCurrentIndex(self.editor.findData(value))


class IntEdit(Edit):
    """A spin box that knows the bounds and takes integers of any size."""

    def __init__(self, field: SettingField) -> None:
        super().__init__(_SpinBox())
        told = field.setting
        low = told.ge if told.ge is not None else told.gt + 1 if told.gt is not None else -(2**62)
        high = told.le if told.le is not None else told.lt - 1 if told.lt is not None else 2**62
        self.editor.setRange(int(low), int(high))
        self.editor.setSingleStep(int(told.step or 1))
        self.editor.valueChanged.connect(self.changed)

    def read(self) -> int:
        """The number."""
        return int(self.editor.value())

    def write(self, value: int) -> None:
        """Show a number."""
        self.editor.setValue(value)


class FloatEdit(Edit):
    """A line for a number: a spin box would round 3e-6 to 0. Empty is None where that is allowed."""

    def __init__(self, field: SettingField) -> None:
        super().__init__(QLineEdit())
        self._field = field
        if field.optional:
            self.editor.setPlaceholderText("none")
        self.editor.textChanged.connect(self.changed)

    def read(self) -> float | None:
        """The number; what is not one is an error here, bounds are the config's business."""
        text = self.editor.text().strip()
        if not text and self._field.optional:
            return None
        try:
            return float(text)
        except ValueError:
            raise ConfigError(f"{self._field.name} is {text!r}; it must be a number such as 0.5 or 3e-4.") from None

    def write(self, value: float | None) -> None:
        """Show the shortest text that gives the very number back."""
        short = "" if value is None else f"{value:g}"
        self.editor.setText(short if value is None or float(short) == value else repr(value))


class TextEdit(Edit):
    """A line of text."""

    def __init__(self, _field: SettingField) -> None:
        super().__init__(QLineEdit())
        self.editor.textChanged.connect(self.changed)

    def read(self) -> str:
        """The text, without blanks around it."""
        return str(self.editor.text()).strip()

    def write(self, value: str) -> None:
        """Show a text from its beginning."""
        self.editor.setText(value)
        self.editor.setCursorPosition(0)


class SuggestEdit(Edit):
    """A line of text with a drop-down of usual values."""

    def __init__(self, suggestions: Sequence[str]) -> None:
        super().__init__(narrow(_Combo()))
        self.editor.setEditable(True)
        self.editor.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.editor.addItems(list(suggestions))
        self.editor.editTextChanged.connect(self.changed)

    def read(self) -> str:
        """The text, without blanks around it."""
        return str(self.editor.currentText()).strip()

    def write(self, value: str) -> None:
        """Show a text."""
        self.editor.setEditText(value)


class NestedEdit(Edit):
    """A config inside a config."""

    def __init__(self, field: SettingField, suggestions: Suggestions) -> None:
        super().__init__(ConfigForm(field.nested[0], suggestions))
        self.editor.changed.connect(self.changed)

    def read(self) -> Any:
        """The inner config."""
        return self.editor.read()

    def write(self, value: Any) -> None:
        """Show the inner config."""
        self.editor.set(value)


class UnionEdit(Edit):
    """A choice between kinds of config: a drop-down that swaps the form below it."""

    def __init__(self, field: SettingField, suggestions: Suggestions) -> None:
        super().__init__(QWidget())
        self.combo = narrow(_Combo())
        self._forms = [ConfigForm(config_type, suggestions) for config_type in field.nested]
        layout = QVBoxLayout(self.editor)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.combo)
        for form in self._forms:
            title = getattr(form.config_type, "title", form.config_type.__name__)
            self.combo.addItem(title, form.config_type)
            self.combo.setItemData(self.combo.count() - 1, form.config_type.__doc__, Qt.ItemDataRole.ToolTipRole)
            layout.addWidget(form)
            form.changed.connect(self.changed)
        self.combo.currentIndexChanged.connect(self._swap)
        self._swap(0)

    def _swap(self, index: int) -> None:
        for number, form in enumerate(self._forms):
            form.setVisible(number == index and bool(form.edits))
        self.combo.setToolTip(self.combo.currentText())
        self.changed.emit()

    def read(self) -> Any:
        """The config of the chosen kind."""
        return self._forms[self.combo.currentIndex()].read()

    def write(self, value: Any) -> None:
        """Choose the kind of a config and show it."""
        index = next(i for i, form in enumerate(self._forms) if form.config_type is type(value))
        self._forms[index].set(value)
        self.combo.setCurrentIndex(index)


class ConfigForm(QWidget):
    """A form for one config type; made by `make_form`.

    Attributes
    ----------
    config_type : type
    edits : dict of str to Edit
        By name of the setting.
    errors : dict of str to QLabel
        Hidden lines below the fields, for what is wrong with them.
    """

    changed = Signal()

    def __init__(
        self, config_type: type, suggestions: Suggestions = _NO_SUGGESTIONS, common: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.config_type: Any = config_type
        self.edits: dict[str, Edit] = {}
        self.errors: dict[str, QLabel] = {}
        self._suggestions = suggestions
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        fields = {field.name: field for field in fields_of(config_type)}
        shown = common or [name for name, field in fields.items() if not field.setting.advanced]
        self._rows = self._add_rows([fields[name] for name in shown])
        self.fold: QCollapsible | None = None
        if folded := [field for name, field in fields.items() if name not in shown]:
            self._fold(self._add_rows(folded))

    def _fold(self, rows: QWidget) -> None:
        self.fold = fold = QCollapsible(FOLDED, None, QIcon(), QIcon())  # its own icons are black on any theme
        fold.toggled.connect(lambda is_open: fold.setText(UNFOLDED if is_open else FOLDED))
        fold.setDuration(0)
        fold.layout().setContentsMargins(0, 2, 0, 2)
        fold.content().layout().setContentsMargins(6, 2, 0, 2)
        self.fold.addWidget(rows)
        self._layout.addWidget(self.fold)

    def _add_rows(self, fields: Sequence[SettingField]) -> QWidget:
        rows = QWidget()
        layout = QFormLayout(rows)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        layout.setRowWrapPolicy(QFormLayout.RowWrapPolicy.DontWrapRows)
        for field in fields:
            self._add_row(layout, field)
        self._layout.addWidget(rows)
        return rows

    def _add_row(self, layout: QFormLayout, field: SettingField) -> None:
        edit = self.edits[field.name] = _edit_for(field, self._suggestions)
        edit.setObjectName(field.name)
        edit.setToolTip(field.setting.help)
        edit.changed.connect(self.changed)
        error = self.errors[field.name] = QLabel()
        error.setWordWrap(True)
        error.setStyleSheet(f"color: {ERROR_COLOR};")
        error.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        error.hide()
        if isinstance(edit, NestedEdit):
            layout.addRow(_boxed(field, edit))
        else:
            label = QLabel(field.setting.label)
            label.setToolTip(field.setting.help)
            layout.addRow(label, edit)
        layout.addRow(error)

    def add_row(self, label: str, tip: str, widget: QWidget) -> None:
        """Put what is no setting of the config below the settings that are not folded."""
        text = QLabel(label)
        text.setToolTip(tip)
        self._rows.layout().addRow(text, widget)

    def read(self) -> Any:
        """Give the config.

        Raises
        ------
        ConfigError
            For the first value that is not allowed; its field is marked and tells what is wrong until the next read.
        """
        for name in self.edits:
            self._mark(name, "")
        values: dict[str, Any] = {}
        for name, edit in self.edits.items():
            try:
                values[name] = edit.read()
            except ConfigError as error:
                if not isinstance(edit, NestedEdit | UnionEdit):  # those mark the field inside
                    self._mark(name, str(error))
                raise
        try:
            return self.config_type(**values)
        except ConfigError as error:
            self._mark(next((name for name in self.edits if str(error).startswith(f"{name} ")), ""), str(error))
            raise

    def set(self, config: Any) -> None:
        """Show a config."""
        for name, edit in self.edits.items():
            edit.write(getattr(config, name))

    def _mark(self, name: str, text: str) -> None:
        if name not in self.edits:
            return
        self.edits[name].setStyleSheet(
            f"QLineEdit, QAbstractSpinBox {{ border: 1px solid {ERROR_COLOR}; }}" * bool(text)
        )
        self.errors[name].setText(text)
        self.errors[name].setVisible(bool(text))
        if text and self.fold is not None and self.fold.isAncestorOf(self.edits[name]):
            self.fold.expand(animate=False)


def make_form(config: Any, suggestions: Suggestions = _NO_SUGGESTIONS, common: Sequence[str] = ()) -> ConfigForm:
    """Make a form that shows a config.

    Parameters
    ----------
    suggestions : mapping of setting name to values
        Usual values of settings that are free text, offered in a drop-down.
    common : sequence of str
        Names of the settings that are not folded, in this order; those that are not advanced when left out.
    """
    form = ConfigForm(type(config), suggestions, common)
    form.set(config)
    return form


def _edit_for(field: SettingField, suggestions: Suggestions) -> Edit:
    if field.nested:
        return UnionEdit(field, suggestions) if len(field.nested) > 1 else NestedEdit(field, suggestions)
    if field.choices:
        return ChoiceEdit(field)
    if field.name in suggestions:
        return SuggestEdit(suggestions[field.name])
    (plain,) = field.plain_types
    return {bool: BoolEdit, int: IntEdit, float: FloatEdit, str: TextEdit}[plain](field)


def _boxed(field: SettingField, edit: Edit) -> QGroupBox:
    box = QGroupBox(field.setting.label)
    box.setToolTip(field.setting.help)
    QVBoxLayout(box).addWidget(edit)
    return box


class _Combo(QComboBox):
    """A combo box that scrolling past does not change."""

    def wheelEvent(self, event: QWheelEvent) -> None:
        event.ignore()


class _SpinBox(QLargeIntSpinBox):
    """A spin box that scrolling past does not change."""

    def wheelEvent(self, event: QWheelEvent) -> None:
        event.ignore()
