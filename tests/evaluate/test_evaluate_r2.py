"""R2 and its differences: one interval wherever it is told, whatever the unit and the zero of the labels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fusetune.evaluate.measures import measure_of
from fusetune.evaluate.modalities import shapley_table
from fusetune.targets import Regression

HOW: dict[str, Any] = {"resamples": 400, "seed": 3}
RANDOM = np.random.default_rng(0)
TRUTH = RANDOM.normal(size=90)
GROUPS = np.arange(90) // 3


def measured(mean: float = 0.0, deviation: float = 1.0) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return a measure in some unit, and good and poor answers in it."""
    measure = measure_of(Regression("y", mean, deviation))
    noise = np.random.default_rng(1).normal(size=(90, 2))
    return measure, measure.say((TRUTH + 0.3 * noise[:, 0])[:, None]), measure.say((TRUTH + 0.9 * noise[:, 1])[:, None])


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_every_table_gives_r2_the_same_interval(groups: Any) -> None:
    measure, good, _ = measured()
    score, loss = measure.pairs([good], TRUTH, groups, **HOW)[0]
    told = measure.scores(good, TRUTH, groups, **HOW)
    for one, other in ((score, told["r2"]), (loss, told["mae"])):
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high))


def test_a_difference_is_that_of_both_scores_in_every_resample() -> None:
    measure, good, poor = measured()
    score, _ = measure.difference(good, poor, TRUTH, GROUPS, **HOW)
    r2 = [measure.scores(p, TRUTH, GROUPS, **HOW)["r2"].value for p in (good, poor)]
    assert score.value == pytest.approx(r2[0] - r2[1])
    assert score.low > 0
    assert score.low < score.value < score.high
    # By hand: resamples of whole groups, each divided by its own variance.
    draws, random = [], np.random.default_rng(9)
    for _ in range(2000):
        rows = np.concatenate([np.flatnonzero(group == GROUPS) for group in random.integers(0, 30, 30)])
        e, q, y = good[rows, 0] - TRUTH[rows], poor[rows, 0] - TRUTH[rows], TRUTH[rows]
        draws.append(((q**2).mean() - (e**2).mean()) / y.var())
    assert (score.low, score.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.08)


def test_shares_of_inputs_sum_to_what_all_add() -> None:
    measure, good, poor = measured()
    none, both, one, other = frozenset[str](), frozenset("ab"), frozenset("a"), frozenset("b")
    nothing = np.zeros((90, 1))
    table = {none: nothing, one: poor, other: nothing, both: good}
    shares = shapley_table(table, TRUTH, GROUPS, measure, **HOW)
    whole, _ = measure.difference(good, nothing, TRUTH, GROUPS, **HOW)
    assert sum(share.accuracy.value for share in shares) == pytest.approx(whole.value)


@pytest.mark.parametrize(("mean", "deviation"), [(1e9, 1.0), (-3.0, 1e-6), (0.0, 1e12)])
def test_r2_does_not_hang_on_unit_and_zero(mean: float, deviation: float) -> None:
    usual, answers, _ = measured()
    plain = usual.scores(answers, TRUTH, GROUPS, **HOW)["r2"]
    measure, good, _ = measured(mean, deviation)
    told = measure.scores(good, TRUTH, GROUPS, **HOW)["r2"]
    assert (told.value, told.low, told.high) == pytest.approx((plain.value, plain.low, plain.high), abs=1e-5)


def test_labels_that_are_equal_but_for_rounding_have_no_r2() -> None:
    measure, good, _ = measured(0.1, 1.0)
    equal = np.full(90, 0.2)
    assert math.isnan(measure.scores(good, equal, None, **HOW)["r2"].value)
    assert np.isnan(measure.right_rows(good, equal)).all()


@pytest.mark.parametrize(
    ("deviation", "number", "text"),
    [
        (30_000.0, 75_012.3, "75,012"), (30_000.0, 117_948.0, "117,948"), (5.0, 12.312, "12.31"), (5.0, 10.0, "10"),
        (1e-6, 2.344e-6, "2.34e-06"), (2.0, -0.001, "0.00"), (1.0, 3e12, "3e+12"),
    ],
)  # fmt: skip
def test_a_number_is_shown_as_finely_as_labels_vary(deviation: float, number: float, text: str) -> None:
    assert measure_of(Regression("y", 0.0, deviation)).shown(number) == text
