from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from qtpy.QtCore import Qt
from superqt import QCollapsible

from napari_slidecorr._napari.form import make_form
from napari_slidecorr.config import (
    CrossEntropyConfig,
    PatchConfig,
    PredictConfig,
    SdaConfig,
    TrainConfig,
)
from napari_slidecorr.errors import ConfigError
from napari_slidecorr.settings import check, fields_of, setting

pytestmark = pytest.mark.usefixtures("qapp")

text = st.text(st.characters(codec="ascii", exclude_categories=["Cc", "Zs"]), max_size=30)


def values(field):
    """Whatever a setting declares as allowed."""
    told = field.setting
    if field.nested:
        return st.one_of(*map(configs, field.nested))
    if field.choices:
        return st.sampled_from(field.choices)
    (plain,) = field.plain_types
    low, high = (b if b is not None else a for a, b in ((told.ge, told.gt), (told.le, told.lt)))
    number = {
        float: lambda: st.floats(
            low,
            high,
            exclude_min=told.gt is not None,
            exclude_max=told.lt is not None,
            allow_nan=False,
            allow_infinity=False,
        ),
        int: lambda: st.integers(low, 2**62 if high is None else high),
        bool: st.booleans,
        str: lambda: text,
    }[plain]()
    return st.none() | number if field.optional else number


def configs(config_type):
    """Configs with any allowed values, but for those that contradict each other."""

    def make(given):
        try:
            return config_type(**given)
        except ConfigError:
            assume(False)

    return st.fixed_dictionaries({field.name: values(field) for field in fields_of(config_type)}).map(make)


@pytest.fixture(scope="module")
def train_form():
    return make_form(TrainConfig(), {"backbone": ["resnet18", "resnet50"]})


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(config=configs(TrainConfig))
def test_what_is_shown_is_what_is_read(train_form, config):
    train_form.set(config)
    assert train_form.read() == config


@pytest.mark.parametrize("config", [PredictConfig(), PatchConfig(mpp=None), TrainConfig()], ids=repr)
def test_defaults_survive_a_new_form(config):
    assert make_form(config).read() == config


def test_small_numbers_are_not_rounded():
    form = make_form(TrainConfig(learning_rate=3e-6, weight_decay=1e-9))
    assert (form.read().learning_rate, form.read().weight_decay) == (3e-6, 1e-9)


def test_typing_changes_the_config(qtbot):
    form = make_form(TrainConfig())
    qtbot.addWidget(form)
    form.show()
    line = form.edits["validation_fraction"].editor
    line.clear()
    with qtbot.waitSignal(form.changed):
        qtbot.keyClicks(line, "0.4")
    assert form.read().validation_fraction == 0.4


@pytest.mark.parametrize(
    ("name", "typed", "told"),
    [
        pytest.param("validation_fraction", "half", "must be a number", id="no number"),
        pytest.param("validation_fraction", "1.5", "must be below 1", id="out of bounds"),
        pytest.param("learning_rate", "", "must be a number", id="empty where something is needed"),
        pytest.param("learning_rate", "inf", "must be a finite number", id="not finite"),
    ],
)
def test_a_bad_value_marks_its_field_until_it_is_mended(qtbot, name, typed, told):
    form = make_form(TrainConfig())
    qtbot.addWidget(form)
    form.show()
    form.edits[name].editor.setText(typed)
    with pytest.raises(ConfigError, match=told):
        form.read()
    assert told in form.errors[name].text()
    assert form.errors[name].isVisible(), "an error in the folded part opens the fold"
    form.edits[name].editor.setText("0.1")
    form.read()
    assert not form.errors[name].isVisible()


def test_settings_that_contradict_each_other_mark_the_named_one():
    form = make_form(TrainConfig())
    form.edits["patches_per_slide"].editor.setValue(1)
    with pytest.raises(ConfigError, match="SCR compares patches"):
        form.read()
    assert "SCR compares patches" in form.errors["patches_per_slide"].text()


def test_a_bad_value_in_a_nested_config_is_marked_inside():
    form = make_form(TrainConfig())
    inner = form.edits["patches"].editor
    inner.edits["mpp"].editor.setText("-1")
    with pytest.raises(ConfigError, match="mpp is -1"):
        form.read()
    assert "mpp is -1" in inner.errors["mpp"].text()
    inner.edits["mpp"].editor.setText("")
    assert form.read().patches.mpp is None


def test_the_objective_swaps_its_own_settings(qtbot):
    form = make_form(TrainConfig())
    qtbot.addWidget(form)
    form.show()
    objective = form.edits["objective"]
    objective.combo.setCurrentIndex(objective.combo.findData(SdaConfig))
    visible = [inner.config_type for inner in objective._forms if inner.isVisible()]
    assert visible == [SdaConfig]
    objective.combo.setCurrentIndex(objective.combo.findData(CrossEntropyConfig))
    assert not any(inner.isVisible() for inner in objective._forms), "cross-entropy has nothing to set"
    assert form.read().objective == CrossEntropyConfig()


def test_every_setting_has_label_tooltip_and_its_place(qtbot):
    form = make_form(TrainConfig())
    qtbot.addWidget(form)
    form.show()
    (fold,) = (child for child in form.findChildren(QCollapsible) if child.parent() is form)
    for field in fields_of(TrainConfig):
        assert form.edits[field.name].toolTip() == field.setting.help
        assert fold.isAncestorOf(form.edits[field.name]) == field.setting.advanced


def test_scrolling_past_changes_nothing(qtbot):
    form = make_form(TrainConfig())
    qtbot.addWidget(form)
    form.show()
    before = form.read()
    for editor in (form.edits["epochs"].editor, form.edits["objective"].combo):
        _wheel(editor)
    assert form.read() == before


def _wheel(widget):
    from qtpy.QtCore import QPoint, QPointF
    from qtpy.QtGui import QWheelEvent
    from qtpy.QtWidgets import QApplication

    middle = QPointF(widget.rect().center())
    event = QWheelEvent(
        middle,
        QPointF(widget.mapToGlobal(widget.rect().center())),
        QPoint(0, -120),
        QPoint(0, -120),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(widget, event)


def test_any_config_makes_a_form():
    @dataclass(frozen=True, kw_only=True)
    class Strict:
        count: int = setting(3, "Count", "How many.", gt=0, lt=10)

        def __post_init__(self):
            check(self)

    form = make_form(Strict())
    form.edits["count"].editor.setValue(99)
    assert form.read() == Strict(count=9), "the spin box knows bounds that are left out, too"
