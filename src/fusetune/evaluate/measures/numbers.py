"""Numbers: R2, mean absolute and squared errors, in the unit of the label."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from fusetune.data.weights import Weights
from fusetune.errors import UserError, listed
from fusetune.evaluate.bootstrap import Clusters, Groups, clusters, resampled_means, weights_in
from fusetune.evaluate.conformal import Conformal
from fusetune.evaluate.decision import Rule
from fusetune.evaluate.intervals import Interval, percentile
from fusetune.evaluate.measures.base import Answered, Measure
from fusetune.evaluate.metrics import FloatArray, IntArray
from fusetune.evaluate.reach import Reaches, fit_reaches, judge_reaches
from fusetune.evaluate.seeds import crossed_draws
from fusetune.evaluate.temperature import Heat, Temperature
from fusetune.targets import Regression, Truth
from fusetune.telling import amount

_EQUAL = 1e-9  # of the training part's deviation: numbers that vary less are equal
_LARGE = 1e9  # from here on numbers are written in powers of ten


class Numbers(Measure[Regression]):
    """One number, in its own unit."""

    kind = "regression"
    score, loss, score_word, loss_word = "r2", "mae", "R²", "MAE"
    share = chances = False
    over_seeds = ("rmse", "median_absolute_error", "bias")
    certain = ("r2", "mae", "rmse", "bias")
    forest = "RandomForestRegressor"
    rule = "the number itself"
    constant = "always answering the mean"

    def say(self, f: ArrayLike, temperature: Heat = 1.0) -> FloatArray:
        """Return mean + deviation * f."""
        return self.target.numbers(np.asarray(f))

    @property
    def size(self) -> float:
        """The deviation of the training part."""
        return self.target.deviation

    def errors(self, p: FloatArray, truth: Truth) -> FloatArray:
        """Return answer minus label, float [rows]."""
        return np.asarray(p[:, 0] - self.target.numbers(truth))

    def right_rows(self, p: FloatArray, truth: Truth) -> FloatArray:
        """Return 1 - e^2 / v, v the variance of these rows' labels: the mean is R2."""
        spread = self._spread(self.target.numbers(truth))
        return np.asarray(1 - self.errors(p, truth) ** 2 / spread)

    def _spread(self, y: FloatArray) -> float:
        """Return the variance of numbers; NaN where they are all equal, but for rounding."""
        spread = float(y.var()) if len(y) else math.nan
        return spread if spread > self._least else math.nan

    @property
    def _least(self) -> float:
        return (_EQUAL * self.target.deviation) ** 2

    def score_means(
        self, columns: FloatArray, truth: Truth, groups: Groups, *, perfect: float = 1.0, **how: int
    ) -> list[Interval]:
        """Return R2, or sums and differences of it; each resample is divided by its own variance of the labels.

        `right_rows` divides by the variance of rows that count alike; where they do not, all is scaled to theirs.
        """
        y, where = self.target.numbers(truth), clusters(groups, len(truth))
        spread = self._spread(y)
        values = where.mean(columns) if len(columns) else np.full(columns.shape[1], math.nan)
        if where.weights is not None:
            own = float(where.mean((y - where.mean(y)) ** 2))
            values = perfect - (perfect - values) * (spread / own if own > self._least else math.nan)
        if where.count < 2:
            return [Interval(float(value), math.nan, math.nan) for value in values]
        y = y - y.mean()
        draws = resampled_means(np.column_stack([columns, y, y**2]), where, **how)
        factor = self._rescaled(spread, draws[:, -2], draws[:, -1])
        drawn = perfect - (perfect - draws[:, :-2]) * factor[:, None]
        return [percentile(float(value), drawn[:, at], where.count) for at, value in enumerate(values)]

    def _rescaled(self, spread: float, y: FloatArray, y_square: FloatArray) -> FloatArray:
        """Return by how much each resample's own variance of the labels is less than that of all, [resamples]."""
        varied = y_square - y**2
        return np.where(varied > self._least, spread / np.maximum(varied, self._least), math.nan)

    def trained_score(
        self, rows: FloatArray, truth: Truth, groups: ArrayLike | None, *, perfect: float = 1.0, **how: int
    ) -> Interval:
        """Return R2, or a difference of two; each resample is divided by its own variance of the labels."""
        y, where, value = self.target.numbers(truth), clusters(groups, len(truth)), float(rows.mean())
        if where.count < 2:
            return Interval(value, math.nan, math.nan)
        # Labels are those of every training, so that each resample draws their rows as it draws those of the scores.
        own = np.broadcast_to(y - y.mean(), rows.shape)
        drawn, first, second = (crossed_draws(each, groups, **how) for each in (rows, own, own**2))
        drawn = perfect - (perfect - drawn) * self._rescaled(self._spread(y), first, second)
        return percentile(value, drawn, where.count)

    def lost_rows(self, p: FloatArray, truth: Truth) -> FloatArray:
        """Return |e|."""
        return np.abs(self.errors(p, truth))

    def scores(
        self, p: FloatArray, truth: Truth, groups: Groups = None, *, resamples: int = 2000, seed: int = 0
    ) -> dict[str, Interval]:
        """Return r2, mae, rmse, median_absolute_error and bias (the mean of answer minus label), with their intervals.

        Whole groups (without groups: rows) are resampled; bounds are expanded percentiles, as of other metrics.
        """
        if not len(truth):
            raise UserError("there are no rows to score; give a table with at least one labelled row")
        if len(broken := np.flatnonzero(~np.isfinite(p).all(1))):
            raise UserError(f"the model gave NaN or infinite numbers in row(s) {listed(broken)}")
        y, e = self.target.numbers(truth), self.errors(p, truth)
        where = clusters(groups, len(y))
        y = y - y.mean()  # of large numbers, squares leave no digits for what they differ by
        columns = np.stack([e, np.abs(e), e**2, y, y**2], 1)
        values = self._of_means(where.mean(columns)[:, None])
        found = {name: float(value[0]) for name, value in values.items()}
        if where.count < 2:
            result = {name: Interval(value, math.nan, math.nan) for name, value in found.items()}
        else:
            draws = self._of_means(resampled_means(columns, where, resamples=resamples, seed=seed).T)
            result = {name: percentile(value, draws[name], where.count) for name, value in found.items()}
        result["median_absolute_error"] = _median(np.abs(e), where)
        return {name: result[name] for name in ("r2", "mae", "rmse", "median_absolute_error", "bias")}

    def _of_means(self, means: FloatArray) -> dict[str, FloatArray]:
        """Return metrics from the means of e, |e|, e^2, y and y^2, [5, resamples]."""
        e, size, square, y, y_square = means
        spread = y_square - y**2
        with np.errstate(divide="ignore", invalid="ignore"):
            r2 = np.where(spread > self._least, 1 - square / spread, np.nan)
        return {"r2": r2, "rmse": np.sqrt(square), "mae": size, "bias": e}

    def temperature(self, f: FloatArray, truth: Truth, sample_weight: Weights | None = None) -> float:
        """Return 1: the number is what it is."""
        return 1.0

    def calibrate(self, f: FloatArray, truth: Truth, folds: IntArray, groups: Groups) -> tuple[Temperature, FloatArray]:
        """Return that no temperature is used."""
        before = self.target.nll(f, truth, weights_in(groups))
        return Temperature(len(truth), 1.0, before, math.nan, math.nan, False), np.ones((len(truth), 1))

    def answers(self, p: FloatArray, rule: Rule) -> list[Any]:
        """Return the number."""
        return [float(number) for number in p[:, 0]]

    def truths(self, truth: Truth) -> list[Any]:
        """Return the numbers."""
        return [float(number) for number in self.target.numbers(truth)]

    def promise(self, rows: Answered, seed: int) -> tuple[Conformal, Reaches]:
        """Learn reaches of intervals."""
        errors = self.errors(rows.p, rows.truth)
        return Conformal(), fit_reaches(errors, rows.pattern, rows.groups, rows.p[:, 0], rows.folds)

    def further(
        self, rows: Answered, sets: Conformal, reaches: Reaches, *, rule: Rule, resamples: int, seed: int
    ) -> dict[str, Any]:
        """Return how often intervals hold the number."""
        said, true = rows.p[:, 0], self.target.numbers(rows.truth)
        return {"intervals": judge_reaches(reaches, said, true, rows.pattern, rows.groups)}

    def mistakes(self, p: FloatArray, truth: Truth, rule: Rule) -> list[int]:
        """Return all rows, those of the largest error first."""
        return [int(at) for at in np.argsort(-np.abs(self.errors(p, truth)), kind="stable")]

    def telling(self, p: FloatArray, truth: Truth, rule: Rule) -> dict[str, int]:
        """Return a row of middling error, the one whose number is said to be largest, and that of the largest error."""
        worst = self.mistakes(p, truth, rule)
        if not worst:
            return {}
        return {
            "A usual error": worst[len(worst) // 2],
            "Its largest number": int(p[:, 0].argmax()),
            "Its largest error": worst[0],
        }

    def shown(self, answer: Any) -> str:
        """Return a number as finely as a hundredth of the training part's deviation, a whole one of it whole."""
        whole = float(answer).is_integer() and abs(answer) < _LARGE
        return f"{answer:,.0f}" if whole else amount(answer, self.size)

    def kept(self, answers: list[Any]) -> list[Any]:
        """Return the numbers."""
        return answers

    def shown_loss(self, loss: float, size: float | None = None) -> str:
        """Return an error in the label's unit."""
        return amount(loss, size or self.target.deviation)

    def answered_by(self, table: pd.DataFrame) -> FloatArray:
        """Return the numbers that were predicted."""
        return table[["prediction"]].to_numpy(np.float64)

    def shares(self, p: FloatArray) -> pd.DataFrame:
        """Return no columns: the number is the prediction."""
        return pd.DataFrame(index=pd.RangeIndex(len(p)))

    def check_coverage(self, coverage: float, sets: Conformal, reaches: Reaches) -> None:
        """Refuse what reaches are not known for."""
        reaches.at(coverage, np.array([], dtype=np.str_))

    def held(
        self, coverage: float, p: FloatArray, pattern: NDArray[np.str_], sets: Conformal, reaches: Reaches
    ) -> dict[str, Any]:
        """Return both ends of the interval of each row; infinite where too few rows were known to promise it."""
        low, high = reaches.ends(coverage, p[:, 0], pattern)
        return {"low": low, "high": high}


def _median(sizes: FloatArray, where: Clusters) -> Interval:
    """Return the median with the interval of its order statistics, by the number of groups (without groups: rows).

    With weights, half of the weight lies on either side of it, and groups count as as many as tell the same.
    """
    reach = 0.98 / math.sqrt(where.effective)  # 1.96 deviations of a share of one half
    ends = [max(0.0, 0.5 - reach), min(1.0, 0.5 + reach)]
    if where.weights is None:
        value, (low, high) = float(np.median(sizes)), np.quantile(sizes, ends)
    else:
        order = np.argsort(sizes, kind="stable")
        reached, last = np.cumsum(where.weights[order]) / where.weights.sum(), len(order) - 1
        # Where half of the weight ends between two rows, the median is in their middle, as of rows that count alike.
        middle = [min(int(np.searchsorted(reached, 0.5 + tiny)), last) for tiny in (-1e-12, 1e-12)]
        value = float(sizes[order[middle]].mean())
        low, high = (sizes[order[min(int(np.searchsorted(reached, end)), last)]] for end in ends)
    if where.count < 2:
        return Interval(value, math.nan, math.nan)
    return Interval(value, float(low), float(high))
