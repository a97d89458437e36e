"""Bootstrap resamples of every metric at once, from sums per group.

Drawing groups with replacement only changes how often each group counts. A metric of a resample thus follows from sums
per group (correct rows, log-likelihoods, decisions per class, calibration gaps per bin) and from the number of times
each group was drawn: a sparse product ``[sums, groups] @ [groups, resamples]``. AUROC and AUPRC take one product per
class: the rows of other classes are counted between the sorted scores of the class's own rows. Without groups each row
is its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from fusetune.data.weights import Weights, scaled
from fusetune.errors import UserError
from fusetune.evaluate import metrics
from fusetune.evaluate.metrics import FloatArray, IntArray

_CELLS_AT_ONCE = 1 << 21  # rows times resamples held at a time: the working set stays near the processor's caches
_WORK = 10**10  # multiply-adds, about 10 s on one core; beyond it metrics that look at every class get fewer resamples
_FEWEST = 200


@dataclass(frozen=True, eq=False)
class Sampling:
    """How rows stand for what they were taken from, where they do not count alike: their weights, and their groups.

    Whatever takes groups takes this in their place. A row of weight k counts as k rows of its group would (without
    groups: as k copies of it, which are drawn together): it is more of the value, and no more evidence for it.

    Attributes:
        weights: ``float [rows]``, above 0, of mean 1.
        groups: The group of each row; None: every row is one.
    """

    weights: Weights
    groups: NDArray[Any] | None = None


Groups = ArrayLike | Sampling | None


def sampling(groups: ArrayLike | None, weights: Weights | None) -> Groups:
    """Return how rows stand for what they were taken from; where they count alike, that is their groups."""
    own = None if weights is None else scaled(weights)
    if own is None:
        return groups
    return Sampling(own, None if groups is None else np.asarray(groups))


def grouped(groups: Groups) -> bool:
    """Return whether rows form groups."""
    return (groups.groups if isinstance(groups, Sampling) else groups) is not None


def weights_in(groups: Groups) -> Weights | None:
    """Return what rows count, ``float [rows]``; None where they count alike."""
    return groups.weights if isinstance(groups, Sampling) else None


def some(groups: Groups, rows: NDArray[Any]) -> Groups:
    """Return the same of some rows, by position or mask."""
    if not isinstance(groups, Sampling):
        return None if groups is None else np.asarray(groups)[rows]
    return sampling(None if groups.groups is None else groups.groups[rows], groups.weights[rows])


@dataclass(frozen=True)
class Clusters:
    """Which group each row belongs to: ``member`` is ``int [rows]``, with values from 0 to ``count - 1``.

    ``weights`` are what rows count, ``float [rows]``; None where they count alike.
    """

    member: IntArray
    count: int
    weights: Weights | None = None

    @property
    def own(self) -> Weights:
        """What each row counts, ``float [rows]``."""
        return np.ones(len(self.member)) if self.weights is None else self.weights

    @property
    def effective(self) -> float:
        """How many groups of equal weight tell as much (Kish 1965); where rows count alike, all of them."""
        if self.weights is None:
            return float(self.count)
        total = np.bincount(self.member, self.weights)
        return float(total.sum() ** 2 / (total**2).sum())

    def sums(self, values: FloatArray | NDArray[np.bool_]) -> FloatArray:
        """Return the sum over each group of a value of each row as it counts, ``float [groups]``."""
        return np.asarray(np.bincount(self.member, self.own * values, self.count), dtype=np.float64)

    def mean(self, values: FloatArray) -> Any:
        """Return the mean of values over rows as they count."""
        return metrics.average(values, self.weights)


def clusters(groups: Groups, rows: int) -> Clusters:
    """Number the groups; without groups every row is one.

    Raises:
        UserError: there is not one group value, or weight, per row.
    """
    weights = weights_in(groups)
    if weights is not None and len(weights) != rows:
        raise UserError(f"got {len(weights):,} weights for {rows:,} rows; give one per row")
    if not grouped(groups):
        return Clusters(np.arange(rows), rows, weights)
    names: Any = groups.groups if isinstance(groups, Sampling) else groups
    codes, distinct = pd.factorize(np.asarray(names), use_na_sentinel=False)
    if len(codes) != rows:
        raise UserError(f"got {len(codes):,} group values for {rows:,} rows; give one per row")
    return Clusters(codes, len(distinct), weights)


def resampled_means(values: FloatArray, where: Clusters, *, resamples: int, seed: int) -> FloatArray:
    """Return the mean of each column of ``values [rows, columns]`` in each resample, ``float [resamples, columns]``."""
    rows, columns = values.shape
    cells = np.tile(np.arange(columns), rows)
    own = (values * where.own[:, None]).ravel()
    sums = _tally(cells, np.repeat(where.member, columns), columns, where.count, own)
    size = np.bincount(where.member, where.weights, minlength=where.count)
    chunks = drawn_counts(where.count, rows, resamples, seed)
    return np.concatenate([((sums @ times) / (size @ times)).T for times in chunks])


def resampled_metrics(
    p: FloatArray, y: IntArray, where: Clusters, *, resamples: int, seed: int, bins: int = 15
) -> dict[str, FloatArray]:
    """Return each metric of ``metrics.score`` in each resample, ``float [resamples]``, and the noise of both ECEs.

    ``ece_noise`` is the distance (sum over bins) between the calibration gaps of the resample and those of the rows
    themselves, ``classwise_ece_noise`` the same for each class, averaged. NaN stands where a resample does not define a
    metric. AUROC, AUPRC and class-wise ECE have fewer resamples when there are very many rows times classes, see
    ``intervals.score_with_intervals``.
    """
    sums, area, gaps = _GroupSums.of(p, y, where, bins), _ClassAreas.of(p, y, where), _ClassGaps.of(p, y, where, bins)
    wanted = min(resamples, max(_FEWEST, _WORK // (area.work + gaps.work)))
    parts: dict[str, list[FloatArray]] = {}
    done = 0
    for times in drawn_counts(where.count, len(y), resamples, seed):
        values = sums.metrics(times)
        if done < wanted:
            some = np.ascontiguousarray(times[:, : wanted - done])
            values |= area.means(some) | gaps.means(some)
        done += times.shape[1]
        for name, one in values.items():
            parts.setdefault(name, []).append(one)
    return {name: np.concatenate(chunks) for name, chunks in parts.items()}


def resampled_f1(
    called: NDArray[np.bool_], has: NDArray[np.bool_], where: Clusters, *, resamples: int, seed: int
) -> dict[str, FloatArray]:
    """Return macro and micro F1 of labels in each resample, ``float [resamples]``, as scikit-learn defines them.

    Args:
        called: Which labels are said, ``bool [rows, labels]``.
        has: Which there are, ``bool [rows, labels]``.
        where: The groups that are drawn.
        resamples: How often.
        seed: Of what is drawn.
    """
    rows, labels = has.shape
    cells, member = np.tile(np.arange(labels), rows), np.repeat(where.member, labels)
    hits, both = (
        _tally(cells, member, labels, where.count, (values * where.own[:, None]).ravel())
        for values in (called & has, called.astype(np.int64) + has)
    )
    parts = []
    for times in drawn_counts(where.count, rows, resamples, seed):
        right, said = 2 * (hits @ times), both @ times
        # A label that nobody has and nobody says counts as 0.
        parts.append([np.nan_to_num(_ratio(right, said)).mean(0), np.nan_to_num(_ratio(right.sum(0), said.sum(0)))])
    return dict(zip(("macro_f1", "micro_f1"), np.concatenate(parts, axis=1), strict=True))


def resampled_areas(
    p: FloatArray, has: NDArray[np.bool_], where: Clusters, *, resamples: int, seed: int
) -> dict[str, FloatArray]:
    """Return AUROC and AUPRC in each resample, ``float [resamples]``: means over labels.

    A label counts where some rows of the resample have it and others do not; NaN stands where none does.

    Args:
        p: Probabilities, ``float [rows, labels]``.
        has: Which labels there are, ``bool [rows, labels]``.
        where: The groups that are drawn.
        resamples: How often.
        seed: Of what is drawn.
    """
    areas = _ClassAreas.of_labels(p, has, where)
    parts = [areas.means(times) for times in drawn_counts(where.count, len(has), resamples, seed)]
    return {name: np.concatenate([part[name] for part in parts]) for name in ("auroc", "auprc")}


def drawn_counts(count: int, rows: int, resamples: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """Yield how often each group was drawn, ``float32 [groups, some resamples]``, until all resamples are out."""
    random = np.random.default_rng(seed)
    step = max(8, _CELLS_AT_ONCE // rows)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        cell = random.integers(0, count, size=(size, count)) * size + np.arange(size)[:, None]
        yield np.bincount(cell.ravel(), minlength=size * count).reshape(count, size).astype(np.float32)


def _tally(cells: IntArray, member: IntArray, width: int, count: int, values: FloatArray) -> sparse.csr_array:
    """Return the sum of the values in each cell and group, ``float [width, groups]``."""
    return sparse.csr_array(sparse.coo_array((values, (cells, member)), shape=(width, count)))


def _ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    """Return the quotient, NaN where the divisor is zero."""
    out = np.full(np.broadcast(above, below).shape, np.nan)
    np.divide(above, below, out=out, where=below > 0)
    return out


def _mean_over_known(values: FloatArray) -> FloatArray:
    """Return the mean over the first axis of the values that are not NaN, NaN where there are none."""
    return _ratio(np.nansum(values, axis=0), np.isfinite(values).sum(axis=0))


_PLAIN = 5  # rows, correct rows, log-likelihood, squared distance, rows with the label among the top k


@dataclass(frozen=True)
class _GroupSums:
    """Sums per group that most metrics follow from, stacked as ``float [5 + bins + 3 * classes, groups]``."""

    stacked: sparse.csr_array
    bins: int
    classes: int

    @classmethod
    def of(cls, p: FloatArray, y: IntArray, where: Clusters, bins: int) -> _GroupSums:
        right = metrics.correct_rows(p, y).astype(np.float64)
        one, classes = np.ones(len(y)), p.shape[1]
        start = np.cumsum([_PLAIN, bins, classes, classes])
        gap = p.max(axis=1) - right
        top = metrics.top_rows(p, y, metrics.top_size(classes) or 1).astype(np.float64)
        plain = (one, right, metrics.nll_rows(p, y), metrics.brier_rows(p, y), top)
        entries = [
            *((np.full(len(y), cell), values) for cell, values in enumerate(plain)),
            (start[0] + metrics.bin_of_rows(p, bins), gap),
            (start[1] + y, one),
            (start[2] + metrics.decisions(p), one),
            (start[3] + y, right),
        ]
        cells = np.concatenate([cell for cell, _ in entries])
        values = np.concatenate([value * where.own for _, value in entries])
        member = np.tile(where.member, len(entries))
        return cls(_tally(cells, member, _PLAIN + bins + 3 * classes, where.count, values), bins, classes)

    def metrics(self, times: FloatArray) -> dict[str, FloatArray]:
        """Return the metrics for how many times each group was drawn, ``[groups, resamples]``."""
        sums = self.stacked @ times
        own = self.stacked.sum(axis=1)
        rows, right, log_loss, squares, top = sums[:_PLAIN]
        binned = slice(_PLAIN, _PLAIN + self.bins)
        gaps, own_gaps = sums[binned] / rows, own[binned] / own[0]
        labelled, decided, hits = sums[_PLAIN + self.bins :].reshape(3, self.classes, -1)
        k = metrics.top_size(self.classes)
        return ({} if k is None else {f"top_{k}": top / rows}) | {
            "accuracy": right / rows,
            "balanced_accuracy": _mean_over_known(_ratio(hits, labelled)),
            "macro_f1": _mean_over_known(_ratio(2 * hits, labelled + decided)),
            "nll": log_loss / rows,
            "brier": squares / rows,
            "ece": np.abs(gaps).sum(axis=0),
            "ece_noise": np.abs(gaps - own_gaps[:, None]).sum(axis=0),
        }


@dataclass(frozen=True)
class _ClassAreas:
    """For each class that occurs, how its rows and all other rows interleave when sorted by its probability.

    ``own`` counts the rows of the class at each of its ``steps`` distinct scores, ``float [steps, groups]``. ``other``
    counts the other rows, ``float [2 * steps, groups]``: cell ``2k`` lies between scores ``k - 1`` and ``k``, cell
    ``2k + 1`` is tied with score ``k``. Other rows above all own scores never lose and are not kept there;
    ``rest`` counts all other rows, ``float [groups]``.
    """

    pairs: list[tuple[sparse.csr_array, sparse.csr_array, FloatArray]]

    @classmethod
    def of(cls, p: FloatArray, y: IntArray, where: Clusters) -> _ClassAreas:
        present = np.unique(y)
        return cls.of_labels(p[:, present], y[:, None] == present, where)

    @classmethod
    def of_labels(cls, p: FloatArray, has: NDArray[np.bool_], where: Clusters) -> _ClassAreas:
        return cls([cls._interleave(scores, mine, where) for scores, mine in zip(p.T, has.T, strict=True)])

    @staticmethod
    def _interleave(
        scores: FloatArray, mine: NDArray[np.bool_], where: Clusters
    ) -> tuple[sparse.csr_array, sparse.csr_array, FloatArray]:
        levels, step = np.unique(scores[mine], return_inverse=True)
        rest = scores[~mine]
        cell = np.searchsorted(levels, rest, side="left") + np.searchsorted(levels, rest, side="right")
        kept = cell < 2 * len(levels)
        # Counts are whole numbers, which float32 holds exactly up to 16.7 million rows, at twice the speed of float64.
        weights = np.ones(len(scores), np.float32) if where.weights is None else where.weights
        own = _tally(step, where.member[mine], len(levels), where.count, weights[mine])
        member = where.member[~mine][kept]
        other = _tally(cell[kept], member, 2 * len(levels), where.count, weights[~mine][kept])
        return own, other, where.sums(~mine)

    @property
    def work(self) -> int:
        """Multiply-adds per resample."""
        return max(1, sum(int(own.nnz + other.nnz) for own, other, _ in self.pairs))

    def means(self, times: NDArray[np.float32]) -> dict[str, FloatArray]:
        """Return AUROC and AUPRC, means over the classes that occur in each resample ``[groups, resamples]``."""
        areas = np.stack([self._areas(own, other, rest @ times, times) for own, other, rest in self.pairs])
        return {"auroc": _mean_over_known(areas[:, 0]), "auprc": _mean_over_known(areas[:, 1])}

    @staticmethod
    def _areas(
        own: sparse.csr_array, other: sparse.csr_array, rest: FloatArray, times: NDArray[np.float32]
    ) -> FloatArray:
        """Return both areas of one class, of whose other rows there are ``rest [resamples]``: ``float [2, resamples]``.

        NaN stands where all rows are of the class, or none is.
        """
        mine, kept = own @ times, other @ times
        tied = kept[1::2]
        below = np.cumsum(kept[0::2] + tied, axis=0) - tied
        wins = np.einsum("kb,kb->b", mine, below + 0.5 * tied, dtype=np.float64)
        total = mine.sum(axis=0, dtype=np.float64)
        # At each own score: rows of the class at least as high, and the share that they are of all such rows.
        reached = total - np.cumsum(mine, axis=0) + mine
        ahead = reached + rest - below
        precision = reached / np.where(ahead > 0, ahead, 1)
        area = _ratio(np.einsum("kb,kb->b", mine, precision, dtype=np.float64), total)
        area[rest == 0] = np.nan
        return np.stack([_ratio(wins, total * rest), area])


@dataclass(frozen=True)
class _ClassGaps:
    """Calibration gaps of every class and bin by group, ``float [classes * bins, groups]``, and labels by class."""

    gaps: sparse.csr_array
    labelled: sparse.csr_array
    classes: int
    rows: FloatArray

    @classmethod
    def of(cls, p: FloatArray, y: IntArray, where: Clusters, bins: int) -> _ClassGaps:
        rows, classes = p.shape
        cells = (metrics.bin_of(p, bins) + np.arange(classes) * bins).ravel()
        values = ((p - np.eye(classes)[y]) * where.own[:, None]).ravel()
        gaps = _tally(cells, np.repeat(where.member, classes), classes * bins, where.count, values)
        labelled = _tally(y, where.member, classes, where.count, where.own)
        return cls(gaps, labelled, classes, where.sums(np.ones(rows)))

    @property
    def work(self) -> int:
        """Multiply-adds per resample."""
        return int(self.gaps.nnz)

    def means(self, times: NDArray[np.float32]) -> dict[str, FloatArray]:
        """Return class-wise ECE and its noise, means over the classes that occur in each resample."""
        rows = self.rows @ times
        gaps = (self.gaps @ times) / rows
        own = self.gaps.sum(axis=1)[:, None] / self.rows.sum()
        occurs = (self.labelled @ times) > 0
        return {
            "classwise_ece": self._mean(np.abs(gaps), occurs),
            "classwise_ece_noise": self._mean(np.abs(gaps - own), occurs),
        }

    def _mean(self, distances: FloatArray, occurs: NDArray[np.bool_]) -> FloatArray:
        per_class = distances.reshape(self.classes, -1, distances.shape[1]).sum(axis=1)
        return _mean_over_known(np.where(occurs, per_class, np.nan))
