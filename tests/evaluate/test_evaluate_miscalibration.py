"""Miscalibration is what is left without chance: nothing for a right certainty, all of it for a wrong one."""

from __future__ import annotations

import numpy as np
import pytest

from fusetune.evaluate.metrics import ece
from fusetune.evaluate.miscalibration import miscalibration


def drawn(rows: int, off: float, seed: int, alike: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two classes; the model is right `off` less often than it says, and rows of a group are right together."""
    random = np.random.default_rng(seed)
    sure = np.repeat(random.uniform(0.6, 0.95, rows // alike), alike)
    right = np.repeat(random.random(rows // alike), alike) < sure - off
    p = np.stack([sure, 1 - sure], 1)
    return p, np.where(right, 0, 1), np.repeat(np.arange(rows // alike), alike)


@pytest.mark.parametrize("alike", [1, 5], ids=["rows", "groups of five"])
def test_a_right_certainty_is_seldom_called_off(alike: int) -> None:
    found = [miscalibration(*drawn(300, 0.0, seed, alike), seed=seed) for seed in range(120)]
    assert all(one is not None for one in found)
    assert 0 <= sum(one.shown for one in found if one) <= 15  # 6 expected; above 15 once in 1,500
    assert np.mean([one.plain for one in found if one]) > 0.03  # and the plain error calls it off every time
    assert np.median([one.error.value for one in found if one]) < 0.02


def test_rows_that_are_right_together_need_their_groups() -> None:
    blind = [miscalibration(p, y, None) for p, y, _ in (drawn(300, 0.0, seed, 10) for seed in range(40))]
    assert sum(one.shown for one in blind if one) > 12  # as if there were ten times as many rows


def test_a_wrong_certainty_is_measured() -> None:
    found = [miscalibration(*drawn(1000, 0.15, seed)) for seed in range(20)]
    assert all(one is not None and one.shown for one in found)
    assert np.mean([one.error.value for one in found if one]) == pytest.approx(0.15, abs=0.01)
    assert sum(one.error.low <= 0.15 <= one.error.high for one in found if one) >= 16


def test_the_error_is_that_of_a_loop() -> None:
    p, y, groups = drawn(60, 0.1, 3, 3)
    gaps, place = (p.argmax(1) == y) - p.max(1), np.minimum((p.max(1) * 15).astype(int), 14)
    square = 0.0
    for b in range(15):
        names = sorted(set(groups[place == b]))
        if len(names) < 2:
            continue
        sums = [gaps[(place == b) & (groups == g)].sum() for g in names]
        cross = sum(sums[i] * sums[j] for i in range(len(sums)) for j in range(len(sums)) if i != j)
        square += cross * len(names) / (len(names) - 1) / (place == b).sum() / len(y)
    found = miscalibration(p, y, groups)
    assert found is not None
    assert found.error.value == pytest.approx(max(0.0, square) ** 0.5, abs=1e-12)
    assert found.plain == pytest.approx(ece(p, y), abs=1e-12)


def test_one_group_says_nothing() -> None:
    p, y, _ = drawn(30, 0.1, 0)
    assert miscalibration(p, y, np.zeros(30)) is None
