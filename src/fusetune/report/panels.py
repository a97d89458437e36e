"""The parts of the page that come from `Facts.analysis`: axes, drawings and sentences for what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from markupsafe import Markup

from fusetune.errors import listed
from fusetune.evaluate.intervals import Interval
from fusetune.report import plots
from fusetune.report.facts import Facts
from fusetune.report.prose import interval

_FEW_ROWS = 10
# How the lines of the missing-rate plot are drawn; single modalities share the last kind.
_LINES = {"two-stage": "series-a", "ensemble": "series-b", "traditional": "series-c"}
_ALONE = "series-d"
_ANSWERED = (0.5, 0.8)


def accuracy_axis(intervals: Iterable[Interval]) -> dict[str, Any]:
    """Return a common axis for drawn intervals: its scale, and labels with their places in percent of its width."""
    known = [end for row in intervals for end in (row.low, row.value, row.high) if math.isfinite(end)]
    levels = plots.ticks(min(known, default=0.0), max(known, default=1.0), about=4)
    scale = plots.Scale(levels[0], levels[-1])
    return {"scale": scale, "levels": [(f"{100 * level:.0f}", scale(level)) for level in levels]}


def missing(facts: Facts) -> dict[str, Any] | None:
    """Return drawing, legend and numbers of the missing rates; None where they were not measured."""
    table = facts.analysis.get("missing")
    if not table:
        return None
    methods = list(dict.fromkeys(row["method"] for row in table))
    points: dict[str, list[tuple[float, Interval]]] = {name: [] for name in methods}
    for row in table:
        points[row["method"]].append((row["rate"], interval(row["accuracy"])))
    lines = [
        plots.Line(name, _LINES.get(name, _ALONE), points[name], name == "two-stage") for name in reversed(methods)
    ]
    legend = [(name, _LINES[name]) for name in methods if name in _LINES]
    if len(legend) < len(methods):
        legend.append(("one input alone", _ALONE))
    rates = [rate for rate, _ in points[methods[0]]]
    rows = [(rate, [points[name][at][1].value for name in methods]) for at, rate in enumerate(rates)]
    drawing = plots.share_plot("Accuracy by missing rate", lines, "share of inputs missing", "accuracy")
    return {"drawing": drawing, "legend": legend, "methods": methods, "rows": rows}


def selective(facts: Facts) -> Markup | None:
    """Draw the error rate against the share of rows answered."""
    curve = facts.analysis.get("risk_coverage")
    if not curve:
        return None
    points = [(row["coverage"], interval(row["error"])) for row in curve["points"]]
    line = plots.Line("error rate", "series-a", points, True)
    return plots.share_plot("Error rate by share of rows answered", [line], "share of rows answered", "share wrong")


def selective_words(facts: Facts) -> list[tuple[float, Interval]]:
    """Return share of rows answered and error rate at two points of the curve."""
    points = (facts.analysis.get("risk_coverage") or {}).get("points", [])
    found = []
    for share in _ANSWERED if points else ():
        distances = [abs(row["coverage"] - share) for row in points]
        nearest = points[distances.index(min(distances))]
        found.append((nearest["coverage"], interval(nearest["error"])))
    return found


def limits(facts: Facts) -> list[str]:
    """Return what the model card names as limits: warnings, classes of few rows, what certainty was not checked on."""
    found = list(facts.warnings)
    counts = np.bincount(facts.labels, minlength=len(facts.classes))
    few = [name for name, rows in zip(facts.classes, counts, strict=True) if rows < _FEW_ROWS]
    if few:
        found.append(f"Fewer than {_FEW_ROWS} test rows are of class {listed(few)}: little is known about it.")
    lows = facts.analysis.get("worst_group") or {}
    if lows.get("class"):
        worst = interval(lows["class"]["accuracy"]).value
        found.append(f"It is right for {100 * worst:.1f} % of the rows of class “{lows['class']['name']}”, its worst.")
    found.append("Whether it treats groups of people alike was judged only where a group column names them.")
    return found
