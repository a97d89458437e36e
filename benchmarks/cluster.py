"""Predicting on a cluster of this machine: two workers of one core against one, and the memory of a worker.

Each measurement is a process of its own with a cluster that ends with it. Pictures of 128 x 96 pixels, texts and two
columns go through pretrained encoders where these are installed, in turn by one worker and by two. Efficiency is the
time of one over twice that of two, from the first chunk's beginning to the last one's end; beside it stands the same of
CPU seconds, which other programs on the machine change less. Starting is what a command takes besides. The memory is
the most that any worker had, of a short table and of a long one of 8 columns and a vector of 32 numbers.

Prediction, written before the first measurement: efficiency .93 or more (what is lost is shared memory bandwidth; the
workers share nothing else); .9 GB per worker, the same for 10^4 and 10^6 rows, since a worker holds one chunk; the
command itself 3 GB at 10^6 rows; starting 15 seconds.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pandas as pd
import simplejpeg
from scale import _made_up

import fusetune
from fusetune.answers import Extras
from fusetune.cluster.engine import LOCAL, Cluster, joined
from fusetune.cluster.predicting import Asked, predicted
from fusetune.data.table import read_table

_WORDS = ("bright", "dark", "left", "right", "round", "wide", "seen", "again", "clear", "old")
_CELLS = ["head.kind=logistic", "crossfit.how=off", "views=1", "evaluate.baselines=false", "strategy.name=two-stage"]


def main() -> None:
    args = _arguments()
    if args.run:
        print(json.dumps(_one(Path(args.run), Path(args.table), args.workers)))
        return
    rows, sizes, turns = (1_024, (1_000, 10_000), 1) if args.quick else (16_384, (10_000, 1_000_000), 3)
    with TemporaryDirectory() as folder:
        speeds = _speeds(Path(folder), rows, turns)
        memory = _memory(Path(folder), sizes)
    if args.json:
        Path(args.json).write_text(json.dumps({"speeds": speeds, "memory": memory}, indent=1), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="1,024 pictures once, 1,000 and 10,000 rows")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers to this file")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--table", help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=1, help=argparse.SUPPRESS)
    return parser.parse_args()


def _speeds(folder: Path, rows: int, turns: int) -> dict[str, Any]:
    table = _pictures(folder / "pictures", rows)
    learnt = pd.read_csv(table).iloc[:300]
    learnt.to_csv(table.with_name("learnt.csv"), index=False)
    sets = ["preset=quick", f"store.folder={folder / 'store'}", "evaluate.baselines=false", "tries=false"]
    few, inputs = table.with_name("learnt.csv"), ["image", "note", "size"]
    fusetune.fit(few, "label", inputs=inputs, sets=sets, out=folder / "run", quiet=True)
    found: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for _ in range(turns):
        for workers, several in found.items():
            several.append(_measured(folder / "run", table, workers))
    best = {workers: min(several, key=lambda one: float(one["span"])) for workers, several in found.items()}
    print("| workers | rows/s | CPU seconds | GB per worker | GB of the command | starting |")
    print("|---:|---:|---:|---:|---:|---:|")
    for workers, one in best.items():
        print(
            f"| {workers} | {rows / one['span']:.1f} | {one['cpu']:.1f} | {one['worker']:.2f} | {one['command']:.2f} | "
            f"{one['starting']:.1f} s |",
            flush=True,
        )
    clock, cpu = best[1]["span"] / best[2]["span"] / 2, best[1]["cpu"] / best[2]["cpu"]
    print(
        f"efficiency of two workers: {clock:.2f} by the clock, {cpu:.2f} by CPU seconds ({rows:,} rows)\n", flush=True
    )
    return {"rows": rows, "found": found, "clock": clock, "cpu": cpu}


def _memory(folder: Path, sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    found = []
    print("| rows | GB per worker | GB of the command | chunks | by the workers | whole |")
    print("|---:|---:|---:|---:|---:|---:|")
    for size in sizes:
        path = folder / f"{size}.parquet"
        frame = _made_up(size)
        frame.to_parquet(path, index=False)
        if not (folder / "cells").exists():
            how: dict[str, Any] = {"group": "patient", "split": "part", "vectors": {"embedding": "v_*"}}
            sets = [*_CELLS, f"store.folder={folder / 'store'}"]
            fusetune.fit(path, "label", **how, sets=sets, preset="quick", out=folder / "cells", quiet=True)
        one = {"rows": size, **_measured(folder / "cells", path, 1)}
        found.append(one)
        print(
            f"| {size:,} | {one['worker']:.2f} | {one['command']:.2f} | {one['chunks']:,} | {one['span']:.1f} s | "
            f"{one['whole']:.1f} s |",
            flush=True,
        )
    return found


def _measured(run: Path, table: Path, workers: int) -> dict[str, Any]:
    words = [sys.executable, __file__, "--run", str(run), "--table", str(table), "--workers", str(workers)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _one(run: Path, path: Path, workers: int) -> dict[str, Any]:
    """Predict a table; return seconds, and the most memory in gigabytes."""
    started = time.perf_counter()
    with TemporaryDirectory() as folder, joined(Cluster(LOCAL, workers)) as engine:
        model = fusetune.load(run)
        asked = Asked(run, model, Extras())
        with predicted(asked, read_table(path), Path(folder) / "chunks", engine) as found:
            outcome = found.outcome
            rows = sum(len(piece) for piece in found.pieces)
    assert outcome.span is not None
    whole, span = time.perf_counter() - started, outcome.span[1] - outcome.span[0]
    return {
        "rows": rows,
        "chunks": outcome.chunks,
        "span": span,
        "whole": whole,
        "starting": whole - span,
        "cpu": outcome.cpu,
        "worker": max(outcome.peaks.values()) / 2**30,
        "workers": len(outcome.peaks),
        # Linux counts kilobytes.
        "command": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def _pictures(folder: Path, rows: int) -> Path:
    """Write small JPEG files, all different, and a table that names them."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    for row in range(rows):
        pixels = cv2.resize(generator.integers(0, 256, (6, 6, 3), np.uint8), (128, 96), interpolation=cv2.INTER_CUBIC)
        (folder / f"{row}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels))
    code = generator.integers(0, 3, rows)
    notes = [" ".join(generator.choice(_WORDS, 12)) for _ in range(rows)]
    frame = pd.DataFrame({"image": [f"{row}.jpg" for row in range(rows)], "note": notes})
    frame["size"] = code + generator.normal(0, 1, rows)
    frame.assign(label=np.array(["a", "b", "c"])[code]).to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


if __name__ == "__main__":
    main()
