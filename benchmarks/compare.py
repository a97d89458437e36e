"""A contest on stored features against the same strategies trained end to end.

Both sides get the same table, the same split, the same preparation and the same strategies, in one run of this file, in
one process of one thread. The side of features begins with an empty store and pays for encoding the table. End to end,
all strategies, seeds and epochs would take many hours on two cores, so that it is NOT measured whole: one seed of the
strategies in `--encoders` is, with one epoch of joint training and with two. The difference is what an epoch costs; the
rest is calculated for `--epochs` epochs, all seeds and all strategies, as if the others cost as much as the mean of
those that were measured. The second measurement finds in the store what the first put there, which makes epochs look
cheaper than they are: the ratio is a lower bound in that respect.

Prediction, written before the first measurement: a pass through EfficientNet-Lite and MiniLM, forwards and backwards,
costs thousands of times as much as one through an MLP of 128 units, but solving linear probes and judging cost the same
on both sides: 30 to 100 times.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

import fusetune
from fusetune.strategies import STRATEGIES

_COUNT, _SEEDS = 12, 5


def main() -> None:
    args = _arguments()
    names = list(STRATEGIES)[: 3 if args.quick else _COUNT]
    seeds = 1 if args.quick else _SEEDS
    some = [name for name in args.encoders.split(",") if name in STRATEGIES][: 1 if args.quick else None]
    with TemporaryDirectory() as folder:
        ours = _timed(args, Path(folder), "features", names, seeds, None)
        one, two = (_timed(args, Path(folder), "encoders", some, 1, epochs)["fitting"] for epochs in (1, 2))
    each = one + max(0.0, two - one) * (args.epochs - 1)
    whole = each * seeds * len(names) / len(some)
    result = {
        "table": args.table,
        "features": ours | {"strategies": names, "seeds": seeds},
        "end to end, measured": {"strategies": some, "seeds": 1, "one epoch": one, "two epochs": two},
        "end to end, calculated": {"epochs": args.epochs, "seconds": whole},
        "ratio, encoding and judging included": whole / ours["seconds"],
        "ratio of fitting": whole / ours["fitting"],
        "quick": args.quick,
    }
    _show(result)
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    data = Path(os.environ.get("FUSETUNE_DATA", "../shared/data")) / "medpix2" / "manifest.csv"
    parser.add_argument("--table", default=str(data if data.exists() else "stamps/stamps.csv"), help="table to use")
    parser.add_argument("--encoders", default="joint,ume", help="strategies that are measured end to end")
    parser.add_argument("--epochs", type=int, default=10, help="epochs end to end that are calculated")
    parser.add_argument("--json", help="write the result to this file")
    parser.add_argument(
        "--quick", action="store_true", help="few rows and strategies, one seed, small pictures: does it run?"
    )
    return parser.parse_args()


def _timed(
    args: argparse.Namespace, folder: Path, level: str, names: list[str], seeds: int, epochs: int | None
) -> dict[str, float]:
    """Return the seconds of a whole contest, and of its fits."""
    medical = "medpix2" in args.table
    config: dict[str, Any] = {"store": {"folder": str(folder / "store")}, "threads": 1, "device": "cpu"}
    if args.quick:
        config |= {"image": {"size": 32, "encode_size": 32}, "text": {"max_tokens": 16}, "views": 1}
    started = time.perf_counter()
    contest = fusetune.compare(
        _few(args.table) if args.quick else args.table,
        "label" if medical else "category",
        inputs=["image", "history", "age", "sex"] if medical else ["image", "text"],
        group="uid" if medical else "folder",
        split="split" if medical else None,
        strategies=names,
        seeds=seeds,
        level=level,
        epochs=epochs,
        budget="passes",
        jobs=1,
        config=config,
        out=folder / f"{level} {epochs}",
    )
    failed = contest.results.loc[contest.results["error"] != "", ["strategy", "error"]]
    if len(failed):
        raise SystemExit(f"a strategy failed, so there is nothing to compare:\n{failed.to_string()}")
    return {"seconds": time.perf_counter() - started, "fitting": float(contest.results["seconds"].sum())}


def _few(path: str) -> pd.DataFrame:
    """Return a few rows of each part of a table, its pictures by their whole paths."""
    frame = pd.read_csv(path)
    frame["image"] = [str((Path(path).parent / name).resolve()) for name in frame["image"]]
    part = frame["split"] if "split" in frame else pd.Series("all", index=frame.index)
    return frame.groupby(part).head(60).reset_index(drop=True)


def _show(result: dict[str, Any]) -> None:
    ours, theirs, whole = (result[key] for key in ("features", "end to end, measured", "end to end, calculated"))
    print(f"{result['table']}, one process of one thread")
    fits = f"{len(ours['strategies'])} strategies x {ours['seeds']} seed(s)"
    print(f"features:   {fits}: {ours['seconds']:.1f} s in all, {ours['fitting']:.1f} s of fitting")
    spent = f"{theirs['one epoch']:.1f} s with one epoch, {theirs['two epochs']:.1f} s with two"
    print(f"end to end: MEASURED {', '.join(theirs['strategies'])}, 1 seed: {spent}")
    print(f"            CALCULATED from that: {fits}, {whole['epochs']} epochs: {whole['seconds']:.0f} s of fitting")
    print(f"ratio, encoding and judging included: {result['ratio, encoding and judging included']:.1f} x")
    print(f"ratio of fitting:                     {result['ratio of fitting']:.1f} x")


if __name__ == "__main__":
    main()
