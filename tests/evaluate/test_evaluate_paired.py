"""Paired tests against enumeration, Holm against a worked example, and p-values under the null."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from fusetune.evaluate import holm, mcnemar, paired, permutation_test


def test_permutation_equals_trying_every_swap() -> None:
    a = np.array([1, 1, 0, 1, 1, 0, 1, 1, 1, 1.0])
    b = np.array([0, 1, 1, 0, 0, 0, 1, 0, 0, 1.0])
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    seen = abs(a.mean() - b.mean())
    far = []
    for swap in product([False, True], repeat=5):
        swapped = np.array(swap)[groups]
        far.append(abs(np.where(swapped, b, a).mean() - np.where(swapped, a, b).mean()) >= seen - 1e-12)
    assert permutation_test(a - b, groups) == pytest.approx(np.mean(far))


def test_without_groups_it_is_mcnemar() -> None:
    difference = np.repeat([1.0, -1.0, 0.0], [8, 2, 30])
    assert permutation_test(difference) == pytest.approx(mcnemar(difference > 0, difference < 0).p)


def test_random_swaps_come_close_to_all_swaps() -> None:
    sums = np.random.default_rng(3).normal(0.4, 1, 14)
    signs = np.array(list(product([1, -1], repeat=14)))
    exact = (np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9).mean()
    assert permutation_test(sums, draws=20_000) == pytest.approx(exact, abs=0.01)


def test_no_difference_is_no_evidence_and_p_is_never_zero() -> None:
    assert permutation_test(np.zeros(20)) == 1.0
    assert permutation_test(np.ones(200), draws=99) == 0.01


def test_rows_of_one_group_are_no_independent_evidence() -> None:
    difference, groups = np.ones(30), np.repeat([0, 1, 2], 10)
    assert mcnemar(difference > 0, difference < 0).p < 1e-6
    assert permutation_test(difference, groups) == 0.25  # two of the eight ways to swap three groups


def test_holm_of_a_worked_example() -> None:
    # 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1 raised to the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_p_values_under_the_null_are_uniform_or_cautious() -> None:
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 5)
    continuous, rows, naive = [], [], []
    for seed in range(400):
        # The models take turns in being better on a group, with equal chances.
        by_group = random.normal(size=40)[groups] + random.normal(size=200)
        continuous.append(permutation_test(by_group, groups, draws=199, seed=seed))
        flips = np.where(random.random(40) < 0.5, 1, -1)[groups] * (random.random(200) < 0.3)
        naive.append(mcnemar(flips > 0, flips < 0).p)
        alone = np.where(random.random(200) < 0.5, 1, -1) * (random.random(200) < 0.3)
        rows.append(mcnemar(alone > 0, alone < 0).p)
    # 400 data sets: the share below 0.05 has a standard deviation of 1.1 points, below 0.5 one of 2.5.
    assert np.mean(np.array(continuous) <= 0.05) == pytest.approx(0.05, abs=0.035)
    assert np.mean(np.array(continuous) <= 0.5) == pytest.approx(0.5, abs=0.075)
    assert np.mean(np.array(rows) <= 0.05) <= 0.06  # an exact test of whole numbers is cautious
    assert np.mean(np.array(naive) <= 0.05) > 0.12  # rows that are not independent, taken as if they were


def test_of_many_groups_the_total_is_as_good_as_normal(monkeypatch: pytest.MonkeyPatch) -> None:
    difference = np.random.default_rng(0).exponential(1.0, 6000) - 0.985
    many = permutation_test(difference)
    monkeypatch.setattr(paired, "_MANY", 10**9)
    assert 0.01 < many < 0.9
    assert many == pytest.approx(permutation_test(difference), abs=0.02)
