"""What choosing the epoch on the test part is worth, as several published protocols do: rosmap, on stored features.

Every strategy is trained twice on the same training rows: its epoch chosen on validation rows, and on the test rows
themselves. Both are then scored on the test rows. The second figure is no result, but what such a protocol would print.

Expected before it was run: two to four points of accuracy on 106 test rows, and more for strategies that train longer.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from _cases import CASES, DATA, fitted_on, prepared

from fusetune.config import Config
from fusetune.context import Context
from fusetune.data.split import PARTS
from fusetune.data.table import Table, read_table
from fusetune.evaluate.metrics import accuracy, nll
from fusetune.strategies import STRATEGIES
from fusetune.strategies.level import on_features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--strategies", default="all", help="names, separated by commas; default: all")
    parser.add_argument("--json", help="write the result to this file")
    parser.add_argument("--quick", action="store_true", help="one seed and three strategies: does it run?")
    args = parser.parse_args()
    path = DATA / CASES["rosmap"].folder / "manifest.csv"
    if not path.exists():
        print(f"rosmap: left out, there is no {path}")
        return
    names = list(STRATEGIES) if args.strategies == "all" else args.strategies.split(",")
    seeds = range(1 if args.quick else args.seeds)
    names = ["joint", "umt", "ume"] if args.quick else names
    table = read_table(path)
    found: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for seed in seeds:
        with opened(table, seed) as (ctx, _):
            parts = [PARTS[code] for code in ctx.split.part]
        for how in ("valid", "test"):
            frame = table.frame.assign(split=[PART[how][part] for part in parts])
            with opened(Table(frame, table.name, table.root), seed) as (ctx, _):
                add(found, how, ctx, names)
    show({name: both for name, both in found.items() if both}, len(seeds))
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1), "utf-8")


# Which part a row is given to, by the part that it is in and by what the epoch is chosen on.
PART = {
    "valid": {"train": "train", "valid": "valid", "test": "test"},
    "test": {"train": "train", "valid": "test", "test": "valid"},
}


def opened(table: Table, seed: int) -> Any:
    """Prepare rosmap; without cross-fitting, so that validation rows are chosen on and nothing is learnt from them."""
    config = Config.build({"seed": seed, "crossfit": {"how": "off"}})
    return prepared(table, "label", CASES["rosmap"].options, config)


def add(found: dict[str, dict[str, list[float]]], how: str, ctx: Context, names: list[str]) -> None:
    """Fit strategies and add the accuracy and NLL of the table's test rows."""
    level = on_features(ctx)
    level.split.unlock_test()
    rows = level.split.rows(how_scored(how))
    for name, p in fitted_on(level, names, rows):
        found[name].setdefault(f"{how} accuracy", []).append(float(accuracy(p, level.labels[rows])))
        found[name].setdefault(f"{how} nll", []).append(float(nll(p, level.labels[rows])))


def how_scored(how: str) -> Any:
    """Return where the table's test rows stand: they took the place of the validation rows where they are chosen on."""
    return "valid" if how == "test" else "test"


def show(found: dict[str, dict[str, list[float]]], seeds: int) -> None:
    """Print both protocols side by side."""
    print(f"rosmap, 106 test rows, {seeds} seeds; epoch chosen on\n")
    print("| strategy | validation rows: accuracy | NLL | the test rows (no result): accuracy | NLL | worth, points |")
    print("|---|---|---|---|---|---|")
    gains = []
    for name, both in found.items():
        a, b, c, d = (mean(both[key]) for key in ("valid accuracy", "valid nll", "test accuracy", "test nll"))
        gains.append(100 * (c - a))
        print(f"| {name} | {a:.3f} | {b:.3f} | {c:.3f} | {d:.3f} | {gains[-1]:+.1f} |")
    print(f"\nmean {np.mean(gains):+.1f} points, largest {max(gains):+.1f}")


if __name__ == "__main__":
    main()
