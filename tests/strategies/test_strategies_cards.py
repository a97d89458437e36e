"""Every strategy has a card: where it comes from, its equations, what it costs, and what was measured of it."""

from __future__ import annotations

from typing import Any

import pytest

from fusetune.config import STRATEGY_NAMES
from fusetune.strategies import STRATEGIES, UMT
from fusetune.strategies.cards import card_of, measured, verdict


def test_names_are_known_without_the_strategies() -> None:
    assert tuple(STRATEGIES) == STRATEGY_NAMES


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_has_a_card(name: str) -> None:
    card = card_of(name)
    assert card.name == name
    assert " = " in card.text  # its equations
    assert card.cost
    assert card.paper
    settings = STRATEGIES[name].Settings.model_fields
    assert all(field.description for field in settings.values() if field.annotation in (int, float, bool, str))


def test_what_was_measured_names_strategies_that_there_are() -> None:
    for table in measured().values():
        assert set(table["strategies"]) <= set(STRATEGIES)
        for one in table["strategies"].values():
            assert one["verdict"] in ("better", "worse", "same")


def test_a_verdict_counts_tables() -> None:
    def one(how: str) -> dict[str, Any]:
        return {"against": "the calibrated ensemble", "verdict": how}

    found = {
        "a": {"seeds": 3, "strategies": {"umt": one("better")}},
        "b": {"seeds": 5, "strategies": {"umt": one("same")}},
        "c": {"seeds": 5, "strategies": {"umt": one("worse"), "ume": one("same")}},
        "d": {"seeds": 2, "strategies": {"ume": one("same")}},
    }
    said = verdict(UMT, found)
    assert "against the calibrated ensemble, on stored features, 3 seeds or more" in said
    assert said.endswith("better on a; worse on c; no difference shown on 1 of 3")
    assert verdict(UMT, {}) == "not measured"
