"""The report in words: how numbers are printed, and the sentences of its first paragraph.

The wording is cautious on purpose: a difference is called better or worse only where ``Comparison.verdict`` allows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from fusetune.evaluate.intervals import Interval
from fusetune.result import Comparison, Result

UNKNOWN = "–"
_GAP = "\N{NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"

_VERDICTS = {"better": "is better than", "worse": "is worse than"}


def percent(share: float) -> str:
    """Print a share as a percentage with one decimal."""
    return f"{100 * share:.1f}{_GAP}%" if math.isfinite(share) else UNKNOWN


def number(value: float | None, digits: int = 3) -> str:
    """Print a number with fixed decimals; a dash when there is none."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return f"{value:.{digits}f}".replace("-", _MINUS)


def points(difference: float) -> str:
    """Print a difference of two shares in percentage points, with its sign."""
    text = f"{100 * abs(difference):.1f}"
    sign = "" if float(text) == 0 else "+" if difference > 0 else _MINUS
    return sign + text


def p_value(p: float) -> str:
    """Print a p-value so that no rounding moves it over 0.05."""
    if p < 0.001:
        return f"p{_GAP}<{_GAP}0.001"
    digits = 4 if round(p, 3) == 0.05 else 3
    return f"p{_GAP}={_GAP}{p:.{digits}f}"


def duration(seconds: float) -> str:
    """Print seconds in the two largest fitting units."""
    if seconds < 9.95:
        return f"{seconds:.1f}{_GAP}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{_GAP}s"
    if whole < 3600:
        return f"{whole // 60}{_GAP}min {whole % 60:02d}{_GAP}s"
    return f"{whole // 3600}{_GAP}h {whole % 3600 // 60:02d}{_GAP}min"


def count(value: int, noun: str = "") -> str:
    """Print a number of things with thousands separators, and the noun in the plural where due."""
    if not noun:
        return f"{value:,}"
    return f"{value:,}{_GAP}{noun}" + ("" if value == 1 else "s")


def percent_bounds(interval: Interval) -> str:
    """Print the bounds of a share: ``83.1 to 92.4 %``."""
    return _bounds(interval, percent).replace(f"{_GAP}% to", " to")


def number_bounds(interval: Interval) -> str:
    """Print the bounds of a number."""
    return _bounds(interval, number)


def point_bounds(interval: Interval) -> str:
    """Print the bounds of a difference of two shares in percentage points."""
    return _bounds(interval, points)


def _bounds(interval: Interval, text: Callable[[float], str]) -> str:
    return f"{text(interval.low)} to {text(interval.high)}" if interval.bounded else "no interval"


def answer(result: Result) -> list[str]:
    """Return the sentences of the first paragraph."""
    subject, comparisons = f"The {result.method.title} model", result.judged.comparisons
    compared = [_compared(subject, c) for c in comparisons if c.verdict != "not shown"]
    compared += _undecided(subject, comparisons)
    nothing = "No paired comparison was made, so that nothing can be said about what fine-tuning and combining add."
    off = f"Its stated certainty is off by {100 * result.judged.test['ece'].value:.1f} percentage points on average."
    return [_accuracy(result), _frequent(result), *(compared or [nothing]), off]


def _accuracy(result: Result) -> str:
    accuracy, data = result.judged.test["accuracy"], result.data
    source = ""
    if data.groups:
        source = f" from {count(data.groups['test'], 'group')} (column “{data.group_column}”)"
    bounds = (
        f"95{_GAP}% interval {percent_bounds(accuracy)}"
        if accuracy.bounded
        else "no interval, because that takes at least two groups"
    )
    return (
        f"On {count(data.rows['test'], 'test row')}{source}, which were not used for training or for any choice, the "
        f"model gives the right “{result.origin.label}” for {percent(accuracy.value)} ({bounds})."
    )


def _frequent(result: Result) -> str:
    train = result.data.class_counts["train"]
    frequent = train.index(max(train))
    share = float((result.judged.labels["test"] == frequent).mean())
    name = result.data.classes[frequent]
    return f"Always answering “{name}”, the most frequent class in training, would be right for {percent(share)}."


def _undecided(subject: str, comparisons: Sequence[Comparison]) -> list[str]:
    """Return one sentence for all comparisons that show nothing; their numbers stand in the table below."""
    names = [c.against for c in comparisons if c.verdict == "not shown"]
    if not names:
        return []
    joined = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
    return [f"{subject} is not shown to be better than {joined} (numbers below)."]


def _compared(subject: str, comparison: Comparison) -> str:
    verdict, difference = _VERDICTS[comparison.verdict], comparison.accuracy
    tests = f"exact McNemar test {p_value(comparison.p_holm)}"
    if comparison.p_group_holm is not None:
        tests += f", models swapped group by group {p_value(comparison.p_group_holm)}"
    return (
        f"{subject} {verdict} {comparison.against}: it corrects {count(comparison.gained, 'row')} and "
        f"spoils {count(comparison.lost)}, a difference of {points(difference.value)} percentage points "
        f"({point_bounds(difference)}; after Holm’s correction, {tests})."
    )
