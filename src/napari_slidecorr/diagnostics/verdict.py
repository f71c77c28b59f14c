"""The measures in words that a pathologist understands, or why no word can be said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from napari_slidecorr.diagnostics.feature_table import Measure

Finding = Literal["slide", "tissue", "unclear", "none"]

FEWEST_SLIDES = 5
LOSS = 0.05
"""AUC lost on new slides from which a model is said to lean on the slide."""
DROP = -0.1
"""Share of its accuracy that a head loses when class and slide are tied, from which features are said to invite it."""

FLATTERED = 0.02
"""What patches dealt at random must promise beyond whole slides before the slide can be blamed for a loss."""

LEARNT = 0.7
"""AUC on its own training slides below which a model has nothing that it could lose on others."""

ONE_CLASS = (
    "Every training slide is labelled with one class, so that slide and tissue cannot be told apart. Label two "
    "classes or more on some slides."
)

ADVICE = {
    "slide": (
        "More slides helped most wherever it was measured. SCR gained on simulated slides and, a little, for small networks on "
        "frozen features of many slides; trained through the network on real slides it gained nothing or cost a little. Centring "
        "each slide's features helped where slides hold several classes; colour jitter and stain normalization helped some sets "
        "and hurt others. Compare them on these slides."
    ),
    "tissue": "No remedy is needed for these slides. The next scanner may differ: look again when slides of one arrive.",
    "unclear": "Label more slides rather than more regions on the same ones; the intervals narrow with slides.",
    "none": "",
}


@dataclass(frozen=True)
class Verdict:
    """What the measures say.

    Attributes
    ----------
    finding : str
        ``slide``: the model leans on it; ``tissue``: it does not; ``unclear``: the intervals are too wide; ``none``: the
        data cannot carry a verdict.
    sentences : tuple of str
        In the order to read them.
    advice : str
        What was seen to help in data like these, and what was not.
    """

    finding: Finding
    sentences: tuple[str, ...]
    advice: str

    @property
    def text(self) -> str:
        """All of it."""
        return " ".join((*self.sentences, self.advice)).strip()


def verdict(measures: Mapping[str, Measure], *, one_class_a_slide: bool = False) -> Verdict:
    """Judge by what is lost on slides that the model has not seen; features that name the slide alone condemn nobody.

    Parameters
    ----------
    measures : mapping of name to Measure
        Those of `panel.measure`; missing ones are not spoken of.
    one_class_a_slide : bool
        No training slide is labelled with two classes: a model that knows the slide then looks like one that knows the
        tissue as long as new slides share the tie, so that only a loss can be told, never that there is none.
    """
    gap = measures.get("generalization_gap")
    if reason := _why_none(gap, measures):
        return _none(reason, *_about_features(measures))
    assert gap is not None  # noqa: S101 - _why_none has seen to it
    innocent = not one_class_a_slide and _slides_teach_nothing(measures.get("leakage_gap"))
    finding = _finding(gap, measures.get("average_performance_drop"), innocent=innocent)
    if finding != "slide" and one_class_a_slide:
        return _none(ONE_CLASS, _loss_sentence(gap), *_about_features(measures))
    if finding != "slide" and (reason := _why_nothing_to_lose(measures.get("training_auc"))):
        return _none(reason, _loss_sentence(gap), *_about_features(measures))
    told = (*_opening(finding), _loss_sentence(gap))
    if finding == "unclear" and innocent and (gap.value or 0.0) >= LOSS:
        told = (*told, _innocent_sentence(measures["leakage_gap"]))
    features = _about_features(measures, used=finding == "slide")
    return Verdict(finding, (*told, *features), ADVICE[finding])


def _none(*reasons: str) -> Verdict:
    return Verdict("none", ("No verdict.", *reasons), "")


def _why_none(gap: Measure | None, measures: Mapping[str, Measure]) -> str:
    slides = max((m.n_slides for m in measures.values()), default=0)
    if slides < FEWEST_SLIDES:
        few = "One slide is" if slides == 1 else f"{slides} slides are"
        return f"{few} too few; label at least {FEWEST_SLIDES}, of {FEWEST_SLIDES} patients."
    if gap is None or gap.value is None:
        why = gap.reason if gap is not None and gap.reason else "There are no held-out slides."
        return f"{why} Hold slides out and train again."
    if gap.low is None or gap.high is None:
        return "The held-out slides are too few for an interval; hold out more."
    return ""


def _why_nothing_to_lose(training: Measure | None) -> str:
    if training is None or training.value is None or training.value >= LEARNT:
        return ""
    return (
        f"The model hardly tells the classes apart on its own training slides (AUC {training.value:.2f}; 0.5 is "
        "guessing), so that it has nothing to lose on others. Train longer, from other weights, or label more."
    )


def _slides_teach_nothing(leak: Measure | None) -> bool:
    """Whether a head that knows the slides does no better on them than one that does not."""
    return leak is not None and leak.high is not None and leak.high < FLATTERED


def _finding(gap: Measure, drop: Measure | None, *, innocent: bool) -> Finding:
    value, low, high = gap.value or 0.0, gap.low or 0.0, gap.high or 0.0
    if value >= LOSS and low > 0 and not innocent:
        return "slide"
    if drop is not None and drop.high is not None and drop.high < DROP and value >= LOSS:
        return "slide"
    return "tissue" if high < 2 * LOSS and value < LOSS else "unclear"


def _opening(finding: Finding) -> Sequence[str]:
    return {
        "slide": ("This model leans on the slide.",),
        "tissue": ("No problem here: on new slides this model does about as well as on its own.",),
        "unclear": ("It cannot be told yet whether this model leans on the slide.",),
        "none": (),
    }[finding]


def _loss_sentence(gap: Measure) -> str:
    value = gap.value or 0.0
    told = (
        f"loses {value:.2f} AUC" if value > 0.005 else f"gains {-value:.2f} AUC" if value < -0.005 else "loses nothing"
    )
    few = f"; {gap.n_slides} held-out slides make that wide" if gap.n_slides < FEWEST_SLIDES else ""
    return f"On slides it has not seen it {told} (between {gap.low:z.2f} and {gap.high:z.2f}{few})."


def _innocent_sentence(leak: Measure) -> str:
    promised = max(leak.value or 0.0, 0.0)
    return (
        f"Knowing the slides would hardly help, though: patches dealt at random promise {promised:.3f} AUC more than whole "
        f"slides (at most {leak.high:.3f}). So the held-out slides may simply be harder, or the model has learnt its own "
        "patches by heart: train with other slides held out, or for fewer epochs."
    )


def _about_features(measures: Mapping[str, Measure], *, used: bool = False) -> tuple[str, ...]:
    found = []
    probe, inside = measures.get("slide_probe"), measures.get("within_class_probe")
    if probe is not None and probe.value is not None:
        found.append(_probe_sentence(probe, inside, used=used))
    index = measures.get("robustness_index")
    if index is not None and index.value is not None:
        by_chance = f" ({index.chance:.0%} by chance)" if index.chance is not None else ""
        found.append(
            f"Of the nearest neighbours that tell, {index.value:.0%} share the tissue and not the slide{by_chance}."
        )
    drop = measures.get("average_performance_drop")
    if drop is not None and drop.value is not None and drop.value <= DROP:
        found.append(
            f"A head that is trained while class and slide go together loses {-drop.value:.0%} of its accuracy on patches "
            "where they do not."
        )
    return tuple(found)


def _probe_sentence(probe: Measure, inside: Measure | None, *, used: bool) -> str:
    said = f"Its features name the slide in {100 * (probe.value or 0):.0f} of 100 patches; chance is {100 * (probe.chance or 0):.0f}"
    if inside is not None and inside.value is not None:
        said += f" (inside one class {100 * inside.value:.0f}; chance {100 * (inside.chance or 0):.0f})"
    known = probe.chance_high is not None and (probe.value or 0) > probe.chance_high
    if not known:
        return f"{said}, so they do not know it."
    return f"{said}." if used else f"{said}. That alone is no fault: a slide can be seen and not be used."
