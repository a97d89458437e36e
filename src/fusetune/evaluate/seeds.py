"""Scores of a method that was trained several times: test rows and seeds are both a sample.

What is said of another seed on other patients varies with both, so the bootstrap draws whole groups (rows, where there
are none) and seeds, each with replacement and independently of each other. Everybody who is compared sees the same
draws.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fusetune.errors import UserError
from fusetune.evaluate.bootstrap import clusters, drawn_counts
from fusetune.evaluate.intervals import Interval, percentile, proportion
from fusetune.evaluate.metrics import FloatArray


def crossed_draws(
    values: ArrayLike, groups: ArrayLike | None = None, *, resamples: int = 2000, seed: int = 0
) -> FloatArray:
    """Return the mean of ``values [seeds, rows]`` in each resample of groups and of seeds, ``float [resamples]``.

    Args:
        values: One score per training and row.
        groups: The group of each row; without groups every row is one.
        resamples: Number of resamples.
        seed: Seed of the draws: equal for everything that is to be compared resample by resample.

    Raises:
        UserError: If there is not one group per row.
    """
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 2:
        raise UserError(f"scores must be [seeds, rows]; got {scores.shape}")
    where = clusters(groups, scores.shape[1])
    sums = np.stack([np.bincount(where.member, weights=own, minlength=where.count) for own in scores])
    size = np.bincount(where.member, minlength=where.count)
    trained = len(scores)
    shares = np.random.default_rng([seed, 1]).multinomial(trained, [1 / trained] * trained, size=resamples) / trained
    parts, done = [], 0
    for times in drawn_counts(where.count, scores.shape[1], resamples, seed):
        share = shares[done : done + times.shape[1]]
        done += times.shape[1]
        parts.append((share.T * (sums @ times)).sum(0) / (size @ times))
    return np.asarray(np.concatenate(parts), dtype=np.float64)


def crossed_mean(
    values: ArrayLike, groups: ArrayLike | None = None, *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return the mean of ``values [seeds, rows]``, bounds from ``crossed_draws``; NaN with fewer than two groups."""
    scores = np.asarray(values, dtype=np.float64)
    count, value = clusters(groups, scores.shape[1]).count, float(scores.mean())
    if count < 2:
        return Interval(value, np.nan, np.nan)
    return percentile(value, crossed_draws(scores, groups, resamples=resamples, seed=seed), count)


def crossed_share(
    hits: ArrayLike, groups: ArrayLike | None = None, *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return the share of ``bool [seeds, rows]`` with the wider of two intervals.

    Of one training it is that of ``proportion``. Of several, the same takes all trainings of a row (or group) as one
    cluster, which covers well near 0 and 1, and does not know that other seeds might all do better or worse; the
    crossed bootstrap does.
    """
    right = np.asarray(hits, dtype=bool)
    trained, rows = right.shape
    if trained == 1:
        return proportion(right[0], groups)
    units = np.arange(rows) if groups is None else clusters(groups, rows).member
    by_cluster = proportion(right.ravel(), np.tile(units, trained))
    crossed = crossed_mean(right, groups, resamples=resamples, seed=seed)
    return Interval(crossed.value, *_wider(by_cluster, crossed))


def _wider(one: Interval, other: Interval) -> tuple[float, float]:
    return min(one.low, other.low), max(one.high, other.high)
