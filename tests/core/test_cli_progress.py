import io
import sys
from dataclasses import replace

import pytest

from napari_slidecorr.cli_progress import shown
from napari_slidecorr.events import EpochDone, Event, Notice

EPOCH = EpochDone(
    phase="Epoch 1 of 2",
    done=1,
    total=2,
    epoch=0,
    loss=0.5,
    terms={},
    pairs=6.0,
    train_auc=0.9,
    validation_auc=0.7,
    validation_accuracy=0.6,
    patches_per_second=10.0,
    seconds=1.0,
)
NOTE = Notice(phase="Start", message="Training on cpu.")
WARNING = Notice(phase="Start", message="Only one slide.", warning=True)
BATCHES = [Event(phase="Training", done=done, total=100) for done in range(1, 101)]


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Work:
    """A stream of events that remembers how far it was stepped and whether it was closed."""

    def __init__(self, *events):
        self.stepped, self.closed = 0, False
        self.events = self._steps(events)

    def _steps(self, events):
        try:
            for event in events:
                self.stepped += 1
                yield event
        finally:
            self.closed = True


def show_all(*events, quiet=False):
    with shown(Work(*events).events, quiet=quiet) as stream:
        assert list(stream) == list(events)


def test_a_log_gets_a_line_for_each_phase_notice_and_epoch(capsys):
    show_all(NOTE, WARNING, *BATCHES, EPOCH)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "Training on cpu.",
        "Warning: Only one slide.",
        "Training 1/100",
        "Epoch 1: loss 0.5000, training AUC 0.900, held-out AUC 0.700, held-out accuracy 0.600 (1.0 s)",
    ]


def test_without_held_out_slides_no_validation_is_claimed(capsys):
    show_all(replace(EPOCH, validation_auc=float("nan"), validation_accuracy=float("nan")))
    assert capsys.readouterr().err == "Epoch 1: loss 0.5000, training AUC 0.900, nothing held out (1.0 s)\n"


def test_a_script_gets_warnings_only(capsys):
    show_all(NOTE, WARNING, *BATCHES, EPOCH, quiet=True)
    assert capsys.readouterr() == ("", "Warning: Only one slide.\n")


def test_a_terminal_gets_a_bar_and_keeps_notices(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    show_all(NOTE, *BATCHES, EPOCH)
    written = terminal.getvalue()
    assert "100/100" in written
    assert "Training on cpu." in written
    assert "Epoch 1: loss" in written


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError, None], ids=["Ctrl-C", "an error", "left"])
def test_work_is_closed_however_it_ends(stop):
    def step_once():
        with shown(work.events, quiet=True) as stream:
            next(stream)
            if stop:
                raise stop

    work = Work(*BATCHES)
    if stop:
        with pytest.raises(stop):
            step_once()
    else:
        step_once()
    assert (work.stepped, work.closed) == (1, True)
