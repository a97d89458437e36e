"""Temperature scaling: what it finds, when it is left alone, and that no row is scored by a choice it took part in."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fusetune.evaluate import metrics
from fusetune.evaluate.temperature import calibrate, crossfit, fit_temperature, softmax


def told(rows: int, sharpness: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `sharpness` times the true ones, and labels."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (rows, 3))
    y = (random.random(rows)[:, None] > softmax(logits).cumsum(axis=1)).sum(axis=1).clip(0, 2)
    return sharpness * logits, y


def test_an_overconfident_model_is_cooled() -> None:
    logits, y = told(600, 3.0)
    heat, rows = calibrate(logits, y, np.arange(600) % 5)
    assert heat.applied
    assert heat.value == pytest.approx(3.0, rel=0.15)
    assert heat.after < heat.before
    assert heat.before == pytest.approx(metrics.nll(softmax(logits), y))
    assert rows == pytest.approx(np.full(600, 3.0), rel=0.25)
    p = softmax(logits, heat.value)
    assert (p.argmax(axis=1) == logits.argmax(axis=1)).all()
    assert metrics.ece(p, y) < metrics.ece(softmax(logits), y)


def test_a_calibrated_model_is_nearly_always_left_alone() -> None:
    applied = 0
    for seed in range(60):
        logits, y = told(100, 1.0, seed)
        heat, rows = calibrate(logits, y, np.arange(100) % 5)
        applied += heat.applied
        assert heat.value == 1.0 or heat.applied
        assert heat.applied or (rows == 1).all()
    assert applied <= 9


def test_one_group_cannot_tell() -> None:
    logits, y = told(40, 3.0)
    heat, rows = calibrate(logits, y, np.zeros(40, int))
    assert not heat.applied
    assert math.isnan(heat.after)
    assert (rows == 1).all()


@pytest.mark.parametrize("grouped", [True, False])
def test_the_error_of_a_temperature_is_that_of_whole_groups(grouped: bool) -> None:
    logits, y = told(300, 3.0)
    groups = np.arange(300) // 12 if grouped else None
    heat, rows = calibrate(logits, y, np.arange(300) // 12 % 5, groups)
    assert heat.applied
    change = metrics.nll_rows(softmax(logits / rows[:, None]), y) - metrics.nll_rows(softmax(logits), y)
    units = np.arange(300) if groups is None else groups
    sums = [sum(change[row] - change.mean() for row in np.flatnonzero(units == unit)) for unit in np.unique(units)]
    variance = len(sums) / (len(sums) - 1) * sum(value**2 for value in sums)
    assert heat.error == pytest.approx(math.sqrt(variance) / 300)


@pytest.mark.parametrize("right", [3, 5, 40])
def test_a_few_rows_that_are_all_right_do_not_make_certainty_endless(right: int) -> None:
    """Against trying every temperature: the loss of the rows and (ln T)^2 / (2 * 0.5^2)."""
    logits, y = np.tile([2.0, 0.0], (right, 1)), np.zeros(right, int)
    tried = np.linspace(-3, 3, 60_001)
    losses = right * np.log1p(np.exp(-2.0 / np.exp(tried))) + tried**2 / (2 * 0.5**2)
    found = fit_temperature(logits, y)
    assert found == pytest.approx(np.exp(tried[losses.argmin()]), abs=1e-3)
    assert found > 0.3


def test_each_fold_gets_what_the_others_choose() -> None:
    y = np.array([0, 0, 1, 1])
    good, bad = np.array([[3.0, 0], [3, 0], [0, 3], [0, 3]]), np.array([[0.0, 3], [0, 3], [3, 0], [3, 0]])
    # The first candidate is right on fold 0 only, the second on fold 1 only: each fold gets the one that fails it.
    first, second = np.concatenate([good[:2], bad[2:]]), np.concatenate([bad[:2], good[2:]])
    assert crossfit([first, second], y, np.array([0, 0, 1, 1])).tolist() == bad.tolist()


def test_choosing_on_the_same_rows_flatters_and_crossfitting_does_not() -> None:
    flattered, honest = [], []
    for seed in range(200):
        random = np.random.default_rng(seed)
        y = random.integers(0, 2, 40)
        tried = [random.normal(size=(40, 2)) for _ in range(10)]  # none knows anything; all are equally good
        expected = np.mean([metrics.nll(softmax(logits), y) for logits in tried])
        flattered.append(min(metrics.nll(softmax(logits), y) for logits in tried) - expected)
        honest.append(metrics.nll(softmax(crossfit(tried, y, np.arange(40) % 5)), y) - expected)
    assert np.mean(flattered) < -0.1
    assert abs(np.mean(honest)) < 0.03
