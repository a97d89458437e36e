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
from sklearn.metrics import roc_auc_score

from fusetune.data.weights import Weights
from fusetune.errors import UserError, listed

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.integer[Any]]
Labels = NDArray[np.int64]

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


def average(values: NDArray[Any], weights: Weights | None) -> Any:
    """Return the mean over the first axis of values of rows, which count alike or as weights say."""
    return values.mean(axis=0) if weights is None else weights @ values / weights.sum()


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


def accuracy(probabilities: FloatArray, labels: IntArray, weights: Weights | None = None) -> float:
    """Return the share of rows decided correctly."""
    return float(average(correct_rows(probabilities, labels), weights))


def balanced_accuracy(probabilities: FloatArray, labels: IntArray, weights: Weights | None = None) -> float:
    """Return the mean recall over the classes that occur in the labels."""
    hits, labelled, _ = _counts(probabilities, labels, weights)
    present = np.unique(labels)
    return float(np.mean(hits[present] / labelled[present]))


def macro_f1(probabilities: FloatArray, labels: IntArray, weights: Weights | None = None) -> float:
    """Return the mean F1 over the classes that occur in the labels or in the decisions."""
    hits, labelled, decided = _counts(probabilities, labels, weights)
    occurs = labelled + decided > 0
    return float(np.mean(2 * hits[occurs] / (labelled + decided)[occurs]))


def _counts(
    probabilities: FloatArray, labels: IntArray, weights: Weights | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return how many rows of each class are decided rightly, how many are of it, and how many decided for it."""
    decided, count = decisions(probabilities), probabilities.shape[1]
    own = np.ones(len(labels)) if weights is None else weights
    hits, labelled, said = (
        np.asarray(np.bincount(of, counted, minlength=count), dtype=np.float64)
        for of, counted in ((labels, own * (decided == labels)), (labels, own), (decided, own))
    )
    return hits, labelled, said


def auroc(probabilities: FloatArray, labels: IntArray, weights: Weights | None = None) -> float:
    """Return the mean one-against-rest area under the ROC curve over the classes that occur in the labels.

    The area is the Mann-Whitney statistic: the chance that a row of the class gets a higher probability for it than a
    row of another class, ties counting half.

    Returns:
        The mean area, or NaN when all rows have the same label (the area is then not defined).
    """
    present = np.unique(labels)
    if len(present) < 2:
        return float("nan")
    if weights is not None:
        areas = [roc_auc_score(labels == k, probabilities[:, k], sample_weight=weights) for k in present]
        return float(np.mean(areas))
    ranks = rankdata(probabilities[:, present], axis=0)
    positive = labels[:, None] == present
    count = positive.sum(axis=0)
    wins = (ranks * positive).sum(axis=0) - count * (count + 1) / 2
    return float(np.mean(wins / (count * (len(labels) - count))))


def auprc(probabilities: FloatArray, labels: IntArray, weights: Weights | None = None) -> float:
    """Return the mean one-against-rest average precision over the classes that occur in the labels.

    This is the step-wise area under the precision-recall curve. Chance is the share of the class, not 0.5.

    Returns:
        The mean area, or NaN when all rows have the same label (nothing is then ranked).
    """
    present = np.unique(labels)
    if len(present) < 2:
        return float("nan")
    return float(np.mean([_average_precision(labels == k, probabilities[:, k], weights) for k in present]))


def _average_precision(mine: NDArray[np.bool_], scores: FloatArray, weights: Weights | None) -> float:
    """Return the average precision of one class of which there are rows, as scikit-learn does but ten times as fast."""
    order = np.argsort(scores)[::-1]
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # of rows of one score
    own = (np.ones(len(mine)) if weights is None else weights)[order]
    hits = np.cumsum(own * mine[order])[last]
    recall, precision = hits / hits[-1], hits / np.cumsum(own)[last]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def top_size(classes: int) -> int | None:
    """Return the k of top-k: 5, or one less than the classes; None up to three classes, where it says little."""
    return min(5, classes - 1) if classes > 3 else None


def top_rows(probabilities: FloatArray, labels: IntArray, k: int) -> NDArray[np.bool_]:
    """Return for which rows the label is among the k most probable classes, the first ones on ties, ``bool [rows]``."""
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return np.asarray((best == labels[:, None]).any(axis=1))


def brier_rows(probabilities: FloatArray, labels: IntArray) -> FloatArray:
    """Return the squared distance of each row's probabilities to its label, ``float [rows]`` from 0 to 2."""
    return np.asarray(((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1))


def brier(probabilities: FloatArray, labels: IntArray, weights: Weights | None = None) -> float:
    """Return the mean squared distance of the probabilities to the label, summed over classes (Brier 1950)."""
    return float(average(brier_rows(probabilities, labels), weights))


def nll(probabilities: FloatArray, labels: IntArray, weights: Weights | None = None) -> float:
    """Return the mean negative log-likelihood in nats; probabilities below 1e-12 count as 1e-12."""
    return float(average(nll_rows(probabilities, labels), weights))


def bin_of(values: FloatArray, bins: int) -> IntArray:
    """Return the equal-width bin ``(low, high]`` of each value between 0 and 1, in the shape of the values."""
    upper = np.ceil(values * bins).astype(np.int64)
    return np.asarray(np.clip(upper - 1, 0, bins - 1))


def bin_of_rows(probabilities: FloatArray, bins: int) -> IntArray:
    """Return the bin of each row's top probability, ``int [rows]``."""
    return bin_of(probabilities.max(axis=1), bins)


def ece(probabilities: FloatArray, labels: IntArray, bins: int = 15, weights: Weights | None = None) -> float:
    """Return the expected calibration error of the top probability (Guo et al. 2017, arXiv 1706.04599, equation 5).

    This is the mean over bins, weighted by their rows, of the distance between mean top probability and accuracy. Few
    rows inflate it: even a perfectly calibrated model does not reach zero.
    """
    gap = probabilities.max(axis=1) - correct_rows(probabilities, labels)
    gap, rows = (gap, len(labels)) if weights is None else (gap * weights, weights.sum())
    sums = np.bincount(bin_of_rows(probabilities, bins), weights=gap, minlength=bins)
    return float(np.abs(sums).sum() / rows)


def classwise_ece(probabilities: FloatArray, labels: IntArray, bins: int = 15, weights: Weights | None = None) -> float:
    """Return the class-wise expected calibration error (Kull et al. 2019, arXiv 1910.12656, equation 3).

    For each class, the distance between its mean probability and its share of the rows, over bins of its probability;
    then the mean over the classes that occur in the labels. Unlike ``ece`` it looks at all classes of a row.
    """
    member, present = bin_of(probabilities, bins), np.unique(labels)
    gaps = probabilities - np.eye(probabilities.shape[1])[labels]
    gaps, rows = (gaps, len(labels)) if weights is None else (gaps * weights[:, None], weights.sum())
    sums = [np.abs(np.bincount(member[:, k], weights=gaps[:, k], minlength=bins)).sum() for k in present]
    return float(np.mean(sums) / rows)


def reliability(
    probabilities: FloatArray, labels: IntArray, bins: int = 15, weights: Weights | None = None
) -> Reliability:
    """Return count, mean top probability and accuracy per bin; the bins are those of ``ece``."""
    member, own = bin_of_rows(probabilities, bins), np.ones(len(labels)) if weights is None else weights
    count = np.bincount(member, minlength=bins)
    divisor = np.where(count > 0, np.bincount(member, own, minlength=bins), np.nan)
    confidence = np.bincount(member, weights=probabilities.max(axis=1) * own, minlength=bins) / divisor
    hits = np.bincount(member, weights=correct_rows(probabilities, labels) * own, minlength=bins) / divisor
    return Reliability(np.linspace(0.0, 1.0, bins + 1), count, confidence, hits)


def confusion(probabilities: FloatArray, labels: IntArray) -> IntArray:
    """Return the rows of each class (first axis) decided as each class (second), ``int [classes, classes]``."""
    count = probabilities.shape[1]
    cells = labels.astype(np.int64) * count + decisions(probabilities)
    return np.bincount(cells, minlength=count * count).reshape(count, count)


def score(probabilities: ArrayLike, labels: ArrayLike, weights: Weights | None = None) -> dict[str, float]:
    """Return every metric by name.

    These are accuracy, balanced_accuracy, macro_f1, auroc, auprc, nll, brier, ece, classwise_ece, and with more than
    three classes ``top_<k>``: the share of rows whose label is among the k most probable classes (``top_size``).

    Args:
        probabilities: ``float [rows, classes]``, each row summing to one.
        labels: Class indices, ``int [rows]``.
        weights: What each row counts, ``float [rows]``, above 0; a row of weight k counts as k rows. None: all alike.

    Raises:
        UserError: the arrays cannot be scored (see ``checked``).
    """
    p, y = checked(probabilities, labels)
    scores = {
        "accuracy": accuracy(p, y, weights),
        "balanced_accuracy": balanced_accuracy(p, y, weights),
        "macro_f1": macro_f1(p, y, weights),
        "auroc": auroc(p, y, weights),
        "auprc": auprc(p, y, weights),
        "nll": nll(p, y, weights),
        "brier": brier(p, y, weights),
        "ece": ece(p, y, weights=weights),
        "classwise_ece": classwise_ece(p, y, weights=weights),
    }
    if (k := top_size(p.shape[1])) is not None:
        scores[f"top_{k}"] = float(average(top_rows(p, y, k), weights))
    return scores
