"""Conformal sets: thresholds by hand, the definition of APS, coverage on simulated rows and groups."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fusetune.errors import UserError
from fusetune.evaluate.conformal import (
    LEVELS,
    OTHER,
    Conformal,
    PatternCoverage,
    chance,
    fit_conformal,
    judge_sets,
    patterns,
    quantile,
    scores,
    sets_at,
)


def simulated(rows: int, seed: int, classes: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities that are true, labels drawn from them, and row keys."""
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.full(classes, 0.4), rows)
    y = (random.random(rows)[:, None] > p.cumsum(axis=1)).sum(axis=1).clip(0, classes - 1)
    return p, y, random.integers(0, 2**62, rows)


def test_quantile_is_the_stated_order_statistic() -> None:
    values = np.random.default_rng(0).permutation(np.arange(1.0, 20))
    assert quantile(values, coverage=0.9) == math.ceil(20 * 0.9)
    assert quantile(values, coverage=0.5) == 10
    assert quantile(values[:8], coverage=0.9) == math.inf  # 8 rows cannot promise 90 %
    assert quantile(np.array([])) == math.inf


def test_groups_weigh_the_same_whatever_their_size() -> None:
    # Weights: 1/5 each for four groups and for the new row; the large group has 1/5 for its ten rows together.
    values, groups = np.array([1.0, 2, 3, *range(10, 20)]), np.array([0, 1, 2, *[3] * 10])
    assert quantile(values, groups, coverage=0.6) == 3
    assert quantile(values, groups, coverage=0.7) == 14
    assert quantile(values, groups, coverage=0.9) == math.inf


def test_aps_adds_up_likelier_classes_and_a_share_of_its_own() -> None:
    p, u = np.array([[0.2, 0.5, 0.3]]), np.array([0.25])
    assert scores("aps", p, u)[0] == pytest.approx([0.8 + 0.25 * 0.2, 0.25 * 0.5, 0.5 + 0.25 * 0.3])
    assert scores("lac", p, u)[0] == pytest.approx([0.8, 0.5, 0.7])


def test_the_same_row_has_the_same_chance_whatever_its_company() -> None:
    keys = np.arange(50)
    assert chance(keys, 1)[7] == chance(keys[7:8], 1)[0]
    assert chance(keys, 1)[7] != chance(keys, 2)[7]


def test_patterns_name_what_is_there() -> None:
    has = {"image": np.array([True, True, False]), "text": np.array([True, False, False])}
    assert patterns(has).tolist() == ["image + text", "image", "nothing"]


@pytest.mark.parametrize("method", ["lac", "aps"])
def test_sets_cover_new_rows_as_stated(method: str) -> None:
    held = []
    for seed in range(60):
        p, y, keys = simulated(700, seed)
        pattern = np.array(["all"] * 200)
        learnt = fit_conformal(p[:200], y[:200], keys[:200], pattern)
        held.append(learnt.sets(method, p[200:], keys[200:])[np.arange(500), y[200:]].mean())
    # 60 times 200 calibration and 500 judged rows: a standard error of 0.33 points.
    assert np.mean(held) == pytest.approx(0.9, abs=0.01)


def test_mondrian_sets_cover_every_pattern_and_pooled_ones_do_not() -> None:
    pooled, own = [], []
    for seed in range(60):
        p, y, keys = simulated(1200, seed)
        pattern = np.where(np.arange(1200) % 4 == 0, "text", "image + text")
        hard = pattern == "text"
        y[hard] = np.random.default_rng(seed).integers(0, 5, hard.sum())  # without the image the model knows nothing
        learnt = fit_conformal(p[:400], y[:400], keys[:400], pattern[:400])
        late = np.flatnonzero(hard & (np.arange(1200) >= 400))
        pooled.append(learnt.sets("lac", p[late], keys[late])[np.arange(len(late)), y[late]].mean())
        own.append(learnt.sets("lac", p[late], keys[late], pattern[late])[np.arange(len(late)), y[late]].mean())
    assert np.mean(own) == pytest.approx(0.9, abs=0.015)
    assert np.mean(pooled) < 0.85


def test_a_pattern_of_few_rows_promises_nothing_it_cannot_keep() -> None:
    p, y, keys = simulated(105, 0)
    pattern = np.array(["image"] * 100 + ["text"] * 5)
    learnt = fit_conformal(p, y, keys, pattern)
    assert set(learnt.by_pattern["lac"]) == {"image", OTHER}
    assert learnt.by_pattern["lac"][OTHER] == math.inf
    assert learnt.sets("lac", p, keys, np.array(["never seen"] * 105)).all()


def test_groups_are_covered_where_rows_taken_as_independent_are_not() -> None:
    grouped, naive = [], []
    for seed in range(300):
        random = np.random.default_rng(seed)
        sizes = np.where(np.arange(30) < 2, 60, 2)
        member = np.repeat(np.arange(30), sizes)
        values = random.normal(size=30)[member] + 0.1 * random.normal(size=len(member))
        new = random.normal() + 0.1 * random.normal()
        grouped.append(new <= quantile(values, member))
        naive.append(new <= quantile(values))
    assert 0.89 <= np.mean(grouped) <= 0.96  # never below 90 %, and above it by at most one group's weight
    assert np.mean(naive) < 0.87


def test_facts_of_sets_equal_counting() -> None:
    p, y, keys = simulated(60, 1)
    learnt = Conformal({"lac": 0.5, "aps": 0.5}, {m: {OTHER: 0.5} for m in ("lac", "aps")})
    groups, pattern = np.arange(60) // 6, np.array(["a", "b"] * 30)
    judged = judge_sets(learnt, p, y, keys, pattern, groups)
    assert judged is not None
    lac = next(row for row in judged.sets if row.method == "lac" and not row.mondrian)
    sets = p >= 0.5
    held = sets[np.arange(60), y]
    assert lac.coverage.value == pytest.approx(held.mean())
    assert lac.size.value == pytest.approx(sets.sum() / 60)
    assert lac.empty == pytest.approx((sets.sum(axis=1) == 0).mean())
    assert lac.by_pattern["b"] == PatternCoverage(30, pytest.approx(held[1::2].mean()))
    assert lac.by_group is not None
    assert lac.by_group.mean == pytest.approx(held.reshape(10, 6).mean())
    assert len(judged.sets) == 4


def test_any_coverage_takes_the_next_learnt_threshold() -> None:
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.ones(4), 400)
    labels = np.array([rng.choice(4, p=row) for row in p])
    pattern = np.where(np.arange(400) % 4 > 0, "a + b", "a")
    found = fit_conformal(p, labels, np.arange(400), pattern)
    for coverage in (0.5, 0.8, 0.9, 0.951, 0.99):
        level = next(level for level in LEVELS if level >= coverage)
        for name, limit in found.at(coverage).items():
            here = pattern == name if name != OTHER else ~np.isin(pattern, ["a", "a + b"])
            exact = quantile((1 - p[np.arange(400), labels])[here], None, level)
            assert limit == pytest.approx(exact, abs=2e-9)
            assert limit >= exact  # rounded up: never less than promised
        inside = sets_at(found, coverage, p, pattern)[np.arange(400), labels]
        assert inside.mean() >= coverage
    with pytest.raises(UserError, match=r"0\.5 to 0\.999"):
        found.at(0.4)
    old = Conformal(found.pooled, found.by_pattern)
    assert old.at(0.9) == found.by_pattern["lac"]
    with pytest.raises(UserError, match=r"for 0\.9 only"):
        old.at(0.8)
    with pytest.raises(UserError, match="no thresholds"):
        Conformal().at(0.9)


def test_promised_coverage_is_kept_on_new_groups_at_other_levels() -> None:
    rng, covered = np.random.default_rng(4), {0.7: list[float](), 0.95: list[float]()}
    for _ in range(60):
        shift = rng.normal(0, 1, 80)  # rows of a group share a shift
        member = np.repeat(np.arange(80), 4)
        score = rng.random(320)
        chance = 1 / (1 + np.exp(-(rng.normal(0, 1, 320) + shift[member])))
        p, labels = np.c_[chance, 1 - chance], (score > chance).astype(int)
        known = member < 60
        rows = np.full(320, "a")
        found = fit_conformal(p[known], labels[known], np.arange(known.sum()), rows[known], member[known])
        for coverage, means in covered.items():
            inside = sets_at(found, coverage, p[~known], rows[~known])[np.arange((~known).sum()), labels[~known]]
            means.append(inside.mean())
    for coverage, means in covered.items():
        assert np.mean(means) >= coverage - 0.02
