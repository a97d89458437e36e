"""Risk-coverage against its definition, ties included; the worst class and group against counting."""

from __future__ import annotations

import numpy as np
import pytest

from fusetune.evaluate.intervals import GroupSpread
from fusetune.evaluate.selective import risk_coverage, worst


def predictions(rows: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    p = np.round(random.dirichlet(np.ones(3), rows), 1) + 1e-3
    return p / p.sum(axis=1, keepdims=True), random.integers(0, 3, rows)


def test_aurc_is_the_mean_error_at_every_rows_own_certainty() -> None:
    p, y = predictions()
    sure, wrong = p.max(axis=1), p.argmax(axis=1) != y
    expected = np.mean([wrong[sure >= level].mean() for level in sure])
    found = risk_coverage(p, y, resamples=100)
    assert found.aurc.value == pytest.approx(expected)
    assert found.aurc.low <= expected <= found.aurc.high


def test_the_order_of_rows_does_not_matter() -> None:
    p, y = predictions()
    order = np.random.default_rng(1).permutation(len(y))
    first, second = risk_coverage(p, y, resamples=100), risk_coverage(p[order], y[order], resamples=100)
    assert first.points == second.points
    assert first.aurc.value == pytest.approx(second.aurc.value)


def test_the_best_area_has_all_errors_last() -> None:
    y = np.array([0, 0, 0, 1])
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    found = risk_coverage(p, y, resamples=100)
    assert found.best == found.aurc.value == pytest.approx((0 + 0 + 0 + 0.25) / 4)
    assert found.points[-1].coverage == 1.0
    assert found.points[-1].error.value == 0.25
    assert found.points[4].error.value == 0.0


def test_one_group_has_no_interval() -> None:
    p, y = predictions()
    assert risk_coverage(p, y, np.zeros(40), resamples=100).aurc.bounded is False


def test_the_worst_are_the_lowest_of_the_large_enough() -> None:
    y = np.repeat([0, 1, 2], [20, 20, 4])
    p = np.eye(3)[np.where(np.arange(44) % 2 == 0, y, (y + 1) % 3)]
    p[y == 0] = np.eye(3)[0]
    p[y == 2] = np.eye(3)[0]
    groups = np.array([f"g{k}" for k in np.arange(44) // 11])
    found = worst(p, y, ["a", "b", "c"], groups)
    assert found.class_ is not None
    assert found.group is not None
    assert found.class_.name == "b"  # c is worse, but has four rows
    assert found.class_.accuracy.value == 0.5
    assert (found.class_.judged, found.class_.of) == (2, 3)
    shares = [(p.argmax(axis=1) == y)[groups == f"g{k}"].mean() for k in range(4)]
    assert found.group.accuracy.value == pytest.approx(min(shares))
    assert found.group.name == f"g{int(np.argmin(shares))}"
    assert found.groups == GroupSpread(4, pytest.approx(np.mean(shares)), pytest.approx(np.quantile(shares, 0.1)))
    assert worst(p[:5], y[:5], ["a", "b", "c"]).groups is None
    assert worst(p[:5], y[:5], ["a", "b", "c"]).group is None
    assert worst(p[:5], y[:5], ["a", "b", "c"]).class_ is None
