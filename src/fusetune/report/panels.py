"""The parts of the page that come from the analysis: axes, drawings and sentences for what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from markupsafe import Markup

from fusetune.errors import listed
from fusetune.evaluate.intervals import Interval
from fusetune.evaluate.selective import Recall, RiskCoverage
from fusetune.report import plots
from fusetune.report.prose import percent, percent_bounds
from fusetune.result import GainRow, Result
from fusetune.strategies.rivals import ALONE, ENSEMBLE, MAJORITY, TRADITIONAL

_FEW_ROWS = 10
FEW_CLASSES = 10  # of more, the first screen shows the hardest
_ANSWERED = (0.5, 0.8)


def first_rows(result: Result) -> list[GainRow]:
    """Return the rows of the gain table for the first screen: no input at all, the best single input, the model."""
    gain, chosen = result.judged.gain, result.judged.chosen
    alone = [row for row in gain if row.name.endswith(ALONE) and row.name != chosen]
    single = [min(alone, key=lambda row: row.valid_nll)] if len(alone) > 1 else []
    return [row for row in gain if row.name == MAJORITY] + single + [row for row in gain if row.name == chosen]


def first_recalls(result: Result) -> tuple[list[Recall], int]:
    """Return the classes for the first screen, all of a few or the lowest of many, and how many are left out."""
    known = [one for one in result.judged.recalls if one.rows]
    if len(known) <= FEW_CLASSES:
        return known, 0
    large = [one for one in known if one.rows >= _FEW_ROWS] or known
    lowest = sorted(large, key=lambda one: (one.share.value, one.name))[:FEW_CLASSES]
    return lowest, len(known) - len(lowest)


def accuracy_axis(intervals: Iterable[Interval]) -> dict[str, Any]:
    """Return a common axis for ranges: its scale, and labels with their places in percent of its width."""
    ends = [end for row in intervals for end in (row.low, row.value, row.high) if math.isfinite(end)]
    levels = plots.ticks(min(ends, default=0.0), max(ends, default=1.0), about=4)
    scale = plots.Scale(levels[0], levels[-1])
    return {"scale": scale, "levels": [(f"{100 * level:.0f}", scale(level)) for level in levels]}


def missing(result: Result) -> dict[str, Any] | None:
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
    drawing = plots.share_plot("Accuracy by missing rate", lines, "share of inputs missing", "accuracy")
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


def limits(result: Result) -> list[str]:
    """Return what the model card names as limits: classes of few rows, the worst one, what was not checked.

    Warnings stand above it on the page, which is all that the card is part of.
    """
    count = len(result.warnings)
    sentences = [f"{count} warning{'' if count == 1 else 's'} at the top of this page."] if count else []
    classes, lows = result.data.classes, result.judged.analysis.worst_group
    counts = np.bincount(result.judged.labels["test"], minlength=len(classes))
    few = [name for name, rows in zip(classes, counts, strict=True) if rows < _FEW_ROWS]
    if few:
        sentences.append(f"Fewer than {_FEW_ROWS} test rows are of class {listed(few)}: little is known about it.")
    if lows is not None and lows.class_ is not None and lows.class_.judged > 1:
        low = lows.class_
        many = f"Of the classes with at least {_FEW_ROWS} test rows" if low.judged < low.of else "Of all classes"
        sentences.append(
            f"{many}, “{low.name}” is decided right least often: {percent(low.accuracy.value)} of {low.rows} rows "
            f"({percent_bounds(low.accuracy)})."
        )
    sentences.append("Whether it treats groups of people alike was judged only where a group column names them.")
    return sentences
