"""A diagnosis as one HTML page that needs nothing else: a small curve and a table for each part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fusetune.evaluate.diagnosis import Diagnosis
from fusetune.evaluate.diagnosis.curves import Curve
from fusetune.report import plots
from fusetune.report.form import Form
from fusetune.report.kinds import KINDS
from fusetune.report.template import page, style

_KINDS = ("series-a", "series-b", "series-c", "series-d")
WAYS = {
    "RVM": "any cells at random",
    "RFM": "whole columns at random",
    "MIFM": "the most important columns first",
    "LIFM": "the least important columns first",
}


@dataclass(frozen=True)
class Figure:
    """Curves of one part as the page shows them: the drawing, names with their kinds of line, levels, the curves."""

    drawing: Markup
    legend: list[tuple[str, str]]
    levels: list[float]
    curves: Sequence[Curve]


def render_diagnosis(diagnosis: Diagnosis, table: str) -> str:
    """Return the page as HTML; the same diagnosis gives the same bytes."""
    measure, cells, attack = diagnosis.measure, diagnosis.incomplete, diagnosis.attack
    kind, loss = KINDS[measure.kind], diagnosis.scores[measure.loss].value
    forms = kind.forms(loss if loss > 0 else measure.target.unit)
    score = forms.score
    drawn = {
        "missing": figure(f"{score.title} by missing rate", diagnosis.missing, "share of inputs missing", score),
        "incomplete": figure(
            f"{score.title} by share of missing cells", cells.curves if cells else [], "share of cells missing", score
        ),
        "noise": figure(f"{score.title} by noise", diagnosis.noise, "level of noise", score),
        "attack": figure(
            f"{score.title} under attack", attack.curves if attack else [], "radius, in deviations of a feature", score
        ),
    }
    return page(
        "diagnosis.html", css=style(), d=diagnosis, table=table, ways=WAYS, kind=kind, forms=forms, measure=measure,
        **drawn,
    )  # fmt: skip


def figure(description: str, curves: Sequence[Curve], across: str, form: Form) -> Figure | None:
    """Draw curves of the score, the first one with its intervals and on top; None where there are none."""
    if not curves:
        return None
    kinds = [_KINDS[min(at, len(_KINDS) - 1)] for at in range(len(curves))]
    lines = [
        plots.Line(curve.name, kind, [(point.level, point.accuracy) for point in curve.points], kind == _KINDS[0])
        for curve, kind in zip(curves, kinds, strict=True)
    ]
    legend = [(curve.name, kind) for curve, kind in zip(curves, kinds, strict=True)]
    levels = [point.level for point in curves[0].points]
    drawing = plots.share_plot(description, lines[::-1], across, form.word, form.value, form.least)
    return Figure(drawing, legend, levels, curves)
