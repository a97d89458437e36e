"""Curves of score and loss over the level of a perturbation, and the area under them.

`accuracy` and `nll` are the measure's score and loss, whatever is predicted (`evaluate.measures`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fusetune.evaluate.intervals import Interval, means, proportion
from fusetune.evaluate.measures import CLASSES, Measure
from fusetune.evaluate.metrics import FloatArray
from fusetune.targets import Truth


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
        area: Area under the curve of the score, divided by the range of levels: the mean score over it.
        nll_area: The same of the loss.
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
    labels: Truth,
    groups: ArrayLike | None,
    measure: Measure[Any] = CLASSES,
    *,
    resamples: int,
    seed: int,
) -> list[Curve]:
    """Return curves with 95 % intervals; all of them see the same resamples.

    Shares of rows get the interval of `proportion`; losses, and means over several draws or levels, the bootstrap.

    Args:
        levels: The levels, ascending.
        right: By name, how right each row's answer is (of classes, how often), ``float [rows, levels]``.
        lost: By name, the loss of each row, ``float [rows, levels]``.
        labels: Of the rows.
        groups: The group of each row, or None.
        measure: How answers are judged.
        resamples: Bootstrap samples.
        seed: Of the resamples.
    """
    if not right:
        return []
    area = area_weights(levels)[:, None]
    hits, losses = (
        {name: np.concatenate([rows, rows @ area], axis=1) for name, rows in each.items()} for each in (right, lost)
    )
    how = {"resamples": resamples, "seed": seed}
    scores = iter(measure.score_means(np.concatenate(list(hits.values()), axis=1), labels, groups, **how))
    lows = iter(means(np.concatenate(list(losses.values()), axis=1), groups, **how))
    shared = _share if measure.share else lambda _, mean, __: mean
    accuracy = {name: [shared(column, next(scores), groups) for column in rows.T] for name, rows in hits.items()}
    nll = {name: [next(lows) for _ in rows.T] for name, rows in losses.items()}
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


def judged_rows(versions: Sequence[FloatArray], labels: Truth, measure: Measure[Any]) -> tuple[FloatArray, FloatArray]:
    """Return how right each row is, and its loss, by each version of its answer, ``float [rows, versions]``."""
    right = np.stack([measure.right_rows(p, labels) for p in versions], axis=1)
    return right, np.stack([measure.lost_rows(p, labels) for p in versions], axis=1)
