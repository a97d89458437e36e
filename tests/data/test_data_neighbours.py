"""The nearest numbered training row of the same group."""

from __future__ import annotations

import numpy as np

from fusetune.data.neighbours import nearest_numbers


def test_nearest_numbers_stay_in_their_group() -> None:
    groups, order = np.array([0, 0, 0, 1, 1]), np.array([1.0, 4.0, 9.0, 2.0, 100.0])
    nearest, distance = nearest_numbers(groups, order, np.array([1, 3]), np.array([0, 2, 4]))
    assert nearest.tolist() == [0, 4]
    assert distance.tolist() == [3.0, 98.0]


def test_nearest_numbers_equal_a_search_by_hand() -> None:
    generator = np.random.default_rng(0)
    groups = generator.integers(0, 4, 60)
    order = generator.permutation(60).astype(np.float64) * 3
    train, test = np.arange(0, 60, 2), np.arange(1, 60, 2)
    nearest, distance = nearest_numbers(groups, order, test, train)
    for row, neighbour, away in zip(test, nearest, distance, strict=True):
        same = train[groups[train] == groups[row]]
        gaps = np.abs(order[same] - order[row])
        assert away == gaps.min()
        # The lower of two that are as near.
        assert order[neighbour] == order[same][gaps == gaps.min()].min()
        assert groups[neighbour] == groups[row]
