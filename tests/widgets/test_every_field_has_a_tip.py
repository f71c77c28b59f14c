"""Whoever rests the mouse on a field or a button of any dock is told what it is for."""

import pytest
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QHeaderView,
    QLineEdit,
    QScrollBar,
    QTableView,
    QTreeView,
)
from superqt import QCollapsible

from napari_slidecorr._napari.dock_diagnostics import DiagnosticsDock
from napari_slidecorr._napari.dock_live import LiveDock
from napari_slidecorr._napari.dock_prediction import PredictionDock
from napari_slidecorr._napari.dock_regions import RegionsDock
from napari_slidecorr._napari.dock_slides import SlidesDock
from napari_slidecorr._napari.dock_training import TrainingDock

FIELDS = (QAbstractButton, QAbstractSlider, QAbstractSpinBox, QComboBox, QLineEdit)
PARTS_OF_ONE = (QAbstractSpinBox, QComboBox, QAbstractItemView, QAbstractSlider)
SAYS_ITSELF = (QScrollBar, QHeaderView)


def fields(dock):
    """What can be clicked or filled in, without the inner parts that Qt and superqt make of one field."""
    for each in dock.findChildren(FIELDS):
        inner = isinstance(
            each.parent(), (*PARTS_OF_ONE, QTableView, QTreeView)
        ) or each.parent().metaObject().className().startswith("QLabeled")
        unfolds = isinstance(each.parent(), QCollapsible)
        waits = isinstance(each, QAbstractButton) and not each.text() and each.icon().isNull()  # for what it will offer
        if not (inner or unfolds or waits or isinstance(each, SAYS_ITSELF)):
            yield each


def tip(widget, dock):
    """What Qt shows: the widget's own tip, or that of what it stands in."""
    while widget is not None and widget is not dock:
        if widget.toolTip():
            return widget.toolTip()
        widget = widget.parentWidget()
    return ""


@pytest.mark.parametrize("make", [SlidesDock, RegionsDock, TrainingDock, PredictionDock, LiveDock, DiagnosticsDock])
def test_every_field_of_a_dock_has_a_tip(make, make_napari_viewer):
    dock = make(make_napari_viewer())
    known = list(fields(dock))
    without = [
        f"{type(each).__name__} {each.objectName()} {getattr(each, 'text', str)()}"
        for each in known
        if not tip(each, dock)
    ]
    assert len(known) > 5
    assert not without
    dock.deleteLater()
