"""The page's parts for a number: errors in its own unit, drawings of them, intervals."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusetune.evaluate.intervals import Interval
from fusetune.report import plots, prose
from fusetune.report.form import Form, Forms, amounts, plain, share
from fusetune.report.kinds.base import Kind
from fusetune.report.prose import Wording, count, percent, percent_bounds
from fusetune.report.terms import NUMBER_SCORES, NUMBER_TERMS
from fusetune.result import Case, Comparison

_LEAST_R2 = -1.0  # axes begin no lower: a rival may be worse without bound
_BINS, _LEAST_ROWS = 10, 10
_FEW_ROWS = 30


@dataclass(frozen=True)
class Band:
    """Test rows of alike answers, from the least to the largest, and their errors."""

    low: float
    high: float
    rows: int
    said: float
    true: float
    error: float
    bias: float


@dataclass(frozen=True)
class Spread:
    """What the numbers of one part of the table are like; None where it is not known."""

    part: str
    rows: int
    mean: float
    deviation: float
    least: float | None
    median: float | None
    largest: float | None


class NumberKind(Kind):
    """A number in its own unit."""

    kind, sheet = "regression", "numbers.css"
    links = (("errors", "Errors"), ("intervals", "Intervals"))
    first_template, template, counts_template = "numbers_first.html", "numbers.html", "numbers_parts.html"
    right = "mean error (MAE)"
    surer = "its mean error is smaller"
    constant, scored = "always the mean", "Mean error (MAE)"
    others, views = "of the same or of another tenth of the numbers", "what the number hangs on"
    curve_unit = "in squared deviations of the label"
    mistakes_title = "Its largest errors"
    mistakes_words = (
        "Test rows whose number is farthest from what was said. A row whose label is wrong, or whose picture shows "
        "something else, is often among them. Bars say what each input adds to the number, in its own unit;"
    )
    no_mistakes = "Errors of single rows were not collected."
    promised = "Reaches of the intervals are those"
    sets = (
        "Intervals: how often they hold the number, against the promised {}, and their mean width. As the model states "
        "them (Mondrian) they have a reach of their own for what is missing, where enough validation rows lacked the "
        "same."
    )
    loss_in_words, score_in_words = "mean absolute error", "has an R² of {}"
    over_seeds = "Root of the mean squared error (RMSE), median error and bias"
    terms, meanings = NUMBER_TERMS, NUMBER_SCORES

    @classmethod
    def forms(cls, size: float) -> Forms:
        """Return a plain number for R2, and amounts in the label's unit."""
        score = plain("R²", "R²", _LEAST_R2)
        return Forms(score, amounts("MAE", "MAE", size), frozenset({"r2"}), cls.meanings, "tenth")

    @classmethod
    def set_name(cls, method: str) -> str:
        """Return the word itself."""
        return method

    @cached_property
    def printed(self) -> Forms:
        """As finely as the model's own MAE asks for."""
        mae = self.result.judged.test["mae"].value
        return self.forms(mae if mae > 0 else self.size)

    @cached_property
    def size(self) -> float:
        """Of the label's numbers: their deviation in the training part."""
        return float(self.result.judged.measure.target.deviation)

    @cached_property
    def number(self) -> Form:
        """The label itself."""
        return amounts("number", "Number", self.size)

    @property
    def described(self) -> str:
        """That it is a number."""
        return "a number"

    @property
    def card(self) -> tuple[str, str]:
        """A model of a number, and how far that reaches."""
        true = self.true
        seen = f"{self.number.value(float(true.min()))} to {self.number.value(float(true.max()))}" if len(true) else ""
        among = f" The test rows’ own numbers are {seen}; about others nothing is known." if seen else ""
        return (
            f"A model that says the number “{self.result.origin.label}”",
            f"It gives a number for every row, also for one unlike all that it learnt from.{among}",
        )

    @property
    def big(self) -> tuple[Interval, Form]:
        """The mean error, in the label's own unit."""
        return self.result.judged.test["mae"], self.loss

    def beside(self) -> list[str]:
        """Return R2 with its interval, and what it means."""
        r2 = self.result.judged.test["r2"]
        lines = [f"R² {self.score.value(r2.value)}" + (f" ({self.score.bounds(r2)})" if r2.bounded else "")]
        return [*lines, f"in the unit of “{self.result.origin.label}”; R² has none: 1 is perfect, 0 always the mean"]

    @property
    def said_numbers(self) -> NDArray[np.float64]:
        """What was said of the test rows, float [rows]."""
        return np.asarray(self.result.judged.probabilities["test"][:, 0], dtype=np.float64)

    @cached_property
    def true(self) -> NDArray[np.float64]:
        """The numbers of the test rows, float [rows]."""
        judged = self.result.judged
        return np.asarray(judged.measure.truths(judged.labels["test"]), dtype=np.float64)

    @cached_property
    def wording(self) -> Wording:
        """What is said of comparisons: a model is better where it is nearer more often, and its R2 is higher."""
        return Wording(
            always=self.result.judged.measure.constant,
            unshown="Not shown to be better than",
            surer="though its mean error is shown to be smaller",
            loss_alone="its mean error is smaller than that of each input alone",
            right="that it is nearer more often, with a higher R², than",
            gained=self._nearer,
            test=prose.paired_test(self.result, "exact sign test"),
        )

    def _nearer(self, comparison: Comparison) -> str:
        r2 = comparison.accuracy
        return (
            f"is nearer to the true number in {count(comparison.gained, 'row')} and farther in "
            f"{count(comparison.lost)}, a difference of {self.score.change(r2.value)} in R² "
            f"({self.score.change_bounds(r2)}) and of {self.loss.change(comparison.nll.value)} in MAE "
            f"({self.loss.change_bounds(comparison.nll)}"
        )

    def opening(self) -> list[str]:
        """Return the mean error and R2, and what always answering the mean would do."""
        test, label = self.result.judged.test, self.result.origin.label
        first = (
            f"{prose.on_test_rows(self.result)} the model says “{label}” with a mean error of "
            f"{self.loss.value(test['mae'].value)} ({prose.level_bounds(test['mae'], self.loss.bounds)}) and an R² of "
            f"{self.score.value(test['r2'].value)} ({prose.level_bounds(test['r2'], self.score.bounds)})."
        )
        if not len(self.true):
            return [first]
        always = float(np.abs(self.true - self.result.judged.measure.target.mean).mean())
        return [first, f"Always answering the mean of the training rows has a mean error of {self.loss.value(always)}."]

    def certainty(self) -> str:
        """Return how often intervals hold the true number."""
        found = self.result.judged.analysis.intervals
        if found is None:
            return "How often its intervals hold the true number was not measured."
        held = f" (95\N{NO-BREAK SPACE}% interval {percent_bounds(found.coverage)})" if found.coverage.bounded else ""
        return (
            f"Its intervals, which promise to hold the true number for {percent(found.target)} of such rows, hold it "
            f"for {percent(found.coverage.value)} of the test rows{held}; their mean width is "
            f"{self.loss.value(found.width.value)}."
        )

    def limits(self) -> list[str]:
        """Return few rows, a bias that is shown, and an R2 that says nothing."""
        test, rows, sentences = self.result.judged.test, len(self.true), list[str]()
        if rows < _FEW_ROWS:
            sentences.append(f"It was judged on {count(rows, 'test row')} only.")
        if np.isnan(test["r2"].value):
            sentences.append("All test rows have the same number, so that R² cannot be told.")
        bias = test["bias"]
        if bias.bounded and (bias.low > 0 or bias.high < 0):
            more = "much" if bias.value > 0 else "little"
            size = self.loss.value(abs(bias.value))
            sentences.append(f"On average it says {size} too {more} ({self.loss.change_bounds(bias)}).")
        return sentences

    def context(self) -> dict[str, Any]:
        """Return drawings of errors, errors by answer, what the parts' numbers are like."""
        said, true = self.said_numbers, self.true
        errors, show = said - true, self.number.value
        there = len(said) > 0
        return {
            "agreement": plots.agreement_plot(said, true, show) if there else None,
            "residuals": plots.residual_plot(said, errors, show) if there else None,
            "histogram": plots.error_plot(errors, self.loss.value) if there else None,
            "said_hexagons": len(said) > plots.FEW_POINTS,
            "bands": bands(said, true),
            "spreads": self._spreads(),
        }

    @property
    def score_of_shares(self) -> Form:
        """How the share of intervals that hold the number is printed."""
        return share("share", "Share")

    def _spreads(self) -> list[Spread]:
        judged, target = self.result.judged, self.result.judged.measure.target
        found = []
        for part, rows in self.result.data.rows.items():
            labels = judged.labels.get(part)
            if part == "train":
                found.append(Spread(part, rows, target.mean, target.deviation, None, None, None))
            elif labels is not None and len(labels):
                own = np.asarray(judged.measure.truths(labels), dtype=np.float64)
                ends = (float(own.min()), float(np.median(own)), float(own.max()))
                found.append(Spread(part, rows, float(own.mean()), float(own.std()), *ends))
        return found

    def first_of(self, row: Any) -> Interval:
        """Return the mean error."""
        interval: Interval = row.nll
        return interval

    @property
    def first_form(self) -> Form:
        """That of the mean error."""
        return self.loss

    def valid_loss(self) -> tuple[str, Form]:
        """Return what training goes by: half the squared error, in squared deviations, and R2."""
        return self.result.judged.measure.target.loss_word, self.score

    def agrees(self, case: Case) -> str:
        """Return nothing: no answer is simply right or wrong."""
        return "true-number"

    def shares_words(self, case: Case) -> str:
        """Return that they are in the label's unit."""
        return f"What each input adds to the number, from {self.number.value(case.prior)} without any input"

    def share_length(self, case: Case, share: float) -> float:
        """Return its length beside the largest of the row."""
        most = max(map(abs, case.shares.values()), default=0.0)
        return round(abs(share) / most, 4) if most > 0 else 0.0

    def share_value(self, share: float) -> str:
        """Print it with its sign."""
        return self.number.change(share)


def bands(said: NDArray[np.float64], true: NDArray[np.float64]) -> list[Band]:
    """Return tenths of the rows by what was said, each of at least ten rows, with their errors; both float [rows]."""
    if not len(said):
        return []
    order, errors = np.argsort(said, kind="stable"), said - true
    parts = np.array_split(order, max(1, min(_BINS, len(said) // _LEAST_ROWS)))
    return [
        Band(
            float(said[at].min()), float(said[at].max()), len(at), float(said[at].mean()), float(true[at].mean()),
            float(np.abs(errors[at]).mean()), float(errors[at].mean()),
        )
        for at in parts
    ]  # fmt: skip
