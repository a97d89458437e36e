"""Two classes, one threshold; labels, one each: chosen on validation rows for a stated aim, judged on other rows."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusetune.errors import ConfigError, did_you_mean, listed
from fusetune.evaluate.bootstrap import Clusters, Groups, clusters, some
from fusetune.evaluate.intervals import Interval, proportion
from fusetune.evaluate.metrics import FloatArray, IntArray

RATES = ("sensitivity", "specificity", "ppv", "npv")
# Aims of labels beside these: the largest F1; more probable than not; the one where that is shown to be better than the
# other, which is what labels without an aim have.
F1, EVEN_ODDS, SHOWN = "f1", "even odds", "f1 where it helps"
EVEN = math.nextafter(0.5, 1.0)  # a row is called so from here on, and not at .5 itself
OVER = math.nextafter(1.0, 2.0)  # no row is called so


@dataclass(frozen=True)
class Rates:
    """What a threshold does on judged rows; `counts` holds true_positive, false_positive and so on."""

    sensitivity: Interval
    specificity: Interval
    ppv: Interval
    npv: Interval
    counts: dict[str, int]


@dataclass(frozen=True)
class ThresholdScore:
    """A threshold for an aim, and its rates on judged rows; both None where it is out of reach."""

    aim: str
    positive: str
    threshold: float | None
    rates: Rates | None


def parse_aim(aim: str) -> tuple[str, float]:
    """Return the rate and its least value of an aim such as ``sensitivity >= 0.9``.

    Raises:
        ConfigError: it reads otherwise.
    """
    match = re.fullmatch(r"\s*(\w+)\s*>=\s*(0?\.\d+|0|1|1\.0*)\s*", aim.lower())
    if not match or match[1] not in RATES:
        raise ConfigError(f"evaluate.aim: '{aim}' must read like 'sensitivity >= 0.9'; rates are {listed(RATES)}")
    return match[1], float(match[2])


@dataclass(frozen=True)
class Limit:
    """The probability from which a label is said, and what it was chosen for; None: out of reach, so even odds."""

    aim: str
    threshold: float | None

    @property
    def at(self) -> float:
        """The probability that is followed."""
        return EVEN if self.threshold is None else self.threshold


def label_aims(aim: str | Mapping[str, str] | None, names: Sequence[Any]) -> list[str]:
    """Return what the threshold of each label is for: one aim for all, or those of the labels that are named.

    Raises:
        ConfigError: an aim reads otherwise than `f1`, `even odds`, `f1 where it helps` or `sensitivity >= 0.9`, or no
            label is called so.
    """
    words = [str(name) for name in names]
    named = dict(aim) if isinstance(aim, Mapping) else dict.fromkeys(words, aim or SHOWN)
    for name, one in named.items():
        if name not in words:
            raise ConfigError(
                f"evaluate.aim: '{name}' is no label{did_you_mean(name, words)}; the labels are {listed(words, 12)}"
            )
        if one not in (F1, EVEN_ODDS, SHOWN):
            try:
                parse_aim(one)
            except ConfigError as error:
                raise ConfigError(f"{error}; of labels also {listed((F1, EVEN_ODDS, SHOWN))}") from None
    return [named.get(word, SHOWN) for word in words]


def positive_class(aim: str | Mapping[str, str] | None, positive: str | None, classes: Sequence[Any]) -> int | None:
    """Check an aim against the classes and return the index of the positive class; None without an aim.

    Raises:
        ConfigError: there are not two classes, the positive class is none of them, or the aims are those of labels.
    """
    if aim is None:
        return None
    if not isinstance(aim, str):
        raise ConfigError(
            f"evaluate.aim names {listed(aim)}, as for labels; of two classes, say one: 'sensitivity >= 0.9'"
        )
    parse_aim(aim)
    names = [str(name) for name in classes]
    if len(names) != 2:
        raise ConfigError(f"evaluate.aim is for two classes; the label has {len(names)}: leave it out")
    if positive is not None and positive not in names:
        raise ConfigError(f"evaluate.positive: '{positive}' is no class; the classes are {listed(names)}")
    return 1 if positive is None else names.index(positive)


def choose_threshold(
    aim: str, probability: FloatArray, positive: NDArray[np.bool_], groups: Groups = None
) -> float | None:
    """Return the threshold that fulfils the aim and gives up least of the rate on the other side.

    A row counts as positive when its probability is at or above the threshold. For sensitivity or NPV that is the
    highest threshold that fulfils the aim, for specificity or PPV the lowest. The largest F1 may be that of several:
    then the one nearest to .5 is taken. Thresholds are midpoints between neighbouring probabilities, so that rounding
    cannot change what was chosen.

    Args:
        aim: Such as ``sensitivity >= 0.9``; or ``f1``, or ``even odds``.
        probability: Of the positive class, ``float [rows]``.
        positive: Which rows are positive, ``bool [rows]``.
        groups: What rows count, if it is a `Sampling`.

    Returns:
        The threshold, or None where none fulfils the aim on these rows.
    """
    if aim == EVEN_ODDS:
        return EVEN
    levels = np.unique(probability)
    limits = np.concatenate([[0.0], (levels[1:] + levels[:-1]) / 2, [OVER]])
    where = clusters(groups, len(probability))
    if aim == F1:
        return _largest_f1(np.append(limits, EVEN), probability, positive, where)
    rate, least = parse_aim(aim)
    right, counted = _right_and_counted(rate, *_counts(limits, probability, positive, where))
    reached = limits[_ratio(right, counted, math.nan) >= least - _rounding(where)]
    if not len(reached):
        return None
    return float(reached.max() if rate in ("sensitivity", "npv") else reached.min())


def f1_helps(probability: FloatArray, positive: NDArray[np.bool_], folds: IntArray, groups: Groups = None) -> bool:
    """Return whether the threshold of the largest F1 has a larger F1 than even odds on rows that did not choose it.

    Each fold is decided by the threshold that the other folds choose. The difference must be more than its standard
    error, by the jackknife of whole groups (without groups: rows).

    Args:
        probability: ``float [rows]``, by what did not learn from the row.
        positive: Which rows have the label, ``bool [rows]``.
        folds: The fold of each row; rows of a group share one.
        groups: The group of each row, or None; where rows do not count alike, a `Sampling`.
    """
    gain, error = f1_gain(probability, positive, folds, groups)
    return gain > error


def f1_gain(
    probability: FloatArray, positive: NDArray[np.bool_], folds: IntArray, groups: Groups = None
) -> tuple[float, float]:
    """Return how much larger F1 is by the thresholds of the largest F1 than at even odds, and the standard error of it.

    The error is infinite where it cannot be told: with fewer than two folds or groups. Arguments as in `f1_helps`.
    """
    where, called = clusters(groups, len(positive)), probability >= EVEN
    chosen = called.copy()
    if len(np.unique(folds)) < 2 or where.count < 2:
        return 0.0, math.inf
    for fold in np.unique(folds):
        here = folds == fold
        limit = choose_threshold(F1, probability[~here], positive[~here], some(groups, ~here))
        chosen[here] = probability[here] >= (EVEN if limit is None else limit)
    (ours, without), (even, even_without) = (_f1(said, positive, where) for said in (chosen, called))
    changes = without - even_without
    error = math.sqrt((where.count - 1) / where.count * float(((changes - changes.mean()) ** 2).sum()))
    return ours - even, error


def _f1(called: NDArray[np.bool_], positive: NDArray[np.bool_], where: Clusters) -> tuple[float, FloatArray]:
    """Return F1 of all rows, and without each group, ``float [groups]``."""
    both, other = (where.sums(rows.astype(np.float64)) for rows in (called & positive, called ^ positive))
    right, wrong = (np.append(own.sum(), own.sum() - own) for own in (both, other))
    f1 = _ratio(2 * right, 2 * right + wrong, 0.0)
    return float(f1[0]), f1[1:]


def _largest_f1(
    limits: FloatArray, probability: FloatArray, positive: NDArray[np.bool_], where: Clusters
) -> float | None:
    found, missed, false, _ = _counts(limits, probability, positive, where)
    if not found.any():
        return None
    f1 = 2 * found / (2 * found + false + missed)
    best = limits[f1 >= f1.max() - _rounding(where)]
    return float(best[np.abs(best - EVEN).argmin()])


def _counts(
    limits: FloatArray, probability: FloatArray, positive: NDArray[np.bool_], where: Clusters
) -> tuple[FloatArray, ...]:
    """Return for each threshold what the rows count that it rightly calls, misses, wrongly calls and rightly leaves."""
    below = []
    for rows in (positive, ~positive):
        order = np.argsort(probability[rows], kind="stable")
        reached = np.concatenate([[0.0], np.cumsum(where.own[rows][order])])
        below.append((reached[np.searchsorted(probability[rows][order], limits)], reached[-1]))
    (missed, own), (passed, others) = below
    return own - missed, missed, others - passed, passed


def _ratio(above: FloatArray, below: FloatArray, otherwise: float) -> FloatArray:
    """Return the quotient, or what it is `otherwise` where the divisor is zero."""
    return np.asarray(np.divide(above, below, out=np.full(len(below), otherwise), where=below > 0))


def _rounding(where: Clusters) -> float:
    """Return by how much rates that are equal can differ: sums of weights are rounded, and counts are not."""
    return 0.0 if where.weights is None else 1e-12


def judge_threshold(
    threshold: float, probability: FloatArray, positive: NDArray[np.bool_], groups: Groups = None
) -> Rates:
    """Return sensitivity, specificity, PPV and NPV with their intervals, and the four counts of rows."""
    called = probability >= threshold
    rates = {}
    for rate, counted in {"sensitivity": positive, "specificity": ~positive, "ppv": called, "npv": ~called}.items():
        right = called == positive
        rates[rate] = proportion(right[counted], some(groups, counted))
    counts = {
        "true_positive": called & positive,
        "false_positive": called & ~positive,
        "true_negative": ~called & ~positive,
        "false_negative": ~called & positive,
    }
    return Rates(**rates, counts={name: int(rows.sum()) for name, rows in counts.items()})


def _right_and_counted(
    rate: str, found: FloatArray, missed: FloatArray, false: FloatArray, passed: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return what the rows count that are right, and those that are counted."""
    return {
        "sensitivity": (found, found + missed),
        "specificity": (passed, false + passed),
        "ppv": (found, found + false),
        "npv": (passed, missed + passed),
    }[rate]
