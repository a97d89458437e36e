"""The report in words: how numbers are printed, and the sentences of its first paragraph.

The wording is cautious on purpose: a difference is called better or worse only where ``Comparison.verdict`` allows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fusetune.evaluate.intervals import Interval
from fusetune.evaluate.metrics import average
from fusetune.result import Comparison, Result
from fusetune.strategies.rivals import ALONE

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


def signed(difference: float, digits: int = 3) -> str:
    """Print a difference of two numbers with its sign."""
    text = number(difference, digits)
    return text.removeprefix(_MINUS) if not text.strip(f"{_MINUS}0.") else text if difference < 0 else f"+{text}"


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


def signed_bounds(interval: Interval) -> str:
    """Print the bounds of a difference of two numbers."""
    return _bounds(interval, signed)


def _bounds(interval: Interval, text: Callable[[float], str]) -> str:
    return f"{text(interval.low)} to {text(interval.high)}" if interval.bounded else "no interval"


@dataclass(frozen=True)
class Wording:
    """How comparisons are put into words.

    Attributes:
        always: The simplest answer of all.
        unshown: What is not shown of the model where it is not shown to be better than that, up to its name.
        surer: What is added where the loss is shown to be better.
        loss_alone: What is said, up to "that it is", where the loss is better than of each input alone.
        right: What is then not shown, up to the names.
        gained: Prints rows gained and lost and the difference, after "it".
        test: The paired test of rows.
    """

    always: str
    unshown: str
    surer: str
    loss_alone: str
    right: str
    gained: Callable[[Comparison], str]
    test: str


def class_wording(result: Result) -> Wording:
    """Return how comparisons of classifiers are put into words."""
    return Wording(
        always=f"always answering “{_most_frequent(result)}”",
        unshown="Not shown to be right more often than",
        surer="though its probabilities are shown to be better",
        loss_alone="its probabilities are better than those of each input alone",
        right="that it is right more often than",
        gained=_corrected,
        test=paired_test(result, "exact McNemar test"),
    )


def paired_test(result: Result, plain: str) -> str:
    """Return what the paired test of rows is called; `plain` is its name where all rows count alike."""
    return plain if result.data.weight_column is None else "sign test of weighted rows"


def answer_in(result: Result, wording: Wording, opening: Sequence[str], certain: str) -> list[str]:
    """Return the sentences of the first paragraph: the opening, paired comparisons, how sure it is."""
    subject, comparisons = f"The {result.method.title} model", result.judged.comparisons
    compared = [_compared(subject, c, wording) for c in comparisons if c.verdict != "not shown"]
    compared += _undecided(subject, comparisons)
    nothing = "No paired comparison was made, so that nothing can be said about what fine-tuning and combining add."
    return [*opening, *(compared or [nothing]), certain]


def class_opening(result: Result) -> list[str]:
    """Return the accuracy in a sentence, and that of the most frequent class."""
    return [_accuracy(result), _frequent(result)]


def verdict(result: Result) -> tuple[str, str]:
    """Return the verdict on a classifier."""
    return verdict_in(result, class_wording(result))


def verdict_in(result: Result, wording: Wording) -> tuple[str, str]:
    """Return whether the model is of use, as `good`, `open` or `bad`, and in one or two sentences.

    It must be better than always answering the same; whether it is better than each input alone says whether combining
    them pays.
    """
    frequent = result.judged.frequent
    if frequent is None:
        return "open", f"It was not compared with {result.judged.measure.constant}."
    always = wording.always
    if frequent.verdict == "worse":
        return "bad", f"Worse than {always}: do not use it."
    if frequent.verdict == "not shown":
        more = f" {wording.surer}" if frequent.surer else ""
        return "bad", f"{wording.unshown} {always}{more}."
    alone = [c for c in result.judged.comparisons if c.against.endswith(ALONE)]
    if not alone:
        return "good", f"Better than {always}."
    worse = [c.against for c in alone if c.verdict == "worse"]
    if worse:
        return "bad", f"Better than {always}, but worse than {_listed(worse)}: combining the inputs does not pay."
    left = [c for c in alone if c.verdict != "better"]
    if not left:
        return "good", f"Combining the inputs pays: better than {always}, and better than each input alone."
    if all(c.verdict == "better" or c.surer for c in alone):
        return "good", (
            f"Combining the inputs pays: {wording.loss_alone}; {wording.right} "
            f"{_listed([c.against for c in left], 'or')} is not shown on so few rows."
        )
    open_ = _listed([c.against for c in left if not c.surer], "or")
    return "open", f"Better than {always}. Whether combining pays is open: it is not shown to be better than {open_}."


def certainty(result: Result) -> str:
    """Return one sentence about how far stated certainty can be believed."""
    found = result.judged.miscalibration
    if found is None:
        return "Whether its stated certainty can be believed was not measured."
    if not found.shown:
        return (
            f"No miscalibration is shown: chance alone makes stated certainty look off by {100 * found.by_chance:.1f} "
            f"percentage points on so many rows, and here it is {100 * found.plain:.1f} ({p_value(found.p)})."
        )
    bounds = f", 95{_GAP}% interval {points_of(found.error)}" if found.error.bounded else ""
    return (
        f"Its stated certainty is off by {100 * found.error.value:.1f} percentage points more than chance explains"
        f"{bounds} ({p_value(found.p)})."
    )


def points_of(interval: Interval) -> str:
    """Print the bounds of an error in percentage points, without a sign."""
    return f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"


def _listed(names: Sequence[str], word: str = "and") -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def _most_frequent(result: Result) -> str:
    train = result.data.class_counts["train"]
    return result.data.classes[train.index(max(train))]


def _accuracy(result: Result) -> str:
    judged, other = result.judged, ""
    if judged.acted:
        plain = percent(judged.test["accuracy"].value)
        words = judged.rule(result.data.classes).words
        other = f" It decides {words}; by the most probable class it would be {plain}."
    accuracy = judged.accuracy
    return (
        f"{on_test_rows(result)} the model gives the right “{result.origin.label}” for {percent(accuracy.value)} "
        f"({level_bounds(accuracy, percent_bounds)}).{other}"
    )


def on_test_rows(result: Result) -> str:
    """Return which rows a score is of, as the start of a sentence."""
    data, source = result.data, ""
    if data.groups:
        source = f" from {count(data.groups['test'], 'group')} (column “{data.group_column}”)"
    if data.weight_column:
        source += f", weighted by column “{data.weight_column}”"
    return f"On {count(data.rows['test'], 'test row')}{source}, which were not used for training or for any choice,"


def level_bounds(interval: Interval, bounds: Callable[[Interval], str]) -> str:
    """Print an interval with its level, or why there is none."""
    if not interval.bounded:
        return "no interval, because that takes at least two groups"
    return f"95{_GAP}% interval {bounds(interval)}"


def _frequent(result: Result) -> str:
    train = result.data.class_counts["train"]
    frequent = train.index(max(train))
    share = float(average(result.judged.labels["test"] == frequent, result.judged.counted.get("test")))
    name = _most_frequent(result)
    return f"Always answering “{name}”, the most frequent class in training, would be right for {percent(share)}."


def _undecided(subject: str, comparisons: Sequence[Comparison]) -> list[str]:
    """Return one sentence for all comparisons that show nothing; their numbers stand in the table below."""
    names = [c.against for c in comparisons if c.verdict == "not shown"]
    if not names:
        return []
    return [f"{subject} is not shown to be better than {_listed(names, 'or')} (numbers below)."]


def _compared(subject: str, comparison: Comparison, wording: Wording) -> str:
    verdict = _VERDICTS[comparison.verdict]
    tests = f"{wording.test} {p_value(comparison.p_holm)}"
    if comparison.p_group_holm is not None:
        tests += f", models swapped group by group {p_value(comparison.p_group_holm)}"
    return (
        f"{subject} {verdict} {comparison.against}: it {wording.gained(comparison)}; after Holm’s correction, {tests})."
    )


def _corrected(comparison: Comparison) -> str:
    difference = comparison.accuracy
    return (
        f"corrects {count(comparison.gained, 'row')} and spoils {count(comparison.lost)}, a difference of "
        f"{points(difference.value)} percentage points ({point_bounds(difference)}"
    )
