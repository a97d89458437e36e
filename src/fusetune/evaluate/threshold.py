"""Two classes, one threshold: chosen on validation rows for a stated aim, judged on other rows."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusetune.errors import ConfigError, listed
from fusetune.evaluate.bootstrap import Groups, some, weights_in
from fusetune.evaluate.intervals import Interval, proportion
from fusetune.evaluate.metrics import FloatArray, average

RATES = ("sensitivity", "specificity", "ppv", "npv")


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


def positive_class(aim: str | None, positive: str | None, classes: Sequence[Any]) -> int | None:
    """Check an aim against the classes and return the index of the positive class; None without an aim.

    Raises:
        ConfigError: there are not two classes, or the positive class is none of them.
    """
    if aim is None:
        return None
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
    highest threshold that fulfils the aim, for specificity or PPV the lowest. Thresholds are midpoints between
    neighbouring probabilities, so that rounding cannot change what was chosen.

    Args:
        aim: Such as ``sensitivity >= 0.9``.
        probability: Of the positive class, ``float [rows]``.
        positive: Which rows are positive, ``bool [rows]``.
        groups: What rows count, if it is a `Sampling`.

    Returns:
        The threshold, or None where none fulfils the aim on these rows.
    """
    rate, least = parse_aim(aim)
    levels = np.unique(probability)
    limits = np.concatenate([[0.0], (levels[1:] + levels[:-1]) / 2, [math.nextafter(1.0, 2.0)]])
    reached = [limit for limit in limits if _rate(rate, probability >= limit, positive, groups) >= least]
    if not reached:
        return None
    return float(max(reached) if rate in ("sensitivity", "npv") else min(reached))


def judge_threshold(
    threshold: float, probability: FloatArray, positive: NDArray[np.bool_], groups: Groups = None
) -> Rates:
    """Return sensitivity, specificity, PPV and NPV with their intervals, and the four counts of rows."""
    called = probability >= threshold
    rates = {}
    for rate in RATES:
        right, counted = _right_and_counted(rate, called, positive)
        rates[rate] = proportion(right[counted], some(groups, counted))
    counts = {
        "true_positive": called & positive,
        "false_positive": called & ~positive,
        "true_negative": ~called & ~positive,
        "false_negative": ~called & positive,
    }
    return Rates(**rates, counts={name: int(rows.sum()) for name, rows in counts.items()})


def _right_and_counted(
    rate: str, called: NDArray[np.bool_], positive: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which rows are right and which are counted."""
    counted = {"sensitivity": positive, "specificity": ~positive, "ppv": called, "npv": ~called}[rate]
    return called == positive, counted


def _rate(rate: str, called: NDArray[np.bool_], positive: NDArray[np.bool_], groups: Groups) -> float:
    right, counted = _right_and_counted(rate, called, positive)
    return float(average(right[counted], weights_in(some(groups, counted)))) if counted.any() else math.nan
