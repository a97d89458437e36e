"""The path of penalties: where it stops, how it goes on beyond its ends, and what is said where an end is the best."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from pydantic import ValidationError

from fusetune.config import HeadConfig
from fusetune.heads.path import GAIN, Step, Walk, walk

NO_LOGITS = np.zeros((0, 2))


def walked(penalties: tuple[float, ...], nll: Callable[[float], float]) -> Walk:
    """Walk with a made NLL of the logarithm of the penalty; a step's solution is the penalty that it started from."""
    return walk(
        penalties, lambda penalty, near: Step(penalty, nll(math.log10(penalty)), NO_LOGITS, near and near.penalty)
    )


@pytest.mark.parametrize(
    ("lowest", "best", "far"),
    [
        (-1.0, 0.1, (1.0, 1e-3)),  # inside: two steps past it are enough
        (-3.0, 1e-3, (1.0, 1e-4)),
        (-6.0, 1e-6, (1.0, 1e-7)),  # beyond the lower end: on, until it is worse
        (2.0, 100.0, (1e3, 1e-2)),  # beyond the upper end
    ],
)
def test_the_path_ends_where_it_gains_no_more(lowest: float, best: float, far: tuple[float, float]) -> None:
    found = walked((1.0, 0.1, 0.01, 1e-3, 1e-4), lambda at: (at - lowest) ** 2)
    assert found.best.penalty == pytest.approx(best)
    assert [step.penalty for step in found.steps] == sorted((step.penalty for step in found.steps), reverse=True)
    assert (found.steps[0].penalty, found.steps[-1].penalty) == pytest.approx(far)
    assert (found.choice, found.doubts) == (f"penalty {best:g}", [])


@pytest.mark.parametrize(("sign", "end", "what"), [(1, 1e-12, "weaker"), (-1, 1e8, "stronger")])
def test_a_path_without_an_end_is_bounded_and_said(sign: int, end: float, what: str) -> None:
    found = walked((1.0, 0.1, 0.01, 1e-3, 1e-4), lambda at: sign * at)
    assert found.best.penalty == pytest.approx(end)
    assert found.choice == f"penalty {end:g}, the end of the path"
    assert found.doubts == [
        f"NLL still falls at the end of the path of penalties, at {end:g}: a {what} one would do better"
    ]


def test_an_end_that_gains_too_little_is_called_the_end() -> None:
    found = walked((1.0, 0.1, 0.01), lambda at: 0.9 * GAIN * at)
    assert [step.penalty for step in found.steps] == [1.0, 0.1, 0.01]
    assert (found.choice, found.doubts) == ("penalty 0.01, the end of the path", [])


def test_each_step_starts_from_its_neighbour() -> None:
    found = walked((0.1, 1.0), lambda at: (at - 1.2) ** 2)  # the order in which they are given does not matter
    starts = {round(step.penalty, 6): step.solution for step in found.steps}
    assert starts == pytest.approx({100.0: 10.0, 10.0: 1.0, 1.0: None, 0.1: 1.0})


@pytest.mark.parametrize("penalties", [(0.01,), (0.01, 0.01)])
def test_a_single_penalty_is_what_was_asked_for(penalties: tuple[float, ...]) -> None:
    found = walked(penalties, lambda at: at)
    assert ([step.penalty for step in found.steps], found.choice, found.doubts) == ([0.01], "penalty 0.01", [])


@pytest.mark.parametrize("penalties", [(), (0.0,), (1.0, -0.1), (math.inf, 1.0), (math.nan,)])
def test_a_path_that_cannot_be_solved_is_refused(penalties: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match="penalties"):
        HeadConfig(penalties=penalties)
