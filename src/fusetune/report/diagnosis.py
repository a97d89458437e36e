"""A diagnosis as one HTML page that needs nothing else: a small curve and a table for each part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fusetune.evaluate.diagnosis import Diagnosis
from fusetune.evaluate.diagnosis.curves import Curve
from fusetune.report import plots
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
    return page(
        "diagnosis.html",
        css=style(),
        d=diagnosis,
        table=table,
        ways=WAYS,
        missing=figure("Accuracy by missing rate", diagnosis.missing, "share of inputs missing"),
        incomplete=None
        if diagnosis.incomplete is None
        else figure("Accuracy by share of missing cells", diagnosis.incomplete.curves, "share of cells missing"),
        noise=figure("Accuracy by noise", diagnosis.noise, "level of noise"),
        attack=None
        if diagnosis.attack is None
        else figure("Accuracy under attack", diagnosis.attack.curves, "radius, in deviations of a feature"),
    )


def figure(description: str, curves: Sequence[Curve], across: str) -> Figure | None:
    """Draw accuracy curves, the first one with its intervals and on top; None where there are none."""
    if not curves:
        return None
    kinds = [_KINDS[min(at, len(_KINDS) - 1)] for at in range(len(curves))]
    lines = [
        plots.Line(curve.name, kind, [(point.level, point.accuracy) for point in curve.points], kind == _KINDS[0])
        for curve, kind in zip(curves, kinds, strict=True)
    ]
    legend = [(curve.name, kind) for curve, kind in zip(curves, kinds, strict=True)]
    levels = [point.level for point in curves[0].points]
    return Figure(plots.share_plot(description, lines[::-1], across, "accuracy"), legend, levels, curves)
