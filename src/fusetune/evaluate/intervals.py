"""How sure the scores are: intervals by resampling whole groups, and paired comparisons of two models.

Rows of one group (a patient, a video) resemble each other: 3,000 frames of 40 videos tell far less than 3,000
independent rows. The bootstrap therefore draws whole groups wherever groups are given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest, norm
from scipy.stats import t as student

from fusetune.evaluate import metrics
from fusetune.evaluate.bootstrap import Clusters, Groups, clusters, resampled_means, resampled_metrics, weights_in
from fusetune.evaluate.metrics import FloatArray

LEVEL = 0.95  # coverage of all intervals
_LEAST_FREEDOM = 2.0  # fewer would make the bounds say nothing


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
        return {"value": plain(self.value), "low": plain(self.low), "high": plain(self.high)}


def plain(value: Any) -> Any:
    """Return JSON values of a result: of a dataclass its fields by name (without a last underscore), None for NaN."""
    if isinstance(value, Interval):
        return value.as_dict()
    if is_dataclass(value):
        return {field.name.rstrip("_"): plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (Wilson 1927)."""
    bounds = binomtest(successes, trials).proportion_ci(confidence_level=LEVEL, method="wilson")
    return float(bounds.low), float(bounds.high)


def proportion(hits: ArrayLike, groups: Groups = None) -> Interval:
    """Return a share of rows with its interval.

    Without groups this is Wilson's interval. With groups it is Wilson's for the number of independent rows that would
    vary as much as the groups do (linearised variance of a ratio, Kish 1965; Korn and Graubard 1998; Dean and Pagano
    2015), with Student's quantile. Its degrees of freedom say how well that variance is known: at most groups - 1, less
    where a few groups carry it (Satterthwaite 1946, from the fourth moment). It covers better than the percentiles of a
    group bootstrap when groups are few or the share is near 0 or 1 (``benchmarks/coverage.py``). Where all rows say the
    same, groups cannot be seen to vary, and each counts as one observation. Rows that do not count alike are groups of
    their own: what varies is their weighted share.

    Args:
        hits: ``bool [rows]``.
        groups: The group of each row; missing values form one group.

    Returns:
        The share; NaN without rows, and NaN bounds with fewer than two rows or groups.
    """
    right = np.asarray(hits, dtype=np.float64)
    if not len(right):
        return Interval(math.nan, math.nan, math.nan)
    where = clusters(groups, len(right))
    share = float(where.mean(right))
    if where.count < 2:
        return Interval(share, math.nan, math.nan)
    if groups is None:
        return Interval(share, *wilson(int(right.sum()), len(right)))
    z = float(norm.ppf((1 + LEVEL) / 2))
    independent = _effective_rows(right - share, where)
    if independent is None:
        return Interval(share, *_wilson(share, where.effective, z))
    effective, freedom = independent
    return Interval(share, *_wilson(share, effective, float(student.ppf((1 + LEVEL) / 2, freedom))))


def means(values: ArrayLike, groups: Groups = None, *, resamples: int = 2000, seed: int = 0) -> list[Interval]:
    """Return the mean of each column of ``values [rows, columns]``, with the bootstrap of ``score_with_intervals``.

    All columns see the same resamples.
    """
    columns = np.asarray(values, dtype=np.float64)
    where = clusters(groups, len(columns))
    centres = [float(where.mean(column)) if len(column) else math.nan for column in columns.T]
    if where.count < 2:
        return [Interval(value, math.nan, math.nan) for value in centres]
    draws = resampled_means(columns, where, resamples=resamples, seed=seed)
    return [percentile(value, draws[:, at], where.count) for at, value in enumerate(centres)]


@dataclass(frozen=True)
class GroupSpread:
    """How groups differ, each counting alike: their number, the mean of their shares and the lowest decile."""

    count: int
    mean: float
    lowest_decile: float


def group_spread(hits: ArrayLike, groups: Groups) -> GroupSpread:
    """Return how the share of hits, ``bool [rows]``, differs between groups."""
    right = np.asarray(hits)
    where = clusters(groups, len(right))
    share = where.sums(right) / where.sums(np.ones(len(right)))
    return GroupSpread(where.count, float(share.mean()), float(np.quantile(share, 0.1)))


def score_with_intervals(
    probabilities: ArrayLike,
    labels: ArrayLike,
    groups: Groups = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return every metric of ``metrics.score`` with its interval.

    Accuracy and top-k get the interval of ``proportion``. For the other metrics whole groups (without groups: rows) are
    resampled with replacement. Bounds are percentiles of the resamples, at levels widened for small numbers of groups
    (Hesterberg 2015, arXiv 1411.5279, "expanded percentile interval"). Calibration errors need more care: they are sums
    of absolute gaps, which chance inflates, and resampling inflates once more. Their lower bound is the value less the
    noise in the gaps themselves (triangle inequality: cautious, and zero for a calibrated model); their upper bound is
    the lower percentile reflected at the value (basic bootstrap).

    Args:
        probabilities: ``float [rows, classes]``, each row summing to one.
        labels: Class indices, ``int [rows]``.
        groups: The group of each row, ``[rows]``, any values that can be told apart. Missing values form one group. Or
            a `Sampling`, which says what rows count too.
        resamples: Number of bootstrap resamples. AUROC, AUPRC and class-wise ECE, which need ``rows * classes``
            operations for each, take fewer (at least 200) when the work would exceed about ten seconds: 2,000 are used
            up to 5 million probabilities.
        seed: Seed of the resampling; the same seed gives the same bounds.

    Returns:
        One interval per metric. With fewer than two groups (without groups: rows) the bounds are NaN.

    Raises:
        UserError: the arrays cannot be scored or the groups have another length.
    """
    p, y = metrics.checked(probabilities, labels)
    values = metrics.score(p, y, weights_in(groups))
    where = clusters(groups, len(y))
    if where.count < 2:
        return {name: Interval(value, math.nan, math.nan) for name, value in values.items()}
    draws = resampled_metrics(p, y, where, resamples=resamples, seed=seed)
    result = {name: percentile(values[name], draws[name], where.count) for name in values}
    result["accuracy"] = proportion(metrics.correct_rows(p, y), groups)
    if (k := metrics.top_size(p.shape[1])) is not None:
        result[f"top_{k}"] = proportion(metrics.top_rows(p, y, k), groups)
    for name in ("ece", "classwise_ece"):
        result[name] = _ece_interval(values[name], draws[name], draws[f"{name}_noise"], where.count)
    return result


def paired_difference(
    probabilities_a: ArrayLike,
    probabilities_b: ArrayLike,
    labels: ArrayLike,
    groups: Groups = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return accuracy and NLL of model a minus those of model b on the same rows, with bootstrap intervals.

    A positive accuracy and a negative NLL speak for model a. Arguments, bounds and errors are those of
    ``score_with_intervals``; the result has the keys ``accuracy`` and ``nll``.
    """
    a, y = metrics.checked(probabilities_a, labels)
    b, _ = metrics.checked(probabilities_b, labels)
    hits = metrics.correct_rows(a, y).astype(np.float64) - metrics.correct_rows(b, y)
    columns = np.stack([hits, metrics.nll_rows(a, y) - metrics.nll_rows(b, y)], axis=1)
    return dict(zip(("accuracy", "nll"), means(columns, groups, resamples=resamples, seed=seed), strict=True))


@cache
def _tail(count: int) -> float:
    """Return the level of the lower percentile for an interval from resamples of ``count`` things."""
    # A bootstrap distribution is too narrow by sqrt((n-1)/n), and normal rather than Student tails assume that the
    # spread is known; both matter below about 50 groups.
    reach = student.ppf((1 + LEVEL) / 2, count - 1) * math.sqrt(count / (count - 1))
    return float(norm.cdf(-reach))


def percentile(value: float, draws: FloatArray, count: int) -> Interval:
    """Return the expanded percentile interval of the resampled values; ``count`` is the number of things resampled."""
    finite = draws[np.isfinite(draws)]
    if count < 2 or not len(finite):
        return Interval(value, math.nan, math.nan)
    tail = _tail(count)
    low, high = np.quantile(finite, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def _ece_interval(value: float, draws: FloatArray, noise: FloatArray, count: int) -> Interval:
    """Return the interval of an expected calibration error, see ``score_with_intervals``."""
    tail = _tail(count)
    upper, lower = np.quantile(noise, 1 - tail), np.quantile(draws, tail)
    return Interval(value, max(0.0, value - float(upper)), max(value, 2 * value - float(lower)))


def _effective_rows(residuals: FloatArray, where: Clusters) -> tuple[float, float] | None:
    """Return how many independent rows vary as much as these groups, and the degrees of freedom of that number.

    None where the groups do not vary at all.
    """
    sums, own = where.sums(residuals), where.own
    square = float((sums**2).mean())
    variance = where.count**2 / (where.count - 1) * square / own.sum() ** 2
    if variance < 1e-15:
        return None
    # Groups that vary less than independent rows would are taken for chance.
    rows = min(float(where.mean(residuals**2)) / variance, float(own.sum() ** 2 / (own**2).sum()))
    heavy = max(float((sums**4).mean()) / square**2 - 3, 0.0)
    freedom = max(2 / (heavy / where.count + 2 / (where.count - 1)), _LEAST_FREEDOM)
    return rows, min(freedom, where.count - 1)


def _wilson(share: float, rows: float, z: float) -> tuple[float, float]:
    """Return Wilson's bounds for a number of rows that need not be whole."""
    middle = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    reach = z / (1 + z * z / rows) * math.sqrt(share * (1 - share) / rows + (z / (2 * rows)) ** 2)
    # The share itself is always inside; rounding must not move it out where all rows are right.
    return max(0.0, min(share, middle - reach)), min(1.0, max(share, middle + reach))
