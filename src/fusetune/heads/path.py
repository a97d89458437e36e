"""The path of penalties that a solved head is chosen from: walked down, and on beyond an end that is best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

GAIN = 1e-3  # nats: less is not worth a further step beyond the path
_FURTHER = 8  # steps beyond each end at most: four decades of the usual path


class Step(NamedTuple):
    """A penalty, its NLL on the rows that choices are made on, their logits [rows, classes], and the solution."""

    penalty: float
    nll: float
    logits: npt.NDArray[np.float64]
    solution: Any


class Walk(NamedTuple):
    """The steps, the strongest penalty first; the best; the choice in words; doubts: the path ended too early."""

    steps: list[Step]
    best: Step
    choice: str
    doubts: list[str]


def walk(penalties: Sequence[float], solve: Callable[[float, Step | None], Step]) -> Walk:
    """Walk a path down until two steps in a row are no better: it has a single minimum in practice.

    Where the first or last penalty is the best, by more than `GAIN` of its neighbour, the path goes on beyond it in the
    ratio of these two, by up to eight steps. A path of one penalty is what was asked for.

    Args:
        penalties: The path.
        solve: Takes the step to a penalty, from the one before.
    """
    steps: list[Step] = []
    for penalty in sorted(set(penalties), reverse=True):
        steps.append(solve(penalty, steps[-1] if steps else None))
        if _best(steps) < len(steps) - 2:
            break
    if len(steps) == 1:
        return Walk(steps, steps[0], f"penalty {steps[0].penalty:g}", [])
    for _ in ("down", "up"):
        for _ in range(_FURTHER):
            if not _gains(steps):
                break
            steps.append(solve(steps[-1].penalty ** 2 / steps[-2].penalty, steps[-1]))
        steps.reverse()
    best = steps[_best(steps)]
    choice = f"penalty {best.penalty:g}"
    if best.penalty not in (steps[0].penalty, steps[-1].penalty):
        return Walk(steps, best, choice, [])
    doubts = [
        f"NLL still falls at the end of the path of penalties, at {best.penalty:g}: a {what} one would do better"
        for what, way in (("weaker", steps), ("stronger", steps[::-1]))
        if _gains(way)
    ]
    return Walk(steps, best, choice + ", the end of the path", doubts)


def _best(steps: Sequence[Step]) -> int:
    return int(np.argmin([step.nll for step in steps]))


def _gains(steps: Sequence[Step]) -> bool:
    """Return whether the last step is the best, by more than it takes to go on."""
    return _best(steps) == len(steps) - 1 and steps[-2].nll - steps[-1].nll > GAIN
