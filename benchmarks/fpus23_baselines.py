"""What FPUS23's annotations give away without any picture: nearest frames (L1) and stream names (L2).

Prediction, written before this command was first run. The values expected are those worked out from the published
annotations when the experiments of arXiv 2505.06592 were examined: in a random 60/20/20 split by frame, the label of
the nearest training frame predicts a test frame with .997 (head), .995 (abdomen), .993 (arms), .998 (legs); the best
constant per stream reaches .9606, .9129, .9248, .9706, and per location .9053, .8293, .8735, .9248. The first depend on
the split's seed and are expected within .002; the others are exact. Split by streams, nearest frames are gone and the
location alone is expected to lose at most a few points.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd

from fusetune_papers.datasets.baselines import constant_accuracy, nearest_frame
from fusetune_papers.datasets.fpus23 import TASKS, fpus23_table, make_parts

DATA = Path(os.environ.get("FUSETUNE_DATA", "../shared/data")) / "fpus23_annotations"
EXPECTED = {
    "nearest frame": {"head": 0.997, "abdomen": 0.995, "arms": 0.993, "legs": 0.998},
    "constant per stream": {"head": 0.9606, "abdomen": 0.9129, "arms": 0.9248, "legs": 0.9706},
    "constant per location": {"head": 0.9053, "abdomen": 0.8293, "arms": 0.8735, "legs": 0.9248},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with the annotations")
    parser.add_argument("--json", help="write the result to this file")
    parser.add_argument("--quick", action="store_true", help="one seed of the split instead of 20")
    args = parser.parse_args()
    if not args.data.is_dir():
        print(f"left out, there is no {args.data}")
        return
    result = measure(args.data, range(1 if args.quick else 20))
    _show(result)
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1), encoding="utf-8")


def measure(data: Path, seeds: range) -> dict[str, Any]:
    """Return values by baseline and task; what depends on a split is a mean over seeds."""
    table = fpus23_table(data, images=False)
    seen = pd.Series([" ".join(task for task in TASKS if row[task]) for row in table[[*TASKS]].to_dict("records")])
    by_frame = [table.assign(split=make_parts(table, seen, "frames", seed)) for seed in seeds]
    # Streams are dealt out by size, which always differs here, so that the seed of this split changes nothing.
    by_stream = table.assign(split=make_parts(table, seen, "streams", 0))
    nearest = {task: [nearest_frame(split, task) for split in by_frame] for task in TASKS}
    away = nearest["head"][0].distances
    return {
        "rows": len(table),
        "streams": int(table["stream"].nunique()),
        "seeds": len(seeds),
        "test rows": nearest["head"][0].rows,
        "distance": {"mean": away.mean(), "one": float((away == 1).mean()), "at most two": float((away <= 2).mean())},
        "values": {
            "nearest frame": {task: mean(one.accuracy for one in nearest[task]) for task in TASKS},
            "constant per stream": {task: constant_accuracy(table[task], table["stream"]) for task in TASKS},
            "constant per location": {task: constant_accuracy(table[task], table["location"]) for task in TASKS},
            "consecutive frames agree": {task: consecutive_agreement(table, task) for task in TASKS},
            "split by streams: nearest frame": {task: nearest_frame(by_stream, task).accuracy for task in TASKS},
            "split by streams: location, fitted on train": {
                task: fitted_constant(by_stream, task, "location") for task in TASKS
            },
        },
    }


def fitted_constant(table: pd.DataFrame, task: str, key: str) -> float:
    """Return the test accuracy of the most common training label per value of a column."""
    train, test = table[table["split"] == "train"], table[table["split"] == "test"]
    best = pd.crosstab(train[key], train[task]).idxmax(axis=1)
    return float((test[key].map(best).fillna(train[task].mode()[0]) == test[task]).mean())


def consecutive_agreement(table: pd.DataFrame, task: str) -> float:
    """Return the share of pairs of consecutive frames of a stream that have the same label."""
    ordered = table.sort_values(["stream", "frame"])
    same = ordered["stream"].eq(ordered["stream"].shift())
    return float(ordered[task].eq(ordered[task].shift())[same].mean())


def _show(result: dict[str, Any]) -> None:
    print(f"\n{result['rows']:,} frames of {result['streams']} streams; no picture was looked at")
    print(f"{result['seeds']} split(s) by frame, {result['test rows']:,} test rows each; one split by streams\n")
    print("| baseline | " + " | ".join(f"{task}, expected" for task in TASKS) + " |")
    print("|---" * (len(TASKS) + 1) + "|")
    for name, values in result["values"].items():
        expected = EXPECTED.get(name)
        cells = [f"{values[task]:.4f}" + (f" ({expected[task]})" if expected else "") for task in TASKS]
        print(f"| {name} | " + " | ".join(cells) + " |")
    distance = result["distance"]
    print(f"\nnearest training frame in the split by frame: {distance['mean']:.2f} frames away (expected 1.19),")
    print(f"one away in {distance['one']:.0%} (84 %), at most two in {distance['at most two']:.0%} (97 %)")


if __name__ == "__main__":
    main()
