"""Whether stated certainty can be corrected by one number, and on which rows that may be found out.

Temperature scaling (Guo et al. 2017, arXiv 1706.04599) divides the logits by T > 0, which changes certainty and no
decision. T, conformal sets and thresholds are fitted on the validation part. Where that part was also learnt from
(k-fold cross-fitting), what is said of it comes from networks and heads that did not see it. Where it was set aside, it
chose the head's penalty, so that the chosen head fits it a little too well: ``crossfit`` undoes this, giving the rows
of one fold the logits of the candidate that the other folds would have chosen. Epochs of encoders were chosen on these
rows as well; that choice among a few is not undone.

Of several labels, each may have a T of its own. It is fitted to logits that were divided by the common T, so that the
prior holds it there, and has to earn its place as the common one does: on rows that neither was fitted on.

Where a few validation rows are all decided rightly, their likelihood is highest at T = 0: certainty without end. A weak
prior keeps T near 1 until rows say otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from fusetune.evaluate import metrics
from fusetune.evaluate.bootstrap import Groups, clusters, some, weights_in
from fusetune.evaluate.metrics import FloatArray, IntArray

_SPREAD = 0.5  # of the natural logarithm of T, before any row is seen
FEW = 10  # rows with a label, or without it, below which nothing of its own is chosen for it

# What logits are divided by: one number, or one for each label.
Heat = float | list[float]


@dataclass(frozen=True)
class Temperature:
    """One temperature, and what it changed on validation rows that it was not fitted on.

    Attributes:
        rows: Number of validation rows.
        fitted: T from all validation rows.
        before: NLL without it.
        after: Cross-validated NLL with it: T from the other folds.
        error: Standard error of the difference, from groups where there are groups.
        applied: Whether the model uses it: only if NLL falls by more than one standard error. On few rows the error is
            large, so that certainty is then left as it is.
        start: What is used where it is not applied.
        each: Of several labels, the temperature of each; empty where there is one for all.
    """

    rows: int
    fitted: float
    before: float
    after: float
    error: float
    applied: bool
    start: float = 1.0
    each: tuple[Temperature, ...] = ()

    @property
    def common(self) -> float:
        """The temperature of all that has none of its own."""
        return self.fitted if self.applied else self.start

    @property
    def own(self) -> bool:
        """Has a label one of its own?"""
        return any(one.applied for one in self.each)

    @property
    def value(self) -> Heat:
        """What the model divides logits by."""
        return [one.common for one in self.each] if self.own else self.common


def softmax(logits: ArrayLike, temperature: Heat = 1.0) -> NDArray[np.float64]:
    """Return probabilities ``float [rows, classes]``."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def class_losses(logits: FloatArray, labels: IntArray) -> FloatArray:
    """Return the NLL of each row by its logits, ``float [rows]``."""
    return metrics.nll_rows(softmax(logits), labels)


def crossfit(
    tried: Sequence[FloatArray],
    labels: IntArray,
    folds: IntArray,
    losses_of: Callable[[FloatArray, IntArray], FloatArray] = class_losses,
    groups: Groups = None,
) -> FloatArray:
    """Return logits of each row from the candidate with the lowest NLL on the rows of all other folds.

    Args:
        tried: Logits ``[rows, classes]`` of each candidate.
        labels: Class indices, ``int [rows]``.
        folds: The fold of each row, at least two different ones; rows of a group share one.
        losses_of: The loss of each row by what is said of it.
        groups: What rows count, if it is a `Sampling`.
    """
    losses = np.stack([losses_of(own, labels) for own in tried])
    logits = np.empty_like(tried[0], dtype=np.float64)
    for fold in np.unique(folds):
        here = folds == fold
        others = some(groups, ~here)
        logits[here] = tried[int(metrics.average(losses[:, ~here].T, weights_in(others)).argmin())][here]
    return logits


def fit_temperature(
    logits: FloatArray,
    labels: IntArray,
    losses_of: Callable[[FloatArray, IntArray], FloatArray] = class_losses,
    groups: Groups = None,
) -> float:
    """Return the T that minimises the NLL of all rows plus ``(ln T)^2 / (2 * 0.5^2)``; arguments as in ``crossfit``.

    The prior says that T is between 0.4 and 2.7 with 95 %. It weighs as much as a handful of rows of mean weight.
    """
    values, weights = np.asarray(logits, dtype=np.float64), weights_in(groups)

    def loss(log_t: float) -> float:
        losses = losses_of(values / np.exp(log_t), labels)
        total = losses.sum() if weights is None else weights @ losses
        return float(total + log_t**2 / (2 * _SPREAD**2))

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def calibrate(
    logits: FloatArray,
    labels: IntArray,
    folds: IntArray,
    groups: Groups = None,
    losses_of: Callable[[FloatArray, IntArray], FloatArray] = class_losses,
    start: tuple[float, FloatArray] | None = None,
) -> tuple[Temperature, FloatArray]:
    """Fit a temperature and decide by cross-validation whether it helps; arguments as in ``crossfit``.

    Args:
        logits: Of held-out rows.
        labels: Their labels.
        folds: The fold of each row.
        groups: The group of each row, or None.
        losses_of: The loss of each row by what is said of it.
        start: The temperature that it takes the place of: from all rows, and for each row from the other folds.
            Default: 1.

    Returns:
        The temperature, and for each row the one that the other folds gave, ``float [rows]``: that of `start` if it is
        not applied.
    """
    before, at = (1.0, np.ones(len(labels))) if start is None else start
    plain, heats = losses_of(logits / at[:, None], labels), np.ones(len(labels))
    weights = weights_in(groups)
    unscaled = float(metrics.average(plain, weights))
    fitted = before * fit_temperature(logits / before, labels, losses_of, groups)
    if len(np.unique(folds)) < 2:
        return Temperature(len(labels), fitted, unscaled, math.nan, math.nan, False, before), at
    for fold in np.unique(folds):
        here = folds == fold
        known = at[here][0]  # by the other folds alone, so that these rows take no part in what they are scaled by
        heats[here] = known * fit_temperature(logits[~here] / known, labels[~here], losses_of, some(groups, ~here))
    scaled = losses_of(logits / heats[:, None], labels)
    error = standard_error(scaled - plain, groups)
    helps = float(metrics.average(scaled - plain, weights)) + error < 0
    after = float(metrics.average(scaled, weights))
    heat = Temperature(len(labels), fitted, unscaled, after, error, helps, before)
    return heat, heats if helps else at


def calibrate_each(
    logits: FloatArray,
    labels: NDArray[Any],
    folds: IntArray,
    groups: Groups,
    losses_of: Callable[[FloatArray, NDArray[Any]], FloatArray],
) -> tuple[Temperature, FloatArray]:
    """Fit one temperature for all labels, and one for each label that has more than a few rows with and without it.

    Args:
        logits: Log-odds of held-out rows, ``float [rows, labels]``.
        labels: Which of them each row has, 0 or 1 ``[rows, labels]``.
        folds: The fold of each row.
        groups: The group of each row, or None; where rows do not count alike, a `Sampling`.
        losses_of: The loss of each row, summed over the labels that it is given.

    Returns:
        The temperatures, and for each row those that the other folds gave, ``float [rows, labels]``.
    """
    common, at = calibrate(logits, labels, folds, groups, losses_of)
    each, heats = [], np.repeat(at[:, None], logits.shape[1], axis=1)
    for place in range(logits.shape[1]):
        f, y = logits[:, [place]], labels[:, [place]]
        if min((y > 0).sum(), (y == 0).sum()) < FEW:
            each.append(Temperature(len(y), common.common, math.nan, math.nan, math.nan, False, common.common))
            continue
        one, heats[:, place] = calibrate(f, y, folds, groups, losses_of, (common.common, at))
        each.append(one)
    return replace(common, each=tuple(each)), heats


def standard_error(values: FloatArray, groups: Groups) -> float:
    """Return the standard error of a mean, from groups where there are groups; infinite with fewer than two."""
    where = clusters(groups, len(values))
    if where.count < 2:
        return math.inf
    sums = where.sums(values - where.mean(values))
    return math.sqrt(where.count / (where.count - 1) * float((sums**2).sum())) / float(where.own.sum())
