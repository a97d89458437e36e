"""How the numbers of a score are printed and drawn: a share, a plain number, an amount in the label's unit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from fusetune.evaluate.intervals import Interval
from fusetune.report import plots, prose
from fusetune.telling import amount

_SHORT = 5  # letters of a label that has room on an axis
_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Form:
    """What a score is called and how its numbers are printed.

    Attributes:
        word: Its name in a sentence.
        title: Its name at the head of a column.
        value: Prints it.
        bounds: Prints its interval.
        change: Prints a difference.
        change_bounds: Prints the interval of a difference.
        changes: The head of a column of differences.
        tick: Prints a level of an axis.
        unit: What follows such a level where it is HTML.
        least: Axes begin no lower.
    """

    word: str
    title: str
    value: Callable[[float], str]
    bounds: Callable[[Interval], str]
    change: Callable[[float], str]
    change_bounds: Callable[[Interval], str]
    changes: str
    tick: Callable[[float], str] = "{:g}".format
    unit: Markup = field(default_factory=lambda: Markup(""))
    least: float = -math.inf

    @property
    def drawn(self) -> str:
        """What an axis of it shows, for those who do not see it."""
        return f"{self.title}{' in percent' if self.unit else ''}, drawn"

    def axis(self, intervals: Iterable[Interval]) -> dict[str, Any]:
        """Return a common axis for ranges: its scale, labels with their places in percent of its width, their unit."""
        ends = [end for row in intervals for end in (row.low, row.value, row.high) if math.isfinite(end)]
        inside = [max(end, self.least) for end in ends]
        levels = plots.ticks(min(inside, default=0.0), max(inside, default=1.0), about=4)
        scale = plots.Scale(levels[0], levels[-1])
        words = [self.tick(level) for level in levels]
        every = 1 if max(map(len, words)) <= _SHORT else 2  # long words would run into each other
        places = [scale(level) for level in levels]
        labels = [
            (word if at % every == 0 else "", place) for at, (word, place) in enumerate(zip(words, places, strict=True))
        ]
        return {"scale": scale, "levels": labels, "unit": self.unit}


def _share_level(level: float) -> str:
    return f"{100 * level:.0f}"


def share(word: str, title: str) -> Form:
    """Return how a share is printed: in percent, its differences in percentage points."""
    unit = Markup("&nbsp;%")
    return Form(
        word, title, prose.percent, prose.percent_bounds, prose.points, prose.point_bounds, f"{title}, points",
        _share_level, unit,
    )  # fmt: skip


def plain(word: str, title: str, least: float = -math.inf) -> Form:
    """Return how a number without a unit is printed."""
    return Form(
        word, title, _number, _bounds(_number), prose.signed, prose.signed_bounds, title,
        lambda level: f"{level:g}".replace("-", _MINUS), least=least,
    )  # fmt: skip


def _number(value: float) -> str:
    """Print a number with three decimals; no zero has a sign."""
    text = prose.number(value)
    return text if text.strip(f"{_MINUS}0.") else text.removeprefix(_MINUS)


NLL = Form(
    "NLL", "NLL", prose.number, prose.number_bounds, prose.number, prose.number_bounds, "NLL"
)  # fmt: skip


def amounts(word: str, title: str, size: float, tick_digits: int = 2) -> Form:
    """Return how numbers in the label's unit are printed, where they are of some size."""

    def value(number: float) -> str:
        return in_unit(number, size)

    def change(number: float) -> str:
        text = value(number)
        zero = not text.strip(f"{_MINUS}0.,")
        return text if number < 0 or zero or not math.isfinite(number) else f"+{text}"

    def tick(number: float) -> str:
        return in_unit(number, max(size, abs(number) / 100), tick_digits)

    bounds, change_bounds = (_bounds(form) for form in (value, change))
    return Form(word, title, value, bounds, change, change_bounds, title, tick)


@dataclass(frozen=True)
class Forms:
    """How scores of one kind of answer are printed, whatever the page.

    Attributes:
        score: That of which more is better.
        loss: That of which less is better.
        like_score: Names of metrics that are printed as the score is; others, as the loss.
        meanings: Names and meanings of metrics.
        stratum: What stands for the class in words of `modalities.INTERFERENCE`.
    """

    score: Form
    loss: Form
    like_score: frozenset[str]
    meanings: Mapping[str, tuple[str, str]]
    stratum: str = "class"

    def of(self, key: str) -> Form:
        """Return how a metric is printed; what has no meaning of its own is a share of the largest classes."""
        return self.score if key in self.like_score or key not in self.meanings else self.loss

    def name(self, key: str) -> str:
        """Return what a metric is called at the head of a column."""
        return self.meanings[key][0]

    def instead(self, way: str) -> str:
        """Return what a misleading input is instead, by its word in `modalities.INTERFERENCE`."""
        return way.replace("class", self.stratum)


def in_unit(number: float, size: float, digits: int = 3) -> str:
    """Print a number in the label's unit as a page does; see `telling.amount`."""
    return prose.UNKNOWN if math.isnan(number) else amount(number, size, digits).replace("-", _MINUS)


def _bounds(form: Callable[[float], str]) -> Callable[[Interval], str]:
    return lambda interval: f"{form(interval.low)} to {form(interval.high)}" if interval.bounded else "no interval"
