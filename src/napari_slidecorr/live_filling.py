"""Features for live training: of the slide in view first, what is in view first, and labelled cells before all others."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.errors import SlideCorrError
from napari_slidecorr.events import Event, Notice
from napari_slidecorr.geometry import Box
from napari_slidecorr.live_events import CacheTold, LiveFilled
from napari_slidecorr.live_slide import LiveSlide
from napari_slidecorr.live_wishes import LiveWishes

KEEPING = "Keeping features"
"""The phase of a notice that the disk does not take features; it is told once."""

MEMORY = "Features in memory"

if TYPE_CHECKING:
    from napari_slidecorr.learning.extractor import Extractor
    from napari_slidecorr.learning.feature_store import FeatureCache


class LiveFilling:
    """Fills slides, a batch at a time.

    Parameters
    ----------
    slides : mapping of slide id to LiveSlide
        Filled in place; may grow.
    wishes : LiveWishes
        Asked what is in view.
    cache : FeatureCache
    batch_size : int
    limit_bytes : int
        How much memory features of all slides may take. Labelled cells are held in any case; for the slide in view the
        others are let go, the one first that was not in view for longest.
    """

    def __init__(
        self,
        slides: Mapping[str, LiveSlide],
        wishes: LiveWishes,
        cache: FeatureCache,
        batch_size: int,
        limit_bytes: int,
    ) -> None:
        self._slides, self._wishes, self._cache, self._batch_size = slides, wishes, cache, batch_size
        self._limit_bytes = limit_bytes
        self._seen_last: list[str] = []
        self._told: set[str] = set()
        self._scarce = False
        self._running: tuple[tuple[str, bool], Iterator[Event]] | None = None
        self._mask = np.zeros((0, 0), bool)

    def target(self) -> tuple[LiveSlide, bool] | None:
        """Say which slide comes next, and whether only its labelled cells; None when all is there."""
        seen = self._slides.get(self._wishes.seen[0])
        if seen is not None and self._seen_last[-1:] != [seen.id]:
            self._seen_last = [*(name for name in self._seen_last if name != seen.id), seen.id]
        order = ([seen] if seen is not None else []) + [s for s in self._slides.values() if s is not seen]
        for slide in order:
            if slide.missing_labelled().any():
                return slide, True
        return next(((slide, False) for slide in order if slide.missing().any() and self._has_room(slide, seen)), None)

    def _has_room(self, slide: LiveSlide, seen: LiveSlide | None) -> bool:
        """Whether the rest of a slide may be held; makes room for the one in view."""
        if self._running is not None and self._running[0] == (slide.id, False):
            return True
        need = int(slide.missing().sum()) * slide.cell_bytes
        if slide is seen:
            others = [self._slides[name] for name in self._seen_last if name in self._slides and name != slide.id]
            never = [one for one in self._slides.values() if one is not slide and one not in others]
            for other in never + others:
                if need > self._free_bytes():
                    other.let_go()
                    self._scarce = True
        self._scarce |= need > self._free_bytes()
        return need <= self._free_bytes() or (
            slide is seen and self._free_bytes() >= self._batch_size * slide.cell_bytes
        )

    def _free_bytes(self) -> int:
        return self._limit_bytes - sum(slide.count * slide.cell_bytes for slide in self._slides.values())

    def news(self) -> Notice | None:
        """Say once that not all features can be held."""
        if not self._scarce or MEMORY in self._told:
            return None
        self._told.add(MEMORY)
        return Notice(
            phase=MEMORY,
            message=f"Features of all slides need more than the {self._limit_bytes >> 20:,} MB of memory that they may take: slides "
            "out of view keep those of labelled patches alone. Raise the bound with SLIDECORR_MEMORY_MB, or take larger patches.",
            warning=True,
        )

    def step(self, slide: LiveSlide, extractor: Extractor, *, only_labelled: bool) -> Generator[Event, None, None]:
        """Go one batch on; what cannot be read is told, and not asked for again."""
        from napari_slidecorr.learning.features import FeaturesAdded, FeaturesDone

        key = slide.id, only_labelled
        if self._running is None or self._running[0] != key:
            self.stop()
            self._mask = slide.missing_labelled() if only_labelled else self._affordable(slide)
            self._running = key, self._extraction(slide, extractor)
        try:
            event = next(self._running[1], None)
        except SlideCorrError as error:
            self._running = None
            slide.give_up(self._mask, error)
            yield Notice(phase="Features", message=str(error), warning=True)
            yield filled(slide)
            return
        if event is None or isinstance(event, FeaturesDone):
            yield from self._end(slide)
            yield filled(slide)
            return
        if not isinstance(event, FeaturesAdded):
            yield from self._new(event)
            return
        slide.take(event.cells, event.features)
        yield filled(slide)
        if event.done >= event.total:
            yield from self._end(slide)

    def _end(self, slide: LiveSlide) -> Generator[Event, None, None]:
        """Let the extraction tell what could not be read, and keep the rest."""
        rest = self._running[1] if self._running is not None else iter(())
        for event in rest:
            if isinstance(event, Notice):
                yield from self._new(event)
        self._running = None
        slide.give_up(self._mask)
        yield told_cache(self._cache)

    def _affordable(self, slide: LiveSlide) -> NDArray[np.bool_]:
        """Missing cells of a slide, but for those that are too many for the memory."""
        mask = slide.missing()
        places = np.flatnonzero(mask)
        mask.flat[places[max(0, self._free_bytes() // slide.cell_bytes) :]] = False
        return mask

    def _new(self, event: Event) -> Iterator[Event]:
        """Leave out what was told of another slide already."""
        if isinstance(event, Notice) and event.phase == KEEPING:
            if KEEPING in self._told:
                return
            self._told.add(KEEPING)
        yield event

    def stop(self) -> None:
        """Keep what was computed; the next step begins anew."""
        if self._running is not None:
            running, self._running = self._running[1], None
            if isinstance(running, Generator):
                running.close()

    def _extraction(self, slide: LiveSlide, extractor: Extractor) -> Iterator[Event]:
        from napari_slidecorr.learning.features import extract

        def view() -> Box | None:
            seen, box = self._wishes.seen
            return box if seen == slide.id else None

        return extract(
            slide.slide,
            extractor,
            slide.grid,
            cache=self._cache,
            wanted=self._mask,
            view=view,
            batch_size=self._batch_size,
        )


def filled(slide: LiveSlide) -> LiveFilled:
    """Tell how far a slide is."""
    wanted = slide.wanted()
    return LiveFilled(
        phase=f"Features of {slide.id}",
        done=int((wanted & (slide.place >= 0)).sum()),
        total=int(wanted.sum()),
        slide_id=slide.id,
        labelled=len(slide.labelled.labels),
        trouble=slide.trouble,
    )


def told_cache(cache: FeatureCache) -> CacheTold:
    """Tell how much is kept."""
    facts = cache.facts()
    return CacheTold(
        phase="Features kept",
        folder=facts["folder"],
        slides=facts["slides"],
        size_bytes=facts["bytes"],
        limit_bytes=facts["limit_bytes"],
    )
