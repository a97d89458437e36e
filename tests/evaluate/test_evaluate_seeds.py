from __future__ import annotations

import numpy as np
import pytest

from fusetune.errors import UserError
from fusetune.evaluate.bootstrap import clusters, resampled_means
from fusetune.evaluate.intervals import proportion
from fusetune.evaluate.seeds import crossed_draws, crossed_mean, crossed_share


def scores(seeds: int, rows: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(seeds, rows))


@pytest.mark.parametrize("grouped", [False, True])
def test_one_seed_is_the_plain_bootstrap(grouped: bool) -> None:
    values, groups = scores(1, 40), np.arange(40) // 3 if grouped else None
    draws = crossed_draws(values, groups, resamples=300, seed=5)
    plain = resampled_means(values.T, clusters(groups, 40), resamples=300, seed=5)[:, 0]
    np.testing.assert_allclose(draws, plain, atol=1e-5)


def test_rows_and_seeds_both_vary() -> None:
    """Variances add: of means over groups, and of means over seeds."""
    generator = np.random.default_rng(0)
    by_row, by_seed = generator.normal(size=(1, 200)), generator.normal(size=(8, 1))
    both = crossed_draws(by_row + by_seed, resamples=8000).var()
    rows, seeds = crossed_draws(by_row + 0 * by_seed, resamples=8000).var(), by_seed.var() / 8
    assert both == pytest.approx(rows + seeds, rel=0.1)
    assert rows == pytest.approx(by_row.var() / 200, rel=0.1)


def test_what_is_compared_sees_the_same_draws() -> None:
    one, other = scores(4, 30), scores(4, 30) + 1
    np.testing.assert_allclose(crossed_draws(other) - crossed_draws(one), 1)


def test_shares_of_one_training_have_wilsons_interval_and_of_several_never_a_narrower_one() -> None:
    hits = np.random.default_rng(1).random((5, 60)) < 0.9
    groups = np.arange(60) // 4
    assert crossed_share(hits[:1], groups) == proportion(hits[0], groups)
    found = crossed_share(hits, groups)
    assert found.value == pytest.approx(hits.mean())
    plain = proportion(hits.ravel(), np.tile(groups, 5))
    assert found.low <= plain.low
    assert found.high >= plain.high
    sure = crossed_share(np.ones((3, 12), dtype=bool))  # all right: the bootstrap alone would be certain
    assert sure.low < 0.85


def test_one_group_has_no_interval_and_wrong_shapes_are_refused() -> None:
    assert not crossed_mean(scores(2, 5), np.zeros(5)).bounded
    with pytest.raises(UserError, match=r"scores must be \[seeds, rows\]"):
        crossed_draws(np.zeros(3))
