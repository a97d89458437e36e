"""Distances to training rows against a loop, and their shares: valid for rows and groups, low where they should be."""

from __future__ import annotations

import numpy as np
import pytest

from fusetune.evaluate.likeness import NEIGHBOURS, WIDTH, Likeness, some_rows

RNG = np.random.default_rng(0)


def learnt(dim: int, train: int = 60, held: int = 40, groups: bool = False) -> Likeness:
    member = np.arange(held) // 4 if groups else None
    found = Likeness.learn(RNG.normal(size=(train, dim)), RNG.normal(size=(held, dim)), member)
    assert found is not None
    return found


def test_distances_are_those_of_a_loop() -> None:
    train, held, new = RNG.normal(2, 3, (50, 4)), RNG.normal(2, 3, (20, 4)), RNG.normal(2, 3, (7, 4))
    one = Likeness.learn(train, held, None)
    assert one is not None
    deviation = train.std(0)
    scale = deviation + 0.1 * np.sqrt((deviation**2).mean())
    for row, distance in zip(new, one.distances(new), strict=True):
        away = np.sort([np.linalg.norm((row - known) / scale) for known in train])[:NEIGHBOURS].mean()
        assert distance == pytest.approx(away, rel=2e-3)  # rows are kept in half precision
    for distance, share in zip(one.distances(new), one.shares(one.distances(new)), strict=True):
        assert share == pytest.approx((1 + (one.far >= distance).sum()) / (1 + len(held)))


def test_every_group_weighs_the_same() -> None:
    one = Likeness.learn(RNG.normal(size=(30, 3)), RNG.normal(size=(6, 3)), np.array(["a", "a", "a", "a", "b", "c"]))
    assert one is not None
    far = float(np.sort(one.far)[0]) - 1e-3
    assert one.shares(np.array([far], np.float32))[0] == pytest.approx(1)
    assert one.shares(np.array([1e9], np.float32))[0] == pytest.approx(1 / 4)
    assert one.weight.sum() == pytest.approx(3)


@pytest.mark.parametrize("dim", [5, WIDTH, 700])
def test_shares_of_rows_like_the_held_out_ones_are_uniform(dim: int) -> None:
    found = []
    for _ in range(25):
        one = learnt(dim)
        found += one.shares(one.distances(RNG.normal(size=(40, dim)))).tolist()
    for level in (0.1, 0.25, 0.5):
        assert np.mean(np.array(found) <= level) == pytest.approx(level, abs=0.06)


@pytest.mark.parametrize("dim", [5, 700])
def test_a_row_of_another_kind_is_farther_than_all(dim: int) -> None:
    one = learnt(dim)
    shares = one.shares(one.distances(RNG.normal(3, 1, size=(20, dim))))
    assert (shares <= one.limit).all()
    assert shares == pytest.approx(1 / 41)


def test_a_feature_that_never_varied_counts_when_it_does() -> None:
    train, held = np.c_[RNG.normal(size=(40, 3)), np.ones(40)], np.c_[RNG.normal(size=(30, 3)), np.ones(30)]
    one = Likeness.learn(train, held, None)
    assert one is not None
    odd = np.array([[0.0, 0.0, 0.0, 9.0]])
    assert one.shares(one.distances(odd))[0] <= one.limit


def test_one_length_leaves_directions() -> None:
    train, held = RNG.normal(5, 1, (40, 6)), RNG.normal(5, 1, (30, 6))
    one = Likeness.learn(train, held, None, unit=True)
    assert one is not None
    new = RNG.normal(5, 1, (4, 6))
    np.testing.assert_allclose(one.distances(new), one.distances(100 * new), rtol=1e-4)
    assert one.shares(one.distances(np.array([[9.0, -9, 9, -9, 9, -9]])))[0] <= one.limit
    again = Likeness.read(one.arrays(), 6)
    np.testing.assert_array_equal(again.distances(new), one.distances(new))
    assert np.isfinite(one.distances(np.zeros((1, 6)))).all()


def test_it_takes_rows_of_both_kinds() -> None:
    assert Likeness.learn(RNG.normal(size=(NEIGHBOURS, 2)), RNG.normal(size=(9, 2)), None) is None
    assert Likeness.learn(RNG.normal(size=(9, 2)), np.zeros((0, 2)), None) is None


@pytest.mark.parametrize(
    "harm",
    [
        {"mean": np.zeros(4)},
        {"scale": np.zeros(5)},
        {"rows": np.full((60, 5), np.nan)},
        {"rows": np.zeros((2, 5))},
        {"far": np.zeros(0), "weight": np.zeros(0)},
        {"weight": -np.ones(40)},
        {"far": np.full(40, np.inf)},
    ],
)
def test_what_cannot_have_been_learnt_is_refused(harm: dict[str, np.ndarray]) -> None:
    arrays = learnt(5).arrays()
    assert Likeness.read(arrays, 5).far.shape == (40,)
    with pytest.raises(ValueError, match="distances"):
        Likeness.read(arrays | harm, 5)


def test_some_rows_do_not_hang_on_the_order_of_the_table() -> None:
    keys = RNG.integers(-(2**62), 2**62, 100)
    rows = np.arange(100)
    assert set(keys[some_rows(rows, keys, 10)]) == set(keys[::-1][some_rows(rows, keys[::-1], 10)])
    assert len(some_rows(rows[:4], keys, 10)) == 4
