"""Features for live training: of the slide in view first, what is in view first, and labelled cells before all others."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from napari_slidecorr.errors import SlideCorrError
from napari_slidecorr.events import Event, Notice
from napari_slidecorr.geometry import Box
from napari_slidecorr.live_events import CacheTold, LiveFilled
from napari_slidecorr.live_slide import LiveSlide
from napari_slidecorr.live_wishes import LiveWishes

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
    """

    def __init__(
        self, slides: Mapping[str, LiveSlide], wishes: LiveWishes, cache: FeatureCache, batch_size: int
    ) -> None:
        self._slides, self._wishes, self._cache, self._batch_size = slides, wishes, cache, batch_size
        self._running: tuple[tuple[str, bool], Iterator[Event]] | None = None
        self._mask = np.zeros((0, 0), bool)

    def target(self) -> tuple[LiveSlide, bool] | None:
        """Say which slide comes next, and whether only its labelled cells; None when all is there."""
        seen = self._slides.get(self._wishes.seen[0])
        order = ([seen] if seen is not None else []) + [s for s in self._slides.values() if s is not seen]
        for slide in order:
            if slide.missing_labelled().any():
                return slide, True
        return next(((slide, False) for slide in order if slide.missing().any()), None)

    def step(self, slide: LiveSlide, extractor: Extractor, *, only_labelled: bool) -> Generator[Event, None, None]:
        """Go one batch on; what cannot be read is told, and not asked for again."""
        from napari_slidecorr.learning.features import FeaturesAdded, FeaturesDone

        key = slide.id, only_labelled
        if self._running is None or self._running[0] != key:
            self.stop()
            self._mask = slide.missing_labelled() if only_labelled else slide.missing()
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
            yield event
            return
        slide.take(event.cells, event.features)
        yield filled(slide)
        if event.done >= event.total:
            yield from self._end(slide)

    def _end(self, slide: LiveSlide) -> Generator[Event, None, None]:
        """Let the extraction tell what could not be read, and keep the rest."""
        rest = self._running[1] if self._running is not None else iter(())
        yield from (event for event in rest if isinstance(event, Notice))
        self._running = None
        slide.give_up(self._mask)
        yield told_cache(self._cache)

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
