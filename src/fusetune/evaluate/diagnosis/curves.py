"""Curves of accuracy and NLL over the level of a perturbation, and the area under them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fusetune.evaluate import metrics
from fusetune.evaluate.intervals import Interval, means, proportion
from fusetune.evaluate.metrics import FloatArray, IntArray


@dataclass(frozen=True)
class Point:
    """Scores at one level."""

    level: float
    accuracy: Interval
    nll: Interval


@dataclass(frozen=True)
class Curve:
    """Scores of one thing that is perturbed, or of one method, over the levels.

    Attributes:
        name: What is perturbed, or which method is asked.
        points: Scores by level, the lowest first.
        area: Area under the accuracy curve, divided by the range of levels: the mean accuracy over it.
        nll_area: The same of the NLL.
    """

    name: str
    points: list[Point]
    area: Interval
    nll_area: Interval


def area_weights(levels: Sequence[float]) -> FloatArray:
    """Return by how much each level counts in the area of the trapezoids, divided by their range; they sum to 1."""
    at = np.asarray(levels, dtype=np.float64)
    half = np.diff(at) / 2
    weights = np.zeros(len(at))
    weights[:-1] += half
    weights[1:] += half
    return weights / weights.sum() if len(at) > 1 else np.ones(len(at))


def curves(
    levels: Sequence[float],
    right: Mapping[str, FloatArray],
    lost: Mapping[str, FloatArray],
    groups: ArrayLike | None,
    *,
    resamples: int,
    seed: int,
) -> list[Curve]:
    """Return curves with 95 % intervals; all of them see the same resamples.

    Shares of rows get the interval of `proportion`; NLLs, and means over several draws or levels, the bootstrap.

    Args:
        levels: The levels, ascending.
        right: By name, how often each row is decided rightly, from 0 to 1, ``float [rows, levels]``.
        lost: By name, the NLL of each row, ``float [rows, levels]``.
        groups: The group of each row, or None.
        resamples: Bootstrap samples.
        seed: Of the resamples.
    """
    if not right:
        return []
    area = area_weights(levels)[:, None]
    hits, losses = (
        {name: np.concatenate([rows, rows @ area], axis=1) for name, rows in each.items()} for each in (right, lost)
    )
    columns = np.concatenate([*hits.values(), *losses.values()], axis=1)
    scores = iter(means(columns, groups, resamples=resamples, seed=seed))
    accuracy = {name: [_share(column, next(scores), groups) for column in rows.T] for name, rows in hits.items()}
    nll = {name: [next(scores) for _ in rows.T] for name, rows in losses.items()}
    return [
        Curve(
            name,
            [
                Point(float(level), *pair)
                for level, *pair in zip(levels, accuracy[name][:-1], nll[name][:-1], strict=True)
            ],
            accuracy[name][-1],
            nll[name][-1],
        )
        for name in right
    ]


def _share(hits: FloatArray, mean: Interval, groups: ArrayLike | None) -> Interval:
    """Return the interval of a share where rows are right or wrong, and that of the mean where they are between."""
    return proportion(hits, groups) if np.isin(hits, (0.0, 1.0)).all() else mean


def judged_rows(versions: Sequence[FloatArray], labels: IntArray) -> tuple[FloatArray, FloatArray]:
    """Return right (0 or 1) and NLL of each row by each version of its probabilities, ``float [rows, versions]``."""
    right = np.stack([metrics.correct_rows(p, labels).astype(np.float64) for p in versions], axis=1)
    return right, np.stack([metrics.nll_rows(p, labels) for p in versions], axis=1)
