"""Prediction sets that hold the label with a stated probability: split conformal prediction (Vovk et al. 2005).

A threshold on a score is learnt on calibration rows; the set of a new row holds all classes whose score is not above
it. LAC (Sadinle et al. 2019, arXiv 1609.00451) has the smallest sets: the score is 1 - p. APS (Romano et al. 2020,
arXiv 2006.02544) adapts to hard rows: the score is the probability of all likelier classes and a random share of the
class's own. Mondrian sets (Vovk 2012, arXiv 1209.2673) have a threshold for each pattern of missing modalities.

Rows of one group resemble each other, so that they do not count as so many calibration rows. With groups, each group
has the same weight, and the promise is about a random row of a new group (hierarchical conformal prediction, Lee,
Barber and Willett 2023, arXiv 2306.06342). Without groups this is the usual method.

Where rows have weights, the promise is about a row that is drawn as they say (weighted conformal prediction, Tibshirani
et al. 2019, arXiv 1904.06019). What a new row weighs is not known; it is taken to weigh what rows that are drawn so
weigh on average, sum w^2 / sum w, so that weights count as evidence of (sum w)^2 / sum w^2 rows (Kish 1965) and not of
as many as their copies would be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator

from fusetune.augment.random import Moment, uniform
from fusetune.data.choices import COVERAGES, refuse_coverage
from fusetune.data.weights import shared
from fusetune.errors import UserError
from fusetune.evaluate.bootstrap import Groups, clusters, grouped, some, weights_in
from fusetune.evaluate.intervals import GroupSpread, Interval, group_spread, means, proportion
from fusetune.evaluate.metrics import FloatArray, IntArray, average

METHODS = ("lac", "aps")
COVERAGE = 0.9
# Coverages that thresholds are learnt for; one in between takes the next higher.
LEVELS = (*(round(COVERAGES[0] + 0.01 * step, 2) for step in range(50)), 0.995, COVERAGES[1])
OTHER = "all other patterns"
POOLED = "all rows"
CAVEAT = (
    "The stated coverage holds for rows that are drawn like the calibration rows. Rows of one group are alike: the "
    "promise is about a random row of a new group, on average over groups, and a single group may be covered much less."
)


def scores(method: str, probabilities: FloatArray, chance: FloatArray) -> FloatArray:
    """Return the score of every class, ``float [rows, classes]``.

    Args:
        method: lac or aps.
        probabilities: ``float [rows, classes]``.
        chance: One uniform number per row, which APS needs for exact coverage, ``float [rows]``.
    """
    if method == "lac":
        return np.asarray(1 - probabilities)
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ordered = np.take_along_axis(probabilities, order, axis=1)
    above = np.cumsum(ordered, axis=1) - ordered
    result = np.empty_like(probabilities)
    np.put_along_axis(result, order, above + chance[:, None] * ordered, axis=1)
    return result


def quantile(values: FloatArray, groups: Groups = None, coverage: float = COVERAGE) -> float:
    """Return the threshold: the smallest value below which lies the wanted weight, the new row counting as infinite.

    Each group (without groups: row) and the new one weigh the same. For rows without groups this is the
    ``ceil((n + 1) * coverage)``-th smallest value. With weights, see the top of this file.

    Returns:
        The threshold, infinite where there are too few groups for the coverage: every class is then in the set.
    """
    return quantiles(values, groups, [coverage])[0]


def quantiles(values: FloatArray, groups: Groups, coverages: Sequence[float]) -> list[float]:
    """Return the `quantile` for each of several coverages."""
    if not len(values):
        return [float("inf")] * len(coverages)
    where = clusters(groups, len(values))
    if where.weights is None:
        weight, whole = 1 / np.bincount(where.member, minlength=where.count)[where.member], where.count + 1.0
    else:
        weight = shared(where.weights, where.member)
        each = np.bincount(where.member, weight)
        whole = float(each.sum() + (each**2).sum() / each.sum())
    order = np.argsort(values, kind="stable")
    reached, limits = np.cumsum(weight[order]), np.append(values[order], np.inf)
    wanted = np.asarray(coverages) * whole - 1e-9
    return [float(limit) for limit in limits[np.searchsorted(reached, wanted, side="left")]]


def level_of(coverage: float) -> int:
    """Return the place in `LEVELS` of the least that is not below a coverage.

    Raises:
        UserError: If there is none.
    """
    refuse_coverage(coverage)
    return next(place for place, level in enumerate(LEVELS) if level >= coverage - 1e-9)


def patterns(present: Mapping[str, NDArray[np.bool_]]) -> NDArray[np.str_]:
    """Return in words which modalities each row has, ``str [rows]``."""
    rows = zip(*present.values(), strict=True)
    named = [" + ".join(name for name, has in zip(present, row, strict=True) if has) or "nothing" for row in rows]
    return np.array(named, dtype=np.str_)


# JSON knows no infinity: a threshold that is none (every class is in the set) is written as null.
Limit = Annotated[float, BeforeValidator(lambda value: np.inf if value is None else value)]


@dataclass(frozen=True)
class Conformal:
    """Thresholds by method and, for Mondrian sets, by pattern of missing modalities.

    Attributes:
        pooled: Method -> threshold.
        by_pattern: Method -> pattern -> threshold; patterns with too few calibration rows share one.
        seed: Seed of the random share of APS.
        levels: Method -> pattern -> threshold for each of `LEVELS`; empty in models of earlier versions.
    """

    pooled: dict[str, Limit] = field(default_factory=dict)
    by_pattern: dict[str, dict[str, Limit]] = field(default_factory=dict)
    seed: int = 0
    levels: dict[str, dict[str, list[Limit]]] = field(default_factory=dict)

    def at(self, coverage: float, method: str = "lac") -> dict[str, float]:
        """Return the thresholds by pattern for a coverage.

        Raises:
            UserError: If the coverage is out of range, or the model does not know thresholds for it.
        """
        place = level_of(coverage)
        if self.levels:
            return {pattern: limits[place] for pattern, limits in self.levels[method].items()}
        if not self.by_pattern:
            raise UserError("this model has no thresholds for prediction sets; fit it again with this version")
        if LEVELS[place] != COVERAGE:
            raise UserError(
                f"this model was written by an earlier version and knows prediction sets for {COVERAGE} only; ask for "
                "that, or fit it again"
            )
        return dict(self.by_pattern[method])

    def check(self) -> None:
        """Refuse thresholds that cannot have been learnt.

        Raises:
            ValueError: Naming them.
        """
        for method, by_pattern in self.levels.items():
            wrong = any(len(limits) != len(LEVELS) or any(np.isnan(limits)) for limits in by_pattern.values())
            if method not in METHODS or wrong or OTHER not in by_pattern:
                raise ValueError(
                    f"thresholds of prediction sets by {method!r} are not those of {len(LEVELS)} coverages"
                )
        if self.levels and set(self.levels) != set(METHODS):
            raise ValueError("thresholds of prediction sets by one method of two")

    def sets(
        self, method: str, probabilities: FloatArray, keys: IntArray, pattern: NDArray[np.str_] | None = None
    ) -> NDArray[np.bool_]:
        """Return which classes are in each row's set, ``bool [rows, classes]``.

        Args:
            method: lac or aps.
            probabilities: ``float [rows, classes]``.
            keys: Row keys, ``int64 [rows]``: the same row always has the same set.
            pattern: What each row has (see ``patterns``) for Mondrian sets.
        """
        limit: Any = self.pooled[method]
        if pattern is not None:
            limit = _limits(self.by_pattern[method], pattern)
        return np.asarray(scores(method, probabilities, chance(keys, self.seed)) <= limit)


def sets_at(
    conformal: Conformal, coverage: float, probabilities: FloatArray, pattern: NDArray[np.str_]
) -> NDArray[np.bool_]:
    """Return which classes are in each row's set for any coverage, ``bool [rows, classes]``: Mondrian sets by LAC.

    Raises:
        UserError: As `Conformal.at`.
    """
    limit = _limits(conformal.at(coverage), pattern)
    return np.asarray(1 - probabilities <= limit)


def _limits(by_pattern: Mapping[str, float], pattern: NDArray[np.str_]) -> FloatArray:
    """Return the threshold of each row, [rows, 1]."""
    return np.array([by_pattern.get(str(name), by_pattern[OTHER]) for name in pattern])[:, None]


def chance(keys: IntArray, seed: int) -> FloatArray:
    """Return one uniform number per row, a function of seed and row key."""
    return np.asarray(uniform(Moment(seed), torch.from_numpy(np.asarray(keys)), "conformal", 1).numpy()[:, 0], float)


def fit_conformal(
    probabilities: FloatArray,
    labels: IntArray,
    keys: IntArray,
    pattern: NDArray[np.str_],
    groups: Groups = None,
    seed: int = 0,
) -> Conformal:
    """Learn all thresholds from calibration rows, which must not have taken part in any choice."""
    pooled, by_pattern, levels = {}, {}, {}
    names, counts = np.unique(pattern, return_counts=True)
    # Below 1 / (1 - coverage) rows no threshold can promise the coverage.
    own = [str(name) for name, rows in zip(names, counts, strict=True) if rows >= 1 / (1 - COVERAGE)]
    for method in METHODS:
        reached = scores(method, probabilities, chance(keys, seed))[np.arange(len(labels)), labels]
        pooled[method] = quantile(reached, groups)
        having = {name: pattern == name for name in own} | {OTHER: ~np.isin(pattern, own)}
        limits = {name: quantiles(reached[here], some(groups, here), LEVELS) for name, here in having.items()}
        by_pattern[method] = {name: several[LEVELS.index(COVERAGE)] for name, several in limits.items()}
        # Rounded up, which can only make sets larger, since they are many.
        levels[method] = {name: [float(x) for x in np.ceil(np.array(it) * 1e9) / 1e9] for name, it in limits.items()}
    return Conformal(pooled, by_pattern, seed, levels)


@dataclass(frozen=True)
class PatternCoverage:
    """Judged rows with one pattern of modalities, and the share of their labels that the sets hold."""

    rows: int
    coverage: float


@dataclass(frozen=True)
class SetScore:
    """How often the sets of one method, Mondrian or not, hold the label on judged rows, and how large they are.

    `target` is the promised coverage, `size` the mean number of classes in a set, `empty` and `single` are the shares
    of sets with no and with one class, and `by_group` is about the groups' own coverage; None without groups.
    """

    method: str
    mondrian: bool
    target: float
    coverage: Interval
    size: Interval
    empty: float
    single: float
    by_pattern: dict[str, PatternCoverage]
    by_group: GroupSpread | None


@dataclass(frozen=True)
class Sets:
    """Prediction sets by every method, pooled and Mondrian, and what must be known of their promise."""

    sets: list[SetScore]
    caveat: str | None


def judge_sets(
    conformal: Conformal,
    probabilities: FloatArray,
    labels: IntArray,
    keys: IntArray,
    pattern: NDArray[np.str_],
    groups: Groups = None,
) -> Sets | None:
    """Judge the sets of some rows; None where no threshold was learnt."""
    if not conformal.pooled:
        return None
    scores = []
    for method, mondrian in product(METHODS, (False, True)):
        sets = conformal.sets(method, probabilities, keys, pattern if mondrian else None)
        held, size = sets[np.arange(len(labels)), labels], sets.sum(axis=1)
        by_pattern = pattern_coverage(held, pattern, groups)
        by_group = group_spread(held, groups) if grouped(groups) else None
        weights = weights_in(groups)
        shares = (float(average(size == 0, weights)), float(average(size == 1, weights)))
        coverage, mean_size = proportion(held, groups), means(size[:, None], groups)[0]
        scores.append(SetScore(method, mondrian, COVERAGE, coverage, mean_size, *shares, by_pattern, by_group))
    return Sets(scores, CAVEAT if grouped(groups) else None)


def pattern_coverage(
    held: NDArray[np.bool_], pattern: NDArray[np.str_], groups: Groups = None
) -> dict[str, PatternCoverage]:
    """Return the share of rows whose set or interval holds the truth, for each pattern of modalities."""
    having = {str(name): pattern == name for name in np.unique(pattern)}
    return {
        name: PatternCoverage(int(here.sum()), float(average(held[here], weights_in(some(groups, here)))))
        for name, here in having.items()
    }
