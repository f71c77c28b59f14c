"""Which objectives and colour remedies are to be trained side by side, and how often."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtWidgets import QCheckBox, QGridLayout, QLabel, QSpinBox, QVBoxLayout, QWidget

from napari_slidecorr._napari.parts import button, row
from napari_slidecorr._napari.training_progress import wrapped_line
from napari_slidecorr.config import DEFAULT_VARIANTS
from napari_slidecorr.wording import counted

VARIANTS = {
    "baseline": "Cross-entropy alone; what the others are compared with.",
    "scr": "Slide correlation reduction.",
    "cj": "Colour jitter.",
    "scr+cj": "Slide correlation reduction with colour jitter.",
    "sn": "Stain normalization (Macenko).",
    "scr+sn": "Slide correlation reduction with stain normalization.",
    "sda": "Slide-domain adversary.",
    "coral": "Correlation alignment of slides.",
    "groupdro": "Group DRO: the worst slide counts most.",
    "sce": "Slide correlation enhancement, the paper's ablation: expected to harm.",
    "baseline+leaky": "Cross-entropy with a random split of patches: how much that flatters.",
}
COLUMNS = 3


class ObjectiveChoice(QWidget):
    """Check boxes of variants, the number of seeds, and a button.

    Parameters
    ----------
    start : callable
        Called when *Compare* is clicked.
    """

    def __init__(self, start: Callable[[], object]) -> None:
        super().__init__()
        self.checks = {name: _check(name, tip) for name, tip in VARIANTS.items()}
        self.checks["baseline"].setEnabled(False)
        self.seeds = QSpinBox()
        self.seeds.setRange(1, 100)
        self.seeds.setValue(3)
        self.seeds.setToolTip("Each draws its own split, batches and start; differences are paired by seed.")
        self.same_split = QCheckBox("same slides held out")
        self.same_split.setToolTip("Hold the same slides out for every seed.")
        self.start_button = button(
            "Compare", "Train each chosen variant once for each seed, with the settings above.", start
        )
        self.told = wrapped_line()
        self.told.show()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        grid = QGridLayout()
        for number, check in enumerate(self.checks.values()):
            grid.addWidget(check, number // COLUMNS, number % COLUMNS)
        layout.addLayout(grid)
        layout.addWidget(row(QLabel("Seeds"), self.seeds, self.same_split))
        layout.addWidget(row(self.start_button, self.told))
        for check in self.checks.values():
            check.toggled.connect(self._count)
        self.seeds.valueChanged.connect(self._count)
        self._count()

    @property
    def variants(self) -> tuple[str, ...]:
        """The chosen variants, the one to beat first."""
        return tuple(name for name, check in self.checks.items() if check.isChecked())

    def show_choice(self, variants: tuple[str, ...], seeds: int, *, same_split: bool) -> None:
        """Show what an earlier comparison was of; variants that have no box here are left out."""
        for name, check in self.checks.items():
            check.setChecked(name in variants or name == "baseline")
        self.seeds.setValue(seeds)
        self.same_split.setChecked(same_split)

    def _count(self) -> None:
        number, seeds = len(self.variants), self.seeds.value()
        self.told.setText(f"{number} x {counted(seeds, 'seed')} = {number * seeds} trainings")


def _check(name: str, tip: str) -> QCheckBox:
    made = QCheckBox(name)
    made.setToolTip(tip)
    made.setChecked(name in DEFAULT_VARIANTS)
    return made
