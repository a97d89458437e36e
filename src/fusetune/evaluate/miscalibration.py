"""Is stated certainty off, or does chance alone make it look so?

The expected calibration error is a sum of absolute gaps, which chance inflates: with few rows, a model whose certainty
is exactly right seems to be off by points. Here the squared gap of each bin is freed of what chance puts in, as in the
debiased estimator of Kumar, Liang and Ma (NeurIPS 2019, arXiv 1909.10155), with sums over groups in the place of rows:

    CE^2 = sum_b (S_b^2 - sum_g R_gb^2) G_b / (G_b - 1) / (n n_b)
    S_b = sum_g R_gb,  R_gb = sum_{i in g, b} (right_i - p_i)

and the p-value is the share of sign flips of whole groups that make the plain error as large as it is (a wild bootstrap
of clusters: under a certainty that is right, gaps have mean zero in every group).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fusetune.evaluate import metrics
from fusetune.evaluate.bootstrap import Groups, clusters
from fusetune.evaluate.intervals import Interval
from fusetune.evaluate.metrics import FloatArray, IntArray

_FLIPS, _PIECES = 1000, 200
_SIGNIFICANT = 0.05
_CELLS = 1 << 22  # signs that are drawn at a time


@dataclass(frozen=True)
class Miscalibration:
    """How far stated certainty is from the share that is right.

    Attributes:
        error: The error without what chance adds, root mean square over rows, with a 95 % interval; 0 where nothing is
            left of it.
        plain: The plain expected calibration error.
        by_chance: What the plain error is by chance alone, where certainty is exactly right.
        p: How often chance alone makes the plain error as large.
    """

    error: Interval
    plain: float
    by_chance: float
    p: float

    @property
    def shown(self) -> bool:
        """Is it more than chance?"""
        return self.p < _SIGNIFICANT


def miscalibration(
    probabilities: FloatArray, labels: IntArray, groups: Groups = None, *, bins: int = 15, seed: int = 0
) -> Miscalibration | None:
    """Measure how far the top probability is from the share that is right.

    Args:
        probabilities: ``float [rows, classes]``.
        labels: Class indices, ``int [rows]``.
        groups: The group of each row.
        bins: Bins of equal width over the top probability, as those of `metrics.ece`.
        seed: Draws the sign flips.

    Returns:
        The measurement; None with fewer than two groups (without groups: rows).
    """
    where = clusters(groups, len(labels))
    if where.count < 2:
        return None
    gaps = metrics.correct_rows(probabilities, labels) - probabilities.max(axis=1)
    place = metrics.bin_of_rows(probabilities, bins)
    sums, rows = np.zeros((where.count, bins)), np.zeros((where.count, bins))
    np.add.at(sums, (where.member, place), gaps * where.own)
    np.add.at(rows, (where.member, place), where.own)
    total = where.own.sum()
    plain = float(np.abs(sums.sum(0)).sum() / total)
    drawn = _flipped(sums, seed) / total
    above = float((1 + (drawn >= plain - 1e-12).sum()) / (1 + len(drawn)))
    return Miscalibration(_error(sums, rows), plain, float(drawn.mean()), above)


def _flipped(sums: FloatArray, seed: int) -> FloatArray:
    """Return the sum of absolute bin gaps for random signs of the groups, [flips]."""
    random = np.random.default_rng([seed, 7])
    some = max(1, min(_FLIPS, _CELLS // len(sums)))
    drawn = []
    for start in range(0, _FLIPS, some):
        signs = random.integers(0, 2, (min(some, _FLIPS - start), len(sums))) * 2.0 - 1.0
        drawn.append(np.abs(signs @ sums).sum(1))
    return np.concatenate(drawn)


def _error(sums: FloatArray, rows: FloatArray) -> Interval:
    """Return the root of CE^2 with the interval of a jackknife over pieces of the groups."""
    parts = np.array_split(np.random.default_rng(0).permutation(len(sums)), min(_PIECES, len(sums)))
    whole = (sums.sum(0), (sums**2).sum(0), rows.sum(0), (rows > 0).sum(0))
    value = _square(*whole)
    left = np.array(
        [
            _square(
                whole[0] - sums[part].sum(0), whole[1] - (sums[part] ** 2).sum(0),
                whole[2] - rows[part].sum(0), whole[3] - (rows[part] > 0).sum(0),
            )
            for part in parts
        ]
    )  # fmt: skip
    spread = float(np.sqrt((len(left) - 1) * left.var()))
    low, high = value - 1.96 * spread, value + 1.96 * spread
    return Interval(*(float(np.sqrt(max(0.0, one))) for one in (value, low, high)))


def _square(total: FloatArray, own: FloatArray, rows: FloatArray, groups: FloatArray) -> float:
    several = groups > 1
    gap = (total[several] ** 2 - own[several]) * groups[several] / (groups[several] - 1) / rows[several]
    return float(gap.sum() / rows.sum())
