"""The parts of the page that come from the analysis: axes, drawings and sentences for what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup

from fusetune.evaluate.intervals import Interval
from fusetune.evaluate.selective import Recall, RiskCoverage
from fusetune.report import plots
from fusetune.report.form import Form, share
from fusetune.result import GainRow, Result
from fusetune.strategies.rivals import ALONE, ENSEMBLE, MAJORITY, TRADITIONAL

FEW_ROWS = 10
FEW_CLASSES = 10  # of more, the first screen shows the hardest
_ANSWERED = (0.5, 0.8)


def first_rows(result: Result) -> list[GainRow]:
    """Return the rows of the gain table for the first screen: no input at all, the best single input, the model."""
    gain, chosen = result.judged.gain, result.judged.chosen
    alone = [row for row in gain if row.name.endswith(ALONE) and row.name != chosen]
    single = [min(alone, key=lambda row: row.valid_nll)] if len(alone) > 1 else []
    return [row for row in gain if row.name == MAJORITY] + single + [row for row in gain if row.name == chosen]


def first_recalls(recalls: Sequence[Recall]) -> tuple[list[Recall], int]:
    """Return the classes for the first screen, all of a few or the lowest of many, and how many are left out."""
    known = [one for one in recalls if one.rows]
    if len(known) <= FEW_CLASSES:
        return known, 0
    large = [one for one in known if one.rows >= FEW_ROWS] or known
    lowest = sorted(large, key=lambda one: (one.share.value, one.name))[:FEW_CLASSES]
    return lowest, len(known) - len(lowest)


def accuracy_axis(intervals: Iterable[Interval]) -> dict[str, Any]:
    """Return a common axis for ranges of shares."""
    return share("accuracy", "Accuracy").axis(intervals)


def missing(result: Result, form: Form) -> dict[str, Any] | None:
    """Return drawing, legend and numbers of the missing rates; None where they were not measured."""
    table, chosen = result.judged.analysis.missing, result.judged.chosen
    if not table:
        return None
    methods = list(dict.fromkeys(row.method for row in table))
    points = {name: [(row.rate, row.accuracy) for row in table if row.method == name] for name in methods}
    # Single modalities share the last kind of line.
    alone, kinds = "series-d", {chosen: "series-a", ENSEMBLE: "series-b", TRADITIONAL: "series-c"}
    lines = [plots.Line(name, kinds.get(name, alone), points[name], name == chosen) for name in reversed(methods)]
    legend = [(name, kinds[name]) for name in methods if name in kinds]
    if len(legend) < len(methods):
        legend.append(("one input alone", alone))
    rows = [(rate, [points[name][at][1].value for name in methods]) for at, (rate, _) in enumerate(points[methods[0]])]
    title = f"{form.title} by missing rate"
    drawing = plots.share_plot(title, lines, "share of inputs missing", form.word, form.value, form.least)
    return {"drawing": drawing, "legend": legend, "methods": methods, "rows": rows}


def selective(curve: RiskCoverage | None) -> Markup | None:
    """Draw the error rate against the share of rows answered."""
    if curve is None:
        return None
    line = plots.Line("error rate", "series-a", [(point.coverage, point.error) for point in curve.points], True)
    return plots.share_plot("Error rate by share of rows answered", [line], "share of rows answered", "share wrong")


def selective_words(curve: RiskCoverage | None) -> list[tuple[float, Interval]]:
    """Return share of rows answered and error rate at two points of the curve."""
    if curve is None:
        return []
    nearest = [min(curve.points, key=lambda point: abs(point.coverage - share)) for share in _ANSWERED]
    return [(point.coverage, point.error) for point in nearest]


def limits(result: Result, own: Sequence[str]) -> list[str]:
    """Return what the model card names as limits: those of what is predicted, and what was not checked.

    Warnings stand above it on the page, which is all that the card is part of.
    """
    count = len(result.warnings)
    sentences = [f"{count} warning{'' if count == 1 else 's'} at the top of this page."] if count else []
    last = "Whether it treats groups of people alike was judged only where a group column names them."
    return [*sentences, *own, last]
