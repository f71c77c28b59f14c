"""A project of small slides with live training on it, stepped by hand."""

import time

from napari_slidecorr.live import LiveStudy
from napari_slidecorr.live_config import LiveConfig
from napari_slidecorr.live_events import LiveIdle
from napari_slidecorr.live_wishes import LiveWishes

CONFIG = LiveConfig(backbone="test_resnet", weights="random", size_px=32, mpp=0.5, device="cpu").fast


class Stepper:
    """Steps a study until something happened, and keeps what it said."""

    def __init__(self, project, cache, *, seen="", box=None, config=CONFIG, extractor=None):
        self.wishes = LiveWishes()
        self.wishes.look(seen or project.cohort[0].id, box)
        self.study = LiveStudy(project, config, self.wishes, cache, extractor)
        self.steps = self.study.steps()
        self.said = []

    def until(self, kind, condition=lambda _event: True, seconds=60):
        """Give the next event of a kind for which the condition holds."""
        ends = time.monotonic() + seconds
        for event in self.steps:
            self.said.append(event)
            if isinstance(event, kind) and condition(event):
                return event
            assert time.monotonic() < ends, f"no {kind.__name__}, but {self.said[-3:]}"
        raise AssertionError(f"it ended without {kind.__name__}")

    def settle(self):
        """Step until there is nothing left to do."""
        return self.until(LiveIdle, lambda event: event.settled)

    def of(self, kind):
        return [event for event in self.said if isinstance(event, kind)]

    def close(self):
        self.wishes.close()
        self.steps.close()
