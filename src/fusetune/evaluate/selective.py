"""What is gained by not answering where the model is unsure, and where it is worst: risk-coverage, groups, classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from fusetune.evaluate import metrics
from fusetune.evaluate.bootstrap import clusters, drawn_counts
from fusetune.evaluate.intervals import GroupSpread, Interval, group_spread, percentile, proportion
from fusetune.evaluate.metrics import FloatArray, IntArray

Bits = NDArray[np.bool_]
_POINTS = 10
_LEAST_ROWS = 10  # a group of fewer rows is worst by chance


@dataclass(frozen=True)
class RiskPoint:
    """Share of rows answered, the surest first, and their error rate."""

    coverage: float
    error: Interval


@dataclass(frozen=True)
class RiskCoverage:
    """Error rates when the least sure rows are not answered, at tenths of the rows.

    `aurc` is their mean over all levels of certainty, `best` the same if all errors were the least sure rows.
    """

    aurc: Interval
    best: float
    points: list[RiskPoint]


@dataclass(frozen=True)
class Lowest:
    """The class or group with the lowest share of correct rows among ``judged`` of ``of`` that have enough rows."""

    name: str
    rows: int
    accuracy: Interval
    judged: int
    of: int


@dataclass(frozen=True)
class Recall:
    """The share of a class's rows that are decided right; NaN where there are none."""

    name: str
    rows: int
    share: Interval


@dataclass(frozen=True)
class Worst:
    """Where the model is worst, and how groups differ; None where nothing has enough rows, or there are no groups."""

    class_: Lowest | None
    group: Lowest | None
    groups: GroupSpread | None


def risk_coverage(
    probabilities: FloatArray,
    labels: IntArray,
    groups: ArrayLike | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> RiskCoverage:
    """Return error rates of the rows that are answered when the least sure ones are not (Geifman and El-Yaniv 2017).

    Certainty is the top probability; rows of equal certainty are answered together. AURC is the mean error rate over
    all levels: the one of each row's own certainty (Geifman et al. 2019, arXiv 1805.08206).
    """
    sure, wrong = probabilities.max(axis=1), ~metrics.correct_rows(probabilities, labels)
    order = np.argsort(-sure, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(sure[order])), len(order) - 1)
    where = clusters(groups, len(labels))
    value = float(_areas(wrong[order], ends, np.ones((len(order), 1)))[0])
    member = where.member[order]
    draws = [
        _areas(wrong[order], ends, counts[member]) for counts in drawn_counts(where.count, len(order), resamples, seed)
    ]
    names = None if groups is None else np.asarray(groups)[order]
    best = _areas(np.sort(wrong), np.arange(len(wrong)), np.ones((len(wrong), 1)))
    points = [_point(wrong[order], ends, names, share / _POINTS) for share in range(1, _POINTS + 1)]
    return RiskCoverage(percentile(value, np.concatenate(draws), where.count), float(best[0]), points)


def _areas(wrong: Bits, ends: IntArray, weight: FloatArray) -> FloatArray:
    """Return the AURC for each column of row weights; rows come in order of certainty, ``ends`` close ties."""
    answered = np.cumsum(weight, axis=0)[ends]
    errors = np.cumsum(wrong[:, None] * weight, axis=0)[ends]
    risk = errors / np.maximum(answered, 1)
    new = np.diff(answered, axis=0, prepend=0)
    return np.asarray((risk * new).sum(axis=0) / answered[-1])


def _point(wrong: Bits, ends: IntArray, groups: Any, share: float) -> RiskPoint:
    """Return the error rate of at least this share of the rows, whole ties included."""
    last = int(ends[np.searchsorted(ends, round(share * len(wrong)) - 1)]) + 1
    return RiskPoint(last / len(wrong), proportion(wrong[:last], None if groups is None else groups[:last]))


def recalls(
    probabilities: FloatArray, labels: IntArray, classes: Sequence[str], groups: ArrayLike | None = None
) -> list[Recall]:
    """Return the recall of every class, in the order of the classes."""
    right, named = metrics.correct_rows(probabilities, labels), None if groups is None else np.asarray(groups)
    found = []
    for k, name in enumerate(classes):
        here = labels == k
        found.append(Recall(name, int(here.sum()), proportion(right[here], None if named is None else named[here])))
    return found


def worst(
    probabilities: FloatArray, labels: IntArray, classes: Sequence[str], groups: ArrayLike | None = None
) -> Worst:
    """Return the class and the group with the lowest share of correct rows, and how groups differ.

    Only classes and groups with at least 10 rows are looked at. The lowest of many is low by chance too: ``judged``
    says how many were compared, and the interval is that of the one alone. ``groups`` looks at all of them.
    """
    right = metrics.correct_rows(probabilities, labels)
    lowest = _lowest(right, np.array(classes, dtype=object)[labels], groups)
    if groups is None:
        return Worst(lowest, None, None)
    return Worst(lowest, _lowest(right, np.asarray(groups), None), group_spread(right, groups))


def _lowest(right: Bits, names: Any, groups: ArrayLike | None) -> Lowest | None:
    codes, distinct = pd.factorize(names, use_na_sentinel=False)
    rows = np.bincount(codes)
    large = np.flatnonzero(rows >= _LEAST_ROWS)
    if not len(large):
        return None
    share = np.bincount(codes, weights=right) / rows
    lowest = large[share[large].argmin()]
    here = codes == lowest
    accuracy = proportion(right[here], None if groups is None else np.asarray(groups)[here])
    return Lowest(str(distinct[lowest]), int(rows[lowest]), accuracy, len(large), len(distinct))
