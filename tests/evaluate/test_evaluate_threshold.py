"""Thresholds for an aim: against trying all of them, the four rates against counting, and wrong aims."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import f1_score

from fusetune.errors import ConfigError
from fusetune.evaluate import proportion
from fusetune.evaluate.threshold import (
    EVEN,
    choose_threshold,
    f1_helps,
    judge_threshold,
    label_aims,
    parse_aim,
    positive_class,
)


def rates(called: np.ndarray, positive: np.ndarray) -> dict[str, float]:
    hit, miss = (called & positive).sum(), (~called & positive).sum()
    false, clear = (called & ~positive).sum(), (~called & ~positive).sum()
    with np.errstate(invalid="ignore"):
        return {
            "sensitivity": hit / (hit + miss), "specificity": clear / (clear + false),
            "ppv": np.divide(hit, hit + false), "npv": np.divide(clear, clear + miss),
        }  # fmt: skip


@pytest.mark.parametrize(("rate", "other"), [
    ("sensitivity", "specificity"), ("specificity", "sensitivity"), ("ppv", "sensitivity"), ("npv", "specificity"),
])  # fmt: skip
def test_the_aim_is_reached_at_the_least_cost(rate: str, other: str) -> None:
    random = np.random.default_rng(4)
    positive = random.random(80) < 0.4
    p = np.round(random.normal(0.35 + 0.3 * positive, 0.2).clip(0, 1), 2)
    threshold = choose_threshold(f"{rate} >= 0.85", p, positive)
    assert threshold is not None
    chosen = rates(p >= threshold, positive)
    assert chosen[rate] >= 0.85
    every = [rates(p >= limit, positive) for limit in np.append(np.unique(p), 1.1)]
    assert chosen[other] == max(row[other] for row in every if row[rate] >= 0.85)


def test_the_largest_f1_is_that_of_trying_all() -> None:
    random = np.random.default_rng(6)
    for _ in range(20):
        positive = random.random(60) < 0.3
        p = np.round(random.normal(0.3 + 0.2 * positive, 0.2).clip(0, 1), 2)
        threshold = choose_threshold("f1", p, positive)
        assert threshold is not None
        every = [f1_score(positive, p >= limit, zero_division=0) for limit in np.append(np.unique(p), 1.1)]
        assert f1_score(positive, p >= threshold, zero_division=0) == pytest.approx(max(every))
    assert choose_threshold("f1", p, np.zeros(60, bool)) is None
    assert choose_threshold("even odds", p, positive) == EVEN
    assert choose_threshold("f1", np.array([0.9, 0.8, 0.2, 0.1]), np.array([True, True, False, False])) == EVEN


def test_f1_takes_the_place_of_even_odds_only_where_rows_that_did_not_choose_it_show_it() -> None:
    random, folds = np.random.default_rng(8), np.arange(120) % 4
    y = random.random(120) < 0.2
    p = 0.05 + 0.3 * y + 0.1 * random.random(120)  # never more probable than not, and known well
    assert f1_helps(p, y, folds)
    assert not f1_helps(p, y, np.zeros(120)), "one fold has no others that could choose for it"
    helped = better = 0
    for seed in range(25):  # even odds are best for a usual label: a threshold of few rows is noise that suits them
        random = np.random.default_rng(seed)
        p = expit(3 * random.normal(size=120))
        y = random.random(120) < p
        limit = choose_threshold("f1", p, y)
        better += f1_score(y, p >= limit) > f1_score(y, p >= EVEN)
        helped += f1_helps(p, y, folds)
    assert better >= 20
    assert helped <= 8


def test_f1_must_help_whole_groups() -> None:
    """In every other group a lower threshold finds what even odds miss, elsewhere what is not there."""
    p = np.tile([[0.4, 0.2], [0.9, 0.4]], (6, 10)).ravel()
    y = np.tile([[True, False], [True, False]], (6, 10)).ravel()
    groups = np.repeat(np.arange(12), 20)
    assert f1_helps(p, y, groups // 4)
    assert not f1_helps(p, y, groups // 4, groups)


def test_aims_of_labels() -> None:
    names = ["arm", "head"]
    assert label_aims(None, names) == ["f1 where it helps"] * 2
    assert label_aims("f1", names) == ["f1", "f1"]
    assert label_aims({"head": "ppv >= 0.8"}, names) == ["f1 where it helps", "ppv >= 0.8"]
    with pytest.raises(ConfigError, match=r"'hed' is no label.*did you mean 'head'.*arm, head"):
        label_aims({"hed": "f1"}, names)
    with pytest.raises(ConfigError, match=r"'best' must read like.*of labels also f1, even odds"):
        label_aims({"head": "best"}, names)
    with pytest.raises(ConfigError, match=r"evaluate\.aim names arm, as for labels"):
        positive_class({"arm": "f1"}, None, names)


def test_an_aim_out_of_reach_has_no_threshold() -> None:
    assert choose_threshold("ppv >= 0.9", np.array([0.9, 0.2, 0.3]), np.array([False, True, False])) is None


def test_rates_and_counts_equal_counting() -> None:
    random = np.random.default_rng(1)
    p, positive, groups = random.random(60), random.random(60) < 0.5, np.arange(60) // 4
    found, called = judge_threshold(0.4, p, positive, groups), p >= 0.4
    for name, value in rates(called, positive).items():
        assert getattr(found, name).value == pytest.approx(value)
    assert found.sensitivity == proportion(called[positive], groups[positive])
    assert sum(found.counts.values()) == 60
    assert found.counts["false_positive"] == (called & ~positive).sum()


def test_rates_without_rows_have_no_value() -> None:
    found = judge_threshold(0.5, np.array([0.1, 0.2]), np.array([False, False]))
    assert math.isnan(found.ppv.value)
    assert found.specificity.value == 1.0


@pytest.mark.parametrize("aim", ["sensitivity > 0.9", "recall >= 0.9", "sensitivity >= 90", "0.9", "ppv >= 1.5"])
def test_an_aim_must_read_as_agreed(aim: str) -> None:
    with pytest.raises(ConfigError, match="must read like 'sensitivity"):
        parse_aim(aim)


def test_an_aim_needs_two_classes_and_a_positive_one() -> None:
    assert parse_aim(" NPV>=.95 ") == ("npv", 0.95)
    assert positive_class(None, None, "abc") is None
    assert positive_class("npv >= 0.9", None, ["no", "yes"]) == 1
    assert positive_class("npv >= 0.9", "0", [0, 1]) == 0
    with pytest.raises(ConfigError, match="has 3"):
        positive_class("npv >= 0.9", None, "abc")
    with pytest.raises(ConfigError, match="'maybe' is no class"):
        positive_class("npv >= 0.9", "maybe", ["no", "yes"])
