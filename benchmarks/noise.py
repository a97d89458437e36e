"""Labels that no input tells: how often does a strategy's 95 % interval of accuracy miss chance?

Expected before it was run: one interval in twenty misses, with rows alone and in groups, and no strategy misses with
every seed. One that learnt from what it is judged on, or from rows of the same group, would miss with all of them.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from _cases import fitted_on, prepared

from fusetune.config import Config
from fusetune.data.table import read_table
from fusetune.evaluate import score_with_intervals
from fusetune.strategies import STRATEGIES
from fusetune.strategies.level import on_features

CLASSES, EPOCHS = 3, 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=5, help="how many tables of noise")
    parser.add_argument("--rows", type=int, default=800, help="rows of each")
    parser.add_argument("--strategies", default="all", help="names, separated by commas; default: all")
    parser.add_argument("--json", help="write the result to this file")
    parser.add_argument("--quick", action="store_true", help="one small table: does it run?")
    args = parser.parse_args()
    names = list(STRATEGIES) if args.strategies == "all" else args.strategies.split(",")
    seeds, rows = (1, 200) if args.quick else (args.seeds, args.rows)
    missed: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for grouped in (False, True):
        for seed in range(seeds):
            for name, interval in judged(names, rows, seed, grouped).items():
                missed[name]["in groups" if grouped else "alone"] += (
                    not interval["low"] <= 1 / CLASSES <= interval["high"]
                )
    show(missed, seeds, rows)
    if args.json:
        Path(args.json).write_text(json.dumps({"seeds": seeds, "rows": rows, "missed": missed}, indent=1), "utf-8")


def judged(names: list[str], rows: int, seed: int, grouped: bool) -> dict[str, dict[str, Any]]:
    """Return the interval of test accuracy of each strategy on one table of noise."""
    found = {}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "noise.parquet"
        noise(rows, seed, grouped).to_parquet(path)
        options: dict[str, Any] = {"vectors": {"a": "a_*", "b": "b_*"}, "split": "part", "inputs": ["a", "b", "x", "y"]}
        options |= {"group": "patient"} if grouped else {}
        config = Config.build({"seed": seed, "crossfit": {"how": "k"}, "vector": {"train": {"epochs": EPOCHS}}})
        with prepared(read_table(path), "label", options, config) as (ctx, _):
            level = on_features(ctx)
            level.split.unlock_test()
            test = level.split.rows("test")
            groups = None if level.groups is None else level.groups.iloc[test].to_numpy()
            for name, p in fitted_on(level, names, test, epochs=EPOCHS):
                found[name] = score_with_intervals(p, level.labels[test], groups)["accuracy"].as_dict()
    return found


def noise(rows: int, seed: int, grouped: bool) -> pd.DataFrame:
    """Return a table whose label is drawn apart from its inputs; rows of a group are alike in inputs and label."""
    generator = np.random.default_rng(seed)
    patient = np.arange(rows) // 4 if grouped else np.arange(rows)
    centres = generator.normal(size=(patient[-1] + 1, 26))[patient]
    values = centres + (0.3 if grouped else 0.0) * generator.normal(size=centres.shape)
    columns = [f"{m}_{i}" for m in "ab" for i in range(12)] + ["x", "y"]
    frame = pd.DataFrame(values, columns=columns)
    frame["patient"] = [f"patient {p}" for p in patient]
    frame["label"] = generator.choice(["red", "green", "blue"], patient[-1] + 1)[patient]
    part = generator.choice(["train", "val", "test"], patient[-1] + 1, p=[0.5, 0.15, 0.35])[patient]
    return frame.assign(part=part)


def show(missed: dict[str, dict[str, int]], seeds: int, rows: int) -> None:
    """Print how often chance lay outside an interval."""
    print(f"{seeds} tables of {rows} rows; intervals of accuracy that miss 1/{CLASSES}\n")
    print("| strategy | rows alone | rows in groups |\n|---|---|---|")
    for name, counts in missed.items():
        print(f"| {name} | {counts['alone']} of {seeds} | {counts['in groups']} of {seeds} |")
    total = sum(sum(counts.values()) for counts in missed.values())
    print(f"\n{total} of {2 * seeds * len(missed)} in all, where one in twenty is expected")


if __name__ == "__main__":
    main()
