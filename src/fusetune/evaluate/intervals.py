"""How sure the scores are: intervals by resampling whole groups, and paired comparisons of two models.

Rows of one group (a patient, a video) resemble each other: 3,000 frames of 40 videos tell far less than 3,000
independent rows. The bootstrap therefore draws whole groups wherever groups are given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest, norm
from scipy.stats import t as student

from fusetune.errors import UserError
from fusetune.evaluate import metrics
from fusetune.evaluate.bootstrap import clusters, resampled_means, resampled_metrics
from fusetune.evaluate.metrics import FloatArray


@dataclass(frozen=True)
class Interval:
    """A value with the bounds of its interval; NaN bounds: no interval can be given (fewer than two groups)."""

    value: float
    low: float
    high: float

    @property
    def bounded(self) -> bool:
        """Whether the interval is known."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def as_dict(self) -> dict[str, float | None]:
        """Return ``{"value", "low", "high"}``; NaN becomes None, which JSON can hold."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {name: number if math.isfinite(number) else None for name, number in numbers.items()}


@dataclass(frozen=True)
class PairedTest:
    """The exact McNemar test of model a against model b on the same rows.

    Attributes:
        gained: Rows that a decides correctly and b does not.
        lost: Rows that b decides correctly and a does not.
        p: Two-sided p-value of the hypothesis that gains and losses are equally likely.
    """

    gained: int
    lost: int
    p: float


def wilson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (Wilson 1927)."""
    bounds = binomtest(successes, trials).proportion_ci(confidence_level=level, method="wilson")
    return float(bounds.low), float(bounds.high)


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> PairedTest:
    """Return the exact two-sided McNemar test for two models judged on the same rows.

    Args:
        correct_a: Which rows the model in question decides correctly, ``bool [rows]``.
        correct_b: The same for the model that it is compared with.

    Raises:
        UserError: the two arrays differ in length.
    """
    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if a.shape != b.shape:
        raise UserError(f"a paired test needs the same rows for both models; got {a.shape} and {b.shape}")
    gained, lost = int((a & ~b).sum()), int((b & ~a).sum())
    p = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return PairedTest(gained, lost, p)


def score_with_intervals(
    probabilities: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Return every metric of ``metrics.score`` with its interval.

    With groups, whole groups are resampled with replacement. Without, accuracy gets the Wilson interval and the other
    metrics a bootstrap over rows. Bounds are percentiles of the resamples, at levels widened for small numbers of
    groups (Hesterberg 2015, arXiv 1411.5279, "expanded percentile interval"). Two metrics need more care:

    * Accuracy with groups, when all rows are right or all are wrong: every resample then says the same. The bounds are
      those of Wilson with each group counted as one observation, which is cautious.
    * ECE is a sum of absolute gaps, which chance inflates, and resampling inflates once more. Its lower bound is the
      value less the noise in the gaps themselves (triangle inequality: cautious, and zero for a calibrated model); its
      upper bound is the lower percentile reflected at the value (basic bootstrap).

    Args:
        probabilities: ``float [rows, classes]``, each row summing to one.
        labels: Class indices, ``int [rows]``.
        groups: The group of each row, ``[rows]``, any values that can be told apart. Missing values form one group.
        resamples: Number of bootstrap resamples. AUROC, which needs ``rows * classes`` operations for each, takes fewer
            (at least 200) when the work would exceed about ten seconds: 2,000 are used up to 5 million probabilities.
        seed: Seed of the resampling; the same seed gives the same bounds.
        level: Coverage of the intervals.

    Returns:
        One interval per metric. With fewer than two groups (without groups: rows) the bounds are NaN.

    Raises:
        UserError: the arrays cannot be scored or the groups have another length.
    """
    p, y = metrics.checked(probabilities, labels)
    values = metrics.score(p, y)
    where = clusters(groups, len(y))
    if where.count < 2:
        return {name: Interval(value, math.nan, math.nan) for name, value in values.items()}
    draws = resampled_metrics(p, y, where, resamples=resamples, seed=seed)
    result = {name: _percentile(values[name], draws[name], where.count, level) for name in values}
    hits = int(metrics.correct_rows(p, y).sum())
    if groups is None:
        result["accuracy"] = Interval(values["accuracy"], *wilson(hits, len(y), level))
    elif hits in (0, len(y)):
        result["accuracy"] = Interval(values["accuracy"], *wilson(where.count if hits else 0, where.count, level))
    result["ece"] = _ece_interval(values["ece"], draws, where.count, level)
    return result


def paired_difference(
    probabilities_a: ArrayLike,
    probabilities_b: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Return accuracy and NLL of model a minus those of model b on the same rows, with bootstrap intervals.

    A positive accuracy and a negative NLL speak for model a. Arguments, bounds and errors are those of
    ``score_with_intervals``; the result has the keys ``accuracy`` and ``nll``.
    """
    a, y = metrics.checked(probabilities_a, labels)
    b, _ = metrics.checked(probabilities_b, labels)
    where = clusters(groups, len(y))
    hits = metrics.correct_rows(a, y).astype(np.float64) - metrics.correct_rows(b, y)
    differences = {"accuracy": hits, "nll": metrics.nll_rows(a, y) - metrics.nll_rows(b, y)}
    if where.count < 2:
        return {name: Interval(float(rows.mean()), math.nan, math.nan) for name, rows in differences.items()}
    means = resampled_means(np.stack(list(differences.values()), axis=1), where, resamples=resamples, seed=seed)
    return {
        name: _percentile(float(rows.mean()), means[:, column], where.count, level)
        for column, (name, rows) in enumerate(differences.items())
    }


def _tail(count: int, level: float) -> float:
    """Return the level of the lower percentile for an interval from resamples of ``count`` things."""
    # A bootstrap distribution is too narrow by sqrt((n-1)/n), and normal rather than Student tails assume that the
    # spread is known; both matter below about 50 groups.
    reach = student.ppf((1 + level) / 2, count - 1) * math.sqrt(count / (count - 1))
    return float(norm.cdf(-reach))


def _percentile(value: float, draws: FloatArray, count: int, level: float) -> Interval:
    """Return the expanded percentile interval of the resampled values; ``count`` is the number of things resampled."""
    known = draws[np.isfinite(draws)]
    if not len(known):
        return Interval(value, math.nan, math.nan)
    tail = _tail(count, level)
    low, high = np.quantile(known, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def _ece_interval(value: float, draws: dict[str, FloatArray], count: int, level: float) -> Interval:
    """Return the interval of the expected calibration error, see ``score_with_intervals``."""
    tail = _tail(count, level)
    noise, lower = np.quantile(draws["ece_noise"], 1 - tail), np.quantile(draws["ece"], tail)
    return Interval(value, max(0.0, value - float(noise)), max(value, 2 * value - float(lower)))
