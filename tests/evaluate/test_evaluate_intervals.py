"""Intervals and paired tests: published values, a naive bootstrap, and coverage on simulated data."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.stats import t as student
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from fusetune.errors import UserError
from fusetune.evaluate import (
    Interval,
    bootstrap,
    mcnemar,
    means,
    paired_difference,
    proportion,
    score,
    score_with_intervals,
)
from fusetune.evaluate.bootstrap import clusters, drawn_counts, resampled_areas, resampled_f1, sampling
from fusetune.evaluate.intervals import wilson


def predictions(rows: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities with ties, labels, and groups of uneven size."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, rows)
    p = random.dirichlet(np.ones(classes), rows)
    p[np.arange(rows), labels] += 0.3
    return np.round(p / p.sum(axis=1, keepdims=True), 2), labels, random.integers(0, 12, rows) ** 2


def certain(decided: np.ndarray, classes: int = 2) -> np.ndarray:
    return np.eye(classes)[decided]


@pytest.mark.parametrize(
    ("right", "low", "high"), [(2928, 0.9624351889, 0.9748040147), (2592, 0.84509, 0.86999), (2588, 0.84372, 0.86871)]
)
def test_wilson_reference_values(right: int, low: float, high: float) -> None:
    digits = 1e-10 if right == 2928 else 1e-5
    assert wilson(right, 3021) == pytest.approx((low, high), abs=digits)


def test_accuracy_without_groups_has_the_wilson_interval() -> None:
    decided = np.repeat([0, 1], [93, 2928])
    interval = score_with_intervals(certain(decided), np.ones(3021, int), resamples=10)["accuracy"]
    assert (interval.low, interval.high) == pytest.approx((0.9624351889, 0.9748040147), abs=1e-10)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [(30, 15, 0.035697803555), (15, 0, 6.103515625e-05), (60, 45, 0.17156469715), (108, 93, 0.3234117939), (0, 0, 1.0)],
)
def test_mcnemar_reference_values(gained: int, lost: int, p: float) -> None:
    a = np.repeat([True, False, True, False], [gained, lost, 7, 5])
    b = np.repeat([False, True, True, False], [gained, lost, 7, 5])
    test = mcnemar(a, b)
    assert (test.gained, test.lost) == (gained, lost)
    assert test.p == pytest.approx(p, rel=1e-9)


def test_mcnemar_needs_the_same_rows() -> None:
    with pytest.raises(UserError, match="same rows"):
        mcnemar([True], [True, False])


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("classes", [2, 5])
def test_resampled_metrics_equal_scoring_the_drawn_rows(grouped: bool, classes: int) -> None:
    p, y, groups = predictions(40, classes)
    where = bootstrap.clusters(groups if grouped else None, len(y))
    found = bootstrap.resampled_metrics(p, y, where, resamples=25, seed=3)
    counts = np.concatenate(list(bootstrap.drawn_counts(where.count, len(y), 25, 3)), axis=1).astype(int)
    for draw in range(25):
        rows = np.repeat(np.arange(len(y)), counts[where.member, draw])
        for name, value in score(p[rows], y[rows]).items():
            assert found[name][draw] == pytest.approx(value, abs=1e-9)


def test_resamples_that_lose_all_classes_but_one_have_no_auroc() -> None:
    p, y = np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 1])
    area = bootstrap.resampled_metrics(p, y, bootstrap.clusters(None, 2), resamples=40, seed=0)["auroc"]
    assert np.isnan(area).any()
    assert (area[np.isfinite(area)] == 1.0).all()


def test_every_group_is_drawn_equally_often() -> None:
    counts = np.concatenate(list(bootstrap.drawn_counts(20, 1 << 18, 4000, 0)), axis=1)
    assert counts.shape == (20, 4000)
    assert (counts.sum(axis=0) == 20).all()
    assert counts.mean(axis=1) == pytest.approx(np.ones(20), abs=0.08)
    assert counts.var() == pytest.approx(0.95, abs=0.03)  # binomial with 20 trials of probability 1/20


def test_very_large_tests_use_fewer_resamples_for_auroc_only(monkeypatch: pytest.MonkeyPatch) -> None:
    p, y, groups = predictions(40, 3)
    monkeypatch.setattr(bootstrap, "_WORK", 1)
    found = bootstrap.resampled_metrics(p, y, bootstrap.clusters(groups, 40), resamples=500, seed=0)
    assert len(found["auroc"]) == 200
    assert len(found["nll"]) == 500


def test_same_seed_same_bounds() -> None:
    p, y, groups = predictions(60, 3)
    first = score_with_intervals(p, y, groups, resamples=200, seed=5)
    assert first == score_with_intervals(p, y, groups, resamples=200, seed=5)
    assert first != score_with_intervals(p, y, groups, resamples=200, seed=6)


def test_values_are_those_of_score_and_lie_within_their_bounds() -> None:
    p, y, groups = predictions(150, 4)
    for given in (groups, None):
        intervals = score_with_intervals(p, y, given, resamples=300)
        assert {name: found.value for name, found in intervals.items()} == score(p, y)
        assert all(found.low <= found.value <= found.high for found in intervals.values())


def test_group_values_only_need_to_differ() -> None:
    p, y, groups = predictions(60, 3)
    names = np.array([f"patient {group}" for group in groups], dtype=object)
    assert score_with_intervals(p, y, names, resamples=50) == score_with_intervals(p, y, groups, resamples=50)


def test_one_group_gives_values_without_bounds() -> None:
    p, y, _ = predictions(20, 3)
    same = np.zeros(20)
    for found in (score_with_intervals(p, y, same), paired_difference(p, p[::-1], y, same)):
        assert all(not interval.bounded and math.isfinite(interval.value) for interval in found.values())


def test_bounds_without_a_value_are_null_in_json() -> None:
    assert json.loads(json.dumps(Interval(0.5, math.nan, math.nan).as_dict())) == {
        "value": 0.5,
        "low": None,
        "high": None,
    }


def test_all_right_in_few_groups_is_not_certainty() -> None:
    y = np.zeros(100, int)
    groups = np.repeat(np.arange(10), 10)
    interval = score_with_intervals(certain(y), y, groups, resamples=50)["accuracy"]
    assert (interval.low, interval.high) == pytest.approx(wilson(10, 10))


def test_groups_of_equal_size_have_the_design_effect_of_their_means() -> None:
    # Kish 1965: for equal groups the variance of the share is that of the groups' own shares over their number.
    random = np.random.default_rng(2)
    shares = np.array([0.25, 0.5, 0.5, 0.75, 1.0, 1.0, 1.0, 0.75])
    right = np.concatenate([np.arange(12) < round(12 * share) for share in shares])
    groups = np.repeat(np.arange(8), 12)
    share = right.mean()
    rows, z = share * (1 - share) / (shares.var(ddof=1) / 8), student.ppf(0.975, 7)
    # Wilson's bounds solve (share - x)^2 = z^2 x (1 - x) / n.
    bounds = np.roots([1 + z * z / rows, -(2 * share + z * z / rows), share * share])
    order = random.permutation(len(right))
    found = proportion(right[order], groups[order])
    assert (found.low, found.high) == pytest.approx(tuple(sorted(bounds)))


def test_a_variance_that_one_group_carries_is_not_well_known() -> None:
    """Eleven small groups and a large one: the degrees of freedom of Satterthwaite 1946, group by group."""
    sizes = np.array([60, *[4] * 11])
    right = np.concatenate([np.arange(size) < hits for size, hits in zip(sizes, [15, *[3, 4, 2, 4] * 3], strict=False)])
    groups = np.repeat(np.arange(12), sizes)
    share = right.mean()
    sums = np.array([(right[groups == group] - share).sum() for group in range(12)])
    rows = share * (1 - share) / (12 / 11 * (sums**2).sum() / len(right) ** 2)
    freedom = 2 / (((sums**4).mean() / (sums**2).mean() ** 2 - 3) / 12 + 2 / 11)
    assert 2 < freedom < 4
    z = student.ppf(0.975, freedom)
    bounds = np.roots([1 + z * z / rows, -(2 * share + z * z / rows), share * share])
    found = proportion(right, groups)
    assert (found.low, found.high) == pytest.approx(tuple(sorted(bounds)))


def test_groups_that_vary_less_than_chance_are_no_more_rows_than_there_are() -> None:
    hits = [5, 5, 6, 4, 5, 5, 5, 5]  # of ten each: independent rows would vary four times as much
    right = np.concatenate([np.arange(10) < count for count in hits])
    found, (low, high) = proportion(right, np.repeat(np.arange(8), 10)), wilson(40, 80)
    assert found.low < low
    assert found.high > high


def test_a_proportion_of_nothing_has_no_value() -> None:
    assert math.isnan(proportion(np.array([], bool)).value)
    assert not proportion([True]).bounded


def test_columns_of_means_share_their_resamples() -> None:
    values, groups = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) // 3
    both = means(values, groups, resamples=100)
    assert both == [means(values[:, [k]], groups, resamples=100)[0] for k in range(2)]
    assert both[0].value == pytest.approx(values[:, 0].mean())


def test_wrong_number_of_groups_is_an_error() -> None:
    p, y, groups = predictions(20, 3)
    with pytest.raises(UserError, match="19 group values for 20 rows"):
        score_with_intervals(p, y, groups[1:])


def test_paired_difference_equals_a_naive_group_bootstrap() -> None:
    p, y, groups = predictions(60, 3)
    q = predictions(60, 3, seed=1)[0]
    found = paired_difference(p, q, y, groups, resamples=4000, seed=1)
    right = (p.argmax(axis=1) == y).astype(float) - (q.argmax(axis=1) == y)
    names, random, means = np.unique(groups), np.random.default_rng(0), []
    for _ in range(4000):
        drawn = random.choice(names, len(names))
        means.append(np.concatenate([right[groups == name] for name in drawn]).mean())
    assert found["accuracy"].value == pytest.approx(right.mean())
    assert found["nll"].value == pytest.approx(score(p, y)["nll"] - score(q, y)["nll"])
    # The bounds of 12 groups lie at the levels widened for Student's distribution: 1.0 % and 99.0 %.
    assert (found["accuracy"].low, found["accuracy"].high) == pytest.approx(
        np.quantile(means, [0.0107, 0.9893]), abs=0.02
    )


def test_equal_models_do_not_differ() -> None:
    p, y, groups = predictions(60, 3)
    assert paired_difference(p, p, y, groups)["accuracy"] == Interval(0.0, 0.0, 0.0)


def coverage(groups: int, grouped: bool, data_sets: int = 1000) -> float:
    """Share of simulated data sets whose accuracy interval contains the true accuracy of 0.75."""
    random = np.random.default_rng(7)
    caught = 0
    for _ in range(data_sets):
        sizes = random.integers(3, 12, groups)
        right = random.random(sizes.sum()) < np.repeat(random.beta(1.5, 0.5, groups), sizes)
        member = np.repeat(np.arange(groups), sizes)
        interval = proportion(right, member if grouped else None)
        caught += interval.low <= 0.75 <= interval.high
    return caught / data_sets


@pytest.mark.parametrize(("groups", "least"), [(12, 0.91), (50, 0.93)])
def test_group_intervals_cover_the_truth_and_row_intervals_do_not(groups: int, least: float) -> None:
    # 1,000 data sets leave a Monte-Carlo error of 0.7 points; a dozen groups of a skewed quantity cost a little more.
    assert least <= coverage(groups, grouped=True) <= 0.97
    assert coverage(groups, grouped=False) < 0.85


def test_calibration_error_of_a_calibrated_model_may_be_zero() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for data_set in range(100):
        p = random.dirichlet([1, 1, 1], 80)
        y = (random.random(80)[:, None] > p.cumsum(axis=1)).sum(axis=1)
        covered += score_with_intervals(p, y, resamples=200, seed=data_set)["ece"].low == 0.0
    assert covered >= 93


def test_calibration_error_of_a_boastful_model_is_not_zero() -> None:
    y = np.arange(200) % 2
    p = np.where(np.arange(200)[:, None] % 4 < 2, [0.99, 0.01], [0.01, 0.99])
    interval = score_with_intervals(p, y)["ece"]
    assert interval.low > 0.3
    assert interval.high > interval.value > interval.low


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("groups", [None, [0, 0, 1, 2, 2, 2, 3, 4, 5, 5, 6, 7]])
def test_resampled_scores_of_labels_are_those_of_scikit_learn(groups: list[int] | None, weighted: bool) -> None:
    """Ties, a label that nobody has, one that all have, and resamples in which some label is everywhere or nowhere."""
    random = np.random.default_rng(0)
    has = random.random((12, 5)) < [0.5, 0.2, 0.8, 0.0, 1.0]
    p = random.integers(1, 9, (12, 5)) / 10 + 0.05
    how = {"resamples": 30, "seed": 3}
    called, where = p > 0.5, clusters(sampling(groups, random.random(12) + 0.1 if weighted else None), 12)
    found = resampled_f1(called, has, where, **how) | resampled_areas(p, has, where, **how)
    (times,) = drawn_counts(where.count, 12, **how)
    for at, weights in enumerate(times.T[:, where.member] * where.own):
        for average in ("macro", "micro"):
            expected = f1_score(has, called, average=average, sample_weight=weights, zero_division=0)
            assert found[f"{average}_f1"][at] == pytest.approx(expected)
        drawn = weights > 0
        told = [k for k in range(5) if has[drawn, k].any() and not has[drawn, k].all()]
        for name, area in (("auroc", roc_auc_score), ("auprc", average_precision_score)):
            expected = [area(has[drawn, k], p[drawn, k], sample_weight=weights[drawn]) for k in told]
            assert found[name][at] == pytest.approx(np.mean(expected))
