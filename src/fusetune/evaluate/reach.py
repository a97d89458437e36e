"""How far from a predicted number the true one lies with a stated probability: split conformal prediction intervals.

The interval of a row is its number plus and minus a reach: a quantile of the absolute errors of calibration rows, which
took no part in fitting (Lei et al. 2018, arXiv 1604.04173). There is a reach for each pattern of missing modalities
(Mondrian; Vovk 2012, arXiv 1209.2673), and with groups, each group has the same weight, as for prediction sets
(`conformal`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fusetune.errors import UserError
from fusetune.evaluate.bootstrap import Groups, grouped, some
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
from fusetune.evaluate.metrics import FloatArray


@dataclass(frozen=True)
class Reaches:
    """Reaches by pattern of missing modalities, for each of `LEVELS`, in the unit of the number.

    Attributes:
        levels: Pattern -> reach for each level; patterns with too few calibration rows share one.
    """

    levels: dict[str, list[Limit]] = field(default_factory=dict)

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

    def check(self) -> None:
        """Refuse reaches that cannot have been learnt.

        Raises:
            ValueError: Naming them.
        """
        for pattern, reaches in self.levels.items():
            if len(reaches) != len(LEVELS) or any(np.isnan(reaches)) or min(reaches) < 0:
                raise ValueError(f"reaches of intervals for {pattern!r} are not those of {len(LEVELS)} coverages")
        if self.levels and OTHER not in self.levels:
            raise ValueError(f"no reach for {OTHER}")


def fit_reaches(errors: FloatArray, pattern: NDArray[np.str_], groups: Groups = None) -> Reaches:
    """Learn reaches from the errors of calibration rows, float [rows], which must not have taken part in any choice."""
    names, counts = np.unique(pattern, return_counts=True)
    own = [str(name) for name, rows in zip(names, counts, strict=True) if rows >= 1 / (1 - COVERAGE)]
    having = {name: pattern == name for name in own} | {OTHER: np.ones(len(pattern), dtype=bool)}
    return Reaches({name: quantiles(np.abs(errors[here]), some(groups, here), LEVELS) for name, here in having.items()})


@dataclass(frozen=True)
class ReachScore:
    """How often intervals hold the number on judged rows, and how wide they are.

    `target` is the promised coverage, `width` the mean width in the unit of the number, `by_group` is about the groups'
    own coverage; None without groups.
    """

    target: float
    coverage: Interval
    width: Interval
    by_pattern: dict[str, PatternCoverage]
    by_group: GroupSpread | None
    caveat: str | None


def judge_reaches(
    reaches: Reaches, errors: FloatArray, pattern: NDArray[np.str_], groups: Groups = None
) -> ReachScore | None:
    """Judge the intervals of some rows; None where nothing was learnt."""
    if not reaches.levels:
        return None
    reach = reaches.at(COVERAGE, pattern)
    held = np.abs(errors) <= reach
    by_pattern, width = pattern_coverage(held, pattern, groups), means(2 * reach[:, None], groups)[0]
    spread, caveat = (group_spread(held, groups), CAVEAT) if grouped(groups) else (None, None)
    return ReachScore(COVERAGE, proportion(held, groups), width, by_pattern, spread, caveat)
