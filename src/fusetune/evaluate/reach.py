"""How far from a predicted number the true one lies with a stated probability: conformal prediction intervals.

Plainly, the interval of a row is its number plus and minus a reach: a quantile of the absolute errors of calibration
rows, which took no part in fitting (Lei et al. 2018, arXiv 1604.04173). There is a reach for each pattern of missing
modalities (Mondrian; Vovk 2012, arXiv 1209.2673), and with groups, each group has the same weight, as for prediction
sets (`conformal`).

Where errors grow with the number, or lean to one side, a band of quantiles comes first (CQR; Romano, Patterson and
Candes 2019, arXiv 1905.03222): the 5th and the 95th percentile of what is less what is said, as functions of what is
said, and the reach is a quantile of how far rows lie outside of it, which is negative for rows inside. The band of a
row that calibrates a reach comes from the rows of other folds. It takes the place of the plain intervals only if, on
rows that neither learnt from, it holds as often as it promises and is narrower by more than a standard error.

Where rows have weights, all of this is of weighted rows: the loss of the band, the quantiles (`conformal`), and what
both ways hold. How many knots a band has hangs on rows, since weights are no evidence; where they lie, on weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from fusetune.data.weights import Weights
from fusetune.errors import UserError
from fusetune.evaluate.bootstrap import Groups, clusters, grouped, some, weights_in
from fusetune.evaluate.conformal import (
    CAVEAT,
    COVERAGE,
    LEVELS,
    OTHER,
    Limit,
    PatternCoverage,
    level_of,
    pattern_coverage,
    quantiles,
)
from fusetune.evaluate.intervals import GroupSpread, Interval, group_spread, means, proportion
from fusetune.evaluate.metrics import FloatArray, IntArray, average
from fusetune.evaluate.temperature import standard_error

_KNOTS, _LEAST = 5, 20  # of a band, and rows between two of them
PLAIN, BAND = "the same reach to both sides", "quantiles by what is said"


@dataclass(frozen=True)
class Band:
    """Quantiles of what is less what is said: broken lines over what is said, level beyond their ends.

    Attributes:
        knots: Said numbers, increasing.
        low: The lower quantile at each of them.
        high: The upper one.
    """

    knots: list[float]
    low: list[float]
    high: list[float]

    def ends(self, said: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return both quantiles for said numbers, each float [rows]."""
        low, high = (np.asarray(np.interp(said, self.knots, line)) for line in (self.low, self.high))
        return low, high

    def outside(self, said: FloatArray, rest: FloatArray) -> FloatArray:
        """Return how far what is less what is said lies outside of the band, negative inside, float [rows]."""
        low, high = self.ends(said)
        return np.asarray(np.maximum(low - rest, rest - high))


@dataclass(frozen=True)
class Tried:
    """One way to make intervals, on validation rows that it did not learn from.

    Attributes:
        way: `PLAIN` or `BAND`.
        coverage: The share of the rows that its intervals hold, at the promise of `COVERAGE`.
        width: Their mean width.
    """

    way: str
    coverage: float
    width: float


@dataclass(frozen=True)
class Reaches:
    """Reaches by pattern of missing modalities, for each of `LEVELS`, in the unit of the number.

    Attributes:
        levels: Pattern -> reach for each level; patterns with too few calibration rows share one.
        band: What they are added to; None: the number itself.
        tried: Both ways, where they could be compared.
    """

    levels: dict[str, list[Limit]] = field(default_factory=dict)
    band: Band | None = None
    tried: list[Tried] = field(default_factory=list)

    @property
    def way(self) -> str:
        """How intervals are made."""
        return PLAIN if self.band is None else BAND

    def at(self, coverage: float, pattern: NDArray[np.str_]) -> FloatArray:
        """Return the reach of each row, float [rows]; infinite where too few rows are known to promise the coverage.

        Raises:
            UserError: If the coverage is out of range, or nothing was learnt.
        """
        place = level_of(coverage)
        if not self.levels:
            raise UserError("this model has no intervals; fit it again with this version")
        other = self.levels[OTHER]
        return np.array([self.levels.get(str(name), other)[place] for name in pattern], dtype=np.float64)

    def ends(self, coverage: float, said: FloatArray, pattern: NDArray[np.str_]) -> tuple[FloatArray, FloatArray]:
        """Return both ends of the interval of each row, float [rows]; errors are those of `at`."""
        reach = self.at(coverage, pattern)
        if self.band is None:
            return said - reach, said + reach
        low, high = self.band.ends(said)
        reach = np.maximum(reach, -(high - low) / 2)  # further inwards nothing is left: then the middle
        return said + low - reach, said + high + reach

    def check(self) -> None:
        """Refuse reaches that cannot have been learnt.

        Raises:
            ValueError: Naming them.
        """
        least = 0.0 if self.band is None else -np.inf
        for pattern, reaches in self.levels.items():
            if len(reaches) != len(LEVELS) or any(np.isnan(reaches)) or min(reaches) < least:
                raise ValueError(f"reaches of intervals for {pattern!r} are not those of {len(LEVELS)} coverages")
        if self.levels and OTHER not in self.levels:
            raise ValueError(f"no reach for {OTHER}")
        if self.band is not None:
            lines = np.array([self.band.knots, self.band.low, self.band.high], dtype=np.float64)
            if not np.isfinite(lines).all() or (np.diff(lines[0]) <= 0).any() or (lines[1] > lines[2]).any():
                raise ValueError(f"no band of quantiles: {self.band}")


def fit_reaches(
    errors: FloatArray,
    pattern: NDArray[np.str_],
    groups: Groups = None,
    said: FloatArray | None = None,
    folds: IntArray | None = None,
    ways: Sequence[str] = (PLAIN, BAND),
) -> Reaches:
    """Learn reaches from calibration rows, which must not have taken part in any choice.

    Args:
        errors: What is said less what is, float [rows].
        pattern: Which modalities each row has.
        groups: The group of each row, or None; where rows do not count alike, a `Sampling`.
        said: What is said, float [rows]; None: no band is looked for.
        folds: The fold of each row, int [rows]; rows of a group share one.
        ways: `PLAIN`, `BAND`, or both: then the band has to earn its place.
    """
    plain = Reaches(_levels(np.abs(errors), pattern, groups))
    if said is None or folds is None or BAND not in ways:
        return plain
    tried = _tried(errors, pattern, groups, said, folds) if PLAIN in ways else ([], True)
    outside, band = _outside(said, -errors, folds, groups), fit_band(said, -errors, groups)
    if tried is None or outside is None or band is None:
        return plain
    if not tried[1]:
        return Reaches(plain.levels, None, tried[0])
    return Reaches(_levels(outside, pattern, groups), band, tried[0])


def fit_band(said: FloatArray, rest: FloatArray, groups: Groups = None) -> Band | None:
    """Return the 5th and the 95th percentile of what is less what is said; None: too few different numbers are said,
    or no such lines are found.

    Args:
        said: What is said, float [rows].
        rest: What is less what is said, float [rows].
        groups: What rows count, if it is a `Sampling`; groups themselves change nothing.
    """
    own = clusters(groups, len(said)).own
    count = min(_KNOTS, 1 + len(said) // _LEAST)
    knots = np.unique(_shares(said, np.linspace(0, 1, count), groups)) if count > 1 else np.array([])
    if len(knots) < 2:
        return None
    hats = np.stack([np.interp(said, knots, one) for one in np.eye(len(knots))], axis=1)
    low, high = (_quantile_line(hats, rest, own, share) for share in ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2))
    if low is None or high is None:
        return None
    return Band(knots.tolist(), np.minimum(low, high).tolist(), np.maximum(low, high).tolist())


def _shares(said: FloatArray, shares: FloatArray, groups: Groups) -> FloatArray:
    """Return the numbers below which lie these shares of the rows, or of what they count."""
    weights = weights_in(groups)
    if weights is None:
        return np.asarray(np.quantile(said, shares))
    return np.asarray(np.quantile(said, shares, weights=weights, method="inverted_cdf"))


def _quantile_line(hats: FloatArray, rest: FloatArray, own: Weights, share: float) -> FloatArray | None:
    """Return the heights of the least pinball loss (Koenker and Bassett 1978), from its dual, which is small.

    The loss of a row counts what the row counts, `own`, which bounds its variable in the dual. None: it is not solved.
    """
    # The solver's tolerances are absolute, and a number may have any unit.
    unit = 2.0 ** math.ceil(math.log2(largest)) if (largest := float(np.abs(rest).max())) > 0 else 1.0
    wanted = (1 - share) * (hats * own[:, None]).sum(0)
    bounds = np.column_stack([np.zeros(len(own)), own])
    found = linprog(-rest / unit, A_eq=hats.T, b_eq=wanted, bounds=bounds, method="highs")
    return np.asarray(-found.eqlin.marginals) * unit if found.status == 0 else None


def _levels(sizes: FloatArray, pattern: NDArray[np.str_], groups: Groups) -> dict[str, list[Limit]]:
    """Return the quantile of sizes for each level, by pattern where enough rows have it."""
    names, counts = np.unique(pattern, return_counts=True)
    own = [str(name) for name, rows in zip(names, counts, strict=True) if rows >= 1 / (1 - COVERAGE)]
    having = {name: pattern == name for name in own} | {OTHER: np.ones(len(pattern), dtype=bool)}
    return {name: quantiles(sizes[here], some(groups, here), LEVELS) for name, here in having.items()}


def _outside(said: FloatArray, rest: FloatArray, folds: IntArray, groups: Groups) -> FloatArray | None:
    """Return how far each row lies outside of the band of the other folds; None where a fold has no band."""
    found = np.empty(len(said))
    for fold in np.unique(folds):
        here = folds == fold
        if (band := fit_band(said[~here], rest[~here], some(groups, ~here))) is None:
            return None
        found[here] = band.outside(said[here], rest[here])
    return found


def _tried(
    errors: FloatArray, pattern: NDArray[np.str_], groups: Groups, said: FloatArray, folds: IntArray
) -> tuple[list[Tried], bool] | None:
    """Return how both ways fare on each fold when they learn from the others, and whether the band is used.

    None where that cannot be told: with fewer than three folds, without bands, or where no row's width is finite.
    """
    widths, held = np.full((2, len(said)), np.inf), np.zeros((2, len(said)))
    for fold in np.unique(folds):
        here = folds == fold
        known = ~here
        others = some(groups, known)
        outside = _outside(said[known], -errors[known], folds[known], others)
        band = fit_band(said[known], -errors[known], others)
        if outside is None or band is None or len(np.unique(folds[known])) < 2:
            return None
        for at, reaches in enumerate((
            Reaches(_levels(np.abs(errors[known]), pattern[known], others)),
            Reaches(_levels(outside, pattern[known], others), band),
        )):  # fmt: skip
            low, high = reaches.ends(COVERAGE, said[here], pattern[here])
            true = said[here] - errors[here]
            widths[at, here], held[at, here] = high - low, (low <= true) & (true <= high)
    finite = np.isfinite(widths).all(0)
    if not finite.any():
        return None
    widths, held = widths[:, finite], held[:, finite]
    judged = some(groups, finite)
    weights = weights_in(judged)
    ways = [
        Tried(way, float(average(share, weights)), float(average(width, weights)))
        for way, share, width in zip((PLAIN, BAND), held, widths, strict=True)
    ]
    keeps = [float(average(share, weights)) + standard_error(share, judged) >= COVERAGE for share in held]
    change = widths[1] - widths[0]
    narrower = float(average(change, weights)) + standard_error(change, judged) < 0
    return ways, keeps[1] and (narrower or not keeps[0])


@dataclass(frozen=True)
class ReachScore:
    """How often intervals hold the number on judged rows, and how wide they are.

    `target` is the promised coverage, `width` the mean width in the unit of the number, `by_group` is about the groups'
    own coverage; None without groups. `way` says how they are made, and `tried` how both ways fared on validation rows.
    """

    target: float
    coverage: Interval
    width: Interval
    by_pattern: dict[str, PatternCoverage]
    by_group: GroupSpread | None
    caveat: str | None
    way: str = PLAIN
    tried: Sequence[Tried] = ()


def judge_reaches(
    reaches: Reaches, said: FloatArray, true: FloatArray, pattern: NDArray[np.str_], groups: Groups = None
) -> ReachScore | None:
    """Judge the intervals around what is said of some rows by what is, both float [rows]; None: nothing was learnt."""
    if not reaches.levels:
        return None
    low, high = reaches.ends(COVERAGE, said, pattern)
    held = (low <= true) & (true <= high)
    by_pattern, width = pattern_coverage(held, pattern, groups), means((high - low)[:, None], groups)[0]
    spread, caveat = (group_spread(held, groups), CAVEAT) if grouped(groups) else (None, None)
    coverage = proportion(held, groups)
    return ReachScore(COVERAGE, coverage, width, by_pattern, spread, caveat, reaches.way, reaches.tried)
