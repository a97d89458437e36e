"""One card per strategy: what it does and where that comes from, what it costs, and what was measured of it."""

from __future__ import annotations

import inspect
import json
import sys
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from fusetune.strategies import STRATEGIES
from fusetune.strategies.base import Strategy

_MEASURED = "measured.json"


@dataclass(frozen=True)
class Card:
    """What there is to know of a strategy before it is used.

    Attributes:
        name: Its name in `strategy: {name: ...}`.
        title: What a model made so is called.
        paper: Where it comes from.
        text: What it does, with its equations, and how it differs from what was published or released.
        cost: What it costs, in words.
        verdict: What was measured of it on real tables, in words.
    """

    name: str
    title: str
    paper: str
    text: str
    cost: str
    verdict: str


def card_of(name: str) -> Card:
    """Return a strategy's card.

    Raises:
        KeyError: If there is no such strategy.
    """
    strategy = STRATEGIES[name]
    text = inspect.cleandoc(sys.modules[strategy.__module__].__doc__ or "")
    return Card(name, strategy.title, strategy.paper, text, strategy.cost, verdict(strategy, measured()))


def measured() -> dict[str, Any]:
    """Return what `benchmarks/strategies.py` found: by data set, how each strategy compares with the ensemble."""
    found: dict[str, Any] = json.loads((files(__package__) / _MEASURED).read_text("utf-8"))
    return found


def verdict(strategy: type[Strategy], found: dict[str, Any]) -> str:
    """Say on how many tables a strategy was better or worse than the calibrated ensemble, by paired tests."""
    sets = {
        name: table["strategies"][strategy.name]
        for name, table in found.items()
        if strategy.name in table["strategies"]
    }
    if not sets:
        return "not measured"
    against = sorted({one["against"] for one in sets.values()})
    counts = {how: [name for name, one in sets.items() if one["verdict"] == how] for how in ("better", "worse")}
    seeds = min(table["seeds"] for name, table in found.items() if name in sets)
    parts = [f"{how} on {', '.join(names)}" for how, names in counts.items() if names]
    same = len(sets) - sum(map(len, counts.values()))
    if same:
        parts.append(f"no difference shown on {same} of {len(sets)}")
    return (
        f"against {' and '.join(against)}, on stored features, {seeds} seeds or more, NLL of test rows by paired tests "
        f"with Holm's correction: {'; '.join(parts)}"
    )
