"""What is gained by not answering where the model is unsure, and where it is worst: risk-coverage, groups, classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusetune.evaluate import metrics
from fusetune.evaluate.bootstrap import Clusters, Groups, Sampling, clusters, drawn_counts, grouped, sampling, some
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
    groups: Groups = None,
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
    own = where.own[order][:, None]
    value = float(_areas(wrong[order], ends, own)[0])
    member = where.member[order]
    draws = [
        _areas(wrong[order], ends, counts[member] * own)
        for counts in drawn_counts(where.count, len(order), resamples, seed)
    ]
    points = [_point(wrong[order], ends, some(groups, order), share / _POINTS) for share in range(1, _POINTS + 1)]
    return RiskCoverage(percentile(value, np.concatenate(draws), where.count), _best_area(wrong, where), points)


def _best_area(wrong: Bits, where: Clusters) -> float:
    """Return the AURC where all errors are the least sure rows.

    Of rows with weights, errors E and right rows C, it is the same of certainty that falls without steps: the integral
    of x / (C + x) over the errors, by the weight of all.
    """
    if where.weights is None:
        return float(_areas(np.sort(wrong), np.arange(len(wrong)), np.ones((len(wrong), 1)))[0])
    errors, right = float(where.weights[wrong].sum()), float(where.weights[~wrong].sum())
    return (errors - (right * math.log1p(errors / right) if right else 0.0)) / (errors + right)


def _areas(wrong: Bits, ends: IntArray, weight: FloatArray) -> FloatArray:
    """Return the AURC for each column of row weights; rows come in order of certainty, ``ends`` close ties."""
    answered = np.cumsum(weight, axis=0)[ends]
    errors = np.cumsum(wrong[:, None] * weight, axis=0)[ends]
    risk = errors / np.where(answered > 0, answered, 1)
    new = np.diff(answered, axis=0, prepend=0)
    return np.asarray((risk * new).sum(axis=0) / answered[-1])


def _point(wrong: Bits, ends: IntArray, groups: Groups, share: float) -> RiskPoint:
    """Return the error rate of at least this share of the rows as they count, whole ties included."""
    where = clusters(groups, len(wrong))
    if where.weights is None:
        last = int(ends[np.searchsorted(ends, round(share * len(wrong)) - 1)]) + 1
        return RiskPoint(last / len(wrong), proportion(wrong[:last], some(groups, np.arange(last))))
    reached = np.cumsum(where.weights)[ends] / where.weights.sum()
    at = min(int(np.searchsorted(reached, share - 1e-9)), len(ends) - 1)
    last = int(ends[at]) + 1
    return RiskPoint(float(reached[at]), proportion(wrong[:last], some(groups, np.arange(last))))


def recalls(probabilities: FloatArray, labels: IntArray, classes: Sequence[str], groups: Groups = None) -> list[Recall]:
    """Return the recall of every class, in the order of the classes."""
    right, found = metrics.correct_rows(probabilities, labels), []
    for k, name in enumerate(classes):
        here = labels == k
        found.append(Recall(name, int(here.sum()), proportion(right[here], some(groups, here))))
    return found


def worst(probabilities: FloatArray, labels: IntArray, classes: Sequence[str], groups: Groups = None) -> Worst:
    """Return the class and the group with the lowest share of correct rows, and how groups differ.

    Only classes and groups with at least 10 rows are looked at. The lowest of many is low by chance too: ``judged``
    says how many were compared, and the interval is that of the one alone. ``groups`` looks at all of them.
    """
    right = metrics.correct_rows(probabilities, labels)
    lowest = _lowest(right, np.array(classes, dtype=object)[labels], groups)
    if not grouped(groups):
        return Worst(lowest, None, None)
    where = clusters(groups, len(right))
    names: Any = groups.groups if isinstance(groups, Sampling) else groups
    return Worst(lowest, _lowest(right, np.asarray(names), sampling(None, where.weights)), group_spread(right, groups))


def _lowest(right: Bits, names: Any, groups: Groups) -> Lowest | None:
    codes, distinct = pd.factorize(names, use_na_sentinel=False)
    rows = np.bincount(codes)
    large = np.flatnonzero(rows >= _LEAST_ROWS)
    if not len(large):
        return None
    own = clusters(groups, len(right)).own
    share = np.bincount(codes, weights=right * own) / np.bincount(codes, weights=own)
    lowest = large[share[large].argmin()]
    here = codes == lowest
    accuracy = proportion(right[here], some(groups, here))
    return Lowest(str(distinct[lowest]), int(rows[lowest]), accuracy, len(large), len(distinct))
