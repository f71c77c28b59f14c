"""Diagnoses of one or more runs as one page that needs no network, and as pictures and JSON beside it."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari_slidecorr.config import PAPER
from napari_slidecorr.diagnosis_figures import curves_figure, features_figure, likeness_figure, shortcut_figure
from napari_slidecorr.diagnostics.diagnosis import Diagnosis, SlideFinding, summary
from napari_slidecorr.diagnostics.feature_table import Measure
from napari_slidecorr.errors import ProjectError
from napari_slidecorr.events import EpochDone
from napari_slidecorr.io.atomic import atomic_write_bytes, atomic_write_text, make_folder
from napari_slidecorr.runs import CONFIG_NAME
from napari_slidecorr.wording import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE, FIGURES = "report.html", "diagnosis.json"
TITLES = {
    "training_auc": "AUC on training slides",
    "held_out_auc": "AUC on held-out slides",
    "generalization_gap": "Lost on held-out slides",
    "leakage_gap": "What a random patch split would have promised on top",
    "leakage_by_training": "What a random patch split did promise on top",
    "calibration_error": "Calibration error (ECE)",
    "slide_probe": "Slide named from features",
    "within_class_probe": "Slide named inside one class",
    "same_slide_correlation": "Same-slide correlation",
    "robustness_index": "Robustness index (slide)",
    "robustness_index_group": "Robustness index (group)",
    "average_performance_drop": "Average performance drop",
    "clustering_score": "Clusters: class minus slide",
}
"""What each measure is called for a reader, in the order of telling."""
WORST = 12
"""Slides that a table shows."""

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1200px;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.3rem .8rem;border-bottom:1px solid #ccc;text-align:right;"
    "vertical-align:top}td:first-child,th:first-child,.measures td,.measures th{text-align:left}small,figcaption{color:#666}"
    ".measures{table-layout:fixed;width:100%}"
    ".verdict{border-left:6px solid #999;padding:.4rem 1rem;margin:1rem 0;background:#f6f6f6}"
    ".slide{border-color:#d55e00}.tissue{border-color:#009e73}.unclear{border-color:#e69f00}"
    ".pictures{display:flex;flex-wrap:wrap;gap:1rem}.pictures figure{width:calc(50% - .5rem)}"
    "figure{margin:0;max-width:46rem}figcaption{font-size:small}img{width:100%}"
    "@media print{body{margin:0;max-width:none;font-size:12px}h2,h3{break-after:avoid}figure,tr,.verdict{break-inside:avoid}}"
)


def write_report(out: Path, diagnoses: Sequence[Diagnosis], curves: Mapping[str, Sequence[EpochDone]]) -> Path:
    """Write ``report.html``, ``diagnosis.json`` and the pictures into a folder.

    Parameters
    ----------
    curves : mapping of run to its epochs
        Runs without epochs are left out of the picture of curves.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    ProjectError
        If the folder cannot be written, or is a run's own.
    """
    check_folder(out)
    make_folder(out)
    pictures = {name: _png(figure) for name, figure in _figures(diagnoses, curves).items()}
    for name, data in pictures.items():
        atomic_write_bytes(out / f"{name}.png", data)
    atomic_write_text(out / FIGURES, json.dumps([summary(one) for one in diagnoses], indent=2))
    page = out / PAGE
    atomic_write_text(page, _page(diagnoses, pictures))
    return page


def check_folder(out: Path) -> None:
    """Raise ProjectError if a report would replace the diagnosis that a run keeps of itself."""
    if (out / CONFIG_NAME).is_file():
        raise ProjectError(f"{out}: this is a run's folder, which keeps a {FIGURES} of its own; choose another folder.")


def as_text(diagnosis: Diagnosis) -> str:
    """A diagnosis for a terminal: verdict, then a line for each measure."""
    lines = [f"{diagnosis.run}: {diagnosis.verdict.text}", taken_on(diagnosis), ""]
    width = max(len(title) for title in TITLES.values())
    for name, title in TITLES.items():
        if name in diagnosis.measures:
            lines.append(f"{title:<{width}}  {told(diagnosis.measures[name])}")
    return "\n".join(lines)


def told(measure: Measure) -> str:
    """A measure in one line: value, interval, chance, what it was taken on; or why there is none."""
    if measure.value is None:
        return f"- ({measure.reason})"
    said = f"{measure.value:.3f}"
    if measure.low is not None and measure.high is not None:
        said += f" ({measure.low:.3f} to {measure.high:.3f})"
    if measure.chance:  # 0 is what a gap or a correlation of nothing is anyway
        said += f", chance {measure.chance:.3f}"
        if measure.chance_low is not None and measure.chance_high is not None:
            said += f" ({measure.chance_low:.3f} to {measure.chance_high:.3f})"
    return f"{said}; {measure.n_slides} slides, {measure.n_patches} patches"


def _figures(diagnoses: Sequence[Diagnosis], curves: Mapping[str, Sequence[EpochDone]]) -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    if known := {name: curve for name, curve in curves.items() if curve}:
        found["curves"] = curves_figure(known)
    if any(one.accuracy for one in diagnoses):
        found["shortcut"] = shortcut_figure(diagnoses)
    for one in diagnoses:
        found[f"{_file(one)}-features-by-slide"] = features_figure(one, "slide")
        found[f"{_file(one)}-features-by-class"] = features_figure(one, "class")
        found[f"{_file(one)}-features-by-error"] = features_figure(one, "error")
        found[f"{_file(one)}-likeness"] = likeness_figure(one)
    return found


def _file(diagnosis: Diagnosis) -> str:
    return diagnosis.run.replace("/", "-")


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _page(diagnoses: Sequence[Diagnosis], pictures: Mapping[str, bytes]) -> str:
    body = ["<h1>Tissue or slide?</h1>", *_verdicts(diagnoses)]
    body += ["<h2>Training against held-out slides</h2>", _scores(diagnoses)]
    if "curves" in pictures:
        about = (
            "Patch AUC after each epoch; a gap between the lines is what is lost on slides it has not seen (Figure 2*)."
        )
        body.append(_picture(pictures["curves"], about))
    body += ["<h2>Measures</h2>", _measures(diagnoses)]
    if "shortcut" in pictures:
        about = "A line that falls: the head takes the slide for the class as soon as the two go together in training."
        body += ["<h2>Would a head take the slide for the class?</h2>", _picture(pictures["shortcut"], about)]
    for one in diagnoses:
        shown = [_picture(pictures[f"{_file(one)}-{name}"], about) for name, about in _ABOUT.items()]
        body += [f"<h2>{html.escape(one.run)}</h2>", f"<div class='pictures'>{''.join(shown)}</div>"]
        body += ["<h3>Slides, the worst first</h3>", _slides(one.slides)]
    body.append(
        "<p><small>The maps of features are t-SNE: a picture, never a number. Intervals are 95 % bootstraps over slides. "
        f"* Of the paper, here for these slides: {PAPER}</small></p>"
    )
    head = f"<meta charset='utf-8'><title>Tissue or slide?</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(body)}</body></html>\n"


_ABOUT = {
    "features-by-slide": "Patches of up to ten slides by t-SNE, coloured by slide (Figure 3*). Islands of one colour: the features "
    "know the slide.",
    "features-by-class": "The same, coloured by class.",
    "features-by-error": "The same, coloured by whether the model is right.",
    "likeness": "Mean cosine between patches of each two slides, inside a class; a strong diagonal alone: slides are alike to "
    "themselves only.",
}
"""The pictures of each run and what is written below them."""


def taken_on(diagnosis: Diagnosis) -> str:
    """Say in one line what a model was judged on: slides, patients, patches, classes, and what was held out."""
    slides, labels = diagnosis.slides, sorted({patch.label for patch in diagnosis.patches})
    held = sum(not one.seen for one in slides)
    patients = len({one.score.group for one in slides})
    patches = sum(one.score.n_patches for one in slides)
    out = "each held out in turn" if held == len(slides) else f"{counted(held, 'slide')} held out"
    return (
        f"{counted(len(slides), 'slide')} of {counted(patients, 'patient or group', 'patients or groups')}, {out}; "
        f"{counted(patches, 'patch', 'patches')} of {', '.join(labels)}."
    )


def _verdicts(diagnoses: Sequence[Diagnosis]) -> list[str]:
    """Give what each is told; advice that is the same for all comes once."""
    advice = {one.verdict.advice for one in diagnoses}
    found = [_verdict(one, "" if len(advice) == 1 else one.verdict.advice) for one in diagnoses]
    return [*found, *(f"<p>{html.escape(said)}</p>" for said in advice if len(advice) == 1 and said)]


def _verdict(diagnosis: Diagnosis, advice: str) -> str:
    first, *others = diagnosis.verdict.sentences
    rest = html.escape(" ".join((*others, advice)).strip())
    said = (
        f"<b>{html.escape(diagnosis.run)}: {html.escape(first)}</b><br>{rest}<br><small>{taken_on(diagnosis)}</small>"
    )
    return f"<div class='verdict {diagnosis.verdict.finding}'>{said}</div>"


def _measures(diagnoses: Sequence[Diagnosis]) -> str:
    rows = []
    for name, title in TITLES.items():
        cells = [one.measures.get(name) for one in diagnoses]
        if any(cell is not None for cell in cells):
            rows.append([title, *("" if cell is None else _cell(cell) for cell in cells)])
    return _table(["", *(html.escape(one.run) for one in diagnoses)], rows, "measures")


def _cell(measure: Measure) -> str:
    if measure.value is None:
        return f"<small>{html.escape(measure.reason)}</small>"
    said, _, about = told(measure).partition(" ")
    note = f"<br>{html.escape(measure.note)}" if measure.note else ""
    return f"<b>{said.rstrip(';,')}</b><br><small>{html.escape(about)}{note}</small>"


def _scores(diagnoses: Sequence[Diagnosis]) -> str:
    """The paper's Tables 3 and 4, for these runs: AUC on slides that trained and on others, by objective."""
    rows = []
    for one in diagnoses:
        values = [one.measures[name] for name in ("training_auc", "held_out_auc", "generalization_gap")]
        rows.append([html.escape(one.run), html.escape(one.objective), *map(_short, values)])
    about = "<p><small>AUC over patches on slides that it was trained on and on others (Tables 3 and 4*).</small></p>"
    return _table(["run", "objective", "training AUC", "held-out AUC", "lost"], rows) + about


def _short(measure: Measure) -> str:
    if measure.value is None:
        return "-"
    if measure.low is None or measure.high is None:
        return f"{measure.value:.3f}"
    return f"{measure.value:.3f} <small>({measure.low:.3f} to {measure.high:.3f})</small>"


def _slides(findings: Sequence[SlideFinding]) -> str:
    """The worst slides; the AUC is left out where no slide has two classes."""
    with_auc = any(one.score.auc is not None for one in findings)
    rows = []
    for one in findings[:WORST]:
        score = one.score
        auc = ["-" if score.auc is None else f"{score.auc:.3f}"] if with_auc else []
        where = "trained on" if one.seen else "held out"
        numbers = [str(score.n_patches), f"{score.accuracy:.3f}", *auc, f"{score.calibration_error:.3f}"]
        rows.append([html.escape(score.slide), html.escape(score.group), where, *numbers])
    more = f"<p><small>and {len(findings) - WORST} more</small></p>" if len(findings) > WORST else ""
    head = ["slide", "patient or group", "", "patches", "accuracy", *(["AUC"] if with_auc else []), "calibration error"]
    return _table(head, rows) + more


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "plain") -> str:
    top = "".join(f"<th>{name}</th>" for name in head)
    lines = ("".join(f"<td>{cell}</td>" for cell in row) for row in rows)
    return f"<table class='{kind}'><tr>{top}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _picture(data: bytes, about: str) -> str:
    source = base64.b64encode(data).decode("ascii")
    return f"<figure><img alt='' src='data:image/png;base64,{source}'><figcaption>{html.escape(about)}</figcaption></figure>"
