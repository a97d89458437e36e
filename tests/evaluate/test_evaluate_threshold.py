"""Thresholds for an aim: against trying all of them, the four rates against counting, and wrong aims."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fusetune.errors import ConfigError
from fusetune.evaluate import proportion
from fusetune.evaluate.threshold import choose_threshold, judge_threshold, parse_aim, positive_class


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
