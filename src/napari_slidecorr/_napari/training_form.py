"""What decides a training: the way, its settings (the common ones on top), and how often slides are held out."""

from __future__ import annotations

from typing import Any, Literal

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QLabel, QSizePolicy, QSpinBox, QVBoxLayout, QWidget

from napari_slidecorr._napari.dock import narrow
from napari_slidecorr._napari.form import ConfigForm, Edit, make_form
from napari_slidecorr._napari.parts import row
from napari_slidecorr.backbone_table import BACKBONES as PATHOLOGY
from napari_slidecorr.config import TrainConfig
from napari_slidecorr.errors import ConfigError
from napari_slidecorr.fast_config import FastConfig

Way = Literal["fast", "full"]
Rounds = Literal["once", "folds", "each"]

BACKBONES = ("resnet18", "resnet50", "densenet121", "alexnet", "vgg16")
WEIGHTS = ("imagenet", "random")
_PATHOLOGY = tuple(known.name for known in PATHOLOGY if known.usable)
FULL_SUGGESTIONS = {"backbone": (*BACKBONES, "tf_efficientnet_lite0", *_PATHOLOGY), "weights": WEIGHTS}
FAST_SUGGESTIONS = {"backbone": ("tf_efficientnet_lite0", *BACKBONES, *_PATHOLOGY), "weights": WEIGHTS}
FULL_COMMON = ("backbone", "objective", "validation_fraction", "split")
FAST_COMMON = ("backbone", "head")

WAYS: tuple[tuple[str, Way], ...] = (
    ("Fast: seconds, on frozen features", "fast"),
    ("Full: train the network itself", "full"),
)
WAY_HELP = (
    "Fast: a network that knows pictures in general describes each patch, and only the last step is learnt. Full: the network itself "
    "learns your tissue; minutes to hours, better with a graphics card."
)
ROUNDS: tuple[tuple[str, Rounds], ...] = (
    ("once", "once"),
    ("in folds", "folds"),
    ("each slide in turn", "each"),
)
ROUNDS_HELP = (
    "once: one part of the slides is held out. In folds: train so many times, every slide is held out once. Each slide in turn: "
    "one training for each slide or patient, without it."
)
FAST_SPLIT = "Held out: each slide or patient once, for the score; the model that is kept has seen all."
LEAKY_WARNING = "⚠ Leaky: patches of the same slides on both sides. The score flatters and says nothing of a new slide."


class TrainingForm(QWidget):
    """A choice of the way, and the form that belongs to it.

    Parameters
    ----------
    way : str
        ``fast`` or ``full``, shown first.

    Attributes
    ----------
    forms : dict of way to ConfigForm
    """

    changed = Signal()

    def __init__(self, way: Way) -> None:
        super().__init__()
        self.way_choice = narrow(QComboBox())
        self.way_choice.setObjectName("way")
        self.way_choice.setToolTip(WAY_HELP)
        for text, data in WAYS:
            self.way_choice.addItem(text, data)
        self.forms: dict[Way, ConfigForm] = {
            "fast": make_form(FastConfig(), FAST_SUGGESTIONS, FAST_COMMON),
            "full": make_form(TrainConfig(), FULL_SUGGESTIONS, FULL_COMMON),
        }
        self.rounds_choice, self.folds = _rounds_choice(), _folds_spin()
        self.fast_split, self.leaky = _line(FAST_SPLIT), _line(LEAKY_WARNING)
        self.leaky.setStyleSheet("color: #d9822b;")
        self._lay_out()
        self._last = way
        self.way_choice.setCurrentIndex(self.way_choice.findData(way))
        self._show_way()
        self.way_choice.currentIndexChanged.connect(self._on_way)
        self.rounds_choice.currentIndexChanged.connect(self._on_change)
        self.folds.valueChanged.connect(self._on_change)
        for form in self.forms.values():
            form.changed.connect(self._on_change)

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        top = QFormLayout()
        top.addRow("Way", self.way_choice)
        layout.addLayout(top)
        self.forms["full"].add_row("Rounds", ROUNDS_HELP, row(self.rounds_choice, self.folds))
        for widget in (*self.forms.values(), self.leaky, self.fast_split):
            layout.addWidget(widget)

    # -- what a dock reads and shows ----------------------------------------------------------------------------------

    @property
    def way(self) -> Way:
        """The chosen way."""
        return self.way_choice.currentData()

    @way.setter
    def way(self, way: Way) -> None:
        self.way_choice.setCurrentIndex(self.way_choice.findData(way))

    @property
    def form(self) -> ConfigForm:
        """The form of the chosen way."""
        return self.forms[self.way]

    @property
    def edits(self) -> dict[str, Edit]:
        """The fields of the chosen way, by name of the setting."""
        return self.form.edits

    @property
    def rounds(self) -> Rounds:
        """How often slides are held out; a fast training does it in its own way."""
        return "once" if self.way == "fast" else self.rounds_choice.currentData()

    def read(self) -> TrainConfig | FastConfig:
        """Give the settings of the chosen way.

        Raises
        ------
        ConfigError
            For the first value that is not allowed; its field is marked.
        """
        return self.form.read()

    def set(self, config: TrainConfig | FastConfig) -> None:
        """Show settings, and with them the way that they are of."""
        self.way = "fast" if isinstance(config, FastConfig) else "full"
        self.form.set(config)

    def set_rounds(self, rounds: Rounds, folds: int | None = None) -> None:
        """Choose how often slides are held out."""
        self.rounds_choice.setCurrentIndex(self.rounds_choice.findData(rounds))
        if folds is not None:
            self.folds.setValue(folds)

    # -- what happens -------------------------------------------------------------------------------------------------

    def _on_way(self) -> None:
        """Take along what both ways have, as far as it can be read."""
        other, self._last = self._last, self.way
        for name in ("patches", "stain"):
            try:
                self.edits[name].write(self.forms[other].edits[name].read())
            except ConfigError:
                continue  # it stays marked in the form that was left
        self._show_way()
        self.changed.emit()

    def _on_change(self, *_: Any) -> None:
        self._show_way()
        self.changed.emit()

    def _show_way(self) -> None:
        fast = self.way == "fast"
        for way, form in self.forms.items():
            form.setVisible(way == self.way)
        full = self.forms["full"].edits
        full["validation_fraction"].setEnabled(self.rounds_choice.currentData() == "once")
        self.folds.setVisible(self.rounds == "folds")
        self.fast_split.setVisible(fast)
        self.leaky.setVisible(not fast and full["split"].read() == "patches")


def _rounds_choice() -> QComboBox:
    made = narrow(QComboBox())
    made.setObjectName("rounds")
    for text, data in ROUNDS:
        made.addItem(text, data)
    made.setToolTip(ROUNDS_HELP)
    return made


def _folds_spin() -> QSpinBox:
    made = QSpinBox()
    made.setRange(2, 100)
    made.setValue(5)
    made.setSuffix(" folds")
    made.setToolTip("How many trainings; each holds out another part of the slides.")
    return made


def _line(text: str) -> QLabel:
    made = QLabel(text)
    made.setWordWrap(True)
    made.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    return made
