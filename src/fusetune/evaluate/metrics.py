"""How good a set of predicted probabilities is: accuracy and its relatives, ranking, likelihood and calibration.

Every function takes probabilities ``float [rows, classes]`` and labels ``int [rows]`` (class indices) and returns plain
floats. The decision for a row is its most probable class, the first one on a tie. Uncertainty is in ``intervals``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from sklearn.metrics import confusion_matrix, f1_score, recall_score

from fusetune.errors import UserError, listed

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.integer[Any]]

# One probability of zero would make the mean infinite and hide every other row, so that probabilities are raised to
# this value: a certain and wrong row costs 27.6 nats.
SMALLEST_PROBABILITY = 1e-12


@dataclass(frozen=True)
class Reliability:
    """Stated against observed certainty in equal-width bins of the top probability.

    Attributes:
        edges: Bin borders, ``float [bins + 1]`` from 0 to 1; a bin contains its upper border.
        count: Rows per bin, ``int [bins]``.
        confidence: Mean top probability per bin, ``float [bins]``; NaN in an empty bin.
        accuracy: Share of correct rows per bin, ``float [bins]``; NaN in an empty bin.
    """

    edges: FloatArray
    count: IntArray
    confidence: FloatArray
    accuracy: FloatArray


def checked(probabilities: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, IntArray]:
    """Return both as arrays after checking that they can be scored.

    Raises:
        UserError: there are no rows, the shapes do not fit, a probability is not finite, or a label is not a class.
    """
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if p.ndim != 2 or y.shape != p.shape[:1]:
        raise UserError(f"probabilities must be [rows, classes] and labels [rows]; got {p.shape} and {y.shape}")
    if not len(y):
        raise UserError("there are no rows to score; give a table with at least one labelled row")
    if not np.issubdtype(y.dtype, np.integer):
        raise UserError(f"labels must be class indices (integers), got {y.dtype}")
    broken = np.flatnonzero(~np.isfinite(p).all(axis=1))
    if len(broken):
        raise UserError(f"the model gave NaN or infinite probabilities in row(s) {listed(broken)}")
    unknown = np.flatnonzero((y < 0) | (y >= p.shape[1]))
    if len(unknown):
        raise UserError(f"labels in row(s) {listed(unknown)} are not among the {p.shape[1]} classes of the model")
    return p, y


def decisions(probabilities: FloatArray) -> IntArray:
    """Return the most probable class of each row, ``int [rows]``."""
    return np.asarray(probabilities.argmax(axis=1))


def correct_rows(probabilities: FloatArray, labels: IntArray) -> NDArray[np.bool_]:
    """Return which rows are decided correctly, ``bool [rows]``."""
    return np.asarray(decisions(probabilities) == labels)


def nll_rows(probabilities: FloatArray, labels: IntArray) -> FloatArray:
    """Return minus the natural logarithm of the label's probability, ``float [rows]`` in nats (see ``nll``)."""
    chosen = probabilities[np.arange(len(labels)), labels]
    return -np.log(np.clip(chosen, SMALLEST_PROBABILITY, 1.0))


def accuracy(probabilities: FloatArray, labels: IntArray) -> float:
    """Return the share of rows decided correctly."""
    return float(correct_rows(probabilities, labels).mean())


def balanced_accuracy(probabilities: FloatArray, labels: IntArray) -> float:
    """Return the mean recall over the classes that occur in the labels."""
    present = np.unique(labels)
    return float(recall_score(labels, decisions(probabilities), labels=present, average="macro", zero_division=0))


def macro_f1(probabilities: FloatArray, labels: IntArray) -> float:
    """Return the mean F1 over the classes that occur in the labels or in the decisions."""
    return float(f1_score(labels, decisions(probabilities), average="macro", zero_division=0))


def auroc(probabilities: FloatArray, labels: IntArray) -> float:
    """Return the mean one-against-rest area under the ROC curve over the classes that occur in the labels.

    The area is the Mann-Whitney statistic: the chance that a row of the class gets a higher probability for it than a
    row of another class, ties counting half.

    Returns:
        The mean area, or NaN when all rows have the same label (the area is then not defined).
    """
    present = np.unique(labels)
    if len(present) < 2:
        return float("nan")
    ranks = rankdata(probabilities[:, present], axis=0)
    positive = labels[:, None] == present
    count = positive.sum(axis=0)
    wins = (ranks * positive).sum(axis=0) - count * (count + 1) / 2
    return float(np.mean(wins / (count * (len(labels) - count))))


def nll(probabilities: FloatArray, labels: IntArray) -> float:
    """Return the mean negative log-likelihood in nats; probabilities below 1e-12 count as 1e-12."""
    return float(nll_rows(probabilities, labels).mean())


def bin_of_rows(probabilities: FloatArray, bins: int) -> IntArray:
    """Return the equal-width bin ``(low, high]`` of each row's top probability, ``int [rows]``."""
    upper = np.ceil(probabilities.max(axis=1) * bins).astype(np.int64)
    return np.asarray(np.clip(upper - 1, 0, bins - 1))


def ece(probabilities: FloatArray, labels: IntArray, bins: int = 15) -> float:
    """Return the expected calibration error of the top probability (Guo et al. 2017, arXiv 1706.04599, equation 5).

    This is the mean over bins, weighted by their rows, of the distance between mean top probability and accuracy. Few
    rows inflate it: even a perfectly calibrated model does not reach zero.
    """
    gap = probabilities.max(axis=1) - correct_rows(probabilities, labels)
    sums = np.bincount(bin_of_rows(probabilities, bins), weights=gap, minlength=bins)
    return float(np.abs(sums).sum() / len(labels))


def reliability(probabilities: FloatArray, labels: IntArray, bins: int = 15) -> Reliability:
    """Return count, mean top probability and accuracy per bin; the bins are those of ``ece``."""
    member = bin_of_rows(probabilities, bins)
    count = np.bincount(member, minlength=bins)
    divisor = np.where(count > 0, count, np.nan)
    confidence = np.bincount(member, weights=probabilities.max(axis=1), minlength=bins) / divisor
    hits = np.bincount(member, weights=correct_rows(probabilities, labels), minlength=bins) / divisor
    return Reliability(np.linspace(0.0, 1.0, bins + 1), count, confidence, hits)


def confusion(probabilities: FloatArray, labels: IntArray) -> IntArray:
    """Return the rows of each class (first axis) decided as each class (second), ``int [classes, classes]``."""
    classes = np.arange(probabilities.shape[1])
    return np.asarray(confusion_matrix(labels, decisions(probabilities), labels=classes))


def score(probabilities: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Return every metric by name: accuracy, balanced_accuracy, macro_f1, auroc, nll and ece.

    Args:
        probabilities: ``float [rows, classes]``, each row summing to one.
        labels: Class indices, ``int [rows]``.

    Raises:
        UserError: the arrays cannot be scored (see ``checked``).
    """
    p, y = checked(probabilities, labels)
    return {
        "accuracy": accuracy(p, y),
        "balanced_accuracy": balanced_accuracy(p, y),
        "macro_f1": macro_f1(p, y),
        "auroc": auroc(p, y),
        "nll": nll(p, y),
        "ece": ece(p, y),
    }
