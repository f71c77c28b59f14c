"""Live training: features kept of all slides, a head fitted anew at each change of regions, the map in view repainted.

`LiveStudy.steps` is a stream of events that never ends by itself. Of what there is to do it always does the most urgent
thing: fit, paint what is in view, paint the rest, judge, suggest, and else compute features, those in view first.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_slidecorr.decision import decide
from napari_slidecorr.errors import CohortError, SlideCorrError
from napari_slidecorr.events import Event, Interrupted, Notice, interruptible
from napari_slidecorr.fast_config import FastConfig
from napari_slidecorr.live_events import (
    LiveBegun,
    LiveCells,
    LiveFitted,
    LiveIdle,
    LiveJudged,
    LiveSuggested,
    LiveWaits,
)
from napari_slidecorr.live_filling import LiveFilling, filled, told_cache
from napari_slidecorr.live_head import LiveHead, Training, mean_density, waiting_sentence
from napari_slidecorr.live_slide import LabelledCells, LiveSlide
from napari_slidecorr.live_suggesting import suggest
from napari_slidecorr.live_wishes import LiveWishes
from napari_slidecorr.regions import RegionSet, simple_regions
from napari_slidecorr.tissue import find_tissue

if TYPE_CHECKING:
    from napari_slidecorr.learning.extractor import Extractor
    from napari_slidecorr.learning.feature_store import FeatureCache
    from napari_slidecorr.project import Project

FIT_ROWS, JUDGE_ROWS = 2000, 1500
"""Of more labelled patches a part is used while one labels, the same number of each slide and class."""

PIECE = 8192
"""Cells that are painted at once."""

CALM_S = 0.7
"""Regions count as settled when they have not changed for so long and the mouse stands still: then there is time to judge and to
suggest."""

REFIT_S = 1.5
"""While features of labelled cells are still being computed, a head is fitted to those there are this often."""

MOST_FOLDS = 10

INNER_TISSUE = 0.8
"""Cells with less tissue than this are on a rim, and teach little."""

IDLE_S = 0.3
UNSURE = 255
Steps = Generator[Event, None, None]


class LiveStudy:
    """A project whose head is trained while its slides are labelled; belongs to the thread that steps it.

    Parameters
    ----------
    project : Project
        Read only.
    config : FastConfig
        ``batch_size`` is how long a stroke may have to wait.
    wishes : LiveWishes
    cache : FeatureCache
        Where features are kept; features of other slides, grids, weights or versions are never used.
    extractor : Extractor, optional
        Made from ``config`` when left out.
    """

    def __init__(
        self,
        project: Project,
        config: FastConfig,
        wishes: LiveWishes,
        cache: FeatureCache,
        extractor: Extractor | None = None,
    ) -> None:
        from napari_slidecorr.learning.feature_store import memory_limit_bytes

        self.config, self.wishes, self.cache, self.extractor = config, wishes, cache, extractor
        self._project, self._classes = project, project.classes
        self.slides: dict[str, LiveSlide] = {}
        self.head: LiveHead | None = None
        self._heads = 0
        self._version, self._changed = 0, time.monotonic()
        self._fit_key: tuple[int, int, float | None] | None = None
        self._fitted = time.monotonic()
        self._penalty = config.head.penalty
        self._chosen_from = 0
        self._suggest_key: object = None
        self._filling = LiveFilling(self.slides, wishes, cache, config.batch_size, memory_limit_bytes())
        self._seen = ""

    def steps(self) -> Steps:
        """Work until the wishes are closed.

        Raises
        ------
        ModelError
            Later, if the backbone cannot be had.
        """
        try:
            yield from self._begin()
            self._fitted = time.monotonic()
            while not self.wishes.closed:
                yield from self._take_regions()
                work = self._most_urgent()
                if work is None:
                    settled = self._is_calm
                    self.wishes.wait(IDLE_S if settled else CALM_S / 4)
                    yield LiveIdle(phase="", settled=settled)
                else:
                    yield from work
        finally:
            self._filling.stop()

    # -- beginning ----------------------------------------------------------------------------------------------------

    def _begin(self) -> Steps:
        from napari_slidecorr.learning.fast_training import make_extractor
        from napari_slidecorr.learning.models import describe_device

        if self.extractor is None:
            yield Event(phase=f"Making {self.config.backbone}, with weights {self.config.weights}")
            self.extractor = make_extractor(self.config)
        model = self.extractor.model
        told = f"{model.start.note} Features on {describe_device(next(model.parameters()).device)}."
        seen = self.wishes.seen[0]
        cohort = sorted(self._project.cohort, key=lambda known: known.id != seen)
        for done, known in enumerate(cohort):
            if self.wishes.closed:
                return
            yield Event(phase=f"Opening {known.id}", done=done, total=len(cohort))
            try:
                self.slides[known.id] = opened = self._open(known.id, known.group)
                self._label(opened, None)
            except SlideCorrError as error:
                self.slides.pop(known.id, None)
                yield Notice(phase="Opening", message=f"{known.id} takes no part: {error}", warning=True)
            else:
                yield filled(opened)
        yield LiveBegun(phase="Live", device=told)
        yield told_cache(self.cache)

    def _open(self, slide_id: str, group: str) -> LiveSlide:
        from napari_slidecorr.learning.extractor import slide_grid

        extractor = self._ready()
        slide = self._project.slide(slide_id)
        grid = slide_grid(slide, extractor.geometry, self.config.patches.overlap)
        tissue = find_tissue(slide)
        look = mean_density(slide, tissue.mask)
        inner = tissue.cells(grid, INNER_TISSUE)
        return LiveSlide(slide, grid, tissue.cells(grid), extractor.dim, group=group, look=look, inner=inner)

    def _ready(self) -> Extractor:
        if self.extractor is None:
            raise CohortError("Live training has not begun; start it first.")
        return self.extractor

    # -- regions ------------------------------------------------------------------------------------------------------

    def _take_regions(self) -> Steps:
        self._version, said = self.wishes.take_regions()
        for slide_id, regions in said.items():
            if (slide := self.slides.get(slide_id)) is None:
                continue
            self._changed = time.monotonic()
            try:
                self._label(slide, regions)
            except SlideCorrError as error:
                yield Notice(phase="Labels", message=f"{slide_id}: {error}", warning=True)
            else:
                yield filled(slide)

    def _label(self, slide: LiveSlide, regions: RegionSet | None) -> None:
        from napari_slidecorr.learning.cell_labels import label_cells

        regions = self._project.regions(slide.id) if regions is None else regions
        found = label_cells(slide.grid, simple_regions(regions), self._classes, self.config.patches.min_coverage)
        slide.labelled = LabelledCells(found.cells, found.labels)

    # -- what is most urgent ------------------------------------------------------------------------------------------

    def _most_urgent(self) -> Steps | None:
        seen = self._slide_in_view()
        if self._must_fit():
            return self._fit()
        head, calm = self.head, self._is_calm
        if head is not None:
            if seen is not None and seen.painted != (head.look, seen.count):
                return self._paint(seen, head)
            if calm and not head.judged:
                return self._judge(head)
            if calm and self._suggest_key != self._suggestions_of(head):
                return self._suggest(head)
        return None if self.wishes.resting else self._long_work(calm=calm)

    @property
    def _is_calm(self) -> bool:
        return time.monotonic() - self._changed > CALM_S and not self.wishes.hand_moves

    def _long_work(self, *, calm: bool) -> Steps | None:
        target = self._filling.target()
        if (news := self._filling.news()) is not None:
            return _told(news)
        if target is not None:
            return self._filling.step(target[0], self._ready(), only_labelled=target[1])
        return self._choose_penalty() if calm and self._may_choose() else None

    def _slide_in_view(self) -> LiveSlide | None:
        """Give the slide in view; one that just came into view is painted anew, as its map may be gone."""
        seen = self.slides.get(self.wishes.seen[0])
        if self._seen != self.wishes.seen[0]:
            self._seen = self.wishes.seen[0]
            if seen is not None:
                seen.painted = None, 0
        return seen

    def _must_fit(self) -> bool:
        """Whether there are labels that no head was fitted to, and their features are there or have kept one waiting."""
        there = sum(len(slide.training_rows()[0]) for slide in self.slides.values())
        if self._fit_key == (self._version, there, self._penalty):
            return False
        ready = not any(slide.missing_labelled().any() for slide in self.slides.values())
        return ready or time.monotonic() - self._fitted > REFIT_S

    # -- fitting ------------------------------------------------------------------------------------------------------

    def _fit(self) -> Steps:
        from napari_slidecorr.learning.heads import fit_head

        begun = time.monotonic()
        data, before = Training.of(self.slides.values()), self.head
        self._fit_key, self._fitted = (self._version, len(data.label), self._penalty), begun
        without = self.wishes.take_without()
        lost = [] if before is None or without else [self._classes[k] for k in before.used if k not in data.used]
        if lost or len(data.used) < 2:
            yield LiveWaits(
                phase="Waiting", version=self._version, message=waiting_sentence(lost, len(data.used)), lost=tuple(lost)
            )
            return
        part = data.part(FIT_ROWS)
        start = before.head if before is not None and np.array_equal(before.used, data.used) else None
        config = replace(self.config.head, penalty=self._penalty)
        head = fit_head(part.features, part.label, part.slide_index, config, classes=len(data.used), start=start)
        self._heads += 1
        bounds = before.bounds if before is not None and start is not None else ()
        self.head = LiveHead(head, self._heads, self._version, data.used, bounds)
        yield LiveFitted(
            phase="Fitted",
            version=self._version,
            classes=tuple(self._classes[k] for k in data.used),
            patches=len(data.label),
            slides=data.slides,
            seconds=time.monotonic() - begun,
        )

    # -- painting -----------------------------------------------------------------------------------------------------

    def _paint(self, slide: LiveSlide, head: LiveHead) -> Steps:
        """Paint all cells of a slide, or only those that are new; those in view first."""
        count = slide.count
        look, painted = slide.painted
        rows = np.arange(painted if look == head.look else 0, count)
        in_view = slide.rows_in(self.wishes.seen[1])[rows]
        pieces = [(rows[in_view], True)] if in_view.any() else []
        rest = rows[~in_view]
        pieces += [(rest[start : start + PIECE], False) for start in range(0, len(rest), PIECE)]
        for number, (piece, seen) in enumerate(pieces, 1):
            yield self._cells(slide, head, piece, in_view=seen, last=number == len(pieces))
            if self.wishes.outdated(self._version, slide.id):
                return
        slide.painted = head.look, count

    def _cells(self, slide: LiveSlide, head: LiveHead, rows: NDArray[np.int64], *, in_view: bool, last: bool) -> Event:
        found = head.head.predict(slide.features[rows])
        chosen = decide(found.T, head.bounds)
        number = np.where(chosen >= 0, head.used[chosen] + 1, UNSURE).astype(np.uint8)
        probabilities = np.zeros((len(rows), len(self._classes)), np.float32)
        probabilities[:, head.used] = found
        return LiveCells(
            phase="Painting",
            slide_id=slide.id,
            version=head.version,
            grid=slide.grid,
            cells=slide.cells[rows],
            shown=number,
            probabilities=probabilities,
            classes=self._classes,
            in_view=in_view,
            last=last,
        )

    # -- judging and suggesting ---------------------------------------------------------------------------------------

    def _unwanted(self) -> bool:
        """Whether there are newer regions; rests while the mouse moves."""
        self.wishes.give_way(self._version)
        return self.wishes.closed or self.wishes.version != self._version

    def _judge(self, head: LiveHead) -> Steps:
        """Hold out each slide in turn; given up as soon as there are newer regions."""
        from napari_slidecorr.learning.abstention import unsure_thresholds
        from napari_slidecorr.learning.held_out import leave_one_group_out

        data = Training.of(self.slides.values())
        if not np.array_equal(data.used, head.used):  # a class was lost, and the head waits for it
            self.head = replace(head, judged=True)
            return
        part = data.part(JUDGE_ROWS)
        config = replace(self.config.head, penalty=self._penalty)
        folds = MOST_FOLDS if len(set(part.groups)) > MOST_FOLDS else None
        try:
            with interruptible(self._unwanted):
                found = leave_one_group_out(
                    part.features,
                    part.label,
                    part.slide_index,
                    config,
                    groups=part.groups,
                    classes=len(part.used),
                    folds=folds,
                )
        except Interrupted:
            return
        except CohortError as error:
            self.head = replace(head, judged=True, bounds=())
            yield LiveJudged(
                phase="Judged", version=head.version, auc=float("nan"), slides=data.slides, warning=str(error)
            )
            return
        alike = np.zeros(len(part.label), np.int64)  # of few labels a slide with one patch would decide the bound alone
        bounds = unsure_thresholds(part.label, found.probabilities, alike, self.config.unsure_error)
        self.head = replace(head, judged=True, bounds=bounds, others=found.heads)
        auc = found.auc(part.label)
        yield LiveJudged(phase="Judged", version=head.version, auc=auc, slides=data.slides, warning=found.warning)

    def _suggestions_of(self, head: LiveHead) -> object:
        whole = sum(slide.count > 0 and not slide.missing().any() for slide in self.slides.values())
        return head.number, head.judged, len(self.wishes.skipped), whole

    def _suggest(self, head: LiveHead) -> Steps:
        key, skipped = self._suggestions_of(head), self.wishes.skipped
        try:
            with interruptible(self._unwanted):
                found = suggest(list(self.slides.values()), self._classes, head, skipped)
        except Interrupted:
            return
        self._suggest_key = key
        yield LiveSuggested(phase="Suggested", version=head.version, suggestions=found)

    # -- the penalty --------------------------------------------------------------------------------------------------

    def _may_choose(self) -> bool:
        """Whether nobody has fixed the penalty, and there are half as many labels again as when it was chosen."""
        if self.config.head.penalty is not None or self.head is None or self.config.head.net != "linear":
            return False
        return self._fit_key is not None and self._fit_key[1] > 1.5 * self._chosen_from

    def _choose_penalty(self) -> Steps:
        from napari_slidecorr.learning.held_out import choose_penalty

        data = Training.of(self.slides.values())
        part = data.part(JUDGE_ROWS)
        yield Event(phase="Choosing the penalty on held-out slides")
        try:
            with interruptible(lambda: self._unwanted() or self.wishes.resting):
                penalty, _ = choose_penalty(
                    part.features, part.label, part.slide_index, groups=part.groups, classes=len(part.used)
                )
        except Interrupted:
            return
        except CohortError:  # told when judged: no slide can be held out
            self._chosen_from = len(data.label)
            return
        self._penalty, self._chosen_from = penalty, len(data.label)
        yield Event(phase="")


def _told(event: Event) -> Steps:
    yield event
