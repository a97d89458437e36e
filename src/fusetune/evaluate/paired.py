"""Two models on the same rows: tests of whether one decides better, and the correction for asking several times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from fusetune.errors import UserError
from fusetune.evaluate.bootstrap import Groups, clusters
from fusetune.evaluate.metrics import FloatArray

_EXACT = 12  # up to this many groups all sign patterns are tried
_MANY = 5000  # of more groups, the total of random signs is as good as normal
_AT_ONCE = 1 << 22


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


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> PairedTest:
    """Return the exact two-sided McNemar test for two models judged on the same rows.

    The test takes rows as independent; where they form groups, ``permutation_test`` is the one to believe.

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


def permutation_test(difference: ArrayLike, groups: Groups = None, *, draws: int = 9999, seed: int = 0) -> float:
    """Return the two-sided p-value of a mean difference when the two models are swapped group by group.

    If the models are alike, swapping their predictions for all rows of a group changes nothing but the sign of the
    group's sum of differences. The p-value is the share of sign patterns whose total is at least as far from zero as
    the observed one: of all patterns up to 12 groups that differ, else of random ones and the observed one (Phipson and
    Smyth 2010, arXiv 1603.05766), so that it is never zero. With more than 5,000 groups that differ it is that of the
    normal distribution which the total then has. It needs no rows to be independent, only groups.

    Of differences that are 1, 0 or -1 and rows without groups that count alike, this is the test of signs that
    `mcnemar` does exactly. McNemar's counts rows; where rows have weights, signs of weighted rows take its place.

    Args:
        difference: Score of model a minus that of model b in each row, ``float [rows]``.
        groups: The group of each row; without groups every row is one. Or a `Sampling`, which says what rows count.
        draws: Number of random sign patterns.
        seed: Seed of the patterns.

    Raises:
        UserError: the groups have another length.
    """
    rows = np.asarray(difference, dtype=np.float64)
    where = clusters(groups, len(rows))
    sums = where.sums(rows)
    sums = sums[np.abs(sums) > 1e-12]
    # Totals that are equal in theory may differ by rounding.
    least = abs(sums.sum()) - 1e-9 * np.abs(sums).sum()
    if len(sums) <= _EXACT:
        signs = np.array(list(product((1.0, -1.0), repeat=len(sums)))).reshape(2 ** len(sums), len(sums))
        return float((np.abs(signs @ sums) >= least).mean())
    if len(sums) > _MANY:
        return math.erfc(abs(float(sums.sum())) / math.sqrt(2 * float(sums @ sums)))
    return (1 + _as_far(sums, least, draws, np.random.default_rng(seed))) / (1 + draws)


def _as_far(sums: FloatArray, least: float, draws: int, random: np.random.Generator) -> int:
    """Count the random sign patterns whose total is at least this far from zero."""
    count, step = 0, max(1, _AT_ONCE // len(sums))
    for start in range(0, draws, step):
        signs = random.integers(0, 2, (min(step, draws - start), len(sums)), dtype=np.int8) * 2 - 1
        count += int((np.abs(signs @ sums) >= least).sum())
    return count


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm 1979): the i-th smallest of m times m - i + 1, never falling."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, worst = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        worst = max(worst, min(1.0, p_values[index] * (len(p_values) - rank)))
        corrected[index] = worst
    return corrected
