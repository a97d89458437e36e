"""How much faster two ranks on two cores train an encoder than one process on one core, both sides in one run.

OMP_NUM_THREADS=1 python benchmarks/ranks.py

Stage U of the image encoder that the settings choose (EfficientNet-Lite0 where the weights are installed), on made-up
pictures: reading, drawing views, passes, the optimiser's steps and validation, as `fusetune fit` does them. Each
process is bound to a core of its own and computes with one thread. An epoch's seconds are the least of several, the
first of each process left out; the two sides take turns. The last line is the efficiency: one side's seconds over
twice the other's.

Prediction, written before the first measurement: all that grows with rows is divided, and per step there is beside it
the sum of 3.4 million gradients (14 MB through Gloo, some 15 ms), the optimiser's step (10 ms, not divided), and some
milliseconds to put features together. A batch of 32 pictures takes some 1.5 s on one core, .75 s on each of two, so
that .96 would be left if the cores shared nothing. They share memory and cache, which costs about 5 %: .91, and above
.9.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pandas as pd
from _cases import prepared

from fusetune.config import Config
from fusetune.data.table import read_table
from fusetune.ranks import find_place, met
from fusetune.runtime import start_runtime
from fusetune.strategies.unimodal import fine_tune

_SIDE = 200


def main() -> None:
    """Measure both sides in turn, and print the seconds of an epoch and the efficiency."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few pictures, one turn")
    parser.add_argument("--json", help="write the numbers to this file")
    parser.add_argument("--as-rank", metavar="TABLE", help=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=int, default=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.as_rank:
        _train(Path(args.as_rank), args.epochs)
        return
    rows, turns, epochs = (96, 1, 3) if args.quick else (512, 3, 4)
    found: dict[int, list[float]] = {1: [], 2: []}
    with TemporaryDirectory() as folder:
        table = _table(Path(folder), rows)
        for _ in range(turns):
            for count in found:
                found[count] += _seconds(table, count, epochs)
    least = {count: min(seconds) for count, seconds in found.items()}
    efficiency = least[1] / (2 * least[2])
    for count, seconds in found.items():
        every = ", ".join(f"{one:.2f}" for one in seconds)
        print(f"{count} rank(s), {rows} pictures an epoch: {least[count]:.2f} s (of {every})")
    print(f"efficiency of two ranks on two cores: {efficiency:.3f}")
    if args.json:
        Path(args.json).write_text(json.dumps({"seconds": found, "efficiency": efficiency}, indent=1), encoding="utf-8")


def _table(folder: Path, rows: int) -> Path:
    """Write pictures that are hard to tell apart, and a table of them."""
    generator = np.random.default_rng(0)
    parts = ["train"] * rows + ["valid"] * 32 + ["test"] * 8
    for row in range(len(parts)):
        coarse = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{row}.jpg"), cv2.resize(coarse, (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC))
    frame = pd.DataFrame({"scan": [str(folder / f"{row}.jpg") for row in range(len(parts))], "part": parts})
    frame["label"] = [f"class {row % 4}" for row in range(len(parts))]
    frame.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def _seconds(table: Path, count: int, epochs: int) -> list[float]:
    """Return the seconds of each epoch but the first, in so many processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, __file__, "--as-rank", str(table), "--epochs", str(epochs)]
    common: dict[str, str] = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    if count > 1:
        common |= {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            command, env={**common, **({"RANK": str(rank)} if count > 1 else {})}, stdout=subprocess.PIPE, text=True
        )
        for rank in range(count)
    ]
    said = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("a rank failed")
    seconds: list[float] = json.loads(said[0].splitlines()[-1])
    return seconds[1:]


def _train(table: Path, epochs: int) -> None:
    """Train as one rank, on a core of its own, and print the seconds of each epoch."""
    place = find_place()
    if sys.platform == "linux":
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[place.rank % len(cores)]})
    train: dict[str, Any] = {"epochs": epochs, "patience": 0}
    settings: dict[str, Any] = {"device": "cpu", "threads": 1, "image": {"train": train}, "data": {"workers": 1}}
    # Within its folder, which goes with the pictures; each rank keeps its own.
    settings["store"] = {"folder": str(table.parent / f"store {place.rank} of {place.count}")}
    data, config = read_table(table), Config.build(settings)
    with met(place) as ranks, prepared(data, "label", {"split": "part"}, config) as (ctx, _):
        ctx.runtime = ctx.store.runtime = start_runtime(ctx.config, ranks)
        ctx.folder = None
        fine_tune(ctx, "scan")
        print(json.dumps([record.seconds for record in ctx.histories["scan"].records]))


if __name__ == "__main__":
    main()
